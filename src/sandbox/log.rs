//! The ground-truth log: every request the server saw and what came of it. Owns the records, their order and the
//! counters. Does not know how requests are answered. Invariant: all positions are drawn from one sequence, so any
//! two events of any two requests have an order.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::clock::Timestamp;

use super::record::{Delivery, Effect, Endpoint, Exchange, Fingerprint, Subject};

/// Records kept; older ones are forgotten, the counters are not.
const CAPACITY: usize = 65_536;

/// How often what happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests at the token endpoint, of any kind and outcome.
    pub token_requests: u64,
    /// Refreshes among them.
    pub refresh_requests: u64,
    /// Refreshes that gave a new refresh token.
    pub rotations: u64,
    /// Refreshes that presented a spent refresh token.
    pub spent_tokens_presented: u64,
    /// Refreshes that presented a token of a grant that had ended.
    pub dead_tokens_presented: u64,
    /// Refreshes that arrived while one with the same refresh token was in flight.
    pub overlaps: u64,
}

/// The ground-truth log. Clones share it.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    exchanges: VecDeque<Exchange>,
    /// Records forgotten, which is the id of the first one kept.
    forgotten: u64,
    position: u64,
    counts: Counts,
    /// Refreshes in flight, by refresh token.
    in_flight: HashMap<Fingerprint, u32>,
}

impl Log {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), changed: watch::Sender::new(()) }))
    }

    /// Every record kept (the last 65,536), oldest first.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.state().exchanges.iter().cloned().collect()
    }

    /// The refreshes among them.
    pub fn refreshes(&self) -> Vec<Exchange> {
        let is_refresh = |exchange: &&Exchange| exchange.is_refresh();
        self.state().exchanges.iter().filter(is_refresh).cloned().collect()
    }

    /// The counters.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Requests at the token endpoint since the start.
    pub fn token_requests(&self) -> u64 {
        self.counts().token_requests
    }

    /// Refreshes that gave a new refresh token since the start.
    pub fn rotations(&self) -> u64 {
        self.counts().rotations
    }

    /// Refreshes that presented a spent refresh token since the start.
    pub fn spent_tokens_presented(&self) -> u64 {
        self.counts().spent_tokens_presented
    }

    /// Waits until some record, past or to come, satisfies `wanted`, and returns it. Wakes on every change of the
    /// log, never by polling. The caller brings the timeout.
    pub async fn wait_for(&self, mut wanted: impl FnMut(&Exchange) -> bool) -> Exchange {
        self.wait_until(|exchanges| exchanges.iter().find(|exchange| wanted(exchange)).cloned()).await
    }

    /// Waits until `wanted` finds what it looks for in the records kept, oldest first.
    pub async fn wait_until<T>(&self, mut wanted: impl FnMut(&[Exchange]) -> Option<T>) -> T {
        let mut changed = self.0.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(found) = wanted(self.state().exchanges.make_contiguous()) {
                return found;
            }
            if changed.changed().await.is_err() {
                // The sender lives in `self`, so this is never reached; waiting on is the honest answer.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Opens a record. It ends when the last clone of the returned ticket is dropped.
    pub(super) fn received(
        &self,
        endpoint: Endpoint,
        connection: u64,
        received_at: Timestamp,
        subject: Subject,
        fault: Option<&'static str>,
    ) -> Ticket {
        let (id, refreshed) = self.change(|state| {
            let received = state.next_position();
            let mut exchange = Exchange {
                id: state.forgotten + state.exchanges.len() as u64,
                endpoint,
                connection,
                received_at,
                subject,
                fault,
                received,
                processed: None,
                ended: None,
                effect: None,
                delivery: None,
                overlapped: false,
            };
            let refreshed = exchange.subject.fingerprint.filter(|_| exchange.is_refresh());
            if let Some(fingerprint) = refreshed {
                let others = state.in_flight.entry(fingerprint).or_default();
                exchange.overlapped = *others > 0;
                *others += 1;
            }
            state.counts.count_arrival(&exchange);
            let id = exchange.id;
            state.exchanges.push_back(exchange);
            if state.exchanges.len() > CAPACITY {
                state.exchanges.pop_front();
                state.forgotten += 1;
            }
            (id, refreshed)
        });
        Ticket(Arc::new(Open { log: self.clone(), id, refreshed }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.0.changed.send_replace(());
        changed
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Counts {
    fn count_arrival(&mut self, exchange: &Exchange) {
        self.token_requests += u64::from(exchange.endpoint == Endpoint::Token);
        self.refresh_requests += u64::from(exchange.is_refresh());
        self.spent_tokens_presented += u64::from(exchange.is_refresh() && exchange.subject.spent);
        self.dead_tokens_presented += u64::from(exchange.is_refresh() && exchange.subject.dead);
        self.overlaps += u64::from(exchange.overlapped);
    }
}

impl State {
    fn next_position(&mut self) -> u64 {
        self.position += 1;
        self.position
    }

    /// A refresh with this token is in flight no more.
    fn landed(&mut self, fingerprint: Fingerprint) {
        if let Some(others) = self.in_flight.get_mut(&fingerprint) {
            *others -= 1;
            if *others == 0 {
                self.in_flight.remove(&fingerprint);
            }
        }
    }

    fn exchange(&mut self, id: u64) -> Option<&mut Exchange> {
        let place = usize::try_from(id.checked_sub(self.forgotten)?).ok()?;
        self.exchanges.get_mut(place)
    }
}

/// A request under way. The server's work holds one clone and the answer another, so the record ends when the work
/// is done and the answer has left or its reader has.
#[derive(Clone)]
pub(super) struct Ticket(Arc<Open>);

struct Open {
    log: Log,
    id: u64,
    /// The refresh token it presents, if it is a refresh.
    refreshed: Option<Fingerprint>,
}

impl Ticket {
    /// The record as it is now; `None` once it is forgotten.
    pub(super) fn exchange(&self) -> Option<Exchange> {
        self.0.log.state().exchange(self.0.id).cloned()
    }

    /// The request took effect. `spent` says what was found of its refresh token just before.
    pub(super) fn processed(&self, effect: Effect, spent: bool) {
        self.0.log.change(|state| {
            let position = state.next_position();
            let Some(exchange) = state.exchange(self.0.id) else { return };
            exchange.processed = Some(position);
            let is_newly_spent = spent && !exchange.subject.spent;
            exchange.subject.spent |= spent;
            let has_rotated = matches!(effect, Effect::Rotated { .. });
            exchange.effect = Some(effect);
            state.counts.rotations += u64::from(has_rotated);
            state.counts.spent_tokens_presented += u64::from(is_newly_spent);
        });
    }

    /// The client got this.
    pub(super) fn delivered(&self, delivery: Delivery) {
        self.0.log.change(|state| {
            if let Some(exchange) = state.exchange(self.0.id) {
                exchange.delivery = Some(delivery);
            }
        });
    }
}

/// Waits for the answer on the client's behalf: dropped without one, the client has hung up.
pub(super) struct Reader(pub(super) Ticket);

impl Drop for Reader {
    fn drop(&mut self) {
        let Open { log, id, .. } = &*self.0.0;
        log.change(|state| {
            if let Some(exchange) = state.exchange(*id) {
                exchange.delivery.get_or_insert(Delivery::ClientLeft);
            }
        });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.log.change(|state| {
            let position = state.next_position();
            if let Some(fingerprint) = self.refreshed {
                state.landed(fingerprint);
            }
            if let Some(exchange) = state.exchange(self.id) {
                exchange.ended = Some(position);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::grant::Generation;
    use super::super::record::GrantType;
    use super::*;

    fn refresh(token: &str) -> Subject {
        Subject {
            grant_type: Some(GrantType::RefreshToken),
            fingerprint: Some(Fingerprint::of(token)),
            generation: Some(Generation(1)),
            ..Subject::default()
        }
    }

    fn arrive(log: &Log, token: &str) -> Ticket {
        log.received(Endpoint::Token, 1, Timestamp::from_millis(0), refresh(token), None)
    }

    #[test]
    fn two_refreshes_overlap_only_while_the_first_is_in_flight() {
        let log = Log::new();
        let first = arrive(&log, "one");
        let other = arrive(&log, "two");
        let second = arrive(&log, "one");
        drop((first, other, second));
        drop(arrive(&log, "one"));

        let overlapped: Vec<bool> = log.exchanges().iter().map(|exchange| exchange.overlapped).collect();
        assert_eq!(overlapped, [false, false, true, false]);
        assert_eq!(log.counts().overlaps, 1);
    }

    #[test]
    fn a_request_ends_when_its_last_ticket_is_dropped() {
        let log = Log::new();
        let work = arrive(&log, "one");
        drop(Reader(work.clone()));
        assert!(log.exchanges()[0].is_in_flight());
        assert_eq!(log.exchanges()[0].delivery, Some(Delivery::ClientLeft));
        work.processed(Effect::Renewed, false);
        drop(work);
        assert!(log.exchanges()[0].processed < log.exchanges()[0].ended);
    }

    #[test]
    fn a_token_found_spent_twice_counts_once() {
        let log = Log::new();
        let spent = Subject { spent: true, ..refresh("one") };
        log.received(Endpoint::Token, 1, Timestamp::from_millis(0), spent, None)
            .processed(Effect::Renewed, true);
        arrive(&log, "one").processed(Effect::Renewed, true);
        assert_eq!(log.spent_tokens_presented(), 2);
    }

    #[test]
    fn the_log_forgets_old_records_and_keeps_its_counts() {
        let log = Log::new();
        for _ in 0..=CAPACITY {
            drop(arrive(&log, "one"));
        }
        let last = arrive(&log, "one");
        last.delivered(Delivery::Sent { status: 200 });
        let exchanges = log.exchanges();
        assert_eq!(exchanges.len(), CAPACITY);
        assert_eq!(exchanges[0].id, 2);
        assert_eq!(exchanges[CAPACITY - 1].delivery, Some(Delivery::Sent { status: 200 }));
        assert_eq!(log.token_requests(), CAPACITY as u64 + 2);
    }
}
