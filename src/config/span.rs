//! Lengths of time.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time, written `"20ms"`, `"1.5s"`, `"2m"` or `"1h"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
const ALLOWED: &str = "a length of time such as 20ms, 1.5s, 2m or 1h";

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("must be {ALLOWED}, given {text:?}");
        let trimmed = text.trim();
        let (unit, milliseconds) = UNITS.iter().find(|(unit, _)| trimmed.ends_with(unit)).ok_or_else(bad)?;
        let number: f64 = trimmed[..trimmed.len() - unit.len()].trim().parse().map_err(|_| bad())?;
        Duration::try_from_secs_f64(number * *milliseconds as f64 / 1_000.0).map(Self).map_err(|_| bad())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0.as_secs_f64() * 1_000.0;
        match UNITS.iter().rev().find(|(_, unit)| milliseconds > 0.0 && milliseconds % *unit as f64 == 0.0) {
            Some((name, unit)) => write!(f, "{}{name}", milliseconds / *unit as f64),
            None => write!(f, "{milliseconds}ms"),
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(ALLOWED)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Span, E> {
                text.parse().map_err(E::custom)
            }
        }
        d.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Span;

    #[test]
    fn lengths_of_time_are_read_and_shown() {
        for (text, milliseconds) in [("20ms", 20), ("1500ms", 1_500), ("2m", 120_000), ("1h", 3_600_000), ("0ms", 0)] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0, Duration::from_millis(milliseconds));
            assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
        }
    }

    #[test]
    fn what_is_no_length_of_time_is_refused() {
        for text in ["20", "ms", "-1s", "soon"] {
            assert!(text.parse::<Span>().unwrap_err().contains(text));
        }
    }
}
