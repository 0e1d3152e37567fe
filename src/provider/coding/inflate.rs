//! gzip and deflate, piece by piece, over the one crate that knows them. A decoder reads what has come, stops where it must
//! wait for more, and goes on from there.

use std::io::{self, ErrorKind, Read as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http_body::{Body, Frame};

use super::{Bounds, Feed, JUDGED_FROM};
use crate::connection::ProviderKey;
use crate::error::{AmbiguousCause, Error, ProviderError};
use crate::provider::call::AnswerStream;

/// The largest piece that comes out at once.
const PIECE: usize = 32 * 1024;

/// A decoder of one coding.
pub(super) enum Decoder {
    Gzip(Box<MultiGzDecoder<Feed>>),
    Zlib(Box<ZlibDecoder<Feed>>),
    Raw(Box<DeflateDecoder<Feed>>),
    /// `deflate` is zlib (RFC 9110 section 8.4.1.2), and some servers send it bare: its first two bytes tell.
    Untold(Feed),
}

impl Decoder {
    pub(super) fn gzip() -> Self {
        Self::Gzip(Box::new(MultiGzDecoder::new(Feed::default())))
    }

    pub(super) fn deflate() -> Self {
        Self::Untold(Feed::default())
    }

    fn feed(&mut self) -> &mut Feed {
        match self {
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Zlib(decoder) => decoder.get_mut(),
            Self::Raw(decoder) => decoder.get_mut(),
            Self::Untold(feed) => feed,
        }
    }

    /// Reads on. 0: the end.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if let Self::Untold(feed) = self {
            if feed.bytes.len() < 2 && !feed.is_over {
                return Err(ErrorKind::WouldBlock.into());
            }
            let feed = std::mem::take(feed);
            *self = if is_zlib(&feed.bytes) {
                Self::Zlib(Box::new(ZlibDecoder::new(feed)))
            } else {
                Self::Raw(Box::new(DeflateDecoder::new(feed)))
            };
        }
        match self {
            Self::Gzip(decoder) => decoder.read(into),
            Self::Zlib(decoder) => decoder.read(into),
            Self::Raw(decoder) => decoder.read(into),
            Self::Untold(_) => Ok(0),
        }
    }
}

/// The header of RFC 1950 section 2.2.
fn is_zlib(bytes: &[u8]) -> bool {
    let [method, flags, ..] = bytes else { return false };
    method & 0x0f == 8 && method >> 4 <= 7 && u16::from_be_bytes([*method, *flags]) % 31 == 0
}

/// A body as it was before it was coded.
pub(super) struct Inflated {
    body: AnswerStream,
    decoder: Decoder,
    bounds: Bounds,
    provider: ProviderKey,
    made: u64,
    piece: Box<[u8]>,
    trailers: Option<HeaderMap>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Decoding,
    /// Nothing may follow but trailers.
    Decoded,
    Over,
}

impl Inflated {
    pub(super) fn new(body: AnswerStream, decoder: Decoder, bounds: Bounds, provider: ProviderKey) -> Self {
        let piece = vec![0; PIECE].into();
        Self { body, decoder, bounds, provider, made: 0, piece, trailers: None, state: State::Decoding }
    }

    /// Counts what came out.
    fn count(&mut self, bytes: usize) -> Result<(), Error> {
        self.made += bytes as u64;
        let Bounds { bytes: most, ratio } = self.bounds;
        if self.made > most {
            return Err(Error::Swollen { limit: "api.limits.max_decompressed_bytes", most });
        }
        let fair = self.decoder.feed().taken.saturating_mul(u64::from(ratio));
        if self.made > JUDGED_FROM && self.made > fair {
            let most = u64::from(ratio);
            return Err(Error::Swollen { limit: "api.limits.max_decompression_ratio", most });
        }
        Ok(())
    }

    fn broken(&self) -> Error {
        let error = ProviderError::Ambiguous { cause: AmbiguousCause::Undecodable };
        Error::Provider { provider: self.provider.clone(), error }
    }

    /// What has come can be decoded no further: takes more.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            None => {
                self.decoder.feed().is_over = true;
                Ok(())
            }
            Some(Err(error)) => Err(error),
            Some(Ok(frame)) => {
                match frame.into_data() {
                    Ok(data) => self.decoder.feed().add(data),
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok();
                        self.decoder.feed().is_over = true;
                    }
                }
                Ok(())
            }
        })
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        loop {
            if self.state == State::Decoded {
                let feed = self.decoder.feed();
                if !feed.bytes.is_empty() {
                    return Poll::Ready(Some(Err(self.broken())));
                }
                if feed.is_over {
                    return Poll::Ready(None);
                }
                ready!(self.poll_more(cx))?;
                continue;
            }
            match self.decoder.read(&mut self.piece) {
                Ok(0) => self.state = State::Decoded,
                Ok(count) => {
                    self.count(count)?;
                    return Poll::Ready(Some(Ok(Bytes::copy_from_slice(&self.piece[..count]))));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => ready!(self.poll_more(cx))?,
                // A body that never was is not one that broke off: many say gzip of nothing.
                Err(_) if self.decoder.feed().is_over && self.decoder.feed().taken == 0 && self.made == 0 => {
                    self.state = State::Decoded;
                }
                Err(_) => return Poll::Ready(Some(Err(self.broken()))),
            }
        }
    }
}

impl Body for Inflated {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.state == State::Over {
            return Poll::Ready(None);
        }
        let polled = ready!(self.poll_piece(cx));
        Poll::Ready(match polled {
            Some(Ok(piece)) => Some(Ok(Frame::data(piece))),
            Some(Err(error)) => {
                self.state = State::Over;
                Some(Err(error))
            }
            None => {
                self.state = State::Over;
                self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Over
    }
}
