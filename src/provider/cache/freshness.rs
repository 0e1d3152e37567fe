//! Whether an answer may be kept, and for how long it is good: the one file that names `http_cache_semantics`.
//!
//! That crate knows the rules. It takes the directives of `Cache-Control` by their letters, of a repeated field the first
//! value, an `Age` of any size, and no age from `Date`: what it is given here is in one spelling, in one field, and bounded.
//! Of what it gives back only its decisions are used, for it keeps one field of repeated ones. Time is the broker's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{
    AGE, CACHE_CONTROL, DATE, ETAG, EXPIRES, GetAll, LAST_MODIFIED, PRAGMA, SET_COOKIE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_cache_semantics::{BeforeRequest, CacheOptions, CachePolicy};
use sha2::{Digest as _, Sha256};

use super::Head;
use crate::clock::Timestamp;

/// A memory for one account. Nothing is good by guess: where the provider names no time, it is asked.
const OPTIONS: CacheOptions = CacheOptions {
    shared: false,
    cache_heuristic: 0.0,
    immutable_min_time_to_live: Duration::ZERO,
    ignore_cargo_cult: false,
};

/// Fields of an answer that say whether and how long.
const TELLING: [HeaderName; 7] = [CACHE_CONTROL, DATE, ETAG, EXPIRES, LAST_MODIFIED, PRAGMA, VARY];

/// The greatest age that is told apart (RFC 9111 section 1.2.2).
const OLDEST: u64 = 1 << 31;

/// The last second of year 9999, beyond which dates cannot be written.
const LAST_MILLIS: i64 = 253_402_300_799_000;

/// How many bytes they may have in all. Each directive becomes an entry of a map, which nobody counts.
const MOST_TELLING: usize = 4096;

/// Whether the fields that say whether and how long are longer than any provider's or caller's that means it.
pub(super) fn says_too_much(headers: &HeaderMap) -> bool {
    let values = TELLING.iter().flat_map(|name| headers.get_all(name));
    values.map(HeaderValue::len).sum::<usize>() > MOST_TELLING
}

/// When and for which requests an answer is good.
pub(super) struct Freshness {
    policy: CachePolicy,
    came_at: Timestamp,
}

/// What an answer is to a request.
pub(super) enum Look {
    /// Good, and so many seconds old.
    Fresh { age: u64 },
    /// Perhaps good: the provider must be asked.
    Stale,
    /// An answer to other fields.
    Other,
}

impl Freshness {
    /// Of an answer to a GET; `None` where it must not be kept.
    pub(super) fn of(url: &str, asked: &HeaderMap, credential: &HeaderMap, head: &Head<'_>) -> Option<Self> {
        if head.headers.contains_key(SET_COOKIE) || says_too_much(head.headers) {
            return None;
        }
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        let fields = response.headers_mut();
        for name in TELLING {
            fields.extend(joined(head.headers, &name).map(|value| (name, value)));
        }
        fields.insert(AGE, HeaderValue::from(initial_age(head)));
        let request = request(url, asked, credential)?;
        let policy = CachePolicy::new_options(&request, &response, system(head.came_at), OPTIONS);
        policy.is_storable().then_some(Self { policy, came_at: head.came_at })
    }

    pub(super) fn is_fresh(&self, now: Timestamp) -> bool {
        !self.policy.is_stale(system(now))
    }

    pub(super) fn look(&self, url: &str, asked: &HeaderMap, credential: &HeaderMap, now: Timestamp) -> Look {
        let Some(request) = request(url, asked, credential) else { return Look::Other };
        match self.policy.before_request(&request, system(now)) {
            // A clock that was set back makes nothing younger.
            BeforeRequest::Fresh(_) if now >= self.came_at => {
                Look::Fresh { age: self.policy.age(system(now)).as_secs() }
            }
            BeforeRequest::Fresh(_) | BeforeRequest::Stale { matches: true, .. } => Look::Stale,
            BeforeRequest::Stale { matches: false, .. } => Look::Other,
        }
    }
}

/// Whether a `Cache-Control` has a directive, however it is spelled (RFC 9111 section 5.2).
pub(super) fn has_directive(values: GetAll<'_, HeaderValue>, directive: &str) -> bool {
    values.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).any(|part| {
        let name = part.split(|byte| *byte == b'=').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(directive.as_bytes())
    })
}

/// What was asked, in the one spelling. Of the credential's fields a digest stands for the value: an answer may vary by
/// them, and is kept without them.
fn request(url: &str, asked: &HeaderMap, credential: &HeaderMap) -> Option<Request<()>> {
    let mut request = Request::new(());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = url.parse::<Uri>().ok()?;
    let fields = request.headers_mut();
    for name in asked.keys() {
        fields.extend(joined(asked, name).map(|value| (name.clone(), value)));
    }
    for (name, value) in credential {
        let digest: String = Sha256::digest(value.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
        fields.insert(name.clone(), HeaderValue::from_str(&digest).ok()?);
    }
    Some(request)
}

/// A field's values as one, and directives in small letters.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    if values.is_empty() {
        return None;
    }
    // These are one value, and a second one is a mistake that must not make the first unreadable.
    let is_single = [DATE, ETAG, EXPIRES, LAST_MODIFIED].contains(name);
    let mut bytes = if is_single { values[0].to_vec() } else { values.join(&b", "[..]) };
    if *name == CACHE_CONTROL || *name == PRAGMA {
        bytes.make_ascii_lowercase();
    }
    HeaderValue::from_bytes(&bytes).ok()
}

/// How old an answer was when it came, in seconds (RFC 9111 section 4.2.3).
fn initial_age(head: &Head<'_>) -> u64 {
    let text = |name: HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
    let told = text(AGE).and_then(|text| text.trim().parse().ok()).unwrap_or(0_u64).min(OLDEST);
    let on_the_way = head.sent_at.until(head.came_at).as_secs();
    let date = text(DATE).and_then(|text| httpdate::parse_http_date(text).ok());
    let apparent = date.and_then(|date| system(head.came_at).duration_since(date).ok()).unwrap_or_default();
    (told + on_the_way).max(apparent.as_secs()).min(OLDEST)
}

fn system(at: Timestamp) -> SystemTime {
    let millis = u64::try_from(at.as_millis().clamp(0, LAST_MILLIS)).unwrap_or(0);
    UNIX_EPOCH + Duration::from_millis(millis)
}
