//! A whole broker in memory: a provider that does what a test says, a store that can be made to fail, a clock that
//! stands still. No sockets, no time of its own.

pub(crate) mod entry;
mod store;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use token_broker::broker::{
    AllowedUrls, AuthorizationResponse, BeginConnect, Broker, ConnectBegun, Deps, Disconnected,
    ImportConnection, Settings, TokenAnswer, TokenRequest,
};
use token_broker::clock::{Clock, ManualClock, Timestamp};
use token_broker::connection::lifetimes::Lifetimes;
use token_broker::connection::reuse::ReuseProfile;
use token_broker::connection::{
    AccessToken, Account, Connection, ConnectionId, IssuedTokens, ProviderKey, RefreshToken, Scopes, Status,
    TokenSet,
};
use token_broker::entropy::SeededEntropy;
use token_broker::error::{AmbiguousCause, Error, Mistake, ProviderError};
use token_broker::provider::health::Health;
use token_broker::provider::{
    Admission, AuthorizationRequest, CodeGrant, ProviderClient, ProviderInfo, Revocation, Urgency,
};
use token_broker::secret::Secret;
use token_broker::store::memory::MemoryStore;
use token_broker::store::{EscrowStore, Expected, TokenStore};
use token_broker::telemetry::Metrics;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use url::Url;

pub(crate) use store::FaultyStore;

pub(crate) const LIFE: Duration = Duration::from_secs(3600);

/// The broker and everything a test holds in its hands.
pub(crate) struct Stage {
    pub(crate) broker: Arc<Broker>,
    pub(crate) provider: Arc<FakeProvider>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) store: Arc<FaultyStore>,
    pub(crate) metrics: Arc<Metrics>,
    sessions: Arc<MemoryStore>,
    pub(crate) escrow: Option<Arc<dyn EscrowStore>>,
    /// Which run of the broker this is: each draws other numbers.
    run: u64,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let memory = Arc::new(MemoryStore::default());
        let store = Arc::new(FaultyStore::new(memory.clone()));
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_790_000_000_000)));
        Self::joined(store, memory, None, Arc::new(FakeProvider::new("sandbox")), clock, 42)
    }

    /// The same store and provider behind a new broker: what a restart is.
    pub(crate) fn restarted(&self) -> Self {
        let (store, sessions) = (self.store.clone(), self.sessions.clone());
        let escrow = self.escrow.clone();
        Self::joined(store, sessions, escrow, self.provider.clone(), self.clock.clone(), self.run + 1)
    }

    /// The provider and the clock of `self` with another store and another second place, behind a new broker.
    pub(crate) fn moved(&self, tokens: Arc<dyn TokenStore>, escrow: Option<Arc<dyn EscrowStore>>) -> Self {
        let store = Arc::new(FaultyStore::new(tokens));
        let sessions = self.sessions.clone();
        Self::joined(store, sessions, escrow, self.provider.clone(), self.clock.clone(), self.run + 1)
    }

    fn joined(
        store: Arc<FaultyStore>,
        sessions: Arc<MemoryStore>,
        escrow: Option<Arc<dyn EscrowStore>>,
        provider: Arc<FakeProvider>,
        clock: Arc<ManualClock>,
        run: u64,
    ) -> Self {
        let metrics = Arc::new(Metrics::default());
        let deps = Deps {
            clock: clock.clone(),
            entropy: Arc::new(SeededEntropy::new(run)),
            tokens: store.clone(),
            sessions: sessions.clone(),
            escrow: escrow.clone(),
            providers: vec![provider.clone()],
            metrics: metrics.clone(),
        };
        let settings = Settings {
            public_url: Url::parse("http://127.0.0.1:7451").unwrap(),
            return_urls: AllowedUrls { exact: vec![RETURN_URL.into()], is_loopback_allowed: false },
            redirect_uris: AllowedUrls { exact: vec![APP_CALLBACK.into()], is_loopback_allowed: false },
            ended_histories: 3,
        };
        Self { broker: Broker::new(deps, settings), provider, clock, store, metrics, sessions, escrow, run }
    }

    /// A connection named `name` that holds `at-0` and `rt-0`.
    pub(crate) async fn imported(&self, name: &str) -> ConnectionId {
        let id = id(name);
        let now = self.clock.now();
        let tokens = TokenSet {
            access: Some(AccessToken {
                value: Secret::new("at-0".into()),
                token_type: "Bearer".into(),
                issued_at: now,
                expires_at: Some(now + LIFE),
            }),
            refresh: Some(RefreshToken { value: Secret::new("rt-0".into()), expires_at: None }),
            previous: None,
            surplus: Vec::new(),
        };
        let connection =
            Connection::pending(id.clone(), now).imported(tokens, ["read"].into_iter().collect(), now);
        self.store.put(&connection, Expected::Absent).await.unwrap();
        id
    }

    /// The same, with its token expired.
    pub(crate) async fn expired(&self, name: &str) -> ConnectionId {
        let id = self.imported(name).await;
        self.clock.advance(LIFE);
        id
    }

    /// A caller who asks for a token, in a task of its own.
    pub(crate) fn asking(&self, id: &ConnectionId) -> JoinHandle<Result<TokenAnswer, Error>> {
        let (broker, asked) = (self.broker.clone(), request(id));
        tokio::spawn(async move { broker.access_token(asked).await })
    }

    /// A caller whose refresh has reached the provider, which does not answer before it is let go.
    pub(crate) async fn refreshing(&self, id: &ConnectionId) -> JoinHandle<Result<TokenAnswer, Error>> {
        self.provider.hold();
        let caller = self.asking(id);
        self.provider.requests_reach(1).await;
        caller
    }

    /// An owner who disconnects in a task of its own, seen to have it written down.
    pub(crate) async fn disconnecting(&self, id: &ConnectionId) -> JoinHandle<Result<Disconnected, Error>> {
        let (broker, ended) = (self.broker.clone(), id.clone());
        let disconnect = tokio::spawn(async move { broker.disconnect(ended).await });
        while self.broker.connection(id).await.unwrap().status != Status::Revoking {
            tokio::task::yield_now().await;
        }
        disconnect
    }

    /// The access token a plain call gets.
    pub(crate) async fn token(&self, id: &ConnectionId) -> Result<String, Error> {
        let answer = self.broker.access_token(request(id)).await?;
        Ok(answer.token.access.value.expose().clone())
    }

    /// Begins a consent that comes back through the public door.
    pub(crate) async fn begun(&self, name: &str) -> (ConnectBegun, Secret<String>) {
        self.begin(BeginConnect { return_url: Some(RETURN_URL.into()), ..begin(name) }).await
    }

    /// Begins a consent that comes back through the app's own callback.
    pub(crate) async fn begun_by_app(&self, name: &str) -> (ConnectBegun, Secret<String>) {
        self.begin(BeginConnect { redirect_uri: Some(APP_CALLBACK.into()), ..begin(name) }).await
    }

    pub(crate) async fn begin(&self, request: BeginConnect) -> (ConnectBegun, Secret<String>) {
        let begun = self.broker.begin_connect(request).await.unwrap();
        let url = Url::parse(begun.authorization_url.expose()).unwrap();
        let state = url.query_pairs().find(|(key, _)| key == "state").unwrap().1.into_owned();
        (begun, Secret::new(state))
    }
}

pub(crate) const RETURN_URL: &str = "https://app.example/connected";
pub(crate) const APP_CALLBACK: &str = "https://app.example/oauth/callback";

pub(crate) fn id(name: &str) -> ConnectionId {
    ConnectionId::parse(String::new(), "sandbox".into(), name.into()).unwrap()
}

pub(crate) fn request(id: &ConnectionId) -> TokenRequest {
    TokenRequest {
        id: id.clone(),
        scopes: Vec::new(),
        min_ttl: None,
        if_not_equal_to: None,
        allow_stale: false,
    }
}

pub(crate) fn begin(name: &str) -> BeginConnect {
    BeginConnect {
        id: id(name),
        scopes: Vec::new(),
        return_url: None,
        redirect_uri: None,
        login_hint: None,
        extra: Vec::new(),
        variables: Default::default(),
        allow_account_change: false,
    }
}

pub(crate) fn import(name: &str) -> ImportConnection {
    ImportConnection {
        id: id(name),
        refresh_token: None,
        access_token: None,
        expires_at: None,
        scopes: Vec::new(),
        variables: Default::default(),
        replace: false,
    }
}

/// The answer of a provider whose owner said yes.
pub(crate) fn consented(state: &Secret<String>) -> AuthorizationResponse {
    AuthorizationResponse {
        state: Secret::new(state.expose().clone()),
        code: Some(Secret::new("code-1".into())),
        iss: Some("https://sandbox.example".into()),
        error: None,
    }
}

/// More refreshes at once than any test begins.
const MANY: usize = 1_000_000;

/// A provider that rotates: the n-th refresh gives `at-n` and `rt-n`, unless the script says otherwise.
pub(crate) struct FakeProvider {
    key: ProviderKey,
    scopes: Scopes,
    script: Mutex<VecDeque<Result<IssuedTokens, ProviderError>>>,
    /// The access token that it gives at each refresh for as long as this says so; the refresh token is a new one.
    pub(crate) repeats: Mutex<Option<String>>,
    presented: Mutex<Vec<String>>,
    verifiers: Mutex<Vec<String>>,
    arrived: watch::Sender<usize>,
    gate: Semaphore,
    is_held: AtomicBool,
    places: Arc<Semaphore>,
    in_line: watch::Sender<usize>,
    /// How pressing the refreshes were for which leave was asked, in order.
    pub(crate) urgencies: Mutex<Vec<Urgency>>,
    pub(crate) reuse: Mutex<ReuseProfile>,
    /// The refresh tokens that were presented for revocation.
    pub(crate) ended: Mutex<Vec<String>>,
    pub(crate) account: Mutex<Result<Option<Account>, ProviderError>>,
    pub(crate) revocation: Mutex<Result<Revocation, ProviderError>>,
    revoked: watch::Sender<usize>,
    issued: AtomicUsize,
    pub(crate) lifetimes: Mutex<Lifetimes>,
    /// What lets no request out while it stands.
    pub(crate) bar: Mutex<Option<ProviderError>>,
    /// What work that nobody waits for is told at once instead of a turn.
    pub(crate) puts_off: Mutex<Option<ProviderError>>,
    /// How it fares, as long as nobody closes its breaker.
    pub(crate) health: Mutex<Option<Health>>,
    /// The ages at which tokens were refused too early.
    pub(crate) refused: Mutex<Vec<Duration>>,
}

pub(crate) fn issued(access: &str, refresh: Option<&str>) -> IssuedTokens {
    IssuedTokens {
        access_token: Secret::new(access.to_owned()),
        token_type: "Bearer".into(),
        expires_in: Some(LIFE),
        refresh_token: refresh.map(|r| Secret::new(r.to_owned())),
        refresh_expires_in: None,
        scopes: None,
        account: None,
        variables: Default::default(),
    }
}

/// An answer that comes in time; else what was asked may have been done all the same.
pub(crate) async fn in_time<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, ProviderError>>,
) -> Result<T, ProviderError> {
    let lost = ProviderError::Ambiguous { cause: AmbiguousCause::Timeout };
    tokio::time::timeout(patience, answer).await.unwrap_or(Err(lost))
}

impl FakeProvider {
    fn new(key: &str) -> Self {
        Self {
            key: ProviderKey::parse(key).unwrap(),
            scopes: ["read"].into_iter().collect(),
            script: Mutex::default(),
            repeats: Mutex::default(),
            presented: Mutex::default(),
            verifiers: Mutex::default(),
            arrived: watch::Sender::new(0),
            gate: Semaphore::new(0),
            is_held: AtomicBool::new(false),
            places: Arc::new(Semaphore::new(MANY)),
            in_line: watch::Sender::new(0),
            urgencies: Mutex::default(),
            reuse: Mutex::default(),
            ended: Mutex::default(),
            account: Mutex::new(Ok(Some(Account { id: "alice".into(), email: None }))),
            revocation: Mutex::new(Ok(Revocation::Revoked)),
            revoked: watch::Sender::new(0),
            issued: AtomicUsize::new(0),
            lifetimes: Mutex::default(),
            bar: Mutex::default(),
            puts_off: Mutex::default(),
            health: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// What the next refresh answers.
    pub(crate) fn next(&self, outcome: Result<IssuedTokens, ProviderError>) {
        self.script.lock().unwrap().push_back(outcome);
    }

    /// Keeps refreshes and revocations waiting until [`FakeProvider::release`].
    pub(crate) fn hold(&self) {
        self.is_held.store(true, Ordering::SeqCst);
    }

    pub(crate) fn release(&self) {
        self.is_held.store(false, Ordering::SeqCst);
        self.gate.add_permits(1000);
    }

    /// Takes one refresh at a time from now on; the others wait in line.
    pub(crate) fn narrow(&self) {
        self.places.forget_permits(MANY - 1);
    }

    /// Returns when `count` refreshes have asked for leave, given or not.
    pub(crate) async fn line_reaches(&self, count: usize) {
        self.in_line.subscribe().wait_for(|n| *n >= count).await.unwrap();
    }

    /// Returns when `count` token requests have arrived, answered or not.
    pub(crate) async fn requests_reach(&self, count: usize) {
        self.arrived.subscribe().wait_for(|n| *n >= count).await.unwrap();
    }

    /// Returns when `count` revocations were asked for.
    pub(crate) async fn revocations_reach(&self, count: usize) {
        self.revoked.subscribe().wait_for(|n| *n >= count).await.unwrap();
    }

    pub(crate) fn revocations(&self) -> usize {
        *self.revoked.borrow()
    }

    /// The refresh tokens presented so far, in order.
    pub(crate) fn presented(&self) -> Vec<String> {
        self.presented.lock().unwrap().clone()
    }

    /// The code verifiers presented so far, in order.
    pub(crate) fn verifiers(&self) -> Vec<String> {
        self.verifiers.lock().unwrap().clone()
    }

    async fn answer(&self) -> Result<IssuedTokens, ProviderError> {
        self.arrived.send_modify(|n| *n += 1);
        if self.is_held.load(Ordering::SeqCst) {
            self.gate.acquire().await.unwrap().forget();
        }
        let scripted = self.script.lock().unwrap().pop_front();
        scripted.unwrap_or_else(|| {
            let n = self.issued.fetch_add(1, Ordering::SeqCst) + 1;
            let access = self.repeats.lock().unwrap().clone().unwrap_or_else(|| format!("at-{n}"));
            Ok(issued(&access, Some(&format!("rt-{n}"))))
        })
    }
}

#[async_trait]
impl ProviderClient for FakeProvider {
    fn key(&self) -> &ProviderKey {
        &self.key
    }

    fn info(&self) -> ProviderInfo {
        ProviderInfo {
            key: self.key.to_string(),
            display_name: "Sandbox".into(),
            health: self.health.lock().unwrap().clone(),
            ..ProviderInfo::default()
        }
    }

    fn is_enabled(&self) -> bool {
        true
    }

    fn saw_token_refused(&self, age: Duration) {
        self.refused.lock().unwrap().push(age);
    }

    fn close_breaker(&self) {
        *self.health.lock().unwrap() = None;
    }

    fn lifetimes(&self) -> Lifetimes {
        *self.lifetimes.lock().unwrap()
    }

    fn default_scopes(&self) -> &Scopes {
        &self.scopes
    }

    fn check_extra(&self, extra: &[(String, String)]) -> Result<(), Vec<Mistake>> {
        if extra.is_empty() {
            return Ok(());
        }
        Err(vec![Mistake { field: "extra".into(), message: "is not allowed".into() }])
    }

    async fn authorization_url(&self, request: &AuthorizationRequest) -> Result<Url, ProviderError> {
        let mut url = Url::parse("https://sandbox.example/authorize").unwrap();
        url.query_pairs_mut()
            .append_pair("state", request.state.expose())
            .append_pair("code_challenge", &request.code_challenge)
            .append_pair("redirect_uri", &request.redirect_uri)
            .append_pair("scope", &request.scopes.as_slice().join(" "));
        Ok(url)
    }

    async fn accepts_issuer(&self, iss: Option<&str>) -> Result<bool, ProviderError> {
        Ok(iss == Some("https://sandbox.example"))
    }

    async fn exchange(&self, grant: &CodeGrant) -> Result<IssuedTokens, ProviderError> {
        self.verifiers.lock().unwrap().push(grant.code_verifier.expose().clone());
        self.answer().await
    }

    fn reuse_profile(&self) -> ReuseProfile {
        let refresh_idle = self.lifetimes.lock().unwrap().refresh_idle;
        ReuseProfile { refresh_idle, ..self.reuse.lock().unwrap().clone() }
    }

    async fn admit(&self, urgency: Urgency) -> Result<Admission, ProviderError> {
        if let Some(bar) = self.bar.lock().unwrap().clone() {
            return Err(bar);
        }
        self.urgencies.lock().unwrap().push(urgency);
        self.in_line.send_modify(|n| *n += 1);
        if let Some(error) = self.puts_off.lock().unwrap().clone().filter(|_| urgency == Urgency::Ahead) {
            return Err(error);
        }
        Ok(Admission::holding(self.places.clone().acquire_owned().await.unwrap()))
    }

    async fn refresh(
        &self,
        _admission: Admission,
        refresh: &RefreshToken,
        patience: Duration,
    ) -> Result<IssuedTokens, ProviderError> {
        self.presented.lock().unwrap().push(refresh.value.expose().clone());
        in_time(patience, self.answer()).await
    }

    async fn revoke(&self, tokens: &TokenSet) -> Result<Revocation, ProviderError> {
        let presented = tokens.refresh.as_ref().map(|refresh| refresh.value.expose().clone());
        self.ended.lock().unwrap().extend(presented);
        let outcome = self.revocation.lock().unwrap().clone();
        self.revoked.send_modify(|n| *n += 1);
        if self.is_held.load(Ordering::SeqCst) {
            self.gate.acquire().await.unwrap().forget();
        }
        outcome
    }

    async fn account(&self, _access: &AccessToken) -> Result<Option<Account>, ProviderError> {
        self.account.lock().unwrap().clone()
    }
}
