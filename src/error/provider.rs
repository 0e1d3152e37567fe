//! What a provider's failure means. One place decides (the provider room), the record remembers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Reason;

/// How a request to a provider failed. Holds no body, no header, no URL query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// The provider's word that this grant (or this code) is dead: `invalid_grant`, or what its spec calls death.
    #[error("the provider ended the grant ({0})")]
    Denied(OAuthCode),
    /// The provider does not accept our client: `invalid_client`, `unauthorized_client`, a wrong redirect URI, or a
    /// configuration that cannot work. Says nothing about the grant.
    #[error("the provider does not accept this client ({0})")]
    Misconfigured(OAuthCode),
    /// The provider refused without processing, for being asked too often; or it was not asked, so as not to be too often.
    #[error("the provider takes no more requests for now")]
    RateLimited {
        /// How long the provider wants us to wait, if it said.
        retry_after: Option<Duration>,
    },
    /// A limit that the provider's entry sets itself let a request not go in time; the provider was not asked.
    #[error("no turn came in time: {limit} lets no more go for now")]
    NoTurn {
        /// Which, as the entry spells it.
        limit: &'static str,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// The request was certainly not processed, or it was one that changes nothing.
    #[error("the provider cannot be reached ({cause})")]
    Unavailable {
        /// Why.
        cause: Unsent,
        /// How long the provider wants us to wait, if it said.
        retry_after: Option<Duration>,
    },
    /// The request may have been processed, and its answer is lost. After a refresh the refresh token may be spent.
    #[error("the provider's answer was lost ({cause})")]
    Ambiguous {
        /// How it was lost.
        cause: AmbiguousCause,
    },
    /// The provider answered something that its protocol does not allow, in a way that changes nothing.
    #[error("the provider's answer cannot be understood")]
    Malformed,
    /// The provider's circuit breaker is open; nothing was sent.
    #[error("{} is resting after {outage}", outage.host.as_deref().unwrap_or("the provider"))]
    CircuitOpen {
        /// When the next attempt will be let through.
        retry_after: Duration,
        /// What it rests from.
        outage: Box<Outage>,
    },
}

/// Why a circuit breaker is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outage {
    /// Which host of its API it is, with its port; `None`: its token endpoint.
    pub host: Option<Arc<str>>,
    /// Failures in a row.
    pub failures: u32,
    /// From the first of them to the last.
    pub within: Duration,
    /// The last of them.
    pub last: Option<ProviderError>,
    /// How many requests were turned away since.
    pub refused: u64,
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.failures {
            1 => f.write_str("a failure")?,
            failures => write!(f, "{failures} failures in {} s", self.within.as_secs().max(1))?,
        }
        self.last.as_ref().map_or(Ok(()), |last| write!(f, ", last: {last}"))
    }
}

impl ProviderError {
    /// The word on the wire for this failure.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Denied(_) => Reason::ReauthRequired,
            Self::Misconfigured(_) => Reason::ProviderRejectedClient,
            Self::RateLimited { .. } | Self::NoTurn { .. } => Reason::ProviderRateLimited,
            Self::Unavailable { .. } | Self::Ambiguous { .. } => Reason::ProviderUnavailable,
            Self::Malformed => Reason::ProviderMalformed,
            Self::CircuitOpen { .. } => Reason::ProviderCircuitOpen,
        }
    }

    /// How long the provider asks to be left alone, if its answer said so (`Retry-After`, RFC 9110 section 10.2.3), or
    /// its breaker is open.
    pub fn asked_wait(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after }
            | Self::Unavailable { retry_after, .. }
            | Self::Ambiguous { cause: AmbiguousCause::Status { retry_after, .. } } => *retry_after,
            Self::NoTurn { retry_after, .. } | Self::CircuitOpen { retry_after, .. } => Some(*retry_after),
            Self::Denied(_) | Self::Misconfigured(_) | Self::Ambiguous { .. } | Self::Malformed => None,
        }
    }

    /// When it is worth trying again, if waiting helps. One second where the provider named no time.
    pub fn retry_after(&self) -> Option<Duration> {
        const UNSAID: Duration = Duration::from_secs(1);
        match self {
            Self::Denied(_) | Self::Misconfigured(_) | Self::Malformed => None,
            Self::RateLimited { .. }
            | Self::NoTurn { .. }
            | Self::Unavailable { .. }
            | Self::Ambiguous { .. }
            | Self::CircuitOpen { .. } => Some(self.asked_wait().unwrap_or(UNSAID)),
        }
    }

    /// The provider's own error code, where it sent one.
    pub fn oauth_code(&self) -> Option<&OAuthCode> {
        match self {
            Self::Denied(code) | Self::Misconfigured(code) => Some(code),
            _ => None,
        }
    }
}

/// Why a request was certainly not processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsent {
    /// The host name did not resolve.
    #[error("its name does not resolve")]
    Dns,
    /// Its host is at an address that is not public, and the entry does not say that this is meant.
    #[error(
        "its address is not a public one; where it is meant, write its network into the provider's allow_networks"
    )]
    Address,
    /// No connection could be made.
    #[error("no connection")]
    Connect,
    /// The connection that another call was making, and that this one was to share, was not made.
    #[error("no connection to share")]
    Unshared,
    /// The connection ended before the request, at a host of which the entry says that it speaks HTTP/2 without TLS.
    #[error("it closed the connection before the request; {IF_HTTP1}")]
    ClosedHttp2,
    /// TLS could not be agreed on.
    #[error("TLS failed")]
    Tls,
    /// Its certificate is good, but of no authority that is trusted.
    #[error(
        "nobody who is trusted vouches for its certificate; where it is meant, name its authority in http.ca_file"
    )]
    Untrusted,
    /// It showed the certificate of somebody else.
    #[error("its certificate is for another name")]
    Misnamed,
    /// Its certificate is not of this time; or our clock is wrong.
    #[error("its certificate has expired or is not valid yet")]
    Outdated,
    /// The server refused before processing, with this status.
    #[error("it answered {0}")]
    Refused(u16),
    /// The server gave the request back unprocessed (RFC 9113 section 8.7).
    #[error("it gave the request back unprocessed")]
    GivenBack,
    /// The server closes the connection, and the request came after the last that it processes (RFC 9113 section 6.8).
    #[error("it closed the connection before the request")]
    GoingAway,
    /// A request that changes nothing (discovery, userinfo) did not complete in time.
    #[error("no answer in time")]
    Timeout,
    /// A limit of the provider's entry left a call at its API no more time while it waited for a token or a connection.
    #[error("the call did not leave before {limit} ran out")]
    OutOfTime {
        /// Which, as the entry spells it.
        limit: &'static str,
    },
    /// Nothing was sent: an earlier request failed, and the next one waits.
    #[error("it failed a moment ago, and the next attempt waits")]
    Paused,
    /// Nothing was sent: to write down that it would be took so long that no time was left for an answer, or the time of a
    /// call's caller was over before it left.
    #[error("no time was left for it")]
    TooLate,
}

impl Unsent {
    /// The limit of the provider's entry that ended a call, as the entry spells it.
    pub const fn limit(&self) -> Option<&'static str> {
        match self {
            Self::OutOfTime { limit } => Some(limit),
            Self::Dns
            | Self::Address
            | Self::Connect
            | Self::Unshared
            | Self::ClosedHttp2
            | Self::Tls
            | Self::Untrusted
            | Self::Misnamed
            | Self::Outdated
            | Self::Refused(_)
            | Self::GivenBack
            | Self::GoingAway
            | Self::Timeout
            | Self::Paused
            | Self::TooLate => None,
        }
    }
}

/// How the answer to a request that may have been processed was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmbiguousCause {
    /// No answer in time after the request had left.
    #[error("no answer in time")]
    Timeout,
    /// A limit of the provider's entry left a call at its API no more time.
    #[error("{limit} ran out")]
    OutOfTime {
        /// Which, as the entry spells it.
        limit: &'static str,
    },
    /// The connection broke after the request had left.
    #[error("the connection broke")]
    Reset,
    /// The same at a host of which the entry says that it speaks HTTP/2 without TLS: perhaps it does not.
    #[error("the connection broke; {IF_HTTP1}")]
    ResetHttp2,
    /// A server error, which says nothing about what was done before it.
    #[error("it answered {status}")]
    Status {
        /// Which.
        status: u16,
        /// How long the provider wants us to wait, if it said.
        retry_after: Option<Duration>,
    },
    /// Its header fields are more than are taken: 1000, or 64 KiB.
    #[error("its header fields exceed 1000 or 64 KiB")]
    HeadTooLarge,
    /// Its body came too slowly to be waited for.
    #[error("its answer came more slowly than {MIN_RATE}")]
    TooSlow,
    /// Its compressed body cannot be decompressed.
    #[error("its compressed body is broken")]
    Undecodable,
    /// A success status whose body cannot be understood.
    #[error("a success without tokens that can be read")]
    Unparsable,
}

/// What to do about a host that does not speak what its entry says.
const IF_HTTP1: &str =
    "if its host speaks only HTTP/1.1, take api.http2_prior_knowledge out of the provider's entry";

/// The limit of an entry that says how slow an answer may be.
const MIN_RATE: &str = "api.limits.min_bytes_per_second";

impl AmbiguousCause {
    /// The limit of the provider's entry that ended a call, as the entry spells it.
    pub const fn limit(&self) -> Option<&'static str> {
        match self {
            Self::OutOfTime { limit } => Some(limit),
            Self::TooSlow => Some(MIN_RATE),
            Self::Timeout
            | Self::Reset
            | Self::ResetHttp2
            | Self::Status { .. }
            | Self::HeadTooLarge
            | Self::Undecodable
            | Self::Unparsable => None,
        }
    }
}

/// An OAuth error code as a provider sent it (RFC 6749 section 5.2): at most 64 characters of `[A-Za-z0-9_.-]`.
/// Anything else a provider sends in its place is free text and becomes `unrecognized`.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OAuthCode(String);

impl OAuthCode {
    /// Takes what a provider sent, or `unrecognized` where it is not a code.
    pub fn new(raw: &str) -> Self {
        let is_code = (1..=64).contains(&raw.len())
            && raw.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        Self(if is_code { raw } else { "unrecognized" }.to_owned())
    }

    /// The code.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OAuthCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OAuthCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_text_in_place_of_a_code_is_not_kept() {
        assert_eq!(OAuthCode::new("invalid_grant").as_str(), "invalid_grant");
        for raw in ["", "token abc is bad", "a\nb", &"x".repeat(65), "ünï"] {
            assert_eq!(OAuthCode::new(raw).as_str(), "unrecognized", "{raw:?}");
        }
    }

    #[test]
    fn a_dead_network_is_never_reauth_required() {
        let network = [
            ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None },
            ProviderError::Ambiguous { cause: AmbiguousCause::Timeout },
            ProviderError::RateLimited { retry_after: None },
            ProviderError::Malformed,
            ProviderError::CircuitOpen { retry_after: Duration::from_secs(60), outage: Box::default() },
            ProviderError::Misconfigured(OAuthCode::new("invalid_client")),
        ];
        for error in network {
            assert_ne!(error.reason(), Reason::ReauthRequired, "{error:?}");
        }
    }
}
