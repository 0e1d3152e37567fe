//! The other engine: redb 4.4.0 behind the same guard layer. Owns its settings (storage.md section 8). Does not know
//! what the rows hold. Invariant: what `apply` took lies in memory until `sync` has committed all of it in one
//! transaction, which returns when it is on the device.
//!
//! Settings: a cache of 16 MiB, `Durability::Immediate`, two-phase commit and quick repair off. Two-phase commit guards
//! against crafted pages, and ours hold ciphertext; quick repair pays off above 200 000 records.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use redb::{Builder, Database, Durability, ReadableDatabase as _, TableDefinition};

use super::engine::{Backend, Change, Engine, Fault, Found, MAX_ROW, is_there};
use super::guard::{DurableStore, ImportError, Imported, OpenError, Opening, Taking};
use super::index::{Key, Kind};
use super::keyring::KeyRing;

const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// The one table: made when the store is made, and never afterwards.
const ROWS: TableDefinition<'static, &[u8; 33], &[u8]> = TableDefinition::new("rows");

/// The engine's one file.
const FILE: &str = "rows.redb";

/// Opens the store at `opening.path` on redb, or makes one there if there is none. Blocks: call it before the
/// runtime serves.
///
/// # Errors
/// [`OpenError`]; a wrong key is found before anything is written.
pub fn open(opening: Opening) -> Result<DurableStore, OpenError> {
    DurableStore::open(opening, Box::new(RedbBackend))
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
    let backend = Box::new(RedbBackend);
    DurableStore::import(opening, backend, stream, keys, taking).await
}

/// Opens redb in a directory.
pub(crate) struct RedbBackend;

impl Backend for RedbBackend {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn make(&self, dir: &Path) -> Result<Box<dyn Engine>, Fault> {
        let db = builder().create(dir.join(FILE)).map_err(broken)?;
        let making = db.begin_write().map_err(broken)?;
        making.open_table(ROWS).map_err(broken)?;
        making.commit().map_err(broken)?;
        Ok(Box::new(RedbEngine { db, pending: RwLock::default() }))
    }

    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>, Fault> {
        let file = dir.join(FILE);
        if !is_there(&file) {
            return Err(Fault::no_data());
        }
        let mut db = builder().open(&file).map_err(broken)?;
        // Always, for reads check no sum: in a damaged branch of the tree a row is listed and cannot be found.
        if !db.check_integrity().map_err(broken)? {
            tracing::warn!("redb repaired its file");
        }
        Ok(Box::new(RedbEngine { db, pending: RwLock::default() }))
    }
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

struct RedbEngine {
    db: Database,
    /// Applied and not yet committed: redb's readers see only what is committed, ours also what is about to be.
    pending: RwLock<Pending>,
}

type Pending = BTreeMap<Key, Option<Vec<u8>>>;

impl Engine for RedbEngine {
    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, Fault> {
        let pending = self.pending.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = pending.get(key) {
            return Ok(value.clone());
        }
        let reading = self.db.begin_read().map_err(broken)?;
        drop(pending);
        let rows = reading.open_table(ROWS).map_err(broken)?;
        Ok(rows.get(key).map_err(broken)?.map(|value| value.value().to_vec()))
    }

    fn scan(&self, kind: Kind, after: Option<&[u8]>, limit: usize) -> Result<Vec<Found>, Fault> {
        let Some((first, last)) = bounds(kind, after) else { return Ok(Vec::new()) };
        let range = (first, Bound::Excluded(last));
        let pending = self.pending.read().unwrap_or_else(PoisonError::into_inner);
        // Begun under the lock, so that both are of one moment.
        let reading = self.db.begin_read().map_err(broken)?;
        let over: Pending = pending.range(range).map(|(key, value)| (*key, value.clone())).collect();
        drop(pending);

        let rows = reading.open_table(ROWS).map_err(broken)?;
        let range = (as_ref(&range.0), as_ref(&range.1));
        // So many more that as many as asked for are left when what is pending removes some.
        let mut found = BTreeMap::new();
        for row in rows.range::<&Key>(range).map_err(broken)?.take(limit.saturating_add(over.len())) {
            let (key, value) = row.map_err(broken)?;
            found.insert(*key.value(), value.value().to_vec());
        }
        for (key, value) in over {
            match value {
                Some(value) => found.insert(key, value),
                None => found.remove(&key),
            };
        }
        Ok(found.into_iter().take(limit).map(|(key, value)| (key, Ok(value))).collect())
    }

    fn apply(&self, changes: &[Change]) -> Result<(), Fault> {
        let largest = changes.iter().filter_map(|change| change.value.as_ref().map(Vec::len)).max();
        if let Some(bytes) = largest.filter(|bytes| *bytes > MAX_ROW) {
            return Err(Fault::too_large(bytes));
        }
        let mut pending = self.pending.write().unwrap_or_else(PoisonError::into_inner);
        pending.extend(changes.iter().map(|change| (change.key, change.value.clone())));
        Ok(())
    }

    fn sync(&self) -> Result<(), Fault> {
        let pending = self.pending.read().unwrap_or_else(PoisonError::into_inner);
        let mut writing = self.db.begin_write().map_err(broken)?;
        writing.set_durability(Durability::Immediate).map_err(broken)?;
        {
            let mut rows = writing.open_table(ROWS).map_err(broken)?;
            for (key, value) in &*pending {
                match value {
                    Some(value) => drop(rows.insert(key, value.as_slice()).map_err(broken)?),
                    None => drop(rows.remove(key).map_err(broken)?),
                }
            }
        }
        writing.commit().map_err(broken)?;
        drop(pending);
        // Only the thread that is here writes, so nothing was applied in between.
        self.pending.write().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }
}

/// From where to where rows of `kind` lie whose keys come after `after`, which may be any bytes.
fn bounds(kind: Kind, after: Option<&[u8]>) -> Option<(Bound<Key>, Key)> {
    let (mut first, mut last) = ([0; 33], [0; 33]);
    first[0] = kind.byte();
    last[0] = kind.byte() + 1;
    let after = after.unwrap_or_default();
    // A shorter one comes before every key that it begins; a longer one after the key that begins it.
    let len = after.len().min(32);
    first[1..=len].copy_from_slice(&after[..len]);
    let first = if after.len() < 32 { Bound::Included(first) } else { Bound::Excluded(first) };
    Some((first, last))
}

fn as_ref(bound: &Bound<Key>) -> Bound<&Key> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

fn broken(error: impl Into<redb::Error>) -> Fault {
    match error.into() {
        redb::Error::Io(error) => Fault::of_io(&error, "redb"),
        other => Fault::Broken(format!("redb: {other}")),
    }
}
