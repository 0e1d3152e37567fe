//! The high-water file (G9): how far the store ever was, beside the store and not in it. A store that is behind it was
//! put back from a copy, or has lost its tail. Owns the file's form. Invariant: one of its two slots is whole at any
//! moment, for the other one alone is written.
//!
//! ```text
//! slot = "TBHW" | form 4 | store id 16 | mark 32 | checksum 16      the two of them 4 KiB apart
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::disk;
use super::mark::Mark;

const MAGIC: &[u8; 8] = b"TBHW\0\0\0\x01";
const SUMMED: usize = 8 + 16 + Mark::BYTES;
const SLOT: usize = SUMMED + 16;
/// Apart by a page, so that no torn write touches both.
const PLACES: [u64; 2] = [0, 4096];

/// Set in the sequence number once the store was found behind, until that is dealt with: writes made meanwhile could
/// catch up with the number, and then nothing would tell of it.
pub(super) const UNSETTLED: u64 = 1 << 63;

/// The file, open for writing.
pub(super) struct HighWater {
    file: File,
    store: Uuid,
    /// The slot that the next mark goes to.
    next: usize,
}

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// There is none.
    Missing,
    /// No slot of it can be read.
    Damaged,
    /// It belongs to another store.
    OfAnother,
    /// The store was so far.
    At(Mark),
}

impl HighWater {
    /// Where the file of the store at `path` lies.
    pub(super) fn place(path: &Path) -> PathBuf {
        path.join("highwater")
    }

    /// What the file of the store at `path` says.
    pub(super) fn read(path: &Path, store: Uuid) -> io::Result<Reading> {
        let bytes = match fs::read(Self::place(path)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Reading::Missing),
            Err(error) => return Err(error),
        };
        let slots = slots(&bytes).into_iter().flatten();
        let (own, others): (Vec<_>, Vec<_>) = slots.partition(|(id, _)| *id == store);
        Ok(match own.into_iter().map(|(_, mark)| mark).max_by_key(|mark| mark.sequence) {
            Some(mark) => Reading::At(mark),
            None if others.is_empty() => Reading::Damaged,
            None => Reading::OfAnother,
        })
    }

    /// Writes a new file, durably, in the place of any other.
    pub(super) fn create(path: &Path, store: Uuid, mark: Mark) -> io::Result<Self> {
        let aside = path.join("highwater.new");
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        for place in PLACES {
            file.write_all_at(&slot(store, mark), place)?;
        }
        file.sync_all()?;
        fs::rename(&aside, Self::place(path))?;
        disk::sync_dir(path)?;
        Ok(Self { file, store, next: 0 })
    }

    /// Opens the file that [`HighWater::read`] found well.
    pub(super) fn open(path: &Path, store: Uuid) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(Self::place(path))?;
        let bytes = fs::read(Self::place(path))?;
        let [first, second] = slots(&bytes).map(|slot| slot.map_or(0, |(_, mark)| mark.sequence));
        Ok(Self { file, store, next: usize::from(first > second) })
    }

    /// Hands `mark` to the operating system: from here on it survives this process.
    pub(super) fn write(&mut self, mark: Mark) -> io::Result<()> {
        self.file.write_all_at(&slot(self.store, mark), PLACES[self.next])?;
        self.next = 1 - self.next;
        Ok(())
    }

    /// Makes what was written durable: from here on it survives the machine.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn slot(store: Uuid, mark: Mark) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..8].copy_from_slice(MAGIC);
    slot[8..24].copy_from_slice(store.as_bytes());
    slot[24..SUMMED].copy_from_slice(&mark.to_bytes());
    let sum = Sha256::digest(&slot[..SUMMED]);
    slot[SUMMED..].copy_from_slice(&sum[..16]);
    slot
}

fn slots(bytes: &[u8]) -> [Option<(Uuid, Mark)>; 2] {
    PLACES.map(|place| {
        let slot = bytes.get(usize::try_from(place).ok()?..)?.first_chunk::<SLOT>()?;
        let (summed, sum) = slot.split_at(SUMMED);
        let is_whole = summed.starts_with(MAGIC) && Sha256::digest(summed)[..16] == *sum;
        let store = Uuid::from_slice(&summed[8..24]).ok()?;
        Some((store, Mark::from_bytes(&summed[24..])?)).filter(|_| is_whole)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sequence: u64) -> Mark {
        Mark { sequence, connections: 2, sessions: 3, digest: 4 }
    }

    #[test]
    fn the_last_mark_is_read_back_and_one_damaged_slot_gives_the_one_before() {
        let (folder, store) = (tempfile::tempdir().unwrap(), Uuid::from_u128(7));
        let path = folder.path();
        let read = || HighWater::read(path, store).unwrap();
        assert_eq!(read(), Reading::Missing);
        let mut file = HighWater::create(path, store, at(0)).unwrap();
        assert_eq!(read(), Reading::At(at(0)));
        for sequence in 1..5 {
            file.write(at(sequence)).unwrap();
            assert_eq!(read(), Reading::At(at(sequence)));
            // A process that goes on writes over the older one, too.
            file = HighWater::open(path, store).unwrap();
        }
        file.sync().unwrap();
        assert_eq!(HighWater::read(path, Uuid::nil()).unwrap(), Reading::OfAnother);

        let good = fs::read(HighWater::place(path)).unwrap();
        for bit in 0..SLOT * 8 {
            let mut flipped = good.clone();
            let newest = usize::from(file.next == 0) * 4096;
            flipped[newest + bit / 8] ^= 1 << (bit % 8);
            fs::write(HighWater::place(path), &flipped).unwrap();
            assert_eq!(read(), Reading::At(at(3)), "bit {bit}");
            flipped[4096 - newest] ^= 1;
            fs::write(HighWater::place(path), &flipped).unwrap();
            assert_eq!(read(), Reading::Damaged);
        }
        fs::write(HighWater::place(path), b"").unwrap();
        assert_eq!(read(), Reading::Damaged);
    }
}
