//! Adapters that the server fetches itself, from roots that the operator allowed.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::http::{ApiError, AppState, Code};
use crate::hub::{self, HubError, HubOptions};

use super::upload::{Files, is_archive};

/// The files of a source, on this machine but not yet in memory.
pub struct Found {
    files: Vec<(PathBuf, u64)>,
    /// Of all of them.
    pub bytes: u64,
}

/// Finds, and if need be downloads, the files of a source. Takes time: for off the async threads.
pub fn find(state: &AppState, source: &str) -> Result<Found, ApiError> {
    let allowed = &state.config.adapters.allowed_sources;
    let max_bytes = state.config.limits.body_bytes.0;
    match source.split_once("://") {
        Some(("file", path)) => {
            let path = allowed_path(Path::new(path), allowed).ok_or_else(|| not_allowed(source))?;
            Found::under(&path, Links::Skipped, max_bytes)
        }
        Some(("hf" | "s3", _)) if !allowed.iter().any(|root| under(source, root)) => Err(not_allowed(source)),
        Some(("s3", _)) => Err(ApiError::validation(
            "source",
            "s3:// is not built in; upload the files, or name a file:// or hf:// source",
        )),
        Some(("hf", _)) => {
            let folder = hub::resolve_adapter(source, max_bytes, &HubOptions::from_env(), &mut |_| {});
            Found::under(&folder.map_err(unreachable)?, Links::Followed, max_bytes)
        }
        _ => Err(ApiError::validation("source", format!("source must begin with file:// or hf://, given {source:?}"))),
    }
}

/// What the client can do something about is told; the rest is for the log.
fn unreachable(error: HubError) -> ApiError {
    match error {
        HubError::Io { .. } => ApiError::internal(error),
        HubError::TooLarge { .. } => ApiError::new(Code::TooLarge, error.to_string()).at("source"),
        HubError::Lacks { what, .. } => ApiError::validation("source", format!("the source has no {what}")),
        error => ApiError::validation("source", error.to_string()),
    }
}

/// The same words whether the source exists or not.
fn not_allowed(source: &str) -> ApiError {
    let message = format!(
        "source {source:?} is not under a root in adapters.allowed_sources; ask the operator, or upload the files"
    );
    ApiError::validation("source", message)
}

fn under(source: &str, root: &str) -> bool {
    let root = root.trim_end_matches('/');
    source.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '@']))
}

/// The real path, when it lies under an allowed root; links and `..` are followed first.
fn allowed_path(path: &Path, allowed: &[String]) -> Option<PathBuf> {
    let real = path.is_absolute().then(|| path.canonicalize().ok())??;
    let roots = allowed.iter().filter_map(|root| Path::new(root.strip_prefix("file://")?).canonicalize().ok());
    roots.into_iter().any(|root| real.starts_with(root)).then_some(real)
}

/// What to do with links among the files of a source.
#[derive(Clone, Copy)]
enum Links {
    /// A client names the folder: a link could lead out of the allowed roots.
    Skipped,
    /// The hub's cache is our own and consists of links.
    Followed,
}

impl Found {
    /// The files of a folder (not of folders in it), or one file or archive.
    fn under(path: &Path, links: Links, max_bytes: u64) -> Result<Self, ApiError> {
        let mut found = Self { files: Vec::new(), bytes: 0 };
        if !path.is_dir() {
            found.add(path.to_owned(), links)?;
        } else {
            for entry in std::fs::read_dir(path).map_err(io(path))? {
                let path = entry.map_err(io(path))?.path();
                if !path.file_name().and_then(|name| name.to_str()).is_none_or(is_archive) && wanted(&path) {
                    found.add(path, links)?;
                }
            }
        }
        if found.bytes > max_bytes {
            let message =
                format!("the source holds {} bytes, at most {max_bytes} are taken (limits.body_bytes)", found.bytes);
            return Err(ApiError::new(Code::TooLarge, message).at("source"));
        }
        Ok(found)
    }

    fn add(&mut self, path: PathBuf, links: Links) -> Result<(), ApiError> {
        let metadata = match links {
            Links::Skipped => std::fs::symlink_metadata(&path),
            Links::Followed => std::fs::metadata(&path),
        };
        let metadata = metadata.map_err(io(&path))?;
        if metadata.is_file() {
            self.bytes = self.bytes.saturating_add(metadata.len());
            self.files.push((path, metadata.len()));
        }
        Ok(())
    }

    /// Brings them into memory.
    pub fn read(self) -> Result<Files, ApiError> {
        let mut files = Files::new();
        for (path, size) in self.files {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let mut content = Vec::new();
            // No more than was asked for: somebody may be writing to it.
            let read = File::open(&path).and_then(|file| file.take(size).read_to_end(&mut content));
            read.map_err(io(&path))?;
            files.push((name.to_owned(), content.into()));
        }
        Ok(files)
    }
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> ApiError + use<> {
    let path = path.to_owned();
    move |error| ApiError::internal(format!("{}: {error}", path.display()))
}

/// Files that an adapter can consist of: a training folder's optimizer and checkpoints are not even read.
fn wanted(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with("adapter_") || name.starts_with("prompt")
}

#[cfg(test)]
mod tests {
    use super::{allowed_path, under};

    #[test]
    fn a_root_covers_what_is_below_it_and_nothing_beside_it() {
        assert!(under("hf://org/repo@main", "hf://org") && under("hf://org/repo@main", "hf://org/repo"));
        assert!(!under("hf://organisation/repo", "hf://org") && !under("s3://bucket2/a", "s3://bucket/"));
    }

    #[cfg(unix)]
    #[test]
    fn links_and_dots_do_not_lead_out_of_a_root() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        std::fs::create_dir_all(root.join("a")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
        let allowed = [format!("file://{}", root.display())];
        assert!(allowed_path(&root.join("a"), &allowed).is_some());
        for path in [root.join("link"), root.join("../outside"), outside, root.join("missing"), "a".into()] {
            assert!(allowed_path(&path, &allowed).is_none(), "{}", path.display());
        }
    }
}
