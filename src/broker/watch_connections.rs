//! WatchConnections: every connection as it is, then each change. Owns where a reader is in that.
//!
//! Invariant: what a reader has applied up to a snapshot's end is complete; one that fell so far behind that changes
//! were lost is given a new snapshot and told so, never left with a gap.

mod news;

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::broadcast::{
    self,
    error::{RecvError, TryRecvError},
};

use self::news::News;
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
    /// Its grant ends for good unless its owner consents again. Told when it is announced, and from then until it
    /// comes in every snapshot.
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
    /// What changed during the snapshot: its reader is told afterwards, however long reading takes.
    news: News,
}

/// A snapshot under way.
#[derive(Default)]
struct Listing {
    page: VecDeque<Profile>,
    /// The end, announced before, of the grant of the connection that was told of last.
    ending: Option<(ConnectionId, Timestamp)>,
    after: Option<PageToken>,
    is_last: bool,
}

/// Why there is nothing to be told.
enum Missing {
    /// So many changes were lost.
    Lost(u64),
    /// The watch ends.
    Over(Error),
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
        let (listing, news) = (Some(Listing::default()), News::default());
        ConnectionWatch { broker: self.clone(), selection, changes, listing, news }
    }
}

impl ConnectionWatch {
    /// What happens next. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The store's, or `SHUTTING_DOWN`: the watch has ended.
    pub async fn next(&mut self) -> Result<ConnectionEvent, Error> {
        loop {
            let told = if self.listing.is_some() || !self.news.is_empty() {
                match self.take_in() {
                    Ok(()) => self.snapshot().await,
                    Err(missing) => Err(missing),
                }
            } else {
                tokio::select! {
                    change = self.changes.recv() => change.map(|change| event(&self.selection, change)).map_err(Missing::from),
                    () = self.broker.draining.cancelled() => Err(Missing::Over(Error::ShuttingDown)),
                }
            };
            match told {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => {}
                Err(Missing::Lost(lost)) => {
                    tracing::info!(lost, "a watch fell behind and starts anew");
                    self.changes = self.broker.changes.subscribe();
                    self.news = News::default();
                    self.listing = Some(Listing::default());
                    return Ok(ConnectionEvent::SnapshotStart);
                }
                Err(Missing::Over(error)) => return Err(error),
            }
        }
    }

    /// The next of a snapshot and of what changed meanwhile.
    async fn snapshot(&mut self) -> Result<Option<ConnectionEvent>, Missing> {
        let Some(listing) = &mut self.listing else { return Ok(self.news.next()) };
        // At once, so that however many come and go they are not piled up.
        if let Some(gone) = self.news.next_gone() {
            return Ok(Some(gone));
        }
        if let Some((id, ends_at)) = listing.ending.take() {
            return Ok(Some(ConnectionEvent::Ending { id, ends_at }));
        }
        if let Some(profile) = listing.page.pop_front() {
            // It was announced to those who were there.
            let ends_at = self.broker.announced_end(&profile.id);
            listing.ending = ends_at.map(|ends_at| (profile.id.clone(), ends_at));
            return Ok(Some(ConnectionEvent::Connection(Box::new(profile))));
        }
        if listing.is_last {
            self.listing = None;
            return Ok(Some(ConnectionEvent::SnapshotEnd));
        }
        let mut listed = self.broker.tokens.list(&self.selection, listing.after.as_ref(), PAGE);
        let page = loop {
            tokio::select! {
                page = &mut listed => break page.map_err(|error| Missing::Over(error.into()))?,
                change = self.changes.recv() => match change {
                    Ok(change) => note(&mut self.news, event(&self.selection, change)),
                    Err(error) => return Err(error.into()),
                },
            }
        };
        drop(listed);
        let is_last = page.next.is_none();
        let mut profiles = VecDeque::from(page.profiles);
        profiles.retain(|profile| !self.news.is_gone(&profile.id));
        *listing = Listing { page: profiles, ending: None, after: page.next, is_last };
        Ok(None)
    }

    /// Takes in what has changed, to make room for more changes.
    fn take_in(&mut self) -> Result<(), Missing> {
        loop {
            match self.changes.try_recv() {
                Ok(change) => {
                    let event = event(&self.selection, change);
                    if let (Some(ConnectionEvent::Removed(gone)), Some(listing)) = (&event, &mut self.listing)
                    {
                        listing.page.retain(|profile| profile.id != *gone);
                        listing.ending.take_if(|(id, _)| id == gone);
                    }
                    note(&mut self.news, event);
                }
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Lagged(lost)) => return Err(Missing::Lost(lost)),
                Err(TryRecvError::Closed) => return Err(Missing::Over(Error::ShuttingDown)),
            }
        }
    }
}

impl From<RecvError> for Missing {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Lagged(lost) => Self::Lost(lost),
            RecvError::Closed => Self::Over(Error::ShuttingDown),
        }
    }
}

fn note(news: &mut News, event: Option<ConnectionEvent>) {
    match event {
        Some(ConnectionEvent::Connection(profile)) => news.changed(profile),
        Some(ConnectionEvent::Removed(id)) => news.removed(id),
        Some(ConnectionEvent::Ending { id, ends_at }) => news.ending(id, ends_at),
        Some(ConnectionEvent::SnapshotStart | ConnectionEvent::SnapshotEnd) | None => {}
    }
}

/// What a change is to a reader; `None`: nothing.
fn event(selection: &Selection, change: Change) -> Option<ConnectionEvent> {
    match change {
        // That a refresh was begun is written down first; to a reader nothing has changed yet. A consent may leave one
        // unanswered, too, and counts as a generation of its own.
        Change::Kept(profile) if is_begun(&profile) => None,
        Change::Kept(profile) => {
            selects(selection, &profile.id).then_some(ConnectionEvent::Connection(profile))
        }
        Change::Forgotten(id) => selects(selection, &id).then_some(ConnectionEvent::Removed(id)),
        Change::Ending { id, ends_at } => {
            selects(selection, &id).then_some(ConnectionEvent::Ending { id, ends_at })
        }
    }
}

/// Whether a refresh is written down, of what the record holds, and nothing besides.
fn is_begun(profile: &Profile) -> bool {
    profile.status == Status::Active
        && profile.intent.as_ref().is_some_and(|intent| intent.generation == profile.generation)
}

fn selects(selection: &Selection, id: &ConnectionId) -> bool {
    let Selection { tenant, provider, status: _, name_prefix, with_ended: _ } = selection;
    tenant.as_ref().is_none_or(|tenant| *tenant == id.tenant)
        && provider.as_ref().is_none_or(|provider| *provider == id.provider)
        && name_prefix.as_ref().is_none_or(|prefix| id.name.as_str().starts_with(prefix.as_str()))
}
