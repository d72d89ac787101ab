//! `[adapters]`: where adapters are kept and how many.

use serde::{Deserialize, Serialize};

use super::{ByteSize, ConfigError, at_least};

/// The adapter store and its bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptersConfig {
    /// A folder; object stores are not built in yet.
    pub store: String,
    /// The most that adapters may take of a base's device memory.
    pub device_bytes: ByteSize,
    /// Decoded adapters kept in host memory; the rest stays in the store.
    pub host_bytes: ByteSize,
    pub max_rank: usize,
    pub keep_versions: usize,
    /// Roots under which `POST /v1/adapters` may name a source: `file:///folder` or `hf://org`.
    pub allowed_sources: Vec<String>,
}

impl Default for AdaptersConfig {
    fn default() -> Self {
        Self {
            store: "adapters".into(),
            device_bytes: ByteSize(1 << 30),
            host_bytes: ByteSize(4 << 30),
            max_rank: 256,
            keep_versions: 10,
            allowed_sources: Vec::new(),
        }
    }
}

impl AdaptersConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.store.is_empty() || self.store.contains("://") {
            let allowed = "a folder (s3:// is not built in yet)";
            return Err(ConfigError::value("adapters.store", format!("{:?}", self.store), allowed));
        }
        at_least("adapters.max_rank", self.max_rank, 1)?;
        at_least("adapters.keep_versions", self.keep_versions, 1)?;
        for (index, source) in self.allowed_sources.iter().enumerate() {
            if !["file:///", "hf://"].iter().any(|scheme| source.starts_with(scheme)) {
                let allowed = "file:///folder or hf://org (s3:// is not built in yet)";
                let key = format!("adapters.allowed_sources.{index}");
                return Err(ConfigError::value(key, format!("{source:?}"), allowed));
            }
        }
        Ok(())
    }
}
