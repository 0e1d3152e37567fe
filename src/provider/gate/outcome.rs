//! What an outcome says about the token endpoint: the breaker's view of failures, which is not the grant's.

use crate::error::ProviderError;
use crate::provider::breaker::Verdict;

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::provider) enum Asker {
    /// A refresh.
    Refresh,
    /// A code from a consent.
    Consent,
}

/// Codes that blame one request, not the client. They may still be the whole configuration's fault, so they count as
/// failures; but a single grant must not close the way of all the others, and some providers say `invalid_request`
/// where a single grant is dead.
const ABOUT_ONE_REQUEST: &[&str] = &[
    "invalid_redirect_uri",
    "invalid_request",
    "invalid_scope",
    "invalid_target",
    "redirect_uri_mismatch",
    "unsupported_grant_type",
    "unsupported_token_type",
];

impl Asker {
    /// What a request that ended like this says; `None`: it succeeded.
    pub(in crate::provider) fn verdict(self, error: Option<&ProviderError>) -> Verdict {
        match error {
            // An endpoint that says no to a dead grant works.
            None | Some(ProviderError::Denied(_)) => Verdict::Success,
            Some(ProviderError::Misconfigured(code)) if ABOUT_ONE_REQUEST.contains(&code.as_str()) => {
                match self {
                    Self::Refresh => Verdict::Failure(None),
                    // What an app asks for in a consent is its own affair.
                    Self::Consent => Verdict::Nothing,
                }
            }
            Some(ProviderError::Misconfigured(_)) => Verdict::Trip,
            Some(
                error @ (ProviderError::RateLimited { .. }
                | ProviderError::Unavailable { .. }
                | ProviderError::Ambiguous { .. }
                | ProviderError::Malformed),
            ) => Verdict::Failure(error.asked_wait()),
            // Nothing was sent.
            Some(ProviderError::NoTurn { .. } | ProviderError::CircuitOpen { .. }) => Verdict::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::{AmbiguousCause, OAuthCode, Unsent};

    #[test]
    fn what_counts_is_decided_by_what_it_says_about_the_endpoint() {
        let wait = Some(Duration::from_secs(9));
        let misconfigured = |code| ProviderError::Misconfigured(OAuthCode::new(code));
        let table = [
            (ProviderError::Denied(OAuthCode::new("invalid_grant")), Verdict::Success, Verdict::Success),
            (misconfigured("invalid_client"), Verdict::Trip, Verdict::Trip),
            (misconfigured("unauthorized_client"), Verdict::Trip, Verdict::Trip),
            // 401 with a challenge and no code (RFC 6749 section 5.2).
            (misconfigured(""), Verdict::Trip, Verdict::Trip),
            (misconfigured("incorrect_client_credentials"), Verdict::Trip, Verdict::Trip),
            (misconfigured("invalid_request"), Verdict::Failure(None), Verdict::Nothing),
            (misconfigured("redirect_uri_mismatch"), Verdict::Failure(None), Verdict::Nothing),
            (
                ProviderError::RateLimited { retry_after: wait },
                Verdict::Failure(wait),
                Verdict::Failure(wait),
            ),
            (
                ProviderError::Unavailable { cause: Unsent::Dns, retry_after: None },
                Verdict::Failure(None),
                Verdict::Failure(None),
            ),
            (
                ProviderError::Ambiguous { cause: AmbiguousCause::Status { status: 502, retry_after: None } },
                Verdict::Failure(None),
                Verdict::Failure(None),
            ),
            (
                ProviderError::Ambiguous { cause: AmbiguousCause::Status { status: 503, retry_after: wait } },
                Verdict::Failure(wait),
                Verdict::Failure(wait),
            ),
            (ProviderError::Malformed, Verdict::Failure(None), Verdict::Failure(None)),
        ];
        for (error, refresh, consent) in table {
            assert_eq!(Asker::Refresh.verdict(Some(&error)), refresh, "{error:?}");
            assert_eq!(Asker::Consent.verdict(Some(&error)), consent, "{error:?}");
        }
        assert_eq!(Asker::Refresh.verdict(None), Verdict::Success);
    }
}
