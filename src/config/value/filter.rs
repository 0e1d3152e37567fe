//! How much is logged.

use std::fmt;
use std::str::FromStr;

use super::{Refused, checked_text, quoted};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A level, or levels by module: `info`, `info,token_broker::broker=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

checked_text!(
    LogFilter,
    "log-filter",
    "string",
    "off, error, warn, info, debug or trace; also by module: info,token_broker::broker=debug."
);

impl LogFilter {
    /// The filter as `telemetry::Filter` reads it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for LogFilter {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        for directive in text.split(',') {
            let (module, level) = directive.split_once('=').unwrap_or(("crate", directive));
            let is_module = module.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
            if module.is_empty() || !is_module || !LEVELS.contains(&level) {
                let levels = LEVELS.join(", ");
                let what = quoted(directive);
                return Err(Refused(format!(
                    "{what} is not a level; write one of {levels}, or module=level"
                )));
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_by_module_pass_and_other_words_do_not() {
        for good in ["info", "off", "info,token_broker=debug", "token_broker::broker=trace,warn"] {
            assert!(good.parse::<LogFilter>().is_ok(), "{good}");
        }
        for bad in ["", "loud", "info,", "a b=info", "=info", "INFO", "info;debug", "token_broker=loud"] {
            assert!(bad.parse::<LogFilter>().is_err(), "{bad}");
        }
    }
}
