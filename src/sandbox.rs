//! A scriptable OAuth 2.0 authorization server on loopback: what `dev` connects to, and what tests put the broker through.
//! Owns its clients, grants, pages, faults and a ground-truth log. Does not know the broker: it speaks to it over HTTP
//! like any provider. Invariant: it binds loopback addresses alone, and its log holds no token.
//!
//! | file | owns |
//! |---|---|
//! | `profile`, `grant` | what a server does with refresh tokens, as data and as a pure state machine |
//! | `ledger`, `authorization`, `client` | the books: tokens, consents under way, clients |
//! | `authorize`, `token`, `resource`, `discovery`, `page` | the endpoints, and what a person sees |
//! | `exchange`, `fault`, `script`, `fate` | the way of one request, and what may befall it |
//! | `record`, `log` | what happened, in order |
//! | `server`, `control` | the socket, and the test's own hand |

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::secret::Secret;

mod authorization;
mod authorize;
mod behavior;
mod call;
mod client;
mod control;
mod discovery;
mod exchange;
mod fate;
mod fault;
mod grant;
mod ledger;
mod log;
mod page;
mod profile;
mod record;
mod resource;
mod script;
mod server;
mod token;

pub use behavior::{Account, Approval, Behavior, IssuerParameter, SandboxOptions};
pub use client::{ClientAuth, ClientRegistration};
pub use control::{GrantState, Grants, IssuedGrant};
pub use fault::{Fault, Hold};
pub use grant::{
    AccessIssued, AccessSerial, End, Family, Generation, Issued, Lifetimes, RefreshIssued, Refused, Terms,
};
pub use log::{Counts, Log};
pub use profile::{GraceResult, GraceScope, Refusal, Reuse, ReuseProfile, Rotation};
pub use record::{Delivery, Effect, Endpoint, Exchange, Fingerprint, GrantId, GrantType, Subject};
pub use script::{On, Script};

use exchange::World;
use ledger::{Ledger, minted};
use server::Port;

/// A running sandbox. Dropping it closes its port and forgets everything.
pub struct Sandbox {
    world: Arc<World>,
    port: Port,
    router: Router,
    client_id: Arc<str>,
    running: Option<Running>,
    /// Requests under way end when this is dropped.
    _stopped: watch::Sender<()>,
}

struct Running {
    /// Fires when dropped, too.
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Sandbox {
    /// Starts a sandbox on `address`; port 0 takes a free one. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when `address` is not loopback, else what binding says, `AddrInUse` above all.
    pub fn start(
        address: SocketAddr,
        options: SandboxOptions,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> io::Result<Self> {
        let port = Port::reserve(address)?;
        let listener = port.listen()?;
        let SandboxOptions { client, behavior } = options;
        let client_id = Arc::from(client.id.as_str());
        let mut ledger = Ledger::new(behavior);
        ledger.register(client, &*entropy);
        let (alive, stopped) = watch::channel(());
        let world = Arc::new(World {
            ledger: Mutex::new(ledger),
            log: Log::new(),
            script: Script::default(),
            witness: Mutex::default(),
            clock,
            entropy,
            issuer: format!("http://{}", port.address),
            port: port.address.port(),
            stopped,
        });
        let router = server::router(&world);
        let running = Some(Running::begun(listener, router.clone()));
        Ok(Self { world, port, router, client_id, running, _stopped: alive })
    }

    /// The issuer identifier, exactly as the metadata and `iss` have it: no slash at its end. Endpoints are this and
    /// `/authorize`, `/token`, `/revoke`, `/userinfo`, and everything below `/api/`.
    pub fn issuer(&self) -> &str {
        &self.world.issuer
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address
    }

    /// The first client's id.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The first client's secret; `None` when it is public.
    pub fn client_secret(&self) -> Option<Arc<Secret<String>>> {
        self.world.ledger().client(&self.client_id)?.secret.clone()
    }

    /// The faults to come.
    pub fn script(&self) -> Script {
        self.world.script.clone()
    }

    /// Shows every request from now on to `look`, once it is in the log and before it has any effect. It may block: the
    /// request waits.
    pub fn witness(&self, look: impl Fn(&Exchange) + Send + Sync + 'static) {
        *self.world.witness.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(look));
    }

    /// What happened.
    pub fn log(&self) -> Log {
        self.world.log.clone()
    }

    /// The grants given.
    pub fn grants(&self) -> Grants {
        Grants { world: Arc::clone(&self.world), client_id: Arc::clone(&self.client_id) }
    }

    /// How it behaves now.
    pub fn behavior(&self) -> Behavior {
        self.world.ledger().behavior.clone()
    }

    /// Changes how it behaves, from the next request on.
    pub fn change(&self, change: impl FnOnce(&mut Behavior)) {
        change(&mut self.world.ledger().behavior);
    }

    /// Registers a further client, or replaces one of the same id. Returns its secret, if it has one.
    pub fn register_client(&self, registration: ClientRegistration) -> Option<Arc<Secret<String>>> {
        self.world.ledger().register(registration, &*self.world.entropy)
    }

    /// Adds a redirect URI to a client. A client that does not exist gets none.
    pub fn register_redirect_uri(&self, client_id: &str, uri: &str) {
        if let Some(client) = self.world.ledger().client_mut(client_id) {
            client.redirect_uris.push(uri.to_owned());
        }
    }

    /// Gives a confidential client a new secret; the old one is refused from now on. `None` for any other client.
    pub fn rotate_client_secret(&self, client_id: &str) -> Option<Arc<Secret<String>>> {
        let mut ledger = self.world.ledger();
        let client = ledger.client_mut(client_id)?;
        client.secret.as_ref()?;
        client.secret = Some(Arc::new(minted("sbx_cs", &*self.world.entropy)));
        client.secret.clone()
    }

    /// Takes the server off the network: connections are closed and new ones refused. Its port stays its own, its
    /// grants stay, and requests already read go on taking effect.
    pub async fn unplug(&mut self) {
        if let Some(running) = self.running.take() {
            running.ended().await;
        }
    }

    /// Puts the server back on the network.
    ///
    /// # Errors
    ///
    /// What listening says.
    pub fn plug(&mut self) -> io::Result<()> {
        if self.running.is_none() {
            self.running = Some(Running::begun(self.port.listen()?, self.router.clone()));
        }
        Ok(())
    }

    /// Stops the server and returns when its port is closed.
    pub async fn stop(mut self) {
        self.unplug().await;
    }
}

impl Running {
    fn begun(listener: tokio::net::TcpListener, router: Router) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, task: tokio::spawn(server::serve(listener, router, stopped)) }
    }

    async fn ended(self) {
        drop(self.stop);
        // An error would be a panic in a connection's bookkeeping; the port is closed either way.
        let _ = self.task.await;
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("issuer", &self.issuer()).finish_non_exhaustive()
    }
}
