//! The one vocabulary of failures.

use std::fmt;

/// Why a request failed, as one word. The same word stands in `google.rpc.ErrorInfo.reason`, in the log, in the
/// metric label and in the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The request is malformed; the details list every field.
    InvalidRequest,
    /// The message is larger than the door takes.
    MessageTooLarge,
    /// The caller could not be identified.
    CallerUnknown,
    /// The caller is known and may not do this.
    CallerNotAllowed,
    /// No provider of that name in the configuration.
    ProviderNotConfigured,
    /// The provider is switched off in the configuration.
    ProviderDisabled,
    /// No such connection, or policy hides it.
    ConnectionNotFound,
    /// The connect session is unknown, used, expired or was refused.
    ConnectSessionInvalid,
    /// The grant is dead; its owner must consent again.
    ReauthRequired,
    /// The grant lacks a scope the caller asked for.
    ScopeNotGranted,
    /// A refresh was sent and its outcome is unknown.
    ConnectionAmbiguous,
    /// The provider does not accept our client credentials or configuration.
    ProviderRejectedClient,
    /// The provider asked us to slow down.
    ProviderRateLimited,
    /// The provider cannot be reached or answers with errors.
    ProviderUnavailable,
    /// The provider's circuit breaker is open.
    ProviderCircuitOpen,
    /// The provider's answer cannot be understood.
    ProviderMalformed,
    /// A provider call broke a rule on path, header, host or method.
    RequestRefused,
    /// The record changed while we worked on it.
    StoreConflict,
    /// The store cannot be used at the moment.
    StoreUnavailable,
    /// A record does not open with the key at hand.
    RecordUnreadable,
    /// The broker is draining.
    ShuttingDown,
    /// A bug in the broker.
    Internal,
}

/// Whose move it is after a failure. Sets the log level and the exit code's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The calling application.
    Caller,
    /// The person who owns the account.
    Owner,
    /// The provider.
    Provider,
    /// Whoever runs the broker.
    Operator,
    /// The broker itself.
    Broker,
}

impl Reason {
    /// Every reason, in the order of the README's table.
    pub const ALL: [Self; 22] = [
        Self::InvalidRequest,
        Self::MessageTooLarge,
        Self::CallerUnknown,
        Self::CallerNotAllowed,
        Self::ProviderNotConfigured,
        Self::ProviderDisabled,
        Self::ConnectionNotFound,
        Self::ConnectSessionInvalid,
        Self::ReauthRequired,
        Self::ScopeNotGranted,
        Self::ConnectionAmbiguous,
        Self::ProviderRejectedClient,
        Self::ProviderRateLimited,
        Self::ProviderUnavailable,
        Self::ProviderCircuitOpen,
        Self::ProviderMalformed,
        Self::RequestRefused,
        Self::StoreConflict,
        Self::StoreUnavailable,
        Self::RecordUnreadable,
        Self::ShuttingDown,
        Self::Internal,
    ];

    /// The word itself, `UPPER_SNAKE`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::MessageTooLarge => "MESSAGE_TOO_LARGE",
            Self::CallerUnknown => "CALLER_UNKNOWN",
            Self::CallerNotAllowed => "CALLER_NOT_ALLOWED",
            Self::ProviderNotConfigured => "PROVIDER_NOT_CONFIGURED",
            Self::ProviderDisabled => "PROVIDER_DISABLED",
            Self::ConnectionNotFound => "CONNECTION_NOT_FOUND",
            Self::ConnectSessionInvalid => "CONNECT_SESSION_INVALID",
            Self::ReauthRequired => "REAUTH_REQUIRED",
            Self::ScopeNotGranted => "SCOPE_NOT_GRANTED",
            Self::ConnectionAmbiguous => "CONNECTION_AMBIGUOUS",
            Self::ProviderRejectedClient => "PROVIDER_REJECTED_CLIENT",
            Self::ProviderRateLimited => "PROVIDER_RATE_LIMITED",
            Self::ProviderUnavailable => "PROVIDER_UNAVAILABLE",
            Self::ProviderCircuitOpen => "PROVIDER_CIRCUIT_OPEN",
            Self::ProviderMalformed => "PROVIDER_MALFORMED",
            Self::RequestRefused => "REQUEST_REFUSED",
            Self::StoreConflict => "STORE_CONFLICT",
            Self::StoreUnavailable => "STORE_UNAVAILABLE",
            Self::RecordUnreadable => "RECORD_UNREADABLE",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::Internal => "INTERNAL",
        }
    }

    /// The reason of that word, if there is one.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }

    /// Whose move it is.
    pub const fn fault(self) -> Fault {
        match self {
            Self::InvalidRequest
            | Self::MessageTooLarge
            | Self::CallerUnknown
            | Self::CallerNotAllowed
            | Self::ProviderNotConfigured
            | Self::ConnectionNotFound
            | Self::RequestRefused => Fault::Caller,
            Self::ConnectSessionInvalid | Self::ReauthRequired | Self::ScopeNotGranted => Fault::Owner,
            Self::ConnectionAmbiguous
            | Self::ProviderRateLimited
            | Self::ProviderUnavailable
            | Self::ProviderCircuitOpen
            | Self::ProviderMalformed => Fault::Provider,
            Self::ProviderDisabled | Self::ProviderRejectedClient | Self::RecordUnreadable => Fault::Operator,
            Self::StoreConflict | Self::StoreUnavailable | Self::ShuttingDown | Self::Internal => {
                Fault::Broker
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Fault {
    /// The word in logs and in `--json` errors.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Owner => "owner",
            Self::Provider => "provider",
            Self::Operator => "operator",
            Self::Broker => "broker",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_leads_back_to_its_reason() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
        }
        assert_eq!(Reason::parse("invalid_request"), None);
    }
}
