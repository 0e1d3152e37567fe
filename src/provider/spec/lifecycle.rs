//! The life of a grant: K13 rotation, K14 and K15 reuse, K16 fallback, K17 lifetimes, K18 limits of minting.
//!
//! K14 (what becomes of the superseded tokens) is `reuse` for the refresh token and `old_at_survives` for the access
//! token; K15 (what presenting a spent one does) is `spent`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::span::Span;
use super::value::Pointer;
use crate::connection::reuse;

/// Whether a refresh answers with a new refresh token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rotation {
    /// Never.
    Never,
    /// Now and then: keep the stored one when none comes.
    Sometimes,
    /// Every time. A reply without one still keeps the stored one (RFC 6749 section 6).
    #[default]
    Always,
}

/// Whether the refresh token just used may be used once more, which decides what an unanswered refresh costs.
/// Unknown means `strict`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reuse {
    /// It stays good: a retry is always safe.
    Reusable,
    /// It stays good for a while after its first use.
    Grace(Grace),
    /// It stays good for a number of uses, without a limit in time.
    Count(Count),
    /// It is spent at its first use.
    #[default]
    Strict,
}

impl From<Rotation> for reuse::Rotation {
    fn from(rotation: Rotation) -> Self {
        match rotation {
            Rotation::Never => Self::Never,
            Rotation::Sometimes => Self::Sometimes,
            Rotation::Always => Self::Always,
        }
    }
}

impl From<&Reuse> for reuse::Reuse {
    fn from(reuse: &Reuse) -> Self {
        match reuse {
            Reuse::Reusable => Self::Reusable,
            Reuse::Grace(grace) => {
                Self::Grace { window: Duration::from_secs(grace.seconds.into()), max_uses: grace.max_uses }
            }
            // The spec counts further uses, the core counts them all.
            Reuse::Count(count) => Self::Count {
                max_uses: count.n.saturating_add(1),
                is_last_only: count.last_only,
                is_same_pair: count.result == GraceResult::Same,
            },
            Reuse::Strict => Self::Strict,
        }
    }
}

/// A grace period for a spent refresh token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Grace {
    /// How long after its first use it is still taken.
    pub seconds: u32,
    /// Which earlier tokens are taken. For people: the broker never presents any but the newest it holds.
    #[serde(default)]
    pub scope: GraceScope,
    /// What it yields. For people: whichever it is, the life of what a repeat brings is counted from the first use.
    #[serde(default)]
    pub result: GraceResult,
    /// How many uses the provider allows in all, the first included.
    #[serde(default = "Grace::default_max_uses")]
    pub max_uses: u32,
}

impl Grace {
    fn default_max_uses() -> u32 {
        2
    }
}

/// Which earlier refresh tokens a grace period covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GraceScope {
    /// Only the one just before the newest.
    #[default]
    PreviousOnly,
    /// Every one of the chain.
    Chain,
}

/// What a further use yields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GraceResult {
    /// The same pair again; its access token keeps its old expiry.
    Same,
    /// A new pair.
    #[default]
    New,
}

/// A number of uses for a spent refresh token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// How many further uses.
    pub n: u32,
    /// What each yields. The life of the same pair is counted from the first use.
    #[serde(default)]
    pub result: GraceResult,
    /// Whether only the newest answer's refresh token is good: using an older sibling ends the grant.
    #[serde(default = "Count::default_last_only")]
    pub last_only: bool,
}

impl Count {
    fn default_last_only() -> bool {
        true
    }
}

/// What the provider does when it sees a spent refresh token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Spent {
    /// Nobody knows; handled like `family_revoked`.
    #[default]
    Unknown,
    /// It refuses, and nothing else happens.
    Refused,
    /// It ends the whole grant, living access tokens included.
    FamilyRevoked,
}

/// An earlier refresh token to try after a dead answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// The one before the newest.
    Previous,
    /// The first one of the grant.
    Original,
}

/// How long tokens live when the reply does not say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Lifetimes {
    /// The access token's, when the reply has no expiry. Without it such a token is taken for an hour if a refresh
    /// token came, and for ever if none came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<Span>,
    /// An unused refresh token dies after this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_idle: Option<Span>,
    /// The grant ends after this, used or not: the user must come back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_absolute: Option<Span>,
    /// Where a reply says how many seconds the refresh token has left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_remaining: Option<Pointer>,
}

/// How often tokens may be minted and how many may live.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MintLimits {
    /// The least time between two refreshes of one connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_gap: Option<Span>,
    /// How old a token must be before it may be refreshed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_age: Option<Span>,
    /// At most this many in a span. Not supported yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// How many refresh tokens of one user and client live at a time; the oldest silently gives way, so that each new
    /// consent can end an older connection. Shown to people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live_cap: Option<u32>,
}

impl MintLimits {
    /// The least time from one token of a connection to the next, whichever limit asks for it.
    pub fn gap(&self) -> Option<Duration> {
        self.min_gap.max(self.min_age).map(Span::duration)
    }
}

/// A number of events in a span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// How many.
    pub count: u32,
    /// In how long.
    pub per: Span,
}
