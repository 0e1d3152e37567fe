//! Usable tokens and the work under way for them: one map, so that "is there a token?" and "is somebody fetching
//! one?" cannot disagree. Knows nothing of providers or stores. Invariant: for one connection at most one flight is
//! under way, and at most one [`Turn`] is held.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::Instant;

use super::{Durability, Source};
use crate::clock::Timestamp;
use crate::connection::{AccessToken, ConnectionId, Credential, Scopes, Values};
use crate::error::Error;
use crate::telemetry::Count;

/// How long at most those who insist on a longer life are put off with a token that the provider gave again.
const LATELY: Duration = Duration::from_secs(60);

/// A token as it is served: durable, published, shared by every caller that gets it.
#[derive(Debug)]
pub struct ServedToken {
    /// Whose it is.
    of: ConnectionId,
    /// The token.
    pub access: AccessToken,
    /// What it may do.
    pub scopes: Scopes,
    /// Which of the connection's token sets it belongs to.
    pub generation: u64,
    /// What its connection knows for the provider's variables.
    pub variables: Values,
    /// Whether it would survive a crash. Only what does is published; what does not is answered and not kept.
    pub durability: Durability,
    /// When its life is over on a clock that nobody sets; `None` where it does not end.
    ends_at: Option<Instant>,
    encoded: OnceLock<Bytes>,
    hits: Count,
}

impl ServedToken {
    /// A token that counts each hit in `hits`.
    pub fn new(of: ConnectionId, access: AccessToken, scopes: Scopes, generation: u64, hits: Count) -> Self {
        let durability = Durability::Durable;
        let (variables, ends_at, encoded) = (Values::new(), None, OnceLock::new());
        Self { of, access, scopes, generation, variables, durability, ends_at, encoded, hits }
    }

    /// The same token of a connection that knows this for its provider's variables.
    pub(super) fn knowing(self, variables: Values) -> Self {
        Self { variables, ..self }
    }

    /// The form in which it goes into a call: with the name and the values of its own connection, whoever asks.
    pub(super) fn credential(&self) -> Credential<'_> {
        Credential::new(&self.of, &self.access).knowing(&self.variables)
    }

    /// The same token, which at `now` has so much life left that a clock which is set back later gives it no more.
    pub(super) fn ending(self, now: Timestamp) -> Self {
        let left = self.access.expires_at.map(|expires_at| now.until(expires_at));
        Self { ends_at: left.and_then(|left| Instant::now().checked_add(left)), ..self }
    }

    /// Whether its life is over, whatever the wall clock says.
    pub(super) fn is_over(&self) -> bool {
        self.ends_at.is_some_and(|ends_at| Instant::now() >= ends_at)
    }

    /// The same token, said to be lost if the process ends now.
    pub(super) fn degraded(self) -> Self {
        Self { durability: Durability::Degraded, ..self }
    }

    /// What the asking door writes beside the token, made by `encode` the first time and shared from then on. It must
    /// not hold the token: there is one copy of that in memory.
    pub fn encoded(&self, encode: impl FnOnce(&Self) -> Bytes) -> Bytes {
        self.encoded.get_or_init(|| encode(self)).clone()
    }

    pub(super) fn count_hit(&self) {
        self.hits.inc();
    }
}

/// What a flight brought: the token and how it was come by.
pub(super) type Landing = Result<(Arc<ServedToken>, Source), Error>;

/// Work under way that any number of callers wait for. Dropping it abandons nothing: the work is owned by its task.
pub(super) struct Flight(watch::Receiver<Option<Landing>>);

impl Flight {
    /// What the work brought.
    pub(super) async fn landed(mut self) -> Landing {
        match self.0.wait_for(Option::is_some).await {
            Ok(landing) => {
                landing.clone().unwrap_or(Err(Error::Internal("a flight landed without a result")))
            }
            // The task ended without a word: it panicked, or the runtime is going down.
            Err(_) => Err(Error::Internal("the refresh task ended unexpectedly")),
        }
    }
}

/// The duty to end a flight. When it is dropped unfulfilled (a panic), waiters are told and the next caller may
/// start anew.
pub(super) struct Pilot {
    slot: Arc<Slot>,
    sender: watch::Sender<Option<Landing>>,
    hurry: watch::Receiver<bool>,
}

impl Pilot {
    /// Returns when somebody waits for a flight that was begun for nobody; at once, if somebody does.
    pub(super) async fn is_awaited(&self) {
        if self.hurry.clone().wait_for(|is_awaited| *is_awaited).await.is_err() {
            // It is off the map: nobody joins it any more.
            std::future::pending::<()>().await;
        }
    }

    /// Takes a flight that was begun for nobody off the map, so that who comes from now on starts one of their own.
    /// Answers whether nobody waits for it; if somebody does, nothing is changed.
    pub(super) fn leave_unless_awaited(&self) -> bool {
        let mut state = self.slot.state();
        if *self.hurry.borrow() {
            return false;
        }
        self.take_off(&mut state);
        true
    }

    /// Ends the flight. It is taken off the map before waiters wake, so that none of them joins it again.
    pub(super) fn land(self, landing: Landing) {
        self.take_off(&mut self.slot.state());
        self.sender.send_replace(Some(landing));
    }

    /// What is on the map by now may be another flight.
    fn take_off(&self, state: &mut State) {
        if state.flight.as_ref().is_some_and(|(flight, _)| flight.same_channel(&self.sender.subscribe())) {
            state.flight = None;
        }
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        self.take_off(&mut self.slot.state());
    }
}

/// A flight as a caller finds it.
pub(super) enum Joined {
    /// Somebody else's; wait for it.
    Shared(Flight),
    /// The caller's own: it must see to it that `Pilot` lands.
    Started(Pilot, Flight),
}

/// The exclusive right to change one connection: its record in the store and its token in memory.
pub(super) struct Turn {
    id: ConnectionId,
    slot: Arc<Slot>,
    slots: Arc<Slots>,
    _held: OwnedMutexGuard<()>,
}

impl Turn {
    /// Serves `token` from now on. Call it only with what is durable.
    pub(super) fn publish(&self, token: Arc<ServedToken>) {
        let mut state = self.slot.state();
        let is_repeated = state.token.as_ref().is_some_and(|known| known.access.value == token.access.value);
        if !is_repeated {
            // All of it is about the token before it.
            (state.rests_until, state.repeated_until, state.repeated_lately_until) = (None, None, None);
            state.over = None;
        }
        state.token = Some(token);
        state.tell_watchers();
    }

    /// Serves nothing from memory from now on.
    pub(super) fn withdraw(&self) {
        let mut state = self.slot.state();
        state.token = None;
        state.tell_watchers();
    }

    /// The access token of that SHA-256 is over by every clock: one that is set back later does not bring it back.
    pub(super) fn note_over(&self, access: [u8; 32]) {
        self.slot.state().over = Some(access);
    }

    /// Whether the access token of that SHA-256 was found to be over by every clock, as far as memory goes.
    pub(super) fn is_over(&self, access: [u8; 32]) -> bool {
        self.slot.state().over == Some(access)
    }

    /// A record of this generation is durable.
    pub(super) fn note(&self, generation: u64) {
        self.slot.state().generation = generation;
    }

    /// Which connection this is about.
    pub(super) fn id(&self) -> &ConnectionId {
        &self.id
    }
}

/// A turn that leaves nothing behind gives its place back, so that asking for names that nobody knows, while the store
/// cannot say so, costs no memory.
impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.slot.state();
        if !state.is_retired && state.is_idle() && self.slot.asked_at.load(Ordering::Relaxed) == 0 {
            state.is_retired = true;
            self.slots.pin().remove(&self.id);
        }
    }
}

#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    /// When a caller last asked, in milliseconds since the epoch; 0: not in this run.
    asked_at: AtomicI64,
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct State {
    token: Option<Arc<ServedToken>>,
    /// The access token, by its SHA-256, with which the connection ended because it was over by every clock.
    over: Option<[u8; 32]>,
    /// That of the record last written, as far as memory goes.
    generation: u64,
    /// The flight under way, and what tells it that somebody waits.
    flight: Option<(watch::Receiver<Option<Landing>>, watch::Sender<bool>)>,
    /// Until then nothing better than `token` is to be had.
    rests_until: Option<Instant>,
    /// Until then the provider is taken to give `token` once more if it is asked for a successor, as it did.
    repeated_until: Option<Instant>,
    /// The same for those who insist on a longer life than it has.
    repeated_lately_until: Option<Instant>,
    /// Those who want to hear of every change of `token`; each hears at least of the last.
    watchers: Option<watch::Sender<()>>,
    /// Taken off the map: whoever still holds the slot must fetch the present one.
    is_retired: bool,
}

impl State {
    fn tell_watchers(&mut self) {
        if let Some(watchers) = self.watchers.take_if(|watchers| watchers.send(()).is_err()) {
            // Nobody listens any more.
            drop(watchers);
        }
    }

    /// Whether memory knows nothing of the connection, and nobody is busy with it.
    fn is_idle(&self) -> bool {
        self.token.is_none() && self.flight.is_none() && self.over.is_none() && !self.is_watched()
    }

    fn is_watched(&self) -> bool {
        self.watchers.as_ref().is_some_and(|watchers| watchers.receiver_count() > 0)
    }
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Slots = papaya::HashMap<ConnectionId, Arc<Slot>>;

/// The map.
#[derive(Default)]
pub(super) struct Cache {
    slots: Arc<Slots>,
}

impl Cache {
    /// The published token of a connection.
    pub(super) fn token(&self, id: &ConnectionId) -> Option<Arc<ServedToken>> {
        self.slots.pin().get(id)?.state().token.clone()
    }

    /// The generation of the record last written. 0: not known, which cannot be while a flight that wrote one lasts.
    pub(super) fn generation(&self, id: &ConnectionId) -> u64 {
        self.slots.pin().get(id).map_or(0, |slot| slot.state().generation)
    }

    /// The published token of a connection that a caller asks for at `now`.
    pub(super) fn asked(&self, id: &ConnectionId, now: Timestamp) -> Option<Arc<ServedToken>> {
        let slots = self.slots.pin();
        let slot = slots.get(id)?;
        let asked_at = now.as_millis();
        // To read costs the other cores nothing, to write does: once a second is as good.
        if slot.asked_at.load(Ordering::Relaxed).abs_diff(asked_at) >= 1000 {
            slot.asked_at.store(asked_at, Ordering::Relaxed);
        }
        slot.state().token.clone()
    }

    /// Serves the token of `generation`, or of one before, no more: its provider ended it. What took its place is not
    /// durable yet, so whoever asks waits for the flight that brought it, or is answered by the escrow.
    pub(super) fn withdraw_spent(&self, id: &ConnectionId, generation: u64) {
        let slots = self.slots.pin();
        let Some(slot) = slots.get(id) else { return };
        let mut state = slot.state();
        if state.token.take_if(|token| token.generation <= generation).is_some() {
            state.tell_watchers();
        }
    }

    /// When a caller last asked for a connection, as far as memory goes. One that is watched is asked for all the time.
    pub(super) fn asked_at(&self, id: &ConnectionId, now: Timestamp) -> Option<Timestamp> {
        let slots = self.slots.pin();
        let slot = slots.get(id)?;
        if slot.state().is_watched() {
            return Some(now);
        }
        let asked_at = slot.asked_at.load(Ordering::Relaxed);
        (asked_at != 0).then(|| Timestamp::from_millis(asked_at))
    }

    /// Hears of every change of a connection's published token; closed when the connection is no more.
    pub(super) fn watch(&self, id: &ConnectionId) -> watch::Receiver<()> {
        loop {
            let slot = self.slot(id);
            let mut state = slot.state();
            if !state.is_retired {
                return state.watchers.get_or_insert_with(|| watch::Sender::new(())).subscribe();
            }
        }
    }

    /// Nothing better than the published token can be had for a while.
    pub(super) fn rest(&self, id: &ConnectionId, span: Duration) {
        if let Some(slot) = self.slots.pin().get(id) {
            slot.state().rests_until = Some(Instant::now() + span);
        }
    }

    /// The provider has given the published token again in place of a successor, and is not asked anew for this long.
    pub(super) fn rest_with_repeated(&self, id: &ConnectionId, span: Duration) {
        if let Some(slot) = self.slots.pin().get(id) {
            let now = Instant::now();
            let mut state = slot.state();
            state.repeated_until = now.checked_add(span);
            state.repeated_lately_until = now.checked_add(span.min(LATELY));
        }
    }

    /// Whether nothing better than the published token can be had for now.
    pub(super) fn is_resting(&self, id: &ConnectionId) -> bool {
        let slots = self.slots.pin();
        slots.get(id).is_some_and(|slot| {
            let state = slot.state();
            let until = state.rests_until.max(state.repeated_until);
            until.is_some_and(|until| Instant::now() < until)
        })
    }

    /// Whether the provider has given the published token again just now, so that it would once more.
    pub(super) fn is_just_repeated(&self, id: &ConnectionId) -> bool {
        let slots = self.slots.pin();
        slots.get(id).is_some_and(|slot| {
            slot.state().repeated_lately_until.is_some_and(|until| Instant::now() < until)
        })
    }

    /// The flight under way.
    pub(super) fn flight(&self, id: &ConnectionId) -> Option<Flight> {
        let slots = self.slots.pin();
        let state = slots.get(id)?.state();
        state.flight.as_ref().map(|(flight, _)| Flight(flight.clone()))
    }

    /// Joins the flight under way, or starts one. Unless it `is_ahead`, a flight that nobody waited for makes haste.
    pub(super) fn join(&self, id: &ConnectionId, is_ahead: bool) -> Joined {
        loop {
            let slot = self.slot(id);
            let mut state = slot.state();
            if state.is_retired {
                continue;
            }
            if let Some((flight, hurry)) = &state.flight {
                if !is_ahead {
                    hurry.send_replace(true);
                }
                return Joined::Shared(Flight(flight.clone()));
            }
            let (sender, receiver) = watch::channel(None);
            let (awaited, hurry) = watch::channel(!is_ahead);
            state.flight = Some((receiver.clone(), awaited));
            drop(state);
            return Joined::Started(Pilot { slot, sender, hurry }, Flight(receiver));
        }
    }

    /// Waits for the exclusive right to change a connection.
    pub(super) async fn turn(&self, id: &ConnectionId) -> Turn {
        loop {
            let slot = self.slot(id);
            let held = slot.turn.clone().lock_owned().await;
            if !slot.state().is_retired {
                return Turn { id: id.clone(), slot, slots: self.slots.clone(), _held: held };
            }
        }
    }

    /// Ends a turn on a connection that does not exist (any more) and gives its place back, so that asking for
    /// names that do not exist costs no memory.
    pub(super) fn retire(&self, turn: Turn) {
        let mut state = turn.slot.state();
        state.token = None;
        state.watchers = None;
        state.is_retired = true;
        self.slots.pin().remove(&turn.id);
    }

    /// Gives the place of a connection back of which memory knows nothing and with which nobody is busy.
    pub(super) fn give_back(&self, id: &ConnectionId) {
        let slots = self.slots.pin();
        let Some(slot) = slots.get(id) else { return };
        let Ok(_held) = slot.turn.try_lock() else { return };
        let mut state = slot.state();
        if state.is_idle() {
            state.is_retired = true;
            slots.remove(id);
        }
    }

    /// For how many connections there is a place.
    pub(super) fn places(&self) -> usize {
        self.slots.pin().len()
    }

    fn slot(&self, id: &ConnectionId) -> Arc<Slot> {
        let slots = self.slots.pin();
        if let Some(slot) = slots.get(id) {
            return slot.clone();
        }
        slots.get_or_insert_with(id.clone(), Arc::default).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(cache: &Cache, id: &ConnectionId, is_ahead: bool) -> (Pilot, Flight) {
        match cache.join(id, is_ahead) {
            Joined::Started(pilot, flight) => (pilot, flight),
            Joined::Shared(_) => panic!("another flight is under way"),
        }
    }

    #[tokio::test]
    async fn a_flight_that_leaves_unawaited_is_joined_by_nobody_and_ends_no_other() {
        let cache = Cache::default();
        let id = ConnectionId::parse(String::new(), "sandbox".into(), "user-42".into()).unwrap();
        let (first, landed) = started(&cache, &id, true);
        assert!(matches!(cache.join(&id, true), Joined::Shared(_)));
        assert!(first.leave_unless_awaited());
        let (second, _) = started(&cache, &id, true);
        first.land(Err(Error::ShuttingDown));
        assert!(matches!(landed.landed().await, Err(Error::ShuttingDown)));
        assert!(matches!(cache.join(&id, false), Joined::Shared(_)), "the second is still there");
        assert!(!second.leave_unless_awaited(), "a caller has joined it");
        // However often it is asked.
        second.is_awaited().await;
        second.is_awaited().await;
        assert!(matches!(cache.join(&id, true), Joined::Shared(_)));
    }
}
