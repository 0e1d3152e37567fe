//! House-keeping: forgets what nobody came back for, and counts the rest. Reads all records once unless a start has, and then only those
//! for which something is due; what must be known of the others is in the [`Roll`](super::roll::Roll).

use std::sync::{MutexGuard, PoisonError};

use super::Broker;
use super::keep::Weight;
use super::roll::{Roll, is_forgotten};
use crate::connection::{ConnectionId, Status};
use crate::error::{Error, StoreError};
use crate::store::{Expected, Selection};

impl Broker {
    /// Forgets consents that ran out of time, with the PENDING connections they leave, and histories of connections that
    /// ended long ago or are too many, and counts the rest for the metrics. Answers how many records went. Meant to run
    /// about every minute.
    ///
    /// # Errors
    /// The store's; what is left is swept the next time.
    pub async fn sweep(&self) -> Result<usize, Error> {
        let mut swept = self.sessions.sweep(self.clock.now()).await?;
        if self.roll().is_aged() {
            self.call_the_roll().await?;
        }
        let due = self.roll().due(self.clock.now());
        for id in &due {
            swept += usize::from(self.heeding_damage(id, self.clear(id).await)?);
        }
        let past = self.roll().past(self.clock.now(), self.settings.ended_histories);
        for (id, since) in &past {
            swept += usize::from(self.heeding_damage(id, self.forget_past(id, *since).await)?);
        }
        self.publish_census();
        Ok(swept)
    }

    pub(super) fn roll(&self) -> MutexGuard<'_, Roll> {
        self.roll.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The walk over all connections.
    async fn call_the_roll(&self) -> Result<(), Error> {
        self.roll().begin();
        let all = Selection { with_ended: true, ..Selection::default() };
        let mut after = None;
        loop {
            let page = self.tokens.list(&all, after.as_ref(), 1000).await?;
            let mut roll = self.roll();
            page.profiles.iter().for_each(|profile| roll.met(profile));
            after = page.next;
            if after.is_none() {
                roll.finish();
                return Ok(());
            }
        }
    }

    fn publish_census(&self) {
        let mut counted = self.roll().census();
        for key in self.providers.keys() {
            counted.entry(key.clone()).or_default();
        }
        for (provider, census) in counted {
            for status in Status::ALL {
                let count = census.by_status.get(status.as_str()).copied().unwrap_or(0);
                self.metrics.set_connections(provider.as_str(), status, count);
            }
            self.metrics.set_soonest_grant_expiry(provider.as_str(), census.soonest_end);
        }
    }

    /// One record that does not open keeps no other from being swept. It is left alone until all are read again.
    fn heeding_damage(&self, id: &ConnectionId, swept: Result<bool, StoreError>) -> Result<bool, StoreError> {
        match swept {
            Err(StoreError::Unreadable(why)) => {
                let reason = "RECORD_UNREADABLE";
                tracing::error!(reason, connection = %id, "it cannot be swept, for it cannot be opened: {why}");
                self.roll().leave(id);
                Ok(false)
            }
            swept => swept,
        }
    }

    /// Wipes the tokens of a grant that has been dead for long, or forgets a connection whose consent never came;
    /// answers whether it was forgotten. It may have changed since it was found due.
    async fn clear(&self, id: &ConnectionId) -> Result<bool, StoreError> {
        let turn = self.cache.turn(id).await;
        let Some(stored) = self.tokens.get(id).await? else {
            self.roll().forget(id);
            self.cache.retire(turn);
            return Ok(false);
        };
        if is_forgotten(&stored.value.profile, self.clock.now()) {
            self.forget_record(&turn, Expected::At(stored.revision)).await?;
            self.cache.retire(turn);
            return Ok(true);
        }
        let Some(wiped) = stored.value.wiped(self.clock.now()) else { return Ok(false) };
        self.keep(&turn, &wiped, Expected::At(stored.revision), Weight::Ordinary).await?;
        Ok(false)
    }
}
