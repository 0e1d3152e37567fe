//! The answer of a streamed call: head, chunks, trailers, each made when its caller has taken the one before. Holds one
//! chunk and one piece of the provider's body at a time. Dropped early, it ends the call at the provider.
//!
//! Invariant: once its time is over, nothing of the provider's is held for it, whatever its caller does.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Status;

use super::super::proto::v1;
use super::super::proto::v1::stream_provider_call_response::Part;
use super::super::watch::Answers;
use super::super::wire::token_source;
use super::ledger::Ledger;
use super::upload::LARGEST_CHUNK;
use super::{answer_source, headers};
use crate::broker::{STREAM_TIMEOUT, StreamedAnswer};
use crate::error::Error;
use crate::provider::call::AnswerStream;

/// What is left of an answer.
struct Download {
    body: AnswerStream,
    /// The rest of the piece that came last.
    piece: Bytes,
    trailers: Option<HeaderMap>,
    next: Next,
    ledger: Ledger,
}

/// The times of an answer.
struct Times {
    /// By policy.
    ends_at: Option<Instant>,
    /// The caller's own.
    deadline: Option<Instant>,
    /// How long the caller may take nothing.
    stall: Duration,
}

/// Why an answer ends before its end.
enum Ended {
    Failed(Error),
    OutOfTime,
    PastDeadline,
    Stalled(Duration),
}

type Message = Result<v1::StreamProviderCallResponse, Status>;

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
    let download =
        Download { body: answer.body, piece: Bytes::new(), trailers: None, next: Next::Chunk, ledger };
    let times = Times { ends_at: answer.ends_at, deadline, stall: answer.stall_timeout };
    let (sender, receiver) = mpsc::channel(1);
    // A task of its own: the transport asks for nothing while its peer takes nothing, and then no timer of ours would run.
    tokio::spawn(download.carried(times, sender));
    let rest = stream::unfold(receiver, |mut receiver| async {
        let message = receiver.recv().await?;
        Some((message, receiver))
    });
    let head = stream::once(std::future::ready(Ok(message(Part::Head(head)))));
    Box::pin(head.chain(rest)) as Pin<Box<_>>
}

fn message(part: Part) -> v1::StreamProviderCallResponse {
    v1::StreamProviderCallResponse { part: Some(part) }
}

impl Times {
    async fn over(&self) -> Ended {
        tokio::select! {
            () = reached(self.ends_at) => Ended::OutOfTime,
            () = reached(self.deadline) => Ended::PastDeadline,
        }
    }
}

async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Download {
    /// Hands the answer on, to its end or the end of its time.
    async fn carried(mut self, times: Times, sender: mpsc::Sender<Message>) {
        let ended = tokio::select! {
            // Who has left is told nothing.
            () = sender.closed() => return,
            ended = times.over() => Err(ended),
            ended = self.handed(times.stall, &sender) => ended,
        };
        let Err(ended) = ended else { return };
        let Self { body, mut ledger, .. } = self;
        // Before the caller is told, which may never take it: the place among its connection's calls is free.
        drop(body);
        let status = match ended {
            Ended::Failed(error) => ledger.failed(&error),
            Ended::OutOfTime => ledger.failed(&Error::out_of_time(ledger.provider(), STREAM_TIMEOUT)),
            Ended::PastDeadline => ledger.too_late(),
            Ended::Stalled(span) => ledger.failed(&Error::stalled("none was taken", span)),
        };
        drop(sender.send(Err(status)).await);
    }

    async fn handed(&mut self, stall: Duration, sender: &mpsc::Sender<Message>) -> Result<(), Ended> {
        loop {
            let room = timeout(stall, sender.reserve()).await.map_err(|_| Ended::Stalled(stall))?;
            let Ok(room) = room else { return Ok(()) };
            let Some(message) = self.next().await.map_err(Ended::Failed)? else { return Ok(()) };
            room.send(Ok(message));
        }
    }

    async fn next(&mut self) -> Result<Option<v1::StreamProviderCallResponse>, Error> {
        let part = match self.next {
            Next::Chunk => Part::Chunk(self.chunk().await?),
            Next::Trailers => {
                self.next = Next::Nothing;
                let trailers = headers(&self.trailers.take().unwrap_or_default());
                self.ledger.ended();
                Part::Trailers(v1::AnswerTrailers { trailers })
            }
            Next::Nothing => return Ok(None),
        };
        Ok(Some(message(part)))
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
}
