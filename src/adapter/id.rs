//! What an adapter is called: names, digests, and references to a version.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::AdapterError;

/// A client's name for an adapter: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`. Safe as a folder name by construction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct AdapterName(String);

impl AdapterName {
    /// The longest name allowed, in bytes.
    pub const MAX_LEN: usize = 128;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AdapterName {
    type Err = AdapterError;

    fn from_str(text: &str) -> Result<Self, AdapterError> {
        let mut bytes = text.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if first && rest && text.len() <= Self::MAX_LEN {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(160).collect();
        Err(AdapterError::Name(shown))
    }
}

impl fmt::Display for AdapterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for AdapterName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The sha-256 that identifies what an adapter consists of. Shown as `sha256:<hex>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Lower-case hexadecimal, 64 characters, without the `sha256:` in front.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl FromStr for Digest {
    type Err = AdapterError;

    fn from_str(text: &str) -> Result<Self, AdapterError> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let mut bytes = [0; 32];
        hex::decode_to_slice(hex, &mut bytes).map_err(|_| AdapterError::Reference(text.chars().take(160).collect()))?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Which version of a name is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// `name`: the one the name points to now.
    Current,
    /// `name@3`.
    Number(u32),
    /// `name@sha256:<hex>`.
    Digest(Digest),
    /// `name@ckpt-100`: a training checkpoint, by step.
    Checkpoint(u64),
}

/// What a request calls its adapter: `name`, `name@3`, `name@sha256:<hex>` or `name@ckpt-<step>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AdapterRef {
    pub name: AdapterName,
    pub version: Selector,
}

impl FromStr for AdapterRef {
    type Err = AdapterError;

    fn from_str(text: &str) -> Result<Self, AdapterError> {
        let Some((name, version)) = text.split_once('@') else {
            return Ok(Self { name: text.parse()?, version: Selector::Current });
        };
        let bad = || AdapterError::Reference(text.chars().take(240).collect());
        let version = if version.starts_with("sha256:") {
            Selector::Digest(version.parse()?)
        } else if let Some(step) = version.strip_prefix("ckpt-") {
            Selector::Checkpoint(step.parse().map_err(|_| bad())?)
        } else {
            Selector::Number(version.parse().map_err(|_| bad())?)
        };
        Ok(Self { name: name.parse()?, version })
    }
}

impl fmt::Display for AdapterRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Selector::Current => write!(f, "{}", self.name),
            Selector::Number(n) => write!(f, "{}@{n}", self.name),
            Selector::Digest(d) => write!(f, "{}@{d}", self.name),
            Selector::Checkpoint(step) => write!(f, "{}@ckpt-{step}", self.name),
        }
    }
}
