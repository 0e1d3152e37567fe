//! The way from one provider's code to the shared HTTP client: counts every request by what it was and what came back,
//! also one that is given up before anything did.

use std::sync::Arc;

use super::http::{Answer, HttpClient, NoAnswer, Outgoing};
use crate::connection::ProviderKey;
use crate::telemetry::Metrics;

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
    http: HttpClient,
    provider: ProviderKey,
    metrics: Arc<Metrics>,
}

impl Sender {
    pub(in crate::provider) fn new(http: HttpClient, provider: ProviderKey, metrics: Arc<Metrics>) -> Self {
        Self { http, provider, metrics }
    }

    /// For which provider.
    pub(in crate::provider) fn provider(&self) -> &ProviderKey {
        &self.provider
    }

    /// Sends a request once; see [`HttpClient`].
    pub(in crate::provider) async fn send(&self, kind: Kind, request: Outgoing) -> Result<Answer, NoAnswer> {
        let mut counted = Counted { sender: self, kind, status: None };
        let answer = self.http.send(request).await;
        counted.status = answer.as_ref().ok().map(|answer| answer.status.as_u16());
        answer
    }
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
