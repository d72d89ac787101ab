//! `[training]` and `[database]`: jobs and where their rows are kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Span};

/// Whether and how eagerly this server trains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    pub enabled: bool,
    /// How much a training piece may add to the time between two tokens of a running request.
    pub latency_budget: Span,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self { enabled: true, latency_budget: Span(Duration::from_millis(20)) }
    }
}

impl TrainingConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.latency_budget.0.is_zero() {
            return Err(ConfigError::value("training.latency_budget", self.latency_budget, "longer than 0ms"));
        }
        Ok(())
    }
}

/// Where rows (jobs, files, keys, names) are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseConfig {
    pub url: String,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self { url: "sqlite://data/repertoire.db".into() }
    }
}

impl DatabaseConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.url.starts_with("sqlite://") {
            return Ok(());
        }
        // The value may hold a password: only its scheme is repeated.
        let scheme = self.url.split("://").next().unwrap_or_default();
        Err(ConfigError::value(
            "database.url",
            format!("{scheme:?}"),
            "sqlite://file (postgres:// is not built in yet)",
        ))
    }
}
