//! The public door: browsers that come back from a provider's consent page. Knows two things: how to read the answer
//! they bring, and what to tell the person when it leads nowhere. Invariant: an answer that could be read leads to a
//! 303, either to the return URL the broker names or to a clean URL of ours, so that neither `code` nor `state` stays in
//! the address bar, the history or a referrer.

mod failure;
mod page;
mod request_id;
mod response;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Path, Request, State};
use axum::http::header::{ALLOW, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use url::Url;

use super::door::{self, Limits};
use super::host::{Hosts, WrongHost};
use crate::broker::{AuthorizationResponse, Broker};
use crate::connection::ProviderKey;
use crate::entropy::Entropy;
use crate::error::{Error, Fault};
use crate::secret::Secret;
use crate::telemetry::Metrics;
use failure::Failure;
use request_id::{X_REQUEST_ID, request_id};
use response::Malformed;

/// A browser needs one request, then is sent elsewhere.
const LIMITS: Limits = Limits {
    connections: 512,
    head: Duration::from_secs(10),
    life: Duration::from_secs(120),
    is_kept_alive: false,
};

/// How long the broker may take with the provider's answer: beyond a code exchange and a look at the account.
const PATIENCE: Duration = Duration::from_secs(90);

/// The most a posted answer (OAuth 2.0 Form Post Response Mode) may have, and how long it may take.
const MAX_FORM: usize = 16 * 1024;
const FORM_PATIENCE: Duration = Duration::from_secs(10);

/// What the public door is made of.
pub struct Public {
    /// Takes the answers.
    pub broker: Arc<Broker>,
    /// Where the door is reached by browsers: sets which `Host` is accepted, and under which path the callbacks are.
    pub public_url: Url,
    /// Where request ids come from.
    pub entropy: Arc<dyn Entropy>,
    /// Failed callbacks are counted.
    pub metrics: Arc<Metrics>,
}

/// Serves the public door until `shutdown`, then lets callbacks in hand finish for at most `drain`.
pub async fn serve_public(
    listener: TcpListener,
    public: Public,
    shutdown: CancellationToken,
    drain: Duration,
) {
    let hosts = Hosts::new(&public.public_url, listener.local_addr().ok());
    door::serve("public", listener, router(public, hosts), LIMITS, shutdown, drain).await;
}

/// What a handler needs.
struct Door {
    broker: Arc<Broker>,
    hosts: Hosts,
    entropy: Arc<dyn Entropy>,
    metrics: Arc<Metrics>,
}

/// What the log says of a request, besides its route and status.
#[derive(Clone, Default)]
struct Told {
    provider: Option<String>,
    error: Option<Error>,
}

fn router(public: Public, hosts: Hosts) -> Router {
    let prefix = public.public_url.path().trim_end_matches('/').to_owned();
    let door =
        Arc::new(Door { broker: public.broker, hosts, entropy: public.entropy, metrics: public.metrics });
    let routes = Router::new()
        .route("/callback/{provider}", any(callback))
        .route("/callback/{provider}/failed/{failure}", get(failed));
    // Whoever stands in front may cut the public URL's path off or leave it on.
    let routes = match prefix.as_str() {
        "" => routes,
        prefix => routes.clone().nest(prefix, routes),
    };
    routes
        .fallback(|| async { page::page(StatusCode::NOT_FOUND, "Nothing here", &[]) })
        .method_not_allowed_fallback(|| async { not_allowed("GET,HEAD") })
        .layer(from_fn_with_state(Arc::clone(&door), at_the_door))
        .with_state(door)
}

/// Every request passes here: whose host, which id, one line, and the headers of the door.
async fn at_the_door(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let begun_at = Instant::now();
    let request_id = request_id(request.headers(), door.entropy.as_ref());
    // The path has no secret; the query is not looked at.
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // Of the highest level, or a filter that is turned down would take the id off the lines that remain.
    let span = tracing::error_span!("web.request", request_id);
    let mut response = match door.hosts.check(&request) {
        Ok(()) => next.run(request).instrument(span.clone()).await,
        Err(WrongHost::Unclear) => page::page(StatusCode::BAD_REQUEST, "Which host?", &[]),
        Err(WrongHost::Foreign) => {
            page::page(StatusCode::MISDIRECTED_REQUEST, "This service is not reached by that name", &[])
        }
    };
    page::dress(response.headers_mut());
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    let status = response.status().as_u16();
    let duration_seconds = begun_at.elapsed().as_secs_f64();
    span.in_scope(|| match response.extensions_mut().remove::<Told>() {
        Some(told) => told.log(&method, status, duration_seconds),
        // Scanners and health checks: not worth a line in a log that people read.
        None => tracing::debug!(%method, path, status, duration_seconds, "answered"),
    });
    response
}

impl Told {
    fn log(&self, method: &Method, status: u16, duration_seconds: f64) {
        let provider = self.provider.as_deref().unwrap_or("");
        let Some(error) = &self.error else {
            tracing::info!(provider, %method, status, duration_seconds, "callback");
            return;
        };
        let reason = error.reason();
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    provider,
                    reason = reason.as_str(),
                    fault = reason.fault().as_str(),
                    %error,
                    %method,
                    status,
                    duration_seconds,
                    "callback failed"
                )
            };
        }
        match reason.fault() {
            Fault::Caller | Fault::Owner => line!(info),
            Fault::Provider => line!(warn),
            Fault::Operator | Fault::Broker => line!(error),
        }
    }
}

/// `/callback/{provider}`. HEAD is not a milder GET here: it would use the answer up.
async fn callback(State(door): State<Arc<Door>>, Path(key): Path<String>, request: Request) -> Response {
    let Ok(key) = ProviderKey::parse(&key) else {
        return page::failed(Failure::UnknownProvider, "");
    };
    let answer = match *request.method() {
        Method::GET => response::parse(request.uri().query().unwrap_or_default().as_bytes()),
        Method::POST if !is_form(request.headers()) => {
            return page::page(StatusCode::UNSUPPORTED_MEDIA_TYPE, "A form is expected here", &[]);
        }
        Method::POST => match timeout(FORM_PATIENCE, to_bytes(request.into_body(), MAX_FORM)).await {
            Ok(Ok(form)) => response::parse(&form),
            Ok(Err(_)) | Err(_) => Err(Malformed),
        },
        _ => return not_allowed("GET,POST"),
    };
    let outcome = match answer {
        Ok(answer) => door.ask(&key, answer).await,
        Err(Malformed) => Err(Error::invalid("query", "is not an authorization response")),
    };
    let error = outcome.as_ref().err().cloned();
    let mut response = door.send_on(&key, outcome);
    response.extensions_mut().insert(Told { provider: Some(key.to_string()), error });
    response
}

impl Door {
    async fn ask(&self, key: &ProviderKey, answer: AuthorizationResponse) -> Result<Secret<String>, Error> {
        // The broker goes on in a task of its own when the browser has waited long enough.
        timeout(PATIENCE, self.broker.callback(key.as_str(), answer))
            .await
            .unwrap_or(Err(Error::Internal("a callback took longer than its time")))
    }

    /// Turns what the broker said into the 303 that leads the browser away from the answer's URL.
    fn send_on(&self, key: &ProviderKey, outcome: Result<Secret<String>, Error>) -> Response {
        let to = match outcome {
            Ok(url) => url.expose().clone(),
            // Relative, because only the browser knows under which URL it sees this door.
            Err(error) => {
                self.metrics.failed(key.as_str(), &error);
                format!("{key}/failed/{}", Failure::of(&error).word())
            }
        };
        match HeaderValue::from_str(&to) {
            Ok(location) => (StatusCode::SEE_OTHER, [(LOCATION, location)]).into_response(),
            Err(_) => page::failed(Failure::Internal, ""),
        }
    }
}

/// The page of a consent that did not work out.
async fn failed(State(door): State<Arc<Door>>, Path((key, word)): Path<(String, String)>) -> Response {
    let Some(failure) = Failure::parse(&word) else {
        return page::page(StatusCode::NOT_FOUND, "Nothing here", &[]);
    };
    match door.broker.provider(&key) {
        Ok(info) => page::failed(failure, &info.display_name),
        Err(_) => page::failed(Failure::UnknownProvider, ""),
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
        let kind = value.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
    })
}

fn not_allowed(allowed: &'static str) -> Response {
    let mut response = page::page(StatusCode::METHOD_NOT_ALLOWED, "Not that way", &[]);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}
