//! Everything that can be wrong with an adapter or with what a client asks of one.

use super::Digest;

/// Why an adapter cannot be read, stored, found or replaced. Messages are meant for the client.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The id is not a valid name (422 `validation`).
    #[error("adapter id must match [A-Za-z0-9][A-Za-z0-9._-]{{0,127}}, given {0:?}")]
    Name(String),
    /// The reference after `@` cannot be read (422 `validation`).
    #[error(
        "adapter reference must be name, name@<number>, name@sha256:<64 hex digits> or name@ckpt-<step>, given {0:?}"
    )]
    Reference(String),
    /// No such adapter or version (404 `adapter_not_found`).
    #[error("adapter {0} does not exist")]
    NotFound(String),
    /// A condition on the current version failed (409 `version_conflict`).
    #[error("{}", conflict(.name, .current))]
    Conflict { name: String, current: Option<Digest> },
    /// Readable, but it cannot be applied exactly (422 `adapter_unsupported`).
    #[error("{0}")]
    Unsupported(String),
    /// Malformed, inconsistent or hostile input (422 `validation`).
    #[error("{0}")]
    Invalid(String),
    /// Over a size limit (413).
    #[error("{0}")]
    TooLarge(String),
    /// The store failed; the message is for the log, not for the client (500).
    #[error("adapter store: {0}")]
    Store(#[source] std::io::Error),
    /// A tensor operation failed (500).
    #[error("tensor: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl AdapterError {
    /// Shorthand for [`AdapterError::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    /// Shorthand for [`AdapterError::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::Unsupported(message.into())
    }
}

fn conflict(name: &str, current: &Option<Digest>) -> String {
    match current {
        Some(digest) => format!("adapter {name} is now {digest}; fetch it and try again"),
        None => format!("adapter {name} does not exist, so it cannot match the given digest"),
    }
}
