//! A request body that is taken or withdrawn, never both.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::secret::Secret;

const KEPT: u8 = 0;
const TAKEN: u8 = 1;
const WITHDRAWN: u8 = 2;

/// Whether a body was handed to a connection, which goes on in a task of its own when whoever waited for it has given
/// up: of taking and withdrawing, the first decides.
#[derive(Default)]
pub(super) struct Handover(AtomicU8);

impl Handover {
    /// Keeps the body for good; `false`: it was taken.
    pub(super) fn withdraw(&self) -> bool {
        self.change(WITHDRAWN)
    }

    fn take(&self) -> bool {
        self.change(TAKEN)
    }

    fn change(&self, to: u8) -> bool {
        let changed = self.0.compare_exchange(KEPT, to, Ordering::SeqCst, Ordering::SeqCst);
        changed.is_ok() || changed == Err(to)
    }
}

/// One chunk of known length. The connection asks for it only once it is up and the head is written; until then the
/// request has certainly not been acted on, since the credential and the grant stand in the body.
pub(super) struct Tracked {
    bytes: Option<Bytes>,
    handover: Arc<Handover>,
}

impl Tracked {
    pub(super) fn new(bytes: &Secret<Vec<u8>>, handover: Arc<Handover>) -> Self {
        Self { bytes: Some(Bytes::copy_from_slice(bytes.expose())), handover }
    }
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if !self.handover.take() {
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        }
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn what_was_withdrawn_is_not_taken_and_what_was_taken_is_not_withdrawn() {
        let body = |handover: &Arc<Handover>| Tracked::new(&Secret::new(b"rt".to_vec()), handover.clone());
        let mut context = Context::from_waker(Waker::noop());
        let withdrawn = Arc::new(Handover::default());
        assert!(withdrawn.withdraw());
        let frame = Pin::new(&mut body(&withdrawn)).poll_frame(&mut context);
        assert!(matches!(frame, Poll::Ready(Some(Err(_)))));
        let taken = Arc::new(Handover::default());
        let frame = Pin::new(&mut body(&taken)).poll_frame(&mut context);
        assert!(matches!(frame, Poll::Ready(Some(Ok(_)))));
        assert!(!taken.withdraw());
    }
}
