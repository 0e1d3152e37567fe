//! The request body of a streamed call, chunk by chunk as the provider takes it. Owns the rules of chunks. Holds one
//! chunk at a time. Invariant: a body that does not end as the contract says never looks complete to the provider.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http_body::{Body, Frame, SizeHint};
use tonic::{Status, Streaming};

use super::super::proto::v1;
use super::super::proto::v1::stream_provider_call_request::Part;
use crate::error::Error;
use crate::provider::call::{CallBody, RequestStream};

/// The largest chunk.
pub(in crate::grpc) const LARGEST_CHUNK: usize = 64 * 1024;

/// The messages of a streamed call.
pub(in crate::grpc) type Messages = Streaming<v1::StreamProviderCallRequest>;

/// The head of a call, which must come before `silence` is over: which provider's limit holds is not known before.
pub(in crate::grpc) async fn head(
    messages: &mut (impl Stream<Item = Result<v1::StreamProviderCallRequest, Status>> + Unpin),
    silence: Duration,
) -> Result<v1::CallHead, Error> {
    let Ok(first) = tokio::time::timeout(silence, messages.next()).await else {
        return Err(Error::invalid("head", format!("must come first: none came for {silence:?}")));
    };
    let first = first.transpose().map_err(|status| broken(&status))?;
    match first.and_then(|message| message.part) {
        Some(Part::Head(head)) => Ok(head),
        Some(Part::Chunk(_)) => Err(Error::invalid("head", "must come first: a chunk came before it")),
        None => Err(Error::invalid("head", "must come first: it says what to call")),
    }
}

/// The body that follows a head. One that comes in a single chunk is held whole, and so can be sent again.
pub(in crate::grpc) async fn body(
    mut messages: Messages,
    content_length: Option<u64>,
    sent: &Arc<AtomicU64>,
) -> Result<CallBody, Error> {
    let mut rules = Rules { content_length, came: 0, sent: sent.clone() };
    let first = messages.message().await.map_err(|status| broken(&status))?;
    let Some(first) = first else {
        rules.check_end()?;
        return Ok(CallBody::Empty);
    };
    let (data, is_last) = rules.chunk(first)?;
    Ok(match (data.is_empty(), is_last) {
        (true, true) => CallBody::Empty,
        (false, true) => CallBody::Whole(data),
        (_, false) => CallBody::Stream(RequestStream::new(Upload {
            messages,
            first: Some(data),
            rules,
            is_over: false,
        })),
    })
}

/// What the library says of a message that cannot be read, or of a caller that is gone.
fn broken(status: &Status) -> Error {
    match status.code() {
        tonic::Code::OutOfRange => Error::invalid("chunk.data", "is too large; at most 65536 bytes"),
        tonic::Code::Internal => Error::invalid("message", "cannot be read as the request of this RPC"),
        _ => Error::invalid("chunk.end", "never came: the caller ended the call"),
    }
}

struct Rules {
    content_length: Option<u64>,
    came: u64,
    /// The same, for whoever speaks of the call at its end.
    sent: Arc<AtomicU64>,
}

impl Rules {
    /// The data of a chunk, and whether it is the last.
    fn chunk(&mut self, message: v1::StreamProviderCallRequest) -> Result<(Bytes, bool), Error> {
        let chunk = match message.part {
            Some(Part::Chunk(chunk)) => chunk,
            Some(Part::Head(_)) => return Err(Error::invalid("head", "came twice; only chunks follow it")),
            None => return Err(Error::invalid("part", "is empty; after the head it is a chunk")),
        };
        if chunk.data.len() > LARGEST_CHUNK {
            let why = format!("is {} bytes; at most {LARGEST_CHUNK}", chunk.data.len());
            return Err(Error::invalid("chunk.data", why));
        }
        self.came += chunk.data.len() as u64;
        self.sent.store(self.came, Ordering::Relaxed);
        if let Some(promised) = self.content_length.filter(|promised| self.came > *promised) {
            return Err(Error::invalid(
                "head.content_length",
                format!("is {promised}, and the body is longer"),
            ));
        }
        if chunk.end {
            self.check_end()?;
        }
        Ok((chunk.data, chunk.end))
    }

    fn check_end(&self) -> Result<(), Error> {
        match self.content_length {
            Some(promised) if promised != self.came => {
                let why = format!("is {promised}, and the body is {} bytes", self.came);
                Err(Error::invalid("head.content_length", why))
            }
            _ => Ok(()),
        }
    }
}

struct Upload {
    messages: Messages,
    first: Option<Bytes>,
    rules: Rules,
    is_over: bool,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            if let Some(first) = self.first.take().filter(|first| !first.is_empty()) {
                return Poll::Ready(Some(Ok(Frame::data(first))));
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            let message = match ready!(Pin::new(&mut self.messages).poll_next(cx)) {
                Some(Ok(message)) => message,
                Some(Err(status)) => return Poll::Ready(Some(Err(broken(&status)))),
                None => {
                    let why = "never came: the last chunk must say that it is the last";
                    return Poll::Ready(Some(Err(Error::invalid("chunk.end", why))));
                }
            };
            let (data, is_last) = match self.rules.chunk(message) {
                Ok(chunk) => chunk,
                Err(error) => return Poll::Ready(Some(Err(error))),
            };
            self.is_over = is_last;
            self.first = Some(data);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over && self.first.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        let Some(promised) = self.rules.content_length else { return SizeHint::default() };
        let held = self.first.as_ref().map_or(0, |first| first.len() as u64);
        SizeHint::with_exact(promised.saturating_sub(self.rules.came) + held)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_opens_a_stream_and_says_nothing_is_not_waited_for_for_ever() {
        let silence = Duration::from_secs(300);
        let told = head(&mut stream::pending(), silence).await.unwrap_err();
        assert!(told.to_string().contains("300s"), "{told}");
        let said = v1::CallHead { path: "/x".into(), ..Default::default() };
        let message = v1::StreamProviderCallRequest { part: Some(Part::Head(said.clone())) };
        assert_eq!(head(&mut stream::iter([Ok(message)]), silence).await.unwrap(), said);
    }
}
