//! Bodies of answers: one whose beginning was looked at, and one that keeps its call's place until it ends.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;

use super::turn::Leave;
use crate::error::Error;
use crate::provider::call::AnswerStream;

/// Reads up to `limit` bytes of a body, and gives it back whole.
pub(super) async fn peeked(mut body: AnswerStream, limit: usize) -> (Bytes, AnswerStream) {
    let mut beginning = BytesMut::new();
    let mut frames = VecDeque::new();
    while beginning.len() < limit {
        let Some(frame) = body.frame().await else { break };
        if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref) {
            beginning.extend_from_slice(data);
        }
        let is_broken = frame.is_err();
        frames.push_back(frame);
        if is_broken {
            break;
        }
    }
    (beginning.freeze(), AnswerStream::new(Peeked { frames, body }))
}

struct Peeked {
    frames: VecDeque<Result<Frame<Bytes>, Error>>,
    body: AnswerStream,
}

impl Body for Peeked {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Pin::new(&mut self.body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // What was taken out is not in the body's own hint.
        let held: usize = self.frames.iter().flatten().filter_map(Frame::data_ref).map(Bytes::len).sum();
        let mut hint = self.body.size_hint();
        let held = held as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + held);
        }
        hint.set_lower(hint.lower() + held);
        hint
    }
}

/// A body that keeps its call's place among those under way until it ends or is dropped.
pub(super) struct Held<B> {
    body: B,
    leave: Option<Leave>,
}

impl<B> Held<B> {
    pub(super) fn new(body: B, leave: Leave) -> Self {
        Self { body, leave: Some(leave) }
    }
}

impl<B: Body<Data = Bytes, Error = Error> + Unpin> Body for Held<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.leave = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
