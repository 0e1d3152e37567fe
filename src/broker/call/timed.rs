//! A streamed answer that ends with the time its call may take. Knows no HTTP.
//!
//! Invariant: however busy the stream is, nothing of it passes once the time is over.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::connection::ProviderKey;
use crate::error::{AmbiguousCause, Error, ProviderError};
use crate::provider::call::AnswerStream;

/// The body, until then; as it is, where no time is set.
pub(super) fn until(body: AnswerStream, ends_at: Option<Instant>, provider: &ProviderKey) -> AnswerStream {
    match ends_at {
        None => body,
        Some(ends_at) => {
            let timer = Box::pin(sleep_until(ends_at));
            AnswerStream::new(Timed { body, timer, provider: provider.clone() })
        }
    }
}

struct Timed {
    body: AnswerStream,
    timer: Pin<Box<Sleep>>,
    provider: ProviderKey,
}

impl Body for Timed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.timer.as_mut().poll(cx).is_ready() {
            let error = ProviderError::Ambiguous { cause: AmbiguousCause::Timeout };
            return Poll::Ready(Some(Err(Error::Provider { provider: self.provider.clone(), error })));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::stream;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Pieces without an end, one each `every`.
    fn endless(every: Duration) -> AnswerStream {
        let pieces = stream::unfold((), move |()| async move {
            tokio::time::sleep(every).await;
            Some((Ok(Frame::data(Bytes::from_static(b"x"))), ()))
        });
        AnswerStream::new(StreamBody::new(pieces))
    }

    fn provider() -> ProviderKey {
        ProviderKey::parse("acme").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_goes_on_and_on_ends_with_its_time() {
        for every in [SECOND, 60 * SECOND] {
            let began = Instant::now();
            let mut body = until(endless(every), Some(began + 10 * SECOND), &provider());
            let mut came = 0;
            let error = loop {
                match body.frame().await.unwrap() {
                    Ok(_) => came += 1,
                    Err(error) => break error,
                }
            };
            let timeout = ProviderError::Ambiguous { cause: AmbiguousCause::Timeout };
            assert!(matches!(&error, Error::Provider { error, .. } if *error == timeout), "{error:?}");
            assert_eq!(began.elapsed().as_secs(), 10);
            assert_eq!(came, if every == SECOND { 9 } else { 0 });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_time_it_goes_on() {
        let mut body = until(endless(3600 * SECOND), None, &provider());
        for _ in 0..100 {
            assert!(body.frame().await.unwrap().is_ok());
        }
    }
}
