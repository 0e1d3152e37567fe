//! The answer of a streamed call: head, chunks, trailers, each made when the transport has room for it. Holds one piece of
//! the provider's body at a time. Dropped early, it ends the call at the provider.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::super::proto::v1;
use super::super::proto::v1::stream_provider_call_response::Part;
use super::super::watch::Answers;
use super::super::wire::token_source;
use super::ledger::Ledger;
use super::upload::LARGEST_CHUNK;
use super::{answer_source, headers};
use crate::broker::StreamedAnswer;
use crate::error::Error;
use crate::provider::call::AnswerStream;

/// What is left of an answer.
struct Download {
    body: AnswerStream,
    /// The rest of the piece that came last.
    piece: Bytes,
    trailers: Option<HeaderMap>,
    next: Next,
    deadline: Option<Instant>,
    ledger: Ledger,
}

enum Next {
    Chunk,
    Trailers,
    Nothing,
}

/// The messages of an answer.
pub(in crate::grpc) fn messages(
    answer: StreamedAnswer,
    deadline: Option<Instant>,
    ledger: Ledger,
) -> Answers<v1::StreamProviderCallResponse> {
    let head = v1::AnswerHead {
        status: answer.status.into(),
        headers: headers(&answer.headers),
        attempts: answer.attempts,
        token_source: token_source(answer.source).into(),
        answer_source: answer_source(answer.origin).into(),
    };
    let download = Download {
        body: answer.body,
        piece: Bytes::new(),
        trailers: None,
        next: Next::Chunk,
        deadline,
        ledger,
    };
    let rest = stream::unfold(download, |mut download| async move {
        let message = download.next().await?;
        Some((message, download))
    });
    let head = stream::once(std::future::ready(Ok(message(Part::Head(head)))));
    Box::pin(head.chain(rest)) as Pin<Box<_>>
}

fn message(part: Part) -> v1::StreamProviderCallResponse {
    v1::StreamProviderCallResponse { part: Some(part) }
}

impl Download {
    async fn next(&mut self) -> Option<Result<v1::StreamProviderCallResponse, Status>> {
        match self.next {
            Next::Chunk => {
                let chunk = match self.deadline {
                    Some(deadline) => match timeout_at(deadline, self.chunk()).await {
                        Ok(chunk) => chunk,
                        Err(_) => return Some(Err(self.too_late())),
                    },
                    None => self.chunk().await,
                };
                match chunk {
                    Ok(chunk) => Some(Ok(message(Part::Chunk(chunk)))),
                    Err(error) => {
                        self.next = Next::Nothing;
                        Some(Err(self.ledger.failed(&error)))
                    }
                }
            }
            Next::Trailers => {
                self.next = Next::Nothing;
                let trailers = headers(&self.trailers.take().unwrap_or_default());
                self.ledger.ended();
                Some(Ok(message(Part::Trailers(v1::AnswerTrailers { trailers }))))
            }
            Next::Nothing => None,
        }
    }

    async fn chunk(&mut self) -> Result<v1::BodyChunk, Error> {
        while self.piece.is_empty() {
            let Some(frame) = self.body.frame().await else {
                self.next = if self.trailers.is_some() { Next::Trailers } else { Next::Nothing };
                if self.trailers.is_none() {
                    self.ledger.ended();
                }
                return Ok(v1::BodyChunk { data: Bytes::new(), end: true });
            };
            match frame?.into_data() {
                Ok(data) => self.piece = data,
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            }
        }
        let data = self.piece.split_to(self.piece.len().min(LARGEST_CHUNK));
        self.ledger.received(data.len());
        Ok(v1::BodyChunk { data, end: false })
    }

    fn too_late(&mut self) -> Status {
        self.next = Next::Nothing;
        self.ledger.too_late()
    }
}
