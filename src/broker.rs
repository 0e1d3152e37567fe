//! The use cases: one method each, one file a method. Owns the order in which things happen: who is served from
//! memory, who waits for a refresh, what is durable before what is answered. Does not know gRPC, HTTP, engines or
//! configuration files. Invariant: a token is durable before it is published, and published before it is answered.

mod access_token;
mod ahead;
mod attempt;
mod cache;
mod call;
mod connect;
mod disconnect;
mod escrow;
mod keep;
mod listing;
mod past;
mod recovery;
mod refresh;
mod roll;
mod schedule;
mod stray;
mod sweep;
mod twin;
mod unsent;
mod watch;
mod watch_connections;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

pub use cache::ServedToken;
pub use call::{ProviderCall, Retry, RetryMode, STREAM_TIMEOUT, StreamedAnswer, WholeAnswer};
pub use connect::AllowedUrls;
pub use escrow::{Escrowed, NotTakenUp};
pub use keep::Change;
pub use recovery::{Recovery, Trust};
pub use schedule::Ahead;
pub use watch::{TokenEvent, TokenWatch, WatchRequest};
pub use watch_connections::{ConnectionEvent, ConnectionWatch};

use crate::clock::{Clock, Timestamp};
use crate::connection::history::Happening;
use crate::connection::{ConnectionId, Holder, Profile, ProviderKey, Values};
use crate::entropy::Entropy;
use crate::error::Error;
use crate::provider::ProviderClient;
use crate::secret::Secret;
use crate::store::{EscrowStore, SessionStore, TokenStore};
use crate::telemetry::Metrics;

/// The parts a broker is made of.
pub struct Deps {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where randomness comes from.
    pub entropy: Arc<dyn Entropy>,
    /// Connections.
    pub tokens: Arc<dyn TokenStore>,
    /// Consents under way.
    pub sessions: Arc<dyn SessionStore>,
    /// The second place for tokens that the store could not take, where there is one.
    pub escrow: Option<Arc<dyn EscrowStore>>,
    /// The configured providers.
    pub providers: Vec<Arc<dyn ProviderClient>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// What a broker must know besides its parts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The public door's base URL, under which `callback/{provider}` is reached by browsers.
    pub public_url: Url,
    /// Where the public door may send a browser after consent.
    pub return_urls: AllowedUrls,
    /// Callbacks of apps that forward the answer themselves: an allowlist, matched exactly.
    pub redirect_uris: AllowedUrls,
    /// How many histories of connections that are no more are kept at most, each for [`REMEMBERED`]; the oldest go first.
    ///
    /// [`REMEMBERED`]: crate::connection::REMEMBERED
    pub ended_histories: usize,
}

/// The broker: every door asks this one object.
pub struct Broker {
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    tokens: Arc<dyn TokenStore>,
    sessions: Arc<dyn SessionStore>,
    providers: BTreeMap<ProviderKey, Arc<dyn ProviderClient>>,
    settings: Settings,
    metrics: Arc<Metrics>,
    changes: broadcast::Sender<Change>,
    cache: cache::Cache,
    calls: call::Calls,
    escrow: escrow::Escrow,
    unsent: unsent::NeverSent,
    recovering: recovery::Recovering,
    /// The connections whose revocation is being tried again.
    revocations: Mutex<disconnect::Revocations>,
    unwritten: disconnect::wait::Unwritten,
    twins: twin::Twins,
    /// Tells what this run has written from what others have.
    holder: Holder,
    /// What house-keeping must know of every connection.
    roll: Mutex<roll::Roll>,
    /// What is done ahead of time; `None` while nothing is.
    schedule: Mutex<Option<schedule::Schedule>>,
    /// The schedule changed: its driver must look again.
    scheduled: Notify,
    tasks: TaskTracker,
    /// Those of `tasks` that refresh, or hold what a refresh brought.
    flights: TaskTracker,
    draining: CancellationToken,
}

impl Broker {
    /// A broker made of `deps`. Nothing runs until it is asked.
    pub fn new(deps: Deps, settings: Settings) -> Arc<Self> {
        let providers =
            deps.providers.into_iter().map(|provider| (provider.key().clone(), provider)).collect();
        let holder = Holder(u64::from_be_bytes(deps.entropy.bytes()));
        Arc::new(Self {
            holder,
            clock: deps.clock,
            entropy: deps.entropy,
            tokens: deps.tokens,
            sessions: deps.sessions,
            providers,
            settings,
            metrics: deps.metrics,
            changes: broadcast::Sender::new(keep::BACKLOG),
            cache: cache::Cache::default(),
            calls: call::Calls::default(),
            escrow: escrow::Escrow::new(deps.escrow),
            unsent: unsent::NeverSent::default(),
            recovering: recovery::Recovering::default(),
            revocations: Mutex::default(),
            unwritten: disconnect::wait::Unwritten::default(),
            twins: twin::Twins::default(),
            roll: Mutex::default(),
            schedule: Mutex::default(),
            scheduled: Notify::new(),
            tasks: TaskTracker::new(),
            flights: TaskTracker::new(),
            draining: CancellationToken::new(),
        })
    }

    /// Starts no further refresh, and returns when those under way are stored. What is in memory is still served.
    pub async fn drain(&self) {
        self.draining.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Returns when the refreshes under way are stored, those that the store did not take at once included, whatever else is not done yet. Call it after [`Broker::drain`] was
    /// begun.
    pub async fn refreshes_end(&self) {
        self.flights.close();
        self.flights.wait().await;
    }

    /// How long at most a provider that is configured may take to answer a refresh.
    pub fn longest_answer(&self) -> Duration {
        let timeouts = self.providers.values().map(|provider| provider.reuse_profile().token_timeout);
        timeouts.max().unwrap_or_default()
    }

    /// Runs `work` in a task of the broker's own: a caller that hangs up ends its waiting, not the work.
    async fn owned<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        match self.tasks.spawn(work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::Internal("a task of the broker ended unexpectedly")),
        }
    }
}

/// What `GetAccessToken` asks for.
#[derive(Debug)]
pub struct TokenRequest {
    /// Of which connection.
    pub id: ConnectionId,
    /// Scopes the token must have; empty: whatever was granted.
    pub scopes: Vec<String>,
    /// How long the token must still live; `None`: the provider's refresh margin, and then a living token is
    /// preferred to an error. One that the provider gave again in place of a longer one will do for a minute at most.
    pub min_ttl: Option<Duration>,
    /// SHA-256 of a token that was just refused with 401: refresh only if it is still the current one.
    pub if_not_equal_to: Option<[u8; 32]>,
    /// Whether a token that lives shorter than `min_ttl` is better than an error.
    pub allow_stale: bool,
}

/// What `GetAccessToken` answers.
#[derive(Debug)]
pub struct TokenAnswer {
    /// The token.
    pub token: Arc<ServedToken>,
    /// Where it came from.
    pub source: Source,
    /// Whether it would survive a crash.
    pub durability: Durability,
}

/// Whether what is answered would survive a crash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Yes: it was durable before it was answered.
    #[default]
    Durable,
    /// Not yet: the store fails, and the provider took back what came before.
    Degraded,
}

/// Where an answered token came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Memory.
    Cache,
    /// The store, read for this call.
    Store,
    /// A refresh this call started.
    Refreshed,
    /// A refresh another call had started.
    SharedRefresh,
    /// An older token that still lives, because no better one could be had in time, or the provider gave it again.
    Stale,
}

impl Source {
    /// The word for it in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Store => "store",
            Self::Refreshed => "refreshed",
            Self::SharedRefresh => "shared_refresh",
            Self::Stale => "stale",
        }
    }
}

/// What `BeginConnect` asks for.
#[derive(Debug)]
pub struct BeginConnect {
    /// The connection to make or to renew.
    pub id: ConnectionId,
    /// What to ask the owner for; empty: the provider's configured scopes.
    pub scopes: Vec<String>,
    /// Where the public door sends the browser afterwards; must be on the allowlist. Give this or `redirect_uri`.
    pub return_url: Option<String>,
    /// The app's own callback, which then forwards the answer by `CompleteConnect`; must be on the allowlist.
    /// `None`: the broker's public door.
    pub redirect_uri: Option<String>,
    /// Which account the owner probably means.
    pub login_hint: Option<String>,
    /// More parameters of the authorization request, as the provider's entry allows.
    pub extra: Vec<(String, String)>,
    /// Values for the provider's variables.
    pub variables: Values,
    /// Whether an account other than the present one may take the connection over.
    pub allow_account_change: bool,
}

/// A consent that was begun.
#[derive(Debug)]
pub struct ConnectBegun {
    /// Where to send the owner's browser. Carries `state`: treat as a secret.
    pub authorization_url: Secret<String>,
    /// Names this attempt; `FinishConnect` must repeat it.
    pub session: String,
    /// After this the attempt is worth nothing.
    pub expires_at: Timestamp,
    /// The redirect URI in use, which must be registered at the provider.
    pub redirect_uri: String,
}

/// A provider's authorization response (RFC 6749 section 4.1.2, RFC 9207).
#[derive(Debug)]
pub struct AuthorizationResponse {
    /// `state`.
    pub state: Secret<String>,
    /// `code`, on success.
    pub code: Option<Secret<String>>,
    /// `iss`, where sent.
    pub iss: Option<String>,
    /// `error`, on refusal. Descriptions are dropped at the door.
    pub error: Option<String>,
}

/// What `ImportConnection` brings.
#[derive(Debug)]
pub struct ImportConnection {
    /// The connection to make.
    pub id: ConnectionId,
    /// An existing refresh token.
    pub refresh_token: Option<Secret<String>>,
    /// An existing access token.
    pub access_token: Option<Secret<String>>,
    /// When that access token expires; `None`: it is refreshed at first use if there is a refresh token, else
    /// taken not to expire.
    pub expires_at: Option<Timestamp>,
    /// What was granted.
    pub scopes: Vec<String>,
    /// Values for the provider's variables.
    pub variables: Values,
    /// Whether a connection of that name may be replaced.
    pub replace: bool,
}

/// What `Disconnect` did.
#[derive(Debug)]
pub struct Disconnected {
    /// The connection as it was last.
    pub profile: Profile,
    /// What became of the grant at the provider.
    pub revocation: RevocationState,
}

/// What became of a grant at its provider.
#[derive(Clone, Debug, PartialEq)]
pub enum RevocationState {
    /// The provider confirmed the revocation; the connection is forgotten.
    Revoked,
    /// The connection is forgotten, but something may live on at the provider: a successor that did not come, where a refresh
    /// before was never answered, or the refresh token, where only an access token that was over could be presented.
    Unconfirmed,
    /// The provider has no revocation: the connection is forgotten here, and its owner must remove the app there.
    Unsupported,
    /// There was nothing to revoke: no token was held.
    NotNeeded,
    /// The provider could not be reached; the broker keeps trying. The connection serves nothing meanwhile.
    Pending {
        /// Why not.
        error: Error,
        /// When it is tried again; `None`: soon.
        next_attempt_at: Option<Timestamp>,
    },
}

impl RevocationState {
    /// How the connection's history ends with it; `None` where that is yet to be seen.
    fn end(&self) -> Option<Happening> {
        match self {
            Self::Revoked => Some(Happening::Revoked),
            Self::Unconfirmed => Some(Happening::RevocationUnconfirmed),
            Self::Unsupported => Some(Happening::RevocationNotSupported),
            Self::NotNeeded => Some(Happening::RevocationNotNeeded),
            Self::Pending { .. } => None,
        }
    }
}

/// A page of connections with the place where the next one starts.
#[derive(Debug)]
pub struct ConnectionPage {
    /// The connections.
    pub profiles: Vec<Profile>,
    /// Opaque; empty after the last page.
    pub next_page_token: String,
    /// Records of this page that could not be read, selected or not.
    pub unreadable: usize,
}

/// What an answer looks like on the wire, made once per token by the door that needs it.
pub type Encoded = Bytes;
