//! Calls that an app gave an id: asked again within a while, they are answered and not made again.
//!
//! Owns the memory of answers and its bounds. Knows nothing of providers. Invariant: for one connection and id at most
//! one call is under way, and an answer that is kept is the answer to exactly that call.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;

use super::WholeAnswer;
use super::share::{Holder, Shares};
use super::unattended::{Full, Unattended};
use crate::connection::ConnectionId;
use crate::error::Error;
use crate::provider::call::Wanted;

/// For how long an answer is kept.
const WINDOW: Duration = Duration::from_secs(600);

/// How many are kept at most.
const MOST: usize = 4096;

/// How many ids are kept, most of them without the answer: those are not used for a second call all the same. Up to
/// 218 new ones a second, over any ten minutes, this is the window's length; each takes a hundred bytes, three hundred where
/// every one is another connection's.
const MOST_IDS: usize = 32 * MOST;

/// How many bytes of bodies and fields are kept.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// What an answer counts at least, so that one bound holds bytes and number.
const LEAST: usize = MOST_BYTES / MOST;

/// What a header field takes besides its letters: a place in a map that grows by doubling.
const FIELD: usize = 192;

/// What a call came to.
pub(super) type Outcome = Result<Arc<WholeAnswer>, Error>;

/// What an id stands for.
pub(super) type Key = (ConnectionId, String);

/// The call that an id was first used for.
pub(super) type Print = [u8; 32];

/// An id, where only that matters.
type Mark = [u8; 32];

fn mark((id, request_id): &Key) -> Mark {
    digest(&[id.tenant.as_str(), id.provider.as_str(), id.name.as_str(), request_id])
}

fn holder(id: &ConnectionId) -> Holder {
    let [a, b, c, d, e, f, g, h, ..] = digest(&[id.tenant.as_str(), id.provider.as_str(), id.name.as_str()]);
    Holder::from_be_bytes([a, b, c, d, e, f, g, h])
}

fn digest(parts: &[&str]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// A call's print: everything but its header fields, in which clients put what differs from try to try.
pub(super) fn print(wanted: &Wanted, body: &[u8]) -> Print {
    let mut digest = Sha256::new();
    let mut part = |bytes: &[u8]| {
        digest.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(bytes);
    };
    part(wanted.method.as_bytes());
    part(wanted.host.as_bytes());
    part(&[u8::from(wanted.follow_redirects), u8::from(wanted.decompress)]);
    part(wanted.path.as_bytes());
    for (name, value) in &wanted.query {
        part(name.as_bytes());
        part(value.as_bytes());
    }
    part(body);
    digest.finalize().into()
}

/// Bytes that a call holds while it is under way: its body and what else its caller wrote.
pub(super) fn held(wanted: &Wanted, body: &[u8]) -> usize {
    let pairs = wanted.query.iter().chain(&wanted.headers);
    let pairs = pairs.map(|(name, value)| name.len() + value.len() + FIELD);
    body.len() + wanted.path.len() + pairs.sum::<usize>()
}

/// The memory.
#[derive(Default)]
pub(super) struct Repeats(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Calls that are under way or have their answers yet.
    entries: HashMap<Key, Entry>,
    /// Those that are done.
    answered: Shares<Key>,
    /// Ids that are taken and have no answer.
    spent: HashSet<Mark>,
    /// The same, by whose they are.
    spent_of: Shares<Mark>,
    /// Calls under way for which nobody waits.
    unattended: Unattended,
}

struct Entry {
    /// `None`: what came is told to nobody. The connection changed hands since.
    print: Option<Print>,
    outcome: watch::Receiver<Option<Outcome>>,
    /// How many wait for it.
    callers: usize,
    /// Bytes that the call holds while it is under way.
    held: usize,
}

/// An id as a caller finds it.
pub(super) enum Joined {
    /// Nobody used it: the caller makes the call.
    First(Ticket, Caller),
    /// The call is under way, or was made.
    Again(Caller),
    /// It stands for another call.
    Taken,
    /// Nobody used it, and it stays so: too many calls are under way whose callers hung up.
    Full(Full),
}

/// Somebody who waits for a call. Dropped before it is over, the call goes on unattended.
pub(super) struct Caller {
    state: Arc<Mutex<State>>,
    key: Key,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// The duty to say what a call came to. Dropped without a word, the call may have been made all the same: its id stays taken.
pub(super) struct Ticket {
    state: Arc<Mutex<State>>,
    key: Key,
    sender: watch::Sender<Option<Outcome>>,
    is_settled: bool,
}

impl Repeats {
    /// Looks an id up, or takes it for a call that holds so many bytes.
    pub(super) fn join(&self, key: Key, print: Print, held: usize) -> Joined {
        let mut locked = lock(&self.0);
        let state = &mut *locked;
        state.forget(Instant::now());
        if let Some(entry) = state.entries.get_mut(&key) {
            if entry.print != Some(print) {
                return Joined::Taken;
            }
            if entry.is_unattended() {
                state.unattended.take(&key.0, entry.held);
            }
            entry.callers += 1;
            return Joined::Again(Caller { state: self.0.clone(), key, outcome: entry.outcome.clone() });
        }
        if state.spent.contains(&mark(&key)) {
            return Joined::Taken;
        }
        if let Some(full) = state.unattended.full(&key.0) {
            return Joined::Full(full);
        }
        let (sender, outcome) = watch::channel(None);
        let entry = Entry { print: Some(print), outcome: outcome.clone(), callers: 1, held };
        state.entries.insert(key.clone(), entry);
        let caller = Caller { state: self.0.clone(), key: key.clone(), outcome };
        Joined::First(Ticket { state: self.0.clone(), key, sender, is_settled: false }, caller)
    }

    /// Takes an id for a call whose answer goes to its caller alone; `None` where it stands for another call.
    pub(super) fn claim(&self, key: Key) -> Option<Ticket> {
        let mut state = lock(&self.0);
        state.forget(Instant::now());
        if state.entries.contains_key(&key) || state.spent.contains(&mark(&key)) {
            return None;
        }
        let (sender, outcome) = watch::channel(None);
        // It lasts no longer than its caller does.
        let entry = Entry { print: None, outcome, callers: 1, held: 0 };
        state.entries.insert(key.clone(), entry);
        Some(Ticket { state: self.0.clone(), key, sender, is_settled: false })
    }
}

impl Repeats {
    /// A connection ended or changed hands: what its ids stand for is told to nobody any more, and not done twice either.
    pub(super) fn forget(&self, connection: &ConnectionId) {
        let mut state = lock(&self.0);
        for (_, entry) in state.entries.iter_mut().filter(|((of, _), _)| of == connection) {
            entry.print = None;
        }
    }
}

impl Entry {
    fn is_under_way(&self) -> bool {
        self.outcome.borrow().is_none()
    }

    fn is_unattended(&self) -> bool {
        self.callers == 0 && self.is_under_way()
    }
}

impl Caller {
    /// What the call comes to; `None` where it ended without a word.
    pub(super) async fn outcome(mut self) -> Option<Outcome> {
        self.outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone())
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut locked = lock(&self.state);
        let state = &mut *locked;
        // Under the same id another call may be under way by now.
        let entry =
            state.entries.get_mut(&self.key).filter(|entry| entry.outcome.same_channel(&self.outcome));
        let Some(entry) = entry else { return };
        entry.callers -= 1;
        if entry.is_unattended() {
            state.unattended.add(&self.key.0, entry.held);
        }
    }
}

impl Ticket {
    /// Says what the call came to. What is not kept may be tried again under the same id.
    pub(super) fn settle(mut self, outcome: Outcome, keep: bool) {
        self.is_settled = true;
        let mut state = lock(&self.state);
        state.is_over(&self.key);
        if keep {
            let weight = size(&outcome).max(LEAST);
            state.answered.push(holder(&self.key.0), Instant::now() + WINDOW, weight, self.key.clone());
        } else {
            // Before those who wait hear of it: none of them finds the id taken by a call that is over.
            state.entries.remove(&self.key);
        }
        self.sender.send_replace(Some(outcome));
        state.forget(Instant::now());
    }

    /// Nothing came of the call, nor can: the next one under this id is made.
    pub(super) fn free(mut self) {
        self.is_settled = true;
        let mut state = lock(&self.state);
        state.is_over(&self.key);
        state.entries.remove(&self.key);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_settled {
            let mut state = lock(&self.state);
            state.is_over(&self.key);
            state.entries.remove(&self.key);
            state.spend(Instant::now() + WINDOW, &self.key);
        }
    }
}

impl State {
    /// A call under way comes to its end.
    fn is_over(&mut self, key: &Key) {
        if let Some(entry) = self.entries.get(key).filter(|entry| entry.is_unattended()) {
            self.unattended.take(&key.0, entry.held);
        }
    }

    /// Lets go of what is too old or too much.
    fn forget(&mut self, now: Instant) {
        while let Some(key) = self.answered.take_old(now) {
            self.entries.remove(&key);
        }
        while self.answered.weight() > MOST_BYTES {
            let Some((until, key)) = self.answered.take_of_the_largest() else { break };
            self.entries.remove(&key);
            self.spend(until, &key);
        }
        while let Some(mark) = self.spent_of.take_old(now) {
            self.spent.remove(&mark);
        }
        while self.answered.count() + self.spent.len() > MOST_IDS {
            let Some((_, mark)) = self.spent_of.take_of_the_largest() else { break };
            self.spent.remove(&mark);
        }
    }

    /// Leaves an id taken that has no answer.
    fn spend(&mut self, until: Instant, key: &Key) {
        let mark = mark(key);
        if self.spent.insert(mark) {
            self.spent_of.push(holder(&key.0), until, 1, mark);
        }
    }
}

/// Bytes that an answer takes, its fields with it.
fn size(outcome: &Outcome) -> usize {
    let Ok(answer) = outcome else { return 0 };
    let fields = answer.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD);
    answer.body.len() + fields.sum::<usize>()
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
