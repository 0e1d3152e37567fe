//! What an API's reply says besides its content: "slower", "this token is bad", "so much is left". Owns the reading of K24
//! (`rate`) and of the API's rows of K19 (`errors` with `at: api`). Knows no clock and sends nothing.
//!
//! Invariant: a wait is bounded: whatever a header claims, it is at most a day and never negative.

mod wait;

use std::time::Duration;

use http::HeaderMap;
use serde_json::Value;

use super::spec::ProviderSpec;
use super::spec::call::{Rate, Throttle};
use super::spec::outcome::{ErrorRule, ErrorSource, Meaning};
use super::spec::value::Pointer;
use crate::clock::Timestamp;

/// The signals of one provider's API, from its entry.
#[derive(Clone, Debug)]
pub struct Signals {
    rate: Rate,
    rules: Vec<ErrorRule>,
    error: Pointer,
}

/// A reply, as far as its signals need it.
#[derive(Clone, Copy)]
pub struct Reply<'a> {
    /// Its status.
    pub status: u16,
    /// Its header fields.
    pub headers: &'a HeaderMap,
    /// Its body, or the beginning of it: a field is found in a whole JSON document only, a pattern in any text.
    pub body: &'a [u8],
}

/// The provider asks for a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttled {
    /// How long from now, where the reply says; at most a day.
    pub wait: Option<Duration>,
}

/// What is left of a quota, where the reply says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Calls left.
    pub remaining: Option<u64>,
    /// Calls allowed.
    pub limit: Option<u64>,
}

impl Signals {
    /// The signals that an entry describes.
    pub fn new(spec: &ProviderSpec) -> Self {
        let is_api = |rule: &&ErrorRule| rule.at == ErrorSource::Api;
        Self {
            rate: spec.rate.clone(),
            rules: spec.errors.iter().filter(is_api).cloned().collect(),
            error: spec.response.error.clone(),
        }
    }

    /// Whether a reply asks for a pause: 429, or what the entry says (`rate.throttled`, `errors` with `means: throttled`).
    pub fn throttled(&self, reply: &Reply<'_>, now: Timestamp) -> Option<Throttled> {
        let body = Body::new(reply.body);
        let is_throttled = match self.meaning(reply, &body) {
            Some(meaning) => meaning == Meaning::Throttled,
            None => {
                reply.status == 429 || self.rate.throttled.iter().any(|rule| is_match(rule, reply, &body))
            }
        };
        is_throttled.then(|| Throttled { wait: wait::found(&self.rate, reply.headers, &body, now) })
    }

    /// How long a reply asks to wait that means trouble and no throttling: `Retry-After`, or a span in `rate.wait`. A moment
    /// there is when a quota is renewed, which many a provider says in every reply.
    pub fn wait_in_trouble(&self, reply: &Reply<'_>, now: Timestamp) -> Option<Duration> {
        wait::in_trouble(&self.rate, reply.headers, &Body::new(reply.body), now)
    }

    /// Whether a reply means that the token is no longer good: what the entry's rows say, else status 401.
    pub fn is_token_refused(&self, reply: &Reply<'_>) -> bool {
        match self.meaning(reply, &Body::new(reply.body)) {
            Some(meaning) => meaning == Meaning::TokenBad,
            None => reply.status == 401,
        }
    }

    /// Whether the meaning of a reply with this status may stand in its body.
    pub fn reads_body_of(&self, status: u16) -> bool {
        let by_rule = |rule: &ErrorRule| {
            let is_its_status =
                if rule.status.is_empty() { status < 500 } else { rule.status.contains(&status) };
            is_its_status && !(rule.is.is_empty() && rule.matches.is_none())
        };
        let by_throttle = |rule: &Throttle| {
            rule.status.contains(&status) && (rule.path.is_some() || rule.matches.is_some())
        };
        let by_wait = status >= 400 && self.rate.wait.iter().any(|wait| wait.header.is_none());
        by_wait || self.rules.iter().any(by_rule) || self.rate.throttled.iter().any(by_throttle)
    }

    /// What is left, as the reply's header fields say.
    pub fn quota(&self, headers: &HeaderMap) -> Quota {
        let field = |name: &Option<String>| text(headers, name.as_deref()?);
        let limit = field(&self.rate.limit_header).and_then(count);
        let remaining = field(&self.rate.remaining_header).and_then(count);
        let Some((used, allowed)) = field(&self.rate.used_header).and_then(used) else {
            return Quota { remaining, limit };
        };
        let limit = allowed.or(limit);
        Quota { remaining: remaining.or(limit.map(|limit| limit.saturating_sub(used))), limit }
    }

    fn meaning(&self, reply: &Reply<'_>, body: &Body<'_>) -> Option<Meaning> {
        let is_its = |rule: &&ErrorRule| {
            let is_its_status =
                if rule.status.is_empty() { reply.status < 500 } else { rule.status.contains(&reply.status) };
            if !is_its_status {
                return false;
            }
            if rule.is.is_empty() && rule.matches.is_none() {
                return true;
            }
            let path = rule.path.as_ref().unwrap_or(&self.error);
            body.value().and_then(|value| path.text(value)).is_some_and(|text| {
                (rule.is.is_empty() || rule.is.iter().any(|is| *is == text))
                    && rule.matches.as_ref().is_none_or(|pattern| pattern.matches_part(&text))
            })
        };
        self.rules.iter().find(is_its).map(|rule| rule.means)
    }
}

fn is_match(rule: &Throttle, reply: &Reply<'_>, body: &Body<'_>) -> bool {
    let is_its_header = rule.header.as_ref().is_none_or(|header| {
        let has = |value: &str| header.value.as_deref().is_none_or(|wanted| wanted == value.trim());
        text(reply.headers, &header.name).is_some_and(has)
    });
    let is_its_body = match (&rule.path, &rule.matches) {
        (None, None) => true,
        (None, Some(pattern)) => pattern.matches_part(&body.text()),
        (Some(path), pattern) => body
            .value()
            .and_then(|value| path.text(value))
            .is_some_and(|text| pattern.as_ref().is_none_or(|pattern| pattern.matches_part(&text))),
    };
    rule.status.contains(&reply.status) && is_its_header && is_its_body
}

/// A number, or the first of several with commas between, one for each window.
fn count(text: &str) -> Option<u64> {
    wait::number(text.split(',').next()?)
}

/// `18`, `18/5000`, `api-usage=18/5000`: the calls used, and those allowed where they stand beside.
fn used(text: &str) -> Option<(u64, Option<u64>)> {
    let first = text.split(',').next()?;
    let value = first.rsplit_once('=').map_or(first, |(_, value)| value);
    match value.split_once('/') {
        Some((used, allowed)) => Some((wait::number(used)?, Some(wait::number(allowed)?))),
        None => Some((wait::number(value)?, None)),
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// A body, parsed when somebody first asks.
struct Body<'a> {
    bytes: &'a [u8],
    value: std::cell::OnceCell<Option<Value>>,
}

impl<'a> Body<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, value: std::cell::OnceCell::new() }
    }

    fn value(&self) -> Option<&Value> {
        self.value.get_or_init(|| serde_json::from_slice(self.bytes).ok()).as_ref()
    }

    fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.bytes)
    }
}

#[cfg(test)]
mod tests;
