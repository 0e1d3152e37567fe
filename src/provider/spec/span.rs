//! A length of time as people write it in YAML: `30s`, `10m`, `1h30m`, `90d`.
//!
//! Shared by the provider spec and the configuration, so that one spelling works everywhere. Knows no calendar: a
//! day is 24 hours. Invariant: `parse` of a printed span gives the same span.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Units from long to short, in milliseconds, in the order in which they may appear.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The longest span accepted: a hundred years. Longer ones are typing mistakes, and would overflow instants.
const MAX_MILLIS: u64 = 100 * 365 * 86_400_000;

/// A non-negative length of time with millisecond resolution, written as `30s`, `10m`, `1h30m` or `90d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(Duration);

impl Span {
    /// A span of whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// A span of milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// The span as a standard duration.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// Whether nothing is left of it.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.0
    }
}

/// The text is not a length of time. Displays as a sentence that says how to write one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration; write 10s or 2m")]
pub struct SpanError {
    text: String,
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_millis(text).map(Self::from_millis).ok_or_else(|| SpanError { text: text.to_owned() })
    }
}

/// `None` for anything but `(number unit)+` with units from long to short, each at most once.
fn parse_millis(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0_u64;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let word = &rest[..rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len())];
        rest = &rest[word.len()..];
        let (_, millis) = units.find(|(unit, _)| *unit == word)?;
        total = total.checked_add(number.checked_mul(*millis)?)?;
    }
    (!text.is_empty() && total <= MAX_MILLIS).then_some(total)
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = u64::try_from(self.0.as_millis()).unwrap_or(MAX_MILLIS);
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, millis) in UNITS {
            if left >= millis {
                write!(f, "{}{unit}", left / millis)?;
                left %= millis;
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "span",
            "description": "A length of time: 30s, 10m, 1h30m, 90d.",
            "pattern": "^(?:[0-9]+d)?(?:[0-9]+h)?(?:[0-9]+m)?(?:[0-9]+s)?(?:[0-9]+ms)?$",
            "minLength": 2,
            "format": "span",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_people_write_them() {
        for (text, millis) in [
            ("0s", 0),
            ("30s", 30_000),
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            ("90d", 7_776_000_000),
            ("250ms", 250),
            ("1m5ms", 60_005),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span, Span::from_millis(millis), "{text}");
            assert_eq!(span.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_span_is_refused_with_an_example() {
        for text in [
            "",
            "soon",
            "10",
            "s",
            "-1s",
            "1.5h",
            "1s1m",
            "1s1s",
            "10 s",
            "9999999d",
            "99999999999999999999s",
        ] {
            let error = text.parse::<Span>().unwrap_err().to_string();
            assert!(error.contains("write 10s or 2m"), "{text}: {error}");
        }
    }
}
