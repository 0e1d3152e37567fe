//! What a hit costs inside the broker: the map, the checks, the reply. `cargo bench --bench hit`.
//!
//! Nanoseconds on one core, without sockets or HTTP/2 (`benches/load` measures those).

use std::hint::black_box;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::BytesMut;
use criterion::{BatchSize, Criterion};
use prost::Message as _;
use token_broker::broker::{Broker, Deps, ImportConnection, Settings, TokenRequest};
use token_broker::clock::SystemClock;
use token_broker::connection::reuse::ReuseProfile;
use token_broker::connection::{
    AccessToken, Account, ConnectionId, IssuedTokens, ProviderKey, RefreshToken, Scopes, TokenSet,
};
use token_broker::entropy::OsEntropy;
use token_broker::error::{Mistake, ProviderError};
use token_broker::grpc::reply::TokenReply;
use token_broker::provider::{
    Admission, AuthorizationRequest, CodeGrant, ProviderClient, ProviderInfo, Revocation, Urgency,
};
use token_broker::secret::Secret;
use token_broker::store::memory::MemoryStore;
use token_broker::telemetry::Metrics;
use url::Url;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// As large as big providers issue them.
const TOKEN_BYTES: usize = 1200;

fn main() -> Outcome<()> {
    let mut criterion = Criterion::default().configure_from_args();
    for connections in [1, 10_000] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let broker = runtime.block_on(broker_with(connections))?;
        let requests = (0..connections).map(request).collect::<Outcome<Vec<_>>>()?;
        let mut next = 0;
        criterion.bench_function(&format!("a hit among {connections}"), |bencher| {
            bencher.iter(|| {
                // A stride that visits all and follows no order the memory would guess.
                next = (next + 7919) % connections;
                requests.get(next).and_then(|request| broker.cached(black_box(request)))
            });
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let broker = runtime.block_on(broker_with(1))?;
    let answer = broker.cached(&request(0)?).ok_or("a token that was just fetched is no hit")?;
    criterion.bench_function("a reply into its frame", |bencher| {
        bencher.iter_batched_ref(
            || BytesMut::with_capacity(2 * TOKEN_BYTES),
            |frame| TokenReply::from(black_box(&answer)).encode(frame),
            BatchSize::SmallInput,
        );
    });
    criterion.final_summary();
    Ok(())
}

async fn broker_with(connections: usize) -> Outcome<Arc<Broker>> {
    let store = Arc::new(MemoryStore::default());
    let deps = Deps {
        clock: Arc::new(SystemClock),
        entropy: Arc::new(OsEntropy),
        tokens: store.clone(),
        sessions: store,
        escrow: None,
        providers: vec![Arc::new(Silent::new()?)],
        metrics: Arc::new(Metrics::default()),
    };
    let settings = Settings {
        public_url: Url::parse("http://127.0.0.1/")?,
        return_urls: Default::default(),
        redirect_uris: Default::default(),
        ended_histories: 0,
    };
    let broker = Broker::new(deps, settings);
    for number in 0..connections {
        let request = request(number)?;
        let import = ImportConnection {
            id: request.id.clone(),
            refresh_token: None,
            access_token: Some(Secret::new(format!("{number:0TOKEN_BYTES$}"))),
            expires_at: None,
            scopes: vec!["openid".to_owned()],
            replace: false,
            variables: Default::default(),
        };
        broker.import_connection(import).await.map_err(|error| error.to_string())?;
        broker.access_token(request).await.map_err(|error| error.to_string())?;
    }
    Ok(broker)
}

fn request(number: usize) -> Outcome<TokenRequest> {
    let id = ConnectionId::parse(String::new(), "silent".to_owned(), format!("user-{number}"))
        .map_err(|mistakes| format!("{mistakes:?}"))?;
    Ok(TokenRequest { id, scopes: Vec::new(), min_ttl: None, if_not_equal_to: None, allow_stale: false })
}

/// A provider that a hit never asks.
struct Silent {
    key: ProviderKey,
    scopes: Scopes,
}

impl Silent {
    fn new() -> Outcome<Self> {
        let key = ProviderKey::parse("silent").map_err(|mistake| format!("{mistake:?}"))?;
        Ok(Self { key, scopes: Scopes::default() })
    }
}

#[async_trait]
impl ProviderClient for Silent {
    fn key(&self) -> &ProviderKey {
        &self.key
    }

    fn info(&self) -> ProviderInfo {
        ProviderInfo::default()
    }

    fn is_enabled(&self) -> bool {
        true
    }

    fn default_scopes(&self) -> &Scopes {
        &self.scopes
    }

    fn check_extra(&self, _extra: &[(String, String)]) -> Result<(), Vec<Mistake>> {
        Ok(())
    }

    async fn authorization_url(&self, _request: &AuthorizationRequest) -> Result<Url, ProviderError> {
        Err(ProviderError::Malformed)
    }

    async fn accepts_issuer(&self, _iss: Option<&str>) -> Result<bool, ProviderError> {
        Err(ProviderError::Malformed)
    }

    async fn exchange(&self, _grant: &CodeGrant) -> Result<IssuedTokens, ProviderError> {
        Err(ProviderError::Malformed)
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
        _refresh: &RefreshToken,
        _patience: std::time::Duration,
    ) -> Result<IssuedTokens, ProviderError> {
        Err(ProviderError::Malformed)
    }

    async fn revoke(&self, _tokens: &TokenSet) -> Result<Revocation, ProviderError> {
        Err(ProviderError::Malformed)
    }

    async fn account(&self, _access: &AccessToken) -> Result<Option<Account>, ProviderError> {
        Ok(None)
    }
}
