//! S4: sled writes a value that is too large for its log into a file of its own, whose durability is its weakest
//! spot. So no stored value exceeds 4 KiB. A row of n chunks lies under `key ‖ i`, for i from 0 to n − 1, and the
//! first byte of each chunk is n.

use crate::store::engine::{Change, Fault, MAX_ROW};
use crate::store::index::Key;

/// The largest value that sled is given.
pub(super) const MAX_CHUNK: usize = 4096;
const PAYLOAD: usize = MAX_CHUNK - 1;

// The largest row is 255 chunks.
const _: () = assert!(MAX_ROW == PAYLOAD * 255);

/// Where a chunk lies.
pub(super) type ChunkKey = [u8; 34];

/// Where chunk `at` of a row lies.
pub(super) fn key(row: &Key, at: u8) -> ChunkKey {
    let mut key = [at; 34];
    key[..33].copy_from_slice(row);
    key
}

/// The whole row, if `first` is its only chunk.
pub(super) fn whole(first: &[u8]) -> Option<&[u8]> {
    first.split_first().filter(|(count, _)| **count == 1).map(|(_, value)| value)
}

/// The chunks that a change puts; none if it removes.
pub(super) fn split(change: &Change) -> Result<Vec<(ChunkKey, Vec<u8>)>, Fault> {
    let Some(value) = &change.value else { return Ok(Vec::new()) };
    let pieces: Vec<&[u8]> = if value.is_empty() { vec![&[]] } else { value.chunks(PAYLOAD).collect() };
    let Ok(count) = u8::try_from(pieces.len()) else {
        return Err(Fault::too_large(value.len()));
    };
    Ok((0..count).zip(pieces).map(|(at, piece)| (key(&change.key, at), [&[count], piece].concat())).collect())
}

/// Rows put together again from chunks in key order.
#[derive(Default)]
pub(super) struct Parts {
    rows: Vec<Row>,
}

struct Row {
    key: Key,
    value: Vec<u8>,
    count: u8,
    seen: u8,
    is_intact: bool,
}

impl Parts {
    /// How many rows there are so far.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether the chunk at `at` would begin another row.
    pub(super) fn would_begin(&self, at: &[u8]) -> bool {
        self.rows.last().is_none_or(|row| !at.starts_with(&row.key))
    }

    pub(super) fn push(&mut self, at: &[u8], chunk: &[u8]) {
        let Some((key, place)) = at.split_first_chunk::<33>() else { return };
        let (&count, piece) = chunk.split_first().unwrap_or((&0, &[]));
        if self.would_begin(at) {
            self.rows.push(Row { key: *key, value: Vec::new(), count, seen: 0, is_intact: true });
        }
        let Some(row) = self.rows.last_mut() else { return };
        row.is_intact &= place == [row.seen].as_slice() && count == row.count && row.seen < count;
        row.seen = row.seen.saturating_add(1);
        row.value.extend_from_slice(piece);
    }

    /// The rows in order; `None` where a piece is missing, surplus or of another row.
    pub(super) fn finish(self) -> Vec<(Key, Option<Vec<u8>>)> {
        let value = |row: Row| (row.is_intact && row.seen == row.count).then_some(row.value);
        self.rows.into_iter().map(|row| (row.key, value(row))).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::StoreError;

    const ROW: Key = [7; 33];

    fn split_of(len: usize) -> Vec<(ChunkKey, Vec<u8>)> {
        let value = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
        split(&Change { key: ROW, value: Some(value) }).unwrap()
    }

    fn joined(chunks: &[(ChunkKey, Vec<u8>)]) -> Vec<(Key, Option<Vec<u8>>)> {
        let mut parts = Parts::default();
        chunks.iter().for_each(|(at, chunk)| parts.push(at, chunk));
        parts.finish()
    }

    #[test]
    fn sizes_around_the_chunk_split_as_they_should() {
        let counts = [(0, 1), (1, 1), (PAYLOAD, 1), (PAYLOAD + 1, 2), (65_536, 17), (MAX_ROW, 255)];
        for (len, count) in counts {
            let chunks = split_of(len);
            assert_eq!(chunks.len(), count, "{len} bytes");
            assert!(chunks.iter().all(|(_, chunk)| chunk.len() <= MAX_CHUNK));
            assert_eq!(joined(&chunks)[0].1.as_ref().unwrap().len(), len);
        }
    }

    #[test]
    fn a_row_that_is_too_large_is_refused_not_cut() {
        let change = Change { key: ROW, value: Some(vec![0; MAX_ROW + 1]) };
        assert!(matches!(split(&change), Err(Fault::Refused(StoreError::Unavailable(_)))));
    }

    proptest! {
        #[test]
        fn a_missing_or_surplus_chunk_is_found(len in 1usize..40_000, lost: prop::sample::Index) {
            let mut chunks = split_of(len);
            let lost = lost.index(chunks.len());
            let mut surplus = chunks.clone();
            surplus.push((key(&ROW, u8::try_from(chunks.len()).unwrap()), chunks[0].1.clone()));
            prop_assert_eq!(&joined(&surplus)[0].1, &None);
            chunks.remove(lost);
            prop_assert!(joined(&chunks).iter().all(|(_, value)| value.is_none()));
        }
    }
}
