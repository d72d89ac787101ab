//! Where a command takes the server's configuration from.

use std::path::PathBuf;

use clap::Args;

use crate::config::{Config, ConfigError, Overrides};

/// A file, the environment, and what is set on the command line.
#[derive(Debug, Args)]
pub struct Configuration {
    /// Configuration file [default: config.toml here, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets a key of the configuration; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

impl Configuration {
    /// What the environment and `--set` say over the file.
    pub fn overrides(&self) -> Result<Overrides, ConfigError> {
        let mut overrides = Overrides::default().environment(std::env::vars());
        for assignment in &self.set {
            overrides = overrides.assignment(assignment)?;
        }
        Ok(overrides)
    }

    /// The file under `overrides`.
    pub fn load(&self, overrides: Overrides) -> Result<Config, ConfigError> {
        Config::load(self.config.as_deref(), overrides)
    }
}
