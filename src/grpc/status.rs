//! The error table: from what went wrong to what a gRPC client sees. Owns codes, details and trailers. Does not log
//! and does not decide what went wrong.
//!
//! Invariant: the match over [`Error`] is exhaustive, so a new failure cannot leave without a place in the table; every
//! status carries `ErrorInfo`, and whatever says when to retry says it in `RetryInfo` and in `grpc-retry-pushback-ms`.

use std::collections::HashMap;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::connection::ConnectionId;
use crate::error::{Error, OAuthCode, ProviderError, SessionFlaw, StoreError};

/// The domain of every reason (AIP-193).
pub const DOMAIN: &str = "tokenbroker.dev";

/// How a gRPC client is told how long to wait before it tries again (gRFC A6).
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Response metadata, and request metadata where the caller has an id of its own.
pub(super) const REQUEST_ID: &str = "x-request-id";

/// What a request was about, as far as it was understood; empty where it was not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct About<'a> {
    pub(super) provider: &'a str,
    pub(super) connection: &'a str,
    pub(super) tenant: &'a str,
}

impl<'a> From<&'a ConnectionId> for About<'a> {
    fn from(id: &'a ConnectionId) -> Self {
        Self { provider: id.provider.as_str(), connection: id.name.as_str(), tenant: id.tenant.as_str() }
    }
}

/// The status for a failure.
pub(super) fn status(error: &Error, about: About<'_>, request_id: &MetadataValue<Ascii>) -> Status {
    let mut answer = Answer { details: ErrorDetails::new(), metadata: HashMap::new() };
    let code = answer.fill(error, about);
    let Answer { mut details, metadata } = answer;
    details.set_error_info(error.reason().as_str(), DOMAIN, metadata);
    let mut trailers = MetadataMap::with_capacity(2);
    if let Some(wait) = error.retry_after() {
        details.set_retry_info(Some(wait));
        trailers.insert(PUSHBACK, millis(wait).into());
    }
    identified(code, message(error), details, trailers, request_id)
}

/// A status that says which request it ends, in its details and in its trailers.
pub(super) fn identified(
    code: Code,
    message: impl Into<String>,
    mut details: ErrorDetails,
    mut trailers: MetadataMap,
    request_id: &MetadataValue<Ascii>,
) -> Status {
    if let Ok(id) = request_id.to_str() {
        details.set_request_info(id, "");
    }
    trailers.insert(REQUEST_ID, request_id.clone());
    Status::with_error_details_and_metadata(code, message, details, trailers)
}

fn millis(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)
}

fn message(error: &Error) -> String {
    match error {
        Error::MessageTooLarge { .. } => format!("{error}; StreamProviderCall takes bodies of any size"),
        error => error.to_string(),
    }
}

/// The details of a status in the making.
struct Answer {
    details: ErrorDetails,
    metadata: HashMap<String, String>,
}

impl Answer {
    /// The table: a row for each failure.
    fn fill(&mut self, error: &Error, about: About<'_>) -> Code {
        match error {
            Error::InvalidRequest(mistakes) => {
                for mistake in mistakes {
                    self.details.add_bad_request_violation(&mistake.field, &mistake.message);
                }
                Code::InvalidArgument
            }
            Error::MessageTooLarge { limit_bytes } => {
                self.tell("limitBytes", &limit_bytes.to_string());
                Code::ResourceExhausted
            }
            Error::BodyTooLarge { limit, most } | Error::Swollen { limit, most } => {
                self.tell("limit", limit);
                self.tell("most", &most.to_string());
                Code::ResourceExhausted
            }
            Error::Unattended { provider, limit, most } => {
                self.tell("provider", provider.as_str());
                self.tell("limit", limit);
                self.tell("most", &most.to_string());
                self.details.add_quota_failure_violation(format!("provider:{provider}"), error.to_string());
                Code::ResourceExhausted
            }
            Error::CallerUnknown(_) => Code::Unauthenticated,
            Error::CallerNotAllowed { provider } => {
                self.tell("provider", provider.as_str());
                Code::PermissionDenied
            }
            Error::ProviderNotConfigured { provider, known } => {
                let known: Vec<_> = known.iter().map(|key| key.as_str()).collect();
                self.tell("provider", provider);
                self.tell("knownProviders", &known.join(","));
                self.details.set_resource_info("provider", provider, "", "not in the configuration");
                Code::NotFound
            }
            Error::ProviderDisabled { provider } => {
                self.tell("provider", provider.as_str());
                self.precondition("ENABLED", provider.as_str(), "its configuration says enabled: false");
                Code::FailedPrecondition
            }
            Error::ConnectionNotFound(id) => {
                self.tell_connection(id);
                self.details.set_resource_info("connection", id.to_string(), "", "BeginConnect makes it");
                Code::NotFound
            }
            Error::ConnectSessionInvalid { provider, why } => {
                if let Some(provider) = provider {
                    self.tell("provider", provider.as_str());
                }
                if let SessionFlaw::Refused(code) | SessionFlaw::CodeRejected(code) = why {
                    self.tell("oauthError", code.as_str());
                }
                self.precondition("CONSENT", "session", "begin again with ConnectionService.BeginConnect");
                Code::FailedPrecondition
            }
            Error::ReauthRequired { connection, oauth_error, consented_at: _ } => {
                self.tell_connection(connection);
                self.tell_oauth_error(oauth_error.as_ref());
                self.consent_helps(connection);
                Code::FailedPrecondition
            }
            Error::ScopeNotGranted { connection, missing } => {
                self.tell_connection(connection);
                self.tell("missingScopes", &missing.join(" "));
                self.consent_helps(connection);
                Code::FailedPrecondition
            }
            Error::ConnectionAmbiguous { connection, retry_after: _ } => {
                self.tell_connection(connection);
                Code::Unavailable
            }
            Error::Provider { provider, error } => {
                self.tell("provider", provider.as_str());
                self.fill_provider(provider.as_str(), error, about)
            }
            Error::RequestRefused(refusal) => {
                self.tell("rule", refusal.rule().as_str());
                Code::InvalidArgument
            }
            Error::Store(StoreError::Conflict) => {
                self.tell_asked(about);
                Code::Aborted
            }
            Error::Store(StoreError::Unavailable(_)) => Code::Unavailable,
            Error::Store(StoreError::Unreadable(_)) => {
                self.tell_asked(about);
                Code::DataLoss
            }
            Error::ShuttingDown => Code::Unavailable,
            Error::Internal(_) => Code::Internal,
        }
    }

    /// The rows of failures at the provider.
    fn fill_provider(&mut self, provider: &str, error: &ProviderError, about: About<'_>) -> Code {
        self.tell_oauth_error(error.oauth_code());
        match error {
            ProviderError::Denied(_) => {
                self.tell_asked(about);
                let subject = format!("{provider} {}", about.connection);
                self.precondition("CONSENT", subject.trim_end(), CONSENT_HELPS);
                Code::FailedPrecondition
            }
            ProviderError::Misconfigured(_) => {
                self.precondition("CLIENT", provider, "check client_id, the secret and the redirect URI");
                Code::FailedPrecondition
            }
            ProviderError::RateLimited { .. } => {
                self.details.add_quota_failure_violation(
                    format!("provider:{provider}"),
                    "the provider takes no more requests of this client for now",
                );
                Code::ResourceExhausted
            }
            ProviderError::NoTurn { limit, retry_after: _ } => {
                self.tell("limit", limit);
                self.details.add_quota_failure_violation(format!("provider:{provider}"), error.to_string());
                Code::ResourceExhausted
            }
            ProviderError::CircuitOpen { retry_after: _, outage } => {
                self.tell("host", outage.host.as_deref().unwrap_or_default());
                self.tell("failures", &outage.failures.to_string());
                self.tell("failuresWithinSeconds", &outage.within.as_secs().max(1).to_string());
                self.tell("turnedAway", &outage.refused.to_string());
                if let Some(last) = &outage.last {
                    self.tell("lastReason", last.reason().as_str());
                    self.tell("lastFailure", &last.to_string());
                }
                Code::Unavailable
            }
            ProviderError::Ambiguous { cause } => {
                self.tell("limit", cause.limit().unwrap_or_default());
                Code::Unavailable
            }
            ProviderError::Unavailable { cause, .. } => {
                self.tell("limit", cause.limit().unwrap_or_default());
                Code::Unavailable
            }
            ProviderError::Malformed => Code::Unavailable,
        }
    }

    fn tell(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.metadata.insert(key.to_owned(), value.to_owned());
        }
    }

    fn tell_connection(&mut self, id: &ConnectionId) {
        self.tell("provider", id.provider.as_str());
        self.tell("connection", id.name.as_str());
        self.tell("tenant", id.tenant.as_str());
    }

    /// The connection that the request named, where the failure does not know it.
    fn tell_asked(&mut self, about: About<'_>) {
        self.tell("connection", about.connection);
        self.tell("tenant", about.tenant);
    }

    fn tell_oauth_error(&mut self, code: Option<&OAuthCode>) {
        if let Some(code) = code {
            self.tell("oauthError", code.as_str());
        }
    }

    fn precondition(&mut self, kind: &str, subject: &str, description: &str) {
        self.details.add_precondition_failure_violation(kind, subject, description);
    }

    fn consent_helps(&mut self, id: &ConnectionId) {
        self.precondition("CONSENT", &id.to_string(), CONSENT_HELPS);
    }
}

const CONSENT_HELPS: &str =
    "send the owner to the URL that ConnectionService.BeginConnect gives for the same connection";

#[cfg(test)]
mod tests;
