//! Packages in the store: one folder per digest.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::durable::{Temporary, at, sync_folder, write_new};
use super::{Seal, Store, Summary, whole};
use crate::adapter::{AdapterError, Digest, Metadata, Package};

const MANIFEST: &str = ".package.json";
const SUMMARY: &str = ".summary.json";

/// `.package.json`: enough to say which file is damaged.
#[derive(Serialize, Deserialize)]
struct Manifest {
    files: BTreeMap<String, Digest>,
    metadata: Metadata,
}

/// `.summary.json`.
#[derive(Serialize, Deserialize)]
struct SummaryFile {
    read_for: Digest,
    summary: Summary,
}

impl Store {
    fn package(&self, digest: &Digest) -> PathBuf {
        self.versions.join("packages").join(digest.hex())
    }

    /// Stores a package under its digest: whole, or not at all. One that is there already is checked, and mended where it is damaged.
    pub fn put(&self, digest: &Digest, package: &Package) -> io::Result<()> {
        let target = self.package(digest);
        if target.is_dir() && self.read(digest, &Seal::default()).is_ok() {
            return Ok(());
        }
        let folder = self.write(package)?;
        match fs::rename(folder.path(), &target) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {
                mend(folder.path(), &target)?;
            }
            Err(error) => return Err(at(&target, error)),
        }
        self.settle(&self.versions.join("packages"))
    }

    fn write(&self, package: &Package) -> io::Result<Temporary> {
        let folder = self.temporary()?;
        let path = folder.path();
        fs::create_dir(path).map_err(|e| at(path, e))?;
        for (name, content) in &package.files {
            write_new(&path.join(name), content)?;
        }
        let manifest = Manifest {
            files: package.files.iter().map(|(name, content)| (name.clone(), Digest::of(content))).collect(),
            metadata: package.metadata.clone(),
        };
        write_new(&path.join(MANIFEST), &serde_json::to_vec_pretty(&manifest)?)?;
        sync_folder(path)?;
        Ok(folder)
    }

    /// Reads a package and checks that it is what its digest says; `seal` remembers that.
    pub fn read(&self, digest: &Digest, seal: &Seal) -> Result<Package, AdapterError> {
        let folder = self.package(digest);
        let manifest = read_manifest(&folder).map_err(AdapterError::Store)?;
        let mut package = Package { metadata: manifest.metadata, ..Package::default() };
        for name in manifest.files.keys() {
            let content = read_file(&folder.join(name)).map_err(AdapterError::Store)?;
            package.files.insert(name.clone(), content);
        }
        if seal.confirms(&package, digest) {
            return Ok(package);
        }
        let differs =
            |name: &&String| package.files.get(*name).map(|c| Digest::of(c)) != manifest.files.get(*name).copied();
        let culprit = manifest.files.keys().find(differs).map_or(MANIFEST, String::as_str);
        let message =
            format!("package {digest} is damaged: {culprit} is not what was stored; upload it again to mend it");
        Err(AdapterError::Store(io::Error::new(io::ErrorKind::InvalidData, message)))
    }

    /// One file of a package, checked; `None` when the package has no such file.
    pub fn read_one(&self, digest: &Digest, file: &str) -> io::Result<Option<Vec<u8>>> {
        let folder = self.package(digest);
        let Some(expected) = read_manifest(&folder)?.files.get(file).copied() else { return Ok(None) };
        let path = folder.join(file);
        let content = fs::read(&path).map_err(|e| at(&path, e))?;
        if Digest::of(&content) == expected {
            return Ok(Some(content));
        }
        let message = format!("package {digest} is damaged: {file} is not what was stored; upload it again to mend it");
        Err(io::Error::new(io::ErrorKind::InvalidData, message))
    }

    /// Moves a package out of sight in one step; it is deleted when the answer is dropped. `None` if it is not there.
    pub fn take_away(&self, digest: &Digest) -> Option<impl Drop + use<>> {
        if self.removes_nothing.load(Ordering::Acquire) {
            return None;
        }
        let away = self.temporary().ok()?;
        match fs::rename(self.package(digest), away.path()) {
            Ok(()) => Some(away),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(%digest, %error, "a package cannot be removed; the next start tries again");
                None
            }
        }
    }

    /// What lists show of a package, if it was noted for the same bases.
    pub fn summary(&self, digest: &Digest, read_for: &Digest) -> Option<Summary> {
        let file: SummaryFile = serde_json::from_slice(&fs::read(self.package(digest).join(SUMMARY)).ok()?).ok()?;
        (file.read_for == *read_for).then_some(file.summary)
    }

    /// Notes what lists show of a package. Failing costs only time, later.
    pub fn note_summary(&self, digest: &Digest, read_for: &Digest, summary: &Summary) {
        let file = SummaryFile { read_for: *read_for, summary: summary.clone() };
        self.note(&self.package(digest).join(SUMMARY), &file);
    }

    /// Writes a derived file in one step, without forcing it.
    pub(super) fn note(&self, path: &Path, content: &impl Serialize) {
        let write = || -> io::Result<()> {
            let temporary = self.temporary()?;
            fs::write(temporary.path(), serde_json::to_vec(content)?)?;
            temporary.rename(path)
        };
        if let Err(error) = write() {
            tracing::debug!(path = %path.display(), %error, "a note in the adapter store was not written");
        }
    }
}

/// Moves each file of a good copy over its damaged twin; a file at a time, so that readers always find one.
fn mend(good: &Path, damaged: &Path) -> io::Result<()> {
    for entry in fs::read_dir(good)? {
        let entry = entry?;
        let to = damaged.join(entry.file_name());
        fs::rename(entry.path(), &to).map_err(|e| at(&to, e))?;
    }
    sync_folder(damaged)
}

fn read_manifest(folder: &Path) -> io::Result<Manifest> {
    let path = folder.join(MANIFEST);
    let text = fs::read(&path).map_err(|e| at(&path, e))?;
    serde_json::from_slice(&text).map_err(|e| at(&path, e.into()))
}

/// Reads a whole file.
pub(super) fn read_file(path: &Path) -> io::Result<Bytes> {
    whole::read(path).map_err(|e| at(path, e))
}
