//! How far a store is (G9): the sequence number of its last write, how many rows it holds, and a sum over which
//! revision of each. Owns the numbers and how a write moves them. Does not know files. Invariant: the mark in the engine
//! is written in the same batch as the change that moved it, so that it is true of the rows whatever happens.

use crate::store::engine::{Change, Engine, Fault, Found};
use crate::store::index::{Key, Kind, MARK};

/// How far a store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// Counts writes; 0 in a new store.
    pub(super) sequence: u64,
    /// Connections held.
    pub(super) connections: u64,
    /// Consents under way.
    pub(super) sessions: u64,
    /// Tells one set of rows and revisions from another: a sum, so that a write moves it without looking at the rest.
    pub(super) digest: u64,
}

const VERSION: u8 = 1;

/// The end of a consent, in milliseconds since 1970, is before the year 2100.
const LATEST: u64 = 1 << 42;

impl Mark {
    pub(super) const BYTES: usize = 32;

    /// The mark once `changes`, none of them twice of one row, are applied to `engine` as it is.
    pub(super) fn after(mut self, engine: &dyn Engine, changes: &[Change]) -> Result<Self, Fault> {
        self.sequence += 1;
        for change in changes {
            let old = match engine.get(&change.key) {
                Ok(old) => old,
                // It does not open and is there.
                Err(Fault::Refused(_)) => Some(Vec::new()),
                Err(fault) => return Err(fault),
            };
            if let Some(old) = old {
                self.digest = self.digest.wrapping_sub(digest(&change.key, &old));
                self.count(&change.key, |count| count.saturating_sub(1));
            }
            if let Some(new) = &change.value {
                self.digest = self.digest.wrapping_add(digest(&change.key, new));
                self.count(&change.key, |count| count + 1);
            }
        }
        Ok(self)
    }

    /// Counts a row that a scan came upon.
    pub(super) fn add(&mut self, (key, row): &Found) {
        let row = row.as_deref().unwrap_or_default();
        self.digest = self.digest.wrapping_add(digest(key, row));
        self.count(key, |count| count + 1);
    }

    /// Both together, of different rows of one store.
    pub(super) fn joined(self, other: Self) -> Self {
        Self {
            sequence: self.sequence.max(other.sequence),
            connections: self.connections + other.connections,
            sessions: self.sessions + other.sessions,
            digest: self.digest.wrapping_add(other.digest),
        }
    }

    /// Whether this may be the mark of the rows that were `counted`, of which those of `unknown` have lost their revision:
    /// where it is one, it is reckoned back from the rest. Of several nothing can be reckoned, so they are taken for others.
    pub(super) fn is_of(&self, counted: &Self, unknown: &[Key]) -> bool {
        let nameless = unknown.iter().fold(0, |sum: u64, key| sum.wrapping_add(digest(key, &[])));
        let rest = self.digest.wrapping_sub(counted.digest.wrapping_sub(nameless));
        // Written to since, with what is left of them counted for what it is; or of rows that were removed.
        if rest == nameless || rest == 0 {
            return true;
        }
        let [key] = unknown else { return false };
        let count = unmixed(unmixed(rest) ^ u64::from_be_bytes(eight(&key[1..])));
        // No row was written more often than all together; a consent has its end in the place of a count.
        count <= if key[0] == Kind::Session.byte() { LATEST } else { self.sequence }
    }

    fn count(&mut self, key: &Key, moved: impl Fn(u64) -> u64) {
        if key[0] == Kind::Connection.byte() {
            self.connections = moved(self.connections);
        } else if key[0] == Kind::Session.byte() {
            self.sessions = moved(self.sessions);
        }
    }

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let numbers = [self.sequence, self.connections, self.sessions, self.digest];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (numbers, []) = bytes.as_chunks::<8>() else { return None };
        let [sequence, connections, sessions, digest] = <[[u8; 8]; 4]>::try_from(numbers).ok()?;
        let [sequence, connections, sessions, digest] =
            [sequence, connections, sessions, digest].map(u64::from_be_bytes);
        Some(Self { sequence, connections, sessions, digest })
    }

    /// The change that writes this mark into the engine.
    pub(super) fn change(self) -> Change {
        Change { key: MARK, value: Some([&[VERSION], self.to_bytes().as_slice()].concat()) }
    }

    /// The mark in `engine`: `None` where no version ever wrote one, an error text where it is damaged.
    pub(super) fn of(engine: &dyn Engine) -> Result<Option<Self>, Fault> {
        let Some(row) = engine.get(&MARK)? else { return Ok(None) };
        let mark = match row.split_first() {
            Some((&VERSION, bytes)) => Self::from_bytes(bytes),
            _ => None,
        };
        mark.map(Some).ok_or_else(|| Fault::Broken("its commit mark is damaged".to_owned()))
    }
}

/// Stands for one row in one revision. A row's key is an HMAC, so it is random already; its first nine bytes are its
/// version and its revision, or what counts its writes.
fn digest(key: &Key, row: &[u8]) -> u64 {
    let number = |bytes: &[u8]| u64::from_be_bytes(eight(bytes));
    mixed(number(&key[1..]) ^ mixed(number(row.get(1..).unwrap_or_default())))
}

/// The first eight bytes; zeros where there are fewer.
fn eight(bytes: &[u8]) -> [u8; 8] {
    bytes.first_chunk().copied().unwrap_or_default()
}

/// `SplitMix64`: spreads every bit over all others.
const fn mixed(state: u64) -> u64 {
    let z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What [`mixed`] made this of: each of its steps can be undone.
const fn unmixed(state: u64) -> u64 {
    let z = state ^ (state >> 31) ^ (state >> 62);
    let z = z.wrapping_mul(0x3196_42B2_D24D_8EC3);
    let z = z ^ (z >> 27) ^ (z >> 54);
    let z = z.wrapping_mul(0x96DE_1B17_3F11_9089);
    let z = z ^ (z >> 30) ^ (z >> 60);
    z.wrapping_sub(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::memory::MemoryEngine;

    fn row(revision: u64) -> Vec<u8> {
        [&[1], revision.to_be_bytes().as_slice(), b"sealed"].concat()
    }

    fn key(at: u8) -> Key {
        let mut key = [at; 33];
        key[0] = if at.is_multiple_of(3) { Kind::Session } else { Kind::Connection }.byte();
        key
    }

    fn scanned(engine: &MemoryEngine) -> Mark {
        let mut mark = Mark::default();
        for kind in [Kind::Connection, Kind::Session] {
            engine.scan(kind, None, usize::MAX).unwrap().iter().for_each(|found| mark.add(found));
        }
        mark
    }

    proptest! {
        #[test]
        fn what_writes_move_is_what_a_scan_finds(writes in prop::collection::vec((0u8..9, any::<bool>()), 1..60)) {
            let engine = MemoryEngine::default();
            let mut mark = Mark::default();
            for (revision, (at, is_put)) in (1..).zip(writes) {
                let change = Change { key: key(at), value: is_put.then(|| row(revision)) };
                mark = mark.after(&engine, std::slice::from_ref(&change)).unwrap();
                engine.apply(&[change]).unwrap();
                let found = scanned(&engine);
                prop_assert_eq!(Mark { sequence: revision, ..found }, mark);
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_mixed_is_found_again(number in any::<u64>()) {
            prop_assert_eq!(unmixed(mixed(number)), number);
        }
    }

    #[test]
    fn a_row_of_another_revision_has_another_digest() {
        let (engine, other) = (MemoryEngine::default(), MemoryEngine::default());
        for (engine, revision) in [(&engine, 1), (&other, 2)] {
            engine.apply(&[Change { key: key(1), value: Some(row(revision)) }]).unwrap();
        }
        assert_ne!(scanned(&engine).digest, scanned(&other).digest);
        assert_eq!(scanned(&engine).connections, scanned(&other).connections);
    }

    #[test]
    fn a_mark_is_read_back_from_its_bytes_and_from_the_engine() {
        let mark = Mark { sequence: 1, connections: 2, sessions: 3, digest: 4 };
        assert_eq!(Mark::from_bytes(&mark.to_bytes()), Some(mark));
        assert_eq!(Mark::from_bytes(&[0; 31]), None);
        let engine = MemoryEngine::default();
        assert_eq!(Mark::of(&engine).unwrap(), None);
        engine.apply(&[mark.change()]).unwrap();
        assert_eq!(Mark::of(&engine).unwrap(), Some(mark));
    }
}
