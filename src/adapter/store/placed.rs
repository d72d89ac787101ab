//! Adapters that somebody put into the store by hand: `<store>/<id>/`, read only.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::durable::{self, at};
use super::package_folder::read_file;
use super::{Store, Summary};
use crate::adapter::package::{CONFIG, FILES, PICKLED, PROMPT, WEIGHTS};
use crate::adapter::{AdapterError, AdapterName, Digest, Package};

const METADATA: &str = "repertoire.json";

/// Sizes, times and inodes of a folder's files: while it stays, so do the contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp(Vec<Option<(u64, i64, i64, u64)>>);

/// `placed/<id>.json`: what was learnt from a folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Note {
    pub stamp: Stamp,
    pub digest: Digest,
    pub created_at: jiff::Timestamp,
    pub read_for: Digest,
    pub summary: Summary,
}

impl Store {
    /// Names of the folders that hold adapter files and are not `known`. Opens no file: a thousand folders take milliseconds.
    pub fn placed(&self, known: impl Fn(&AdapterName) -> bool) -> io::Result<Vec<AdapterName>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(|e| at(&self.root, e))? {
            let entry = entry.map_err(|e| at(&self.root, e))?;
            let file = entry.file_name();
            if file.as_encoded_bytes().starts_with(b".") || entry.file_type().is_ok_and(|kind| kind.is_file()) {
                continue;
            }
            match file.to_str().and_then(|name| name.parse::<AdapterName>().ok()) {
                Some(name) if known(&name) => {}
                Some(name) if self.is_placed(&name) => names.push(name),
                Some(_) => {
                    tracing::debug!(folder = ?file, "no adapter files in it, or a link out of the store; skipped")
                }
                None => tracing::warn!(folder = ?file, "not a valid adapter id; skipped"),
            }
        }
        Ok(names)
    }

    /// Whether there is a folder with adapter files of that name, inside the store.
    pub fn is_placed(&self, name: &AdapterName) -> bool {
        let folder = self.root.join(name.as_str());
        let marked = [CONFIG, PROMPT].iter().any(|file| folder.join(file).exists());
        marked && self.inside(folder).inspect_err(|error| tracing::warn!(%name, %error, "skipped")).is_ok()
    }

    /// Whether the folder has been taken away.
    pub fn is_gone(&self, name: &AdapterName) -> bool {
        fs::metadata(self.root.join(name.as_str())).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// What the folder's files look like from outside.
    pub fn stamp(&self, name: &AdapterName) -> Result<Stamp, AdapterError> {
        let folder = self.root.join(name.as_str());
        let mut stamps = Vec::with_capacity(FILES.len() + 2);
        for file in FILES.iter().chain([&METADATA, &PICKLED]) {
            stamps.push(match fs::metadata(folder.join(file)) {
                Ok(found) => Some((found.len(), found.mtime(), found.mtime_nsec(), found.ino())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(AdapterError::Store(at(&folder.join(file), error))),
            });
        }
        if stamps[..FILES.len()].iter().all(Option::is_none) {
            return Err(AdapterError::NotFound(name.to_string()));
        }
        Ok(Stamp(stamps))
    }

    /// The package in a folder, and when it was made.
    pub fn read_placed(&self, name: &AdapterName) -> Result<(Package, jiff::Timestamp), AdapterError> {
        let mut package = Package::default();
        let mut created_at = jiff::Timestamp::UNIX_EPOCH;
        let pickled = if self.placed_path(name, WEIGHTS)?.is_none() { Some(PICKLED) } else { None };
        for file in FILES.into_iter().chain(pickled) {
            let Some(path) = self.placed_path(name, file)? else { continue };
            package.files.insert(file.to_owned(), read_file(&path).map_err(AdapterError::Store)?);
            let modified = fs::metadata(&path)
                .and_then(|found| found.modified())
                .map_err(|e| AdapterError::Store(at(&path, e)))?;
            created_at = created_at.max(modified.try_into().unwrap_or(jiff::Timestamp::UNIX_EPOCH));
        }
        if package.files.is_empty() {
            return Err(AdapterError::NotFound(name.to_string()));
        }
        if let Some(path) = self.placed_path(name, METADATA)? {
            let text = fs::read(&path).map_err(|e| AdapterError::Store(at(&path, e)))?;
            package.metadata = serde_json::from_slice(&text)
                .map_err(|error| AdapterError::Invalid(format!("{name}/{METADATA}: {error}")))?;
        }
        Ok((package, created_at))
    }

    /// One adapter file of a folder; `None` when it has no such file.
    pub fn read_placed_file(&self, name: &AdapterName, file: &str) -> Result<Option<Vec<u8>>, AdapterError> {
        if !FILES.contains(&file) {
            return Ok(None);
        }
        let Some(path) = self.placed_path(name, file)? else { return Ok(None) };
        fs::read(&path).map(Some).map_err(|e| AdapterError::Store(at(&path, e)))
    }

    /// The real path of a file in a folder, if it is there. Refuses what is not a plain file: opening a pipe would wait for ever.
    fn placed_path(&self, name: &AdapterName, file: &str) -> Result<Option<PathBuf>, AdapterError> {
        match self.inside(self.root.join(name.as_str()).join(file)) {
            Ok(path) if path.is_file() => Ok(Some(path)),
            Ok(_) => Err(AdapterError::Invalid(format!("{name}/{file} is not a plain file"))),
            Err(AdapterError::Store(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Follows all links; what then lies outside the store is refused.
    fn inside(&self, path: PathBuf) -> Result<PathBuf, AdapterError> {
        let real = path.canonicalize().map_err(|e| AdapterError::Store(at(&path, e)))?;
        if real.starts_with(&self.root) {
            return Ok(real);
        }
        let shown = path.strip_prefix(&self.root).unwrap_or(&path).display();
        Err(AdapterError::Invalid(format!("{shown} is a link out of the adapter store")))
    }

    /// What was noted of a folder, by an earlier run perhaps.
    pub fn placed_note(&self, name: &AdapterName) -> Option<Note> {
        serde_json::from_slice(&fs::read(self.note_path(name)).ok()?).ok()
    }

    /// Notes what was learnt from a folder. Failing costs only time, later.
    pub fn note_placed(&self, name: &AdapterName, note: &Note) {
        self.note(&self.note_path(name), note);
    }

    /// Forgets what was noted of a folder.
    pub fn forget_placed(&self, name: &AdapterName) {
        if self.writable {
            durable::remove(&self.note_path(name));
        }
    }

    fn note_path(&self, name: &AdapterName) -> PathBuf {
        self.versions.join("placed").join(format!("{name}.json"))
    }
}
