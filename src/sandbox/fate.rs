//! What the client gets of an answer. Owns the bodies that break off, trickle or never end. Does not know why. Invariant:
//! the ticket stays with the body until its last byte or its reader has gone.

use std::io;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{self, Stream};

use super::call::Reply;
use super::fault::Answer;
use super::log::Ticket;
use super::record::{Delivery, Effect};

/// Bytes of a huge body made at a time.
const CHUNK: usize = 16 * 1024;

/// Marks a response that must not be sent: the connection is closed instead.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unanswered;

/// Turns an endpoint's reply into what the fault lets through. There is no reply when nothing was processed.
pub(super) fn answered(reply: Option<Reply>, answer: Answer, ticket: Ticket) -> Response {
    let response = match (answer, reply) {
        (Answer::Made { status, headers, body }, _) => {
            Reply { status, headers, body, effect: Effect::Served }.into_response()
        }
        (Answer::Huge(bytes), _) => {
            let json = HeaderValue::from_static("application/json");
            let head = Reply {
                status: StatusCode::OK,
                headers: vec![(CONTENT_TYPE, json)],
                body: Bytes::new(),
                effect: Effect::Served,
            };
            streamed(head, bytes, huge(bytes, ticket.clone()))
        }
        (Answer::Genuine, Some(reply)) => reply.into_response(),
        (Answer::Empty, Some(reply)) => Reply { body: Bytes::new(), ..reply }.into_response(),
        (Answer::Truncated, Some(reply)) => Reply { body: first_half(&reply.body), ..reply }.into_response(),
        (Answer::Cut, Some(reply)) => {
            let body = cut(first_half(&reply.body), ticket.clone());
            let promised = reply.body.len() as u64;
            streamed(reply, promised, body)
        }
        (Answer::Trickled(interval), Some(reply)) => {
            let body = trickled(reply.body.clone(), interval, ticket.clone());
            let promised = reply.body.len() as u64;
            streamed(reply, promised, body)
        }
        (Answer::Nothing, _)
        | (Answer::Genuine | Answer::Empty | Answer::Truncated | Answer::Cut | Answer::Trickled(_), None) => {
            return unanswered(&ticket);
        }
    };
    ticket.delivered(Delivery::Sent { status: response.status().as_u16() });
    response
}

/// Nothing: the connection is closed without a byte.
pub(super) fn unanswered(ticket: &Ticket) -> Response {
    ticket.delivered(Delivery::Dropped);
    (StatusCode::INTERNAL_SERVER_ERROR, Extension(Unanswered)).into_response()
}

/// The reply's head, promising `length` bytes, with this body.
fn streamed<S>(reply: Reply, length: u64, body: S) -> Response
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let mut response = Reply { body: Bytes::new(), ..reply }.into_response();
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    *response.body_mut() = Body::from_stream(body);
    response
}

fn first_half(body: &Bytes) -> Bytes {
    body.slice(..body.len() / 2)
}

/// `half`, and then a failure that closes the connection.
fn cut(half: Bytes, ticket: Ticket) -> impl Stream<Item = io::Result<Bytes>> {
    stream::unfold((Some(half), ticket), |(half, ticket)| async move {
        match half {
            Some(half) => Some((Ok(half), (None, ticket))),
            None => {
                // hyper flushes what it has only when the body has nothing for it just now.
                tokio::task::yield_now().await;
                Some((Err(io::Error::from(io::ErrorKind::ConnectionAborted)), (None, ticket)))
            }
        }
    })
}

/// One byte of `bytes` every `interval`.
fn trickled(bytes: Bytes, interval: Duration, ticket: Ticket) -> impl Stream<Item = io::Result<Bytes>> {
    stream::unfold((bytes, ticket), move |(mut bytes, ticket)| async move {
        if bytes.is_empty() {
            return None;
        }
        tokio::time::sleep(interval).await;
        Some((Ok(bytes.split_to(1)), (bytes, ticket)))
    })
}

/// A JSON string of `length` bytes that never closes, made a chunk at a time.
fn huge(length: u64, ticket: Ticket) -> impl Stream<Item = io::Result<Bytes>> {
    const OPENING: &[u8] = br#"{"access_token":""#;
    stream::unfold((0, ticket), move |(sent, ticket)| async move {
        let chunk = if sent == 0 { Bytes::from_static(OPENING) } else { Bytes::from_static(&[b'a'; CHUNK]) };
        let left = usize::try_from(length.saturating_sub(sent)).unwrap_or(usize::MAX);
        let chunk = chunk.slice(..chunk.len().min(left));
        (!chunk.is_empty()).then(|| {
            let sent = sent + chunk.len() as u64;
            (Ok(chunk), (sent, ticket))
        })
    })
}
