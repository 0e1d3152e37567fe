//! The token endpoint, as the HTTP client that the `oauth2` crate speaks through.
//!
//! The crate builds the grant and parses the token; in between, here, the request takes the provider's shape and the
//! answer's status is judged before the crate sees anything. Invariant: the crate never gets to see a failure: its
//! error types carry the raw body and print it.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::time::Duration;

use oauth2::{AsyncHttpClient, HttpRequest, HttpResponse};

use super::client_auth::Client;
use super::http::{NoAnswer, Outgoing};
use super::reply::{Asked, Facts, judge};
use super::sender::{Kind, Sender};
use super::spec::ProviderSpec;
use super::url::CheckedUrl;
use super::wire::{self, Params};
use crate::clock::Clock;
use crate::error::{AmbiguousCause, ProviderError};

/// The largest answer of a token endpoint that is read.
pub(in crate::provider) const BODY_LIMIT: usize = 64 * 1024;

/// One request to a token endpoint.
pub(in crate::provider) struct TokenEndpoint<'a> {
    pub(in crate::provider) sender: &'a Sender,
    pub(in crate::provider) clock: &'a dyn Clock,
    pub(in crate::provider) spec: &'a ProviderSpec,
    pub(in crate::provider) client: &'a Client,
    pub(in crate::provider) url: CheckedUrl,
    /// Client authentication methods that the metadata lists.
    pub(in crate::provider) offered: Option<&'a [String]>,
    pub(in crate::provider) asked: Asked,
    pub(in crate::provider) redirect_uri: Option<&'a str>,
    /// How long the request may take in all.
    pub(in crate::provider) timeout: Duration,
    /// What the answer said besides the tokens.
    pub(in crate::provider) facts: OnceLock<Facts>,
}

/// A failure on its way through the crate.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(in crate::provider) struct EndpointError(pub(in crate::provider) ProviderError);

impl<'c> AsyncHttpClient<'c> for TokenEndpoint<'_> {
    type Error = EndpointError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, EndpointError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move { self.ask(request.body()).await.map_err(EndpointError) })
    }
}

impl TokenEndpoint<'_> {
    async fn ask(&self, grant: &[u8]) -> Result<HttpResponse, ProviderError> {
        let outgoing = self.outgoing(Params::from_form(grant))?;
        let answer = self.sender.send(Kind::Token, outgoing).await.map_err(no_answer)?;
        let now = self.clock.now();
        let reply = judge(self.spec, self.asked, &answer, now)?;
        let unparsable = ProviderError::Ambiguous { cause: AmbiguousCause::Unparsable };
        let (facts, canonical) =
            Facts::read(self.spec, self.asked, &self.client.id, &reply, now).ok_or(unparsable.clone())?;
        // Set once: a TokenEndpoint makes one request.
        let _ = self.facts.set(facts);
        http::Response::builder().body(canonical.to_string().into_bytes()).map_err(|_| unparsable)
    }

    fn outgoing(&self, mut params: Params) -> Result<Outgoing, ProviderError> {
        let shape = match self.asked {
            Asked::Exchange => &self.spec.requests.token,
            Asked::Refresh => &self.spec.requests.refresh,
            Asked::Revoke => &self.spec.requests.revocation,
        };
        let value = |name: &str| match name {
            "client_id" => Some(Cow::Borrowed(self.client.id.as_str())),
            "redirect_uri" => self.redirect_uri.map(Cow::Borrowed),
            _ => None,
        };
        let mut headers = wire::headers(shape, value)?;
        self.client.prove(&self.spec.client_auth, self.offered, &mut params, &mut headers)?;
        if self.asked == Asked::Exchange {
            for (name, value) in &self.spec.offline.token {
                params.set(name, value);
            }
        }
        params.reshape(shape, value);
        let (body, content_type) = params.into_body(shape.format);
        wire::set_content_type(&mut headers, content_type);
        Ok(Outgoing {
            method: http::Method::POST,
            url: self.url.clone(),
            headers,
            body: Some(body),
            timeout: Some(self.timeout),
            body_limit: BODY_LIMIT,
        })
    }
}

/// No answer to a request that changes something.
pub(in crate::provider) fn no_answer(none: NoAnswer) -> ProviderError {
    match none {
        NoAnswer::NotSent(cause) => ProviderError::Unavailable { cause, retry_after: None },
        NoAnswer::Lost(cause) => ProviderError::Ambiguous { cause },
    }
}
