//! What the guard layer asks of an engine: bytes under keys, applied together, made durable on demand. Owns the two
//! traits. Does not know records, seals or async. Invariant: an engine acknowledges nothing; `sync` that returned is
//! the only thing that counts.

use std::fs;
use std::io;
use std::path::Path;

use super::index::{Key, Kind};
use crate::error::StoreError;

/// The largest row that any engine takes, so that every store can move to every engine: what sled 0.34 takes in 255
/// pieces of 4 KiB with their counts.
pub(crate) const MAX_ROW: usize = 4095 * 255;

/// An open engine. Shared by readers; written by one thread only.
pub(crate) trait Engine: Send + Sync {
    /// The value under `key`.
    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, Fault>;

    /// Up to `limit` values of `kind`, in key order, whose keys come after `after` (any bytes; the kind is not part
    /// of it). A row whose value cannot be put together is there as what keeps it from being read.
    fn scan(&self, kind: Kind, after: Option<&[u8]>, limit: usize) -> Result<Vec<Found>, Fault>;

    /// Applies all of `changes` or none, visible to readers at once, durable with the next [`Engine::sync`].
    fn apply(&self, changes: &[Change]) -> Result<(), Fault>;

    /// Returns when everything applied before is on the device.
    fn sync(&self) -> Result<(), Fault>;
}

/// A kind of engine: how one is brought up in a directory.
pub(crate) trait Backend: Send + Sync {
    /// Its name, in the store's identity and header, and of its directory.
    fn name(&self) -> &'static str;

    /// Makes the engine in `dir`, which exists and is empty.
    fn make(&self, dir: &Path) -> Result<Box<dyn Engine>, Fault>;

    /// Opens the engine that was made in `dir`; where its data is gone, it makes none in its place. Removes first what an
    /// interrupted run left there and would keep it from opening.
    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>, Fault>;
}

/// A row that a scan came upon.
pub(crate) type Found = (Key, Result<Vec<u8>, StoreError>);

/// One row's new value; `None` removes it.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) key: Key,
    pub(crate) value: Option<Vec<u8>>,
}

/// Why an engine, or what stands on it, did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Fault {
    /// This one request cannot be answered; the engine is well.
    Refused(StoreError),
    /// The engine failed: nothing it says counts until it has been reopened.
    Broken(String),
    /// The same, for want of space on the disk.
    Full(String),
}

impl Fault {
    /// What an I/O error of the engine's, or of a file beside it, means for the engine.
    pub(crate) fn of_io(error: &io::Error, what: &str) -> Self {
        let why = format!("{what}: {error}");
        if is_full(error) { Self::Full(why) } else { Self::Broken(why) }
    }

    /// The engine was made, and its files are gone.
    pub(crate) fn no_data() -> Self {
        Self::Broken("its data is missing".to_owned())
    }

    /// A row that is too large for any engine.
    pub(crate) fn too_large(bytes: usize) -> Self {
        let why = format!("a record of {bytes} bytes is larger than {MAX_ROW}");
        Self::Refused(StoreError::Unavailable(why))
    }
}

/// Whether there is no space left: on the device, in the quota, or below the limit of a file.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Whether an engine's file holds anything. An engine takes an empty one for its own first start.
pub(crate) fn is_there(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.len() > 0)
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}
