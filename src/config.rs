//! What an operator may set, and its defaults: built in < file < environment < `--set` < flags.

mod adapters;
mod auth;
mod base;
mod bytes;
mod error;
mod limits;
mod load;
mod log;
mod scheduler;
mod server;
mod span;
mod training;

use serde::{Deserialize, Serialize};

pub use adapters::AdaptersConfig;
pub use auth::AuthConfig;
pub use base::{BaseConfig, DeviceMemory, DeviceName, DtypeName};
pub use bytes::ByteSize;
pub use error::ConfigError;
pub use limits::LimitsConfig;
pub use load::{DEFAULT_FILE, Overrides};
pub use log::{LogConfig, LogFormat};
pub use scheduler::SchedulerConfig;
pub use server::ServerConfig;
pub use span::Span;
pub use training::{DatabaseConfig, TrainingConfig};

/// Everything that can be set. `config.toml` in the repository is this struct's default, with comments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub server: ServerConfig,
    pub bases: Vec<BaseConfig>,
    pub adapters: AdaptersConfig,
    pub scheduler: SchedulerConfig,
    pub training: TrainingConfig,
    pub database: DatabaseConfig,
    pub auth: AuthConfig,
    pub limits: LimitsConfig,
    pub log: LogConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: Default::default(),
            bases: vec![BaseConfig::demonstration()],
            adapters: Default::default(),
            scheduler: Default::default(),
            training: Default::default(),
            database: Default::default(),
            auth: Default::default(),
            limits: Default::default(),
            log: Default::default(),
        }
    }
}

impl Config {
    /// Checks what types cannot say. The message names the key, the value and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.server.validate()?;
        base::validate_all(&self.bases)?;
        self.adapters.validate()?;
        self.scheduler.validate()?;
        self.training.validate()?;
        self.database.validate()?;
        self.limits.validate()
    }
}

/// Refuses a number under its least value.
fn at_least<N: PartialOrd + std::fmt::Display>(key: &str, value: N, least: N) -> Result<(), ConfigError> {
    if value >= least { Ok(()) } else { Err(ConfigError::value(key, value, format!("a number of at least {least}"))) }
}
