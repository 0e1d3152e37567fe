//! How far a request has come: whether a connection has taken it, and when the last piece of its body was.
//!
//! Owns the word on whether any of a request can have left. Does not know what is sent. Invariant: a request that was
//! withdrawn is not taken by any connection any more, and one that was taken is not withdrawn.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::{Patience, sent_too_much};
use crate::error::Error;
use crate::provider::call::RequestStream;

/// What is handed to a connection at a time of a body that is in memory. Both HTTP versions ask for the next piece once
/// there is room for it, HTTP/1.1 after at most 16 that wait: the smaller they are, the less a body runs ahead of the
/// network. As much as a TLS record holds (RFC 8446 section 5.1), and an HTTP/2 frame.
const PIECE: usize = 16 * 1024;

/// Nothing of a request has been asked for by a connection.
const HELD: u8 = 0;
/// A connection writes it, or has.
const TAKEN: u8 = 1;
/// No connection gets it any more.
const WITHDRAWN: u8 = 2;

/// How far a request's body has come, for whoever waits for the head of the answer.
pub(in crate::provider) struct Pulse {
    began: Instant,
    /// Milliseconds after `began`.
    beat: AtomicU64,
    is_done: AtomicBool,
    waits_for_sender: AtomicBool,
    pub(super) changed: tokio::sync::Notify,
    fate: AtomicU8,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            beat: AtomicU64::new(0),
            is_done: AtomicBool::new(false),
            waits_for_sender: AtomicBool::new(false),
            changed: tokio::sync::Notify::new(),
            fate: AtomicU8::new(HELD),
        }
    }
}

/// Who is waited for until there is the head of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Silent {
    Provider,
    /// The request's own body may still be coming.
    Sender,
}

impl Pulse {
    /// Until when whoever is waited for may be silent.
    pub(super) fn until(&self, patience: &Patience) -> (Instant, Silent) {
        let beat = self.began + Duration::from_millis(self.beat.load(Ordering::Relaxed));
        let waits_for_sender = self.waits_for_sender.load(Ordering::Relaxed);
        match !self.is_done.load(Ordering::Relaxed) && waits_for_sender {
            true => (beat + patience.stall, Silent::Sender),
            false => (beat + patience.head, Silent::Provider),
        }
    }

    /// For how long the provider has said nothing; `None`: it is not its turn.
    pub(in crate::provider) fn silence(&self) -> Option<Duration> {
        let waits_for_sender = self.waits_for_sender.load(Ordering::Relaxed);
        let is_its_turn = self.is_done.load(Ordering::Relaxed) || !waits_for_sender;
        let beat = self.began + Duration::from_millis(self.beat.load(Ordering::Relaxed));
        is_its_turn.then(|| beat.elapsed())
    }

    /// Takes the request back, and says whether it was in time: then nothing of it has left, and nothing will.
    pub(in crate::provider) fn withdraw(&self) -> bool {
        self.decide(WITHDRAWN)
    }

    /// Whether a connection has taken the request.
    pub(super) fn is_taken(&self) -> bool {
        self.fate.load(Ordering::SeqCst) == TAKEN
    }

    /// A connection takes the request, if it still may.
    fn take(&self) -> bool {
        self.decide(TAKEN)
    }

    /// Settles what becomes of the request, once, and says whether it is this.
    fn decide(&self, fate: u8) -> bool {
        let before = self.fate.compare_exchange(HELD, fate, Ordering::SeqCst, Ordering::SeqCst);
        before.is_ok() || before == Err(fate)
    }

    /// A piece has gone out, or the next one has not come yet.
    pub(in crate::provider) fn beats(&self, waits_for_sender: bool) {
        // Asked again while it waits: nothing has come since.
        if !waits_for_sender || !self.waits_for_sender.load(Ordering::Relaxed) {
            let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.beat.store(millis, Ordering::Relaxed);
        }
        if self.waits_for_sender.swap(waits_for_sender, Ordering::Relaxed) != waits_for_sender {
            self.changed.notify_one();
        }
    }

    /// All of it has gone out.
    pub(in crate::provider) fn done(&self) {
        self.beats(false);
        self.is_done.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }
}

/// A request's body that tells how far it has come, and ends where it is too long. A connection asks whether there is one
/// when it takes the head: not while it is still being made, nor while the request stands in line behind others. The first
/// in line for an HTTP/2 stream has handed its head over.
pub(super) struct Paced {
    /// Never contended: the client library asks for a body that threads could share.
    stream: Mutex<RequestStream>,
    pulse: Arc<Pulse>,
    left: u64,
    most: u64,
}

impl Paced {
    pub(super) fn new(stream: RequestStream, pulse: &Arc<Pulse>, most: u64) -> Self {
        Self { stream: Mutex::new(stream), pulse: pulse.clone(), left: most, most }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if !self.pulse.take() {
            // Nobody hears it: whoever waited for the answer has gone.
            return Poll::Ready(Some(Err(Error::Internal("a request was sent that had been withdrawn"))));
        }
        let stream = self.stream.get_mut().unwrap_or_else(PoisonError::into_inner);
        let polled = Pin::new(&mut *stream).poll_frame(cx);
        let is_over = stream.is_end_stream();
        match &polled {
            Poll::Pending => self.pulse.beats(true),
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                let Some(left) = self.left.checked_sub(length) else {
                    return Poll::Ready(Some(Err(sent_too_much(self.most))));
                };
                self.left = left;
                self.pulse.beats(false);
            }
            Poll::Ready(None | Some(Err(_))) => self.pulse.done(),
        }
        if is_over {
            self.pulse.done();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        // Asked when the head is handed over, which may leave before any piece of the body is asked for.
        self.pulse.take() && self.stream.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}

/// A body that is in memory, a piece at a time.
pub(super) struct Pieces(pub(super) Bytes);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let length = self.0.len().min(PIECE);
        let piece = self.0.split_to(length);
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn paced(bytes: &'static [u8]) -> (Paced, Arc<Pulse>) {
        let pulse = Arc::new(Pulse::default());
        let body = RequestStream::new(Pieces(Bytes::from_static(bytes)));
        (Paced::new(body, &pulse, 1 << 20), pulse)
    }

    #[tokio::test]
    async fn what_was_withdrawn_is_taken_by_nobody_and_what_was_taken_is_not_withdrawn() {
        for bytes in [&b"body"[..], b""] {
            let (mut body, pulse) = paced(bytes);
            assert_eq!(
                body.size_hint().exact(),
                Some(bytes.len() as u64),
                "its length may be asked any time"
            );
            assert!(pulse.withdraw() && pulse.withdraw());
            assert!(!body.is_end_stream(), "it would be sent as one without a body");
            assert!(body.frame().await.unwrap().is_err());

            let (mut body, pulse) = paced(bytes);
            assert!(body.is_end_stream() || body.frame().await.unwrap().is_ok());
            assert!(!pulse.withdraw());
        }
    }

    #[tokio::test]
    async fn a_body_in_memory_goes_in_pieces() {
        let (mut body, pulse) = paced(&[b'x'; PIECE + 1]);
        for length in [PIECE, 1] {
            assert!(!pulse.is_done.load(Ordering::Relaxed));
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), length);
        }
        assert!(pulse.is_done.load(Ordering::Relaxed) && body.is_end_stream());
    }
}
