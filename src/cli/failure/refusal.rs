//! What a broker's error means to the person who typed the command. Owns the decoding of `google.rpc` details and, for
//! each reason, what to run next. Does not ask the broker anything more.

use std::collections::BTreeMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::super::next::{Name, Next, Step};
use super::super::times;
use super::{Cause, Failure, Flaw};
use crate::config;
use crate::error::Reason;

/// A broker's error, decoded.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Why, as one word.
    pub(crate) cause: Cause,
    /// The broker's own sentence.
    pub(crate) message: String,
    /// `ErrorInfo.metadata`.
    pub(crate) metadata: BTreeMap<String, String>,
    /// `BadRequest` field violations.
    pub(crate) mistakes: Vec<Flaw>,
    /// `RetryInfo`.
    pub(crate) retry_after: Option<Duration>,
    /// The broker's id of the request.
    pub(crate) request_id: Option<String>,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == "tokenbroker.dev");
        let reason = info.and_then(|info| Reason::parse(&info.reason));
        let mut metadata: BTreeMap<String, String> =
            info.map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default();
        if let (Some(info), None) = (info, reason) {
            metadata.insert("reason".to_owned(), info.reason.clone());
        }
        let violations = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
        let header = status.metadata().get("x-request-id").and_then(|id| id.to_str().ok());
        let request_id = header.or_else(|| details.request_info().map(|info| info.request_id.as_str()));
        Self {
            cause: reason.map_or_else(|| cause_of_code(status.code()), Cause::Broker),
            message: status.message().to_owned(),
            metadata,
            mistakes: violations
                .iter()
                .map(|v| Flaw {
                    place: String::new(),
                    field: v.field.clone(),
                    message: v.description.clone(),
                })
                .collect(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            request_id: request_id.filter(|id| !id.is_empty()).map(str::to_owned),
        }
    }
}

/// What a status without a reason of ours means: the transport broke, or something else answered.
fn cause_of_code(code: Code) -> Cause {
    match code {
        Code::Unavailable => Cause::NoBroker,
        Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => Cause::NoAnswer,
        Code::Unimplemented => Cause::Unimplemented,
        Code::InvalidArgument | Code::OutOfRange | Code::NotFound | Code::AlreadyExists => Cause::Usage,
        Code::Ok
        | Code::Unknown
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => Cause::Bug,
    }
}

impl Refusal {
    /// The failure of a command that concerns `name`.
    pub(crate) fn failure(self, name: Option<&Name>) -> Failure {
        let (why, next) = match self.cause {
            Cause::Broker(reason) => (self.why(reason), self.next(reason, name)),
            Cause::NoBroker => ("the connection to the broker broke".to_owned(), vec![Next::Status.into()]),
            Cause::Unimplemented => {
                ("the broker does not offer this; it may be older than this command line".to_owned(), vec![])
            }
            Cause::NoAnswer => ("the broker did not answer in time".to_owned(), vec![Next::Status.into()]),
            _ => (String::new(), vec![]),
        };
        let what = match (self.resting(), self.message.is_empty()) {
            (Some(resting), _) => resting,
            (None, true) => "the broker refused".to_owned(),
            (None, false) => self.message,
        };
        let mut failure = Failure::new(self.cause, what);
        failure.why = why;
        if failure.cause == Cause::Unimplemented {
            "run the version of token-broker that the broker runs, or a newer broker"
                .clone_into(&mut failure.fix);
        }
        failure.next = next;
        failure.mistakes = self.mistakes;
        failure.retry_after = self.retry_after;
        failure.request_id = self.request_id;
        failure.details = self.metadata.into_iter().map(|(name, value)| (name, value.into())).collect();
        failure
    }

    /// What the metadata of `name` says, if anything.
    pub(crate) fn said(&self, name: &str) -> Option<&str> {
        self.metadata.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Who is resting, and how many feel it.
    fn resting(&self) -> Option<String> {
        if self.cause != Cause::Broker(Reason::ProviderCircuitOpen) {
            return None;
        }
        let provider = self.said("provider")?;
        let who =
            self.said("host").map_or_else(|| provider.to_owned(), |host| format!("{host} of {provider}"));
        Some(match self.said("turnedAway") {
            None | Some("0") => format!("{who} is resting"),
            Some("1") => format!("{who} is resting, 1 call was turned away"),
            Some(count) => format!("{who} is resting, {count} calls were turned away"),
        })
    }

    /// What a provider rests from, and until when.
    fn outage(&self) -> Option<String> {
        let wait = self.retry_after.map(|wait| times::span(wait.max(Duration::from_secs(1))))?;
        let failures = match self.said("failures")? {
            "1" => "1 failure".to_owned(),
            count => format!("{count} failures in {} s", self.said("failuresWithinSeconds")?),
        };
        let last = self.said("lastFailure").map(|last| format!(", last: {last}")).unwrap_or_default();
        Some(format!("{failures}{last}; next probe in {wait}"))
    }

    fn why(&self, reason: Reason) -> String {
        if let Some(outage) = self.outage() {
            return outage;
        }
        let mut known: Vec<String> = Vec::new();
        known.extend(self.said("oauthError").map(str::to_owned));
        if reason == Reason::ProviderNotConfigured {
            known.extend(self.nearest_provider().map(|near| format!("did you mean {near}?")));
        }
        known.extend(
            self.retry_after.filter(|wait| !wait.is_zero()).map(|wait| {
                format!("worth another try in {}", times::span(wait.max(Duration::from_secs(1))))
            }),
        );
        known.join("; ")
    }

    /// The configured provider that was probably meant.
    fn nearest_provider(&self) -> Option<&str> {
        let known = self.said("knownProviders")?.split([',', ' ']).filter(|key| !key.is_empty());
        config::nearest(self.said("provider")?, known)
    }

    fn next(&self, reason: Reason, name: Option<&Name>) -> Vec<Step> {
        let connect = |scopes: Vec<String>, remark: &str| {
            name.map(|name| {
                let name = name.clone();
                Next::Connect { name, scopes, allow_account_change: false }.with(remark)
            })
        };
        let show_provider = || {
            self.said("provider").or(name.map(|n| &*n.provider)).map(|key| Next::ShowProvider(key.to_owned()))
        };
        let help = || Next::HelpReason(reason.as_str().to_owned());
        match reason {
            Reason::InvalidRequest
            | Reason::MessageTooLarge
            | Reason::CallerUnknown
            | Reason::CallerNotAllowed
            | Reason::RequestRefused
            | Reason::RecordUnreadable
            | Reason::Internal => vec![help().into()],
            Reason::ProviderNotConfigured => match self.nearest_provider() {
                Some(near) => vec![Next::ShowProvider(near.to_owned()).into()],
                None => vec![Next::ListProviders.into()],
            },
            Reason::ProviderDisabled => vec![Next::ListProviders.into()],
            Reason::ConnectionNotFound => {
                let list = name.map(|name| Next::ListConnections(name.provider.clone()).into());
                connect(Vec::new(), "to make it").into_iter().chain(list).collect()
            }
            Reason::ConnectSessionInvalid => connect(Vec::new(), "to begin again").into_iter().collect(),
            Reason::ReauthRequired => connect(Vec::new(), "same connection").into_iter().collect(),
            Reason::ScopeNotGranted => {
                let missing = self.said("missingScopes").unwrap_or_default();
                let scopes = missing.split([' ', ',']).filter(|s| !s.is_empty()).map(str::to_owned).collect();
                connect(scopes, "asks the owner for them").into_iter().collect()
            }
            Reason::ProviderRejectedClient => {
                let remark = "compare client id, secret and redirect URI";
                show_provider().map(|next| next.with(remark)).into_iter().collect()
            }
            Reason::ConnectionAmbiguous => {
                name.map(|name| Next::ShowConnection(name.clone()).into()).into_iter().collect()
            }
            Reason::ProviderCircuitOpen => {
                let retry = self
                    .said("provider")
                    .map(|key| Next::RetryProvider(key.to_owned()).with("if you know that it is well again"));
                show_provider().map(Step::from).into_iter().chain(retry).collect()
            }
            Reason::ProviderRateLimited | Reason::ProviderUnavailable | Reason::ProviderMalformed => {
                show_provider().map(Step::from).into_iter().collect()
            }
            Reason::StoreConflict | Reason::StoreUnavailable | Reason::ShuttingDown => {
                vec![Next::Status.into()]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;
    use crate::cli::next::tests::caller;

    fn refused(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Refusal {
        let pairs = metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let mut details = ErrorDetails::with_error_info(
            reason,
            "tokenbroker.dev",
            pairs.collect::<std::collections::HashMap<_, _>>(),
        );
        details.set_retry_info(Some(Duration::from_secs(42)));
        details.add_bad_request_violation("connection", "is empty");
        Status::with_error_details(code, "a sentence", details).into()
    }

    fn name() -> Name {
        Name { provider: "google".into(), connection: "user-42".into(), tenant: String::new() }
    }

    #[test]
    fn every_detail_of_a_broker_error_arrives() {
        let refusal = refused(Code::Unavailable, "PROVIDER_UNAVAILABLE", &[("provider", "google")]);
        let failure = refusal.failure(Some(&name()));
        assert_eq!(failure.cause, Cause::Broker(Reason::ProviderUnavailable));
        assert_eq!(failure.retry_after, Some(Duration::from_secs(42)));
        assert_eq!(failure.mistakes[0].field, "connection");
        assert_eq!(failure.details["provider"], "google");
        assert_eq!(failure.why, "worth another try in 42 s");
    }

    #[test]
    fn a_mistyped_provider_gets_the_nearest_known_one() {
        let metadata = [("provider", "gogle"), ("knownProviders", "github,google")];
        let failure = refused(Code::NotFound, "PROVIDER_NOT_CONFIGURED", &metadata).failure(None);
        assert!(failure.why.starts_with("did you mean google?"), "{}", failure.why);
        assert_eq!(failure.next, [Step::from(Next::ShowProvider("google".into()))]);
    }

    #[test]
    fn a_resting_provider_is_told_with_its_figures() {
        let metadata = [
            ("provider", "salesforce"),
            ("failures", "5"),
            ("failuresWithinSeconds", "60"),
            ("turnedAway", "214"),
            ("lastFailure", "the provider's answer was lost (no answer in time)"),
        ];
        let failure = refused(Code::Unavailable, "PROVIDER_CIRCUIT_OPEN", &metadata).failure(None);
        assert_eq!(failure.what, "salesforce is resting, 214 calls were turned away");
        let why = "5 failures in 60 s, last: the provider's answer was lost (no answer in time); next probe in 42 s";
        assert_eq!(failure.why, why);
        let of_api = [("provider", "salesforce"), ("host", "eu1.example:443"), ("turnedAway", "0")];
        let failure = refused(Code::Unavailable, "PROVIDER_CIRCUIT_OPEN", &of_api).failure(None);
        assert_eq!(failure.what, "eu1.example:443 of salesforce is resting");
        let older = refused(Code::Unavailable, "PROVIDER_CIRCUIT_OPEN", &[]).failure(None);
        assert_eq!((&*older.what, &*older.why), ("a sentence", "worth another try in 42 s"));
    }

    #[test]
    fn a_missing_scope_is_asked_for_by_the_next_command() {
        let metadata = [("missingScopes", "drive mail")];
        let failure =
            refused(Code::FailedPrecondition, "SCOPE_NOT_GRANTED", &metadata).failure(Some(&name()));
        assert_eq!(
            failure.next[0].command.command(&caller()),
            "token-broker connect google user-42 --scope drive --scope mail"
        );
    }

    #[test]
    fn an_error_that_is_not_ours_is_told_apart_by_its_code() {
        let cause = |code| Refusal::from(Status::new(code, "x")).cause;
        assert_eq!(cause(Code::Unavailable), Cause::NoBroker);
        assert_eq!(cause(Code::DeadlineExceeded), Cause::NoAnswer);
        assert_eq!(cause(Code::Unimplemented), Cause::Unimplemented);
        assert_eq!(cause(Code::Unknown), Cause::Bug);
        let newer = refused(Code::Unavailable, "NEW_REASON", &[]);
        assert_eq!((newer.cause, newer.said("reason")), (Cause::NoBroker, Some("NEW_REASON")));
    }

    #[test]
    fn every_reason_that_waiting_does_not_cure_names_a_command() {
        for reason in Reason::ALL {
            let refusal = refused(Code::Unknown, reason.as_str(), &[("missingScopes", "a")]);
            assert!(!refusal.failure(Some(&name())).next.is_empty(), "{reason}");
        }
    }
}
