//! The only place where parts are chosen and joined: a [`Config`] goes in, a bound broker comes out. Owns the order of
//! start and stop. Does not know what any part does inside. Invariant: nothing is bound before the store is open and
//! its key proved, nothing is served before it is bound, and ready is said last.

mod address;
mod error;
mod health;
mod keeper;
pub mod offline;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use url::Url;

pub use address::Addresses;
pub use error::StartError;

use crate::broker::{Ahead, AllowedUrls, Broker, Deps, NotTakenUp, Settings, Trust};
use crate::clock::Clock;
use crate::config::{Config, Engine};
use crate::entropy::{Entropy, OsEntropy};
use crate::failpoint;
use crate::grpc::{self, Address, Door, Listener, Offer};
use crate::provider::ProviderClient;
use crate::provider::http::{HttpClient, HttpSettings};
use crate::provider::oauth::OAuthProvider;
use crate::readiness::{Readiness, ReadinessGuard};
use crate::store::guard::DurableStore;
use crate::store::memory::MemoryStore;
use crate::store::{self, EscrowStore, SessionStore, TokenStore};
use crate::telemetry::Metrics;
use crate::web::{self, Ops, Public, Pulse};

/// What a refresh is given beyond its provider's time to answer, to be stored when the broker stops.
const STORING: Duration = Duration::from_secs(5);

/// The ports to the world, which tests replace.
pub struct Ports {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where randomness comes from.
    pub entropy: Arc<dyn Entropy>,
}

impl Default for Ports {
    fn default() -> Self {
        Self { clock: failpoint::clock(), entropy: Arc::new(OsEntropy) }
    }
}

/// A broker whose addresses are bound: connections queue, and [`Bound::run`] serves them.
pub struct Bound {
    /// Where it listens.
    pub addresses: Addresses,
    /// The broker itself, for whoever runs it in process.
    pub broker: Arc<Broker>,
    /// What start-up still waits for.
    pub readiness: Readiness,
    starting: ReadinessGuard,
    ahead: Option<Ahead>,
    entropy: Arc<dyn Entropy>,
    metrics: Arc<Metrics>,
    public_url: Url,
    doors: Doors,
    names: Vec<String>,
    limits: grpc::Limits,
    store: Option<Arc<DurableStore>>,
    second_place: Option<PathBuf>,
    drain: Duration,
}

struct Doors {
    grpc: Vec<Door>,
    public: Option<TcpListener>,
    ops: Option<TcpListener>,
}

/// Opens the store, proves its key, binds the doors and joins the parts. Serves nothing yet.
///
/// # Errors
/// [`StartError`], in words for whoever configured it. Nothing stays bound.
pub async fn build(config: Config, ports: Ports) -> Result<Bound, StartError> {
    let Ports { clock, entropy } = ports;
    let readiness = Readiness::default();
    let starting = readiness.guard("start-up");
    let metrics = Arc::new(Metrics::default());
    let Stores { tokens, sessions, escrow, durable } = open_stores(&config, &entropy, &metrics).await?;
    let doors = bind(&config).await?;
    let addresses = Addresses::of(&doors.grpc, doors.public.as_ref(), doors.ops.as_ref());
    let public_url = public_url(&config, &addresses)?;
    let http = HttpClient::new(&HttpSettings {
        extra_authorities: config.authorities,
        connect_timeout: config.http.connect_timeout.duration(),
        total_timeout: config.http.timeout.duration(),
        ..HttpSettings::default()
    })?;
    let public = &config.server.public;
    let is_loopback_allowed = public.allow_loopback_return;
    let settings = Settings {
        public_url: public_url.clone(),
        return_urls: AllowedUrls {
            exact: public.return_urls.iter().map(|url| url.as_str().to_owned()).collect(),
            is_loopback_allowed,
        },
        redirect_uris: AllowedUrls {
            exact: public.redirect_uris.iter().map(|uri| uri.as_str().to_owned()).collect(),
            is_loopback_allowed,
        },
        ended_histories: usize::try_from(config.store.ended_histories).unwrap_or(usize::MAX),
    };
    let ahead = config.refresh.ahead.then(|| Ahead {
        idle_after: config.refresh.idle_after.duration(),
        warn_before: config.refresh.warn_before.duration(),
    });
    let limits = grpc::Limits {
        message_bytes: usize::try_from(config.server.grpc.max_message_bytes.bytes()).unwrap_or(usize::MAX),
        drain: config.server.drain.duration(),
        ..grpc::Limits::default()
    };
    let names = config.server.grpc.authorities.iter().map(ToString::to_string).collect();
    let client = |provider| -> Arc<dyn ProviderClient> {
        Arc::new(OAuthProvider::new(provider, http.clone(), clock.clone(), metrics.clone()))
    };
    let providers = config.providers.into_iter().map(client).collect();
    let deps = Deps {
        clock,
        entropy: entropy.clone(),
        tokens,
        sessions,
        escrow,
        providers,
        metrics: metrics.clone(),
    };
    let broker = Broker::new(deps, settings);
    let drain = config.server.drain.duration();
    Ok(Bound {
        addresses,
        broker,
        readiness,
        starting,
        ahead,
        entropy,
        metrics,
        public_url,
        doors,
        names,
        limits,
        store: durable,
        second_place: config.store.escrow_path,
        drain,
    })
}

impl Bound {
    /// Serves until `until` is done, then drains within `server.drain`: says not-ready, accepts no more, lets
    /// refreshes and writes under way finish, closes the store. A refresh that has left is waited for longer, if its
    /// provider is given longer to answer: what it brings exists nowhere else.
    ///
    /// # Errors
    /// A door that could not be served at all.
    pub async fn run(self, until: impl Future<Output = ()>) -> Result<(), StartError> {
        self.take_up_escrow().await?;
        self.heed_rollback().await?;
        self.recover_first().await;
        let closing = CancellationToken::new();
        let parts = grpc::Parts {
            broker: self.broker.clone(),
            entropy: self.entropy.clone(),
            metrics: self.metrics.clone(),
            readiness: self.readiness.clone(),
        };
        let Doors { grpc: doors, public, ops } = self.doors;
        let until_closing = closing.clone().cancelled_owned();
        let (names, limits) = (self.names, self.limits);
        let mut apps =
            tokio::spawn(async move { grpc::serve(doors, parts, &names, &limits, until_closing).await });
        let browsers = public.map(|listener| {
            let public = Public {
                broker: self.broker.clone(),
                public_url: self.public_url,
                entropy: self.entropy,
                metrics: self.metrics.clone(),
            };
            tokio::spawn(web::serve_public(listener, public, closing.clone(), self.drain))
        });
        let ops_closing = CancellationToken::new();
        let operators = ops.map(|listener| {
            let ops =
                Ops { readiness: self.readiness.clone(), pulse: Pulse::default(), metrics: self.metrics };
            tokio::spawn(web::serve_ops(listener, ops, ops_closing.clone(), Duration::from_secs(1)))
        });
        let follower = self
            .store
            .as_ref()
            .map(|store| tokio::spawn(health::follow(store.health(), self.readiness.clone())));
        let escrowed = health::follow_escrow(self.broker.escrowed_counts(), self.readiness.clone());
        let escrowed = tokio::spawn(escrowed);
        let keeper =
            tokio::spawn(keeper::keep(self.broker.clone(), self.starting, self.ahead, closing.clone()));
        self.addresses.announce_when(self.readiness.clone());

        let ended_early = tokio::select! {
            () = until => None,
            outcome = &mut apps => Some(outcome),
        };
        self.readiness.end();
        closing.cancel();
        // Side by side: a slow peer at a door must not eat the time in which a refresh under way is stored.
        let drained = tokio::time::timeout(self.drain, async {
            let doors = async {
                match ended_early {
                    Some(outcome) => outcome,
                    None => apps.await,
                }
            };
            let (served, (), ()) = tokio::join!(doors, ended(browsers), self.broker.drain());
            served
        })
        .await;
        if drained.is_err() {
            let longest = self.broker.longest_answer() + STORING;
            let rest = longest.saturating_sub(self.drain);
            if tokio::time::timeout(rest, self.broker.refreshes_end()).await.is_err() {
                tracing::error!(?longest, "a refresh is still under way; what it brings may be lost");
            }
        }
        keeper.abort();
        escrowed.abort();
        if let Some(follower) = follower {
            follower.abort();
        }
        if let Some(store) = self.store {
            store.close().await;
        }
        ops_closing.cancel();
        ended(operators).await;
        match drained {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(StartError::Serve(error.to_string())),
            Ok(Err(_)) => Err(StartError::Serve("the gRPC door ended unexpectedly".to_owned())),
            Err(_) => {
                tracing::error!(limit = ?self.drain, "not all work was done when the drain ended");
                Ok(())
            }
        }
    }
}

impl Bound {
    /// Tokens that an earlier run could not store come first of all: what the store holds in their place is spent.
    async fn take_up_escrow(&self) -> Result<(), StartError> {
        let is_sound = self
            .store
            .as_ref()
            .is_none_or(|store| store.opened().rollback.is_none() && store.opened().missing == 0);
        let trust = if is_sound { Trust::Sound } else { Trust::RolledBack };
        match self.broker.take_up_escrow(trust).await {
            Ok(_) => Ok(()),
            Err(NotTakenUp::Place(error)) => Err(StartError::SecondPlace {
                path: self.second_place.clone().unwrap_or_default(),
                why: error.to_string(),
            }),
            Err(NotTakenUp::Store(error)) => {
                Err(StartError::Serve(format!("taking up what the second place holds: {error}")))
            }
        }
    }

    /// Where the store was put back to an older state, nothing may be refreshed before its grants are marked. Until
    /// that is durable every start finds the rollback anew.
    async fn heed_rollback(&self) -> Result<(), StartError> {
        let Some(store) = self.store.as_ref().filter(|store| store.opened().rollback.is_some()) else {
            return Ok(());
        };
        let marked = self.broker.recover(Trust::RolledBack).await;
        marked.map_err(|error| StartError::Serve(format!("marking grants after a rollback: {error}")))?;
        let settled = store.settle_rollback().await;
        settled.map_err(|error| StartError::Serve(format!("settling a rollback: {error}")))
    }

    /// What the opening came upon need not wait for the walk over all records. What fails here that walk finds again.
    async fn recover_first(&self) {
        let Some(store) = &self.store else { return };
        if let Err(error) = self.broker.recover_first(&store.opened().unfinished).await {
            tracing::error!(%error, reason = %error.reason(), "unfinished refreshes wait; tried again");
        }
    }
}

async fn ended(door: Option<tokio::task::JoinHandle<()>>) {
    if let Some(door) = door
        && door.await.is_err()
    {
        tracing::error!("a door ended unexpectedly");
    }
}

struct Stores {
    tokens: Arc<dyn TokenStore>,
    sessions: Arc<dyn SessionStore>,
    escrow: Option<Arc<dyn EscrowStore>>,
    /// The store that must be closed at the end.
    durable: Option<Arc<DurableStore>>,
}

async fn open_stores(
    config: &Config,
    entropy: &Arc<dyn Entropy>,
    metrics: &Arc<Metrics>,
) -> Result<Stores, StartError> {
    let open = match config.store.engine {
        Engine::Memory => {
            let store = Arc::new(MemoryStore::new(entropy.clone()));
            return Ok(Stores { tokens: store.clone(), sessions: store, escrow: None, durable: None });
        }
        Engine::Sled => store::sled::open,
        Engine::Redb => store::redb::open,
    };
    let opening = offline::opening(config, entropy, metrics)?;
    let opened = tokio::task::spawn_blocking(move || open(opening)).await;
    let store =
        Arc::new(opened.map_err(|_| StartError::Serve("opening the store ended unexpectedly".to_owned()))??);
    let escrow = match &config.store.escrow_path {
        Some(path) => {
            let dir: Arc<dyn EscrowStore> = Arc::new(store.escrow(path.clone(), &config.store.path)?);
            Some(dir)
        }
        None => None,
    };
    Ok(Stores { tokens: store.clone(), sessions: store.clone(), escrow, durable: Some(store) })
}

async fn bind(config: &Config) -> Result<Doors, StartError> {
    let server = &config.server;
    let mut doors = Vec::new();
    if let Some(path) = server.grpc.socket.path() {
        let mode = server.grpc.socket_mode.bits();
        let listener = Listener::bind(&Address::Unix { path: path.to_owned(), mode }).await?;
        doors.push(Door { listener, offer: Offer::Apps });
        let operators = Address::Unix { path: path.with_file_name("admin.sock"), mode: 0o600 };
        doors.push(Door { listener: Listener::bind(&operators).await?, offer: Offer::Operators });
    }
    if let Some(address) = server.grpc.tcp.address() {
        doors.push(Door { listener: Listener::bind(&Address::Tcp(address)).await?, offer: Offer::Apps });
    }
    Ok(Doors {
        grpc: doors,
        public: listen("server.public.listen", server.public.listen.address()).await?,
        ops: listen("server.ops.listen", server.ops.listen.address()).await?,
    })
}

async fn listen(
    key: &'static str,
    address: Option<std::net::SocketAddr>,
) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = address else { return Ok(None) };
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(source) => Err(StartError::Listen { key, address, source }),
    }
}

/// Without a public door every app has its own callback, and nothing is ever sent to this URL.
fn public_url(config: &Config, addresses: &Addresses) -> Result<Url, StartError> {
    let bound = addresses.public.unwrap_or_else(|| ([127, 0, 0, 1], 7451).into());
    config
        .server
        .public
        .base_url(bound)
        .ok_or_else(|| StartError::Serve("the public URL does not parse".to_owned()))
}
