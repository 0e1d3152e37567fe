//! Faults as data: what may go wrong with one request. Owns the vocabulary and the gate at which a request waits. Does not
//! know HTTP bodies being written (that is [`super::fate`]) nor which request is met (that is [`super::script`]).
//! Invariant: a fault says apart whether the request takes effect and what the client gets, because a lost answer and
//! a lost request look the same from outside and are not.

use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use bytes::Bytes;
use tokio::sync::watch;

use crate::clock::Timestamp;

/// What befalls one request. Built from one of the constructors, refined by the methods.
#[derive(Clone, Debug)]
pub struct Fault {
    pub(super) name: &'static str,
    /// Whether the request takes effect: a rotation is committed, a code is used up.
    pub(super) is_processed: bool,
    pub(super) before: Wait,
    pub(super) after: Wait,
    pub(super) answer: Answer,
}

/// What a request waits for.
#[derive(Clone, Debug)]
pub(super) enum Wait {
    Nothing,
    Span(Duration),
    Gate(Gate),
}

/// What the client gets.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// What the endpoint said.
    Genuine,
    /// Not a byte; the connection is closed.
    Nothing,
    /// Something else.
    Made { status: StatusCode, headers: Vec<(HeaderName, HeaderValue)>, body: Bytes },
    /// The genuine head, and a body of no bytes.
    Empty,
    /// The genuine head, and half the body as if it were all.
    Truncated,
    /// The genuine head, which promises the whole body; half of it, and the connection is closed.
    Cut,
    /// The genuine answer, a byte at a time.
    Trickled(Duration),
    /// A JSON body that goes on for so many bytes.
    Huge(u64),
}

impl Fault {
    /// The request is read and forgotten, the connection closed without a byte: the request was lost.
    pub fn drop_request() -> Self {
        Self { is_processed: false, ..Self::new("drop_request", Answer::Nothing) }
    }

    /// The request takes effect, the connection is closed without a byte: the answer was lost.
    pub fn drop_answer() -> Self {
        Self::new("drop_answer", Answer::Nothing)
    }

    /// The request takes effect only after `span`.
    pub fn delay_request(span: Duration) -> Self {
        Self { before: Wait::Span(span), ..Self::new("delay_request", Answer::Genuine) }
    }

    /// The request takes effect at once and is answered after `span`.
    pub fn delay_answer(span: Duration) -> Self {
        Self { after: Wait::Span(span), ..Self::new("delay_answer", Answer::Genuine) }
    }

    /// An answer with this status and an empty body, without effect. A status that HTTP does not know becomes 500.
    pub fn status(status: u16) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let answer = Answer::Made { status, headers: Vec::new(), body: Bytes::new() };
        Self { is_processed: false, ..Self::new("status", answer) }
    }

    /// A proxy's HTML page with this status, without effect.
    pub fn html(status: u16) -> Self {
        let page = "<!doctype html><title>Sorry</title><h1>Something went wrong</h1><p>Please try again.";
        Self { name: "html", ..Self::status(status).body("text/html; charset=utf-8", page) }
    }

    /// An OAuth error (RFC 6749 section 5.2), without effect: 401 for `invalid_client`, else 400.
    pub fn oauth_error(code: &str) -> Self {
        let status = if code == "invalid_client" { 401 } else { 400 };
        let body = serde_json::json!({ "error": code }).to_string();
        Self { name: "oauth_error", ..Self::status(status).body("application/json", body) }
    }

    /// A redirect with this status, without effect. A client that follows a 307 sends its refresh token there.
    pub fn redirect(status: u16, location: &str) -> Self {
        Self { name: "redirect", ..Self::status(status).header(LOCATION, location) }
    }

    /// The genuine status and headers with an empty body. The request takes effect.
    pub fn empty() -> Self {
        Self::new("empty", Answer::Empty)
    }

    /// The first half of the genuine body as a complete answer. The request takes effect.
    pub fn truncated() -> Self {
        Self::new("truncated", Answer::Truncated)
    }

    /// The genuine head and the first half of the body, then the connection is closed. The request takes effect.
    pub fn cut() -> Self {
        Self::new("cut", Answer::Cut)
    }

    /// The genuine answer, one byte every `interval`. The request takes effect.
    pub fn trickle(interval: Duration) -> Self {
        Self::new("trickle", Answer::Trickled(interval))
    }

    /// A 200 whose JSON body goes on for `bytes`, made as it is sent. The request takes effect.
    pub fn huge(bytes: u64) -> Self {
        Self::new("huge", Answer::Huge(bytes))
    }

    /// The same, but the request takes effect first: a proxy's 502 after the server had rotated.
    #[must_use]
    pub fn after_processing(self) -> Self {
        Self { is_processed: true, ..self }
    }

    /// The same, but the request takes no effect.
    #[must_use]
    pub fn without_processing(self) -> Self {
        Self { is_processed: false, ..self }
    }

    /// Adds a header to a made answer. One that HTTP cannot carry is left out.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let (Answer::Made { headers, .. }, Ok(value)) = (&mut self.answer, HeaderValue::from_str(value)) {
            headers.push((name, value));
        }
        self
    }

    /// Gives a made answer a body.
    #[must_use]
    pub fn body(mut self, content_type: &str, content: impl Into<Bytes>) -> Self {
        if let Answer::Made { body, .. } = &mut self.answer {
            *body = content.into();
        }
        self.header(CONTENT_TYPE, content_type)
    }

    /// `Retry-After` in whole seconds.
    #[must_use]
    pub fn retry_after(self, span: Duration) -> Self {
        self.header(RETRY_AFTER, &span.as_secs().to_string())
    }

    /// `Retry-After` as an HTTP date (RFC 9110 section 5.6.7).
    #[must_use]
    pub fn retry_after_at(self, instant: Timestamp) -> Self {
        match http_date(instant) {
            Some(date) => self.header(RETRY_AFTER, &date),
            None => self,
        }
    }

    /// Nothing goes wrong.
    pub(super) fn none() -> Self {
        Self::new("none", Answer::Genuine)
    }

    fn new(name: &'static str, answer: Answer) -> Self {
        Self { name, is_processed: true, before: Wait::Nothing, after: Wait::Nothing, answer }
    }

    pub(super) fn held_before(gate: Gate) -> Self {
        Self { before: Wait::Gate(gate), ..Self::new("hold_request", Answer::Genuine) }
    }

    pub(super) fn held_after(gate: Gate) -> Self {
        Self { after: Wait::Gate(gate), ..Self::new("hold_answer", Answer::Genuine) }
    }
}

fn http_date(instant: Timestamp) -> Option<String> {
    let instant = jiff::Timestamp::from_millisecond(instant.as_millis()).ok()?;
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&instant).ok()
}

impl Wait {
    pub(super) async fn over(&mut self) {
        match self {
            Self::Nothing => {}
            Self::Span(span) => tokio::time::sleep(*span).await,
            Self::Gate(gate) => gate.pass().await,
        }
    }
}

/// The server's side of a [`Hold`].
#[derive(Clone, Debug)]
pub(super) struct Gate {
    waiting: Arc<watch::Sender<usize>>,
    released: watch::Receiver<()>,
}

impl Gate {
    pub(super) fn new() -> (Self, Hold) {
        let (release, released) = watch::channel(());
        let (waiting, arrived) = watch::channel(0);
        (Self { waiting: Arc::new(waiting), released }, Hold { arrived, _release: release })
    }

    async fn pass(&mut self) {
        self.waiting.send_modify(|count| *count += 1);
        // Nothing is ever sent: the channel ends when the hold is dropped.
        while self.released.changed().await.is_ok() {}
    }
}

/// Holds requests at one point until it is released or dropped.
#[derive(Debug)]
#[must_use = "dropping it releases the requests"]
pub struct Hold {
    arrived: watch::Receiver<usize>,
    _release: watch::Sender<()>,
}

impl Hold {
    /// Waits until `count` requests have come to the held point. The caller brings the timeout. Returns at once
    /// when no request can come any more.
    pub async fn reached(&mut self, count: usize) {
        // An error means that the rule and every request under it are gone.
        let _ = self.arrived.wait_for(|arrived| *arrived >= count).await;
    }

    /// Lets the held requests go on, and those to come pass.
    pub fn release(self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_date_is_written_as_http_wants_it() {
        let fault = Fault::status(503).retry_after_at(Timestamp::from_millis(784_111_777_000));
        let Answer::Made { headers, .. } = fault.answer else { panic!("a made answer") };
        assert_eq!(headers, [(RETRY_AFTER, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"))]);
    }

    #[test]
    fn a_lost_answer_takes_effect_and_a_lost_request_does_not() {
        assert!(Fault::drop_answer().is_processed);
        assert!(!Fault::drop_request().is_processed);
        assert!(!Fault::html(502).is_processed);
        assert!(Fault::html(502).after_processing().is_processed);
    }

    #[tokio::test]
    async fn a_hold_lets_go_when_it_is_dropped() {
        let (mut gate, mut hold) = Gate::new();
        let held = tokio::spawn(async move { gate.pass().await });
        hold.reached(1).await;
        assert!(!held.is_finished());
        hold.release();
        held.await.unwrap();
    }
}
