//! The one way by which a connection is written or forgotten. Whoever must know of every change hears of it here, after
//! it is durable.

use super::Broker;
use super::cache::Turn;
use crate::clock::Timestamp;
use crate::connection::{Connection, ConnectionId, Profile};
use crate::error::StoreError;
use crate::store::{Expected, Revision};

/// Changes that a slow listener may be behind before it must read everything anew.
pub(super) const BACKLOG: usize = 1024;

/// What became of a connection, durably.
#[derive(Clone, Debug)]
pub enum Change {
    /// It was made or changed, and is like this now.
    Kept(Box<Profile>),
    /// It is gone.
    Forgotten(ConnectionId),
    /// Nothing changed yet, but its grant ends for good unless its owner consents again.
    Ending {
        /// Whose.
        id: ConnectionId,
        /// When.
        ends_at: Timestamp,
    },
}

/// What a write is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// It can be refused: nothing is lost but the change.
    Ordinary,
    /// It holds tokens that exist nowhere else yet, or the leave to ask once more for some that got lost on the way.
    Rescue,
}

impl Broker {
    /// Writes a connection, alone with it, and tells who listens.
    pub(super) async fn keep(
        &self,
        turn: &Turn,
        connection: &Connection,
        expected: Expected,
        weight: Weight,
    ) -> Result<Revision, StoreError> {
        let revision = match weight {
            Weight::Ordinary => self.tokens.put(connection, expected).await?,
            Weight::Rescue => self.tokens.rescue(connection, expected).await?,
        };
        turn.note(connection.profile.generation);
        self.escrow.overtake(&connection.profile);
        self.roll().note(&connection.profile);
        self.plan_ahead(&connection.profile);
        self.tell(|| Change::Kept(Box::new(connection.profile.clone())));
        Ok(revision)
    }

    /// Forgets a connection, alone with it, and tells who listens.
    pub(super) async fn forget_record(&self, turn: &Turn, expected: Expected) -> Result<(), StoreError> {
        self.tokens.remove(turn.id(), expected).await?;
        self.escrow.withhold(turn.id());
        self.unsent.forget(turn.id());
        self.roll().forget(turn.id());
        self.forget_ahead(turn.id());
        self.tell(|| Change::Forgotten(turn.id().clone()));
        Ok(())
    }

    /// Nobody listening is no failure, and costs nothing.
    pub(super) fn tell(&self, change: impl FnOnce() -> Change) {
        if self.changes.receiver_count() > 0 {
            let _ = self.changes.send(change());
        }
    }
}
