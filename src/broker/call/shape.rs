//! What `CallProvider` asks for and answers, as plain data.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio::time::Instant;

use super::super::Source;
use crate::connection::ConnectionId;
use crate::provider::call::{AnswerStream, CallBody, Origin, Wanted, detached};

/// What `CallProvider` asks for.
#[derive(Debug)]
pub struct ProviderCall {
    /// With whose token.
    pub id: ConnectionId,
    /// What to send.
    pub wanted: Wanted,
    /// Its body.
    pub body: CallBody,
    /// When it may be made again.
    pub retry: Retry,
    /// Scopes the token must have; empty: whatever was granted.
    pub scopes: Vec<String>,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
}

/// When a call may be made again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// Which calls.
    pub mode: RetryMode,
    /// Attempts in all; `None`: as the provider's policy says.
    pub attempts: Option<u32>,
}

/// Which calls may be made again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetryMode {
    /// None.
    Never,
    /// Safe ones, and those with a key by which the provider knows a repetition.
    #[default]
    Safe,
    /// This one: its caller promises that it does no harm.
    Idempotent,
}

/// A provider's answer, whatever its status.
pub struct StreamedAnswer {
    /// HTTP status code.
    pub status: u16,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body, as it comes. Dropping it ends the call at the provider.
    pub body: AnswerStream,
    /// How often the call was sent.
    pub attempts: u32,
    /// Where the token of the last attempt came from.
    pub source: Source,
    /// Where the answer comes from.
    pub origin: Origin,
    /// When the body is to be dropped although it has not come to its end.
    pub ends_at: Option<Instant>,
    /// How long the caller may take nothing before the body is to be dropped.
    pub stall_timeout: Duration,
}

/// The same, read to its end.
#[derive(Debug)]
pub struct WholeAnswer {
    /// HTTP status code.
    pub status: u16,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// How often the call was sent.
    pub attempts: u32,
    /// Where the token of the last attempt came from.
    pub source: Source,
    /// Where the answer comes from.
    pub origin: Origin,
    /// Whether the provider says that it did nothing: it refused the token, or asked to wait.
    pub is_declined: bool,
}

impl WholeAnswer {
    /// The same, to be kept: its fields hold nothing but themselves.
    #[must_use]
    pub(super) fn detached(self) -> Self {
        Self { headers: detached(&self.headers), ..self }
    }
}
