//! A wait that a provider asked for when a connection was to be revoked, and that the store has not taken yet. It is kept
//! here until the store does. Invariant: while it lasts, this run sends nothing for that connection.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::broker::Broker;
use crate::broker::keep::Weight;
use crate::clock::Timestamp;
use crate::connection::{ConnectionId, Profile, Status};
use crate::error::StoreError;
use crate::store::Expected;

/// By connection: what its record should say.
#[derive(Debug, Default)]
pub(in crate::broker) struct Unwritten(Mutex<BTreeMap<ConnectionId, Profile>>);

impl Unwritten {
    /// From now on the wait of `told` is kept, if there is one.
    pub(super) fn heed(&self, told: &Profile) {
        if told.backoff.as_ref().is_some_and(|backoff| backoff.is_asked) {
            self.lock().insert(told.id.clone(), told.clone());
        }
    }

    /// The record says it, or it is no more.
    pub(super) fn forget(&self, id: &ConnectionId) {
        self.lock().remove(id);
    }

    pub(super) fn has(&self, id: &ConnectionId) -> bool {
        self.lock().contains_key(id)
    }

    /// What is kept of a connection, and the end of its wait. One that is over is kept no longer.
    fn told(&self, id: &ConnectionId, now: Timestamp) -> Option<(Profile, Timestamp)> {
        let mut kept = self.lock();
        let told = kept.get(id)?;
        let Some(until) = told.asked_to_wait_until(now) else {
            kept.remove(id);
            return None;
        };
        Some((told.clone(), until))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ConnectionId, Profile>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broker {
    /// What a connection must be let wait for and its record does not say; tries once more to write it down.
    pub(super) async fn unwritten_wait(&self, id: &ConnectionId) -> Option<(Profile, Timestamp)> {
        let (told, until) = self.unwritten.told(id, self.clock.now())?;
        match self.write_wait(&told).await {
            Ok(()) => self.unwritten.forget(id),
            Err(error) => {
                tracing::warn!(connection = %id, %error, "a wait that the provider asks for is held in memory");
            }
        }
        Some((told, until))
    }

    async fn write_wait(&self, told: &Profile) -> Result<(), StoreError> {
        let turn = self.cache.turn(&told.id).await;
        let Some(stored) = self.tokens.get(&told.id).await? else { return Ok(()) };
        if stored.value.profile.status != Status::Revoking {
            return Ok(());
        }
        let connection = stored.value.revocation_put_off(told, self.clock.now());
        self.keep(&turn, &connection, Expected::At(stored.revision), Weight::Ordinary).await?;
        Ok(())
    }
}
