//! Uploaded archives, unpacked in memory.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use zip::ZipArchive;

use super::AdapterError;
use super::package::is_adapter_file;

/// More entries than any adapter folder has.
const MAX_ENTRIES: usize = 4096;
/// Files that are not kept are read too in a `.tar.gz`; together with what is kept they may be this many times the limit.
const MAX_SKIPPED: u64 = 4;

/// The adapter files in a `.zip` or `.tar.gz`; one top folder is allowed, other files are ignored. Never unpacks more
/// than `max_bytes` (413 above it).
pub fn unpack(archive: &[u8], max_bytes: u64) -> Result<BTreeMap<String, Arc<[u8]>>, AdapterError> {
    let mut files = Files { kept: BTreeMap::new(), folder: None, stray: None, left: max_bytes, max: max_bytes };
    if archive.starts_with(b"PK\x03\x04") || archive.starts_with(b"PK\x05\x06") {
        zip(archive, &mut files)?;
    } else if archive.starts_with(&[0x1f, 0x8b]) {
        tar_gz(archive, &mut files)?;
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
    kept: BTreeMap<String, Arc<[u8]>>,
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

fn zip(archive: &[u8], files: &mut Files) -> Result<(), AdapterError> {
    let listed = listed_entries(archive)?;
    let mut zip = ZipArchive::new(Cursor::new(archive)).map_err(broken)?;
    if listed > MAX_ENTRIES {
        return Err(AdapterError::invalid(format!("an archive may have {MAX_ENTRIES} entries, given {listed}")));
    }
    if zip.len() != listed {
        // The reader keeps the last of entries with one name, and says nothing.
        return Err(AdapterError::invalid("the archive has two entries of one name"));
    }
    // The top first: then nothing that lies deeper is read in vain.
    let mut order: Vec<usize> = (0..zip.len()).collect();
    order.sort_by_key(|&at| zip.name_for_index(at).map_or(0, |name| name.matches('/').count()));
    for at in order {
        let raw = zip.by_index_raw(at).map_err(broken)?;
        let path = std::str::from_utf8(raw.name_raw())
            .map_err(|_| AdapterError::invalid("the archive has a name that is not UTF-8"))?;
        let path = path.to_owned();
        if raw.is_symlink() {
            return Err(link(&path));
        }
        if raw.is_dir() {
            member(path.trim_end_matches('/'))?;
            continue;
        }
        let encrypted = raw.encrypted();
        drop(raw);
        let Some(name) = files.wants(&path)? else { continue };
        if encrypted {
            return Err(AdapterError::invalid(format!("{name} is encrypted")));
        }
        let entry = zip.by_index(at).map_err(broken)?;
        files.keep(name, entry)?;
    }
    Ok(())
}

/// The number of entries that the end of a zip file states.
fn listed_entries(archive: &[u8]) -> Result<usize, AdapterError> {
    const END: usize = 22;
    let earliest = archive.len().saturating_sub(END + usize::from(u16::MAX));
    let last = archive.len().checked_sub(END);
    let ends = last.into_iter().flat_map(|last| (earliest..=last).rev());
    for at in ends {
        let end = &archive[at..at + END];
        let comment = usize::from(u16::from_le_bytes([end[20], end[21]]));
        if end.starts_with(b"PK\x05\x06") && at + END + comment == archive.len() {
            return Ok(u16::from_le_bytes([end[10], end[11]]).into());
        }
    }
    Err(AdapterError::invalid("the archive is not a whole zip file"))
}

fn tar_gz(archive: &[u8], files: &mut Files) -> Result<(), AdapterError> {
    // Bounds what is only skipped, too: a bomb costs time even where nothing is kept.
    let bound = files.max.saturating_mul(MAX_SKIPPED).saturating_add(1 << 20);
    let mut tar = tar::Archive::new(MultiGzDecoder::new(archive).take(bound));
    for (count, entry) in tar.entries().map_err(broken)?.enumerate() {
        if count >= MAX_ENTRIES {
            return Err(AdapterError::invalid(format!("an archive may have {MAX_ENTRIES} entries, and has more")));
        }
        let entry = entry.map_err(broken)?;
        let path = String::from_utf8(entry.path_bytes().into_owned());
        let path = path.map_err(|_| AdapterError::invalid("the archive has a name that is not UTF-8"))?;
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            let path = path.trim_end_matches('/');
            if path != "." {
                member(path)?;
            }
            continue;
        }
        if kind.is_symlink() || kind.is_hard_link() {
            return Err(link(&path));
        }
        if kind.is_pax_global_extensions() {
            continue;
        }
        if !kind.is_file() && !kind.is_contiguous() {
            return Err(AdapterError::invalid(format!("the archive has {path:?}, which is not a plain file")));
        }
        if let Some(name) = files.wants(&path)? {
            let size = entry.size();
            if size > files.left {
                return Err(files.too_large());
            }
            files.keep(name.clone(), entry)?;
            if files.kept.get(&name).is_none_or(|content| content.len() as u64 != size) {
                return Err(AdapterError::invalid(format!("the archive ends inside {name}")));
            }
        }
    }
    Ok(())
}

fn link(path: &str) -> AdapterError {
    let shown: String = path.chars().take(160).collect();
    AdapterError::invalid(format!("the archive has a link, {shown:?}"))
}

fn broken(why: impl std::fmt::Display) -> AdapterError {
    AdapterError::invalid(format!("the archive cannot be read: {why}"))
}
