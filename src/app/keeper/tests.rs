use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use url::Url;

use super::*;
use crate::broker::{AllowedUrls, Deps, Settings};
use crate::clock::{ManualClock, Timestamp};
use crate::connection::{Connection, ConnectionId};
use crate::entropy::SeededEntropy;
use crate::error::StoreError;
use crate::readiness::Readiness;
use crate::store::memory::MemoryStore;
use crate::store::{Expected, Page, PageToken, Revision, Selection, Stored, TokenStore};
use crate::telemetry::Metrics;

/// A store that cannot list what it holds for the first few times.
struct Moody {
    inner: MemoryStore,
    failures_left: AtomicUsize,
}

#[async_trait]
impl TokenStore for Moody {
    async fn get(&self, id: &ConnectionId) -> Result<Option<Stored<Connection>>, StoreError> {
        TokenStore::get(&self.inner, id).await
    }

    async fn put(&self, connection: &Connection, expected: Expected) -> Result<Revision, StoreError> {
        TokenStore::put(&self.inner, connection, expected).await
    }

    async fn remove(&self, id: &ConnectionId, expected: Expected) -> Result<(), StoreError> {
        TokenStore::remove(&self.inner, id, expected).await
    }

    async fn list(
        &self,
        selection: &Selection,
        after: Option<&PageToken>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let left = self.failures_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if left.is_ok() {
            return Err(StoreError::Unavailable("the disk does not answer".into()));
        }
        self.inner.list(selection, after, limit).await
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_ready_before_it_is_known_what_an_earlier_run_left() {
    let store = Arc::new(Moody { inner: MemoryStore::default(), failures_left: AtomicUsize::new(9) });
    let none = || AllowedUrls { exact: Vec::new(), is_loopback_allowed: false };
    let deps = Deps {
        clock: Arc::new(ManualClock::new(Timestamp::from_millis(1_790_000_000_000))),
        entropy: Arc::new(SeededEntropy::new(1)),
        tokens: store.clone(),
        sessions: Arc::new(MemoryStore::default()),
        escrow: None,
        providers: Vec::new(),
        metrics: Arc::new(Metrics::default()),
    };
    let public_url = Url::parse("http://127.0.0.1:7451").unwrap();
    let broker = Broker::new(
        deps,
        Settings { public_url, return_urls: none(), redirect_uris: none(), ended_histories: 0 },
    );
    let readiness = Readiness::default();
    let closing = CancellationToken::new();
    let keeper = tokio::spawn(keep(broker, readiness.guard("recovery"), None, closing.clone()));
    readiness.subscribe().wait_for(|is_ready| *is_ready).await.unwrap();
    assert_eq!(store.failures_left.load(Ordering::SeqCst), 0);
    closing.cancel();
    keeper.await.unwrap();
}
