//! Refreshes of this run that were perhaps written down and certainly not sent. Invariant: what is remembered here is
//! never taken for a request that may have reached its provider, whatever its record says.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Timestamp;
use crate::connection::{Connection, ConnectionId, Intent};
use crate::error::StoreError;

/// The intents, by connection: the one that its record names, and one that was to take its place.
#[derive(Default)]
pub(super) struct NeverSent(Mutex<HashMap<ConnectionId, Vec<Intent>>>);

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
        self.lock().entry(id.clone()).or_default().push(attempt.clone());
    }

    /// The connection as it is known to be, in place of what is stored and was just read.
    pub(super) fn taken_back(&self, stored: Connection, now: Timestamp) -> Connection {
        let named = stored.profile.intent.as_ref().map(|intent| intent.attempt_id);
        let mut unsent = self.lock();
        let Some(noted) = unsent.get_mut(&stored.profile.id) else { return stored };
        // What it does not name is of the past: whatever a store has lost with a write, it lacks when it is read again.
        noted.retain(|attempt| Some(attempt.attempt_id) == named);
        match noted.first() {
            Some(attempt) => stored.unsent(attempt, now).connection,
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

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnectionId, Vec<Intent>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
