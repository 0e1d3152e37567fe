//! The store that forgets: for tests and `--ephemeral`. Owns a map. Holds the same sealed rows as the durable store
//! and shares all of its rules, so it hands out no object twice and passes the same conformance suite. Invariant:
//! nothing is written anywhere.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use async_trait::async_trait;

use super::engine::{Change, Engine, Fault, Found};
use super::index::{Index, Key, Kind};
use super::keyring::KeyRing;
use super::seal::Sealer;
use super::table::{Plain, PlainSession, Table};
use super::{Expected, Page, PageToken, Revision, Selection, SessionKey, SessionStore, Stored, TokenStore};
use crate::clock::Timestamp;
use crate::connection::{ConnectSession, Connection, ConnectionId};
use crate::entropy::{Entropy, OsEntropy};
use crate::error::StoreError;
use crate::secret::Secret;

/// A store in memory. Its content dies with it.
pub struct MemoryStore {
    table: Arc<Table>,
    rows: MemoryEngine,
    /// Held while a write decides and applies: one writer at a time, as in the durable store.
    writing: Mutex<()>,
}

impl MemoryStore {
    /// An empty store, sealed with a key that is drawn from `entropy` and written nowhere.
    pub fn new(entropy: Arc<dyn Entropy>) -> Self {
        let ring = Arc::new(KeyRing::ephemeral(&*entropy));
        let index = Index::new(Secret::new(entropy.bytes()));
        let store = uuid::Builder::from_random_bytes(entropy.bytes()).into_uuid();
        Self {
            table: Table::new(Sealer::new(ring, store, entropy), index),
            rows: MemoryEngine::default(),
            writing: Mutex::default(),
        }
    }

    fn write<T>(
        &self,
        plan: impl FnOnce(&Table, &dyn Engine, &mut Vec<Change>) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let _one_writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changes = Vec::new();
        let outcome = plan(&self.table, &self.rows, &mut changes).map_err(refused)?;
        self.rows.apply(&changes).map_err(refused)?;
        Ok(outcome)
    }
}

/// With the operating system's randomness.
impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Arc::new(OsEntropy))
    }
}

#[async_trait]
impl TokenStore for MemoryStore {
    async fn get(&self, id: &ConnectionId) -> Result<Option<Stored<Connection>>, StoreError> {
        self.table.get(&self.rows, id).map_err(refused)
    }

    async fn put(&self, connection: &Connection, expected: Expected) -> Result<Revision, StoreError> {
        let plain = Plain::new(connection)?;
        self.write(|table, rows, changes| table.put(rows, &plain, expected, changes))
    }

    async fn remove(&self, id: &ConnectionId, expected: Expected) -> Result<(), StoreError> {
        self.write(|table, rows, changes| table.remove(rows, id, expected, changes))
    }

    async fn list(
        &self,
        selection: &Selection,
        after: Option<&PageToken>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        self.table.list(&self.rows, selection, after, limit).map_err(refused)
    }
}

#[async_trait]
impl SessionStore for MemoryStore {
    async fn put(&self, key: SessionKey, session: &ConnectSession) -> Result<(), StoreError> {
        let plain = PlainSession::new(session)?;
        self.write(|table, _, changes| {
            table.put_session(key, &plain, changes);
            Ok(())
        })
    }

    async fn get(&self, key: SessionKey) -> Result<Option<ConnectSession>, StoreError> {
        self.table.session(&self.rows, key).map_err(refused)
    }

    async fn take(&self, key: SessionKey) -> Result<Option<ConnectSession>, StoreError> {
        self.write(|table, rows, changes| table.take_session(rows, key, changes))
    }

    async fn sweep(&self, now: Timestamp) -> Result<usize, StoreError> {
        self.write(|table, rows, changes| table.sweep_sessions(rows, now, changes))
    }
}

fn refused(fault: Fault) -> StoreError {
    match fault {
        Fault::Refused(error) => error,
        Fault::Broken(why) | Fault::Full(why) => StoreError::Unavailable(why),
    }
}

/// Rows in a sorted map.
#[derive(Default)]
pub(crate) struct MemoryEngine(RwLock<BTreeMap<Key, Vec<u8>>>);

impl Engine for MemoryEngine {
    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, Fault> {
        Ok(self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn scan(&self, kind: Kind, after: Option<&[u8]>, limit: usize) -> Result<Vec<Found>, Fault> {
        let rows = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (first, last) = ([kind.byte(); 1], [kind.byte() + 1; 1]);
        let from = [&first, after.unwrap_or_default()].concat();
        let range: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Excluded(&from), Bound::Excluded(&last));
        // Keys are longer than one byte, so nothing equals the bare kind.
        Ok(rows.range::<[u8], _>(range).take(limit).map(|(key, value)| (*key, Ok(value.clone()))).collect())
    }

    fn apply(&self, changes: &[Change]) -> Result<(), Fault> {
        let mut rows = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            match &change.value {
                Some(value) => rows.insert(change.key, value.clone()),
                None => rows.remove(&change.key),
            };
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Fault> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{Subject, conformance};

    struct Memory(Arc<MemoryStore>);

    impl Subject for Memory {
        fn tokens(&self) -> Arc<dyn TokenStore> {
            Arc::clone(&self.0) as Arc<dyn TokenStore>
        }
        fn sessions(&self) -> Arc<dyn SessionStore> {
            Arc::clone(&self.0) as Arc<dyn SessionStore>
        }
        fn reopened(self) -> Option<Self> {
            None
        }
    }

    conformance!(Memory(Arc::default()));
}
