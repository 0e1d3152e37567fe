//! The shapes of a call at a provider's API: what an app wants sent, and what comes back.
//!
//! Plain data and one small port, [`PreparedCall`]. Knows no HTTP client and no gRPC. Invariant: a body is never held
//! whole unless whoever made it held it whole before.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body_util::combinators::UnsyncBoxBody;

use crate::connection::Credential;
use crate::error::Error;

/// The body of an app's request while it comes in. Its error is what the app is told when it sent nonsense.
pub type RequestStream = UnsyncBoxBody<Bytes, Error>;

/// The body of a provider's answer while it comes in, trailers last. Dropping it ends the call at the provider.
pub type AnswerStream = UnsyncBoxBody<Bytes, Error>;

/// The same fields in memory of their own. As they come from a connection they hold all of what it read with them.
#[must_use]
pub fn detached(headers: &HeaderMap) -> HeaderMap {
    let mut own = HeaderMap::with_capacity(headers.keys_len());
    for (name, value) in headers {
        if let Ok(mut copy) = HeaderValue::from_bytes(value.as_bytes()) {
            copy.set_sensitive(value.is_sensitive());
            own.append(name.clone(), copy);
        }
    }
    own
}

/// What an app wants sent, unchecked.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The method, upper case.
    pub method: String,
    /// Which of the provider's API hosts; empty where it has one.
    pub host: String,
    /// The path below the provider's API base.
    pub path: String,
    /// Query parameters in order, not encoded.
    pub query: Vec<(String, String)>,
    /// Header fields in order.
    pub headers: Vec<(String, String)>,
    /// Whether redirects of GET and HEAD to the same place are followed.
    pub follow_redirects: bool,
    /// Whether an answer in a content coding that we know is decoded.
    pub decompress: bool,
    /// The app's id of this call; sent where the provider knows a header for it.
    pub request_id: Option<String>,
}

/// A request body.
pub enum CallBody {
    /// None.
    Empty,
    /// In memory.
    Whole(Bytes),
    /// As it comes.
    Stream(RequestStream),
}

impl std::fmt::Debug for CallBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Whole(bytes) => write!(f, "Whole({} bytes)", bytes.len()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// A provider's answer to a call.
pub struct CallAnswer {
    /// HTTP status code.
    pub status: u16,
    /// Header fields that an app may see.
    pub headers: HeaderMap,
    /// The body.
    pub body: AnswerStream,
    /// What it means to us.
    pub says: Says,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where an answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The provider, in answer to this call.
    Provider,
    /// The broker's memory; nothing was sent.
    Cache,
    /// The broker's memory, and the provider said that nothing has changed.
    Revalidated,
}

impl Origin {
    /// The word on the wire, in the log and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Cache => "cache",
            Self::Revalidated => "revalidated",
        }
    }
}

impl std::fmt::Debug for CallAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallAnswer")
            .field("status", &self.status)
            .field("says", &self.says)
            .finish_non_exhaustive()
    }
}

/// What an answer means beyond what it says to the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// Nothing.
    Nothing,
    /// The access token is not taken: 401, or the provider's own way to say so.
    TokenRefused,
    /// Too many calls; nothing was done.
    Throttled {
        /// How long to wait, if it said.
        wait: Option<Duration>,
    },
    /// A passing trouble: 502, 503, 504.
    Trouble {
        /// How long to wait, if it said.
        wait: Option<Duration>,
    },
}

/// Whether a call may be made more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeatability {
    /// Its method is safe: GET, HEAD, OPTIONS (RFC 9110 section 9.2.1).
    pub is_safe: bool,
    /// It carries a key by which the provider knows a repetition.
    pub has_key: bool,
}

/// How often and for how long a call is tried, where the caller does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallPolicy {
    /// How long a unary call may take in all, its waits included.
    pub timeout: Duration,
    /// The same of a streamed call; `None`: as long as it takes.
    pub stream_timeout: Option<Duration>,
    /// How long the caller of a streamed call may take nothing, or send nothing.
    pub stall_timeout: Duration,
    /// Attempts in all.
    pub attempts: u32,
    /// The longest first pause before another attempt; it doubles with each.
    pub pause: Duration,
}

impl Default for CallPolicy {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            stream_timeout: None,
            stall_timeout: Duration::from_secs(300),
            attempts: 3,
            pause: Duration::from_millis(200),
        }
    }
}

/// The time that one attempt of a call has.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// How long it may wait for its turn.
    pub turn: Duration,
    /// How long until the whole call is over, by its caller's deadline or its entry's limit; `None`: it takes the time it
    /// takes.
    pub left: Option<Duration>,
    /// At random: where it goes on in a span over which several are spread that waited for the same moment.
    pub dice: u64,
}

/// A call that passed every rule. It knows where it goes; only the token is missing.
#[async_trait]
pub trait PreparedCall: Send + Sync {
    /// Whether it may be made more than once.
    fn repeatability(&self) -> Repeatability;

    /// Makes the call once, and answers as soon as there is a head. Whoever drops it once its time is over says that the
    /// provider did not answer in time; before, nothing.
    ///
    /// # Errors
    /// `Provider` with `Unavailable`, `RateLimited` or `CircuitOpen`: it was certainly not processed; with `Ambiguous`:
    /// it may have been. What the body failed with, where that ended the call.
    async fn send(
        &self,
        credential: Credential<'_>,
        body: CallBody,
        time: Allowance,
    ) -> Result<CallAnswer, Error>;

    /// Takes back the latest attempt, and says whether that was in time: then nothing of it has left, and nothing will. One
    /// that was taken back in time is not awaited any more.
    fn withdraw(&self) -> bool;

    /// Waits so long, or until an operator ends the provider's pauses.
    async fn rest(&self, pause: Duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detached_fields_hold_nothing_of_the_connection_they_came_from() {
        let read = Bytes::from(b"set by the server".to_vec());
        let value = HeaderValue::from_maybe_shared(read.slice(..3)).unwrap();
        let mut came = HeaderMap::new();
        came.append("x-one", value.clone());
        came.append("x-one", value.clone());
        drop(value);
        let own = detached(&came);
        assert_eq!(own, came);
        drop(came);
        assert!(read.is_unique(), "what was read is still held");
    }
}
