//! What is wrong with a configuration, for the person who wrote it.

use std::fmt;

use figment::Metadata;
use figment::error::Kind;

/// One mistake: which key, what stands there, what is allowed, and where it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// E.g. `scheduler.max_running`; empty when no single key is at fault.
    pub key: String,
    pub message: String,
    /// A file, an environment variable or a flag; absent when the whole is at fault.
    pub origin: Option<String>,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if self.key.is_empty() { f.write_str(&self.message) } else { write!(f, "{} {}", self.key, self.message) }
    }
}

impl ConfigError {
    /// A mistake at a key, in words that follow the key's name.
    pub fn at(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into(), origin: None }
    }

    /// A value that is not allowed.
    pub fn value(key: impl Into<String>, given: impl fmt::Display, allowed: impl fmt::Display) -> Self {
        Self::at(key, format!("must be {allowed}, given {given}"))
    }

    /// A mistake that belongs to no key.
    pub fn other(message: impl Into<String>) -> Self {
        Self::at("", message)
    }

    /// Says where the value was read.
    pub fn from_origin(mut self, origin: impl Into<String>) -> Self {
        self.origin = Some(origin.into());
        self
    }
}

impl From<figment::Error> for ConfigError {
    fn from(error: figment::Error) -> Self {
        let mut path = error.path.clone();
        let message = match &error.kind {
            Kind::UnknownField(field, allowed) => {
                if path.last() != Some(field) {
                    path.push(field.clone());
                }
                format!("is not a known key; allowed here: {}", allowed.join(", "))
            }
            Kind::MissingField(field) => {
                path.push(field.to_string());
                "is missing".to_owned()
            }
            Kind::InvalidType(given, allowed) | Kind::InvalidValue(given, allowed) => {
                format!("must be {}, given {given}", plain(allowed))
            }
            Kind::UnknownVariant(given, allowed) => format!("must be one of {}, given {given:?}", allowed.join(", ")),
            Kind::ISizeOutOfRange(given) => format!("is out of range, given {given}"),
            Kind::USizeOutOfRange(given) => format!("is out of range, given {given}"),
            Kind::Message(message) => message.clone(),
            other => other.to_string(),
        };
        let origin = error.metadata.as_ref().map(origin);
        Self { key: path.join("."), message, origin }
    }
}

pub(super) fn origin(metadata: &Metadata) -> String {
    match metadata.source.as_ref().and_then(figment::Source::file_path) {
        Some(path) => path.display().to_string(),
        None => metadata.name.to_string(),
    }
}

/// Rust's names of types in an operator's words.
fn plain(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of at least 0",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        other => other,
    }
}
