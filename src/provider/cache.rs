//! Answers to GET that may be given again (RFC 9111), a memory for each API that wants one.
//!
//! Owns the memory, its bounds, and who may read it. Knows no HTTP client and no token. Invariant: an answer is given to no
//! other connection than the one for which it came, and what was asked for before a connection changed hands, or before
//! something was written at its address, is neither given nor kept after that.

mod fill;
mod freshness;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{
    AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MATCH, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use sha2::{Digest as _, Sha256};

pub(in crate::provider) use self::fill::Fill;
use self::freshness::{Freshness, Look, has_directive};
use crate::clock::Timestamp;
use crate::connection::{ConnectionId, ProviderKey};
use crate::provider::spec::limit::AnswerCache;
use crate::telemetry::Metrics;

/// What an entry costs besides its bytes: places in maps, and fields that are kept twice.
const OVERHEAD: u64 = 512;

/// Fields by which a caller keeps a memory of its own, or asks for a part: such a call passes by this one.
const OF_THE_CALLER: [HeaderName; 6] =
    [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE, RANGE];

/// Fields that are about the memory, or differ from try to try.
const OF_THE_TRY: [&str; 7] =
    ["cache-control", "pragma", "traceparent", "tracestate", "baggage", "x-request-id", "x-correlation-id"];

/// Fields of a stored answer that a 304 does not change: they are about the body, which stays (RFC 9111 section 3.2).
const OF_THE_BODY: [HeaderName; 3] = [CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE];

/// The memory of one API. Clones are the same.
#[derive(Clone)]
pub(in crate::provider) struct Answers(Arc<Shared>);

struct Shared {
    provider: ProviderKey,
    limits: AnswerCache,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

/// Whose answer, from where, to which fields, and whether it was asked for compressed. Many an API has a field that selects
/// an account and names none of its fields in `Vary`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    connection: ConnectionId,
    url: String,
    fields: [u8; 32],
    is_decoded: bool,
}

#[derive(Default)]
struct State {
    entries: HashMap<Key, Entry>,
    /// The one used longest ago comes first.
    by_use: BTreeMap<u64, Key>,
    /// Of entries, and of bodies that are still coming.
    bytes: u64,
    /// Calls under way, and for whom.
    visits: HashMap<u64, ConnectionId>,
    /// Requests under way whose answers may be kept.
    tickets: HashMap<u64, Key>,
    /// Numbers uses and tickets.
    count: u64,
}

struct Entry {
    stored: Arc<Stored>,
    bytes: u64,
    used: u64,
}

/// An answer that is kept: its bytes as they came.
pub(in crate::provider) struct Stored {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    freshness: Freshness,
}

/// The head of an answer that may be kept, as a caller may see it.
pub(in crate::provider) struct Head<'a> {
    /// Its status.
    pub(in crate::provider) status: StatusCode,
    /// Its fields.
    pub(in crate::provider) headers: &'a HeaderMap,
    /// When the call left.
    pub(in crate::provider) sent_at: Timestamp,
    /// When the head came.
    pub(in crate::provider) came_at: Timestamp,
}

/// What the memory has for a call.
pub(in crate::provider) enum Found {
    /// An answer that may be given as it is.
    Fresh(Arc<Stored>, HeaderMap),
    /// One that may be given if the provider says that nothing changed.
    Stale(Arc<Stored>),
    /// Nothing.
    Nothing,
}

/// A call from its very beginning, before its token is taken.
pub(in crate::provider) struct Visit {
    answers: Answers,
    connection: ConnectionId,
    number: u64,
}

/// The right of one request to look into the memory and to leave its answer there.
pub(in crate::provider) struct Ticket {
    answers: Answers,
    key: Key,
    number: u64,
    /// What was asked for.
    headers: HeaderMap,
}

impl Answers {
    pub(in crate::provider) fn new(
        provider: &ProviderKey,
        limits: &AnswerCache,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (provider, limits, state) = (provider.clone(), *limits, Mutex::default());
        Self(Arc::new(Shared { provider, limits, metrics, state }))
    }

    /// A call of `connection` begins.
    pub(in crate::provider) fn visit(&self, connection: &ConnectionId) -> Visit {
        let mut state = self.state();
        let number = state.number();
        state.visits.insert(number, connection.clone());
        drop(state);
        Visit { answers: self.clone(), connection: connection.clone(), number }
    }

    /// Forgets everything of a connection, also what is still coming.
    pub(in crate::provider) fn forget(&self, connection: &ConnectionId) {
        self.state().visits.retain(|_, visitor| visitor != connection);
        self.drop_where(|key| key.connection == *connection);
    }

    /// Something was perhaps written at an address: what is remembered of it is of old (RFC 9111 section 4.4).
    pub(in crate::provider) fn written(&self, connection: &ConnectionId, url: &str) {
        self.drop_where(|key| key.connection == *connection && key.url == url);
    }

    fn drop_where(&self, is_meant: impl Fn(&Key) -> bool) {
        let mut state = self.state();
        state.tickets.retain(|_, key| !is_meant(key));
        let meant: Vec<Key> = state.entries.keys().filter(|key| is_meant(key)).cloned().collect();
        for key in &meant {
            state.remove(key);
        }
        self.tell(&state);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, state: &State) {
        self.0.metrics.set_call_cache(self.0.provider.as_str(), state.entries.len(), state.bytes);
    }

    /// Makes room for `more` bytes, the answers used longest ago going first. Says no where bodies still coming take it all.
    fn reserve(&self, more: u64) -> bool {
        let mut state = self.state();
        while state.bytes + more > self.0.limits.max_bytes {
            if !state.remove_oldest() {
                self.tell(&state);
                return false;
            }
        }
        state.bytes += more;
        true
    }

    fn give_back(&self, bytes: u64) {
        let mut state = self.state();
        state.bytes = state.bytes.saturating_sub(bytes);
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.by_use.remove(&entry.used);
            self.bytes = self.bytes.saturating_sub(entry.bytes);
        }
    }

    fn remove_oldest(&mut self) -> bool {
        let Some((_, key)) = self.by_use.pop_first() else { return false };
        self.remove(&key);
        true
    }

    fn insert(&mut self, key: Key, stored: Arc<Stored>, bytes: u64) {
        self.remove(&key);
        let used = self.number();
        self.bytes += bytes;
        self.by_use.insert(used, key.clone());
        self.entries.insert(key, Entry { stored, bytes, used });
    }

    fn used(&mut self, key: &Key) -> Option<Arc<Stored>> {
        let now = self.number();
        let entry = self.entries.get_mut(key)?;
        self.by_use.remove(&entry.used);
        entry.used = now;
        self.by_use.insert(now, key.clone());
        Some(entry.stored.clone())
    }
}

impl Visit {
    /// A ticket for a GET of `url`; `None` where its fields want none of this memory, or the connection changed hands since
    /// the call began.
    pub(in crate::provider) fn ticket(
        &self,
        url: &str,
        is_decoded: bool,
        headers: &HeaderMap,
    ) -> Option<Arc<Ticket>> {
        if OF_THE_CALLER.iter().any(|name| headers.contains_key(name))
            || has_directive(headers.get_all(CACHE_CONTROL), "no-store")
            || freshness::says_too_much(headers)
        {
            return None;
        }
        let fields = print(headers);
        let key = Key { connection: self.connection.clone(), url: url.to_owned(), fields, is_decoded };
        let mut state = self.answers.state();
        if !state.visits.contains_key(&self.number) {
            return None;
        }
        let number = state.number();
        state.tickets.insert(number, key.clone());
        drop(state);
        Some(Arc::new(Ticket { answers: self.answers.clone(), key, number, headers: headers.clone() }))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.answers.state().visits.remove(&self.number);
    }
}

impl Ticket {
    /// Looks for an answer to a request that is signed with `credential`, fields which are not kept but may matter.
    pub(in crate::provider) fn look(&self, credential: &HeaderMap, now: Timestamp) -> Found {
        let mut state = self.answers.state();
        if !state.tickets.contains_key(&self.number) {
            return Found::Nothing;
        }
        let Some(stored) = state.used(&self.key) else { return Found::Nothing };
        drop(state);
        match stored.freshness.look(&self.key.url, &self.headers, credential, now) {
            Look::Fresh { age } => {
                let mut headers = stored.headers.clone();
                headers.insert(AGE, HeaderValue::from(age));
                Found::Fresh(stored, headers)
            }
            Look::Stale if stored.has_validator() => Found::Stale(stored),
            Look::Stale | Look::Other => Found::Nothing,
        }
    }

    /// A body that is kept as it passes by, if `head` is said to be worth it before it is dropped. `None` where it is too
    /// large anyway.
    pub(in crate::provider) fn fill(self: &Arc<Self>, length: Option<u64>) -> Option<Fill> {
        let most = self.answers.0.limits.max_body_bytes;
        length.is_none_or(|length| length <= most).then(|| Fill::new(self.clone(), most))
    }

    /// A newer answer is there: the one before it is given no more, whether this one is kept or not.
    pub(in crate::provider) fn supersede(&self) {
        let mut state = self.answers.state();
        if state.tickets.contains_key(&self.number) {
            state.remove(&self.key);
        }
        self.answers.tell(&state);
    }

    /// When and for whom an answer is good; `None`: it is not to be kept.
    fn freshness(&self, head: &Head<'_>, credential: &HeaderMap) -> Option<Freshness> {
        if head.status.is_redirection() {
            return None;
        }
        let freshness = Freshness::of(&self.key.url, &self.headers, credential, head)?;
        (has_validator(head.headers) || freshness.is_fresh(head.came_at)).then_some(freshness)
    }

    /// The provider says that a stored answer is still good. Answers the fields that it has from now on; `None` where the
    /// 304 is about another one (RFC 9111 section 4.3.4), which is then forgotten.
    pub(in crate::provider) fn renew(
        &self,
        stored: &Stored,
        head: &Head<'_>,
        credential: &HeaderMap,
        may_be_kept: bool,
    ) -> Option<HeaderMap> {
        let is_same = stored.is_meant_by(head.headers);
        let mut headers = stored.headers.clone();
        headers.remove(AGE);
        for name in head.headers.keys().filter(|name| is_same && !OF_THE_BODY.contains(name)) {
            headers.remove(name);
            for value in head.headers.get_all(name) {
                headers.append(name.clone(), value.clone());
            }
        }
        let renewed = Head { status: stored.status, headers: &headers, ..*head };
        let freshness = self.freshness(&renewed, credential).filter(|_| is_same && may_be_kept);
        let mut state = self.answers.state();
        if state.tickets.contains_key(&self.number) {
            match freshness {
                Some(freshness) => {
                    let (status, body) = (stored.status, stored.body.clone());
                    let bytes = self.cost(&headers, body.len());
                    let renewed = Stored { status, headers: headers.clone(), body, freshness };
                    state.insert(self.key.clone(), Arc::new(renewed), bytes);
                }
                None => state.remove(&self.key),
            }
        }
        self.answers.shrink(state);
        is_same.then_some(headers)
    }

    fn keep(&self, stored: Stored) {
        let bytes = self.cost(&stored.headers, stored.body.len());
        let mut state = self.answers.state();
        if bytes <= self.answers.0.limits.max_bytes && state.tickets.contains_key(&self.number) {
            state.insert(self.key.clone(), Arc::new(stored), bytes);
        }
        self.answers.shrink(state);
    }

    fn cost(&self, headers: &HeaderMap, body: usize) -> u64 {
        let fields = |headers: &HeaderMap| -> usize {
            headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
        };
        let address = self.key.url.len() + self.key.connection.to_string().len();
        // Those asked for are kept beside it, for `Vary`.
        OVERHEAD + (fields(headers) + fields(&self.headers) + 2 * address + body) as u64
    }
}

impl Answers {
    /// Lets go of what is too much, the answers used longest ago first.
    fn shrink(&self, mut state: MutexGuard<'_, State>) {
        let limits = &self.0.limits;
        while state.bytes > limits.max_bytes || state.entries.len() > limits.max_entries as usize {
            if !state.remove_oldest() {
                break;
            }
        }
        self.tell(&state);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.answers.state().tickets.remove(&self.number);
    }
}

impl Stored {
    pub(in crate::provider) fn status(&self) -> StatusCode {
        self.status
    }

    pub(in crate::provider) fn body(&self) -> Bytes {
        self.body.clone()
    }

    /// The fields that ask whether it is still good (RFC 9111 section 4.3.1).
    pub(in crate::provider) fn conditions(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let field = |of: HeaderName, name: HeaderName| Some((name, self.headers.get(of)?.clone()));
        [field(ETAG, IF_NONE_MATCH), field(LAST_MODIFIED, IF_MODIFIED_SINCE)].into_iter().flatten()
    }

    fn has_validator(&self) -> bool {
        has_validator(&self.headers)
    }

    /// Whether a 304 with these fields is about this answer. One without any validator is: only this one was asked about.
    fn is_meant_by(&self, headers: &HeaderMap) -> bool {
        let same = |name: HeaderName| {
            let opaque = |value: &HeaderValue| {
                let bytes = value.as_bytes();
                bytes.strip_prefix(b"W/").unwrap_or(bytes).to_vec()
            };
            headers.get(&name).map(opaque).is_none_or(|new| self.headers.get(&name).map(opaque) == Some(new))
        };
        same(ETAG) && (headers.contains_key(ETAG) || same(LAST_MODIFIED))
    }
}

/// What a request's fields are, but for those that say nothing of what is wanted.
fn print(headers: &HeaderMap) -> [u8; 32] {
    let mut names: Vec<&HeaderName> =
        headers.keys().filter(|name| !OF_THE_TRY.contains(&name.as_str())).collect();
    names.sort_unstable_by_key(|name| name.as_str());
    let mut digest = Sha256::new();
    let mut part = |bytes: &[u8]| {
        digest.update((bytes.len() as u64).to_be_bytes());
        digest.update(bytes);
    };
    for name in names {
        for value in headers.get_all(name) {
            part(name.as_str().as_bytes());
            part(value.as_bytes());
        }
    }
    digest.finalize().into()
}

fn has_validator(headers: &HeaderMap) -> bool {
    headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED)
}

#[cfg(test)]
mod tests;
