//! The storage contract as tests. A backend that passes all of it is a backend.
//!
//! A backend's tests say `conformance!(SUBJECT)`, where SUBJECT makes a fresh, empty [`Subject`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::future::join_all;

use super::guard::{DurableStore, OpenError, Opening};
use super::keyring::{self, KeyRing};
use super::{Expected, PageToken, Revision, Selection, SessionKey, SessionStore, TokenStore};
use crate::clock::Timestamp;
use crate::connection::history::Happening;
use crate::connection::{
    AccessToken, CodeWait, ConnectSession, Connection, ConnectionId, Phase, ProviderKey, RefreshToken,
    Scopes, Status, Tenant, TokenSet,
};
use crate::entropy::OsEntropy;
use crate::error::StoreError;
use crate::secret::Secret;
use crate::telemetry::Metrics;

/// A store under test.
pub(crate) trait Subject {
    fn tokens(&self) -> Arc<dyn TokenStore>;
    fn sessions(&self) -> Arc<dyn SessionStore>;
    /// Closes and opens again over the same data; `None` if it keeps none.
    fn reopened(self) -> Option<Self>
    where
        Self: Sized;
}

/// A durable store in a folder of its own.
pub(crate) struct Durable {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) store: Arc<DurableStore>,
    open: fn(Opening) -> Result<DurableStore, OpenError>,
}

impl Durable {
    /// An empty one, made by `open`.
    pub(crate) fn fresh(open: fn(Opening) -> Result<DurableStore, OpenError>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(open(Self::opening(folder.path())).unwrap());
        Self { folder, store, open }
    }

    /// How the store in `folder` is opened.
    pub(crate) fn opening(folder: &Path) -> Opening {
        let key_file = folder.join("keys");
        if !key_file.exists() {
            keyring::generate(&key_file, Timestamp::from_millis(0), &OsEntropy).unwrap();
        }
        let keys = KeyRing::load(&key_file).unwrap();
        let mut opening =
            Opening::new(folder.join("data"), keys, Arc::new(OsEntropy), Arc::new(Metrics::default()));
        // The tests' folder may be in memory or in a container's layer.
        opening.allow_throwaway = true;
        opening
    }

    /// Closes it.
    pub(crate) fn close(self) -> tempfile::TempDir {
        drop(Arc::into_inner(self.store).unwrap());
        self.folder
    }
}

impl Subject for Durable {
    fn tokens(&self) -> Arc<dyn TokenStore> {
        Arc::clone(&self.store) as Arc<dyn TokenStore>
    }
    fn sessions(&self) -> Arc<dyn SessionStore> {
        Arc::clone(&self.store) as Arc<dyn SessionStore>
    }
    fn reopened(self) -> Option<Self> {
        let open = self.open;
        let folder = self.close();
        let store = Arc::new(open(Self::opening(folder.path())).unwrap());
        assert!(!store.is_new());
        Some(Self { folder, store, open })
    }
}

macro_rules! conformance {
    ($subject:expr) => {
        $crate::store::conformance::each!($subject;
            what_is_put_is_what_is_got,
            a_write_on_a_wrong_expectation_changes_nothing,
            of_many_writers_on_one_revision_exactly_one_wins,
            no_revision_repeats_for_a_name,
            what_was_acknowledged_survives_reopening,
            equal_names_of_different_tenants_do_not_meet,
            a_listing_is_complete_stable_and_paged,
            a_listing_selects,
            what_is_remembered_of_a_connection_lies_beside_it_and_is_listed_on_demand,
            a_dropped_write_is_wholly_done_or_wholly_undone,
            large_records_come_back_whole_and_shrink_again,
            of_many_takers_exactly_one_gets_the_session,
            a_session_is_left_by_a_read_and_replaced_by_a_put,
            a_sweep_removes_what_expired_and_nothing_else
        );
    };
}
macro_rules! each {
    ($subject:expr; $($fact:ident),* $(,)?) => {$(
        #[tokio::test]
        async fn $fact() {
            $crate::store::conformance::$fact($subject).await;
        }
    )*};
}
pub(crate) use {conformance, each};

pub(crate) const T0: Timestamp = Timestamp::from_millis(1_795_269_600_000);

pub(crate) fn id(tenant: &str, provider: &str, name: &str) -> ConnectionId {
    ConnectionId::parse(tenant.into(), provider.into(), name.into()).unwrap()
}

/// An active connection whose tokens end in `mark`.
pub(crate) fn connection(id: ConnectionId, mark: &str) -> Connection {
    let mut connection = Connection::pending(id, T0);
    connection.profile.status = Status::Active;
    connection.tokens = Some(TokenSet {
        access: Some(AccessToken {
            value: Secret::new(format!("access-{mark}")),
            token_type: "Bearer".into(),
            issued_at: T0,
            expires_at: Some(T0 + Duration::from_secs(3600)),
        }),
        refresh: Some(RefreshToken { value: Secret::new(format!("refresh-{mark}")), expires_at: None }),
        previous: Some(RefreshToken {
            value: Secret::new(format!("previous-{}", mark.len())),
            expires_at: None,
        }),
        surplus: Vec::new(),
    });
    connection
}

fn session(name: &str, expires_at: Timestamp) -> ConnectSession {
    ConnectSession {
        session: name.to_owned(),
        connection: id("", "google", "user-42"),
        expires_at,
        allow_account_change: false,
        phase: Phase::Code(CodeWait {
            code_verifier: Secret::new(format!("verifier-{name}")),
            redirect_uri: "https://broker/callback/google".into(),
            return_url: None,
            scopes: Scopes::default(),
            variables: Default::default(),
        }),
    }
}

async fn access(store: &dyn TokenStore, id: &ConnectionId) -> Option<String> {
    let stored = store.get(id).await.unwrap()?;
    Some(stored.value.tokens.unwrap().access.unwrap().value.expose().clone())
}

pub(crate) async fn what_is_put_is_what_is_got(subject: impl Subject) {
    let store = subject.tokens();
    let mut put = connection(id("acme", "google", "user-42"), "1");
    put.profile.scopes = ["b", "a"].into_iter().collect();
    assert!(store.get(&put.profile.id).await.unwrap().is_none());
    let revision = store.put(&put, Expected::Absent).await.unwrap();

    let got = store.get(&put.profile.id).await.unwrap().unwrap();
    assert_eq!(got.revision, revision);
    assert_eq!(got.value.profile, put.profile);
    assert_eq!(got.value.tokens, put.tokens);

    put.tokens = None;
    let revision = store.put(&put, Expected::At(revision)).await.unwrap();
    assert_eq!(store.get(&put.profile.id).await.unwrap().unwrap().value.tokens, None);

    store.remove(&put.profile.id, Expected::At(revision)).await.unwrap();
    assert!(store.get(&put.profile.id).await.unwrap().is_none());
    assert!(store.list(&Selection::default(), None, 10).await.unwrap().profiles.is_empty());
}

pub(crate) async fn a_write_on_a_wrong_expectation_changes_nothing(subject: impl Subject) {
    let store = subject.tokens();
    let name = id("", "google", "user-42");
    let (one, other) = (connection(name.clone(), "1"), connection(name.clone(), "2"));
    let wrong = Expected::At(Revision(99));
    assert_eq!(store.put(&one, wrong).await.unwrap_err(), StoreError::Conflict);
    assert_eq!(store.remove(&name, wrong).await.unwrap_err(), StoreError::Conflict);
    assert!(store.get(&name).await.unwrap().is_none());
    store.remove(&name, Expected::Absent).await.unwrap();

    let revision = store.put(&one, Expected::Absent).await.unwrap();
    assert_eq!(store.put(&other, Expected::Absent).await.unwrap_err(), StoreError::Conflict);
    assert_eq!(store.put(&other, wrong).await.unwrap_err(), StoreError::Conflict);
    assert_eq!(store.remove(&name, wrong).await.unwrap_err(), StoreError::Conflict);
    assert_eq!(store.remove(&name, Expected::Absent).await.unwrap_err(), StoreError::Conflict);
    assert_eq!(store.get(&name).await.unwrap().unwrap().revision, revision);
    assert_eq!(access(&*store, &name).await.unwrap(), "access-1");
}

pub(crate) async fn of_many_writers_on_one_revision_exactly_one_wins(subject: impl Subject) {
    let store = subject.tokens();
    let name = id("", "google", "user-42");
    let mut expected = Expected::Absent;
    for round in 0..3 {
        let writers: Vec<Connection> =
            (0..50).map(|writer| connection(name.clone(), &format!("{round}-{writer}"))).collect();
        let outcomes = join_all(writers.iter().map(|writer| store.put(writer, expected))).await;
        let won: Vec<usize> = (0..50).filter(|writer| outcomes[*writer].is_ok()).collect();
        let [winner] = won[..] else { panic!("{} writers won", won.len()) };
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(_) | Err(StoreError::Conflict))));
        assert_eq!(access(&*store, &name).await.unwrap(), format!("access-{round}-{winner}"));
        expected = Expected::At(*outcomes[winner].as_ref().unwrap());
    }
}

pub(crate) async fn no_revision_repeats_for_a_name(subject: impl Subject) {
    let store = subject.tokens();
    let (name, other) = (id("", "google", "user-42"), id("", "google", "user-43"));
    let mut seen = BTreeSet::new();
    for round in 0..4 {
        let mut revision = store.put(&connection(name.clone(), "a"), Expected::Absent).await.unwrap();
        assert!(seen.insert(revision), "{revision:?} again, round {round}");
        for _ in 0..round {
            revision = store.put(&connection(name.clone(), "b"), Expected::At(revision)).await.unwrap();
            assert!(seen.insert(revision), "{revision:?} again, round {round}");
        }
        store.remove(&name, Expected::At(revision)).await.unwrap();
        // Another name's short life must not bring the count down.
        let brief = store.put(&connection(other.clone(), "c"), Expected::Absent).await.unwrap();
        store.remove(&other, Expected::At(brief)).await.unwrap();
    }
}

pub(crate) async fn what_was_acknowledged_survives_reopening(subject: impl Subject) {
    let store = subject.tokens();
    let names: Vec<_> = (0..20).map(|at| id("", "google", &format!("user-{at}"))).collect();
    let mut revisions = Vec::new();
    for name in &names {
        revisions.push(store.put(&connection(name.clone(), "1"), Expected::Absent).await.unwrap());
    }
    revisions[3] = store.put(&connection(names[3].clone(), "2"), Expected::At(revisions[3])).await.unwrap();
    store.remove(&names[4], Expected::At(revisions[4])).await.unwrap();
    subject.sessions().put(SessionKey([1; 32]), &session("kept", T0)).await.unwrap();
    subject.sessions().put(SessionKey([2; 32]), &session("taken", T0)).await.unwrap();
    subject.sessions().take(SessionKey([2; 32])).await.unwrap().unwrap();
    drop(store);

    let Some(subject) = subject.reopened() else { return };
    let store = subject.tokens();
    for (at, name) in names.iter().enumerate() {
        let found = access(&*store, name).await;
        match at {
            3 => assert_eq!(found.unwrap(), "access-2"),
            4 => assert_eq!(found, None),
            _ => assert_eq!(found.unwrap(), "access-1"),
        }
    }
    assert_eq!(store.get(&names[3]).await.unwrap().unwrap().revision, revisions[3]);
    assert_eq!(subject.sessions().take(SessionKey([1; 32])).await.unwrap().unwrap().session, "kept");
    assert!(subject.sessions().take(SessionKey([2; 32])).await.unwrap().is_none());
}

pub(crate) async fn equal_names_of_different_tenants_do_not_meet(subject: impl Subject) {
    let store = subject.tokens();
    let names = [id("", "google", "u"), id("acme", "google", "u"), id("acme", "github", "u")];
    for (at, name) in names.iter().enumerate() {
        store.put(&connection(name.clone(), &at.to_string()), Expected::Absent).await.unwrap();
    }
    for (at, name) in names.iter().enumerate() {
        assert_eq!(access(&*store, name).await.unwrap(), format!("access-{at}"));
    }
}

/// Every name of a selection, page by page.
async fn names(store: &dyn TokenStore, selection: &Selection, limit: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut after: Option<PageToken> = None;
    loop {
        let page = store.list(selection, after.as_ref(), limit).await.unwrap();
        assert!(page.profiles.len() <= limit);
        assert_eq!(page.unreadable, 0);
        assert!(page.next.is_none() || page.profiles.len() == limit, "a short page is the last");
        found.extend(page.profiles.iter().map(|profile| profile.id.to_string()));
        match page.next {
            Some(next) => after = Some(next),
            None => return found,
        }
    }
}

pub(crate) async fn a_listing_is_complete_stable_and_paged(subject: impl Subject) {
    let store = subject.tokens();
    // More than one stride of the table's.
    let all: Vec<_> = (0..600).map(|at| connection(id("", "google", &format!("user-{at}")), "1")).collect();
    join_all(all.iter().map(|connection| store.put(connection, Expected::Absent))).await;
    let expected: BTreeSet<String> = all.iter().map(|connection| connection.profile.id.to_string()).collect();

    let whole = names(&*store, &Selection::default(), 1000).await;
    assert_eq!(whole.iter().cloned().collect::<BTreeSet<_>>(), expected);
    assert_eq!(whole.len(), 600, "nothing twice");
    for limit in [7, 100, 300, 600] {
        assert_eq!(names(&*store, &Selection::default(), limit).await, whole, "pages of {limit}");
    }
    let stray = store.list(&Selection::default(), Some(&PageToken(vec![255; 77])), 10).await.unwrap();
    assert!(stray.profiles.is_empty(), "a place past the end");
}

pub(crate) async fn a_listing_selects(subject: impl Subject) {
    let store = subject.tokens();
    for tenant in ["", "acme"] {
        for provider in ["google", "github"] {
            for name in ["org-1", "org-2", "user-1"] {
                let mut connection = connection(id(tenant, provider, name), "1");
                if name == "org-2" {
                    connection.profile.status = Status::ReauthRequired;
                }
                store.put(&connection, Expected::Absent).await.unwrap();
            }
        }
    }
    let count = async |selection: Selection| names(&*store, &selection, 2).await.len();
    assert_eq!(count(Selection::default()).await, 12);
    assert_eq!(
        count(Selection { tenant: Some(Tenant::parse("acme").unwrap()), ..Default::default() }).await,
        6
    );
    assert_eq!(count(Selection { tenant: Some(Tenant::default()), ..Default::default() }).await, 6);
    let provider = Some(ProviderKey::parse("google").unwrap());
    assert_eq!(count(Selection { provider: provider.clone(), ..Default::default() }).await, 6);
    assert_eq!(count(Selection { status: Some(Status::ReauthRequired), ..Default::default() }).await, 4);
    let name_prefix = Some("org-".to_owned());
    assert_eq!(count(Selection { name_prefix: name_prefix.clone(), ..Default::default() }).await, 8);
    let narrow =
        Selection { provider, name_prefix, status: Some(Status::Active), tenant: None, with_ended: false };
    assert_eq!(count(narrow).await, 2);
}

pub(crate) async fn what_is_remembered_of_a_connection_lies_beside_it_and_is_listed_on_demand(
    subject: impl Subject,
) {
    let (store, at) = (subject.tokens(), T0 + Duration::from_secs(60));
    let living = connection(id("acme", "google", "user-42"), "1");
    store.put(&living, Expected::Absent).await.unwrap();
    let past = living.ended(Happening::Revoked, at);
    store.put(&past, Expected::Absent).await.unwrap();
    let is_there = async |store: &dyn TokenStore| {
        let found = store.get(&living.profile.id.ended()).await.unwrap().unwrap().value;
        assert_eq!((&found.profile, &found.tokens, &found.history), (&past.profile, &None, &past.history));
        assert_eq!(access(store, &living.profile.id).await.unwrap(), "access-1");
        assert_eq!(names(store, &Selection::default(), 1).await, ["google user-42 [acme]"]);
        let all = Selection { with_ended: true, ..Selection::default() };
        assert_eq!(names(store, &all, 1).await.len(), 2);
        let revoked = Selection { status: Some(Status::Revoked), ..Selection::default() };
        assert!(names(store, &revoked, 1).await.is_empty(), "it is no connection");
    };
    is_there(&*store).await;
    drop(store);
    if let Some(subject) = subject.reopened() {
        is_there(&*subject.tokens()).await;
    }
}

pub(crate) async fn a_dropped_write_is_wholly_done_or_wholly_undone(subject: impl Subject) {
    let store = subject.tokens();
    let mut seen = BTreeMap::new();
    for at in 0..50 {
        let name = id("", "google", &format!("user-{at}"));
        let large = connection(name.clone(), &"x".repeat(20_000));
        let mut write = store.put(&large, Expected::Absent);
        if at % 2 == 1 {
            let _ = write.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
        drop(write);
        // A write behind it: what was queued before is settled by then.
        store.put(&connection(id("", "google", "last"), "1"), Expected::Absent).await.ok();
        let found = access(&*store, &name).await;
        assert!(found.is_none() || found.as_ref().is_some_and(|access| access.len() == 20_007));
        *seen.entry((at % 2, found.is_some())).or_insert(0) += 1;
    }
    assert_eq!(
        seen,
        BTreeMap::from([((0, false), 25), ((1, true), 25)]),
        "never begun, never dropped half-way"
    );
}

pub(crate) async fn large_records_come_back_whole_and_shrink_again(subject: impl Subject) {
    let store = subject.tokens();
    let name = id("", "google", "user-42");
    let mut expected = Expected::Absent;
    for size in [10, 3_000, 4_096, 65_536, 500, 500_000, 8_000, 1] {
        let mark: String = ('a'..='z').cycle().take(size).collect();
        expected = Expected::At(store.put(&connection(name.clone(), &mark), expected).await.unwrap());
        assert_eq!(access(&*store, &name).await.unwrap(), format!("access-{mark}")[..], "{size} bytes");
        assert_eq!(names(&*store, &Selection::default(), 10).await.len(), 1);
    }
    store.remove(&name, expected).await.unwrap();
    assert!(names(&*store, &Selection::default(), 10).await.is_empty());
}

pub(crate) async fn of_many_takers_exactly_one_gets_the_session(subject: impl Subject) {
    let store = subject.sessions();
    for round in 0..3 {
        let key = SessionKey([round; 32]);
        store.put(key, &session("s", T0)).await.unwrap();
        let takers = (0..100).map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.take(key).await.unwrap().is_some() })
        });
        let got = join_all(takers).await.into_iter().filter(|taken| *taken.as_ref().unwrap()).count();
        assert_eq!(got, 1);
        assert!(store.get(key).await.unwrap().is_none());
    }
}

pub(crate) async fn a_session_is_left_by_a_read_and_replaced_by_a_put(subject: impl Subject) {
    let store = subject.sessions();
    let key = SessionKey([7; 32]);
    assert!(store.get(key).await.unwrap().is_none());
    store.put(key, &session("one", T0)).await.unwrap();
    store.put(key, &session("two", T0 + Duration::from_secs(1))).await.unwrap();
    for _ in 0..2 {
        let found = store.get(key).await.unwrap().unwrap();
        assert_eq!((found.session.as_str(), found.expires_at), ("two", T0 + Duration::from_secs(1)));
        let Phase::Code(wait) = found.phase else { panic!("another phase") };
        assert_eq!(wait.code_verifier.expose(), "verifier-two");
    }
    assert!(store.get(SessionKey([8; 32])).await.unwrap().is_none());
}

pub(crate) async fn a_sweep_removes_what_expired_and_nothing_else(subject: impl Subject) {
    let store = subject.sessions();
    let keys: Vec<_> = (0..40u8).map(|at| SessionKey([at; 32])).collect();
    for (at, key) in keys.iter().enumerate() {
        let expires_at = T0 + Duration::from_secs(at as u64);
        store.put(*key, &session(&at.to_string(), expires_at)).await.unwrap();
    }
    subject.tokens().put(&connection(id("", "google", "u"), "1"), Expected::Absent).await.unwrap();
    assert_eq!(store.sweep(T0 + Duration::from_secs(30)).await.unwrap(), 30);
    assert_eq!(store.sweep(T0 + Duration::from_secs(30)).await.unwrap(), 0);
    for (at, key) in keys.iter().enumerate() {
        assert_eq!(store.get(*key).await.unwrap().is_some(), at >= 30, "{at}");
    }
    assert!(subject.tokens().get(&id("", "google", "u")).await.unwrap().is_some());
}
