//! The guard layer (storage.md section 7): everything that stands between an embedded engine and the promise that
//! what was acknowledged survives. Owns the lock, creation, the proof of the key, the one thread that commits, and
//! what happens when the engine fails. Does not know which engine it guards, nor what the rows hold. Invariant:
//! nothing is acknowledged, and nothing is read out, before a sync that covered it returned.

mod ballast;
mod census;
mod claim;
mod committer;
mod creation;
mod disk;
mod escrow;
mod ground;
mod high_water;
mod identity;
mod lock;
mod mark;
mod open_error;
mod shared;
mod tally;
#[cfg(test)]
mod tests;
mod transfer;
mod watchdog;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use self::ballast::Ballast;
use self::committer::{Committer, Message, Weight, Write};
use self::creation::{Fill, Filled};
use self::ground::{Brought, Ground};
use self::shared::Shared;
use self::tally::Tally;
use self::watchdog::Watchdog;
use super::engine::{Backend, Change, Engine, Fault};
use super::keyring::KeyRing;
use super::table::{Plain, PlainSession, Table};
use super::{Expected, Page, PageToken, Revision, Selection, SessionKey, SessionStore, Stored, TokenStore};
use crate::clock::Timestamp;
use crate::connection::{ConnectSession, Connection, ConnectionId};
use crate::entropy::Entropy;
use crate::error::StoreError;
use crate::telemetry::Metrics;

pub use creation::exists;
pub use disk::throwaway;
pub use escrow::EscrowDir;
pub use ground::Rollback;
pub(crate) use lock::Pauses;
pub use open_error::OpenError;
pub use shared::Health;
pub use transfer::{Exported, ImportError, Imported, Taking};
pub use watchdog::Stuck;

/// The exit code of a process whose store is stuck: `EX_IOERR` of sysexits, used for nothing else here.
pub const STUCK_EXIT_CODE: i32 = 74;

/// Room for some thousands of tokens, and for the engine to work in.
const BALLAST_BYTES: u64 = 8 * 1024 * 1024;

/// How a durable store is opened.
pub struct Opening {
    /// Its directory. Made if missing; may be a volume's mount point.
    pub path: PathBuf,
    /// The keys that seal it.
    pub keys: KeyRing,
    /// Where salts and nonces come from.
    pub entropy: Arc<dyn Entropy>,
    /// Where commits are counted.
    pub metrics: Arc<Metrics>,
    /// Whether a file system that does not outlive the machine or the pod will do.
    pub allow_throwaway: bool,
    /// Room that is kept on the disk and given up when it is full, so that tokens that exist nowhere else can be
    /// written all the same. 0: none.
    pub ballast_bytes: u64,
    /// How long to wait for another process to let go of the store.
    pub lock_patience: Duration,
    /// Called when a commit takes more than 10 s or a close more than 5 s. It must end the process: nothing inside it
    /// can end a call that hangs in the kernel or the engine.
    pub on_stuck: Arc<dyn Fn(Stuck) + Send + Sync>,
}

impl Opening {
    /// With the settings of production: no throwaway file system, 5 s of patience, and an exit with
    /// [`STUCK_EXIT_CODE`] when stuck.
    pub fn new(path: PathBuf, keys: KeyRing, entropy: Arc<dyn Entropy>, metrics: Arc<Metrics>) -> Self {
        Self {
            path,
            keys,
            entropy,
            metrics,
            allow_throwaway: false,
            ballast_bytes: BALLAST_BYTES,
            lock_patience: Duration::from_secs(5),
            on_stuck: Arc::new(|stuck| {
                tracing::error!(reason = "STORE_UNAVAILABLE", "{stuck}; the process ends");
                std::process::exit(STUCK_EXIT_CODE)
            }),
        }
    }
}

/// A store whose acknowledged writes survive: connections and sessions, sealed, in an embedded engine.
///
/// Reads and writes need a tokio runtime around them. Writes go to one thread of the store's own; reads go to the
/// runtime's blocking pool, because a row that left the engine's cache is read from disk (16.8 µs at best, a disk's
/// latency at worst) and because only a miss ever reads.
pub struct DurableStore {
    shared: Arc<Shared>,
    table: Arc<Table>,
    queue: mpsc::Sender<Message>,
    committer: Mutex<Option<JoinHandle<()>>>,
    id: Uuid,
    engine: String,
    opened: Opened,
}

/// What was found when a store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Whether this opening made it.
    pub is_new: bool,
    /// Connections that are there, readable or not, and what is remembered of those that are no more.
    pub connections: u64,
    /// Consents under way that are there.
    pub sessions: u64,
    /// Records that do not open: another key sealed them, or they are damaged. The others are served.
    pub unreadable: u64,
    /// Records that were written and are not there.
    pub missing: u64,
    /// Connections with a refresh that an earlier run began and whose outcome it did not write down, in no order.
    pub unfinished: Vec<ConnectionId>,
    /// The store is in an older state than it had: every refresh token in it may be spent. Told at every opening until
    /// [`DurableStore::settle_rollback`].
    pub rollback: Option<Rollback>,
}

impl DurableStore {
    /// Opens the store at `opening.path`, or makes one there if there is none.
    pub(crate) fn open(opening: Opening, backend: Box<dyn Backend>) -> Result<Self, OpenError> {
        Self::open_filled(opening, backend, &mut |_, _| Ok(Filled::default()))
    }

    /// The same; a store that is made is filled by `fill` before it is there.
    fn open_filled(opening: Opening, backend: Box<dyn Backend>, fill: Fill<'_>) -> Result<Self, OpenError> {
        let Opening { path, keys, entropy, metrics, allow_throwaway, ballast_bytes, lock_patience, on_stuck } =
            opening;
        let keys = Arc::new(keys);
        if !allow_throwaway && let Some(filesystem) = throwaway(&path) {
            return Err(OpenError::Throwaway { path, filesystem });
        }
        // Before anything is touched: a wrong key changes no byte, not even the lock's.
        identity::prove_if_any(&path, &keys, &entropy)?;
        let lock = lock::acquire(&path, lock_patience)?;
        let is_new = creation::make_if_missing(&path, &*backend, &keys, &entropy, fill)?;
        let (identity, sealer, index) = identity::prove(&path, &keys, &entropy)?;
        let (id, engine_name, table) = (identity.store, identity.engine.clone(), Table::new(sealer, index));
        let ballast = Ballast::new(&path, ballast_bytes);
        let ground = Ground { path, backend, identity, table: Arc::clone(&table), ballast };
        let (Brought { engine, findings }, is_full) = ground.bring_up_with_room()?;
        let io_error =
            |error: std::io::Error| OpenError::Io { path: ground.path.clone(), why: error.to_string() };
        let tally = Tally::new(&ground.path, id, &findings).map_err(io_error)?;
        let opened = findings.tell(is_new, &metrics);
        metrics.set_store_full(is_full);

        let shared = Arc::new(Shared::new(engine, if is_full { Health::Full } else { Health::Well }));
        let (queue, messages) = mpsc::channel();
        shared.wake_with(queue.clone());
        let committer = Committer {
            shared: Arc::clone(&shared),
            messages,
            ground,
            tally,
            is_full,
            next_look: tokio::time::Instant::now(),
            metrics,
            watchdog: Watchdog::start(watchdog::TICK, on_stuck),
            _lock: lock,
        };
        let committer = std::thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(move || committer.run())
            .map_err(|error| OpenError::Io { path: PathBuf::from("thread"), why: error.to_string() })?;
        let committer = Mutex::new(Some(committer));
        Ok(Self { shared, table, queue, committer, id, engine: engine_name, opened })
    }

    /// The store's own id, drawn when it was made.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Whether this opening made it.
    pub fn is_new(&self) -> bool {
        self.opened.is_new
    }

    /// What was found when it was opened.
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// The second place at `path`, for tokens that the store, which lies at `store`, cannot take.
    ///
    /// # Errors
    /// [`OpenError::OtherPlace`] where the store has used another, [`OpenError::Io`] where the directory cannot be made,
    /// read or marked.
    pub fn escrow(&self, path: PathBuf, store: &Path) -> Result<EscrowDir, OpenError> {
        EscrowDir::open(path, store, Arc::clone(&self.table))
    }

    /// How many answers of providers lie in the second place at `path`, if there is one, that the store, which lies at
    /// `store`, has not taken: the tokens that it holds of those connections are spent. Looks only, and counts neither what
    /// was set apart nor what another store left.
    ///
    /// # Errors
    /// [`OpenError::OtherPlace`] where the store has used another, [`OpenError::NoPlace`] where it has used one and `path`
    /// is `None`, [`OpenError::Io`] where it cannot be read, or holds files that may be this store's and do not open.
    pub fn waiting(&self, path: Option<&Path>, store: &Path) -> Result<u64, OpenError> {
        match path {
            Some(path) => EscrowDir::waiting(path, store, &self.table),
            None => claim::check_none(store, self.table.store()).map(|()| 0),
        }
    }

    /// Follows how the store fares.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.shared.health()
    }

    /// Says that a rollback which was found at opening has been dealt with: what the store holds now is the newest there
    /// is. Durable when it returns; nothing happens where there was no rollback.
    pub async fn settle_rollback(&self) -> Result<(), StoreError> {
        let (tell, told) = oneshot::channel();
        self.queue.send(Message::Settle(tell)).map_err(|_| closed())?;
        told.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Why nothing can be read or written at the moment; `None` when all is well.
    pub fn fault(&self) -> Option<String> {
        self.shared.fault()
    }

    /// Commits what is queued, closes the engine and lets go of the lock. Every call after it answers
    /// [`StoreError::Unavailable`]. Returns at once when it is closed already.
    pub async fn close(&self) {
        let (tell, told) = oneshot::channel();
        if self.queue.send(Message::Close(Some(tell))).is_ok() {
            let _ = told.await;
        }
    }

    /// Runs `look` off the async threads and answers once what it saw is durable.
    async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Table, &dyn Engine) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.shared.check()?;
        let (shared, table) = (Arc::clone(&self.shared), Arc::clone(&self.table));
        tokio::task::spawn_blocking(move || shared.read(|engine| look(&table, engine)))
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("the process is ending".to_owned())))
    }

    /// Has the committer run `plan` and answers once its changes are durable. When the future is dropped after its
    /// first poll, the write is done all the same.
    async fn write<T: Send + 'static>(
        &self,
        weight: Weight,
        plan: impl FnOnce(&Table, &dyn Engine, &mut Vec<Change>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.shared.check()?;
        let table = Arc::clone(&self.table);
        let (job, told) =
            Write::new(move |engine: &dyn Engine, changes: &mut Vec<Change>| plan(&table, engine, changes));
        self.queue.send(Message::Write(Box::new(job), weight)).map_err(|_| closed())?;
        told.await.unwrap_or_else(|_| Err(closed()))
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}

impl Drop for DurableStore {
    fn drop(&mut self) {
        let _ = self.queue.send(Message::Close(None));
        if let Some(committer) = self.committer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = committer.join();
        }
    }
}

#[async_trait]
impl TokenStore for DurableStore {
    async fn get(&self, id: &ConnectionId) -> Result<Option<Stored<Connection>>, StoreError> {
        let id = id.clone();
        self.read(move |table, engine| table.get(engine, &id)).await
    }

    async fn put(&self, connection: &Connection, expected: Expected) -> Result<Revision, StoreError> {
        let plain = Plain::new(connection)?;
        self.write(Weight::Ordinary, move |table, engine, changes| {
            table.put(engine, &plain, expected, changes)
        })
        .await
    }

    async fn rescue(&self, connection: &Connection, expected: Expected) -> Result<Revision, StoreError> {
        let plain = Plain::new(connection)?;
        self.write(Weight::Rescue, move |table, engine, changes| table.put(engine, &plain, expected, changes))
            .await
    }

    async fn remove(&self, id: &ConnectionId, expected: Expected) -> Result<(), StoreError> {
        let id = id.clone();
        self.write(Weight::Ordinary, move |table, engine, changes| {
            table.remove(engine, &id, expected, changes)
        })
        .await
    }

    async fn list(
        &self,
        selection: &Selection,
        after: Option<&PageToken>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let (selection, after) = (selection.clone(), after.cloned());
        self.read(move |table, engine| table.list(engine, &selection, after.as_ref(), limit)).await
    }
}

#[async_trait]
impl SessionStore for DurableStore {
    async fn put(&self, key: SessionKey, session: &ConnectSession) -> Result<(), StoreError> {
        let plain = PlainSession::new(session)?;
        self.write(Weight::Ordinary, move |table, _, changes| {
            table.put_session(key, &plain, changes);
            Ok(())
        })
        .await
    }

    async fn get(&self, key: SessionKey) -> Result<Option<ConnectSession>, StoreError> {
        self.read(move |table, engine| table.session(engine, key)).await
    }

    async fn take(&self, key: SessionKey) -> Result<Option<ConnectSession>, StoreError> {
        self.write(Weight::Ordinary, move |table, engine, changes| table.take_session(engine, key, changes))
            .await
    }

    async fn sweep(&self, now: Timestamp) -> Result<usize, StoreError> {
        self.write(Weight::Ordinary, move |table, engine, changes| table.sweep_sessions(engine, now, changes))
            .await
    }
}
