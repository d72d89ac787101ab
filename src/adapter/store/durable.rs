//! Small steps that leave no half-written file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Says which path an error is about.
pub fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Writes a file that does not exist yet and forces it to disk.
pub fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|e| at(path, e))
}

/// Forces a folder's entries (names, not contents) to disk.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|e| at(path, e))
}

/// Removes a file or a folder; what cannot be removed is logged and left for the next start.
pub fn remove(path: &Path) {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot be removed from the adapter store");
        }
        _ => {}
    }
}

/// A path in `tmp/` that is removed when dropped, unless it was moved away.
pub struct Temporary {
    path: PathBuf,
}

impl Temporary {
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves it to where it belongs, in one step.
    pub fn rename(&self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to).map_err(|e| at(to, e))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        remove(&self.path);
    }
}
