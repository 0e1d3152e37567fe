//! How a provider fares, as plain data: for people, `GetProvider` and metrics. Decides nothing.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::Reason;

/// State of a circuit breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    /// Traffic flows.
    #[default]
    Closed,
    /// Requests are refused.
    Open,
    /// One request at a time tries.
    HalfOpen,
}

impl BreakerState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The word for it in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Whether a provider's token endpoint answers, and what the broker does about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// State of its circuit breaker.
    pub breaker: BreakerState,
    /// Failures in a row.
    pub consecutive_failures: u32,
    /// Failures within the last span of the breaker's rest.
    pub recent_failures: u32,
    /// The last failure, and when it was.
    pub last_failure: Option<(Reason, Timestamp)>,
    /// When it last answered.
    pub last_success_at: Option<Timestamp>,
    /// When the next request may be sent; `None`: now.
    pub next_attempt_at: Option<Timestamp>,
    /// Until when work is put off that nobody waits for, because the provider asked for it or an answer was lost.
    pub background_rests_until: Option<Timestamp>,
}

/// Whether a provider's API answers. Of several hosts the breaker and its failures are those of the one that fares worst.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiHealth {
    /// State of the circuit breaker.
    pub breaker: BreakerState,
    /// Failures in a row.
    pub consecutive_failures: u32,
    /// Hosts whose breaker is not closed.
    pub held_back: u32,
    /// The first of them, with their ports: those to which nothing is sent before those that are tried.
    pub held_back_hosts: Vec<String>,
    /// The last failure, and when it was.
    pub last_failure: Option<(Reason, Timestamp)>,
    /// When it last answered.
    pub last_success_at: Option<Timestamp>,
    /// When the next call may be made to one of those hosts; `None`: now.
    pub next_attempt_at: Option<Timestamp>,
    /// Calls under way.
    pub under_way: u32,
    /// Connections whose calls wait because the API asked for a pause.
    pub pausing: u32,
    /// What is left of the quota of the connection that has least, as the API said.
    pub quota: Option<ApiQuota>,
}

/// What is left of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiQuota {
    /// Calls left.
    pub remaining: u64,
    /// Calls allowed, where it says.
    pub limit: Option<u64>,
    /// When it was said.
    pub seen_at: Timestamp,
}

/// How many requests a token endpoint may still get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Requests within any `per`.
    pub limit: u32,
    /// The span in which they are counted.
    pub per: Duration,
    /// Requests left now.
    pub remaining: u32,
    /// How many of them only callers who wait may have.
    pub reserved: u32,
    /// When all of it is there again if nothing more is sent; `None`: now.
    pub full_at: Option<Timestamp>,
    /// Requests under way.
    pub under_way: u32,
    /// Refreshes that wait for their turn.
    pub in_line: u32,
}

/// What a provider was seen to do since the process began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Refreshes that brought another refresh token.
    pub rotated: u64,
    /// Refreshes that left the refresh token as it was.
    pub kept: u64,
    /// Refreshes while the access token lived that gave the same one.
    pub early_same: u64,
    /// Refreshes while the access token lived that gave another one.
    pub early_new: u64,
    /// Lifetimes of access tokens, as replies say them.
    pub access_life: Option<Spread>,
    /// Access tokens that were refused before their end though their grants lived.
    pub early_ends: u64,
    /// The least age of one of those.
    pub earliest_end: Option<Duration>,
    /// Lifetimes of refresh tokens, where replies say them.
    pub refresh_life: Option<Spread>,
    /// Spent refresh tokens that were taken again.
    pub reuse_taken: u64,
    /// The longest time after its first use that a spent one was taken.
    pub longest_grace: Option<Duration>,
    /// Spent refresh tokens that were refused.
    pub reuse_refused: u64,
    /// The shortest time after its first use that a spent one was refused.
    pub shortest_refusal: Option<Duration>,
    /// Where the configuration says otherwise.
    pub contradictions: Vec<Contradiction>,
}

/// How far figures lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// The least.
    pub shortest: Duration,
    /// The one in the middle.
    pub median: Duration,
    /// The greatest.
    pub longest: Duration,
}

/// Where a provider does not do what its configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Contradiction {
    /// `rotation: never`, and it rotates.
    Rotates,
    /// `rotation: always`, and it does not.
    DoesNotRotate,
    /// `reuse: reusable`, and a spent one was refused.
    RefusesReuse,
    /// `reuse: strict`, and a spent one was taken.
    TakesReuse,
}

impl Contradiction {
    /// What to write instead, in a sentence.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rotates => {
                "rotation is never, but a refresh brought another refresh token: write sometimes or always"
            }
            Self::DoesNotRotate => {
                "rotation is always, but a refresh brought no other refresh token: write sometimes"
            }
            Self::RefusesReuse => {
                "reuse is reusable, but a spent refresh token was refused: write strict, or its grace"
            }
            Self::TakesReuse => {
                "reuse is strict, but a spent refresh token was taken: write its grace, if it is known"
            }
        }
    }
}
