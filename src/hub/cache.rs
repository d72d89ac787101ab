//! Hugging Face's cache: `models--org--repo/{blobs/<etag>, refs/<revision>, snapshots/<commit>/<file> -> blob}`.

use std::path::{Path, PathBuf};

use super::HubError;
use super::source::Repository;

/// One repository's part of the cache.
pub(super) struct Cache {
    root: PathBuf,
}

impl Cache {
    pub fn new(cache: &Path, repository: &Repository) -> Self {
        Self { root: cache.join(format!("models--{}", repository.name.replace('/', "--"))) }
    }

    /// The commit that a revision was when it was last asked for; a commit is itself.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let commit = std::fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Remembers what a revision is.
    pub fn set_commit(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) {
            return Ok(());
        }
        write(&self.root.join("refs").join(revision), commit.as_bytes())
    }

    /// Where a commit's files are.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// Where a file's content is, by its etag.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// Gives a content its name in a commit.
    pub fn link(&self, commit: &str, name: &str, etag: &str) -> Result<PathBuf, HubError> {
        let path = self.snapshot(commit).join(name);
        if path.exists() {
            return Ok(path);
        }
        let folder = self.snapshot(commit);
        std::fs::create_dir_all(&folder).map_err(HubError::io(&folder))?;
        // Made aside and put in place in one step: a link to nothing may be there, and another process may be doing the same.
        let aside = folder.join(format!(".{name}.{:016x}", rand::random::<u64>()));
        link(&Path::new("../../blobs").join(etag), &self.blob(etag), &aside).map_err(HubError::io(&aside))?;
        std::fs::rename(&aside, &path).map_err(HubError::io(&path))?;
        Ok(path)
    }
}

#[cfg(unix)]
fn link(relative: &Path, _: &Path, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(relative, path)
}

#[cfg(not(unix))]
fn link(_: &Path, blob: &Path, path: &Path) -> std::io::Result<()> {
    std::fs::hard_link(blob, path)
}

/// A git commit's name.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Writes a small file in one step.
fn write(path: &Path, content: &[u8]) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder).map_err(HubError::io(folder))?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(HubError::io(folder))?;
    std::io::Write::write_all(&mut file, content).map_err(HubError::io(path))?;
    file.persist(path).map(|_| ()).map_err(|error| HubError::Io { path: path.to_owned(), error: error.error })
}
