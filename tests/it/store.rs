//! The durable store as an operator has it: what stands on its disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use token_broker::clock::Timestamp;
use token_broker::connection::{
    AccessToken, Account, CodeWait, ConnectSession, Connection, ConnectionId, Failure, FinishWait, Phase,
    RefreshToken, Status, TokenSet,
};
use token_broker::entropy::OsEntropy;
use token_broker::error::OAuthCode;
use token_broker::secret::Secret;
use token_broker::store::guard::{DurableStore, Opening};
use token_broker::store::keyring::{self, KeyRing};
use token_broker::store::{Expected, SessionKey, SessionStore, TokenStore, sled};
use token_broker::telemetry::Metrics;

const NOW: Timestamp = Timestamp::from_millis(1_795_269_600_000);

fn open(folder: &Path) -> DurableStore {
    let keys = folder.join("keys");
    if !keys.exists() {
        keyring::generate(&keys, NOW, &OsEntropy).unwrap();
    }
    let keys = KeyRing::load(&keys).unwrap();
    let mut opening =
        Opening::new(folder.join("data"), keys, Arc::new(OsEntropy), Arc::new(Metrics::default()));
    opening.allow_throwaway = true;
    sled::open(opening).unwrap()
}

/// Hands out a fresh canary for each field and remembers them all.
#[derive(Default)]
struct Canaries(Vec<String>);

impl Canaries {
    fn plant(&mut self, field: &str) -> String {
        let canary = format!("canary-{}-{field}", self.0.len());
        self.0.push(canary.clone());
        canary
    }

    fn tokens(&mut self) -> TokenSet {
        TokenSet {
            access: Some(AccessToken {
                value: Secret::new(self.plant("access").repeat(700)),
                token_type: self.plant("type"),
                issued_at: NOW,
                expires_at: None,
            }),
            refresh: Some(RefreshToken { value: Secret::new(self.plant("refresh")), expires_at: None }),
            previous: Some(RefreshToken { value: Secret::new(self.plant("previous")), expires_at: None }),
            surplus: Vec::new(),
        }
    }

    fn id(&mut self) -> ConnectionId {
        let (tenant, name) = (self.plant("tenant"), self.plant("name"));
        ConnectionId::parse(tenant, self.plant("provider"), name).unwrap()
    }

    fn connection(&mut self) -> Connection {
        let mut connection = Connection::pending(self.id(), NOW);
        let profile = &mut connection.profile;
        profile.status = Status::ReauthRequired;
        profile.account = Some(Account { id: self.plant("account"), email: Some(self.plant("email")) });
        profile.scopes = [self.plant("scope")].into_iter().collect();
        profile.last_failure = Some(Failure {
            reason: self.plant("reason"),
            oauth_error: Some(OAuthCode::new(&self.plant("code"))),
            at: NOW,
        });
        connection.tokens = Some(self.tokens());
        connection
    }

    fn session(&mut self, phase: Phase) -> ConnectSession {
        ConnectSession {
            session: self.plant("session"),
            connection: self.id(),
            expires_at: NOW + Duration::from_secs(600),
            allow_account_change: false,
            phase,
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test]
async fn nothing_stands_in_clear_anywhere_in_the_stores_directory() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut canaries = Canaries::default();

    let connection = canaries.connection();
    let first = TokenStore::put(&store, &connection, Expected::Absent).await.unwrap();
    let renewed = Connection { tokens: Some(canaries.tokens()), ..connection };
    TokenStore::put(&store, &renewed, Expected::At(first)).await.unwrap();
    let removed = canaries.connection();
    let revision = TokenStore::put(&store, &removed, Expected::Absent).await.unwrap();
    store.remove(&removed.profile.id, Expected::At(revision)).await.unwrap();

    let code = Phase::Code(CodeWait {
        code_verifier: Secret::new(canaries.plant("verifier")),
        redirect_uri: canaries.plant("redirect"),
        return_url: Some(canaries.plant("return")),
        scopes: [canaries.plant("scope")].into_iter().collect(),
        variables: [("v".to_owned(), canaries.plant("value"))].into(),
    });
    let finish = Phase::Finish(FinishWait {
        tokens: canaries.tokens(),
        scopes: [canaries.plant("scope")].into_iter().collect(),
        account: Some(Account { id: canaries.plant("account"), email: None }),
        variables: [("v".to_owned(), Some(canaries.plant("value")))].into(),
    });
    // The key is a digest of a secret; not even that may stand there.
    let keys = [SessionKey([0xA7; 32]), SessionKey([0xB3; 32])];
    SessionStore::put(&store, keys[0], &canaries.session(code)).await.unwrap();
    SessionStore::put(&store, keys[1], &canaries.session(finish)).await.unwrap();
    store.take(keys[1]).await.unwrap().unwrap();
    store.close().await;

    let ring = std::fs::read_to_string(folder.path().join("keys")).unwrap();
    let value = ring.split("base64:").nth(1).unwrap().split_whitespace().next().unwrap();
    let files = files(folder.path());
    let mut bytes = 0;
    for path in files.iter().filter(|path| path.starts_with(folder.path().join("data"))) {
        let content = std::fs::read(path).unwrap();
        bytes += content.len();
        for canary in &canaries.0 {
            assert!(!contains(&content, canary.as_bytes()), "{canary} stands in {}", path.display());
        }
        assert!(!contains(&content, b"canary"), "a part of one stands in {}", path.display());
        assert!(!contains(&content, value.as_bytes()), "the key stands in {}", path.display());
        for key in keys {
            assert!(!contains(&content, &key.0), "a session's digest stands in {}", path.display());
        }
    }
    assert!(bytes > 50_000, "the records were looked at");
}

#[tokio::test]
async fn the_store_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mode = |path: &str| std::fs::metadata(folder.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("data"), 0o700);
    assert_eq!(mode("data/store"), 0o700);
    assert_eq!(mode("data/store/identity"), 0o600);
    drop(store);
}
