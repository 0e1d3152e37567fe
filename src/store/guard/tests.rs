//! The guard layer over an engine that fails when told to.

mod full;
mod rollback;
mod transfer;

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::mpsc as channel;

use futures_util::future::join_all;

use super::*;
use crate::entropy::OsEntropy;
use crate::store::conformance::{connection, id};
use crate::store::engine::Found;
use crate::store::index::{Key, Kind};
use crate::store::memory::MemoryEngine;
use crate::store::remedy::Remedy;

/// What the engine does at a call, and what it is asked.
#[derive(Default)]
struct Script {
    rows: MemoryEngine,
    /// What the coming calls of each kind do; nothing planned: they succeed.
    syncs: Mutex<VecDeque<Act>>,
    applies: Mutex<VecDeque<Act>>,
    gets: Mutex<VecDeque<Act>>,
    opens: Mutex<VecDeque<Act>>,
    log: Mutex<Vec<&'static str>>,
}

enum Act {
    Fail,
    /// Fails for want of space.
    Full,
    Panic,
    /// Says that it was reached, then waits to be let go.
    Gate(channel::Sender<()>, channel::Receiver<()>),
}

impl Script {
    fn act(&self, what: &'static str, planned: &Mutex<VecDeque<Act>>) -> Result<(), Fault> {
        self.log.lock().unwrap().push(what);
        let act = planned.lock().unwrap().pop_front();
        match act {
            None => Ok(()),
            Some(Act::Fail) => Err(Fault::Broken(format!("{what} failed"))),
            Some(Act::Full) => Err(Fault::Full(format!("{what} failed"))),
            Some(Act::Panic) => panic!("{what} panicked with secret text"),
            Some(Act::Gate(reached, go)) => {
                reached.send(()).unwrap();
                let _ = go.recv();
                Ok(())
            }
        }
    }

    fn count(&self, what: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|done| **done == what).count()
    }
}

struct ScriptedBackend(Arc<Script>, Inner);
struct ScriptedEngine(Arc<Script>, Option<Box<dyn Engine>>);

/// What lies below the script. The guard layer keeps its word on each of them.
#[derive(Clone, Copy, Debug)]
enum Inner {
    Memory,
    Sled,
    Redb,
}

impl Inner {
    fn backend(self) -> Option<Box<dyn Backend>> {
        match self {
            Self::Memory => None,
            Self::Sled => Some(crate::store::sled::backend(Arc::default())),
            Self::Redb => Some(Box::new(crate::store::redb::RedbBackend)),
        }
    }
}

macro_rules! on_every_engine {
    ($($fact:ident),* $(,)?) => {
        on_every_engine!(memory Inner::Memory; $($fact),*);
        on_every_engine!(sled Inner::Sled; $($fact),*);
        on_every_engine!(redb Inner::Redb; $($fact),*);
    };
    ($name:ident $inner:expr; $($fact:ident),*) => {
        mod $name {
            use super::Inner;
            $(
                #[tokio::test]
                async fn $fact() {
                    super::$fact($inner).await;
                }
            )*
        }
    };
}

use on_every_engine;

impl Backend for ScriptedBackend {
    fn name(&self) -> &'static str {
        "scripted"
    }
    fn make(&self, dir: &Path) -> Result<Box<dyn Engine>, Fault> {
        self.0.act("open", &self.0.opens)?;
        let inner = self.1.backend().map(|backend| backend.make(dir)).transpose()?;
        Ok(Box::new(ScriptedEngine(Arc::clone(&self.0), inner)))
    }
    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>, Fault> {
        self.0.act("open", &self.0.opens)?;
        let inner = self.1.backend().map(|backend| backend.open(dir)).transpose()?;
        Ok(Box::new(ScriptedEngine(Arc::clone(&self.0), inner)))
    }
}

impl ScriptedEngine {
    fn rows(&self) -> &dyn Engine {
        self.1.as_deref().unwrap_or(&self.0.rows)
    }
}

impl Engine for ScriptedEngine {
    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, Fault> {
        self.0.act("get", &self.0.gets)?;
        self.rows().get(key)
    }
    fn scan(&self, kind: Kind, after: Option<&[u8]>, limit: usize) -> Result<Vec<Found>, Fault> {
        self.rows().scan(kind, after, limit)
    }
    fn apply(&self, changes: &[Change]) -> Result<(), Fault> {
        self.0.act("apply", &self.0.applies)?;
        self.rows().apply(changes)
    }
    fn sync(&self) -> Result<(), Fault> {
        self.0.act("sync", &self.0.syncs)?;
        self.rows().sync()
    }
}

impl Drop for ScriptedEngine {
    fn drop(&mut self) {
        self.0.log.lock().unwrap().push("drop");
    }
}

fn opening(folder: &Path) -> Opening {
    let keys = folder.join("keys");
    if !keys.exists() {
        crate::store::keyring::generate(&keys, Timestamp::from_millis(0), &OsEntropy).unwrap();
    }
    let keys = KeyRing::load(&keys).unwrap();
    let (path, metrics) = (folder.join("data"), Arc::new(Metrics::default()));
    Opening {
        allow_throwaway: true,
        ballast_bytes: 1 << 16,
        lock_patience: Duration::ZERO,
        ..Opening::new(path, keys, Arc::new(OsEntropy), metrics)
    }
}

fn open(folder: &Path, script: &Arc<Script>) -> Result<DurableStore, OpenError> {
    open_on(folder, script, Inner::Memory)
}

fn open_on(folder: &Path, script: &Arc<Script>, inner: Inner) -> Result<DurableStore, OpenError> {
    DurableStore::open(opening(folder), Box::new(ScriptedBackend(Arc::clone(script), inner)))
}

struct Fixture {
    folder: tempfile::TempDir,
    script: Arc<Script>,
    store: Arc<DurableStore>,
}

fn fixture() -> Fixture {
    fixture_on(Inner::Memory)
}

fn fixture_on(inner: Inner) -> Fixture {
    let (folder, script) = (tempfile::tempdir().unwrap(), Arc::<Script>::default());
    let store = Arc::new(open_on(folder.path(), &script, inner).unwrap());
    script.log.lock().unwrap().clear();
    Fixture { folder, script, store }
}

fn name() -> ConnectionId {
    id("", "google", "user-42")
}

async fn put(store: &DurableStore, expected: Expected) -> Result<Revision, StoreError> {
    TokenStore::put(store, &connection(name(), "1"), expected).await
}

async fn get(store: &DurableStore) -> Result<bool, StoreError> {
    TokenStore::get(store, &name()).await.map(|found| found.is_some())
}

/// Waits until the store serves again.
async fn healed(store: &DurableStore) {
    let healing = async {
        while store.fault().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), healing).await.expect("the store heals");
}

on_every_engine!(
    a_failed_sync_is_never_repeated_and_nothing_is_served_before_the_engine_was_reopened,
    a_panic_of_the_engine_is_a_fault_that_heals_and_its_text_goes_nowhere,
    a_reader_that_finds_the_engine_broken_has_it_reopened,
    reopening_is_tried_until_it_succeeds,
    nothing_is_read_out_before_it_is_durable,
    writes_that_wait_share_one_sync,
    a_write_that_changes_nothing_syncs_nothing,
    a_closed_store_says_so_and_can_be_opened_again_at_once,
);

async fn a_failed_sync_is_never_repeated_and_nothing_is_served_before_the_engine_was_reopened(inner: Inner) {
    let Fixture { script, store, folder: _folder } = fixture_on(inner);
    let (reached, at_open) = channel::channel();
    let (go, gate) = channel::channel();
    script.syncs.lock().unwrap().push_back(Act::Fail);
    script.opens.lock().unwrap().push_back(Act::Gate(reached, gate));

    assert_eq!(
        put(&store, Expected::Absent).await.unwrap_err(),
        StoreError::Unavailable("sync failed".into())
    );
    tokio::task::spawn_blocking(move || at_open.recv().unwrap()).await.unwrap();
    assert!(matches!(get(&store).await, Err(StoreError::Unavailable(_))), "readers too");
    assert!(matches!(put(&store, Expected::Absent).await, Err(StoreError::Unavailable(_))));
    go.send(()).unwrap();
    healed(&store).await;
    assert_eq!(*script.log.lock().unwrap(), ["get", "get", "apply", "sync", "drop", "open", "get", "get"]);
    // What became of the write that failed is for the reader to find out: redb had not begun with it.
    assert_eq!(get(&store).await.unwrap(), !matches!(inner, Inner::Redb));
}

async fn a_panic_of_the_engine_is_a_fault_that_heals_and_its_text_goes_nowhere(inner: Inner) {
    let Fixture { script, store, folder: _folder } = fixture_on(inner);
    script.applies.lock().unwrap().push_back(Act::Panic);
    let error = put(&store, Expected::Absent).await.unwrap_err();
    assert_eq!(error, StoreError::Unavailable("the storage engine panicked".into()));
    healed(&store).await;
    assert!(!get(&store).await.unwrap());
    put(&store, Expected::Absent).await.unwrap();
}

async fn a_reader_that_finds_the_engine_broken_has_it_reopened(inner: Inner) {
    let Fixture { script, store, folder: _folder } = fixture_on(inner);
    for act in [Act::Fail, Act::Panic] {
        script.gets.lock().unwrap().push_back(act);
        assert!(matches!(get(&store).await, Err(StoreError::Unavailable(_))));
        healed(&store).await;
        assert!(!get(&store).await.unwrap());
    }
    assert_eq!(script.count("open"), 2);
}

async fn reopening_is_tried_until_it_succeeds(inner: Inner) {
    let Fixture { script, store, folder: _folder } = fixture_on(inner);
    script.syncs.lock().unwrap().push_back(Act::Fail);
    script.opens.lock().unwrap().extend([Act::Fail, Act::Panic]);
    put(&store, Expected::Absent).await.unwrap_err();
    healed(&store).await;
    assert_eq!(script.count("open"), 3);
    assert_eq!(get(&store).await.unwrap(), !matches!(inner, Inner::Redb));
}

async fn nothing_is_read_out_before_it_is_durable(inner: Inner) {
    let Fixture { script, store, folder: _folder } = fixture_on(inner);
    let (reached, at_sync) = channel::channel();
    let (go, gate) = channel::channel();
    script.syncs.lock().unwrap().push_back(Act::Gate(reached, gate));
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move { put(&store, Expected::Absent).await }
    });
    tokio::task::spawn_blocking(move || at_sync.recv().unwrap()).await.unwrap();
    // Applied, and not yet synced: the reader sees it and must hold it back.
    let reader = tokio::spawn({
        let (store, script) = (Arc::clone(&store), Arc::clone(&script));
        async move {
            let found = get(&store).await.unwrap();
            script.log.lock().unwrap().push("read out");
            found
        }
    });
    // Two of them are the writer's.
    while script.count("get") < 3 {
        tokio::task::yield_now().await;
    }
    script.log.lock().unwrap().push("let go");
    go.send(()).unwrap();
    assert!(reader.await.unwrap());
    writer.await.unwrap().unwrap();
    let log = script.log.lock().unwrap();
    let place = |what| log.iter().position(|done| *done == what).unwrap();
    assert!(place("let go") < place("read out"), "{log:?}");
}

async fn writes_that_wait_share_one_sync(inner: Inner) {
    let Fixture { script, store, folder: _folder } = fixture_on(inner);
    let (reached, at_sync) = channel::channel();
    let (go, gate) = channel::channel();
    script.syncs.lock().unwrap().push_back(Act::Gate(reached, gate));
    let first = tokio::spawn({
        let store = Arc::clone(&store);
        async move { put(&store, Expected::Absent).await }
    });
    tokio::task::spawn_blocking(move || at_sync.recv().unwrap()).await.unwrap();
    let others: Vec<Connection> =
        (0..50).map(|at| connection(id("", "google", &format!("other-{at}")), "1")).collect();
    let mut others =
        Box::pin(join_all(others.iter().map(|other| TokenStore::put(&*store, other, Expected::Absent))));
    assert!(futures_util::poll!(&mut others).is_pending(), "all are queued");
    go.send(()).unwrap();
    assert!(others.await.iter().all(Result::is_ok));
    first.await.unwrap().unwrap();
    assert_eq!((script.count("apply"), script.count("sync")), (51, 2));
}

async fn a_write_that_changes_nothing_syncs_nothing(inner: Inner) {
    let Fixture { script, store, folder: _folder } = fixture_on(inner);
    assert_eq!(put(&store, Expected::At(Revision(4))).await.unwrap_err(), StoreError::Conflict);
    assert_eq!(script.count("sync"), 0);
}

async fn a_closed_store_says_so_and_can_be_opened_again_at_once(inner: Inner) {
    let Fixture { script, store, folder } = fixture_on(inner);
    put(&store, Expected::Absent).await.unwrap();
    store.close().await;
    store.close().await;
    assert_eq!(script.log.lock().unwrap().last(), Some(&"drop"));
    assert_eq!(get(&store).await.unwrap_err(), StoreError::Unavailable("the store is closed".into()));
    let again = open_on(folder.path(), &script, inner).unwrap();
    assert!(get(&again).await.unwrap());
    assert!(!again.is_new());
    assert_eq!(again.id(), store.id());
}

#[test]
fn a_second_opener_is_refused_and_told_who_holds_it() {
    let Fixture { script, folder, store: _store } = fixture();
    let error = open(folder.path(), &script).err().unwrap();
    let holder = Some(std::process::id());
    assert_eq!(error, OpenError::Locked { path: folder.path().join("data"), holder });
}

#[test]
fn a_store_that_was_left_half_made_is_made_anew_and_a_made_one_never_is() {
    let (folder, script) = (tempfile::tempdir().unwrap(), Arc::<Script>::default());
    let data = folder.path().join("data");
    fs::create_dir_all(data.join("store.new/scripted")).unwrap();
    fs::write(data.join("store.new/identity"), "torn").unwrap();
    let store = open(folder.path(), &script).unwrap();
    assert!(store.is_new());
    assert!(!data.join("store.new").exists());
    drop(store);

    for (lost, why) in [("identity", "its identity file is missing"), ("scripted", "its data is missing")] {
        fs::rename(data.join("store").join(lost), data.join("lost")).unwrap();
        let error = open(folder.path(), &script).err().unwrap();
        assert_eq!(error, OpenError::Unopenable { path: data.clone(), why: why.to_owned() });
        let Remedy::Run { words, .. } = error.remedy() else { panic!("{:?}", error.remedy()) };
        assert_eq!(words[..2], ["mv".to_owned(), data.join("store").display().to_string()]);
        assert!(!data.join("store").join(lost).exists(), "not made again in silence");
        fs::rename(data.join("lost"), data.join("store").join(lost)).unwrap();
    }
    open(folder.path(), &script).unwrap();
}

#[test]
fn what_is_not_ours_is_refused_by_name() {
    let Fixture { script, folder, store } = fixture();
    drop(store);
    let identity = folder.path().join("data/store/identity");
    let good = fs::read_to_string(&identity).unwrap();
    let with = |from: &str, to: &str| {
        fs::write(&identity, good.replace(from, to)).unwrap();
        open(folder.path(), &script).err().unwrap()
    };
    assert!(matches!(with("\"format\":1", "\"format\":2"), OpenError::UnknownFormat { .. }));
    assert!(matches!(with("token-broker store", "another store"), OpenError::UnknownFormat { .. }));
    assert!(matches!(with("scripted", "redb"), OpenError::OtherEngine { .. }));
    assert!(matches!(with("{", "["), OpenError::Unopenable { .. }));
    fs::write(&identity, good).unwrap();

    // Another store's data under this store's identity.
    let header = identity::encode(&identity::Header { store: Uuid::nil(), engine: "scripted".into() });
    script.rows.apply(&[Change { key: crate::store::index::HEADER, value: Some(header) }]).unwrap();
    let error = open(folder.path(), &script).err().unwrap();
    assert_eq!(error.why(), "its data belongs to another store");
}

#[test]
fn a_throwaway_place_is_refused_before_anything_is_made_there() {
    if throwaway(Path::new("/dev/shm")).is_none() {
        return;
    }
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let opening = Opening { allow_throwaway: false, ..opening(folder.path()) };
    let error =
        DurableStore::open(opening, Box::new(ScriptedBackend(Arc::default(), Inner::Memory))).err().unwrap();
    assert!(matches!(error, OpenError::Throwaway { filesystem: "tmpfs (memory)", .. }));
    assert!(!folder.path().join("data").exists());
}
