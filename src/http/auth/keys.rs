//! The keys file. Keys are kept and compared as sha-256.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use figment::Figment;
use figment::providers::{Format, Toml};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config::{AuthConfig, ConfigError};

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// List, show and download.
    Read,
    /// Generate and classify.
    Generate,
    /// Publish, change and delete adapters.
    Write,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Generate => "generate",
            Self::Write => "write",
        })
    }
}

/// A key without its secret.
#[derive(Clone, Debug)]
pub struct Key {
    pub name: Arc<str>,
    pub scopes: Arc<[Scope]>,
    /// Names, or beginnings of names that end in `*`.
    adapters: Arc<[String]>,
}

impl Key {
    /// Whether it may know of an adapter.
    pub fn sees(&self, adapter: &str) -> bool {
        self.adapters.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => adapter.starts_with(start),
            None => adapter == pattern,
        })
    }

    /// Whether it may know of all adapters.
    pub fn sees_everything(&self) -> bool {
        self.adapters.iter().any(|pattern| pattern == "*")
    }
}

/// All keys. Empty when none are asked for.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<([u8; 32], Key)>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key_sha256: String,
    #[serde(default = "all_scopes")]
    scopes: Vec<Scope>,
    #[serde(default = "all_adapters")]
    adapters: Vec<String>,
}

fn all_scopes() -> Vec<Scope> {
    vec![Scope::Read, Scope::Generate, Scope::Write]
}

fn all_adapters() -> Vec<String> {
    vec!["*".into()]
}

impl Keys {
    /// Reads the configured file; none when the server is open to all or no file is named.
    pub fn load(auth: &AuthConfig) -> Result<Self, ConfigError> {
        if auth.anonymous || auth.keys_file.is_empty() {
            return Ok(Self::default());
        }
        let keys = Self::read(Path::new(&auth.keys_file))?;
        if keys.is_empty() {
            // No keys would mean that none are asked for: surely not what naming a file is for.
            return Err(ConfigError::at("auth.keys_file", format!("{:?} holds no keys", auth.keys_file)));
        }
        Ok(keys)
    }

    /// Reads a file of keys.
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        if !file.is_file() {
            return Err(ConfigError::at(
                "auth.keys_file",
                format!("names a file that does not exist: {}", file.display()),
            ));
        }
        let entries: BTreeMap<String, Entry> = Figment::from(Toml::file_exact(file)).extract()?;
        let keys = entries.into_iter().map(|(name, entry)| {
            let mut hash = [0; 32];
            let bad = |_| {
                let allowed = "64 hexadecimal digits (printf %s \"$KEY\" | sha256sum)";
                let given = format!("{} characters", entry.key_sha256.chars().count());
                ConfigError::value(format!("{name}.key_sha256"), given, allowed).from_origin(file.display().to_string())
            };
            hex::decode_to_slice(&entry.key_sha256, &mut hash).map_err(bad)?;
            Ok((hash, Key { name: name.into(), scopes: entry.scopes.into(), adapters: entry.adapters.into() }))
        });
        let keys = keys.collect::<Result<Vec<(_, Key)>, ConfigError>>()?;
        let mut owners = HashMap::new();
        for (hash, key) in &keys {
            if let Some(owner) = owners.insert(hash, &key.name) {
                let message = format!("is that of {owner} too: a key belongs to one name");
                let error = ConfigError::at(format!("{}.key_sha256", key.name), message);
                return Err(error.from_origin(file.display().to_string()));
            }
        }
        Ok(Self(keys))
    }

    /// Whether no key is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key that a client sent. Looks at every entry, in time that does not depend on where they differ.
    pub fn find(&self, secret: &str) -> Option<&Key> {
        let hash: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        self.0.iter().fold(None, |found, (known, key)| if bool::from(known.ct_eq(&hash)) { Some(key) } else { found })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{Keys, Scope};

    fn keys(text: &str) -> Result<Keys, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Keys::read(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_is_found_by_its_secret_with_its_scopes_and_adapters() {
        // printf %s test | sha256sum
        let test = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let keys =
            keys(&format!("[a]\nkey_sha256 = \"{test}\"\nscopes = [\"read\"]\nadapters = [\"a-*\", \"joke\"]\n"))
                .unwrap();
        let key = keys.find("test").unwrap();
        assert_eq!((&*key.name, &*key.scopes), ("a", &[Scope::Read][..]));
        assert!(key.sees("a-1") && key.sees("joke") && !key.sees("jokes") && !key.sees("b") && !key.sees_everything());
        assert!(keys.find("other").is_none() && keys.find("").is_none());
    }

    #[test]
    fn a_key_of_two_names_is_refused() {
        let test = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let error = keys(&format!("[a]\nkey_sha256 = \"{test}\"\n[b]\nkey_sha256 = \"{}\"\n", test.to_uppercase()))
            .unwrap_err();
        assert!(error.contains("b.key_sha256") && error.contains(" a "), "{error}");
    }

    #[test]
    fn mistakes_are_named_without_repeating_the_value() {
        let error = keys("[a]\nkey_sha256 = \"my secret\"\n").unwrap_err();
        assert!(
            error.contains("a.key_sha256") && error.contains("sha256sum") && !error.contains("my secret"),
            "{error}"
        );
        assert!(keys("[a]\nkey = \"x\"\n").unwrap_err().contains("a.key is not a known key"));
        assert!(keys("[a]\nkey_sha256 = \"\"\nscopes = [\"all\"]\n").unwrap_err().contains("read, generate, write"));
    }
}
