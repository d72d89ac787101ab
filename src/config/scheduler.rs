//! `[scheduler]`: how much runs at once.

use serde::{Deserialize, Serialize};

use super::{ConfigError, at_least};

/// Bounds of each engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerConfig {
    /// Tokens computed per step.
    pub max_batch_tokens: usize,
    /// Sequences that run at once.
    pub max_running: usize,
    /// Requests that may wait; more are answered with 429.
    pub max_waiting: usize,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self { max_batch_tokens: 2048, max_running: 256, max_waiting: 1024 }
    }
}

impl SchedulerConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        at_least("scheduler.max_batch_tokens", self.max_batch_tokens, 1)?;
        at_least("scheduler.max_running", self.max_running, 1)?;
        at_least("scheduler.max_waiting", self.max_waiting, 1)
    }
}
