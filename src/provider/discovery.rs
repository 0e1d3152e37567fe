//! The provider's metadata (OpenID Connect Discovery 1.0, RFC 8414): read when first needed, kept, read again later.
//!
//! Owns the cache and the checks: the issuer must be exactly the configured one, every address must be callable, and
//! the hosts of the first reading stay. Invariant: a metadata document that fails a check changes nothing, and its
//! absence never stops the broker from starting.

mod metadata;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::http::{NoAnswer, Outgoing};
use super::reply::{read_json, retry_after};
use super::sender::{Kind, Sender};
use super::spec::ProviderSpec;
use super::spec::place::DiscoveryStyle;
use super::url::{CheckedUrl, PlainHttp};
use super::wire;
use crate::clock::Clock;
use crate::error::{AmbiguousCause, ProviderError, Unsent};

pub(in crate::provider) use metadata::Metadata;

/// The largest metadata document that is read.
const BODY_LIMIT: usize = 256 * 1024;

/// How long a document may take. Callers wait for it, so it is shorter than the client's own total.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long metadata is believed without another look.
const FRESH_FOR: Duration = Duration::from_secs(3600);

/// The longest rest after failures.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// The metadata of one provider, as far as known.
#[derive(Debug, Default)]
pub(in crate::provider) struct Discovery {
    known: RwLock<Option<Known>>,
    /// Held by the one who reads; what is in it says when the next may try.
    turn: Mutex<Failures>,
}

#[derive(Clone, Debug)]
struct Known {
    metadata: Arc<Metadata>,
    read_at: Instant,
}

#[derive(Debug, Default)]
struct Failures {
    count: u32,
    last: Option<(ProviderError, Instant)>,
}

impl Discovery {
    /// What was read last, without reading.
    pub(in crate::provider) fn known(&self) -> Option<Arc<Metadata>> {
        self.cached().map(|known| known.metadata)
    }

    /// The metadata. One caller reads, the others wait for it; while old metadata is read again the others get the old.
    pub(in crate::provider) async fn metadata(
        &self,
        sender: &Sender,
        spec: &ProviderSpec,
        clock: &dyn Clock,
    ) -> Result<Arc<Metadata>, ProviderError> {
        let old = self.cached();
        let mut failures = match old {
            Some(known) if known.read_at.elapsed() < FRESH_FOR => return Ok(known.metadata),
            Some(known) => match self.turn.try_lock() {
                Ok(turn) => turn,
                Err(_) => return Ok(known.metadata),
            },
            None => self.turn.lock().await,
        };
        // Whoever held the turn before may have read it, or have learned that it is not to be had.
        let old = self.cached();
        if let Some(known) = &old
            && known.read_at.elapsed() < FRESH_FOR
        {
            return Ok(Arc::clone(&known.metadata));
        }
        let outcome = match failures.rest() {
            Some(error) => Err(error),
            None => {
                let outcome = read(sender, spec, clock, old.as_ref().map(|known| &*known.metadata)).await;
                failures.note(&outcome);
                outcome
            }
        };
        match (outcome, old) {
            (Ok(metadata), _) => {
                let metadata = Arc::new(metadata);
                let known = Known { metadata: Arc::clone(&metadata), read_at: Instant::now() };
                *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(known);
                Ok(metadata)
            }
            (Err(error), Some(known)) => {
                // Nobody else hears of it: the old metadata goes on serving.
                let provider = sender.provider().as_str();
                tracing::warn!(provider, reason = error.reason().as_str(), %error, "the old metadata stays");
                Ok(known.metadata)
            }
            (Err(error), None) => Err(error),
        }
    }

    fn cached(&self) -> Option<Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Failures {
    /// While the last failure is too fresh to try again: that failure, with the time that is left.
    fn rest(&self) -> Option<ProviderError> {
        let (error, until) = self.last.as_ref()?;
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        Some(match error {
            ProviderError::Unavailable { cause, .. } => {
                ProviderError::Unavailable { cause: *cause, retry_after: Some(left) }
            }
            ProviderError::RateLimited { .. } => ProviderError::RateLimited { retry_after: Some(left) },
            other => other.clone(),
        })
    }

    fn note(&mut self, outcome: &Result<Metadata, ProviderError>) {
        let Err(error) = outcome else {
            *self = Self::default();
            return;
        };
        let asked = match error {
            ProviderError::RateLimited { retry_after } | ProviderError::Unavailable { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        };
        let doubled = Duration::from_secs(1 << self.count.min(6));
        let rest = asked.unwrap_or_default().max(doubled).min(LONGEST_REST);
        self.count += 1;
        self.last = Some((error.clone(), Instant::now() + rest));
    }
}

async fn read(
    sender: &Sender,
    spec: &ProviderSpec,
    clock: &dyn Clock,
    before: Option<&Metadata>,
) -> Result<Metadata, ProviderError> {
    let url = document_url(spec)?;
    let request = Outgoing {
        method: http::Method::GET,
        url,
        headers: wire::headers(&Default::default(), |_| None)?,
        body: None,
        timeout: Some(TIMEOUT),
        body_limit: BODY_LIMIT,
    };
    let answer = sender.send(Kind::Discovery, request).await.map_err(unread)?;
    let body = match (answer.status.as_u16(), answer.body) {
        (200, Ok(body)) => body,
        (200, Err(cause)) => return Err(unread(NoAnswer::Lost(cause))),
        (status, _) => return Err(refused(status, &answer.headers, clock)),
    };
    let document = read_json(body.expose()).ok_or(ProviderError::Malformed)?;
    Metadata::check(spec, &document, before)
}

/// Where the document is: as written down, or at the well-known place. OpenID puts that behind the issuer's path
/// (Discovery section 4), RFC 8414 section 3 before it.
fn document_url(spec: &ProviderSpec) -> Result<CheckedUrl, ProviderError> {
    let unusable = || wire::unusable("invalid_issuer");
    let issuer = spec.issuer.as_ref().ok_or_else(unusable)?.as_str();
    let text = match (&spec.discovery.url, spec.discovery.style) {
        (Some(url), _) => url.as_str().to_owned(),
        (None, DiscoveryStyle::Oauth) => {
            let mut url = url::Url::parse(issuer).map_err(|_| unusable())?;
            let path = format!("/.well-known/oauth-authorization-server{}", url.path().trim_end_matches('/'));
            url.set_path(&path);
            url.into()
        }
        (None, DiscoveryStyle::Oidc | DiscoveryStyle::Off) => {
            format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))
        }
    };
    CheckedUrl::parse(&text, PlainHttp::from_flag(spec.allow_http)).map_err(|_| unusable())
}

/// No answer to a request that changes nothing: whether it arrived does not matter.
pub(in crate::provider) fn unread(none: NoAnswer) -> ProviderError {
    let cause = match none {
        NoAnswer::NotSent(cause) => cause,
        NoAnswer::Lost(AmbiguousCause::Timeout | AmbiguousCause::OutOfTime { .. }) => Unsent::Timeout,
        NoAnswer::Lost(AmbiguousCause::Reset | AmbiguousCause::ResetHttp2 | AmbiguousCause::TooSlow) => {
            Unsent::Connect
        }
        NoAnswer::Lost(AmbiguousCause::Status { status, retry_after }) => {
            return ProviderError::Unavailable { cause: Unsent::Refused(status), retry_after };
        }
        NoAnswer::Lost(
            AmbiguousCause::HeadTooLarge | AmbiguousCause::Undecodable | AmbiguousCause::Unparsable,
        ) => {
            return ProviderError::Malformed;
        }
    };
    ProviderError::Unavailable { cause, retry_after: None }
}

/// A status other than success to a request that changes nothing.
pub(in crate::provider) fn refused(status: u16, headers: &HeaderMap, clock: &dyn Clock) -> ProviderError {
    let retry_after = retry_after(headers, clock.now());
    match status {
        429 => ProviderError::RateLimited { retry_after },
        ..200 | 300..400 => ProviderError::Malformed,
        _ => ProviderError::Unavailable { cause: Unsent::Refused(status), retry_after },
    }
}

#[cfg(test)]
mod tests;
