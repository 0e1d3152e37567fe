//! One call's dealings with the memory of answers: what is there for it, whether that is still good, and what it leaves.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, SET_COOKIE};
use http::response::Parts;
use http::{HeaderMap, Response, StatusCode};

use crate::clock::Timestamp;
use crate::connection::AccessToken;
use crate::provider::cache::{Fill, Found, Head, Stored, Ticket};
use crate::provider::call::{AnswerStream, Origin};
use crate::provider::field;
use crate::provider::target::AuthorizedTarget;

/// A call that may be answered from memory.
pub(super) struct Recall {
    ticket: Arc<Ticket>,
    /// The fields with the token: an answer may vary by them.
    credential: HeaderMap,
    /// What the provider is asked about.
    doubted: Option<Arc<Stored>>,
    sent_at: Timestamp,
    filling: Option<Filling>,
}

/// An answer that is watched as it comes, and its head before anything was taken out of it.
struct Filling {
    fill: Fill,
    status: StatusCode,
    headers: HeaderMap,
    came_at: Timestamp,
}

/// An answer from memory.
pub(super) struct Remembered {
    pub(super) head: Parts,
    pub(super) body: Bytes,
    pub(super) origin: Origin,
}

impl Remembered {
    fn new(stored: &Stored, headers: HeaderMap, origin: Origin) -> Self {
        let (mut head, ()) = Response::new(()).into_parts();
        (head.status, head.headers) = (stored.status(), headers);
        Self { head, body: stored.body(), origin }
    }
}

impl Recall {
    pub(super) fn new(ticket: Arc<Ticket>, authorized: &AuthorizedTarget) -> Self {
        let mut credential = HeaderMap::new();
        authorized.sign(&mut credential);
        let sent_at = Timestamp::from_millis(0);
        Self { ticket, credential, doubted: None, sent_at, filling: None }
    }

    /// What can be given without asking anybody.
    pub(super) fn found(&mut self, now: Timestamp) -> Option<Remembered> {
        match self.ticket.look(&self.credential, now) {
            Found::Fresh(stored, headers) => Some(Remembered::new(&stored, headers, Origin::Cache)),
            Found::Stale(stored) => {
                self.doubted = Some(stored);
                None
            }
            Found::Nothing => None,
        }
    }

    /// The request leaves now; the provider is asked whether what is there is still good.
    pub(super) fn ask(&mut self, headers: &mut HeaderMap, now: Timestamp) {
        self.sent_at = now;
        headers.extend(self.doubted.iter().flat_map(|stored| stored.conditions()));
    }

    /// Whether that question is what was answered.
    pub(super) fn is_answered_by<B>(&self, response: &Response<B>) -> bool {
        self.doubted.is_some() && response.status() == StatusCode::NOT_MODIFIED
    }

    /// What is there, if it is still good. Otherwise it is asked for without a condition next.
    pub(super) fn renewed<B>(
        &mut self,
        response: &Response<B>,
        token: &AccessToken,
        now: Timestamp,
    ) -> Option<Remembered> {
        let stored = self.doubted.take()?;
        let headers = field::incoming(response.headers(), token);
        let status = response.status();
        let head = Head { status, headers: &headers, sent_at: self.sent_at, came_at: now };
        let may_be_kept = !sets_cookies(response.headers());
        let headers = self.ticket.renew(&stored, &head, &self.credential, may_be_kept)?;
        Some(Remembered::new(&stored, headers, Origin::Revalidated))
    }

    /// The body of an answer that may be worth keeping, watched.
    pub(super) fn watch(&mut self, head: &Parts, body: AnswerStream, now: Timestamp) -> AnswerStream {
        let length = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if sets_cookies(&head.headers) {
            return body;
        }
        let Some(fill) = self.ticket.fill(length) else { return body };
        let body = fill.watch(body);
        let (status, headers) = (head.status, head.headers.clone());
        self.filling = Some(Filling { fill, status, headers, came_at: now });
        body
    }

    /// An answer that means nothing beyond itself is kept if its fields allow it.
    pub(super) fn settle(self, token: &AccessToken, status: u16, may_be_kept: bool) {
        if may_be_kept && status < 300 {
            self.ticket.supersede();
        }
        let Some(Filling { fill, status, headers, came_at }) = self.filling else { return };
        if !may_be_kept {
            fill.give_up();
            return;
        }
        let headers = field::incoming(&headers, token);
        fill.keep(&Head { status, headers: &headers, sent_at: self.sent_at, came_at }, &self.credential);
    }
}

fn sets_cookies(headers: &HeaderMap) -> bool {
    headers.contains_key(SET_COOKIE) || headers.contains_key("set-cookie2")
}
