//! What this run knows of refreshes that their records do not say, because the store failed: that one was perhaps written
//! down and certainly not sent, or what one was told. Invariant: nothing that is remembered here as not sent is taken for
//! a request that may have reached its provider, and a wait that a provider asked for is kept, whatever the record says.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Timestamp;
use crate::connection::{Connection, ConnectionId, Intent, Moment};
use crate::error::{ProviderError, StoreError};

/// By connection: of the attempt that its record names, and of one that was to take its place.
#[derive(Default)]
pub(super) struct NeverSent(Mutex<HashMap<ConnectionId, Vec<Known>>>);

struct Known {
    attempt: Intent,
    /// `None`: it was not sent.
    told: Option<Told>,
}

/// What came of an attempt instead of tokens.
#[derive(Clone)]
pub(super) struct Told {
    pub(super) error: ProviderError,
    pub(super) at: Timestamp,
    /// Chance, so that a pause stays the same however often it is looked at.
    pub(super) dice: u64,
}

impl NeverSent {
    /// The store has failed to write what was begun, and may have written it all the same: a sync that fails says
    /// nothing of what is on the disk.
    pub(super) fn not_written(&self, begun: &Connection, error: &StoreError) {
        if let Some(attempt) = begun.profile.intent.as_ref().filter(|_| *error != StoreError::Conflict) {
            self.note(&begun.profile.id, attempt);
        }
    }

    /// This one was not sent, whatever the store says of it.
    pub(super) fn note(&self, id: &ConnectionId, attempt: &Intent) {
        self.know(id, Known { attempt: attempt.clone(), told: None });
    }

    /// The store has failed to write down what came of this one.
    pub(super) fn not_recorded(&self, id: &ConnectionId, attempt: &Intent, told: Told) {
        self.know(id, Known { attempt: attempt.clone(), told: Some(told) });
    }

    /// The connection as it is known to be, in place of what is stored and was just read.
    pub(super) fn taken_back(&self, stored: Connection, moment: &Moment<'_>) -> Connection {
        let named = stored.profile.intent.as_ref().map(|intent| (intent.attempt_id, intent.tries));
        let mut unsent = self.lock();
        let Some(noted) = unsent.get_mut(&stored.profile.id) else { return stored };
        // What it does not name, or names as taken back, is of the past: whatever a store has lost with a write, it lacks
        // when it is read again.
        noted.retain(|known| Some((known.attempt.attempt_id, known.attempt.tries)) == named);
        match noted.first() {
            Some(Known { attempt, told: None }) => stored.unsent(attempt, moment.now).connection,
            Some(Known { attempt, told: Some(Told { error, at, dice }) }) => {
                let then = Moment { now: *at, ..*moment };
                stored.landed(attempt, &Err(error.clone()), &then, *dice).connection
            }
            None => {
                unsent.remove(&stored.profile.id);
                stored
            }
        }
    }

    /// The connection is no more.
    pub(super) fn forget(&self, id: &ConnectionId) {
        self.lock().remove(id);
    }

    /// For how many connections there is something to be remembered.
    pub(super) fn places(&self) -> usize {
        self.lock().len()
    }

    fn know(&self, id: &ConnectionId, known: Known) {
        self.lock().entry(id.clone()).or_default().push(known);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnectionId, Vec<Known>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
