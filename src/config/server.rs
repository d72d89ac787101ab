//! `[server]`: where to listen and how much of the machine to use.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Span};

/// Where the server listens, and its compute threads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// `address:port` or `host:port`.
    pub listen: String,
    /// Compute threads, one pool per process; 0: all cores.
    pub threads: usize,
    /// How long running requests may take to end after a signal.
    pub drain_timeout: Span,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self { listen: "127.0.0.1:8080".into(), threads: 0, drain_timeout: Span(Duration::from_secs(60)) }
    }
}

impl ServerConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let port =
            self.listen.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
        match port {
            Some(Ok(_)) => Ok(()),
            _ => Err(ConfigError::value(
                "server.listen",
                format!("{:?}", self.listen),
                "address:port, such as 127.0.0.1:8080 or [::1]:8080",
            )),
        }
    }
}
