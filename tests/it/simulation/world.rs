//! What a simulated broker lives in: a clock that runs with tokio's paused time, a store that can fail, and a power
//! switch for the process. What a dead process still has under way never goes on.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use token_broker::clock::{Clock, Timestamp};
use token_broker::connection::{Connection, ConnectionId};
use token_broker::error::StoreError;
use token_broker::store::memory::MemoryStore;
use token_broker::store::{Expected, Page, PageToken, Revision, Selection, Stored, TokenStore};
use tokio::time::Instant;

use super::truth::{Truth, held};

/// SplitMix64: the same seed, the same world.
#[derive(Debug)]
pub(super) struct Dice(Mutex<u64>);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    pub(super) fn below(&self, sides: u64) -> u64 {
        let mut state = self.0.lock().unwrap();
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }

    pub(super) fn one_in(&self, sides: u64) -> bool {
        self.below(sides) == 0
    }

    pub(super) fn millis(&self, most: u64) -> Duration {
        Duration::from_millis(self.below(most + 1))
    }
}

/// Wall clock: tokio's time, and however much it was set.
pub(super) struct SimClock {
    start: Instant,
    offset: AtomicI64,
    set_back_at: Mutex<Option<Instant>>,
    /// By how much it was set, in all and either way.
    strayed: AtomicI64,
}

impl SimClock {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            offset: AtomicI64::new(1_790_000_000_000),
            set_back_at: Mutex::default(),
            strayed: AtomicI64::default(),
        }
    }

    pub(super) fn jump(&self, millis: i64) {
        self.offset.fetch_add(millis, Ordering::SeqCst);
        self.strayed.fetch_add(millis.abs(), Ordering::SeqCst);
        if millis < 0 {
            *self.set_back_at.lock().unwrap() = Some(Instant::now());
        }
    }

    /// Goes on so far that whatever anybody waits for by this clock has come.
    pub(super) fn jump_past_everything(&self) {
        self.jump(self.strayed.load(Ordering::SeqCst) + 6 * 3_600_000);
    }

    /// When it was last set back.
    pub(super) fn was_set_back_at(&self) -> Option<Instant> {
        *self.set_back_at.lock().unwrap()
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let elapsed = i64::try_from(self.start.elapsed().as_millis()).unwrap();
        Timestamp::from_millis(self.offset.load(Ordering::SeqCst) + elapsed)
    }
}

/// The switch of one process.
#[derive(Clone, Default)]
pub(super) struct Power(Arc<AtomicBool>);

impl Power {
    pub(super) fn cut(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_cut(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Goes on only where there is power.
    pub(super) async fn hold(&self) {
        if self.is_cut() {
            std::future::pending::<()>().await;
        }
    }
}

/// The store as one process sees it.
pub(super) struct SimStore {
    pub(super) disk: Arc<MemoryStore>,
    pub(super) truth: Arc<Truth>,
    pub(super) power: Power,
    /// Writes fail while this is set.
    pub(super) is_full: Arc<AtomicBool>,
}

/// A write of tokens that exist nowhere else, on its way.
struct Write<'a> {
    store: &'a SimStore,
    what: (String, u32),
    is_over: bool,
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        if !self.is_over && !self.store.power.is_cut() {
            self.store.truth.breach(format!("I10: {:?} was dropped on its way into the store", self.what));
        }
    }
}

impl SimStore {
    async fn write(&self) -> Result<(), StoreError> {
        // A write takes its time, and a process may be killed in it.
        tokio::time::sleep(Duration::from_millis(2)).await;
        self.power.hold().await;
        if self.is_full.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("the disk is full".into()));
        }
        Ok(())
    }

    async fn write_down(&self, connection: &Connection, expected: Expected) -> Result<Revision, StoreError> {
        self.write().await?;
        let before = TokenStore::get(&*self.disk, &connection.profile.id).await?;
        let revision = TokenStore::put(&*self.disk, connection, expected).await;
        // What is kept of a connection that is no more holds no tokens, and each end takes the place of the one before.
        if revision.is_ok() && !connection.profile.id.is_ended() {
            self.truth.check_write(before.as_ref().map(|stored| &stored.value), connection);
        }
        // Durable, and then killed before anybody hears of it: that happens too.
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.power.hold().await;
        revision
    }
}

#[async_trait]
impl TokenStore for SimStore {
    async fn get(&self, id: &ConnectionId) -> Result<Option<Stored<Connection>>, StoreError> {
        self.power.hold().await;
        TokenStore::get(&*self.disk, id).await
    }

    async fn put(&self, connection: &Connection, expected: Expected) -> Result<Revision, StoreError> {
        let stood = TokenStore::get(&*self.disk, &connection.profile.id).await?;
        let what =
            held(connection).filter(|came| stood.and_then(|stood| held(&stood.value)) != Some(came.clone()));
        let mut write = what.map(|what| Write { store: self, what, is_over: false });
        let outcome = self.write_down(connection, expected).await;
        if let Some(write) = &mut write {
            write.is_over = true;
        }
        outcome
    }

    async fn remove(&self, id: &ConnectionId, expected: Expected) -> Result<(), StoreError> {
        self.write().await?;
        self.disk.remove(id, expected).await
    }

    async fn list(
        &self,
        selection: &Selection,
        after: Option<&PageToken>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        self.power.hold().await;
        self.disk.list(selection, after, limit).await
    }
}
