//! Values that are written as text and mean more: addresses, sizes, modes, URLs. Each has one parser, whose error is
//! the sentence that people read, and a JSON Schema `format` of its own, by which the schema's check calls it.

mod filter;
mod listen;
mod mode;
mod size;
mod url;

pub use filter::LogFilter;
pub use listen::{Listen, SocketPath};
pub use mode::FileMode;
pub use size::ByteSize;
pub use url::{Authority, BaseUrl, RedirectUri, ReturnUrl};

use std::error::Error;

use serde_json::Value;

use crate::provider::spec::span::Span;

/// The text is not what is accepted here; displays as the sentence that says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

/// Checks one text.
type Check = fn(&str) -> Result<(), String>;

/// The same as the schema's check calls it, with any value; what is no text breaks another rule.
type SchemaCheck = fn(&Value) -> Result<(), Box<dyn Error>>;

/// Every format and its parser.
pub(super) const FORMATS: &[(&str, Check, SchemaCheck)] = &[
    ("span", check::<Span>, schema_check::<Span>),
    (Listen::FORMAT, check::<Listen>, schema_check::<Listen>),
    (SocketPath::FORMAT, check::<SocketPath>, schema_check::<SocketPath>),
    (FileMode::FORMAT, check::<FileMode>, schema_check::<FileMode>),
    (ByteSize::FORMAT, check::<ByteSize>, schema_check::<ByteSize>),
    (BaseUrl::FORMAT, check::<BaseUrl>, schema_check::<BaseUrl>),
    (ReturnUrl::FORMAT, check::<ReturnUrl>, schema_check::<ReturnUrl>),
    (RedirectUri::FORMAT, check::<RedirectUri>, schema_check::<RedirectUri>),
    (Authority::FORMAT, check::<Authority>, schema_check::<Authority>),
    (LogFilter::FORMAT, check::<LogFilter>, schema_check::<LogFilter>),
    (PATH, path, schema_check_path),
];

/// The format of a path in the file system.
pub(super) const PATH: &str = "path";

fn check<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<(), String> {
    text.parse::<T>().map(drop).map_err(|error| error.to_string())
}

fn schema_check<T: std::str::FromStr<Err: std::fmt::Display>>(value: &Value) -> Result<(), Box<dyn Error>> {
    value.as_str().map_or(Ok(()), |text| check::<T>(text).map_err(Into::into))
}

fn schema_check_path(value: &Value) -> Result<(), Box<dyn Error>> {
    value.as_str().map_or(Ok(()), |text| path(text).map_err(Into::into))
}

fn path(text: &str) -> Result<(), String> {
    match text {
        "" => Err("is empty; write a path".to_owned()),
        text if text.contains('\0') => Err("holds a zero byte, which no path may hold".to_owned()),
        _ => Ok(()),
    }
}

/// `text` as it may stand in a sentence: in quotes, escaped, and not longer than a line bears.
pub(super) fn quoted(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    format!("\"{}{more}\"", short.escape_debug())
}

/// Serde and the schema for a type that is a checked text.
macro_rules! checked_text {
    ($name:ident, $format:literal, $types:expr, $description:literal) => {
        impl $name {
            /// The `format` of this text in the JSON Schema.
            pub(in crate::config) const FORMAT: &str = $format;
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": $types, "format": $format, "description": $description })
            }
        }
    };
}
use checked_text;
