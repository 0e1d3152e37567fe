//! Why a consent did not work out, as the person in front of the browser is told.

use axum::http::StatusCode;

use crate::error::{Error, OAuthCode, ProviderError, SessionFlaw};

/// What a page says of a failed consent. Fewer than there are reasons: a person needs to know what to do next, the
/// rest is in the log and in the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Declined,
    Expired,
    MixedUp,
    Malformed,
    OtherAccount,
    Refused,
    UnknownProvider,
    ProviderUnreachable,
    Misconfigured,
    Unavailable,
    Internal,
}

impl Failure {
    const ALL: [Self; 11] = [
        Self::Declined,
        Self::Expired,
        Self::MixedUp,
        Self::Malformed,
        Self::OtherAccount,
        Self::Refused,
        Self::UnknownProvider,
        Self::ProviderUnreachable,
        Self::Misconfigured,
        Self::Unavailable,
        Self::Internal,
    ];

    /// What a person is told of `error`.
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::ConnectSessionInvalid { why, .. } => Self::of_flaw(why),
            Error::Provider { error, .. } => Self::of_provider(error),
            Error::ProviderNotConfigured { .. } | Error::ProviderDisabled { .. } => Self::UnknownProvider,
            Error::InvalidRequest(_)
            | Error::MessageTooLarge { .. }
            | Error::BodyTooLarge { .. }
            | Error::Swollen { .. }
            | Error::RequestRefused(_) => Self::Malformed,
            Error::CallerUnknown(_) | Error::CallerNotAllowed { .. } | Error::ScopeNotGranted { .. } => {
                Self::Refused
            }
            Error::ConnectionNotFound(_) | Error::ReauthRequired { .. } => Self::Expired,
            Error::ConnectionAmbiguous { .. } => Self::ProviderUnreachable,
            Error::Store(_) | Error::ShuttingDown | Error::Unattended { .. } => Self::Unavailable,
            Error::Internal(_) => Self::Internal,
        }
    }

    fn of_flaw(flaw: &SessionFlaw) -> Self {
        match flaw {
            SessionFlaw::Unknown => Self::Expired,
            SessionFlaw::WrongCallback | SessionFlaw::WrongIssuer => Self::MixedUp,
            SessionFlaw::Refused(code) => Self::of_refusal(code),
            SessionFlaw::CodeRejected(_) => Self::Refused,
            SessionFlaw::AccountChanged | SessionFlaw::AccountUnknown => Self::OtherAccount,
            SessionFlaw::Disconnecting => Self::Unavailable,
            SessionFlaw::Empty => Self::Malformed,
        }
    }

    /// RFC 6749 section 4.1.2.1 and OpenID Connect Core section 3.1.2.6.
    fn of_refusal(code: &OAuthCode) -> Self {
        match code.as_str() {
            "access_denied" | "consent_required" | "interaction_required" | "login_required" => {
                Self::Declined
            }
            "server_error" | "temporarily_unavailable" => Self::ProviderUnreachable,
            _ => Self::Refused,
        }
    }

    fn of_provider(error: &ProviderError) -> Self {
        match error {
            ProviderError::Denied(_) => Self::Refused,
            ProviderError::Misconfigured(_) => Self::Misconfigured,
            ProviderError::RateLimited { .. }
            | ProviderError::NoTurn { .. }
            | ProviderError::Unavailable { .. }
            | ProviderError::Ambiguous { .. }
            | ProviderError::Malformed
            | ProviderError::CircuitOpen { .. } => Self::ProviderUnreachable,
        }
    }

    /// The word for it in the clean URL.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Declined => "declined",
            Self::Expired => "expired",
            Self::MixedUp => "mixed-up",
            Self::Malformed => "malformed",
            Self::OtherAccount => "other-account",
            Self::Refused => "refused",
            Self::UnknownProvider => "unknown-provider",
            Self::ProviderUnreachable => "provider-unreachable",
            Self::Misconfigured => "misconfigured",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// The failure of that word, if there is one.
    pub(super) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|failure| failure.word() == word)
    }

    /// The status of the page that says so.
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::Expired | Self::MixedUp | Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Declined | Self::Refused => StatusCode::FORBIDDEN,
            Self::OtherAccount => StatusCode::CONFLICT,
            Self::UnknownProvider => StatusCode::NOT_FOUND,
            Self::ProviderUnreachable => StatusCode::BAD_GATEWAY,
            Self::Misconfigured | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The headline of the page.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Declined => "Not connected: consent was declined",
            Self::Expired => "Not connected: this link is no longer good",
            Self::MixedUp => "Not connected: the answer came from the wrong place",
            Self::Malformed => "Not connected: the answer was incomplete",
            Self::OtherAccount => "Not connected: a different account",
            Self::Refused => "Not connected: the provider refused",
            Self::UnknownProvider => "No such provider",
            Self::ProviderUnreachable => "Not connected: the provider did not answer",
            Self::Misconfigured => "Not connected: this service is set up wrongly",
            Self::Unavailable => "Not connected: try again in a moment",
            Self::Internal => "Not connected: something went wrong here",
        }
    }

    /// What happened and whose move it is, in a sentence or two. `provider` is its name for people.
    pub(super) fn sentence(self, provider: &str) -> String {
        match self {
            Self::Declined => format!(
                "{provider} says that access was not granted. If that was not meant, start again from the application."
            ),
            Self::Expired => {
                "It was used already, or is older than 10 minutes. Start again from the application.".to_owned()
            }
            Self::MixedUp => format!(
                "The answer does not belong to what was asked of {provider}, so it was not used. Start again from the \
                 application; if this comes back, tell whoever runs it."
            ),
            Self::Malformed => format!(
                "What {provider} sent back cannot be used. Start again from the application; if this comes back, tell \
                 whoever runs it."
            ),
            Self::OtherAccount => format!(
                "You consented with another {provider} account than the one that is connected. Sign in there with that \
                 account and start again from the application."
            ),
            Self::Refused => format!(
                "{provider} did not accept the request. Start again from the application; if this comes back, tell \
                 whoever runs it."
            ),
            Self::UnknownProvider => {
                "This service does not connect accounts of that provider. Tell whoever runs the application.".to_owned()
            }
            Self::ProviderUnreachable => format!(
                "{provider} could not be reached to complete the connection. Wait a moment and start again from the \
                 application."
            ),
            Self::Misconfigured => format!(
                "{provider} does not accept this service's registration. Only whoever runs the application can mend \
                 that."
            ),
            Self::Unavailable => {
                "This service cannot take the answer at the moment. Wait a moment and start again from the application."
                    .to_owned()
            }
            Self::Internal => {
                "Nothing was connected. Start again from the application; if this comes back, tell whoever runs it."
                    .to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::ProviderKey;
    use crate::error::{AmbiguousCause, StoreError};

    fn flawed(why: SessionFlaw) -> Failure {
        Failure::of(&Error::ConnectSessionInvalid { provider: None, why })
    }

    #[test]
    fn every_word_leads_back_to_its_failure_and_no_page_says_that_a_failure_is_fine() {
        for failure in Failure::ALL {
            assert_eq!(Failure::parse(failure.word()), Some(failure));
            assert!(failure.status().is_client_error() || failure.status().is_server_error(), "{failure:?}");
            assert!(failure.sentence("Google").ends_with('.'), "{failure:?}");
        }
        assert_eq!(Failure::parse("DECLINED"), None);
    }

    #[test]
    fn a_person_is_told_whose_move_it_is() {
        assert_eq!(flawed(SessionFlaw::Refused(OAuthCode::new("access_denied"))), Failure::Declined);
        assert_eq!(flawed(SessionFlaw::Refused(OAuthCode::new("invalid_scope"))), Failure::Refused);
        assert_eq!(
            flawed(SessionFlaw::Refused(OAuthCode::new("server_error"))),
            Failure::ProviderUnreachable
        );
        assert_eq!(flawed(SessionFlaw::WrongIssuer), Failure::MixedUp);
        assert_eq!(flawed(SessionFlaw::WrongCallback), Failure::MixedUp);
        assert_eq!(flawed(SessionFlaw::Unknown), Failure::Expired);
        assert_eq!(Failure::of(&Error::Store(StoreError::Conflict)), Failure::Unavailable);
        let lost = ProviderError::Ambiguous { cause: AmbiguousCause::Timeout };
        let error = Error::Provider { provider: ProviderKey::parse("google").unwrap(), error: lost };
        assert_eq!(Failure::of(&error), Failure::ProviderUnreachable);
    }
}
