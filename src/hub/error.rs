//! Why a source does not become files. Messages say what to do.

use std::path::PathBuf;

/// For the operator, at start, or for the client who named a source.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The source is none, or does not exist.
    #[error("{0}")]
    Source(String),
    /// A folder or repository without a file that is needed.
    #[error("{} has no {what}", folder.display())]
    Lacks { folder: PathBuf, what: String },
    /// An adapter over the limit.
    #[error("the adapter in {repository} has {bytes} bytes, at most {max_bytes} are taken (limits.body_bytes)")]
    TooLarge { repository: String, bytes: u64, max_bytes: u64 },
    /// Weights in a form that is not read.
    #[error("{}: {reason}. This writes one that can be read: {command}", path.display())]
    Convert { path: PathBuf, reason: String, command: String },
    /// 401 and 403.
    #[error("{url}: the hub answers {status}: {hint}")]
    Denied { url: String, status: u16, hint: String },
    /// 404.
    #[error("{url}: the hub knows no such {what}; check the name in `{repository}`")]
    Unknown { url: String, what: String, repository: String },
    /// Any other answer.
    #[error("{url}: the hub answers {status}; try again later")]
    Status { url: String, status: u16 },
    /// No answer.
    #[error(
        "{url} cannot be reached: {reason}. Without a network, download the model elsewhere (`hf download {repository}`) and give its folder, \
         or set HF_ENDPOINT to a mirror; what is downloaded already is kept"
    )]
    Network { url: String, repository: String, reason: String },
    /// Offline, and the cache does not have all of it.
    #[error("HF_HUB_OFFLINE is set and {} does not have all of {repository}: {reason}", cache.display())]
    Offline { cache: PathBuf, repository: String, reason: String },
    /// The hub's description of a repository makes no sense.
    #[error("{url}: {reason}")]
    Answer { url: String, reason: String },
    /// A file that is not what the hub says it is, twice.
    #[error("{url}: {reason}; what was downloaded is discarded, try again")]
    Corrupt { url: String, reason: String },
    #[error("{}: {error}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        error: std::io::Error,
    },
}

impl HubError {
    /// Names the file of an error.
    pub(super) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { path, error }
    }
}
