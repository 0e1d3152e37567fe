//! WatchConnections: every connection as it is, then each change. Owns where a reader is in that.
//!
//! Invariant: what a reader has applied up to a snapshot's end is complete; one that fell so far behind that changes
//! were lost is given a new snapshot and told so, never left with a gap.

use std::sync::Arc;

use tokio::sync::broadcast::{self, error::RecvError};

use super::{Broker, Change};
use crate::clock::Timestamp;
use crate::connection::{ConnectionId, Profile, Status};
use crate::error::Error;
use crate::store::{PageToken, Selection};

/// Connections read from the store at a time.
const PAGE: usize = 500;

/// What happens in a watch.
#[derive(Debug)]
pub enum ConnectionEvent {
    /// A connection as it now stands.
    Connection(Box<Profile>),
    /// One that is no more.
    Removed(ConnectionId),
    /// Its grant ends for good unless its owner consents again.
    Ending {
        /// Whose.
        id: ConnectionId,
        /// When.
        ends_at: Timestamp,
    },
    /// Changes were lost: what was told before is to be forgotten, all connections follow anew.
    SnapshotStart,
    /// All connections were told; what follows are changes.
    SnapshotEnd,
}

/// One reader's watch.
pub struct ConnectionWatch {
    broker: Arc<Broker>,
    selection: Selection,
    changes: broadcast::Receiver<Change>,
    listing: Option<Listing>,
}

/// A snapshot under way.
#[derive(Default)]
struct Listing {
    page: std::vec::IntoIter<Profile>,
    after: Option<PageToken>,
    is_last: bool,
}

impl std::fmt::Debug for ConnectionWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionWatch").field("selection", &self.selection).finish_non_exhaustive()
    }
}

impl Broker {
    /// Watches the selected connections; a selection by status would lose those that change it, and is not looked at.
    pub fn watch_connections(self: &Arc<Self>, selection: Selection) -> ConnectionWatch {
        // Before anything is read: what changes meanwhile is told after the snapshot.
        let changes = self.changes.subscribe();
        let selection = Selection { status: None, ..selection };
        ConnectionWatch { broker: self.clone(), selection, changes, listing: Some(Listing::default()) }
    }
}

impl ConnectionWatch {
    /// What happens next. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The store's, or `SHUTTING_DOWN`: the watch has ended.
    pub async fn next(&mut self) -> Result<ConnectionEvent, Error> {
        loop {
            if let Some(listing) = &mut self.listing {
                if let Some(profile) = listing.page.next() {
                    return Ok(ConnectionEvent::Connection(Box::new(profile)));
                }
                if listing.is_last {
                    self.listing = None;
                    return Ok(ConnectionEvent::SnapshotEnd);
                }
                let page = self.broker.tokens.list(&self.selection, listing.after.as_ref(), PAGE).await?;
                let is_last = page.next.is_none();
                *listing = Listing { page: page.profiles.into_iter(), after: page.next, is_last };
                continue;
            }
            let change = tokio::select! {
                change = self.changes.recv() => change,
                () = self.broker.draining.cancelled() => return Err(Error::ShuttingDown),
            };
            match change {
                Ok(change) => {
                    if let Some(event) = self.event(change) {
                        return Ok(event);
                    }
                }
                Err(RecvError::Lagged(lost)) => {
                    tracing::info!(lost, "a watch fell behind and starts anew");
                    self.changes = self.broker.changes.subscribe();
                    self.listing = Some(Listing::default());
                    return Ok(ConnectionEvent::SnapshotStart);
                }
                Err(RecvError::Closed) => return Err(Error::ShuttingDown),
            }
        }
    }

    fn event(&self, change: Change) -> Option<ConnectionEvent> {
        match change {
            // That a refresh was begun is written down first; to a reader nothing has changed yet.
            Change::Kept(profile) if profile.status == Status::Active && profile.intent.is_some() => None,
            Change::Kept(profile) => {
                self.selects(&profile.id).then_some(ConnectionEvent::Connection(profile))
            }
            Change::Forgotten(id) => self.selects(&id).then_some(ConnectionEvent::Removed(id)),
            Change::Ending { id, ends_at } => {
                self.selects(&id).then_some(ConnectionEvent::Ending { id, ends_at })
            }
        }
    }

    fn selects(&self, id: &ConnectionId) -> bool {
        let Selection { tenant, provider, status: _, name_prefix, with_ended: _ } = &self.selection;
        tenant.as_ref().is_none_or(|tenant| *tenant == id.tenant)
            && provider.as_ref().is_none_or(|provider| *provider == id.provider)
            && name_prefix.as_ref().is_none_or(|prefix| id.name.as_str().starts_with(prefix.as_str()))
    }
}
