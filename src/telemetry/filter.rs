//! What is worth a log line.

use std::fmt;

use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::error::Mistake;

/// The environment variable that overrides the configured filter.
pub const LOG_VARIABLE: &str = "TOKEN_BROKER_LOG";

/// Our own targets start with this.
const OURS: &str = "token_broker";

/// The most that other people's crates may say. h2 prints header lists and frames below it, tonic and hyper-util what
/// they connect to; none of them knows what is secret here.
const FOREIGN_CAP: LevelFilter = LevelFilter::INFO;

/// What other people's crates say when nothing is asked for.
const FOREIGN_DEFAULT: LevelFilter = LevelFilter::WARN;

const RULE: &str =
    "must be a level (error, warn, info, debug, trace, off) or a comma-separated list of target=level";

/// Which events are logged: a level for our own code, and levels for single targets (`token_broker::broker=trace`).
/// Other people's crates stay at WARN unless asked for by name, and never go below INFO.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter(Targets);

impl Filter {
    /// Parses `info`, `token_broker::broker=trace`, `warn,h2=info`, …
    pub fn parse(raw: &str) -> Result<Self, Mistake> {
        let mistake = || Mistake { field: "log.level".to_owned(), message: RULE.to_owned() };
        let (mut level, mut targets) = (LevelFilter::INFO, Targets::new().with_default(FOREIGN_DEFAULT));
        for directive in raw.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
            let Some((target, wanted)) = directive.split_once('=') else {
                level = directive.parse().map_err(|_| mistake())?;
                continue;
            };
            let wanted: LevelFilter = wanted.trim().parse().map_err(|_| mistake())?;
            let target = target.trim();
            if target == OURS {
                level = wanted;
            } else if is_ours(target) {
                targets = targets.with_target(target, wanted);
            } else if !target.is_empty() {
                targets = targets.with_target(target, wanted.min(FOREIGN_CAP));
            } else {
                return Err(mistake());
            }
        }
        if level == LevelFilter::OFF {
            targets = targets.with_default(LevelFilter::OFF);
        }
        Ok(Self(targets.with_target(OURS, level)))
    }

    /// INFO of ours, WARN of everybody else's.
    pub fn info() -> Self {
        Self(Targets::new().with_default(FOREIGN_DEFAULT).with_target(OURS, LevelFilter::INFO))
    }

    pub(super) fn targets(&self) -> Targets {
        self.0.clone()
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self::info()
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Targets match by prefix, so a shorter one (`token`) would cover ours and others': it counts as theirs.
fn is_ours(target: &str) -> bool {
    target.strip_prefix(OURS).is_some_and(|rest| rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    fn enables(filter: &str, target: &str, level: Level) -> bool {
        Filter::parse(filter).unwrap().targets().would_enable(target, &level)
    }

    #[test]
    fn other_crates_never_go_below_info_whatever_is_asked() {
        for filter in ["trace", "trace,h2=trace", "h2=debug,hyper=trace", "token_broker=trace,tok=trace"] {
            for target in ["h2::codec", "hyper_util::client", "reqwest", "rustls", "oauth2", "sled", "tokio"]
            {
                assert!(!enables(filter, target, Level::DEBUG), "{filter} {target}");
            }
        }
        assert!(enables("h2=trace", "h2::codec", Level::INFO));
        assert!(!enables("trace", "h2::codec", Level::INFO));
    }

    #[test]
    fn a_bare_level_is_about_our_own_code() {
        assert!(enables("trace", "token_broker::broker", Level::TRACE));
        assert!(enables("", "token_broker::grpc", Level::INFO));
        assert!(!enables("info", "token_broker::grpc", Level::DEBUG));
        assert!(!enables("off", "h2", Level::ERROR));
    }

    #[test]
    fn one_room_can_be_turned_up_alone() {
        let filter = "warn,token_broker::broker=trace";
        assert!(enables(filter, "token_broker::broker::refresh", Level::TRACE));
        assert!(!enables(filter, "token_broker::grpc", Level::INFO));
    }

    #[test]
    fn a_mistake_says_what_is_accepted() {
        for raw in ["loud", "token_broker=loud", "=info"] {
            assert!(Filter::parse(raw).unwrap_err().message.contains("error, warn, info"), "{raw}");
        }
    }
}
