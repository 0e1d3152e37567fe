//! The way from one provider's code to the shared HTTP client: counts every request by what it was and what came back,
//! also one that is given up before anything did.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderMap, StatusCode};

use super::http::{Answer, HttpClient, NoAnswer, Outgoing};
use crate::connection::ProviderKey;
use crate::error::{AmbiguousCause, Unsent};
use crate::secret::Secret;
use crate::telemetry::Metrics;

/// A provider in the same process, in the place of the network: what a whole broker does over hours can be looked at in
/// a time that is driven, which sockets do not allow.
#[async_trait]
pub trait LocalPeer: Send + Sync {
    /// Answers what is posted with a status, header fields and a JSON document; `None`: it cannot be reached.
    async fn post(&self, body: &[u8]) -> Option<(StatusCode, HeaderMap, Vec<u8>)>;
}

/// Where requests go.
enum Way {
    Network(HttpClient),
    Local(Arc<dyn LocalPeer>),
}

/// What a request is for; the word in the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::provider) enum Kind {
    Token,
    Revocation,
    Userinfo,
    Discovery,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Revocation => "revocation",
            Self::Userinfo => "userinfo",
            Self::Discovery => "discovery",
        }
    }
}

/// Sends for one provider.
pub(in crate::provider) struct Sender {
    way: Way,
    provider: ProviderKey,
    metrics: Arc<Metrics>,
}

impl Sender {
    pub(in crate::provider) fn new(http: HttpClient, provider: ProviderKey, metrics: Arc<Metrics>) -> Self {
        Self { way: Way::Network(http), provider, metrics }
    }

    /// Sends to `peer` whatever is to be sent.
    pub(in crate::provider) fn local(
        peer: Arc<dyn LocalPeer>,
        provider: ProviderKey,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { way: Way::Local(peer), provider, metrics }
    }

    /// For which provider.
    pub(in crate::provider) fn provider(&self) -> &ProviderKey {
        &self.provider
    }

    /// Sends a request once; see [`HttpClient`].
    pub(in crate::provider) async fn send(&self, kind: Kind, request: Outgoing) -> Result<Answer, NoAnswer> {
        let mut counted = Counted { sender: self, kind, status: None };
        let answer = match &self.way {
            Way::Network(http) => http.send(request).await,
            Way::Local(peer) => ask(&**peer, request).await,
        };
        counted.status = answer.as_ref().ok().map(|answer| answer.status.as_u16());
        answer
    }
}

async fn ask(peer: &dyn LocalPeer, request: Outgoing) -> Result<Answer, NoAnswer> {
    let body = request.body.as_ref().map_or(&[][..], |body| body.expose());
    let posted = tokio::time::timeout(request.timeout.unwrap_or(Duration::MAX), peer.post(body));
    let answered = posted.await.map_err(|_| NoAnswer::Lost(AmbiguousCause::Timeout))?;
    let (status, headers, body) = answered.ok_or(NoAnswer::NotSent(Unsent::Connect))?;
    Ok(Answer { status, headers, body: Ok(Secret::new(body)) })
}

/// One request, which counts when this is dropped: with its answer, or when whoever waited for one goes away.
struct Counted<'a> {
    sender: &'a Sender,
    kind: Kind,
    status: Option<u16>,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let Self { sender, kind, status } = self;
        sender.metrics.provider_requested(sender.provider.as_str(), kind.as_str(), *status);
    }
}
