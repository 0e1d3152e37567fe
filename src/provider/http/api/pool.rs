//! Kept connections to one provider's API: the HTTP library's client with its pool, made when it is first needed and made
//! anew so that none is used for ever, nor for a call after one that it left without an answer.
//!
//! Owns how the client is hardened, how HTTP/2 is begun and how long a connection is used. Does not know what is sent.
//! Invariant: whatever is made goes to checked addresses only, follows nothing and repeats nothing.
//!
//! No PING looks after a connection (RFC 9113 section 6.7). Servers on gRPC's libraries count them: the third that comes
//! less than five minutes after another while nothing else is sent ends the connection, with every call on it
//! (ENHANCE_YOUR_CALM, gRFC A8), and no client can tell which servers those are. It would also find out later than a call
//! that waits in vain, which costs nobody anything but one more handshake.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::super::HttpClient;
use super::super::resolver::GuardedResolver;
use super::MOST_FIELDS;
use crate::provider::address::AddressPolicy;

/// How long name resolution, TCP and TLS may take together.
const CONNECT: Duration = Duration::from_secs(3);

/// How long a kept connection may be idle. A server that closes it at the moment of the next request makes that one's
/// fate unknown, so it is shorter than what servers commonly allow.
const IDLE: Duration = Duration::from_secs(30);

/// How long one set of connections is used: after that, names are resolved anew even if the old ones were never idle.
const LIFE: Duration = Duration::from_secs(300);

/// Kept idle connections to one host.
const KEPT: usize = 32;

/// Header fields of an HTTP/2 answer in memory, as RFC 9113 section 6.5.2 counts them. More than is handed on: the library
/// gives no reason for a stream that it resets, and at four times this it gives up the connection, with every call on it.
const HTTP2_FIELD_BYTES: u32 = 512 * 1024;

/// Window of one HTTP/2 stream, and of one connection: what readers who take nothing may hold of it in memory. All calls to
/// a host share one connection, so it is as many whole streams as a server lets be open at once (mostly 100 to 250), or one
/// of them would starve the others: 128 MiB. A single answer still comes with 40 Mbit/s from 100 ms away.
const STREAM_WINDOW: u32 = 512 * 1024;
const CONNECTION_WINDOW: u32 = 256 * STREAM_WINDOW;

/// How HTTP/2 is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// Over TLS, where ALPN settles on it (RFC 9113 section 3.2); HTTP/1.1 everywhere else.
    Settled,
    /// At once (RFC 9113 section 3.3), by hosts that would not understand anything else.
    PriorKnowledge,
}

/// A client, for as long as it is used.
pub(super) struct Pool {
    tls: rustls::ClientConfig,
    resolver: Arc<GuardedResolver>,
    beginning: Beginning,
    current: Mutex<Option<Kept>>,
    /// Whether calls shared a connection of any client before: the next one's is left behind even if it dies before its
    /// first answer.
    was_shared: AtomicBool,
}

/// A client and its connections. Clones share them.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) client: reqwest::Client,
    until: Instant,
    /// Whether calls share a connection: then one that is dead is dead for the next call too.
    is_shared: Arc<AtomicBool>,
    /// When each origin last sent the head of an answer.
    heads: Arc<Mutex<HashMap<Arc<str>, Instant>>>,
}

impl Kept {
    /// An answer came from there in that version.
    pub(super) fn heard(&self, origin: Arc<str>, version: http::Version) {
        self.is_shared.fetch_or(version == http::Version::HTTP_2, Ordering::Relaxed);
        self.heads().insert(origin, Instant::now());
    }

    /// Whether one came from there within that time.
    fn is_heard(&self, origin: &str, within: Duration) -> bool {
        self.heads().get(origin).is_some_and(|at| at.elapsed() <= within)
    }

    fn heads(&self) -> MutexGuard<'_, HashMap<Arc<str>, Instant>> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    pub(super) fn new(http: &HttpClient, addresses: AddressPolicy, beginning: Beginning) -> Self {
        let resolver = Arc::new(GuardedResolver::new(addresses, http.lookup()));
        let was_shared = AtomicBool::new(beginning == Beginning::PriorKnowledge);
        Self { tls: http.tls_for_calls(), resolver, beginning, current: Mutex::new(None), was_shared }
    }

    /// The client of now; `None`: the library cannot make one.
    pub(super) fn client(&self) -> Option<Kept> {
        let mut current = self.current();
        let now = Instant::now();
        if let Some(kept) = current.as_ref().filter(|kept| now < kept.until) {
            return Some(kept.clone());
        }
        if let Some(kept) = &*current {
            self.was_shared.fetch_or(kept.is_shared.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let is_shared = Arc::new(AtomicBool::new(self.was_shared.load(Ordering::Relaxed)));
        let kept = Kept { client: self.made()?, until: now + LIFE, is_shared, heads: Arc::default() };
        *current = Some(kept.clone());
        Some(kept)
    }

    /// A call got no answer over a connection of `kept` for so long: the next one gets another if they share them, unless
    /// others were answered there meanwhile. What is under way on it goes on. Whatever took its place meanwhile stays, so
    /// that there is no more than one for each such wait.
    pub(super) fn distrust(&self, kept: &Kept, origin: &str, silence: Duration) {
        let mut current = self.current();
        let is_current = current.as_ref().is_some_and(|now| Arc::ptr_eq(&now.is_shared, &kept.is_shared));
        if is_current && kept.is_shared.load(Ordering::Relaxed) && !kept.is_heard(origin, silence) {
            self.was_shared.store(true, Ordering::Relaxed);
            *current = None;
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<Kept>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn made(&self) -> Option<reqwest::Client> {
        #[expect(clippy::disallowed_methods, reason = "this is where the hardened client for calls is built")]
        let builder = reqwest::Client::builder();
        let builder = builder
            .tls_backend_preconfigured(self.tls.clone())
            .dns_resolver(self.resolver.clone())
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(KEPT)
            .http1_max_headers(MOST_FIELDS)
            .http2_max_header_list_size(HTTP2_FIELD_BYTES)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .user_agent(concat!("token-broker/", env!("CARGO_PKG_VERSION")));
        let builder = match self.beginning {
            Beginning::Settled => builder,
            Beginning::PriorKnowledge => builder.http2_prior_knowledge(),
        };
        builder.build().ok()
    }
}
