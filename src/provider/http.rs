//! The hardened HTTP clients of the process: every request to a provider leaves through here. This one is for its
//! authorization server; [`api`] is for its API.
//!
//! Owns TLS, timeouts, size limits and the difference between "never sent" and "maybe processed". Knows nothing of
//! OAuth. Invariant: a request is sent once or not at all: no redirect, no retry, no proxy from the environment, no
//! reused connection whose death could be mistaken for an answer; and no connection to an address that its provider's
//! entry does not let be called.

pub(in crate::provider) mod api;
mod body;
pub mod resolver;
mod tls;

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use rustls::CertificateError;

use super::address::AddressPolicy;
use super::trust::ExtraAuthorities;
use super::url::CheckedUrl;
use crate::error::{AmbiguousCause, Unsent};
use crate::secret::Secret;

use resolver::{GuardedResolver, Lookup, SystemLookup};
pub use tls::TlsError;

/// What can be set about the client.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Who is trusted besides the public authorities.
    pub extra_authorities: ExtraAuthorities,
    /// How long name resolution, TCP and TLS may take together.
    pub connect_timeout: Duration,
    /// How long a request may take in all, where nothing shorter is said.
    pub total_timeout: Duration,
    /// Where the hosts of providers are looked up.
    pub lookup: Arc<dyn Lookup>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            extra_authorities: ExtraAuthorities::default(),
            connect_timeout: Duration::from_secs(5),
            total_timeout: Duration::from_secs(30),
            lookup: Arc::new(SystemLookup),
        }
    }
}

/// The client. Clones share it.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: reqwest::Client,
    addresses: AddressPolicy,
    connect_timeout: Duration,
    total_timeout: Duration,
    tls: Arc<rustls::ClientConfig>,
    lookup: Arc<dyn Lookup>,
}

/// A request, whole: its body is in memory and bounded by what we put there.
#[derive(Debug)]
pub(in crate::provider) struct Outgoing {
    /// The method.
    pub(in crate::provider) method: Method,
    /// Where to. The type says that the scheme, host and form of the address were looked at; the client's resolver looks at
    /// what the name resolves to.
    pub(in crate::provider) url: CheckedUrl,
    /// The headers. Values with credentials are marked sensitive by whoever makes them.
    pub(in crate::provider) headers: HeaderMap,
    /// The body, if any.
    pub(in crate::provider) body: Option<Secret<Vec<u8>>>,
    /// How long it may take in all; `None`: the client's total timeout.
    pub(in crate::provider) timeout: Option<Duration>,
    /// The largest body that is read.
    pub(in crate::provider) body_limit: usize,
}

/// An answer. Its status is known even where its body could not be read.
#[derive(Debug)]
pub(in crate::provider) struct Answer {
    /// The status.
    pub(in crate::provider) status: StatusCode,
    /// The headers.
    pub(in crate::provider) headers: HeaderMap,
    /// The body, or how it was lost.
    pub(in crate::provider) body: Result<Secret<Vec<u8>>, AmbiguousCause>,
}

/// No answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::provider) enum NoAnswer {
    /// Not a byte of the request's body was handed to a connection: the server cannot have acted on it.
    NotSent(Unsent),
    /// The request may have arrived.
    Lost(AmbiguousCause),
}

impl HttpClient {
    /// Builds the client. It calls public addresses only.
    ///
    /// # Errors
    /// The libraries refuse what they are set up with.
    pub fn new(settings: &HttpSettings) -> Result<Self, TlsError> {
        let tls = tls::client_config(&settings.extra_authorities)?;
        let HttpSettings { connect_timeout, total_timeout, lookup, .. } = settings.clone();
        Self::built(Arc::new(tls), AddressPolicy::default(), connect_timeout, total_timeout, lookup)
    }

    /// The same client for one provider, which is let be at these addresses.
    #[must_use]
    pub(in crate::provider) fn at(&self, addresses: AddressPolicy) -> Self {
        let Self { tls, connect_timeout, total_timeout, lookup, .. } = self.clone();
        // It was built before of the same parts. If it could not be now, the stricter one is left.
        Self::built(tls, addresses, connect_timeout, total_timeout, lookup).unwrap_or_else(|_| self.clone())
    }

    fn built(
        tls: Arc<rustls::ClientConfig>,
        addresses: AddressPolicy,
        connect_timeout: Duration,
        total_timeout: Duration,
        lookup: Arc<dyn Lookup>,
    ) -> Result<Self, TlsError> {
        #[expect(clippy::disallowed_methods, reason = "this is where the one hardened client is built")]
        let builder = reqwest::Client::builder();
        let client = builder
            .tls_backend_preconfigured(rustls::ClientConfig::clone(&tls))
            .dns_resolver(Arc::new(GuardedResolver::new(addresses.clone(), lookup.clone())))
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            // A kept connection that the server closes at the moment of the next request looks like a lost answer.
            // A refresh is rare; a handshake is cheaper than a refresh token of unknown fate.
            .pool_max_idle_per_host(0)
            .connect_timeout(connect_timeout)
            .timeout(total_timeout)
            .user_agent(concat!("token-broker/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|_| TlsError::Client)?;
        Ok(Self { client, addresses, connect_timeout, total_timeout, tls, lookup })
    }

    /// TLS as this client has it, for HTTP/2 and HTTP/1.1.
    pub(in crate::provider) fn tls_for_calls(&self) -> rustls::ClientConfig {
        let mut tls = rustls::ClientConfig::clone(&self.tls);
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        tls
    }

    /// Where hosts are looked up.
    pub(in crate::provider) fn lookup(&self) -> Arc<dyn Lookup> {
        self.lookup.clone()
    }

    /// Sends a request once and reads its answer up to the limit.
    pub(in crate::provider) async fn send(&self, request: Outgoing) -> Result<Answer, NoAnswer> {
        if request.url.literal().is_some_and(|address| self.addresses.check_literal(address).is_err()) {
            return Err(NoAnswer::NotSent(Unsent::Address));
        }
        let handover = Arc::new(body::Handover::default());
        let mut outgoing = self
            .client
            .request(request.method, request.url.as_url().clone())
            .headers(request.headers)
            .timeout(request.timeout.unwrap_or(self.total_timeout));
        let has_body = request.body.is_some();
        if let Some(bytes) = request.body {
            outgoing = outgoing.body(reqwest::Body::wrap(body::Tracked::new(&bytes, Arc::clone(&handover))));
        }
        match outgoing.send().await {
            Ok(response) => Ok(Answer {
                status: response.status(),
                headers: response.headers().clone(),
                body: read_body(response, request.body_limit).await,
            }),
            Err(error) if error.is_connect() || (has_body && handover.withdraw()) => {
                Err(NoAnswer::NotSent(unsent_cause(&error)))
            }
            Err(error) => Err(NoAnswer::Lost(lost_cause(&error))),
        }
    }
}

/// Reads a body up to `limit` bytes; the first byte beyond ends the connection.
async fn read_body(mut response: reqwest::Response, limit: usize) -> Result<Secret<Vec<u8>>, AmbiguousCause> {
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(AmbiguousCause::Unparsable);
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| lost_cause(&error))? {
        if body.len() + chunk.len() > limit {
            drop(Secret::new(body));
            return Err(AmbiguousCause::Unparsable);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Secret::new(body))
}

fn lost_cause(error: &reqwest::Error) -> AmbiguousCause {
    if error.is_timeout() { AmbiguousCause::Timeout } else { AmbiguousCause::Reset }
}

fn unsent_cause(error: &reqwest::Error) -> Unsent {
    if resolver::refusal_in(error).is_some() {
        Unsent::Address
    } else if error.is_dns() {
        Unsent::Dns
    } else {
        is_caused_by(error).map_or(Unsent::Connect, untrusted_cause)
    }
}

/// Why there is no TLS: what an operator can do about it is one thing for each.
fn untrusted_cause(error: &rustls::Error) -> Unsent {
    let rustls::Error::InvalidCertificate(why) = error else { return Unsent::Tls };
    match why {
        CertificateError::UnknownIssuer => Unsent::Untrusted,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Unsent::Misnamed
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => Unsent::Outdated,
        _ => Unsent::Tls,
    }
}

/// The first error of that type among the causes. `io::Error` hides the error it carries from `source`.
fn is_caused_by<E: StdError + 'static>(error: &reqwest::Error) -> Option<&E> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }
        next = match cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(carried) => Some(carried),
            None => cause.source(),
        };
    }
    None
}
