//! What is remembered of connections that are no more: their histories, so that people can see how each came to its end.
//! Owns how long and how many. Invariant: nothing is remembered that could be served or refreshed.

use super::Broker;
use crate::clock::Timestamp;
use crate::connection::history::Happening;
use crate::connection::{Connection, ConnectionId, History};
use crate::error::{Error, StoreError};
use crate::store::Expected;

impl Broker {
    /// What happened to a connection, oldest first, after the end of the one before it under its name. Of one that is no
    /// more, how it went, as long as that is remembered.
    ///
    /// # Errors
    /// `CONNECTION_NOT_FOUND`, or the store's.
    pub async fn history(&self, id: &ConnectionId) -> Result<History, Error> {
        // Looked at first: before one is gone, its end is there.
        let stored = self.tokens.get(id).await?;
        let past = self.tokens.get(&id.ended()).await?.map(|stored| stored.value);
        match (stored, past) {
            (Some(stored), past) => Ok(stored.value.timeline(past)),
            (None, Some(past)) => Ok(past.history),
            (None, None) => Err(Error::ConnectionNotFound(id.clone())),
        }
    }

    /// Writes down how a connection ended, in the place of what was remembered under its name. To be durable before it
    /// is forgotten. The caller has its turn.
    pub(super) async fn remember(&self, connection: &Connection, end: Happening) -> Result<(), StoreError> {
        if self.settings.ended_histories == 0 {
            return Ok(());
        }
        let past = connection.ended(end, self.clock.now());
        loop {
            let stored = self.tokens.get(&past.profile.id).await?;
            let expected = stored.map_or(Expected::Absent, |stored| Expected::At(stored.revision));
            match self.tokens.put(&past, expected).await {
                // Swept away between the two.
                Err(StoreError::Conflict) => {}
                written => {
                    written?;
                    self.roll().note(&past.profile);
                    return Ok(());
                }
            }
        }
    }

    /// Forgets what was remembered under `id` since `since`; answers whether it did. What was remembered later stays.
    pub(super) async fn forget_past(&self, id: &ConnectionId, since: Timestamp) -> Result<bool, StoreError> {
        let stored = self.tokens.get(id).await?;
        if let Some(stored) = stored {
            if stored.value.profile.updated_at != since {
                self.roll().note(&stored.value.profile);
                return Ok(false);
            }
            match self.tokens.remove(id, Expected::At(stored.revision)).await {
                // Remembered anew, and noted by whoever did it.
                Err(StoreError::Conflict) => return Ok(false),
                removed => removed?,
            }
        }
        self.roll().forget(id);
        Ok(true)
    }
}
