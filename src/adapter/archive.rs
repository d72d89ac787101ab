//! Uploaded archives, unpacked in memory.

use std::collections::BTreeMap;
use std::io::Read;

use bytes::Bytes;

use super::AdapterError;
use super::package::is_adapter_file;

mod tarred;
mod zipped;

/// More entries than any adapter folder has.
const MAX_ENTRIES: usize = 4096;
/// The adapter files in a `.zip` or `.tar.gz`; one top folder is allowed, other files are ignored. Never unpacks more
/// than `max_bytes` (413 above it).
pub fn unpack(archive: &[u8], max_bytes: u64) -> Result<BTreeMap<String, Bytes>, AdapterError> {
    let mut files = Files { kept: BTreeMap::new(), folder: None, stray: None, left: max_bytes, max: max_bytes };
    if archive.starts_with(b"PK\x03\x04") || archive.starts_with(b"PK\x05\x06") {
        zipped::read(archive, &mut files)?;
    } else if archive.starts_with(&[0x1f, 0x8b]) {
        tarred::read(archive, &mut files)?;
    } else {
        return Err(AdapterError::invalid("the archive is neither a .zip nor a .tar.gz"));
    }
    match files.stray {
        Some(name) => {
            Err(AdapterError::invalid(format!("the archive has adapter files in more than one folder: {name}")))
        }
        None => Ok(files.kept),
    }
}

/// Splits the path of a file in a folder into the folder, if any, and the name.
pub(super) fn member(path: &str) -> Result<(Option<&str>, &str), AdapterError> {
    let shown = || path.chars().take(160).collect::<String>();
    let clean = path.strip_prefix("./").unwrap_or(path);
    let bad = clean.is_empty()
        || clean.starts_with('/')
        || clean.contains(['\\', '\0', ':'])
        || clean.split('/').any(|part| part.is_empty() || part == ".." || part == ".");
    if bad {
        return Err(AdapterError::invalid(format!("{:?} is not a file's path inside a folder", shown())));
    }
    Ok(match clean.rsplit_once('/') {
        Some((folder, name)) => (Some(folder), name),
        None => (None, clean),
    })
}

/// What was kept so far, and how much more may be.
struct Files {
    kept: BTreeMap<String, Bytes>,
    /// The folder of the files kept; `Some(None)` is the top.
    folder: Option<Option<String>>,
    /// A file in another folder, while nothing at the top outranks both.
    stray: Option<String>,
    left: u64,
    max: u64,
}

impl Files {
    /// Whether a file is wanted: by name, at the top or else in the one top folder. What lies deeper than the files
    /// kept (a trainer's checkpoints) is not.
    fn wants(&mut self, path: &str) -> Result<Option<String>, AdapterError> {
        let (folder, name) = member(path)?;
        if !is_adapter_file(name) || folder.is_some_and(|folder| folder.contains('/')) {
            return Ok(None);
        }
        match (&self.folder, folder) {
            (Some(None), Some(_)) => return Ok(None),
            (Some(Some(first)), Some(folder)) if first != folder => {
                self.stray.get_or_insert_with(|| name.to_owned());
                return Ok(None);
            }
            (Some(Some(_)), None) => {
                self.kept.clear();
                (self.stray, self.left) = (None, self.max);
            }
            _ => {}
        }
        self.folder = Some(folder.map(str::to_owned));
        if self.kept.contains_key(name) {
            return Err(AdapterError::invalid(format!("the archive has {name} twice")));
        }
        Ok(Some(name.to_owned()))
    }

    /// Reads a file to its real end, whatever length its header claims.
    fn keep(&mut self, name: String, content: impl Read) -> Result<(), AdapterError> {
        let mut bytes = Vec::new();
        content.take(self.left + 1).read_to_end(&mut bytes).map_err(broken)?;
        let size = bytes.len() as u64;
        if size > self.left {
            return Err(self.too_large());
        }
        self.left -= size;
        self.kept.insert(name, bytes.into());
        Ok(())
    }

    fn too_large(&self) -> AdapterError {
        AdapterError::TooLarge(format!("the archive may unpack to {} bytes, and has more", self.max))
    }
}

fn link(path: &str) -> AdapterError {
    let shown: String = path.chars().take(160).collect();
    AdapterError::invalid(format!("the archive has a link, {shown:?}"))
}

fn broken(why: impl std::fmt::Display) -> AdapterError {
    AdapterError::invalid(format!("the archive cannot be read: {why}"))
}
