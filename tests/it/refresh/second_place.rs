//! The second place for tokens that the store could not take: a broker that ends while it holds them loses nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use token_broker::app::StartError;
use token_broker::broker::{Broker, Durability, Escrowed, Trust};
use token_broker::clock::Timestamp;
use token_broker::config::Override;
use token_broker::connection::history::Happening;
use token_broker::connection::reuse::Reuse;
use token_broker::connection::{Connection, ConnectionId, Holder, Intent, Status};
use token_broker::entropy::OsEntropy;
use token_broker::error::Reason;
use token_broker::store::guard::{DurableStore, Opening};
use token_broker::store::keyring::{self, KeyRing};
use token_broker::store::{EscrowStore, Expected, TokenStore as _, redb};
use token_broker::telemetry::Metrics;

use super::{lost, stage};
use crate::kit::{LIFE, Stage, consented, issued, request};
use crate::whole::Whole;

/// The store on the disk in `folder`, and its second place.
fn on_disk(folder: &Path) -> (Arc<DurableStore>, Arc<dyn EscrowStore>) {
    let keys = folder.join("keys");
    if !keys.exists() {
        keyring::generate(&keys, Timestamp::from_millis(0), &OsEntropy).unwrap();
    }
    let keys = KeyRing::load(&keys).unwrap();
    let path = folder.join("store");
    let mut opening = Opening::new(path.clone(), keys, Arc::new(OsEntropy), Arc::new(Metrics::default()));
    opening.allow_throwaway = true;
    opening.lock_patience = Duration::from_secs(60);
    let store = Arc::new(redb::open(opening).unwrap());
    let escrow = Arc::new(store.escrow(second(folder), &path).unwrap());
    (store, escrow)
}

fn second(folder: &Path) -> std::path::PathBuf {
    folder.join("second")
}

fn files(folder: &Path) -> usize {
    let is_tokens = |file: &std::fs::DirEntry| file.path().extension().is_some_and(|end| end != "place");
    std::fs::read_dir(second(folder))
        .map_or(0, |files| files.filter(|file| is_tokens(file.as_ref().unwrap())).count())
}

/// The store as it is without a connection; answers what it held of it.
async fn record_removed(stage: &Stage, id: &ConnectionId) -> Connection {
    let stored = stage.store.get(id).await.unwrap().unwrap();
    stage.store.remove(id, Expected::At(stored.revision)).await.unwrap();
    stored.value
}

/// One life of a process: whatever still runs when `life` has ended is gone without a word.
fn lived<T>(life: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let outcome = runtime.block_on(life);
    drop(runtime);
    outcome
}

/// A strict provider answers, the store does not take the answer, and the process ends. What is presented then?
fn presented_after_a_life_that_ended_with_tokens_in_hand(has_second_place: bool) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (id, stage) = lived(async {
        let (store, escrow) = on_disk(path);
        let stage = stage(Reuse::Strict).moved(store, has_second_place.then_some(escrow));
        let id = stage.expired("user-42").await;
        stage.store.fail_writes_after(1, usize::MAX);
        let answer = stage.broker.access_token(request(&id)).await.unwrap();
        assert_eq!(answer.durability, Durability::Degraded);
        let count = usize::from(has_second_place);
        let told = Escrowed { in_memory: 1 - count, in_second_place: count };
        assert_eq!(*stage.broker.escrowed_counts().borrow(), told);
        assert_eq!(files(path), count);
        (id, Handed::of(&stage))
    });
    lived(async {
        let (store, escrow) = on_disk(path);
        let stage = stage.behind(store, has_second_place.then_some(escrow));
        let found = stage.broker.take_up_escrow(Trust::Sound).await.unwrap();
        assert_eq!(found, usize::from(has_second_place));
        assert_eq!(files(path), 0, "the store has them");
        stage.broker.recover(Trust::Sound).await.unwrap();
        stage.clock.advance(Duration::from_secs(60));
        stage.token(&id).await.unwrap();
        stage.clock.advance(LIFE);
        stage.token(&id).await.unwrap();
        stage.provider.presented()
    })
}

/// What outlives a process of the broker: the world.
struct Handed(Stage);

impl Handed {
    /// A stage of memory only, that holds nothing of the broker that ended.
    fn of(stage: &Stage) -> Self {
        let nothing = Arc::new(token_broker::store::memory::MemoryStore::default());
        Self(stage.moved(nothing, None))
    }

    fn behind(&self, store: Arc<DurableStore>, escrow: Option<Arc<dyn EscrowStore>>) -> Stage {
        self.0.moved(store, escrow)
    }
}

#[test]
fn a_process_that_ends_while_the_store_fails_loses_nothing_with_a_second_place() {
    let presented = presented_after_a_life_that_ended_with_tokens_in_hand(true);
    assert_eq!(presented, ["rt-0", "rt-1"], "no spent token is presented");
}

#[test]
fn without_one_the_spent_token_is_all_there_is() {
    let presented = presented_after_a_life_that_ended_with_tokens_in_hand(false);
    assert_eq!(presented[..2], ["rt-0", "rt-0"], "the check above can fail");
}

/// What lies in the second place, as an earlier run may have left it.
async fn left_behind(stage: &Stage, escrow: &dyn EscrowStore, generation: u64, refresh: &str) {
    left_behind_as(stage, escrow, 77, generation, refresh).await;
}

async fn left_behind_as(
    stage: &Stage,
    escrow: &dyn EscrowStore,
    attempt_id: u64,
    generation: u64,
    refresh: &str,
) {
    let id = crate::kit::id("user-42");
    left_behind_of(stage, escrow, &id, attempt_id, generation, refresh).await;
}

async fn left_behind_of(
    stage: &Stage,
    escrow: &dyn EscrowStore,
    id: &ConnectionId,
    attempt_id: u64,
    generation: u64,
    refresh: &str,
) {
    let now = token_broker::clock::Clock::now(&*stage.clock);
    let held = stage.store.get(id).await.unwrap().unwrap().value;
    let attempt = Intent {
        attempt_id,
        holder: Holder(1),
        generation,
        fence: 1,
        first_sent_at: now,
        sent_at: now,
        deadline: now + Duration::from_secs(10),
        tries: 1,
        fingerprint: held.tokens.unwrap().refresh.unwrap().fingerprint(),
    };
    escrow.put(id, &attempt, &issued("at-late", Some(refresh))).await.unwrap();
}

async fn taken_up(broker: &Arc<Broker>) -> usize {
    broker.take_up_escrow(Trust::Sound).await.unwrap()
}

#[tokio::test]
async fn what_the_store_took_all_the_same_is_of_the_past_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (store, escrow) = on_disk(folder.path());
    let stage = stage(Reuse::Strict).moved(store, Some(escrow.clone()));
    let id = stage.expired("user-42").await;
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
    left_behind(&stage, &*escrow, 1, "rt-late").await;
    assert_eq!(taken_up(&stage.broker).await, 1);
    assert_eq!(files(folder.path()), 0);
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
    assert!(stage.provider.ended.lock().unwrap().is_empty(), "to revoke them may end the grant that stands");
}

#[tokio::test]
async fn what_was_left_behind_is_taken_up_though_a_consent_and_a_lost_refresh_came_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, escrow) = on_disk(folder.path());
    let stage = stage(Reuse::Strict).moved(store, Some(escrow.clone()));
    let id = stage.expired("user-42").await;
    // By a run after which one came that was not told of the second place.
    left_behind(&stage, &*escrow, 1, "rt-late").await;
    let (_, state) = stage.begun_by_app("user-42").await;
    stage.provider.next(Ok(issued("at-c", None)));
    stage.broker.complete_connect(consented(&state)).await.unwrap();
    stage.clock.advance(LIFE);
    stage.provider.next(Err(lost()));
    stage.token(&id).await.unwrap_err();
    assert_eq!(taken_up(&stage.broker).await, 1);
    assert_eq!(files(folder.path()), 0);
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-late"]);
}

#[tokio::test]
async fn tokens_that_are_newer_than_the_record_take_its_place_and_are_not_trusted_blindly() {
    for trust in [Trust::Sound, Trust::RolledBack] {
        let folder = tempfile::tempdir().unwrap();
        let (store, escrow) = on_disk(folder.path());
        let stage = stage(Reuse::Strict).moved(store, Some(escrow.clone()));
        let id = stage.imported("user-42").await;
        let other = stage.imported("user-43").await;
        left_behind(&stage, &*escrow, 5, "rt-late").await;
        left_behind_as(&stage, &*escrow, 78, 3, "rt-earlier").await;
        assert_eq!(stage.broker.take_up_escrow(trust).await.unwrap(), 2);
        if trust == Trust::RolledBack {
            stage.broker.recover(trust).await.unwrap();
        }
        assert_eq!(files(folder.path()), 0, "what is older than that is of the past");
        let restored = stage.broker.connection(&id).await.unwrap();
        assert_eq!((restored.status, restored.generation), (Status::Ambiguous, 6));
        let beside = stage.broker.connection(&other).await.unwrap();
        assert_eq!(beside.status, Status::Ambiguous, "the whole store was put back");
        assert_eq!(stage.token(&id).await.unwrap(), "at-late", "what lives is served");
        stage.clock.advance(LIFE);
        assert_eq!(stage.token(&id).await.unwrap(), "at-1");
        assert_eq!(stage.provider.presented(), ["rt-late"], "and nothing that is spent");
    }
}

#[tokio::test]
async fn tokens_of_a_later_state_than_that_of_a_connection_made_anew_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (store, escrow) = on_disk(folder.path());
    let stage = stage(Reuse::Strict).moved(store, Some(escrow.clone()));
    let id = stage.imported("user-42").await;
    left_behind(&stage, &*escrow, 5, "rt-late").await;
    record_removed(&stage, &id).await;
    stage.clock.advance(Duration::from_secs(60));
    stage.imported("user-42").await;
    assert_eq!(taken_up(&stage.broker).await, 1);
    assert_eq!(files(folder.path()), 1);
    assert!(stage.metrics.encode().unwrap().contains("token_broker_escrow_kept 1"));
    assert_eq!(stage.broker.connection(&id).await.unwrap().status, Status::Active);
}

#[tokio::test]
async fn tokens_of_a_connection_that_is_gone_are_revoked_unless_the_store_was_put_back() {
    for (trust, files_left, ended) in
        [(Trust::RolledBack, 1, Vec::new()), (Trust::Sound, 0, vec!["rt-late".to_owned()])]
    {
        let folder = tempfile::tempdir().unwrap();
        let (store, escrow) = on_disk(folder.path());
        let stage = stage(Reuse::Strict).moved(store, Some(escrow.clone()));
        let id = stage.imported("user-42").await;
        left_behind(&stage, &*escrow, 1, "rt-late").await;
        record_removed(&stage, &id).await;
        stage.broker.take_up_escrow(trust).await.unwrap();
        stage.broker.drain().await;
        assert_eq!(files(folder.path()), files_left);
        assert_eq!(*stage.provider.ended.lock().unwrap(), ended);
        // What shows that the store was put back is dealt with by then; the tokens are as they were.
        let stage = stage.restarted();
        assert_eq!(taken_up(&stage.broker).await, files_left);
        stage.broker.drain().await;
        assert_eq!(files(folder.path()), files_left, "the next start keeps them too");
        assert_eq!(*stage.provider.ended.lock().unwrap(), ended);
    }
}

#[tokio::test]
async fn tokens_that_a_store_put_back_could_not_take_are_taken_up_by_the_newer_one() {
    let folder = tempfile::tempdir().unwrap();
    let (store, escrow) = on_disk(folder.path());
    let stage = stage(Reuse::Strict).moved(store, Some(escrow.clone()));
    let id = stage.imported("user-42").await;
    left_behind(&stage, &*escrow, 1, "rt-late").await;
    let newer = record_removed(&stage, &id).await;
    stage.broker.take_up_escrow(Trust::RolledBack).await.unwrap();
    stage.store.put(&newer, Expected::Absent).await.unwrap();
    let stage = stage.restarted();
    assert_eq!(taken_up(&stage.broker).await, 1);
    assert_eq!(files(folder.path()), 0);
    assert_eq!(stage.token(&id).await.unwrap(), "at-late");
}

#[tokio::test]
async fn where_the_second_place_alone_shows_that_a_store_was_put_back_no_grant_that_it_lacks_is_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let (store, escrow) = on_disk(folder.path());
    let stage = stage(Reuse::Strict).moved(store, Some(escrow.clone()));
    // Three whose records are older than what came for them, and one that the store lacks altogether.
    let lacking = stage.imported("user-1").await;
    left_behind_of(&stage, &*escrow, &lacking, 1, 1, "rt-of-one-that-lives").await;
    record_removed(&stage, &lacking).await;
    let mut older = Vec::new();
    for (name, attempt) in [("user-2", 2), ("user-3", 3), ("user-4", 4)] {
        let id = stage.imported(name).await;
        left_behind_of(&stage, &*escrow, &id, attempt, 5, &format!("rt-5-{name}")).await;
        older.push(id);
    }
    taken_up(&stage.broker).await;
    stage.broker.drain().await;
    assert!(stage.provider.ended.lock().unwrap().is_empty(), "nothing is revoked");
    assert_eq!(files(folder.path()), 1, "and the tokens of the one that the store lacks are kept");
    for id in older {
        let history = stage.broker.history(&id).await.unwrap();
        let marks = history.events().iter().filter(|event| event.what == Happening::RolledBack).count();
        assert_eq!(marks, 1, "{id}: marked once, whatever number of files there is");
        assert_eq!(stage.broker.connection(&id).await.unwrap().generation, 6);
    }
}

#[tokio::test]
async fn what_no_record_holds_lies_in_the_second_place_until_it_is_revoked_also_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (store, escrow) = on_disk(folder.path());
    let stage = stage(Reuse::Strict).moved(store, Some(escrow));
    let id = stage.expired("user-42").await;
    stage.provider.hold();
    let (broker, asked) = (stage.broker.clone(), request(&id));
    let caller = tokio::spawn(async move { broker.access_token(asked).await });
    stage.provider.requests_reach(1).await;
    record_removed(&stage, &id).await;
    *stage.provider.revocation.lock().unwrap() = Err(unreachable());
    stage.provider.release();
    assert_eq!(caller.await.unwrap().unwrap_err().reason(), Reason::ConnectionNotFound);
    stage.provider.revocations_reach(1).await;
    stage.broker.drain().await;
    assert_eq!(files(folder.path()), 1, "the process ends, and they are not revoked");

    let stage = stage.restarted();
    assert_eq!(taken_up(&stage.broker).await, 1);
    stage.provider.revocations_reach(2).await;
    stage.broker.drain().await;
    assert_eq!(files(folder.path()), 1, "nor were they by the next one");

    let stage = stage.restarted();
    *stage.provider.revocation.lock().unwrap() = Ok(token_broker::provider::Revocation::Revoked);
    assert_eq!(taken_up(&stage.broker).await, 1);
    stage.broker.drain().await;
    assert_eq!(files(folder.path()), 0);
    assert_eq!(*stage.provider.ended.lock().unwrap(), ["rt-1", "rt-1", "rt-1"]);
}

fn unreachable() -> token_broker::error::ProviderError {
    token_broker::error::ProviderError::Unavailable {
        cause: token_broker::error::Unsent::Connect,
        retry_after: Some(Duration::from_secs(600)),
    }
}

#[tokio::test]
async fn tokens_of_a_connection_that_is_being_revoked_are_revoked_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, escrow) = on_disk(folder.path());
    let stage = stage(Reuse::Strict).moved(store, Some(escrow.clone()));
    let id = stage.imported("user-42").await;
    *stage.provider.revocation.lock().unwrap() = Err(unreachable());
    stage.broker.disconnect(id.clone()).await.unwrap();
    assert_eq!(stage.broker.connection(&id).await.unwrap().status, Status::Revoking);
    left_behind(&stage, &*escrow, 1, "rt-late").await;
    *stage.provider.revocation.lock().unwrap() = Ok(token_broker::provider::Revocation::Revoked);
    stage.provider.ended.lock().unwrap().clear();
    assert_eq!(taken_up(&stage.broker).await, 1);
    assert_eq!(files(folder.path()), 0);
    stage.broker.disconnect(id.clone()).await.unwrap();
    assert_eq!(*stage.provider.ended.lock().unwrap(), ["rt-late", "rt-0"]);
    assert_eq!(stage.token(&id).await.unwrap_err().reason(), Reason::ConnectionNotFound);
}

#[tokio::test]
async fn a_second_place_that_cannot_be_read_stops_the_start_and_is_named() {
    let whole = Whole::new();
    let second = whole.path("second");
    let bound = whole.build_over("", &[Override::new("test", "store.escrow_path", &second)]).await;
    std::fs::remove_dir_all(&second).unwrap();
    let error = bound.run(async {}).await.unwrap_err();
    let StartError::SecondPlace { path, .. } = &error else { panic!("{error:?}") };
    assert_eq!(path, Path::new(&second));
}

#[tokio::test]
async fn of_a_count_where_only_the_last_answer_is_good_a_late_first_one_is_thrown_away() {
    // Keycloak: each use of a token gives another pair, and to use any but the newest ends them all.
    for (is_last_only, expected) in [(true, ["rt-0", "rt-0", "rt-0"]), (false, ["rt-0", "rt-0", "rt-first"])]
    {
        let folder = tempfile::tempdir().unwrap();
        let (store, escrow) = on_disk(folder.path());
        let stage = stage(Reuse::Count { max_uses: 3, is_last_only, is_same_pair: false })
            .moved(store, Some(escrow.clone()));
        let id = stage.expired("user-42").await;
        let mut attempts = Vec::new();
        for _ in 0..2 {
            stage.provider.next(Err(lost()));
            stage.token(&id).await.unwrap_err();
            attempts.extend(stage.broker.connection(&id).await.unwrap().intent);
            stage.clock.advance(Duration::from_secs(60));
        }
        assert_eq!(attempts.iter().map(|attempt| attempt.tries).collect::<Vec<_>>(), [1, 2]);
        // The first was answered, by way of a run that ended with its tokens in hand.
        escrow.put(&id, &attempts[0], &issued("at-first", Some("rt-first"))).await.unwrap();
        let stage = stage.restarted();
        assert_eq!(taken_up(&stage.broker).await, 1);
        assert_eq!(files(folder.path()), 0);
        stage.clock.advance(LIFE);
        stage.token(&id).await.unwrap();
        assert_eq!(stage.provider.presented(), expected, "last only: {is_last_only}");
    }
}
