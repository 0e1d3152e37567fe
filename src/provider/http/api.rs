//! The client for calls at a provider's API: as hardened as the one for its token endpoint, but pooled.
//!
//! Owns connections, HTTP versions and how long a server may be silent or slow. Does not know tokens, rules or what an
//! answer means. Invariant: a request is sent once or not at all, an answer's bytes pass as they come, and a kept
//! connection outlives neither its idle time nor the client that made it.

mod pool;
mod pulse;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use self::pool::{Beginning, Kept, Pool};
pub(in crate::provider) use self::pulse::Pulse;
use self::pulse::{Paced, Pieces, Silent};
use super::resolver::refusal_in;
use super::{HttpClient, is_caused_by, unsent_cause};
use crate::connection::ProviderKey;
use crate::error::{AmbiguousCause, Error, ProviderError, Refusal, Rule, Unsent};
use crate::provider::address::AddressPolicy;
use crate::provider::call::{AnswerStream, CallBody, RequestStream};
use crate::provider::target::AuthorizedTarget;

/// Header fields of an answer, and their bytes; of its trailers the same.
const MOST_FIELDS: usize = 1000;
const MOST_FIELD_BYTES: usize = 64 * 1024;

/// The limit that a server exceeds which does not answer, as a provider's entry spells it.
const HEAD_TIMEOUT: &str = "api.limits.head_timeout";

/// Which part of the time for a head a call waits, at least, before its end says something about the connection: its
/// caller may have less time than that.
const TELLING: u32 = 3;

/// How long a server may take.
#[derive(Clone, Copy, Debug)]
pub(in crate::provider) struct Patience {
    /// From the moment the request is sent, or from the last byte of its body, to the head of the answer. Time in line for a
    /// free HTTP/2 stream is in it.
    pub(in crate::provider) head: Duration,
    /// Between two pieces of a body.
    pub(in crate::provider) idle: Duration,
    /// Between two pieces of a request's body that its sender has not sent yet.
    pub(in crate::provider) stall: Duration,
    /// Bytes a second that an answer brings at least.
    pub(in crate::provider) rate: u64,
    /// Over how much waiting that is looked at.
    pub(in crate::provider) rate_window: Duration,
    /// Bytes of a request's body at most.
    pub(in crate::provider) most_sent: u64,
    /// Bytes of an answer's body at most.
    pub(in crate::provider) most_received: u64,
}

/// The client of one provider's API.
pub(in crate::provider) struct ApiClient {
    provider: ProviderKey,
    patience: Patience,
    addresses: AddressPolicy,
    settled: Pool,
    /// For hosts without TLS, where the entry says that they speak HTTP/2.
    known: Option<Pool>,
}

/// A request whose every part was checked.
pub(in crate::provider) struct ApiRequest<'a> {
    /// Where it goes and with whose token: the one cannot be had without the other.
    pub(in crate::provider) target: &'a AuthorizedTarget,
    /// All header fields but those with the token.
    pub(in crate::provider) headers: HeaderMap,
    pub(in crate::provider) body: CallBody,
}

impl ApiClient {
    /// `is_known`: hosts without TLS speak HTTP/2.
    pub(in crate::provider) fn new(
        provider: ProviderKey,
        patience: Patience,
        http: &HttpClient,
        addresses: AddressPolicy,
        is_known: bool,
    ) -> Self {
        let known = is_known.then(|| Pool::new(http, addresses.clone(), Beginning::PriorKnowledge));
        let settled = Pool::new(http, addresses.clone(), Beginning::Settled);
        Self { provider, patience, addresses, settled, known }
    }

    /// Sends a request once, and answers with the head; the body follows as it comes. `pulse` was made for it, and tells
    /// meanwhile how far it has come.
    pub(in crate::provider) async fn send(
        &self,
        request: ApiRequest<'_>,
        pulse: &Arc<Pulse>,
    ) -> Result<http::Response<AnswerStream>, Error> {
        let target = request.target;
        // No resolver is asked about it.
        if let Some(Err(class)) =
            target.target().literal().map(|literal| self.addresses.check_literal(literal))
        {
            return Err(Refusal::new(Rule::Address, format!("the host is {class}")).into());
        }
        let known = self.known.as_ref().filter(|_| target.url().scheme() == "http");
        let pool = known.unwrap_or(&self.settled);
        let kept = pool.client().ok_or(Error::Internal("no HTTP client could be made"))?;
        let mut headers = request.headers;
        frame(&mut headers, target.method(), &request.body);
        target.sign(&mut headers);
        let most = self.patience.most_sent;
        let body = match request.body {
            CallBody::Empty => {
                pulse.done();
                RequestStream::new(Pieces(Bytes::new()))
            }
            CallBody::Whole(bytes) if bytes.len() as u64 > most => return Err(sent_too_much(most)),
            CallBody::Whole(bytes) => RequestStream::new(Pieces(bytes)),
            CallBody::Stream(stream) => stream,
        };
        let body = reqwest::Body::wrap(Paced::new(body, pulse, most));
        let outgoing =
            kept.client.request(target.method().clone(), target.url().clone()).headers(headers).body(body);
        let mut sending = std::pin::pin!(outgoing.send());
        let telling = self.patience.head / TELLING;
        let origin = target.target().origin();
        let mut waiting =
            Unanswered { pool, kept: &kept, origin: origin.clone(), pulse, telling, is_over: false };
        let response = loop {
            let (until, silent) = pulse.until(&self.patience);
            tokio::select! {
                response = &mut sending => {
                    waiting.is_over = true;
                    break response.map_err(|error| self.failure(&error, pulse, known.is_some()))?;
                }
                () = sleep_until(until) => {
                    // Unless something moved meanwhile.
                    if pulse.until(&self.patience) == (until, silent) {
                        return Err(self.silence(silent, pulse));
                    }
                }
                () = pulse.changed.notified() => {}
            }
        };
        let response: http::Response<reqwest::Body> = response.into();
        kept.heard(origin, response.version());
        if is_too_much(response.headers()) {
            return Err(self.lost(AmbiguousCause::HeadTooLarge));
        }
        Ok(response.map(|body| AnswerStream::new(Guarded::new(body, self.provider.clone(), self.patience))))
    }

    /// `is_known`: HTTP/2 was begun without asking whether the host speaks it.
    fn failure(&self, error: &reqwest::Error, pulse: &Pulse, is_known: bool) -> Error {
        if let Some(ours) = is_caused_by::<Error>(error) {
            return ours.clone();
        }
        if let Some(refusal) = refusal_in(error) {
            return refusal.clone().into();
        }
        let was_canceled = is_caused_by::<hyper::Error>(error).is_some_and(hyper::Error::is_canceled);
        if error.is_connect() || was_canceled {
            let cause = match (was_canceled, is_known) {
                (true, true) => Unsent::ClosedHttp2,
                (true, false) => Unsent::Connect,
                (false, true) if is_another_calls(error) => Unsent::Unshared,
                (false, _) => unsent_cause(error),
            };
            let error = ProviderError::Unavailable { cause, retry_after: None };
            return Error::Provider { provider: self.provider.clone(), error };
        }
        if let Some(cause) = is_caused_by(error).and_then(unprocessed) {
            let error = ProviderError::Unavailable { cause, retry_after: None };
            return Error::Provider { provider: self.provider.clone(), error };
        }
        if pulse.withdraw() {
            let cause = if is_known { Unsent::ClosedHttp2 } else { unsent_cause(error) };
            let error = ProviderError::Unavailable { cause, retry_after: None };
            return Error::Provider { provider: self.provider.clone(), error };
        }
        let is_too_large = is_caused_by::<hyper::Error>(error).is_some_and(hyper::Error::is_parse_too_large);
        // The library resets single streams only of what it could read.
        let has_spoken =
            is_caused_by(error).is_some_and(|cause: &h2::Error| cause.is_remote() || cause.is_reset());
        self.lost(match (is_too_large, error.is_timeout()) {
            (true, _) => AmbiguousCause::HeadTooLarge,
            (false, true) => AmbiguousCause::Timeout,
            (false, false) if is_known && !has_spoken => AmbiguousCause::ResetHttp2,
            (false, false) => AmbiguousCause::Reset,
        })
    }

    fn silence(&self, silent: Silent, pulse: &Pulse) -> Error {
        match silent {
            Silent::Provider if pulse.withdraw() => Error::unsent_in_time(&self.provider, HEAD_TIMEOUT),
            Silent::Provider => Error::out_of_time(&self.provider, HEAD_TIMEOUT),
            Silent::Sender => Error::stalled("none came", self.patience.stall),
        }
    }

    fn lost(&self, cause: AmbiguousCause) -> Error {
        lost(&self.provider, cause)
    }
}

/// A call that waits for the head of its answer. Ended without one, by its own time or by its caller's, it leaves a
/// connection behind that the next call does not get: the other side may have vanished without a word. Unless others are
/// answered all the while: then it is this call alone that has no answer.
struct Unanswered<'a> {
    pool: &'a Pool,
    kept: &'a Kept,
    origin: Arc<str>,
    pulse: &'a Pulse,
    telling: Duration,
    /// There is an answer, or a failure of the connection's own.
    is_over: bool,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let Some(silence) = self.pulse.silence().filter(|silence| *silence >= self.telling) else { return };
        if !self.is_over && self.pulse.is_taken() {
            self.pool.distrust(self.kept, &self.origin, silence);
        }
    }
}

/// Says where a body ends where the HTTP library would not: it takes GET and HEAD of unknown length for bodiless and drops
/// what comes, and sends no length of 0, which some servers want with methods that have a use for a body (RFC 9110
/// section 8.6). Over HTTP/2, where a frame ends it, the library leaves `transfer-encoding` out.
fn frame(headers: &mut HeaderMap, method: &Method, body: &CallBody) {
    match body {
        CallBody::Empty if [Method::POST, Method::PUT, Method::PATCH].contains(method) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        CallBody::Stream(stream) if stream.size_hint().exact().is_none() => {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        CallBody::Empty | CallBody::Whole(_) | CallBody::Stream(_) => {}
    }
}

/// Whether these are more header fields than are handed on.
fn is_too_much(fields: &HeaderMap) -> bool {
    let bytes: usize = fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    fields.len() > MOST_FIELDS || bytes > MOST_FIELD_BYTES
}

/// What the server itself says it has not processed. The h2 crate gives a GOAWAY to no request but those beyond the last
/// stream it names, and to those that it did not send.
fn unprocessed(error: &h2::Error) -> Option<Unsent> {
    let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    match error.is_remote() {
        true if is_refused => Some(Unsent::GivenBack),
        true if error.is_go_away() => Some(Unsent::GoingAway),
        _ => None,
    }
}

/// Whether it was another call that was making the connection, and ended: there is one for all, and those who wait for it
/// are told nothing else. What fails by itself has a cause of the system's, or of the resolver's.
fn is_another_calls(error: &reqwest::Error) -> bool {
    !error.is_timeout() && !error.is_dns() && is_caused_by::<std::io::Error>(error).is_none()
}

fn sent_too_much(most: u64) -> Error {
    Error::BodyTooLarge { limit: "api.limits.max_request_bytes", most }
}

fn lost(provider: &ProviderKey, cause: AmbiguousCause) -> Error {
    Error::Provider { provider: provider.clone(), error: ProviderError::Ambiguous { cause } }
}

/// An answer's body that ends where its server is silent, too slow, or does not end.
struct Guarded {
    body: reqwest::Body,
    provider: ProviderKey,
    patience: Patience,
    received: u64,
    /// Set while the server is waited for.
    timer: Option<Pin<Box<Sleep>>>,
    waits_since: Instant,
    /// What was waited and what came since the rate was last looked at.
    waited: Duration,
    came: u64,
}

impl Guarded {
    fn new(body: reqwest::Body, provider: ProviderKey, patience: Patience) -> Self {
        Self {
            body,
            provider,
            patience,
            received: 0,
            timer: None,
            waits_since: Instant::now(),
            waited: Duration::ZERO,
            came: 0,
        }
    }

    /// Counts what came, and the time for which it was waited. Time in which nobody asked for more is not the server's.
    fn count(&mut self, length: u64) -> Result<(), Error> {
        if self.timer.take().is_some() {
            self.waited += self.waits_since.elapsed();
        }
        self.received += length;
        self.came += length;
        if self.received > self.patience.most_received {
            let most = self.patience.most_received;
            return Err(Error::BodyTooLarge { limit: "api.limits.max_response_bytes", most });
        }
        if self.waited >= self.patience.rate_window {
            if u128::from(self.came) * 1000 < u128::from(self.patience.rate) * self.waited.as_millis() {
                return Err(lost(&self.provider, AmbiguousCause::TooSlow));
            }
            (self.waited, self.came) = (Duration::ZERO, 0);
        }
        Ok(())
    }

    fn failure(&self, error: &reqwest::Error) -> Error {
        let cause = if error.is_timeout() { AmbiguousCause::Timeout } else { AmbiguousCause::Reset };
        lost(&self.provider, cause)
    }
}

impl Body for Guarded {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(polled) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(match polled {
                None => None,
                Some(Err(error)) => Some(Err(self.failure(&error))),
                Some(Ok(frame)) if frame.trailers_ref().is_some_and(is_too_much) => {
                    Some(Err(lost(&self.provider, AmbiguousCause::HeadTooLarge)))
                }
                Some(Ok(frame)) => {
                    let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                    Some(self.count(length).map(|()| frame))
                }
            });
        }
        let idle = self.patience.idle;
        if self.timer.is_none() {
            self.waits_since = Instant::now();
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Some(Err(Error::out_of_time(&self.provider, "api.limits.idle_timeout"))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
