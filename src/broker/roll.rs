//! What house-keeping must know of every connection, in memory, so that it does not read all records every minute: to
//! open 100 000 of them takes a second of processor time. Owns that list and its race with the walk that fills it. Does
//! not know the store. Invariant: a change that was told is never undone by an older record that the walk comes upon.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasher as _;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::connection::{ConnectionId, Profile, ProviderKey, QUARANTINE, REMEMBERED, SESSION_TTL, Status};

/// After so long all records are read again: a write whose outcome nobody was told of may have been done all the same.
const AGES_AFTER: Duration = Duration::from_secs(3600);

/// Every connection, in a few bytes each.
#[derive(Default)]
pub(super) struct Roll {
    /// Keyed by a hash of the name, which is far larger. Should two of them ever meet, one is not counted.
    entries: HashMap<u64, Entry>,
    hasher: RandomState,
    providers: Vec<ProviderKey>,
    /// Those for which something is to be done by itself, and when.
    perishable: HashMap<ConnectionId, Timestamp>,
    /// Histories of connections that are no more, and since when each is kept.
    past: HashMap<ConnectionId, Timestamp>,
    /// While a walk is under way: what changed since it began, of which it knows less.
    changed: Option<HashSet<u64>>,
    filled_at: Option<Instant>,
}

/// What is counted.
struct Entry {
    /// A hash of the provider and its account; 0: not known.
    account: u64,
    ends_at: Option<Timestamp>,
    /// A place in [`Roll::providers`].
    provider: u32,
    status: Status,
}

/// What is known of a provider's connections.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    /// How many are in each status, where any is.
    pub(super) by_status: BTreeMap<&'static str, u64>,
    /// When the first of their grants ends.
    pub(super) soonest_end: Option<Timestamp>,
}

impl Roll {
    /// Whether all records are to be read.
    pub(super) fn is_aged(&self) -> bool {
        self.filled_at.is_none_or(|at| at.elapsed() >= AGES_AFTER)
    }

    /// A walk over all records begins.
    pub(super) fn begin(&mut self) {
        self.entries = HashMap::new();
        self.perishable = HashMap::new();
        self.past = HashMap::new();
        self.changed = Some(HashSet::new());
    }

    /// The walk came upon a connection.
    pub(super) fn met(&mut self, profile: &Profile) {
        let key = self.hasher.hash_one(&profile.id);
        if self.changed.as_ref().is_some_and(|changed| !changed.contains(&key)) {
            self.enter(key, profile);
        }
    }

    /// The walk has seen all.
    pub(super) fn finish(&mut self) {
        self.changed = None;
        self.filled_at = Some(Instant::now());
    }

    /// A connection is like this now.
    pub(super) fn note(&mut self, profile: &Profile) {
        let key = self.hasher.hash_one(&profile.id);
        if let Some(changed) = &mut self.changed {
            changed.insert(key);
        }
        self.enter(key, profile);
    }

    /// A connection is no more.
    pub(super) fn forget(&mut self, id: &ConnectionId) {
        let key = self.hasher.hash_one(id);
        if let Some(changed) = &mut self.changed {
            changed.insert(key);
        }
        self.entries.remove(&key);
        self.perishable.remove(id);
        self.past.remove(id);
    }

    /// Nothing can be done for it by itself, before all records are read again.
    pub(super) fn leave(&mut self, id: &ConnectionId) {
        self.perishable.remove(id);
        self.past.remove(id);
    }

    /// Those for which something is to be done now.
    pub(super) fn due(&self, now: Timestamp) -> Vec<ConnectionId> {
        self.perishable.iter().filter(|(_, at)| **at <= now).map(|(id, _)| id.clone()).collect()
    }

    /// Those histories that were kept for long enough at `now`, and the oldest of those that are more than `most`.
    pub(super) fn past(&self, now: Timestamp, most: usize) -> Vec<(ConnectionId, Timestamp)> {
        let mut past: Vec<_> = self.past.iter().collect();
        past.sort_unstable_by_key(|(_, since)| **since);
        let excess = past.len().saturating_sub(most);
        let is_over = |at: usize, since: Timestamp| at < excess || since + REMEMBERED <= now;
        let over = past.into_iter().enumerate().filter(|(at, (_, since))| is_over(*at, **since));
        over.map(|(_, (id, since))| (id.clone(), *since)).collect()
    }

    /// What is known of every provider that ever had a connection.
    pub(super) fn census(&self) -> BTreeMap<ProviderKey, Census> {
        let mut counted: Vec<Census> = self.providers.iter().map(|_| Census::default()).collect();
        for entry in self.entries.values() {
            let Some(census) = counted.get_mut(entry.provider as usize) else { continue };
            *census.by_status.entry(entry.status.as_str()).or_default() += 1;
            // min of two options, where none means no end is known.
            census.soonest_end = census.soonest_end.into_iter().chain(entry.ends_at).min();
        }
        self.providers.iter().cloned().zip(counted).collect()
    }

    /// How many other connections serve from the same account of its provider. `None`: not all are known yet.
    pub(super) fn twins(&self, profile: &Profile) -> Option<usize> {
        if self.filled_at.is_none() || self.changed.is_some() {
            return None;
        }
        let (own, account) = (self.hasher.hash_one(&profile.id), self.account(profile));
        if account == 0 {
            return Some(0);
        }
        let is_twin =
            |(key, entry): &(&u64, &Entry)| **key != own && entry.account == account && entry.status.serves();
        Some(self.entries.iter().filter(is_twin).count())
    }

    fn account(&self, profile: &Profile) -> u64 {
        let account = profile.account.as_ref();
        account.map_or(0, |account| self.hasher.hash_one((profile.id.provider.as_str(), &account.id)))
    }

    fn enter(&mut self, key: u64, profile: &Profile) {
        if profile.id.is_ended() {
            self.past.insert(profile.id.clone(), profile.updated_at);
            return;
        }
        match perishes_at(profile) {
            Some(at) => {
                self.perishable.insert(profile.id.clone(), at);
            }
            None => {
                self.perishable.remove(&profile.id);
            }
        }
        let place = self.providers.iter().position(|known| *known == profile.id.provider);
        let place = place.unwrap_or_else(|| {
            self.providers.push(profile.id.provider.clone());
            self.providers.len() - 1
        });
        let entry = Entry {
            account: self.account(profile),
            ends_at: profile.refresh_expires_at,
            provider: u32::try_from(place).unwrap_or(u32::MAX),
            status: profile.status,
        };
        self.entries.insert(key, entry);
    }
}

/// From when on something is to be done about a connection that nobody asks for.
fn perishes_at(profile: &Profile) -> Option<Timestamp> {
    if is_pending(profile) {
        return Some(profile.updated_at + SESSION_TTL);
    }
    profile.quarantined_at.map(|since| since + QUARANTINE)
}

fn is_pending(profile: &Profile) -> bool {
    profile.status == Status::Pending
}

/// Whether the consent that was to fill it has run out of time.
pub(super) fn is_forgotten(profile: &Profile, now: Timestamp) -> bool {
    is_pending(profile) && profile.updated_at + SESSION_TTL < now
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{Account, Connection};

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    fn profile(name: &str, status: Status) -> Profile {
        let id = ConnectionId::parse(String::new(), "google".into(), name.into()).unwrap();
        Profile { status, ..Connection::pending(id, NOW).profile }
    }

    fn count(roll: &Roll, status: Status) -> u64 {
        let google = ProviderKey::parse("google").unwrap();
        roll.census()
            .get(&google)
            .and_then(|census| census.by_status.get(status.as_str()).copied())
            .unwrap_or(0)
    }

    #[test]
    fn a_walk_undoes_nothing_that_was_told_meanwhile() {
        let mut roll = Roll::default();
        assert!(roll.is_aged());
        roll.begin();
        roll.note(&profile("renewed", Status::Active));
        roll.forget(&profile("gone", Status::Active).id);
        for old in ["renewed", "gone", "still"] {
            roll.met(&profile(old, Status::ReauthRequired));
        }
        roll.finish();
        assert!(!roll.is_aged());
        assert_eq!((count(&roll, Status::Active), count(&roll, Status::ReauthRequired)), (1, 1));
        roll.begin();
        roll.finish();
        assert_eq!((count(&roll, Status::Active), count(&roll, Status::ReauthRequired)), (0, 0));
    }

    #[test]
    fn what_changes_is_counted_once_and_the_soonest_end_is_known() {
        let mut roll = Roll::default();
        let ends = |hours: u64| Some(NOW + Duration::from_secs(hours * 3600));
        for (name, end) in [("a", None), ("b", ends(9)), ("c", ends(5)), ("c", ends(7))] {
            roll.note(&Profile { refresh_expires_at: end, ..profile(name, Status::Active) });
        }
        let google = ProviderKey::parse("google").unwrap();
        assert_eq!(roll.census()[&google].soonest_end, ends(7));
        assert_eq!(count(&roll, Status::Active), 3);
        roll.note(&profile("b", Status::Disabled));
        roll.forget(&profile("a", Status::Active).id);
        assert_eq!((count(&roll, Status::Active), count(&roll, Status::Disabled)), (1, 1));
    }

    #[test]
    fn connections_of_one_account_are_known_once_all_are() {
        let mut roll = Roll::default();
        let of = |name: &str, account: &str| {
            let account = Some(Account { id: account.into(), email: None });
            Profile { account, ..profile(name, Status::Active) }
        };
        let (first, second, other) = (of("a", "alice"), of("b", "alice"), of("c", "bob"));
        roll.note(&first);
        assert_eq!(roll.twins(&second), None);
        roll.begin();
        for profile in [&first, &second, &other] {
            roll.met(profile);
        }
        assert_eq!(roll.twins(&second), None);
        roll.finish();
        assert_eq!([&first, &second, &other].map(|one| roll.twins(one)), [Some(1), Some(1), Some(0)]);
        assert_eq!(roll.twins(&profile("unknown", Status::Active)), Some(0));
        roll.note(&Profile { status: Status::ReauthRequired, ..first });
        assert_eq!(roll.twins(&second), Some(0), "it holds nothing that could die");
    }

    #[test]
    fn histories_of_what_ended_are_no_connections_and_go_when_they_are_old_or_too_many() {
        let mut roll = Roll::default();
        let past = |name: &str, days: u32| {
            let profile = profile(name, Status::Revoked);
            let updated_at = NOW + Duration::from_secs(86_400) * days;
            Profile { id: profile.id.ended(), updated_at, ..profile }
        };
        let [first, second, third] = [past("a", 0), past("b", 1), past("c", 2)];
        for profile in [&third, &first, &second] {
            roll.note(profile);
        }
        assert_eq!(count(&roll, Status::Revoked), 0);
        let due = |roll: &Roll, at, most| -> Vec<ConnectionId> {
            roll.past(at, most).into_iter().map(|(id, _)| id).collect()
        };
        assert_eq!(due(&roll, NOW, 3), []);
        assert_eq!(due(&roll, NOW, 1), [first.id.clone(), second.id.clone()]);
        assert_eq!(due(&roll, NOW + REMEMBERED, 3), std::slice::from_ref(&first.id));
        roll.forget(&first.id);
        assert_eq!(due(&roll, NOW + REMEMBERED, 3), []);
    }

    #[test]
    fn a_consent_that_never_came_and_a_quarantine_that_ends_are_due() {
        let mut roll = Roll::default();
        let begun = profile("begun", Status::Pending);
        let dead = Profile { quarantined_at: Some(NOW), ..profile("dead", Status::ReauthRequired) };
        roll.note(&begun);
        roll.note(&dead);
        roll.note(&profile("well", Status::Active));
        assert_eq!(roll.due(NOW), []);
        assert_eq!(roll.due(NOW + SESSION_TTL), std::slice::from_ref(&begun.id));
        roll.note(&Profile { status: Status::Active, ..begun });
        assert_eq!(roll.due(NOW + QUARANTINE), std::slice::from_ref(&dead.id));
        roll.forget(&dead.id);
        assert_eq!(roll.due(NOW + QUARANTINE), []);
    }
}
