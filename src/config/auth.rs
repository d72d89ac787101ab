//! `[auth]`: who may ask.

use serde::{Deserialize, Serialize};

/// Whether keys are asked for, and where they are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// No keys asked for, on any address.
    pub anonymous: bool,
    /// A TOML file of keys; empty: none.
    pub keys_file: String,
}
