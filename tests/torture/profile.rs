//! The providers that the broker is held against: how each behaves, and what the broker is told of it.

use std::time::Duration;

use serde_json::{Value, json};
use token_broker::sandbox::ReuseProfile;

/// Grace of the profile that has one: the smallest seen at a provider.
const GRACE: u64 = 5;

/// A provider's habit with spent refresh tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Reusable,
    Grace,
    Strict,
}

impl Profile {
    pub(crate) const ALL: [Self; 3] = [Self::Reusable, Self::Grace, Self::Strict];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Reusable => "reusable",
            Self::Grace => "grace",
            Self::Strict => "strict",
        }
    }

    /// What the sandbox does.
    pub(crate) fn sandbox(self) -> ReuseProfile {
        match self {
            Self::Reusable => ReuseProfile::reusable_rotating(),
            Self::Grace => ReuseProfile::grace(Duration::from_secs(GRACE)),
            Self::Strict => ReuseProfile::strict(),
        }
    }

    /// What the broker's configuration says of it, over the catalogue's entry.
    pub(crate) fn configured(self) -> Value {
        let reuse = match self {
            Self::Reusable => json!("reusable"),
            Self::Grace => {
                json!({"grace": {"seconds": GRACE, "scope": "previous_only", "result": "new", "max_uses": 8}})
            }
            Self::Strict => json!("strict"),
        };
        // What the catalogue says of spent tokens contradicts that none ever is.
        let spent = if self == Self::Reusable { Value::Null } else { json!("family_revoked") };
        json!({
            "reuse": reuse,
            "spent": spent,
            "token_timeout": "2s",
            // It opens as it does by default; nobody can wait a minute in each round until it tries again.
            "breaker": {"failures": 5, "open": "1s", "successes": 3},
        })
    }
}
