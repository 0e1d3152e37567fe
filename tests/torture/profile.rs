//! The providers that the broker is held against: how each behaves, and what the broker is told of it.

use std::time::Duration;

use serde_json::{Value, json};
use token_broker::sandbox::ReuseProfile;

/// Grace of the profile that has one: the smallest seen at a provider.
const GRACE: u64 = 5;

/// A provider's habit with spent refresh tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    Reusable,
    Grace,
    Strict,
}

/// A provider's habits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) habit: Habit,
    /// Whether it ends the access tokens before a refresh when it carries it out.
    pub(crate) ends_old: bool,
}

impl Profile {
    pub(crate) const ALL: [Self; 5] = [
        Self { habit: Habit::Reusable, ends_old: false },
        Self { habit: Habit::Grace, ends_old: false },
        Self { habit: Habit::Strict, ends_old: false },
        Self { habit: Habit::Grace, ends_old: true },
        Self { habit: Habit::Strict, ends_old: true },
    ];

    pub(crate) fn name(self) -> &'static str {
        match (self.habit, self.ends_old) {
            (Habit::Reusable, false) => "reusable",
            (Habit::Reusable, true) => "reusable-ends",
            (Habit::Grace, false) => "grace",
            (Habit::Grace, true) => "grace-ends",
            (Habit::Strict, false) => "strict",
            (Habit::Strict, true) => "strict-ends",
        }
    }

    /// What the sandbox does.
    pub(crate) fn sandbox(self) -> ReuseProfile {
        self.with_grace(Duration::from_secs(GRACE))
    }

    /// The same, with so long a grace where there is one.
    pub(crate) fn with_grace(self, window: Duration) -> ReuseProfile {
        let profile = match self.habit {
            Habit::Reusable => ReuseProfile::reusable_rotating(),
            Habit::Grace => ReuseProfile::grace(window),
            Habit::Strict => ReuseProfile::strict(),
        };
        ReuseProfile { old_at_survives: !self.ends_old, ..profile }
    }

    /// What the broker's configuration says of it, over the catalogue's entry.
    pub(crate) fn configured(self) -> Value {
        let reuse = match self.habit {
            Habit::Reusable => json!("reusable"),
            Habit::Grace => {
                json!({"grace": {"seconds": GRACE, "scope": "previous_only", "result": "new", "max_uses": 8}})
            }
            Habit::Strict => json!("strict"),
        };
        // What the catalogue says of spent tokens contradicts that none ever is.
        let spent = if self.habit == Habit::Reusable { Value::Null } else { json!("family_revoked") };
        json!({
            "reuse": reuse,
            "spent": spent,
            "old_at_survives": !self.ends_old,
            "token_timeout": "2s",
            // It opens as it does by default; nobody can wait a minute in each round until it tries again.
            "breaker": {"failures": 5, "open": "1s", "successes": 3},
        })
    }
}
