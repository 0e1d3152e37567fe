//! A request body that can be sent again as long as nothing of it is gone.
//!
//! Knows no HTTP. Invariant: of all that were lent out, only the last one yields anything, and none is lent after the
//! first byte was taken.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::error::Error;
use crate::provider::call::{CallBody, RequestStream};

/// Where the body of each attempt comes from.
pub(super) enum Source {
    Empty,
    Whole(Bytes),
    Stream(Arc<Mutex<Shared>>),
}

pub(super) struct Shared {
    stream: RequestStream,
    /// Who may read: the last who was lent to.
    lent_to: u64,
    was_taken: bool,
}

impl Source {
    pub(super) fn new(body: CallBody) -> Self {
        match body {
            CallBody::Empty => Self::Empty,
            CallBody::Whole(bytes) => Self::Whole(bytes),
            CallBody::Stream(stream) => {
                Self::Stream(Arc::new(Mutex::new(Shared { stream, lent_to: 0, was_taken: false })))
            }
        }
    }

    /// The body for one more attempt; `None` once a part of it has gone out.
    pub(super) fn lend(&self) -> Option<CallBody> {
        Some(match self {
            Self::Empty => CallBody::Empty,
            Self::Whole(bytes) => CallBody::Whole(bytes.clone()),
            Self::Stream(shared) => {
                let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
                if state.was_taken {
                    return None;
                }
                state.lent_to += 1;
                let lent = Lent { shared: shared.clone(), number: state.lent_to };
                CallBody::Stream(RequestStream::new(lent))
            }
        })
    }

    /// Whether [`Source::lend`] would lend.
    pub(super) fn is_whole(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(_) => true,
            Self::Stream(shared) => !shared.lock().unwrap_or_else(PoisonError::into_inner).was_taken,
        }
    }
}

struct Lent {
    shared: Arc<Mutex<Shared>>,
    number: u64,
}

impl Body for Lent {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut state = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if state.lent_to != self.number {
            return Poll::Ready(Some(Err(Error::Internal("a body was read that is needed elsewhere"))));
        }
        let polled = Pin::new(&mut state.stream).poll_frame(cx);
        state.was_taken |= polled.is_ready();
        polled
    }

    fn size_hint(&self) -> SizeHint {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).stream.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::sync::mpsc;

    use super::*;

    fn stream(receiver: mpsc::Receiver<Bytes>) -> RequestStream {
        let chunks = futures_util::stream::unfold(receiver, |mut receiver| async {
            let chunk = receiver.recv().await?;
            Some((Ok(Frame::data(chunk)), receiver))
        });
        RequestStream::new(StreamBody::new(chunks))
    }

    fn body(lent: Option<CallBody>) -> RequestStream {
        match lent {
            Some(CallBody::Stream(stream)) => stream,
            other => panic!("{other:?} is no stream"),
        }
    }

    #[tokio::test]
    async fn a_stream_is_lent_until_its_first_byte_is_gone() {
        let (sender, receiver) = mpsc::channel(1);
        let source = Source::new(CallBody::Stream(stream(receiver)));
        let mut first = body(source.lend());
        assert!(futures_util::poll!(first.frame()).is_pending(), "nothing has come yet");
        let mut second = body(source.lend());
        sender.send(Bytes::from_static(b"a")).await.unwrap();
        assert!(first.frame().await.unwrap().is_err(), "only the last one lent yields anything");
        assert!(source.is_whole());
        assert_eq!(second.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        assert!(source.lend().is_none());
    }

    #[test]
    fn bytes_in_memory_are_lent_again_and_again() {
        let source = Source::new(CallBody::Whole(Bytes::from_static(b"abc")));
        for _ in 0..3 {
            assert!(matches!(source.lend(), Some(CallBody::Whole(bytes)) if bytes == "abc"));
        }
    }
}
