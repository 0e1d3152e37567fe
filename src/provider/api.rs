//! A provider's API as one object: where it is, which rules a call must keep, who may go next, and what an answer means.
//!
//! Joins the parts: [`target`](super::target) checks, [`turn`] admits, the client sends, [`throttle`](super::throttle)
//! reads. Knows no store and no caller. Invariant: hosts, headers and credentials come from one immutable entry, and
//! whatever is sent went through [`Target::authorize`].

mod held;
mod host;
mod recall;
mod silence;
mod turn;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http::header::{ACCEPT_ENCODING, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use self::held::{Held, peeked};
use self::recall::{Recall, Remembered};
use self::silence::Waiting;
use self::turn::{Leave, Turns, Verdict};
use super::cache::{Answers, Visit};
use super::call::{
    Allowance, AnswerStream, CallAnswer, CallBody, CallPolicy, Origin, PreparedCall, Repeatability, Says,
    Wanted,
};
use super::coding::{self, Bounds};
use super::field;
use super::health::ApiHealth;
use super::http::HttpClient;
use super::http::api::{ApiClient, ApiRequest, Patience, Pulse};
use super::spec::ProviderSpec;
use super::target::{self, AuthorizedTarget, Draft, Target};
use super::throttle::{Reply, Signals};
use crate::clock::Clock;
use crate::connection::{ConnectionId, Credential, ProviderKey, Values};
use crate::error::{Error, Mistake, ProviderError, Unsent};
use crate::telemetry::Metrics;

/// Over how much waiting the rate of an answer is looked at.
const RATE_WINDOW: Duration = Duration::from_secs(30);

/// How much of a failure's body is looked at for what it means.
const LOOKED_AT: usize = 64 * 1024;

/// A provider's API. Clones are the same.
#[derive(Clone)]
pub(in crate::provider) struct ProviderApi(Arc<Shared>);

struct Shared {
    provider: ProviderKey,
    api: target::Api,
    signals: Signals,
    client: ApiClient,
    turns: Turns,
    head_timeout: Duration,
    policy: CallPolicy,
    bounds: Bounds,
    answers: Option<Answers>,
    idempotency_header: Option<HeaderName>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl ProviderApi {
    /// Compiles the API of an entry.
    ///
    /// # Errors
    /// Every mistake in it.
    pub(in crate::provider) fn new(
        provider: &ProviderKey,
        spec: &ProviderSpec,
        http: &HttpClient,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Vec<Mistake>> {
        let api = target::Api::compile(provider, spec)?;
        let limits = &spec.api.limits;
        let patience = Patience {
            head: limits.head_timeout.duration(),
            idle: limits.idle_timeout.duration(),
            stall: limits.stall_timeout.duration(),
            rate: limits.min_bytes_per_second,
            rate_window: RATE_WINDOW,
            most_sent: limits.max_request_bytes,
            most_received: limits.max_response_bytes,
        };
        let policy = CallPolicy {
            timeout: limits.timeout.duration(),
            stream_timeout: limits.stream_timeout.map(Into::into),
            stall_timeout: limits.stall_timeout.duration(),
            attempts: limits.retry.attempts(),
            pause: limits.retry.pause().duration(),
        };
        let idempotency_header = spec.api.idempotency_header.as_deref();
        Ok(Self(Arc::new(Shared {
            provider: provider.clone(),
            client: ApiClient::new(
                provider.clone(),
                patience,
                http,
                api.addresses().clone(),
                spec.api.http2_prior_knowledge,
            ),
            signals: Signals::new(spec),
            turns: Turns::new(provider, limits, clock.clone(), metrics.clone()),
            api,
            head_timeout: patience.head,
            policy,
            bounds: Bounds { bytes: limits.max_decompressed_bytes, ratio: limits.max_decompression_ratio },
            answers: spec.api.cache.as_ref().map(|cache| Answers::new(provider, cache, metrics.clone())),
            idempotency_header: idempotency_header
                .and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok()),
            clock,
            metrics,
        })))
    }

    pub(in crate::provider) fn policy(&self) -> CallPolicy {
        self.0.policy
    }

    /// How the API fares; `None`: the provider's entry names none.
    pub(in crate::provider) fn health(&self) -> Option<ApiHealth> {
        self.0.api.is_there().then(|| self.0.turns.health())
    }

    /// Closes the API's breakers by hand.
    pub(in crate::provider) fn close_breaker(&self) {
        self.0.turns.close();
    }

    /// Forgets the answers that are remembered for a connection.
    pub(in crate::provider) fn forget(&self, id: &ConnectionId) {
        if let Some(answers) = &self.0.answers {
            answers.forget(id);
        }
    }

    /// Holds a call against every rule.
    pub(in crate::provider) fn prepared(
        &self,
        id: &ConnectionId,
        wanted: &Wanted,
    ) -> Result<Box<dyn PreparedCall>, Error> {
        let shared = &self.0;
        // The connection's values come with its token: they may change with each refresh.
        let none = Values::new();
        let draft = shared.api.draft(&target::Request {
            connection: id,
            method: &wanted.method,
            host: (!wanted.host.is_empty()).then_some(wanted.host.as_str()),
            path: &wanted.path,
            query: &wanted.query,
            variables: &none,
        })?;
        let method = draft.method().clone();
        let place = if shared.api.needs_values() {
            Place::OfConnection(draft)
        } else {
            Place::Fixed(draft.target(&none)?)
        };
        let fields = wanted.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut headers = field::given(&shared.api, fields)?;
        let key = shared.idempotency_header.as_ref().zip(wanted.request_id.as_deref());
        if let Some((name, value)) = key.and_then(|(name, id)| Some((name, HeaderValue::from_str(id).ok()?)))
        {
            headers.insert(name.clone(), value);
        }
        let repeatability = Repeatability {
            is_safe: method.is_safe(),
            has_key: shared.idempotency_header.as_ref().is_some_and(|name| headers.contains_key(name)),
        };
        let follows = wanted.follow_redirects && [Method::GET, Method::HEAD].contains(&method);
        // Begun before the call's token is taken: one that is of an earlier grant by then leaves nothing behind.
        let answers = shared.answers.as_ref().filter(|_| method == Method::GET);
        let visit = answers.map(|answers| answers.visit(id));
        Ok(Box::new(Prepared {
            shared: shared.clone(),
            visit,
            place,
            headers,
            repeatability,
            follows,
            decompresses: wanted.decompress,
            pulse: Mutex::default(),
            has_left: AtomicBool::new(false),
        }))
    }
}

/// Where a call goes.
enum Place {
    /// To the same host for every connection.
    Fixed(Target),
    /// To one that the connection's values make.
    OfConnection(Draft),
}

impl Place {
    fn method(&self) -> &Method {
        match self {
            Self::Fixed(target) => target.method(),
            Self::OfConnection(draft) => draft.method(),
        }
    }
}

struct Prepared {
    shared: Arc<Shared>,
    /// `None`: its answer is neither remembered nor taken from memory.
    visit: Option<Visit>,
    place: Place,
    /// The caller's.
    headers: HeaderMap,
    repeatability: Repeatability,
    follows: bool,
    decompresses: bool,
    /// Of the request that the latest attempt sent; `None`: none yet.
    pulse: Mutex<Option<Arc<Pulse>>>,
    /// An earlier request of the latest attempt was answered, such as one that led elsewhere.
    has_left: AtomicBool,
}

/// A request under way. When it ends, whatever way, what is remembered of an address it may have written to is of old.
struct Writing<'a>(&'a Prepared, &'a AuthorizedTarget);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.note_writing(self.1);
    }
}

#[async_trait]
impl PreparedCall for Prepared {
    fn repeatability(&self) -> Repeatability {
        self.repeatability
    }

    fn withdraw(&self) -> bool {
        !self.has_left.load(Ordering::SeqCst) && self.latest().as_ref().is_none_or(|pulse| pulse.withdraw())
    }

    async fn rest(&self, pause: Duration) {
        self.shared.turns.rest(pause).await;
    }

    async fn send(
        &self,
        credential: Credential<'_>,
        body: CallBody,
        time: Allowance,
    ) -> Result<CallAnswer, Error> {
        let Shared { provider, turns, client, clock, .. } = &*self.shared;
        *self.latest() = None;
        self.has_left.store(false, Ordering::SeqCst);
        let ends_at = time.left.map(|left| Instant::now() + left);
        let target = match &self.place {
            Place::Fixed(target) => target.clone(),
            Place::OfConnection(draft) => draft.target(credential.values())?,
        };
        let mut fields = self.headers.clone();
        field::complete(&self.shared.api, &mut fields, credential.values())?;
        if self.decompresses && !fields.contains_key(ACCEPT_ENCODING) {
            fields.insert(ACCEPT_ENCODING, coding::ACCEPTED);
        }
        let mut authorized = target.authorize(&credential)?;
        let visit = self.visit.as_ref().filter(|_| matches!(body, CallBody::Empty));
        let ticket =
            visit.and_then(|visit| visit.ticket(authorized.target().address(), self.decompresses, &fields));
        let mut recall = ticket.map(|ticket| Recall::new(ticket, &authorized));
        if let Some(remembered) = recall.as_mut().and_then(|recall| recall.found(clock.now())) {
            self.shared.metrics.call_cached(provider.as_str(), "hit");
            return Ok(self.given(remembered, &authorized));
        }
        let (connection, host) = (credential.of(), authorized.target().origin());
        let leave = match &body {
            CallBody::Empty | CallBody::Whole(_) => turns.enter(connection, &host, time).await,
            CallBody::Stream(_) => turns.enter_beside(connection, &host, time).await,
        };
        let mut leave = leave.map_err(|error| Error::Provider { provider: provider.clone(), error })?;
        leave.used(&self.shared.metrics);
        let mut body = body;
        loop {
            let mut headers = fields.clone();
            if let Some(recall) = &mut recall {
                recall.ask(&mut headers, clock.now());
            }
            let sent = {
                // Also where the caller leaves meanwhile: the provider may do it all the same.
                let _writing = Writing(self, &authorized);
                let pulse = Arc::new(Pulse::default());
                *self.latest() = Some(pulse.clone());
                let waiting = Waiting::new(&mut leave, &pulse, self.shared.head_timeout, ends_at);
                let sent = client.send(ApiRequest { target: &authorized, headers, body }, &pulse).await;
                waiting.over();
                sent
            };
            let response = match sent {
                Ok(response) => response,
                Err(error) => {
                    leave.settle(verdict(&error));
                    return Err(error);
                }
            };
            if let Some(location) = location(&response).filter(|_| self.follows) {
                authorized = authorized.target().redirected(location)?.authorize(&credential)?;
                // What comes now is another address's.
                recall = None;
            } else if let Some(recall) = recall.as_mut().filter(|recall| recall.is_answered_by(&response)) {
                leave.learn(self.shared.signals.quota(response.headers()));
                if let Some(remembered) = recall.renewed(&response, credential.token(), clock.now()) {
                    leave.answered(response.status().as_u16());
                    leave.settle(Verdict::Works);
                    self.shared.metrics.call_cached(provider.as_str(), "revalidated");
                    return Ok(self.given(remembered, &authorized));
                }
            } else {
                if recall.is_some() {
                    self.shared.metrics.call_cached(provider.as_str(), "miss");
                }
                return self.read(response, credential, leave, recall, &authorized).await;
            }
            // What was sent counts, and what is sent next has to be allowed as well.
            leave.answered(response.status().as_u16());
            self.has_left.store(true, Ordering::SeqCst);
            drop(response);
            if let Err(error) = leave.again().await {
                leave.settle(Verdict::Works);
                return Err(Error::Provider { provider: provider.clone(), error });
            }
            leave.used(&self.shared.metrics);
            body = CallBody::Empty;
        }
    }
}

impl Prepared {
    fn latest(&self) -> MutexGuard<'_, Option<Arc<Pulse>>> {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whatever became of a call that may change something: what is remembered of its address is of old.
    fn note_writing(&self, authorized: &AuthorizedTarget) {
        let answers = self.shared.answers.as_ref().filter(|_| !authorized.method().is_safe());
        if let Some(answers) = answers {
            answers.written(authorized.target().connection(), authorized.target().address());
        }
    }

    /// An answer from memory.
    fn given(&self, remembered: Remembered, authorized: &AuthorizedTarget) -> CallAnswer {
        let Remembered { mut head, body, origin } = remembered;
        let body = http_body_util::Full::new(body).map_err(|never| match never {});
        let body = self.undone(&mut head, AnswerStream::new(body), authorized);
        let (status, headers) = (head.status.as_u16(), head.headers);
        CallAnswer { status, headers, body, says: Says::Nothing, origin }
    }

    /// A body as it was before it was coded, where the caller asked for that. One that cannot be undone is not remembered:
    /// the next call would only be answered with it again.
    fn undone(
        &self,
        head: &mut http::response::Parts,
        body: AnswerStream,
        authorized: &AuthorizedTarget,
    ) -> AnswerStream {
        if !self.decompresses || *self.place.method() == Method::HEAD {
            return body;
        }
        let body = coding::decoded(head, body, self.shared.bounds, &self.shared.provider);
        let Some(answers) = self.shared.answers.clone() else { return body };
        let target = authorized.target();
        let (connection, url) = (target.connection().clone(), target.address().to_owned());
        AnswerStream::new(body.map_err(move |error| {
            answers.written(&connection, &url);
            error
        }))
    }

    /// What an answer says to us, and what is left of it for the caller.
    async fn read(
        &self,
        response: http::Response<AnswerStream>,
        credential: Credential<'_>,
        mut leave: Leave,
        mut recall: Option<Recall>,
        authorized: &AuthorizedTarget,
    ) -> Result<CallAnswer, Error> {
        let shared = &self.shared;
        let (mut head, mut body) = response.into_parts();
        if let Some(recall) = &mut recall {
            body = recall.watch(&head, body, shared.clock.now());
        }
        let body = self.undone(&mut head, body, authorized);
        let status = head.status.as_u16();
        leave.answered(status);
        let (beginning, body) = if shared.signals.reads_body_of(status) && !is_endless(&head.headers) {
            let (beginning, body) = peeked(body, LOOKED_AT).await;
            // A body that is still coded passes as it came; what it says is read from a copy.
            let said =
                coding::read_ahead(&head, beginning.clone(), LOOKED_AT, shared.bounds, &shared.provider);
            (said.await.unwrap_or(beginning), body)
        } else {
            (bytes::Bytes::new(), body)
        };
        let reply = Reply { status, headers: &head.headers, body: &beginning };
        let now = shared.clock.now();
        let says = if let Some(throttled) = shared.signals.throttled(&reply, now) {
            Says::Throttled { wait: throttled.wait }
        } else if shared.signals.is_token_refused(&reply) {
            Says::TokenRefused
        } else if matches!(status, 502..=504) {
            Says::Trouble { wait: shared.signals.wait_in_trouble(&reply, now) }
        } else {
            Says::Nothing
        };
        leave.learn(shared.signals.quota(&head.headers));
        leave.settle(match says {
            Says::Throttled { wait } => Verdict::Throttled(wait),
            Says::Trouble { wait } => Verdict::Failed(failure(status, wait), wait),
            // Not implemented is an answer, and says nothing of the next call.
            _ if status >= 500 && status != 501 => Verdict::Failed(failure(status, None), None),
            _ => Verdict::Works,
        });
        let token = credential.token().copy();
        if let Some(recall) = recall {
            recall.settle(&token, status, says == Says::Nothing);
        }
        let headers = field::incoming(&head.headers, &token);
        let body = body.map_frame(move |frame| match frame.into_trailers() {
            Ok(trailers) => http_body::Frame::trailers(field::incoming(&trailers, &token)),
            Err(frame) => frame,
        });
        let (body, origin) = (AnswerStream::new(Held::new(body, leave)), Origin::Provider);
        Ok(CallAnswer { status, headers, body, says, origin })
    }
}

/// Where a redirect leads.
fn location<B>(response: &http::Response<B>) -> Option<&str> {
    let is_redirect = matches!(response.status().as_u16(), 301..=303 | 307 | 308);
    response.headers().get(LOCATION).filter(|_| is_redirect)?.to_str().ok()
}

/// Whether a body may go on for ever, a piece now and then: nobody can wait for its beginning to be complete.
fn is_endless(headers: &HeaderMap) -> bool {
    const TYPES: [&str; 4] =
        ["text/event-stream", "multipart/x-mixed-replace", "application/x-ndjson", "application/stream+json"];
    let told =
        headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = told.split(';').next().unwrap_or_default().trim();
    TYPES.iter().any(|endless| essence.eq_ignore_ascii_case(endless))
}

fn failure(status: u16, retry_after: Option<Duration>) -> ProviderError {
    ProviderError::Unavailable { cause: Unsent::Refused(status), retry_after }
}

/// What a failure without an answer says about the API.
fn verdict(error: &Error) -> Verdict {
    match error {
        // A server that is replaced by another one says so, and many calls at once may hear it; and one connection that is
        // not made is one failure, of the call that was making it.
        Error::Provider {
            error: ProviderError::Unavailable { cause: Unsent::GoingAway | Unsent::Unshared, .. },
            ..
        } => Verdict::Nothing,
        Error::Provider { error, .. } => Verdict::Failed(error.clone(), None),
        // The caller's own body broke off, or was too large.
        _ => Verdict::Nothing,
    }
}

impl std::fmt::Debug for ProviderApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProviderApi").field("provider", &self.0.provider).finish_non_exhaustive()
    }
}
