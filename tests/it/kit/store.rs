//! A store that can be made to fail.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use token_broker::connection::{Connection, ConnectionId};
use token_broker::error::StoreError;
use token_broker::store::{Expected, Page, PageToken, Revision, Selection, Stored, TokenStore};
use tokio::sync::watch;

/// The memory store, with a switch that makes writes fail.
pub(crate) struct FaultyStore {
    inner: Arc<dyn TokenStore>,
    successes_left: AtomicUsize,
    failures_left: AtomicUsize,
    removals_to_fail: AtomicUsize,
    takes_rescues: AtomicBool,
    /// Whether writes that fail are found to be made afterwards, as where only the sync failed.
    pub(crate) keeps_what_fails: AtomicBool,
    /// How long each write takes, in milliseconds.
    pub(crate) write_ms: AtomicU64,
    /// How long each read of a record takes, in milliseconds.
    pub(crate) read_ms: AtomicU64,
    pub(crate) puts: AtomicUsize,
    pub(crate) gets: AtomicUsize,
    /// Whether reads fail.
    pub(crate) is_deaf: AtomicBool,
    /// The connections whose tokens do not open. They are listed all the same: their profiles do.
    pub(crate) damaged: Mutex<Vec<ConnectionId>>,
    /// Whether listings read at once and are answered late.
    pub(crate) reads_before_the_gate: AtomicBool,
    lists: watch::Sender<usize>,
    gate: watch::Sender<bool>,
}

impl FaultyStore {
    pub(super) fn new(inner: Arc<dyn TokenStore>) -> Self {
        Self {
            inner,
            successes_left: AtomicUsize::new(0),
            failures_left: AtomicUsize::new(0),
            removals_to_fail: AtomicUsize::new(0),
            takes_rescues: AtomicBool::new(false),
            keeps_what_fails: AtomicBool::new(false),
            write_ms: AtomicU64::new(0),
            read_ms: AtomicU64::new(0),
            puts: AtomicUsize::new(0),
            gets: AtomicUsize::new(0),
            is_deaf: AtomicBool::new(false),
            damaged: Mutex::default(),
            reads_before_the_gate: AtomicBool::new(false),
            lists: watch::Sender::new(0),
            gate: watch::Sender::new(true),
        }
    }

    /// Whether listings are answered; those that are not wait.
    pub(crate) fn lets_listings_through(&self, is_open: bool) {
        self.gate.send_replace(is_open);
    }

    /// How many listings were asked for.
    pub(crate) fn listings(&self) -> watch::Receiver<usize> {
        self.lists.subscribe()
    }

    /// After the next `successes` writes, the next `count` fail as a full disk does.
    pub(crate) fn fail_writes_after(&self, successes: usize, count: usize) {
        self.successes_left.store(successes, Ordering::SeqCst);
        self.failures_left.store(count, Ordering::SeqCst);
    }

    /// The next `count` removals fail.
    pub(crate) fn fail_removals(&self, count: usize) {
        self.removals_to_fail.store(count, Ordering::SeqCst);
    }

    /// After the next `successes` writes it is full, and has room left for what must not be lost.
    pub(crate) fn fill_after(&self, successes: usize) {
        self.fail_writes_after(successes, usize::MAX);
        self.takes_rescues.store(true, Ordering::SeqCst);
    }
}

fn take(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

#[async_trait]
impl TokenStore for FaultyStore {
    async fn get(&self, id: &ConnectionId) -> Result<Option<Stored<Connection>>, StoreError> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        let read = Duration::from_millis(self.read_ms.load(Ordering::SeqCst));
        if !read.is_zero() {
            tokio::time::sleep(read).await;
        }
        if self.is_deaf.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("the disk does not answer".into()));
        }
        if self.damaged.lock().unwrap().contains(id) {
            return Err(StoreError::Unreadable("it is damaged, or was sealed for another place"));
        }
        self.inner.get(id).await
    }

    async fn put(&self, connection: &Connection, expected: Expected) -> Result<Revision, StoreError> {
        let write = Duration::from_millis(self.write_ms.load(Ordering::SeqCst));
        if !write.is_zero() {
            tokio::time::sleep(write).await;
        }
        if !take(&self.successes_left) && take(&self.failures_left) {
            if self.keeps_what_fails.load(Ordering::SeqCst) {
                self.inner.put(connection, expected).await?;
            }
            return Err(StoreError::Unavailable("no space left".into()));
        }
        self.puts.fetch_add(1, Ordering::SeqCst);
        self.inner.put(connection, expected).await
    }

    async fn rescue(&self, connection: &Connection, expected: Expected) -> Result<Revision, StoreError> {
        if !self.takes_rescues.load(Ordering::SeqCst) {
            return self.put(connection, expected).await;
        }
        self.puts.fetch_add(1, Ordering::SeqCst);
        TokenStore::put(&*self.inner, connection, expected).await
    }

    async fn remove(&self, id: &ConnectionId, expected: Expected) -> Result<(), StoreError> {
        if take(&self.removals_to_fail) {
            return Err(StoreError::Unavailable("the disk does not answer".into()));
        }
        self.inner.remove(id, expected).await
    }

    async fn list(
        &self,
        selection: &Selection,
        after: Option<&PageToken>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        self.lists.send_modify(|count| *count += 1);
        if self.reads_before_the_gate.load(Ordering::SeqCst) {
            let page = self.inner.list(selection, after, limit).await;
            self.gate.subscribe().wait_for(|is_open| *is_open).await.unwrap();
            return page;
        }
        self.gate.subscribe().wait_for(|is_open| *is_open).await.unwrap();
        self.inner.list(selection, after, limit).await
    }
}
