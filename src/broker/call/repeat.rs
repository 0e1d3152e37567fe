//! Calls that an app gave an id: asked again within a while, they are answered and not made again.
//!
//! Owns the memory of answers and its bounds. Knows nothing of providers. Invariant: for one connection and id at most
//! one call is under way, and an answer that is kept is the answer to exactly that call.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;

use super::WholeAnswer;
use super::unattended::{Full, Unattended};
use crate::connection::ConnectionId;
use crate::error::Error;
use crate::provider::call::Wanted;

/// For how long an answer is kept.
const WINDOW: Duration = Duration::from_secs(600);

/// How many are kept.
const MOST: usize = 4096;

/// How many ids are kept, most of them without the answer: those are not used for a second call all the same. For calls that
/// come evenly this is the window's length up to 218 of them a second; each takes a hundred bytes.
const MOST_IDS: usize = 32 * MOST;

/// How many bytes of bodies and fields are kept.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// What a header field takes besides its letters.
const FIELD: usize = 64;

/// What a call came to.
pub(super) type Outcome = Result<Arc<WholeAnswer>, Error>;

/// What an id stands for.
pub(super) type Key = (ConnectionId, String);

/// The call that an id was first used for.
pub(super) type Print = [u8; 32];

/// An id, where only that matters.
type Mark = [u8; 32];

fn mark((id, request_id): &Key) -> Mark {
    let mut digest = Sha256::new();
    for part in [id.tenant.as_str(), id.provider.as_str(), id.name.as_str(), request_id] {
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
    /// Those that are done, oldest first.
    answered: VecDeque<(Instant, Key)>,
    bytes: usize,
    /// Ids that are taken and have no answer.
    spent: HashSet<Mark>,
    /// The same, oldest first.
    spent_until: VecDeque<(Instant, Mark)>,
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
            state.bytes += size(&outcome);
            state.answered.push_back((Instant::now() + WINDOW, self.key.clone()));
        } else {
            // Before those who wait hear of it: none of them finds the id taken by a call that is over.
            state.entries.remove(&self.key);
        }
        self.sender.send_replace(Some(outcome));
        state.forget(Instant::now());
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
        while self.answered.front().is_some_and(|(until, _)| *until <= now) {
            self.let_an_answer_go();
        }
        while self.answered.len() > MOST || self.bytes > MOST_BYTES {
            let Some((until, key)) = self.let_an_answer_go() else { break };
            self.spend(until, &key);
        }
        while self.spent_until.front().is_some_and(|(until, _)| *until <= now)
            || self.answered.len() + self.spent.len() > MOST_IDS
        {
            let Some((_, mark)) = self.spent_until.pop_front() else { break };
            self.spent.remove(&mark);
        }
    }

    /// Drops the oldest answer.
    fn let_an_answer_go(&mut self) -> Option<(Instant, Key)> {
        let (until, key) = self.answered.pop_front()?;
        if let Some(entry) = self.entries.remove(&key) {
            self.bytes -= entry.outcome.borrow().as_ref().map_or(0, size);
        }
        Some((until, key))
    }

    /// Leaves an id taken that has no answer.
    fn spend(&mut self, until: Instant, key: &Key) {
        let mark = mark(key);
        if self.spent.insert(mark) {
            self.spent_until.push_back((until, mark));
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
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::super::super::Source;
    use super::*;
    use crate::provider::call::Origin;

    fn key(request_id: &str) -> Key {
        let id = ConnectionId::parse(String::new(), "p".into(), "c".into()).unwrap();
        (id, request_id.to_owned())
    }

    fn answer(bytes: usize) -> Outcome {
        Ok(Arc::new(WholeAnswer {
            status: 200,
            headers: HeaderMap::new(),
            body: Bytes::from(vec![0; bytes]),
            attempts: 1,
            source: Source::Cache,
            origin: Origin::Provider,
            is_declined: false,
        }))
    }

    fn begun(repeats: &Repeats, request_id: &str) -> (Ticket, Caller) {
        match repeats.join(key(request_id), [0; 32], 1) {
            Joined::First(ticket, caller) => (ticket, caller),
            Joined::Again(_) | Joined::Taken | Joined::Full(_) => panic!("{request_id} is in use"),
        }
    }

    /// A call whose caller does not wait for it.
    fn first(repeats: &Repeats, request_id: &str) -> Ticket {
        begun(repeats, request_id).0
    }

    fn is_kept(repeats: &Repeats, request_id: &str) -> bool {
        matches!(repeats.join(key(request_id), [0; 32], 1), Joined::Again(_))
    }

    #[test]
    fn what_an_id_stands_for_is_not_told_to_who_has_the_connection_next() {
        let repeats = Repeats::default();
        first(&repeats, "done").settle(answer(1), true);
        let under_way = first(&repeats, "under way");
        repeats.forget(&key("").0);
        under_way.settle(answer(1), true);
        for id in ["done", "under way"] {
            assert!(matches!(repeats.join(key(id), [0; 32], 1), Joined::Taken), "{id}");
        }
        first(&repeats, "new").settle(answer(1), true);
        assert!(is_kept(&repeats, "new"));
    }

    #[test]
    fn whatever_says_what_is_done_makes_another_call() {
        let wanted = |method: &str, host: &str, path: &str, query: &[(&str, &str)]| Wanted {
            method: method.to_owned(),
            host: host.to_owned(),
            path: path.to_owned(),
            query: query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..Wanted::default()
        };
        let calls = [
            (wanted("POST", "", "/a", &[]), "b"),
            (wanted("PUT", "", "/a", &[]), "b"),
            (wanted("POST", "eu.acme.example", "/a", &[]), "b"),
            (wanted("POST", "", "/ab", &[]), ""),
            (wanted("POST", "", "/a", &[("q", "1")]), "b"),
            (wanted("POST", "", "/a", &[("q1", "")]), "b"),
        ];
        let prints: HashSet<Print> =
            calls.iter().map(|(wanted, body)| print(wanted, body.as_bytes())).collect();
        assert_eq!(prints.len(), calls.len());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_for_its_window() {
        let repeats = Repeats::default();
        first(&repeats, "a").settle(answer(1), true);
        assert!(is_kept(&repeats, "a"));
        assert!(matches!(repeats.join(key("a"), [1; 32], 1), Joined::Taken), "another call");
        tokio::time::sleep(WINDOW).await;
        assert!(!is_kept(&repeats, "a"));
    }

    #[tokio::test]
    async fn whoever_asks_meanwhile_gets_the_same_answer() {
        let repeats = Repeats::default();
        let ticket = first(&repeats, "a");
        let Joined::Again(waiting) = repeats.join(key("a"), [0; 32], 1) else { panic!("not joined") };
        ticket.settle(Err(Error::ShuttingDown), false);
        assert_eq!(waiting.outcome().await.unwrap().unwrap_err(), Error::ShuttingDown);
        first(&repeats, "a").settle(Err(Error::ShuttingDown), false);
        drop(first(&repeats, "a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_ends_without_a_word_may_have_been_made_and_is_not_made_again() {
        let repeats = Repeats::default();
        let ticket = first(&repeats, "a");
        let Joined::Again(waiting) = repeats.join(key("a"), [0; 32], 1) else { panic!("not joined") };
        drop(ticket);
        assert!(waiting.outcome().await.is_none(), "nobody waits for ever");
        let is_taken = || matches!(repeats.join(key("a"), [0; 32], 1), Joined::Taken);
        assert!(is_taken());
        tokio::time::sleep(WINDOW).await;
        assert!(!is_taken());
    }

    #[tokio::test]
    async fn calls_without_a_caller_are_counted_until_they_are_over_or_somebody_asks_again() {
        let repeats = Repeats::default();
        let unattended = || lock(&repeats.0).unattended.count();
        let (ticket, caller) = begun(&repeats, "a");
        let Joined::Again(another) = repeats.join(key("a"), [0; 32], 1) else { panic!("not joined") };
        drop(caller);
        assert_eq!(unattended(), 0, "one is left");
        drop(another);
        assert_eq!(unattended(), 1);
        let Joined::Again(caller) = repeats.join(key("a"), [0; 32], 1) else { panic!("not joined") };
        assert_eq!(unattended(), 0);
        drop(caller);
        ticket.settle(answer(1), true);
        assert_eq!(unattended(), 0, "it is over");
        let Joined::Again(caller) = repeats.join(key("a"), [0; 32], 1) else { panic!("not kept") };
        drop(caller);
        assert_eq!(unattended(), 0, "nothing is under way");

        drop(first(&repeats, "without a word"));
        let (ticket, late) = begun(&repeats, "b");
        ticket.settle(Err(Error::ShuttingDown), false);
        let (_ticket, _caller) = begun(&repeats, "b");
        drop(late);
        assert_eq!(unattended(), 0, "the new call has its own caller");
    }

    #[tokio::test]
    async fn no_call_is_begun_while_too_many_have_no_caller_but_theirs_may_come_back() {
        let repeats = Repeats::default();
        let join = |id: &str| repeats.join(key(id), [0; 32], usize::MAX / 4);
        let Joined::First(ticket, caller) = join("a") else { panic!("no first") };
        assert!(matches!(join("b"), Joined::First(..)), "whatever it holds, its caller is there");
        drop(caller);
        assert!(matches!(join("c"), Joined::Full(Full { limit: "unattended_bytes_of_connection", .. })));
        let Joined::Again(caller) = join("a") else { panic!("not joined") };
        assert!(matches!(join("c"), Joined::First(..)));
        drop(caller);
        assert!(matches!(join("c"), Joined::Taken), "dropped without a word");
        assert!(matches!(join("d"), Joined::Full(_)));
        ticket.settle(answer(1), true);
        assert!(matches!(join("d"), Joined::First(..)));
    }

    #[tokio::test]
    async fn memory_is_bounded_by_bytes_and_by_number() {
        let repeats = Repeats::default();
        for n in 0..5 {
            first(&repeats, &n.to_string()).settle(answer(MOST_BYTES / 4), true);
        }
        let is_taken = |id: &str| matches!(repeats.join(key(id), [0; 32], 1), Joined::Taken);
        assert!(is_taken("0"), "the oldest answer goes, and the call is not made twice");
        assert!(is_kept(&repeats, "4"));
        let small = |n: usize| format!("small {n}");
        for n in 0..=MOST {
            first(&repeats, &small(n)).settle(answer(0), true);
        }
        assert!(is_taken("4") && is_taken(&small(0)) && is_kept(&repeats, &small(1)));
        assert_eq!(lock(&repeats.0).bytes, 0);
        for n in 0..MOST_IDS {
            first(&repeats, &format!("more {n}")).settle(answer(1), true);
        }
        let state = lock(&repeats.0);
        assert_eq!((state.entries.len(), state.answered.len(), state.bytes), (MOST, MOST, MOST));
        assert_eq!((state.spent.len(), state.spent_until.len()), (MOST_IDS - MOST, MOST_IDS - MOST));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_old_goes_with_its_answer_and_without() {
        let repeats = Repeats::default();
        for n in 0..=MOST {
            first(&repeats, &n.to_string()).settle(answer(1), true);
        }
        tokio::time::sleep(WINDOW).await;
        first(&repeats, "new").settle(answer(1), true);
        let state = lock(&repeats.0);
        assert_eq!((state.entries.len(), state.answered.len(), state.bytes), (1, 1, 1));
        assert!(state.spent.is_empty() && state.spent_until.is_empty());
    }
}
