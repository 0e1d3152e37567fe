use super::*;
use crate::connection::ProviderKey;
use crate::error::{AmbiguousCause, Mistake, Outage, Reason, Refusal, Rule, Unsent};

fn id() -> ConnectionId {
    ConnectionId::parse("acme".into(), "google".into(), "user-42".into()).unwrap()
}

fn google() -> ProviderKey {
    ProviderKey::parse("google").unwrap()
}

fn provider(error: ProviderError) -> Error {
    Error::Provider { provider: google(), error }
}

/// api.md's table: an error of each kind, its code, its details beyond `ErrorInfo`, and its metadata.
fn table() -> Vec<(Error, Code, &'static [&'static str], &'static [&'static str])> {
    let invalid_grant = OAuthCode::new("invalid_grant");
    let minute = Duration::from_secs(60);
    vec![
        (
            Error::InvalidRequest(vec![Mistake { field: "provider".into(), message: "is empty".into() }]),
            Code::InvalidArgument,
            &["BadRequest"],
            &[],
        ),
        (Error::MessageTooLarge { limit_bytes: 9 }, Code::ResourceExhausted, &[], &["limitBytes"]),
        (Error::BodyTooLarge { limit: "a", most: 9 }, Code::ResourceExhausted, &[], &["limit", "most"]),
        (Error::Swollen { limit: "a", most: 9 }, Code::ResourceExhausted, &[], &["limit", "most"]),
        (
            Error::Unattended { provider: google(), limit: "a", most: 9 },
            Code::ResourceExhausted,
            &["QuotaFailure", "RetryInfo"],
            &["limit", "most", "provider"],
        ),
        (Error::CallerUnknown("why"), Code::Unauthenticated, &[], &[]),
        (Error::CallerNotAllowed { provider: google() }, Code::PermissionDenied, &[], &["provider"]),
        (
            Error::ProviderNotConfigured { provider: "goggle".into(), known: vec![google()] },
            Code::NotFound,
            &["ResourceInfo"],
            &["knownProviders", "provider"],
        ),
        (
            Error::ProviderDisabled { provider: google() },
            Code::FailedPrecondition,
            &["PreconditionFailure"],
            &["provider"],
        ),
        (
            Error::ConnectionNotFound(id()),
            Code::NotFound,
            &["ResourceInfo"],
            &["connection", "provider", "tenant"],
        ),
        (
            Error::ConnectSessionInvalid {
                provider: Some(google()),
                why: SessionFlaw::Refused(OAuthCode::new("access_denied")),
            },
            Code::FailedPrecondition,
            &["PreconditionFailure"],
            &["oauthError", "provider"],
        ),
        (
            Error::ReauthRequired {
                connection: id(),
                oauth_error: Some(invalid_grant.clone()),
                consented_at: None,
            },
            Code::FailedPrecondition,
            &["PreconditionFailure"],
            &["connection", "oauthError", "provider", "tenant"],
        ),
        (
            Error::ScopeNotGranted { connection: id(), missing: vec!["a".into(), "b".into()] },
            Code::FailedPrecondition,
            &["PreconditionFailure"],
            &["connection", "missingScopes", "provider", "tenant"],
        ),
        (
            Error::ConnectionAmbiguous { connection: id(), retry_after: minute },
            Code::Unavailable,
            &["RetryInfo"],
            &["connection", "provider", "tenant"],
        ),
        (
            provider(ProviderError::Denied(invalid_grant.clone())),
            Code::FailedPrecondition,
            &["PreconditionFailure"],
            &["connection", "oauthError", "provider", "tenant"],
        ),
        (
            provider(ProviderError::Misconfigured(OAuthCode::new("invalid_client"))),
            Code::FailedPrecondition,
            &["PreconditionFailure"],
            &["oauthError", "provider"],
        ),
        (
            provider(ProviderError::RateLimited { retry_after: Some(minute) }),
            Code::ResourceExhausted,
            &["QuotaFailure", "RetryInfo"],
            &["provider"],
        ),
        (
            provider(ProviderError::NoTurn { limit: "a", retry_after: minute }),
            Code::ResourceExhausted,
            &["QuotaFailure", "RetryInfo"],
            &["limit", "provider"],
        ),
        (
            provider(ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None }),
            Code::Unavailable,
            &["RetryInfo"],
            &["provider"],
        ),
        (
            provider(ProviderError::Ambiguous { cause: AmbiguousCause::Timeout }),
            Code::Unavailable,
            &["RetryInfo"],
            &["provider"],
        ),
        (
            provider(ProviderError::Ambiguous { cause: AmbiguousCause::TooSlow }),
            Code::Unavailable,
            &["RetryInfo"],
            &["limit", "provider"],
        ),
        (Error::out_of_time(&google(), "a"), Code::Unavailable, &["RetryInfo"], &["limit", "provider"]),
        (Error::unsent_in_time(&google(), "a"), Code::Unavailable, &["RetryInfo"], &["limit", "provider"]),
        (provider(ProviderError::Malformed), Code::Unavailable, &[], &["provider"]),
        (
            provider(ProviderError::CircuitOpen {
                retry_after: minute,
                outage: Box::new(Outage {
                    host: Some("api.example:443".into()),
                    last: Some(ProviderError::Malformed),
                    ..Outage::default()
                }),
            }),
            Code::Unavailable,
            &["RetryInfo"],
            &[
                "failures",
                "failuresWithinSeconds",
                "host",
                "lastFailure",
                "lastReason",
                "provider",
                "turnedAway",
            ],
        ),
        (
            Error::RequestRefused(Refusal::new(Rule::Host, "another host")),
            Code::InvalidArgument,
            &[],
            &["rule"],
        ),
        (Error::Store(StoreError::Conflict), Code::Aborted, &["RetryInfo"], &["connection", "tenant"]),
        (Error::Store(StoreError::Unavailable("disk".into())), Code::Unavailable, &["RetryInfo"], &[]),
        (Error::Store(StoreError::Unreadable("seal")), Code::DataLoss, &[], &["connection", "tenant"]),
        (Error::ShuttingDown, Code::Unavailable, &["RetryInfo"], &[]),
        (Error::Internal("bug"), Code::Internal, &[], &[]),
    ]
}

fn answer(error: &Error) -> Status {
    status(error, About::from(&id()), &MetadataValue::from_static("req-1"))
}

#[test]
fn every_failure_has_its_row() {
    for (error, code, details, metadata) in table() {
        let status = answer(&error);
        assert_eq!(status.code(), code, "{error}");
        let found = status.check_error_details().unwrap();
        let info = found.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), (error.reason().as_str(), DOMAIN));
        let mut keys: Vec<_> = info.metadata.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, metadata, "{error}");
        let present: Vec<_> = [
            ("BadRequest", found.bad_request().is_some()),
            ("PreconditionFailure", found.precondition_failure().is_some()),
            ("QuotaFailure", found.quota_failure().is_some()),
            ("ResourceInfo", found.resource_info().is_some()),
            ("RetryInfo", found.retry_info().is_some()),
        ]
        .into_iter()
        .filter_map(|(name, is_present)| is_present.then_some(name))
        .collect();
        assert_eq!(present, details, "{error}");
    }
}

#[test]
fn the_table_knows_every_reason() {
    let mut seen: Vec<_> = table().iter().map(|(error, ..)| error.reason()).collect();
    seen.sort_unstable();
    seen.dedup();
    let mut all = Reason::ALL.to_vec();
    all.sort_unstable();
    assert_eq!(seen, all);
}

#[test]
fn retry_info_and_the_pushback_trailer_say_the_same() {
    for (error, ..) in table() {
        let status = answer(&error);
        let details = status.get_error_details();
        let told = details.retry_info().and_then(|info| info.retry_delay);
        let pushback =
            status.metadata().get(PUSHBACK).map(|value| value.to_str().unwrap().parse::<u64>().unwrap());
        assert_eq!(told.map(|wait| u64::try_from(wait.as_millis()).unwrap()), pushback, "{error}");
    }
}

#[test]
fn every_status_names_its_request() {
    let status = answer(&Error::ShuttingDown);
    assert_eq!(status.metadata().get(REQUEST_ID).unwrap(), "req-1");
    assert_eq!(status.get_error_details().request_info().unwrap().request_id, "req-1");
}

#[test]
fn metadata_keys_are_lower_camel_case() {
    for (error, ..) in table() {
        for key in answer(&error).get_error_details().error_info().unwrap().metadata.keys() {
            assert!(key.starts_with(|c: char| c.is_ascii_lowercase()), "{key}");
            assert!(key.bytes().all(|b| b.is_ascii_alphanumeric()), "{key}");
        }
    }
}
