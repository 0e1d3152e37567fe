//! `http`: how the broker speaks to providers.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::finding::Found;
use crate::provider::spec::span::Span;
use crate::provider::trust::ExtraAuthorities;

/// More than every bundle of public authorities that there is, in bytes.
const FILE_LIMIT: u64 = 4 << 20;

/// How the broker speaks to providers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// How long connecting may take.
    pub connect_timeout: Span,
    /// How long a request may take, from connecting to the last byte of the answer.
    pub timeout: Span,
    /// A PEM file of certificate authorities to trust besides the public ones.
    #[schemars(with = "Option<String>", extend("format" = "path"))]
    pub ca_file: Option<PathBuf>,
}

impl Default for Http {
    fn default() -> Self {
        Self { connect_timeout: Span::from_secs(5), timeout: Span::from_secs(30), ca_file: None }
    }
}

impl Http {
    /// The authorities in the file that `ca_file` names.
    pub(super) fn authorities(&self, found: &mut Found) -> ExtraAuthorities {
        let Some(path) = &self.ca_file else { return ExtraAuthorities::default() };
        let read = || -> Result<_, Box<dyn std::error::Error>> {
            let mut pem = Vec::new();
            File::open(path)?.take(FILE_LIMIT + 1).read_to_end(&mut pem)?;
            // Cut between two certificates it would still be read, and half of it trusted.
            if pem.len() as u64 > FILE_LIMIT {
                return Err("is larger than 4 MiB".into());
            }
            Ok(ExtraAuthorities::of_pem(&pem)?)
        };
        read().unwrap_or_else(|why| {
            found.mistake("http.ca_file", format!("{}: {why}", path.display()));
            ExtraAuthorities::default()
        })
    }

    pub(super) fn check(&self, found: &mut Found) {
        let mut is_in_range = true;
        for (path, span) in [("http.connect_timeout", self.connect_timeout), ("http.timeout", self.timeout)] {
            if span.is_zero() || span.duration().as_secs() > 600 {
                found.mistake(path, format!("{span} is out of range; accepted: 1ms to 10m"));
                is_in_range = false;
            }
        }
        if is_in_range && self.connect_timeout > self.timeout {
            found.mistake(
                "http.connect_timeout",
                format!(
                    "{} is longer than http.timeout ({}), which includes it",
                    self.connect_timeout, self.timeout
                ),
            );
        }
    }
}
