//! Where adapters are on disk: a folder that outlives every crash.
//!
//! ```text
//! <store>/
//!   <id>/                            placed by hand, never written: PEFT or ruprompts files, optional repertoire.json
//!   .versions/                       what the server writes
//!     lock                           held by the running server (flock)
//!     tmp/                           whatever is being written or removed; emptied at start
//!     packages/<digest>/             one immutable package, named by its digest (64 hex digits)
//!       adapter_config.json, ...     its files as uploaded: a folder that PEFT opens
//!       .package.json                the list of files with their sha-256, and the canonical metadata
//!       .summary.json                what lists show of it; derived, written again when missing or read for other bases
//!     names/<id>.json                the record of a name: versions (number, digest, created_at), current, next, pinned
//!     placed/<id>.json               digest and summary of a hand-placed folder, so that a start need not read it; derived
//! ```
//!
//! **Order of writes.** A package is written file by file into `tmp/<n>/`, each file forced to disk, then the folder
//! itself; one rename moves it to `packages/<digest>/`, and `packages/` is forced. Only then the record that names it is
//! written to `tmp/<n>`, forced, renamed over `names/<id>.json`, and `names/` is forced; only then the client is answered.
//! So a record never names a package that a crash could take away, and a kill at any moment leaves the old record or the
//! new one. Removal runs the other way round: the record goes (and is forced) first; the packages that no record names
//! any more are moved to `tmp/` and deleted afterwards. What a crash leaves between two of these steps is a folder in
//! `tmp/` or a package without a name; both are removed at the next start.
//!
//! Blob digests are checked when a package is read for the first time since the start, and a checksum of what passed whenever
//! it is read again. Derived files are not forced: a damaged one is written again.

mod durable;
mod package_folder;
mod placed;
mod record;
mod seal;
mod summary;
mod whole;

pub(super) use placed::{Note, Stamp};
pub(super) use record::{Record, RecordedVersion, WriteError};
pub(super) use seal::Seal;
pub(super) use summary::Summary;

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::Digest;
use durable::{Temporary, at, sync_folder};

/// The store's folder, opened.
pub(super) struct Store {
    /// Canonical, so that links out of it show.
    root: PathBuf,
    versions: PathBuf,
    writable: bool,
    /// Set once a rename could not be forced to disk: the old state may come back, so nothing is removed until the next start.
    removes_nothing: AtomicBool,
}

/// Held while a server uses the store: two would undo each other's records.
pub(super) struct StoreLock {
    _file: Option<File>,
}

impl Store {
    /// Opens (and if need be creates) a store. One that cannot be written, such as a read-only mount, serves what it has.
    pub fn open(root: &Path) -> io::Result<(Self, StoreLock)> {
        fs::create_dir_all(root).map_err(|e| at(root, e))?;
        let root = root.canonicalize().map_err(|e| at(root, e))?;
        let versions = root.join(".versions");
        let mut store = Self { root, versions, writable: true, removes_nothing: AtomicBool::new(false) };
        let lock = match store.prepare() {
            Ok(file) => StoreLock { _file: Some(file) },
            Err(error)
                if matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) =>
            {
                tracing::warn!(%error, "the adapter store is read only: adapters are served, uploads are refused");
                store.writable = false;
                StoreLock { _file: None }
            }
            Err(error) => return Err(error),
        };
        Ok((store, lock))
    }

    fn prepare(&self) -> io::Result<File> {
        for folder in ["tmp", "packages", "names", "placed"] {
            let folder = self.versions.join(folder);
            fs::create_dir_all(&folder).map_err(|e| at(&folder, e))?;
        }
        sync_folder(&self.versions)?;
        sync_folder(&self.root)?;
        let path = self.versions.join("lock");
        let file = File::options().create(true).append(true).open(&path).map_err(|e| at(&path, e))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!("{} is in use by another server; give each its own store", self.root.display()),
            )),
            Err(TryLockError::Error(error)) => Err(at(&path, error)),
        }
    }

    /// Removes what a crash left: everything in `tmp/`, and packages that are not in `named` (`None`: a record could not be read, so keep all).
    pub fn clean(&self, named: Option<&HashSet<Digest>>) -> io::Result<()> {
        if !self.writable {
            return Ok(());
        }
        for entry in fs::read_dir(self.versions.join("tmp"))? {
            durable::remove(&entry?.path());
        }
        let Some(named) = named else { return Ok(()) };
        for entry in fs::read_dir(self.versions.join("packages"))? {
            let entry = entry?;
            let digest = entry.file_name().to_str().and_then(|name| name.parse::<Digest>().ok());
            if !digest.is_some_and(|digest| named.contains(&digest)) {
                tracing::info!(package = ?entry.file_name(), "removing a package that no adapter names");
                durable::remove(&entry.path());
            }
        }
        Ok(())
    }

    /// A name in `tmp/` that nobody uses; removed when dropped.
    fn temporary(&self) -> io::Result<Temporary> {
        if !self.writable {
            return Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the store is read only"));
        }
        Ok(Temporary::new(self.versions.join("tmp").join(uuid::Uuid::now_v7().to_string())))
    }

    /// Forces a folder whose entries have changed already. Whether the change outlives a power cut is open when it fails.
    fn settle(&self, folder: &Path) -> io::Result<()> {
        sync_folder(folder).inspect_err(|error| {
            tracing::error!(%error, "the adapter store cannot be forced to disk; nothing is removed until the next start");
            self.removes_nothing.store(true, Ordering::Release);
        })
    }
}
