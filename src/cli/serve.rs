//! `repertoire serve`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::app;
use crate::config::{Config, ConfigError, Overrides};

/// Where the configuration comes from.
#[derive(Debug, Args)]
pub struct Serve {
    /// Configuration file [default: config.toml here, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on, such as 127.0.0.1:8080
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Sets a key of the configuration; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

impl Serve {
    /// Serves until a signal.
    pub fn run(self) -> Result<()> {
        app::serve(self.configuration()?)
    }

    fn configuration(&self) -> Result<Config, ConfigError> {
        let mut overrides = Overrides::default().environment(std::env::vars());
        for assignment in &self.set {
            overrides = overrides.assignment(assignment)?;
        }
        if let Some(listen) = &self.listen {
            overrides = overrides.flag("--listen", "server.listen", listen);
        }
        Config::load(self.config.as_deref(), overrides)
    }
}
