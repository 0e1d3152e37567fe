//! The default engine: sled 0.34.7 behind the guard layer. Owns everything that only this engine needs (storage.md
//! section 7, S1 to S5). Does not know what the rows hold. Invariant: nothing counts before `sync` returned, because
//! sled's own flush does not reach the device.
//!
//! One tree, one key prefix for each kind of row, `apply_batch` only: the path that was crash-tested. Transactions,
//! further trees and `drop_tree` are not.

mod chunk;
mod durability;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek};
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use self::durability::Durability;
use super::engine::{Backend, Change, Engine, Fault, Found, is_there};
use super::guard::{DurableStore, ImportError, Imported, OpenError, Opening, Taking};
use super::index::{Key, Kind};
use super::keyring::KeyRing;
use crate::error::StoreError;
use crate::telemetry::Metrics;

/// sled's page cache. Not its memory: that is many times as much (docs/performance.md).
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// Opens the store at `opening.path` on sled, or makes one there if there is none. Blocks: call it before the
/// runtime serves.
///
/// # Errors
/// [`OpenError`]; a wrong key is found before anything is written.
pub fn open(opening: Opening) -> Result<DurableStore, OpenError> {
    let backend = backend(Arc::clone(&opening.metrics));
    DurableStore::open(opening, backend)
}

/// Takes an export into the store at `opening.path`, or makes one there of it ([`DurableStore::export`]).
///
/// # Errors
/// [`ImportError`]; where it is the export that cannot be taken, nothing was changed.
pub async fn import<S: Read + Seek>(
    opening: Opening,
    stream: S,
    keys: Arc<KeyRing>,
    taking: Taking,
) -> Result<Imported, ImportError> {
    let backend = backend(Arc::clone(&opening.metrics));
    DurableStore::import(opening, backend, stream, keys, taking).await
}

/// What opens sled.
pub(crate) fn backend(metrics: Arc<Metrics>) -> Box<dyn Backend> {
    Box::new(SledBackend { metrics, is_swept: true })
}

/// Opens sled in a directory.
struct SledBackend {
    metrics: Arc<Metrics>,
    /// Rule S1. Off only in the test that shows that the rule is needed.
    is_swept: bool,
}

impl Backend for SledBackend {
    fn name(&self) -> &'static str {
        "sled"
    }

    fn make(&self, dir: &Path) -> Result<Box<dyn Engine>, Fault> {
        self.bring_up(dir)
    }

    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>, Fault> {
        // sled makes what it does not find.
        if !is_there(&dir.join("db")) {
            return Err(Fault::no_data());
        }
        self.bring_up(dir)
    }
}

impl SledBackend {
    fn bring_up(&self, dir: &Path) -> Result<Box<dyn Engine>, Fault> {
        if self.is_swept {
            sweep(dir).map_err(|error| Fault::of_io(&error, "sweep"))?;
        }
        durability::await_release(dir)?;
        let db = sled::Config::new()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(500))
            .mode(sled::Mode::LowSpace)
            .use_compression(false)
            .open()
            .map_err(broken)?;
        let durability = Durability::new(dir, Arc::clone(&self.metrics))?;
        Ok(Box::new(SledEngine { db, durability, chunks: RwLock::new(()) }))
    }
}

/// S1: a snapshot that was being written when the process died keeps sled from opening for ever.
fn sweep(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!("removing a half-written snapshot of the engine's: {name}");
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

struct SledEngine {
    db: sled::Db,
    durability: Durability,
    /// S4: a row of several chunks is read only while no batch is applied. One lock for all rows, because sled
    /// takes such a lock inside `apply_batch` anyway.
    chunks: RwLock<()>,
}

impl Engine for SledEngine {
    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, Fault> {
        // A row of one chunk is read in one step: no lock.
        let Some(first) = self.db.get(chunk::key(key, 0)).map_err(broken)? else { return Ok(None) };
        if let Some(whole) = chunk::whole(&first) {
            return Ok(Some(whole.to_vec()));
        }
        let _no_batch = self.chunks.read().unwrap_or_else(PoisonError::into_inner);
        let mut parts = chunk::Parts::default();
        for entry in self.db.scan_prefix(key) {
            let (at, value) = entry.map_err(broken)?;
            parts.push(&at, &value);
        }
        match parts.finish().pop() {
            Some((_, value)) => Ok(Some(intact(value).inspect_err(|error| {
                tracing::error!(reason = "RECORD_UNREADABLE", %error, "a record does not open");
            })?)),
            None => Ok(None),
        }
    }

    fn scan(&self, kind: Kind, after: Option<&[u8]>, limit: usize) -> Result<Vec<Found>, Fault> {
        let (first, last) = ([kind.byte()], [kind.byte() + 1]);
        let mut from = [&first, after.unwrap_or_default()].concat();
        if from.len() == size_of::<Key>() {
            // Beyond every chunk of that row.
            from.push(u8::MAX);
        }
        let range: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Included(&from), Bound::Excluded(&last));
        let _no_batch = self.chunks.read().unwrap_or_else(PoisonError::into_inner);
        let mut parts = chunk::Parts::default();
        for entry in self.db.range::<&[u8], _>(range) {
            let (at, value) = entry.map_err(broken)?;
            if parts.would_begin(&at) && parts.len() == limit {
                break;
            }
            parts.push(&at, &value);
        }
        Ok(parts.finish().into_iter().map(|(key, value)| (key, intact(value))).collect())
    }

    fn apply(&self, changes: &[Change]) -> Result<(), Fault> {
        // Ordered and each key once: a later change of a row wins over an earlier one of the same batch.
        let mut writes: BTreeMap<sled::IVec, Option<Vec<u8>>> = BTreeMap::new();
        for change in changes {
            for old in self.db.scan_prefix(change.key).keys() {
                writes.insert(old.map_err(broken)?, None);
            }
            for (at, part) in chunk::split(change)? {
                writes.insert(at.as_slice().into(), Some(part));
            }
        }
        let mut batch = sled::Batch::default();
        for (at, part) in writes {
            match part {
                Some(part) => batch.insert(at, part),
                None => batch.remove(at),
            }
        }
        let _no_reader = self.chunks.write().unwrap_or_else(PoisonError::into_inner);
        self.db.apply_batch(batch).map_err(broken)
    }

    fn sync(&self) -> Result<(), Fault> {
        self.db.flush().map_err(broken)?;
        self.durability.sync()
    }
}

/// A gap or an orphan: that row cannot be read; the others can.
fn intact(value: Option<Vec<u8>>) -> Result<Vec<u8>, StoreError> {
    value.ok_or(StoreError::Unreadable("its pieces do not fit together"))
}

fn broken(error: sled::Error) -> Fault {
    match error {
        sled::Error::Io(error) => Fault::of_io(&error, "sled"),
        other => Fault::Broken(format!("sled: {other}")),
    }
}
