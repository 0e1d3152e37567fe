//! What changed while its reader could not be told yet. Owns which of it still matters. Invariant: of each connection only
//! the latest is kept, so it never holds more than there are connections, besides those that went since it was last read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::ConnectionEvent;
use crate::clock::Timestamp;
use crate::connection::{ConnectionId, Profile};

/// The latest of each connection.
#[derive(Default)]
pub(super) struct News {
    gone: BTreeSet<ConnectionId>,
    latest: BTreeMap<ConnectionId, Latest>,
    /// Who was told of last: the next is the one after it, so that what changes all the time lets others have a turn.
    last: Option<ConnectionId>,
}

#[derive(Default)]
struct Latest {
    profile: Option<Box<Profile>>,
    ends_at: Option<Timestamp>,
}

impl News {
    pub(super) fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.latest.is_empty()
    }

    /// A connection is like this now.
    pub(super) fn changed(&mut self, profile: Box<Profile>) {
        let latest = self.latest.entry(profile.id.clone()).or_default();
        latest.profile = Some(profile);
    }

    /// Its grant ends then.
    pub(super) fn ending(&mut self, id: ConnectionId, ends_at: Timestamp) {
        self.latest.entry(id).or_default().ends_at = Some(ends_at);
    }

    /// It is no more, whatever was heard of it before.
    pub(super) fn removed(&mut self, id: ConnectionId) {
        self.latest.remove(&id);
        self.gone.insert(id);
    }

    /// Whether it went, and nobody was told.
    pub(super) fn is_gone(&self, id: &ConnectionId) -> bool {
        self.gone.contains(id)
    }

    /// The next that went. What came anew under its name is told of later.
    pub(super) fn next_gone(&mut self) -> Option<ConnectionEvent> {
        self.gone.pop_first().map(ConnectionEvent::Removed)
    }

    /// The next of all that is to be told.
    pub(super) fn next(&mut self) -> Option<ConnectionEvent> {
        if let Some(gone) = self.next_gone() {
            return Some(gone);
        }
        let after = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let next =
            self.latest.range((after, Bound::Unbounded)).next().or_else(|| self.latest.first_key_value());
        let id = next.map(|(id, _)| id.clone())?;
        let latest = self.latest.get_mut(&id)?;
        self.last = Some(id.clone());
        if let Some(profile) = latest.profile.take() {
            if latest.ends_at.is_none() {
                self.latest.remove(&id);
            }
            return Some(ConnectionEvent::Connection(profile));
        }
        let ends_at = self.latest.remove(&id)?.ends_at?;
        Some(ConnectionEvent::Ending { id, ends_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{Connection, Status};

    const T0: Timestamp = Timestamp::from_millis(1_000_000);

    fn id(name: &str) -> ConnectionId {
        ConnectionId::parse(String::new(), "sandbox".into(), name.into()).unwrap()
    }

    fn profile(name: &str, status: Status) -> Box<Profile> {
        Box::new(Profile { status, ..Connection::pending(id(name), T0).profile })
    }

    fn told(news: &mut News) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(event) = news.next() {
            told.push(match event {
                ConnectionEvent::Connection(profile) => {
                    format!("{} {}", profile.id.name, profile.status.as_str())
                }
                ConnectionEvent::Removed(id) => format!("{} is gone", id.name),
                ConnectionEvent::Ending { id, .. } => format!("{} ends", id.name),
                event => format!("{event:?}"),
            });
        }
        assert!(news.is_empty());
        told
    }

    #[test]
    fn of_each_connection_the_latest_is_told_once() {
        let mut news = News::default();
        for status in [Status::Active, Status::Ambiguous, Status::Active, Status::ReauthRequired] {
            news.changed(profile("a", status));
            news.changed(profile("b", Status::Active));
        }
        news.ending(id("b"), T0);
        assert_eq!(told(&mut news), ["a REAUTH_REQUIRED", "b ACTIVE", "b ends"]);
    }

    #[test]
    fn what_went_is_told_before_what_came_anew_under_its_name() {
        let mut news = News::default();
        news.changed(profile("a", Status::Active));
        news.ending(id("a"), T0);
        news.removed(id("a"));
        assert!(news.is_gone(&id("a")));
        news.changed(profile("a", Status::Pending));
        assert_eq!(told(&mut news), ["a is gone", "a PENDING"]);
        assert!(!news.is_gone(&id("a")));
    }

    #[test]
    fn one_that_changes_all_the_time_keeps_nobody_from_being_told() {
        let mut news = News::default();
        for name in ["a", "b", "c"] {
            news.changed(profile(name, Status::Active));
        }
        news.ending(id("a"), T0);
        let mut seen = Vec::new();
        for _ in 0..3 {
            let Some(ConnectionEvent::Connection(profile)) = news.next() else { panic!("a connection") };
            seen.push(profile.id.name.to_string());
            news.changed(self::profile("a", Status::Active));
        }
        assert_eq!(seen, ["a", "b", "c"]);
    }
}
