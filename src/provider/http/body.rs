//! A request body that knows whether it was taken.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::secret::Secret;

/// One chunk of known length. The connection asks for it only once it is up and the head is written; until then the
/// request has certainly not been acted on, since the credential and the grant stand in the body.
pub(super) struct Tracked {
    bytes: Option<Bytes>,
    was_taken: Arc<AtomicBool>,
}

impl Tracked {
    pub(super) fn new(bytes: &Secret<Vec<u8>>, was_taken: Arc<AtomicBool>) -> Self {
        Self { bytes: Some(Bytes::copy_from_slice(bytes.expose())), was_taken }
    }
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.was_taken.store(true, Ordering::SeqCst);
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
