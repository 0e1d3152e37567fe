use super::*;
use crate::entropy::SeededEntropy;
use crate::secret::Secret;
use crate::store::conformance::{connection, id};
use crate::store::keyring::KeyRing;
use crate::store::memory::MemoryEngine;

/// A table over a map whose rows a test can reach.
struct Fixture {
    table: Arc<Table>,
    rows: MemoryEngine,
}

fn fixture() -> Fixture {
    let ring = Arc::new(KeyRing::ephemeral(&SeededEntropy::new(1)));
    let sealer = Sealer::new(ring, uuid::Uuid::from_u128(7), Arc::new(SeededEntropy::new(2)));
    Fixture { table: Table::new(sealer, Index::new(Secret::new([3; 32]))), rows: MemoryEngine::default() }
}

impl Fixture {
    fn put(&self, name: &str, mark: &str, expected: Expected) -> Revision {
        let plain = Plain::new(&connection(id("", "google", name), mark)).unwrap();
        let mut changes = Vec::new();
        let revision = self.table.put(&self.rows, &plain, expected, &mut changes).unwrap();
        self.rows.apply(&changes).unwrap();
        revision
    }

    fn row(&self, name: &str) -> Vec<u8> {
        self.rows.get(&self.table.index.connection(&id("", "google", name))).unwrap().unwrap()
    }

    fn plant(&self, name: &str, row: Vec<u8>) {
        let key = self.table.index.connection(&id("", "google", name));
        self.rows.apply(&[Change { key, value: Some(row) }]).unwrap();
    }

    fn get(&self, name: &str) -> Result<String, Fault> {
        let stored = self.table.get(&self.rows, &id("", "google", name))?.unwrap();
        Ok(stored.value.tokens.unwrap().access.unwrap().value.expose().clone())
    }

    /// How many are listed, and how many could not be read.
    fn list(&self) -> (usize, usize) {
        let page = self.table.list(&self.rows, &Selection::default(), None, 10).unwrap();
        (page.profiles.len(), page.unreadable)
    }
}

fn is_unreadable<T>(outcome: Result<T, Fault>) -> bool {
    matches!(outcome, Err(Fault::Refused(StoreError::Unreadable(_))))
}

#[test]
fn a_row_moved_to_another_name_is_unreadable_never_absent_and_never_served() {
    let store = fixture();
    store.put("alice", "a", Expected::Absent);
    store.put("mallory", "m", Expected::Absent);
    store.plant("mallory", store.row("alice"));
    assert!(is_unreadable(store.get("mallory")));
    assert_eq!(store.list(), (1, 1));
    assert_eq!(store.get("alice").unwrap(), "access-a");
}

#[test]
fn a_field_of_another_revision_or_another_row_is_unreadable() {
    let store = fixture();
    let first = store.put("alice", "old", Expected::Absent);
    let old = store.row("alice");
    store.put("alice", "new", Expected::At(first));
    let new = store.row("alice");
    let (old, new) = (ConnectionRow::decode(&old).unwrap(), ConnectionRow::decode(&new).unwrap());
    let mixtures = [
        ConnectionRow { tokens: old.tokens, ..ConnectionRow { ..new } },
        ConnectionRow { profile: old.profile, ..ConnectionRow { ..new } },
        ConnectionRow { revision: new.revision + 1, ..ConnectionRow { ..new } },
        ConnectionRow { tokens: new.profile, profile: new.tokens, ..ConnectionRow { ..new } },
    ];
    for mixture in mixtures {
        store.plant("alice", mixture.encode());
        assert!(is_unreadable(store.get("alice")));
    }
}

#[test]
fn a_listing_opens_no_token() {
    let store = fixture();
    store.put("alice", "a", Expected::Absent);
    let row = store.row("alice");
    let row = ConnectionRow { tokens: b"not even sealed", ..ConnectionRow::decode(&row).unwrap() };
    store.plant("alice", row.encode());
    assert_eq!(store.list(), (1, 0));
    assert!(is_unreadable(store.get("alice")));
}

#[test]
fn a_damaged_record_is_counted_in_one_part_of_a_listing_and_the_others_are_listed() {
    let store = fixture();
    for at in 0..20 {
        store.put(&format!("user-{at}"), "1", Expected::Absent);
    }
    for at in [3, 4, 11] {
        store.plant(&format!("user-{at}"), vec![0; 40]);
    }
    for limit in [1, 2, 5, 17, 100] {
        let (mut names, mut unreadable, mut after) = (std::collections::BTreeSet::new(), 0, None);
        loop {
            let page = store.table.list(&store.rows, &Selection::default(), after.as_ref(), limit).unwrap();
            for profile in page.profiles {
                assert!(names.insert(profile.id.name.as_str().to_owned()), "{} twice", profile.id);
            }
            unreadable += page.unreadable;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!((names.len(), unreadable), (17, 3), "parts of {limit}");
    }
}

#[test]
fn a_sweep_leaves_what_it_cannot_read_and_removes_the_rest() {
    let store = fixture();
    let damaged = store.table.index.session(SessionKey([1; 32]));
    let expired = store.table.index.session(SessionKey([2; 32]));
    let row = SessionRow { expires_at: Timestamp::from_millis(1), sealed: b"" }.encode();
    let rows = [Change { key: damaged, value: Some(vec![0; 3]) }, Change { key: expired, value: Some(row) }];
    store.rows.apply(&rows).unwrap();
    let mut changes = Vec::new();
    let swept = store.table.sweep_sessions(&store.rows, Timestamp::from_millis(2), &mut changes).unwrap();
    assert_eq!(swept, 1);
    assert_eq!(changes.iter().map(|change| change.key).collect::<Vec<_>>(), [expired]);
}

#[test]
fn every_single_flipped_bit_of_a_row_is_noticed() {
    let store = fixture();
    store.put("alice", "a", Expected::Absent);
    let good = store.row("alice");
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        store.plant("alice", bad);
        // The name is what a listing reads; a read by name needs it not.
        assert!(is_unreadable(store.get("alice")) || store.list() == (0, 1), "byte {at}");
    }
}

#[test]
fn no_plaintext_stands_in_a_row_or_its_key() {
    let store = fixture();
    store.put("alice-canary", "canary", Expected::Absent);
    let key = store.table.index.connection(&id("", "google", "alice-canary"));
    let row = [key.as_slice(), &store.row("alice-canary")].concat();
    for canary in ["canary", "alice", "google", "Bearer", "active"] {
        assert!(!row.windows(canary.len()).any(|window| window == canary.as_bytes()), "{canary}");
    }
}
