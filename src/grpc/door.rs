//! From an HTTP request to the service it is for. Owns the order: who calls, by what way, which service, within which
//! deadline; and puts our words in place of those that the gRPC library has for oversized and unreadable messages.
//!
//! The one RPC that matters for speed is asked without a router and without a lookup in the request's extensions.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service as _};
use tonic::service::Routes;
use tonic::{Code, Status};

use super::call::{Call, given_id};
use super::caller::{self, Caller, Names};
use super::lasting::{Lasting, is_lasting};
use super::proto::v1::token_broker_service_server::{SERVICE_NAME, TokenBrokerServiceServer};
use super::status::About;
use super::token_broker::TokenBroker;
use super::{Limits, Parts};
use crate::error::{Error, Reason};

/// What all connections of a door share.
pub(super) struct Shared {
    pub(super) parts: Arc<Parts>,
    pub(super) names: Names,
    pub(super) limits: Limits,
    /// Whether `TokenBrokerService` is served here.
    pub(super) has_tokens: bool,
    /// Every service but that.
    pub(super) routes: Routes,
    /// Done when the door closes and whoever watches health has been told.
    pub(super) farewell: CancellationToken,
}

/// A door as one connection finds it.
#[derive(Clone)]
pub(super) struct Desk {
    shared: Arc<Shared>,
    caller: Result<Caller, Error>,
    tokens: Option<TokenBrokerServiceServer<TokenBroker>>,
}

impl Desk {
    /// A desk for whoever just connected. Where the caller is nobody, every request is told so.
    pub(super) fn new(shared: Arc<Shared>, caller: Result<Caller, Error>) -> Self {
        let tokens = caller.as_ref().ok().filter(|_| shared.has_tokens).map(|caller| {
            TokenBrokerServiceServer::new(TokenBroker { parts: shared.parts.clone(), caller: *caller })
                .max_decoding_message_size(shared.limits.message_bytes)
        });
        Self { shared, caller, tokens }
    }

    fn admit(&self, request: &http::request::Parts) -> Result<Caller, Error> {
        let caller = self.caller.clone()?;
        caller::check(request, &self.shared.names)?;
        Ok(caller)
    }

    fn ask(&self, request: Request<Incoming>, caller: Caller) -> BoxFuture<Response<Body>, Infallible> {
        if let Some(tokens) = &self.tokens
            && is_of_service(request.uri().path(), SERVICE_NAME)
        {
            return tokens.clone().call(request);
        }
        let mut request = request;
        request.extensions_mut().insert(caller);
        let mut routes = self.shared.routes.clone();
        let farewell = is_lasting(request.uri().path()).then(|| self.shared.farewell.clone());
        Box::pin(async move {
            let response = routes.call(request).await?;
            Ok(match farewell {
                Some(farewell) => response.map(|answer| Body::new(Lasting::new(answer, farewell))),
                None => response,
            })
        })
    }

    /// The answer to a request that never reaches a service.
    fn refuse(&self, request: &http::request::Parts, error: &Error) -> Response<Body> {
        let call = Call::unseen(
            &self.shared.parts,
            request.uri.path(),
            self.caller.as_ref().ok().copied(),
            given_id(&request.headers),
        );
        let mut response = call.refuse(About::default(), error).into_http();
        if error.reason() == Reason::InvalidRequest {
            // Not gRPC at all: what the protocol says such a client gets, with the words for those who look.
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        }
        response
    }
}

impl hyper::service::Service<Request<Incoming>> for Desk {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Serving;

    fn call(&self, request: Request<Incoming>) -> Serving {
        let (head, body) = request.into_parts();
        let caller = match self.admit(&head) {
            Ok(caller) => caller,
            Err(error) => return Serving::Refused(Some(self.refuse(&head, &error))),
        };
        let asked = Asked {
            shared: self.shared.clone(),
            caller,
            path: head.uri.path_and_query().cloned(),
            id: given_id(&head.headers).cloned(),
        };
        let deadline = deadline(&head.headers).map(|span| Instant::now() + span);
        let work = self.ask(Request::from_parts(head, body), caller);
        Serving::Working { work, asked, deadline, timer: None }
    }
}

/// What is remembered of a request while a service has it.
pub(super) struct Asked {
    shared: Arc<Shared>,
    caller: Caller,
    path: Option<PathAndQuery>,
    id: Option<HeaderValue>,
}

/// A request under way.
pub(super) enum Serving {
    Refused(Option<Response<Body>>),
    Working {
        work: BoxFuture<Response<Body>, Infallible>,
        asked: Asked,
        /// Before any that the service itself sets for the same span.
        deadline: Option<Instant>,
        /// Set when the answer was not there at once: a hit needs none.
        timer: Option<Pin<Box<Sleep>>>,
    },
}

impl Future for Serving {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Refused(response) => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                None => Poll::Pending,
            },
            Self::Working { work, asked, deadline, timer } => {
                // First, so that a deadline is told as one, whatever the service makes of it.
                if timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready()) {
                    return Poll::Ready(Ok(asked.too_late()));
                }
                if let Poll::Ready(Ok(response)) = work.as_mut().poll(cx) {
                    return Poll::Ready(Ok(asked.settle(response)));
                }
                let Some(deadline) = *deadline else { return Poll::Pending };
                let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
                timer.as_mut().poll(cx).map(|()| Ok(asked.too_late()))
            }
        }
    }
}

impl Asked {
    /// The service's answer, or ours where it was the library that refused: an oversized message is OUT_OF_RANGE to it,
    /// an unreadable one its own INTERNAL error.
    fn settle(&self, response: Response<Body>) -> Response<Body> {
        let Some(status) = response.extensions().get::<Status>().filter(|status| status.details().is_empty())
        else {
            return response;
        };
        let limit_bytes = self.shared.limits.message_bytes as u64;
        let error = match status.code() {
            Code::OutOfRange => Error::MessageTooLarge { limit_bytes },
            Code::Internal => Error::invalid("message", "cannot be read as the request of this RPC"),
            _ => return response,
        };
        self.call().refuse(About::default(), &error).into_http()
    }

    /// The caller's own deadline has passed. What was begun for it goes on, and the next one who asks has it.
    fn too_late(&self) -> Response<Body> {
        let status = Status::deadline_exceeded("the caller's deadline passed before there was an answer");
        self.call().bare(status).into_http()
    }

    fn call(&self) -> Call<'_> {
        let path = self.path.as_ref().map_or("", PathAndQuery::path);
        let rpc = path.rsplit_once('/').map_or(path, |(_, rpc)| rpc);
        Call::unseen(&self.shared.parts, rpc, Some(self.caller), self.id.as_ref())
    }
}

fn is_of_service(path: &str, service: &str) -> bool {
    path.strip_prefix('/')
        .and_then(|path| path.strip_prefix(service))
        .is_some_and(|rest| rest.starts_with('/'))
}

/// `grpc-timeout`: at most eight digits and a unit (PROTOCOL-HTTP2 of gRPC). What is malformed is no deadline.
pub(super) fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_read_as_grpc_writes_it() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_str(value).unwrap());
            deadline(&headers)
        };
        assert_eq!(read("5S"), Some(Duration::from_secs(5)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for malformed in ["", "S", "5", "5s", "-5S", "123456789S", "5 S"] {
            assert_eq!(read(malformed), None, "{malformed:?}");
        }
        assert_eq!(deadline(&HeaderMap::new()), None);
    }

    #[test]
    fn a_path_belongs_to_a_service_by_its_whole_name() {
        assert!(is_of_service("/tokenbroker.v1.TokenBrokerService/GetAccessToken", SERVICE_NAME));
        assert!(!is_of_service("/tokenbroker.v1.TokenBrokerServiceX/GetAccessToken", SERVICE_NAME));
        assert!(!is_of_service("/tokenbroker.v1.TokenBrokerService", SERVICE_NAME));
    }
}
