//! Content codings of an answer (RFC 9110 section 8.4), decoded where the caller asked for it.
//!
//! Owns which codings are known and how far an answer may swell. Knows no HTTP client. Invariant: of a decoded answer no
//! more than a piece is held at a time, and it ends with an error before it has grown beyond its bounds.

mod inflate;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::response::Parts;
use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, Full};

use self::inflate::{Decoder, Inflated};
use super::call::AnswerStream;
use crate::connection::ProviderKey;

/// What is asked for. Neither brotli nor zstd: each would bring a decoder several times as large as this one, for answers
/// that every server also gives in gzip.
pub(in crate::provider) const ACCEPTED: HeaderValue = HeaderValue::from_static("gzip, deflate");

/// How far an answer may swell.
#[derive(Clone, Copy, Debug)]
pub(in crate::provider) struct Bounds {
    /// Bytes at most.
    pub(in crate::provider) bytes: u64,
    /// Bytes that one compressed byte may become at most, looked at once there is more than [`JUDGED_FROM`].
    pub(in crate::provider) ratio: u32,
}

/// Small answers may be as monotonous as they like: they cost nothing.
pub(in crate::provider) const JUDGED_FROM: u64 = 1024 * 1024;

/// Decodes an answer whose coding is known, and takes away the fields that spoke of the coded body. Everything else stays
/// as it is: several codings, unknown ones, and a part of a coded whole, which cannot be decoded by itself.
pub(in crate::provider) fn decoded(
    head: &mut Parts,
    body: AnswerStream,
    bounds: Bounds,
    provider: &ProviderKey,
) -> AnswerStream {
    let Some(decoder) = decoder(head) else { return body };
    head.headers.remove(CONTENT_ENCODING);
    head.headers.remove(CONTENT_LENGTH);
    AnswerStream::new(Inflated::new(body, decoder, bounds, provider.clone()))
}

/// What the beginning of a coded body says, for us to read while the body itself passes as it came: up to `most` bytes, and
/// what there is of them where it is cut off, broken, or swells beyond its bounds. `None`: it is in no coding that we know.
pub(in crate::provider) async fn read_ahead(
    head: &Parts,
    beginning: Bytes,
    most: usize,
    bounds: Bounds,
    provider: &ProviderKey,
) -> Option<Bytes> {
    let decoder = decoder(head)?;
    let coded = AnswerStream::new(Full::new(beginning).map_err(|never| match never {}));
    let mut body = Inflated::new(coded, decoder, bounds, provider.clone());
    let mut said = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        said.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        if said.len() >= most {
            said.truncate(most);
            break;
        }
    }
    Some(said.freeze())
}

/// A decoder for the body of an answer, where it is in one coding that we know and there as a whole.
fn decoder(head: &Parts) -> Option<Decoder> {
    if matches!(head.status, StatusCode::NO_CONTENT | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED)
    {
        return None;
    }
    let mut codings = head.headers.get_all(CONTENT_ENCODING).iter();
    let (Some(coding), None) = (codings.next(), codings.next()) else { return None };
    match coding.as_bytes().trim_ascii().to_ascii_lowercase().as_slice() {
        b"gzip" | b"x-gzip" => Some(Decoder::gzip()),
        b"deflate" => Some(Decoder::deflate()),
        _ => None,
    }
}

/// Bytes that came and were not read yet.
#[derive(Default)]
struct Feed {
    bytes: Bytes,
    is_over: bool,
    taken: u64,
}

impl Feed {
    fn add(&mut self, more: Bytes) {
        if self.bytes.is_empty() {
            self.bytes = more;
        } else {
            let mut both = BytesMut::from(&self.bytes[..]);
            both.extend_from_slice(&more);
            self.bytes = both.freeze();
        }
    }
}

impl std::io::BufRead for Feed {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.bytes.is_empty() && !self.is_over {
            return Err(std::io::ErrorKind::WouldBlock.into());
        }
        Ok(&self.bytes)
    }

    fn consume(&mut self, count: usize) {
        let count = count.min(self.bytes.len());
        self.taken += count as u64;
        drop(self.bytes.split_to(count));
    }
}

impl std::io::Read for Feed {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let waiting = std::io::BufRead::fill_buf(self)?;
        let count = waiting.len().min(into.len());
        into[..count].copy_from_slice(&waiting[..count]);
        std::io::BufRead::consume(self, count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
