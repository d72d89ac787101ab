//! Brings the sources of a configuration together.

use std::path::{Path, PathBuf};

use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::{Config, ConfigError};

/// Read from the working folder when no file is named.
pub const DEFAULT_FILE: &str = "config.toml";
const ENV_PREFIX: &str = "REPERTOIRE_";

/// What is set outside of the file, from the weakest to the strongest.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    entries: Vec<Override>,
}

#[derive(Clone, Debug)]
struct Override {
    /// E.g. `environment variable REPERTOIRE_SERVER__LISTEN`.
    origin: String,
    /// E.g. `server.listen`, `bases.0.dtype` or `bases.smollm2.dtype`.
    key: String,
    value: String,
    /// Whether the key comes from an environment variable, which has neither capitals nor signs to tell names by.
    folded: bool,
}

impl Overrides {
    /// Takes `REPERTOIRE_SECTION__KEY` from the environment; names without `__` (such as Kubernetes makes) are left alone.
    pub fn environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let keys = variables.into_iter().filter_map(|(name, value)| {
            let key = name.strip_prefix(ENV_PREFIX)?;
            let key = key.contains("__").then(|| key.to_ascii_lowercase().replace("__", "."))?;
            Some(Override { origin: format!("environment variable {name}"), key, value, folded: true })
        });
        self.entries.extend(keys);
        // The environment comes in no order; a list must grow from its front.
        self.entries.sort_by(|a, b| places(&a.key).cmp(places(&b.key)));
        self
    }

    /// Takes `section.key=value`, as `--set` does.
    pub fn assignment(mut self, text: &str) -> Result<Self, ConfigError> {
        let origin = format!("--set {text}");
        match text.split_once('=') {
            Some((key, value)) if key.contains('.') => {
                self.entries.push(Override { origin, key: key.trim().into(), value: value.into(), folded: false });
                Ok(self)
            }
            _ => Err(ConfigError::other("must be section.key=value, such as server.threads=4").from_origin(origin)),
        }
    }

    /// Takes a flag of its own.
    pub fn flag(mut self, flag: &str, key: &str, value: impl Into<String>) -> Self {
        self.entries.push(Override { origin: flag.into(), key: key.into(), value: value.into(), folded: false });
        self
    }
}

impl Config {
    /// Reads `file` (absent: `config.toml` here if there is one), applies `overrides` and checks the whole.
    pub fn load(file: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        let file = match file {
            Some(file) if !file.is_file() => {
                let message = format!("configuration file {} does not exist", file.display());
                return Err(ConfigError::other(message));
            }
            Some(file) => Some(file.to_path_buf()),
            None => Some(PathBuf::from(DEFAULT_FILE)).filter(|file| file.is_file()),
        };
        if let Some(file) = file {
            figment = figment.merge(Toml::file_exact(file));
        }
        for entry in &overrides.entries {
            let value = entry.resolve(&figment).map_err(|error| error.from_origin(&entry.origin))?;
            figment = figment.merge(value);
        }
        let config: Self = figment.extract()?;
        config.validate().map_err(|error| {
            // figment finds no places in lists (`bases.0.name`): the list itself says where it was read.
            let list = error.key.split('.').next().unwrap_or_default();
            let metadata = figment.find_metadata(&error.key).or_else(|| figment.find_metadata(list));
            match metadata.map(super::error::origin) {
                Some(origin) => error.from_origin(origin),
                None => error,
            }
        })?;
        Ok(config)
    }
}

/// One value at one place, as a source of its own.
struct Placed {
    origin: String,
    dict: Dict,
}

impl Provider for Placed {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

impl Override {
    fn resolve(&self, so_far: &Figment) -> Result<Placed, ConfigError> {
        let Ok(value) = self.value.parse::<Value>();
        let nested = match self.key.strip_prefix("bases.").and_then(|rest| rest.rsplit_once('.')) {
            // figment merges tables, never lists: the list is rebuilt with the one change in it.
            Some((which, field)) => {
                let mut bases = so_far.find_value("bases").ok().and_then(Value::into_array).unwrap_or_default();
                let index = self.base_index(&bases, which)?;
                if index == bases.len() {
                    bases.push(Value::from(Dict::new()));
                }
                let mut base = bases[index].as_dict().cloned().unwrap_or_default();
                base.insert(field.to_owned(), value);
                bases[index] = Value::from(base);
                figment::util::nest("bases", Value::from(bases))
            }
            None => figment::util::nest(&self.key, value),
        };
        let dict = nested.into_dict().ok_or_else(|| ConfigError::at(&self.key, "is not a key"))?;
        Ok(Placed { origin: self.origin.clone(), dict })
    }

    fn base_index(&self, bases: &[Value], which: &str) -> Result<usize, ConfigError> {
        if let Ok(index) = which.parse::<usize>() {
            return match index <= bases.len() {
                true => Ok(index),
                false => Err(ConfigError::at(&self.key, format!("skips a place: there are {} bases", bases.len()))),
            };
        }
        let name = |base: &Value| Some(base.as_dict()?.get("name")?.as_str()?.to_owned());
        // One that is still to be named is no base that a name could mean.
        let names: Vec<String> = bases.iter().map(|base| name(base).unwrap_or_default()).collect();
        let exact = names.iter().position(|base| base == which);
        let place = exact.or_else(|| names.iter().position(|base| self.folded && folded(base) == which));
        place.ok_or_else(|| ConfigError::at(&self.key, format!("names no base; there are: {}", names.join(", "))))
    }
}

/// A key in parts, numbers by their size: `bases.10` after `bases.2`.
fn places(key: &str) -> impl Iterator<Item = (usize, &str)> {
    key.split('.').map(|part| (part.parse().unwrap_or(usize::MAX), part))
}

/// A name as it stands in an environment variable.
fn folded(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect()
}
