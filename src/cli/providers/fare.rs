//! How a provider fares, as people and scripts see it: breaker, budget, and what it was seen to do.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::filled;
use crate::cli::escape::escaped;
use crate::cli::page::Page;
use crate::cli::times;
use crate::grpc::proto::v1::{
    BreakerState, LifetimeSpread, ProviderApi, ProviderBudget, ProviderHealth, ProviderLearned,
};

/// How a provider fares.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct HealthView {
    /// CLOSED (traffic flows), OPEN (requests are refused) or HALF_OPEN (one at a time tries).
    pub(crate) breaker: String,
    /// Failures in a row.
    pub(crate) consecutive_failures: u32,
    /// Failures within the last span of the breaker's rest.
    pub(crate) recent_failures: u32,
    /// Reason of the last failure.
    pub(crate) last_error_reason: Option<String>,
    /// When that was.
    pub(crate) last_error_time: Option<String>,
    /// When it last answered.
    pub(crate) last_success_time: Option<String>,
    /// When the next request may be sent; null: now.
    pub(crate) next_attempt_time: Option<String>,
    /// Until when refreshes that nobody waits for are put off; null: they are not.
    pub(crate) background_rest_end_time: Option<String>,
}

/// How a provider's API fares. Of several hosts the breaker and its failures are those of the one that fares worst.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct ApiView {
    /// CLOSED (traffic flows), OPEN (calls are refused) or HALF_OPEN (one at a time tries).
    pub(crate) breaker: String,
    /// Failures in a row.
    pub(crate) consecutive_failures: u32,
    /// Reason of the last failure.
    pub(crate) last_error_reason: Option<String>,
    /// When that was.
    pub(crate) last_error_time: Option<String>,
    /// When it last answered.
    pub(crate) last_success_time: Option<String>,
    /// When the next call may be made to one of the hosts that are held back; null: now.
    pub(crate) next_attempt_time: Option<String>,
    /// Hosts whose breaker is not closed.
    pub(crate) held_back: u32,
    /// Their names with ports, at most ten.
    pub(crate) held_back_hosts: Vec<String>,
    /// Connections whose calls wait because the API asked for a pause.
    pub(crate) paused_connections: u32,
    /// Calls under way.
    pub(crate) in_flight: u32,
    /// Calls left to the connection that has least, by the API's own word.
    pub(crate) quota_remaining: Option<u64>,
    /// Calls allowed to it.
    pub(crate) quota_limit: Option<u64>,
    /// When the API said so.
    pub(crate) quota_time: Option<String>,
}

/// How many requests a token endpoint may still get.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct BudgetView {
    /// Requests within any span as long as the window.
    pub(crate) limit: u32,
    /// That span.
    pub(crate) window_seconds: Option<f64>,
    /// Requests left now.
    pub(crate) remaining: u32,
    /// How many of the limit are kept for callers who wait.
    pub(crate) reserved: u32,
    /// Requests under way.
    pub(crate) in_flight: u32,
    /// Refreshes that wait for their turn.
    pub(crate) queued: u32,
    /// When all of it is there again; null: it is.
    pub(crate) reset_time: Option<String>,
}

/// What a provider was seen to do since the broker started.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct LearnedView {
    /// Refreshes that brought another refresh token.
    pub(crate) rotated: u64,
    /// Refreshes that left the refresh token as it was.
    pub(crate) not_rotated: u64,
    /// Refreshes while the access token lived that gave the same one again.
    pub(crate) early_same_token: u64,
    /// Refreshes while the access token lived that gave another one.
    pub(crate) early_new_token: u64,
    /// Lifetimes of the last access tokens, as replies state them.
    pub(crate) access_token_lifetime: Option<SpreadView>,
    /// Access tokens that were refused before their stated end though their grants lived.
    pub(crate) early_ends: u64,
    /// The least age at which one was refused.
    pub(crate) earliest_end_seconds: Option<f64>,
    /// Lifetimes of the last refresh tokens, where replies state them.
    pub(crate) refresh_token_lifetime: Option<SpreadView>,
    /// Spent refresh tokens that were accepted once more.
    pub(crate) reuse_accepted: u64,
    /// The longest time after its first use that a spent one was accepted.
    pub(crate) longest_grace_seconds: Option<f64>,
    /// Spent refresh tokens that were refused.
    pub(crate) reuse_refused: u64,
    /// The shortest time after its first use that a spent one was refused.
    pub(crate) shortest_refusal_seconds: Option<f64>,
    /// Where the configuration says otherwise, and what to write instead.
    pub(crate) contradictions: Vec<String>,
}

/// How far lifetimes lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub(crate) struct SpreadView {
    /// The shortest.
    pub(crate) shortest_seconds: f64,
    /// The one in the middle.
    pub(crate) median_seconds: f64,
    /// The longest.
    pub(crate) longest_seconds: f64,
}

fn seconds(span: Option<prost_types::Duration>) -> Option<f64> {
    span.and_then(|span| Duration::try_from(span).ok()).map(|span| span.as_secs_f64())
}

fn time(time: Option<prost_types::Timestamp>) -> Option<String> {
    times::of_wire(time).map(|time| time.to_string())
}

fn breaker(wire: i32) -> String {
    let breaker = BreakerState::try_from(wire).unwrap_or_default();
    breaker.as_str_name().trim_start_matches("BREAKER_STATE_").to_owned()
}

impl From<ProviderApi> for ApiView {
    fn from(wire: ProviderApi) -> Self {
        Self {
            breaker: breaker(wire.breaker),
            consecutive_failures: wire.consecutive_failures,
            last_error_reason: filled(wire.last_error_reason),
            last_error_time: time(wire.last_error_time),
            last_success_time: time(wire.last_success_time),
            next_attempt_time: time(wire.next_attempt_time),
            held_back: wire.held_back,
            held_back_hosts: wire.held_back_hosts,
            paused_connections: wire.paused_connections,
            in_flight: wire.in_flight,
            quota_remaining: wire.quota.as_ref().map(|quota| quota.remaining),
            quota_limit: wire.quota.as_ref().map(|quota| quota.limit).filter(|limit| *limit > 0),
            quota_time: time(wire.quota.and_then(|quota| quota.time)),
        }
    }
}

impl ApiView {
    /// What people see of it; nothing before its first call.
    pub(crate) fn line(&self) -> String {
        if self.last_success_time.is_none() && self.last_error_time.is_none() && self.in_flight == 0 {
            return String::new();
        }
        let mut parts = vec![match self.breaker.as_str() {
            "OPEN" => format!("resting{}", self.places()),
            "HALF_OPEN" => format!("trying{}", self.places()),
            _ if self.consecutive_failures > 0 => format!("{} failures in a row", self.consecutive_failures),
            _ => "well".to_owned(),
        }];
        parts.extend(match self.paused_connections {
            0 => None,
            1 => Some("1 connection pauses by its word".to_owned()),
            more => Some(format!("{more} connections pause by its word")),
        });
        parts.extend((self.in_flight > 0).then(|| format!("{} calls under way", self.in_flight)));
        parts.extend(self.quota_remaining.map(|left| match self.quota_limit {
            Some(limit) => format!("{left} of {limit} calls left to one connection"),
            None => format!("{left} calls left to one connection"),
        }));
        parts.join(", ")
    }
}

impl ApiView {
    /// Which hosts are held back.
    fn places(&self) -> String {
        let Some(first) = self.held_back_hosts.first() else { return String::new() };
        match self.held_back {
            0 | 1 => format!(" at {}", escaped(first)),
            more => format!(" at {} and {} more of its hosts", escaped(first), more - 1),
        }
    }
}

impl From<ProviderHealth> for HealthView {
    fn from(wire: ProviderHealth) -> Self {
        Self {
            breaker: breaker(wire.breaker),
            consecutive_failures: wire.consecutive_failures,
            recent_failures: wire.recent_failures,
            last_error_time: time(wire.last_error_time),
            last_success_time: time(wire.last_success_time),
            next_attempt_time: time(wire.next_attempt_time),
            background_rest_end_time: time(wire.background_rest_end_time),
            last_error_reason: filled(wire.last_error_reason),
        }
    }
}

impl From<ProviderBudget> for BudgetView {
    fn from(wire: ProviderBudget) -> Self {
        Self {
            limit: wire.limit,
            window_seconds: seconds(wire.window),
            remaining: wire.remaining,
            reserved: wire.reserved,
            in_flight: wire.in_flight,
            queued: wire.queued,
            reset_time: time(wire.reset_time),
        }
    }
}

impl From<ProviderLearned> for LearnedView {
    fn from(wire: ProviderLearned) -> Self {
        let spread = |spread: Option<LifetimeSpread>| {
            spread.map(|spread| SpreadView {
                shortest_seconds: seconds(spread.shortest).unwrap_or_default(),
                median_seconds: seconds(spread.median).unwrap_or_default(),
                longest_seconds: seconds(spread.longest).unwrap_or_default(),
            })
        };
        Self {
            rotated: wire.rotated,
            not_rotated: wire.not_rotated,
            early_same_token: wire.early_same_token,
            early_new_token: wire.early_new_token,
            access_token_lifetime: spread(wire.access_token_lifetime),
            early_ends: wire.early_ends,
            earliest_end_seconds: seconds(wire.earliest_end),
            refresh_token_lifetime: spread(wire.refresh_lifetime),
            reuse_accepted: wire.reuse_accepted,
            longest_grace_seconds: seconds(wire.longest_grace),
            reuse_refused: wire.reuse_refused,
            shortest_refusal_seconds: seconds(wire.shortest_refusal),
            contradictions: wire.contradictions,
        }
    }
}

impl HealthView {
    /// A line for each thing that is to be said.
    pub(super) fn fields(&self, page: &Page<'_>) -> Vec<(&'static str, String)> {
        let relative = |text: &Option<String>| {
            let time = text.as_deref().and_then(|text| times::parse_time(text).ok());
            page.time(time, "")
        };
        let breaker = match self.breaker.as_str() {
            "OPEN" => "open: nothing is sent".to_owned(),
            "HALF_OPEN" => "half-open: one request at a time tries".to_owned(),
            _ => "closed: traffic flows".to_owned(),
        };
        let failures = match (&self.last_error_reason, self.consecutive_failures) {
            (None, _) => "none".to_owned(),
            (Some(reason), 0) => {
                format!("none in a row; the last was {reason} {}", relative(&self.last_error_time))
            }
            (Some(reason), count) => {
                format!("{count} in a row; the last was {reason} {}", relative(&self.last_error_time))
            }
        };
        let next = if self.next_attempt_time.is_some() {
            relative(&self.next_attempt_time)
        } else {
            "now".to_owned()
        };
        vec![
            ("breaker", breaker),
            ("failures", failures),
            ("last answer", relative(&self.last_success_time)),
            ("next attempt", next),
            ("background rests", relative(&self.background_rest_end_time)),
        ]
    }
}

impl BudgetView {
    /// It in a line.
    pub(super) fn line(&self) -> String {
        let window = self.window_seconds.map(words).unwrap_or_default();
        let mut line = format!("{} of {} left in {window}", self.remaining, self.limit);
        if self.reserved > 0 {
            line += &format!(", {} of them for callers who wait", self.reserved);
        }
        if self.in_flight + self.queued > 0 {
            line += &format!("; {} under way, {} in line", self.in_flight, self.queued);
        }
        line
    }
}

impl LearnedView {
    /// A line for each thing that was seen.
    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = Vec::new();
        let refreshes = self.rotated + self.not_rotated;
        if refreshes > 0 {
            fields.push(("rotated", format!("{} of {refreshes} refreshes", self.rotated)));
        }
        let early = self.early_same_token + self.early_new_token;
        if early > 0 {
            let new = self.early_new_token;
            fields.push(("early refresh", format!("gave another access token {new} of {early} times")));
        }
        fields.extend(self.access_token_lifetime.map(|spread| ("token life", spread.words())));
        if let Some(age) = self.earliest_end_seconds {
            fields
                .push(("token refused early", format!("{} times, from {} on", self.early_ends, words(age))));
        }
        fields.extend(self.refresh_token_lifetime.map(|spread| ("refresh token life", spread.words())));
        if let Some(grace) = self.longest_grace_seconds {
            fields.push((
                "spent one taken",
                format!("{} times, up to {} later", self.reuse_accepted, words(grace)),
            ));
        }
        if let Some(after) = self.shortest_refusal_seconds {
            fields.push((
                "spent one refused",
                format!("{} times, from {} later", self.reuse_refused, words(after)),
            ));
        }
        fields
    }
}

impl SpreadView {
    fn words(self) -> String {
        if self.shortest_seconds >= self.longest_seconds {
            return words(self.median_seconds);
        }
        let [shortest, median, longest] =
            [self.shortest_seconds, self.median_seconds, self.longest_seconds].map(words);
        format!("{shortest} to {longest}, mostly {median}")
    }
}

fn words(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{} ms", (seconds * 1000.0).round())
    } else {
        format!("{} s", seconds.round())
    }
}
