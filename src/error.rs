//! Every failure the broker can report. Owns the error types, the word each has on the wire ([`Reason`]) and whose
//! move it is ([`Fault`]). Does not know gRPC codes, exit codes or log levels: the doors and the CLI map reasons to
//! those, each in one exhaustive match. Invariant: no error holds a secret, a response body, a URL query or a
//! provider's free text.

mod provider;
mod reason;
mod refusal;

use std::time::Duration;

pub use provider::{AmbiguousCause, OAuthCode, Outage, ProviderError, Unsent};
pub use reason::{Fault, Reason};
pub use refusal::{Refusal, Rule};

use crate::clock::Timestamp;
use crate::connection::{ConnectionId, ProviderKey};

/// Why the broker could not do what it was asked. Cheap to clone: every caller that waited for one refresh gets
/// the same answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The request itself is wrong; every mistake in it is listed.
    #[error("{}", join(.0))]
    InvalidRequest(Vec<Mistake>),
    /// The message exceeds what this door takes.
    #[error("the message is larger than {limit_bytes} bytes")]
    MessageTooLarge {
        /// The limit that was exceeded.
        limit_bytes: u64,
    },
    /// A body of a call exceeds what the provider's entry allows.
    #[error("the body is larger than {limit} allows ({most} bytes)")]
    BodyTooLarge {
        /// The limit of the provider's entry that was exceeded.
        limit: &'static str,
        /// Its figure.
        most: u64,
    },
    /// A provider's answer grew too large when it was decompressed.
    #[error("the answer decompresses to more than {limit} allows ({most})")]
    Swollen {
        /// The limit of the provider's entry that was exceeded.
        limit: &'static str,
        /// Its figure.
        most: u64,
    },
    /// Who calls could not be settled.
    #[error("the caller could not be identified: {0}")]
    CallerUnknown(&'static str),
    /// The caller may not do this.
    #[error("the caller may not use provider {provider}")]
    CallerNotAllowed {
        /// The provider that was asked for.
        provider: ProviderKey,
    },
    /// No provider of that name is in the configuration.
    #[error("no provider named {provider:?} is configured; configured: {}", list(.known))]
    ProviderNotConfigured {
        /// The name that was asked for.
        provider: String,
        /// What is configured, in order.
        known: Vec<ProviderKey>,
    },
    /// The provider is configured with `enabled: false`.
    #[error("provider {provider} is disabled in the configuration")]
    ProviderDisabled {
        /// The provider that was asked for.
        provider: ProviderKey,
    },
    /// No such connection, or policy hides it.
    #[error("no connection {0}")]
    ConnectionNotFound(ConnectionId),
    /// `state`, `session` or the one-time code is unknown, used or too old, or the provider refused the consent.
    #[error("this connect session cannot be used: {why}")]
    ConnectSessionInvalid {
        /// The provider of the session, when it is known.
        provider: Option<ProviderKey>,
        /// What is wrong with it.
        why: SessionFlaw,
    },
    /// Only the owner's consent brings this connection back.
    #[error("{connection} needs its owner's consent {}", consent_word(.consented_at))]
    ReauthRequired {
        /// The connection that is dead or was never connected.
        connection: ConnectionId,
        /// The provider's own error code, when the provider said so.
        oauth_error: Option<OAuthCode>,
        /// When the owner last consented; `None`: never.
        consented_at: Option<Timestamp>,
    },
    /// The grant is alive but narrower than what the caller needs.
    #[error("{connection} was not granted {}", .missing.join(" "))]
    ScopeNotGranted {
        /// The connection asked for.
        connection: ConnectionId,
        /// The scopes the grant lacks.
        missing: Vec<String>,
    },
    /// A refresh was sent and its outcome is unknown; no living token is left to serve.
    #[error("the outcome of the last refresh of {connection} is not known yet")]
    ConnectionAmbiguous {
        /// The connection asked for.
        connection: ConnectionId,
        /// When it is worth asking again.
        retry_after: Duration,
    },
    /// The provider could not be used, or said no to the client.
    #[error("{provider}: {error}")]
    Provider {
        /// The provider that failed.
        provider: ProviderKey,
        /// How it failed.
        error: ProviderError,
    },
    /// Calls whose callers hung up go on, and no more of them are taken; nothing was sent.
    #[error(
        "the call was not made: calls with a request_id are under way whose callers hung up, and {limit} lets no more \
         go for now ({most})"
    )]
    Unattended {
        /// At which provider.
        provider: ProviderKey,
        /// Which bound is reached.
        limit: &'static str,
        /// Its figure, in calls or bytes.
        most: u64,
    },
    /// A rule of the provider call was broken: path, header, host or method.
    #[error("the call was not made: {0}")]
    RequestRefused(#[from] Refusal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The broker is draining.
    #[error("the broker is shutting down")]
    ShuttingDown,
    /// A bug in the broker. The text is fixed at compile time, so it cannot carry a secret.
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl Error {
    /// An [`Error::InvalidRequest`] with one mistake.
    pub fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::InvalidRequest(vec![Mistake { field: field.into(), message: message.into() }])
    }

    /// A call at a provider's API that came to the end of its time, by that limit of the provider's entry.
    pub fn out_of_time(provider: &ProviderKey, limit: &'static str) -> Self {
        let error = ProviderError::Ambiguous { cause: AmbiguousCause::OutOfTime { limit } };
        Self::Provider { provider: provider.clone(), error }
    }

    /// The same of one of which nothing had left by then: it was certainly not made.
    pub fn unsent_in_time(provider: &ProviderKey, limit: &'static str) -> Self {
        Self::unsent(provider, Unsent::OutOfTime { limit })
    }

    /// A call of which nothing has left, for this cause.
    pub fn unsent(provider: &ProviderKey, cause: Unsent) -> Self {
        let error = ProviderError::Unavailable { cause, retry_after: None };
        Self::Provider { provider: provider.clone(), error }
    }

    /// A streamed call whose caller did nothing for so long; `what` says what of its chunks.
    pub fn stalled(what: &str, span: Duration) -> Self {
        Self::invalid("chunk", format!("{what} for {span:?} (api.limits.stall_timeout)"))
    }

    /// The word for this failure on the wire, in logs, in metrics and in the README.
    pub fn reason(&self) -> Reason {
        match self {
            Self::InvalidRequest(_) => Reason::InvalidRequest,
            Self::MessageTooLarge { .. } | Self::BodyTooLarge { .. } | Self::Swollen { .. } => {
                Reason::MessageTooLarge
            }
            Self::CallerUnknown(_) => Reason::CallerUnknown,
            Self::CallerNotAllowed { .. } => Reason::CallerNotAllowed,
            Self::ProviderNotConfigured { .. } => Reason::ProviderNotConfigured,
            Self::ProviderDisabled { .. } => Reason::ProviderDisabled,
            Self::ConnectionNotFound(_) => Reason::ConnectionNotFound,
            Self::ConnectSessionInvalid { .. } => Reason::ConnectSessionInvalid,
            Self::ReauthRequired { .. } => Reason::ReauthRequired,
            Self::ScopeNotGranted { .. } => Reason::ScopeNotGranted,
            Self::ConnectionAmbiguous { .. } => Reason::ConnectionAmbiguous,
            Self::Provider { error, .. } => error.reason(),
            Self::Unattended { .. } => Reason::ProviderRateLimited,
            Self::RequestRefused(_) => Reason::RequestRefused,
            Self::Store(error) => error.reason(),
            Self::ShuttingDown => Reason::ShuttingDown,
            Self::Internal(_) => Reason::Internal,
        }
    }

    /// When it is worth trying again, if waiting helps.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::ConnectionAmbiguous { retry_after, .. } => Some(*retry_after),
            Self::Provider { error, .. } => error.retry_after(),
            Self::Store(StoreError::Conflict) => Some(Duration::ZERO),
            Self::Unattended { .. } | Self::Store(StoreError::Unavailable(_)) | Self::ShuttingDown => {
                Some(Duration::from_secs(1))
            }
            _ => None,
        }
    }
}

/// One thing wrong with a request or a configuration: where, and what is accepted instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The field, as the caller spelled its path (`connection`, `providers[0].client_id`).
    pub field: String,
    /// What is wrong and what is accepted.
    pub message: String,
}

/// Why a connect session cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionFlaw {
    /// Never begun here, used already, or older than its ten minutes.
    #[error("it is unknown, already used, or older than 10 minutes; begin again")]
    Unknown,
    /// The answer came back at another callback than the one it was asked for.
    #[error("the answer came back at another callback than it was asked for")]
    WrongCallback,
    /// `iss` is missing or names another authorization server (RFC 9207).
    #[error("the answer's issuer is not the provider's")]
    WrongIssuer,
    /// The owner or the provider said no at the consent page.
    #[error("the provider answered {0} instead of consent")]
    Refused(OAuthCode),
    /// The provider did not accept the code.
    #[error("the provider did not accept the authorization code ({0})")]
    CodeRejected(OAuthCode),
    /// Another account consented than the one this connection belongs to.
    #[error("a different account consented; begin again with allow_account_change to accept it")]
    AccountChanged,
    /// The connection belongs to a known account, and whose consent this is could not be told.
    #[error("whose account consented could not be told, and this connection belongs to a known one")]
    AccountUnknown,
    /// The connection is being disconnected, and the provider has not confirmed yet.
    #[error(
        "the connection is being disconnected and its provider has not confirmed the revocation yet; \
         begin again when it is gone, or under another name"
    )]
    Disconnecting,
    /// Neither a code nor an error came back.
    #[error("the answer carries neither a code nor an error")]
    Empty,
}

/// How the store failed. Cheap to clone and without any content of the store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The record changed since it was read.
    #[error("the connection was changed by somebody else at the same time")]
    Conflict,
    /// The engine failed; it is being reopened, or needs an operator.
    #[error("the store cannot be used: {0}")]
    Unavailable(String),
    /// A record does not open: another key, another version, or damage.
    #[error("a record cannot be read: {0}")]
    Unreadable(&'static str),
}

impl StoreError {
    fn reason(&self) -> Reason {
        match self {
            Self::Conflict => Reason::StoreConflict,
            Self::Unavailable(_) => Reason::StoreUnavailable,
            Self::Unreadable(_) => Reason::RecordUnreadable,
        }
    }
}

fn join(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(|m| format!("{}: {}", m.field, m.message)).collect::<Vec<_>>().join("; ")
}

fn list(known: &[ProviderKey]) -> String {
    if known.is_empty() {
        return "none".to_owned();
    }
    known.iter().map(ProviderKey::as_str).collect::<Vec<_>>().join(", ")
}

fn consent_word(consented_at: &Option<Timestamp>) -> &'static str {
    if consented_at.is_some() { "again" } else { "first" }
}
