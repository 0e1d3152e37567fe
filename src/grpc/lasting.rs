//! Answers that never end by themselves: whoever watches health, or keeps a reflection stream open, asks for nothing that
//! the broker must finish. Owns how such an answer ends when the door closes. Does not know what is in it.
//!
//! Invariant: all that the service had said before the farewell is sent; only then does the answer end.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::body::Body;
use tonic_health::pb::health_server;
use tonic_reflection::pb::{v1, v1alpha};

/// Services whose streams last as long as the client likes.
const SERVICES: [&str; 3] = [
    health_server::SERVICE_NAME,
    v1::server_reflection_server::SERVICE_NAME,
    v1alpha::server_reflection_server::SERVICE_NAME,
];

/// Whether a request of this path may be answered by a stream without end.
pub(super) fn is_lasting(path: &str) -> bool {
    path.strip_prefix('/')
        .and_then(|path| path.split_once('/'))
        .is_some_and(|(service, _)| SERVICES.contains(&service))
}

/// An answer that ends with UNAVAILABLE once the door has said farewell and the service has nothing more to say.
pub(super) struct Lasting {
    answer: Body,
    farewell: Pin<Box<WaitForCancellationFutureOwned>>,
    has_ended: bool,
}

impl Lasting {
    pub(super) fn new(answer: Body, farewell: CancellationToken) -> Self {
        Self { answer, farewell: Box::pin(farewell.cancelled_owned()), has_ended: false }
    }
}

impl http_body::Body for Lasting {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        // Before the answer is looked at: what was said before the farewell is seen below.
        let is_farewell = self.farewell.as_mut().poll(cx).is_ready();
        match Pin::new(&mut self.answer).poll_frame(cx) {
            Poll::Pending if is_farewell => {
                self.has_ended = true;
                Poll::Ready(Some(trailers().map(Frame::trailers)))
            }
            frame => frame,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.answer.is_end_stream()
    }
}

/// UNAVAILABLE: what clients of the health protocol answer with another try.
fn trailers() -> Result<http::HeaderMap, Status> {
    let mut trailers = http::HeaderMap::new();
    Status::unavailable("this door closes").add_header(&mut trailers)?;
    Ok(trailers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_health_and_reflection_last() {
        assert!(is_lasting("/grpc.health.v1.Health/Watch"));
        assert!(is_lasting("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"));
        assert!(is_lasting("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"));
        assert!(!is_lasting("/tokenbroker.v1.ConnectionService/Disconnect"));
        assert!(!is_lasting("/grpc.health.v1.Healthy/Watch"));
        assert!(!is_lasting("grpc.health.v1.Health"));
    }
}
