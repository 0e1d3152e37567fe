//! A body on its way to a caller that is kept besides, if it comes to its end and its head turns out to be worth it.
//! Invariant: what is held of bodies under way counts as held by the memory.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::{Freshness, Head, Stored, Ticket};
use crate::error::Error;
use crate::provider::call::{AnswerStream, detached};

/// What there is of an answer.
#[derive(Clone)]
pub(in crate::provider) struct Fill(Arc<Mutex<State>>);

struct State {
    ticket: Arc<Ticket>,
    most: u64,
    /// What came; `None` once it is not to be kept.
    came: Option<Vec<u8>>,
    /// How many bytes it may grow to before there is to be more room.
    reserved: u64,
    is_whole: bool,
    head: Option<(StatusCode, HeaderMap, Freshness)>,
}

impl Fill {
    pub(super) fn new(ticket: Arc<Ticket>, most: u64) -> Self {
        let came = Some(Vec::new());
        Self(Arc::new(Mutex::new(State { ticket, most, came, reserved: 0, is_whole: false, head: None })))
    }

    /// The body, of which this sees every piece.
    pub(in crate::provider) fn watch(&self, body: AnswerStream) -> AnswerStream {
        AnswerStream::new(Watched { body, fill: self.clone() })
    }

    /// The answer is worth keeping, as far as its head says. Without this nothing is kept.
    pub(in crate::provider) fn keep(&self, head: &Head<'_>, credential: &HeaderMap) {
        let mut state = self.state();
        match state.ticket.freshness(head, credential) {
            Some(freshness) => {
                state.head = Some((head.status, detached(head.headers), freshness));
                state.settle();
            }
            None => state.give_up(),
        }
    }

    /// The answer is not to be kept.
    pub(in crate::provider) fn give_up(&self) {
        self.state().give_up();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, piece: &Bytes) {
        let Some(came) = &mut self.came else { return };
        let needed = (came.len() + piece.len()) as u64;
        if needed > self.most {
            self.give_up();
            return;
        }
        if needed > self.reserved {
            // Twice as much, so that a body in small pieces is not copied with each.
            let room = needed.max((2 * self.reserved).min(self.most));
            if !self.ticket.answers.reserve(room - self.reserved) {
                self.give_up();
                return;
            }
            self.reserved = room;
            came.reserve_exact(usize::try_from(room).unwrap_or(usize::MAX) - came.len());
        }
        came.extend_from_slice(piece);
    }

    fn end(&mut self) {
        self.is_whole = true;
        self.settle();
    }

    /// Keeps the answer once both its head and its body are there.
    fn settle(&mut self) {
        if !self.is_whole || self.came.is_none() {
            return;
        }
        let Some((status, headers, freshness)) = self.head.take() else { return };
        let body = Bytes::from(self.came.take().unwrap_or_default().into_boxed_slice());
        self.give_up();
        self.ticket.keep(Stored { status, headers, body, freshness });
    }

    fn give_up(&mut self) {
        self.came = None;
        self.ticket.answers.give_back(std::mem::take(&mut self.reserved));
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.give_up();
    }
}

struct Watched {
    body: AnswerStream,
    fill: Fill,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let is_over = self.body.is_end_stream();
        let mut state = self.fill.state();
        match &polled {
            Poll::Pending => return polled,
            Poll::Ready(None) => state.end(),
            Poll::Ready(Some(Err(_))) => state.give_up(),
            Poll::Ready(Some(Ok(frame))) => match frame.data_ref() {
                Some(piece) => state.add(piece),
                // Trailers are not kept, and an answer that lacks them would be another one.
                None => state.give_up(),
            },
        }
        if is_over {
            state.end();
        }
        drop(state);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
