//! `repertoire serve`.

use anyhow::Result;
use clap::Args;

use super::configuration::Configuration;
use crate::app;

/// Where the configuration comes from.
#[derive(Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    configuration: Configuration,
    /// Address to listen on, such as 127.0.0.1:8080
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

impl Serve {
    /// Serves until a signal.
    pub fn run(self) -> Result<()> {
        let mut overrides = self.configuration.overrides()?;
        if let Some(listen) = &self.listen {
            overrides = overrides.flag("--listen", "server.listen", listen);
        }
        app::serve(self.configuration.load(overrides)?)
    }
}
