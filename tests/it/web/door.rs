//! A public door on a port of its own, and the plainest of browsers.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use token_broker::broker::{AllowedUrls, BeginConnect, Broker, Deps, Settings};
use token_broker::clock::SystemClock;
use token_broker::connection::reuse::ReuseProfile;
use token_broker::connection::{
    AccessToken, Account, ConnectionId, IssuedTokens, ProviderKey, RefreshToken, Scopes, TokenSet,
};
use token_broker::entropy::OsEntropy;
use token_broker::error::{Mistake, ProviderError};
use token_broker::provider::{
    Admission, AuthorizationRequest, CodeGrant, ProviderClient, ProviderInfo, Revocation, Urgency,
};
use token_broker::secret::Secret;
use token_broker::store::memory::MemoryStore;
use token_broker::telemetry::Metrics;
use token_broker::web::{Public, serve_public};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

pub(super) const RETURN_URL: &str = "https://app.test/connected";

/// Long enough for any machine: what takes longer hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Door {
    pub(super) address: SocketAddr,
    pub(super) broker: Arc<Broker>,
    pub(super) provider: Arc<FakeProvider>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) shutdown: CancellationToken,
    pub(super) served: JoinHandle<()>,
}

pub(super) struct Begun {
    pub(super) state: String,
    pub(super) session: String,
}

impl Door {
    pub(super) async fn open() -> Self {
        Self::open_at("https://broker.test/").await
    }

    pub(super) async fn open_at(public_url: &str) -> Self {
        Self::open_with(public_url, PATIENCE * 3).await
    }

    pub(super) async fn open_with(public_url: &str, drain: Duration) -> Self {
        let (fake, other) = (FakeProvider::new("fake"), FakeProvider::new("other"));
        let (store, metrics) = (Arc::new(MemoryStore::default()), Arc::new(Metrics::default()));
        let public_url = Url::parse(public_url).unwrap();
        let allowed = AllowedUrls { exact: vec![RETURN_URL.into()], is_loopback_allowed: false };
        let deps = Deps {
            clock: Arc::new(SystemClock),
            entropy: Arc::new(OsEntropy),
            tokens: store.clone(),
            sessions: store,
            escrow: None,
            providers: vec![fake.clone(), other],
            metrics: metrics.clone(),
        };
        let settings = Settings {
            public_url: public_url.clone(),
            return_urls: allowed,
            redirect_uris: AllowedUrls::default(),
            ended_histories: 0,
        };
        let broker = Broker::new(deps, settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let public = Public {
            broker: broker.clone(),
            public_url,
            entropy: Arc::new(OsEntropy),
            metrics: metrics.clone(),
        };
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(serve_public(listener, public, shutdown.clone(), drain));
        Self { address, broker, provider: fake, metrics, shutdown, served }
    }

    /// Begins a consent at `fake`, as an app does.
    pub(super) async fn begin(&self) -> Begun {
        let id = ConnectionId::parse(String::new(), "fake".into(), "user-42".into()).unwrap();
        let begun = self
            .broker
            .begin_connect(BeginConnect {
                id,
                scopes: Vec::new(),
                return_url: Some(RETURN_URL.into()),
                redirect_uri: None,
                login_hint: None,
                extra: Vec::new(),
                variables: Default::default(),
                allow_account_change: false,
            })
            .await
            .unwrap();
        let url = Url::parse(begun.authorization_url.expose()).unwrap();
        let state = url.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
        Begun { state, session: begun.session }
    }

    pub(super) async fn get(&self, target: &str) -> Reply {
        self.ask(&get(target)).await
    }

    pub(super) async fn ask(&self, request: &str) -> Reply {
        ask(self.address, request).await
    }
}

pub(super) fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

pub(super) fn post(target: &str, kind: &str, body: &str) -> String {
    let head = format!("POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n");
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// Sends `request` on a connection of its own and reads until the door closes it.
pub(super) async fn ask(address: SocketAddr, request: &str) -> Reply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A door that refuses early may close before it has read everything.
    let _ = stream.write_all(request.as_bytes()).await;
    read(&mut stream).await
}

pub(super) async fn read(stream: &mut TcpStream) -> Reply {
    let mut raw = Vec::new();
    let all = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut raw));
    let _ = all.await.expect("the door closes the connection");
    Reply::parse(String::from_utf8(raw).unwrap())
}

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: String,
    pub(super) raw: String,
    headers: Vec<(String, String)>,
}

impl Reply {
    fn parse(raw: String) -> Self {
        let (head, body) = raw.split_once("\r\n\r\n").expect("a whole head");
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Self { status, body: body.to_owned(), headers, raw: raw.clone() }
    }

    pub(super) fn find(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter().filter(|(known, _)| known == name);
        let first = all.next().map(|(_, value)| value.as_str());
        assert!(all.next().is_none(), "{name} twice in {self:?}");
        first
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.find(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }
}

/// Gives tokens for any code, unless told otherwise.
pub(super) struct FakeProvider {
    key: ProviderKey,
    scopes: Scopes,
    codes: Mutex<Vec<String>>,
    error: Mutex<Option<ProviderError>>,
    /// Exchanges take a permit; tests may take them all away.
    pub(super) gate: Semaphore,
    /// Gets a permit for each exchange that has begun.
    pub(super) begun: Semaphore,
}

impl FakeProvider {
    fn new(key: &str) -> Arc<Self> {
        Arc::new(Self {
            key: ProviderKey::parse(key).unwrap(),
            scopes: Scopes::default(),
            codes: Mutex::default(),
            error: Mutex::default(),
            gate: Semaphore::new(1),
            begun: Semaphore::new(0),
        })
    }

    pub(super) fn exchanged(&self) -> Vec<String> {
        self.codes.lock().unwrap().clone()
    }

    pub(super) fn fail_with(&self, error: ProviderError) {
        *self.error.lock().unwrap() = Some(error);
    }
}

#[async_trait]
impl ProviderClient for FakeProvider {
    fn key(&self) -> &ProviderKey {
        &self.key
    }

    fn info(&self) -> ProviderInfo {
        ProviderInfo { display_name: "Fake & Sons".into(), ..ProviderInfo::default() }
    }

    fn is_enabled(&self) -> bool {
        true
    }

    fn default_scopes(&self) -> &Scopes {
        &self.scopes
    }

    fn check_extra(&self, _: &[(String, String)]) -> Result<(), Vec<Mistake>> {
        Ok(())
    }

    async fn authorization_url(&self, request: &AuthorizationRequest) -> Result<Url, ProviderError> {
        let mut url = Url::parse("https://as.test/authorize").unwrap();
        url.query_pairs_mut().append_pair("state", request.state.expose());
        Ok(url)
    }

    async fn accepts_issuer(&self, _: Option<&str>) -> Result<bool, ProviderError> {
        Ok(true)
    }

    async fn exchange(&self, grant: &CodeGrant) -> Result<IssuedTokens, ProviderError> {
        self.codes.lock().unwrap().push(grant.code.expose().clone());
        self.begun.add_permits(1);
        let _passed = self.gate.acquire().await.unwrap();
        if let Some(error) = self.error.lock().unwrap().clone() {
            return Err(error);
        }
        Ok(IssuedTokens {
            access_token: Secret::new("canary-access-token".into()),
            token_type: "Bearer".into(),
            expires_in: Some(Duration::from_secs(3600)),
            refresh_token: Some(Secret::new("canary-refresh-token".into())),
            refresh_expires_in: None,
            scopes: None,
            account: Some(Account { id: "1".into(), email: None }),
            variables: Default::default(),
        })
    }

    fn reuse_profile(&self) -> ReuseProfile {
        ReuseProfile::default()
    }

    async fn admit(&self, _: Urgency) -> Result<Admission, ProviderError> {
        Ok(Admission::holding(()))
    }

    async fn refresh(
        &self,
        _: Admission,
        _: &RefreshToken,
        _: Duration,
    ) -> Result<IssuedTokens, ProviderError> {
        Err(ProviderError::Malformed)
    }

    async fn revoke(&self, _: &TokenSet) -> Result<Revocation, ProviderError> {
        Ok(Revocation::Unsupported)
    }

    async fn account(&self, _: &AccessToken) -> Result<Option<Account>, ProviderError> {
        Ok(None)
    }
}
