//! The deadlines of one provider's connections, in order. Pure: it is told the time. Invariant: a connection is handed
//! out at most once until it is given back, and a provider that refuses is asked by one connection at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::connection::ConnectionId;

/// Refreshes ahead that one provider is asked for at a time. What of them it really gets at once is its own limit.
pub(super) const IN_FLIGHT: usize = 16;

/// What piled up while a provider could not be asked is made up for over this long, so that its recovery is not met by
/// a herd; but not slower than [`STEADY`] apart.
const CATCH_UP: Duration = Duration::from_secs(90);
const STEADY: Duration = Duration::from_millis(100);

/// How long a provider that refuses is left alone, at first and at most; each time is twice the one before.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);

/// The longest rest that a provider can talk us into, as at its own gate; then one connection tries.
const LONGEST_TOLD: Duration = Duration::from_secs(900);

/// After how many failures in a row the provider and not the connection is taken to be in trouble.
const PATIENCE: u32 = 3;

/// How a refresh ahead ended, as far as its provider is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker) enum Verdict {
    /// The provider answered, well or ill: it is there.
    Served,
    /// This attempt failed in a way that may be this connection's bad luck.
    Failed,
    /// The provider takes nothing for now.
    Refused {
        /// For how long, where it is known.
        rest: Option<Duration>,
    },
    /// Our own line sent it away: the provider was not asked, and nothing failed.
    NoTurn {
        /// When its turn would come.
        after: Duration,
    },
    /// It says nothing about the provider.
    Unknown,
}

/// A place in the queue: when, and a number that tells those of one moment apart.
pub(super) type Place = (Timestamp, u64);

/// One provider's queue.
#[derive(Debug, Default)]
pub(super) struct Lane {
    order: BTreeMap<Place, Arc<ConnectionId>>,
    /// Places given so far.
    places: u64,
    in_flight: usize,
    rests_until: Option<Timestamp>,
    /// Failures since the provider last answered.
    failures: u32,
}

impl Lane {
    pub(super) fn insert(&mut self, due: Timestamp, id: Arc<ConnectionId>) -> Place {
        self.places += 1;
        let place = (due, self.places);
        self.order.insert(place, id);
        place
    }

    pub(super) fn remove(&mut self, place: Place) {
        self.order.remove(&place);
    }

    /// Whether the provider is asked by one connection only, to see whether it is back.
    fn is_probing(&self) -> bool {
        self.failures >= PATIENCE || self.rests_until.is_some()
    }

    fn has_room(&self) -> bool {
        self.in_flight < if self.is_probing() { 1 } else { IN_FLIGHT }
    }

    /// The next connection that is due, which then counts as in flight.
    pub(super) fn take(&mut self, now: Timestamp) -> Option<Arc<ConnectionId>> {
        if !self.has_room() || self.rests_until.is_some_and(|until| now < until) {
            return None;
        }
        let first = self.order.first_entry().filter(|entry| entry.key().0 <= now)?;
        let id = first.remove();
        self.in_flight += 1;
        Some(id)
    }

    /// When [`Lane::take`] is worth asking again; `None`: not before something changes.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let ((due, _), _) = self.order.first_key_value().filter(|_| self.has_room())?;
        Some(self.rests_until.map_or(*due, |until| until.max(*due)))
    }

    /// A connection was put back at once, for nothing had to be asked of the provider.
    pub(super) fn give_back(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// A refresh ended. Answers whether the provider is back after it could not be asked: then what piled up must be
    /// spread.
    #[must_use]
    pub(super) fn land(&mut self, verdict: Verdict, now: Timestamp) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        match verdict {
            Verdict::NoTurn { .. } | Verdict::Unknown => false,
            Verdict::Served => self.answered(),
            Verdict::Failed => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= PATIENCE {
                    self.rest(None, now);
                }
                false
            }
            Verdict::Refused { rest } => {
                self.failures = self.failures.saturating_add(1);
                self.rest(rest, now);
                false
            }
        }
    }

    /// The provider answered somebody. Answers whether it could not be asked before.
    #[must_use]
    pub(super) fn answered(&mut self) -> bool {
        let was_away = self.is_probing();
        (self.failures, self.rests_until) = (0, None);
        was_away
    }

    fn rest(&mut self, told: Option<Duration>, now: Timestamp) {
        let doublings = self.failures.saturating_sub(PATIENCE).min(6);
        let own = (FIRST_REST * 2_u32.pow(doublings)).min(LONGEST_REST);
        let until = now + told.map_or(own, |told| told.min(LONGEST_TOLD)).max(FIRST_REST);
        self.rests_until = Some(self.rests_until.map_or(until, |before| before.max(until)));
    }

    /// Gives what is overdue new places from `now` on, in the order in which it was due, and answers them.
    pub(super) fn spread(&mut self, now: Timestamp) -> Vec<(Arc<ConnectionId>, Place)> {
        let later = self.order.split_off(&(now + Duration::from_millis(1), 0));
        let overdue = std::mem::replace(&mut self.order, later);
        let step = (CATCH_UP / u32::try_from(overdue.len()).unwrap_or(u32::MAX).max(1)).min(STEADY);
        let mut at = now;
        let mut moved = Vec::with_capacity(overdue.len());
        for id in overdue.into_values() {
            moved.push((id.clone(), self.insert(at, id)));
            at = at + step;
        }
        moved
    }

    /// The wall clock was set back by `span`: every deadline comes as much earlier by it.
    pub(super) fn shift(&mut self, span: Duration) {
        let order = std::mem::take(&mut self.order);
        self.order = order.into_iter().map(|((due, number), id)| ((due - span, number), id)).collect();
        self.rests_until = self.rests_until.map(|until| until - span);
    }

    /// How many are due and not under way.
    pub(super) fn overdue(&self, now: Timestamp) -> usize {
        self.order.keys().take_while(|(due, _)| *due <= now).count()
    }
}
