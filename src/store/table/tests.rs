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

    fn list(&self) -> Result<usize, Fault> {
        self.table.list(&self.rows, &Selection::default(), None, 10).map(|page| page.profiles.len())
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
    assert!(is_unreadable(store.list()));
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
    assert_eq!(store.list().unwrap(), 1);
    assert!(is_unreadable(store.get("alice")));
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
        assert!(is_unreadable(store.get("alice")) || is_unreadable(store.list()), "byte {at}");
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
