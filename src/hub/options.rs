//! Where and how to download.

use std::path::PathBuf;
use std::time::Duration;

/// The settings of Hugging Face's own tools, under the same names.
#[derive(Clone)]
pub struct HubOptions {
    /// `HF_HUB_CACHE`, else `$HF_HOME/hub`, else `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// `HF_ENDPOINT`, else `https://huggingface.co`.
    pub endpoint: String,
    /// `HF_TOKEN`, else the one that `hf auth login` saved. Sent to the endpoint only.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: only what the cache has.
    pub offline: bool,
    /// How often an interrupted transfer that made no headway is taken up again.
    pub retries: u32,
    /// Before the first of these; doubled each time.
    pub pause: Duration,
}

impl HubOptions {
    /// From the environment.
    pub fn from_env() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let home = || set("HOME").or_else(|| set("USERPROFILE")).map(PathBuf::from).unwrap_or_default();
        let hf_home = set("HF_HOME").map_or_else(|| home().join(".cache/huggingface"), PathBuf::from);
        let saved = set("HF_TOKEN_PATH").map_or_else(|| hf_home.join("token"), PathBuf::from);
        let token = set("HF_TOKEN").or_else(|| std::fs::read_to_string(saved).ok());
        let offline =
            set("HF_HUB_OFFLINE").is_some_and(|value| !["0", "false", "no", "off"].contains(&&*value.to_lowercase()));
        Self {
            cache: set("HF_HUB_CACHE").map_or_else(|| hf_home.join("hub"), PathBuf::from),
            endpoint: set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline,
            retries: 5,
            pause: Duration::from_millis(500),
        }
    }
}

impl std::fmt::Debug for HubOptions {
    /// Without the token: settings are logged.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cache, endpoint, token, offline, retries, pause } = self;
        let token = token.as_ref().map(|_| "(set)");
        f.debug_struct("HubOptions")
            .field("cache", cache)
            .field("endpoint", endpoint)
            .field("token", &token)
            .field("offline", offline)
            .field("retries", retries)
            .field("pause", pause)
            .finish()
    }
}
