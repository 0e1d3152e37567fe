//! What a whole broker does first, where the store is older than it was or an earlier run could not store its tokens.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use token_broker::app::Bound;
use token_broker::broker::{Broker, ImportConnection, TokenRequest};
use token_broker::clock::{Clock as _, SystemClock};
use token_broker::config::Override;
use token_broker::connection::history::Happening;
use token_broker::connection::{Connection, ConnectionId, Holder, Intent, IssuedTokens, Status};
use token_broker::entropy::OsEntropy;
use token_broker::error::Reason;
use token_broker::secret::Secret;
use token_broker::store::guard::{DurableStore, Opening};
use token_broker::store::keyring::KeyRing;
use token_broker::store::{EscrowStore as _, Selection, TokenStore, sled};
use token_broker::telemetry::Metrics;

use crate::whole::Whole;

fn id() -> ConnectionId {
    ConnectionId::parse(String::new(), "sandbox".into(), "user-42".into()).unwrap()
}

/// One life of the whole broker, from ready to closed.
async fn lived<T>(whole: &Whole, life: impl AsyncFnOnce(Arc<Broker>) -> T) -> T {
    let second = whole.path("second");
    let bound: Bound = whole.build_over("", &[Override::new("test", "store.escrow_path", &second)]).await;
    let (broker, mut ready) = (bound.broker.clone(), bound.readiness.subscribe());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(bound.run(async { drop(stopped.await) }));
    ready.wait_for(|is_ready| *is_ready).await.unwrap();
    let outcome = life(broker).await;
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
    outcome
}

/// A grant of the sandbox's, in the broker: generation 2.
async fn imported(whole: &Whole) {
    let grant = whole.sandbox.grants().issue("user-42", &["openid"]);
    let import = ImportConnection {
        id: id(),
        refresh_token: Some(Secret::new(grant.refresh_token.unwrap().expose().clone())),
        access_token: None,
        expires_at: None,
        scopes: Vec::new(),
        replace: false,
        variables: Default::default(),
    };
    lived(whole, async |broker| broker.import_connection(import).await.unwrap()).await;
}

/// Refreshed `times` more.
async fn refreshed(whole: &Whole, times: usize) {
    lived(whole, async |broker| {
        for _ in 0..times {
            broker.refresh_connection(id(), None).await.unwrap();
        }
    })
    .await;
}

fn opened(whole: &Whole) -> DurableStore {
    let keys = KeyRing::load(Path::new(&whole.path("seal.key"))).unwrap();
    let path = PathBuf::from(whole.path("store"));
    let mut opening = Opening::new(path, keys, Arc::new(OsEntropy), Arc::new(Metrics::default()));
    opening.allow_throwaway = true;
    sled::open(opening).unwrap()
}

/// Puts the present tokens into the second place, as if the refresh before had brought them and the store had not taken
/// them.
async fn set_aside(whole: &Whole) {
    let store = opened(whole);
    let Connection { profile, tokens, .. } = TokenStore::get(&store, &id()).await.unwrap().unwrap().value;
    let tokens = tokens.unwrap();
    let now = SystemClock.now();
    let attempt = Intent {
        attempt_id: 7,
        holder: Holder(7),
        generation: profile.generation - 1,
        fence: profile.fence,
        first_sent_at: now,
        sent_at: now,
        deadline: now,
        tries: 1,
        fingerprint: tokens.previous.as_ref().unwrap().fingerprint(),
    };
    let access = tokens.access.unwrap();
    let issued = IssuedTokens {
        access_token: Secret::new(access.value.expose().clone()),
        token_type: access.token_type,
        expires_in: access.expires_at.map(|at| now.until(at)),
        refresh_token: tokens.refresh.map(|refresh| Secret::new(refresh.value.expose().clone())),
        refresh_expires_in: None,
        scopes: None,
        account: None,
        variables: Default::default(),
    };
    let second = PathBuf::from(whole.path("second"));
    let place = store.escrow(second, Path::new(&whole.path("store"))).unwrap();
    place.put(&id(), &attempt, &issued).await.unwrap();
    store.close().await;
}

fn files_aside(whole: &Whole) -> usize {
    let is_tokens = |file: &fs::DirEntry| file.path().extension().is_some_and(|end| end == "escrow");
    fs::read_dir(whole.path("second")).unwrap().filter(|file| is_tokens(file.as_ref().unwrap())).count()
}

fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = {
            let entry = entry.unwrap();
            (entry.path(), entry.file_name())
        };
        if path.is_dir() {
            copied(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

/// What is at `what` is as it was when it was copied to `older`.
fn put_back(older: &Path, what: &Path) {
    fs::remove_dir_all(what).unwrap();
    copied(older, what);
}

/// A token other than the present one, which is taken for refused.
async fn renewed(broker: &Arc<Broker>) -> Result<u64, Reason> {
    let asked = |if_not_equal_to| TokenRequest {
        id: id(),
        scopes: Vec::new(),
        min_ttl: None,
        if_not_equal_to,
        allow_stale: false,
    };
    let present = broker.access_token(asked(None)).await.unwrap().token.access.value.digest();
    let answer = broker.access_token(asked(Some(present))).await.map_err(|error| error.reason())?;
    Ok(answer.token.generation)
}

#[tokio::test]
async fn tokens_that_an_earlier_run_could_not_store_are_taken_up_at_the_start() {
    let whole = Whole::new();
    imported(&whole).await;
    let older = whole.directory.path().join("older");
    copied(Path::new(&whole.path("store")), &older);
    refreshed(&whole, 1).await;
    set_aside(&whole).await;
    // Its high-water mark too: a store that never took the answer of its last refresh.
    put_back(&older, Path::new(&whole.path("store")));
    let generation = lived(&whole, async |broker| {
        assert_eq!(broker.connection(&id()).await.unwrap().status, Status::Active);
        renewed(&broker).await
    })
    .await;
    assert_eq!((generation, files_aside(&whole)), (Ok(4), 0));
    assert_eq!(whole.sandbox.log().spent_tokens_presented(), 0);
}

#[tokio::test]
async fn a_store_put_back_is_marked_once_and_only_then_asks_with_what_may_be_spent() {
    let whole = Whole::new();
    imported(&whole).await;
    let (older, inner) = (whole.directory.path().join("older"), PathBuf::from(whole.path("store/store")));
    copied(&inner, &older);
    refreshed(&whole, 2).await;
    put_back(&older, &inner);
    for _ in 0..2 {
        lived(&whole, async |broker| {
            let profile = broker.connection(&id()).await.unwrap();
            assert_eq!((profile.status, profile.generation), (Status::Ambiguous, 2));
            let history = broker.history(&id()).await.unwrap();
            let marks = history.events().iter().filter(|event| event.what == Happening::RolledBack);
            assert_eq!(marks.map(|event| event.times).sum::<u32>(), 1, "what was dealt with stays so");
        })
        .await;
    }
    assert_eq!(whole.sandbox.log().spent_tokens_presented(), 0);
    let told = lived(&whole, async |broker| renewed(&broker).await).await;
    assert_eq!(told, Err(Reason::ReauthRequired), "nothing newer was left");
    assert_eq!(whole.sandbox.log().spent_tokens_presented(), 1);
}

#[tokio::test]
async fn newer_tokens_in_the_second_place_rescue_the_grant_of_a_store_put_back() {
    // Without its high-water mark the store says so by itself; with it only the second place can tell.
    for what in ["store/store", "store"] {
        let whole = Whole::new();
        imported(&whole).await;
        let (older, what) = (whole.directory.path().join("older"), PathBuf::from(whole.path(what)));
        copied(&what, &older);
        refreshed(&whole, 2).await;
        set_aside(&whole).await;
        put_back(&older, &what);
        let generation = lived(&whole, async |broker| {
            let profile = broker.connection(&id()).await.unwrap();
            assert_eq!((profile.status, profile.generation), (Status::Ambiguous, 4));
            renewed(&broker).await
        })
        .await;
        assert_eq!((generation, files_aside(&whole)), (Ok(5), 0));
        assert_eq!(whole.sandbox.log().spent_tokens_presented(), 0);
    }
}

/// Damage in the tokens of one record, whose profile opens: it is listed, and cannot be marked.
#[tokio::test]
async fn one_damaged_record_of_a_store_put_back_keeps_no_broker_from_starting() {
    let whole = Whole::new();
    imported(&whole).await;
    let path = whole.path("store/store/sled");
    {
        // Sled lets go of its file in a thread of its own.
        let file = fs::File::open(Path::new(&path).join("db")).unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    }
    let rows = ::sled::Config::new().path(&path).open().unwrap();
    let (key, row) = rows.iter().map(Result::unwrap).max_by_key(|(_, row)| row.len()).unwrap();
    let mut row = row.to_vec();
    *row.last_mut().unwrap() ^= 1;
    rows.insert(key, row).unwrap();
    rows.flush().unwrap();
    drop(rows);
    fs::remove_file(whole.path("store/highwater")).unwrap();
    for _ in 0..2 {
        lived(&whole, async |broker| {
            let listed = broker.connections(&Selection::default(), 0, "").await.unwrap();
            assert_eq!(listed.profiles.len(), 1, "its profile opens");
            let asked = TokenRequest {
                id: id(),
                scopes: Vec::new(),
                min_ttl: None,
                if_not_equal_to: None,
                allow_stale: false,
            };
            let refused = broker.access_token(asked).await.unwrap_err();
            assert_eq!(refused.reason(), Reason::RecordUnreadable, "and it is named");
        })
        .await;
    }
}
