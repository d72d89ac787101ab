//! `[limits]`: how large a request may be.

use serde::{Deserialize, Serialize};

use super::{ByteSize, ConfigError, at_least};

/// Bounds of one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Of one body. Uploads in flight together hold at most two bodies of this size, and one more that is being unpacked.
    pub body_bytes: ByteSize,
    /// Inputs per request.
    pub inputs: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { body_bytes: ByteSize(512 << 20), inputs: 1024 }
    }
}

impl LimitsConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        at_least("limits.body_bytes", self.body_bytes.0, 1024)?;
        at_least("limits.inputs", self.inputs, 1)
    }
}
