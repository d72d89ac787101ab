//! `[[bases]]`: the frozen models to load.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

use super::{ByteSize, ConfigError};

/// One base model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseConfig {
    /// What `base` means in requests.
    pub name: String,
    /// Folder, `file.gguf`, `hf://org/repo[@rev]` or `dummy://folder`.
    pub source: String,
    #[serde(default)]
    pub device: DeviceName,
    #[serde(default)]
    pub dtype: DtypeName,
    #[serde(default)]
    pub device_memory: DeviceMemory,
    /// Further values of `base_model_name_or_path` that mean this base.
    #[serde(default)]
    pub aliases: Vec<String>,
}

impl BaseConfig {
    /// A base with default settings.
    pub fn new(name: impl Into<String>, source: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            source: source.into(),
            device: DeviceName::Auto,
            dtype: DtypeName::Auto,
            device_memory: DeviceMemory::default(),
            aliases: Vec::new(),
        }
    }

    /// The base that is served when nothing is configured.
    pub(super) fn demonstration() -> Self {
        let mut base = Self::new("smollm2", "models/smollm2-135m");
        base.aliases.push("HuggingFaceTB/SmolLM2-135M-Instruct".into());
        base
    }
}

/// Every base on its own, and their names together.
pub(super) fn validate_all(bases: &[BaseConfig]) -> Result<(), ConfigError> {
    if bases.is_empty() {
        return Err(ConfigError::at(
            "bases",
            "must hold at least one [[bases]] table with name and source, given none",
        ));
    }
    let mut names = HashSet::new();
    for (index, base) in bases.iter().enumerate() {
        let key = |field: &str| format!("bases.{index}.{field}");
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
        if base.name.is_empty() || base.name.len() > 128 || !base.name.bytes().all(plain) {
            let allowed = "1 to 128 letters, digits, '.', '_', '-' or '/'";
            return Err(ConfigError::value(key("name"), format!("{:?}", base.name), allowed));
        }
        if base.source.is_empty() {
            let allowed = "a folder, a .gguf file, hf://org/repo[@rev] or dummy://folder";
            return Err(ConfigError::value(key("source"), "\"\"", allowed));
        }
        // A name that is also another base's alias would make two answers to one question.
        for name in std::iter::once(&base.name).chain(&base.aliases) {
            if !names.insert(name) {
                return Err(ConfigError::at(key("name"), format!("or an alias is used twice: {name:?}")));
            }
        }
        if let DeviceMemory::Share(share) = base.device_memory
            && !(share > 0.0 && share <= 1.0)
        {
            return Err(ConfigError::value(key("device_memory"), share, DeviceMemory::ALLOWED));
        }
    }
    Ok(())
}

/// Which device a base runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The first CUDA device if there is one, else the CPU.
    #[default]
    Auto,
    Cpu,
    Cuda(usize),
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| format!("must be auto, cpu, cuda or cuda:<number>, given {text:?}")),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl Serialize for DeviceName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How a base's weights are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DtypeName {
    /// What suits file and device; GGUF stays as stored.
    #[default]
    Auto,
    F32,
    F16,
    Bf16,
}

/// How much of a device's memory a base may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DeviceMemory {
    /// In (0, 1]: a share of all there is.
    Share(f64),
    Bytes(u64),
}

impl DeviceMemory {
    const ALLOWED: &str = "a share over 0 and up to 1.0, or a size such as 8GiB";
}

impl Default for DeviceMemory {
    fn default() -> Self {
        Self::Share(0.9)
    }
}

impl Serialize for DeviceMemory {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Share(share) => s.serialize_f64(*share),
            Self::Bytes(bytes) => ByteSize(*bytes).serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for DeviceMemory {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = DeviceMemory;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(DeviceMemory::ALLOWED)
            }

            fn visit_f64<E>(self, share: f64) -> Result<DeviceMemory, E> {
                Ok(DeviceMemory::Share(share))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<DeviceMemory, E> {
                let bad = || E::custom(format!("must be {}, given {number}", DeviceMemory::ALLOWED));
                u64::try_from(number).map_err(|_| bad()).and_then(|number| self.visit_u64(number))
            }

            // A plain 1 is all of the memory; nobody means one byte.
            fn visit_u64<E>(self, number: u64) -> Result<DeviceMemory, E> {
                Ok(if number <= 1 { DeviceMemory::Share(number as f64) } else { DeviceMemory::Bytes(number) })
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<DeviceMemory, E> {
                if let Ok(share) = text.parse::<f64>()
                    && share <= 1.0
                {
                    return Ok(DeviceMemory::Share(share));
                }
                let bytes: Result<ByteSize, _> = text.parse();
                let bad = |_| E::custom(format!("must be {}, given {text:?}", DeviceMemory::ALLOWED));
                bytes.map(|ByteSize(bytes)| DeviceMemory::Bytes(bytes)).map_err(bad)
            }
        }
        d.deserialize_any(Visitor)
    }
}
