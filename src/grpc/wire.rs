//! Between the messages of the contract and the types of the core. Owns what a request's fields must be like; collects
//! every mistake of a request before it answers. Does not ask the broker for anything but which providers there are.

use std::time::Duration;

use super::proto::v1;
use crate::broker::{Broker, Durability, RevocationState, Source};
use crate::clock::Timestamp;
use crate::connection::history::Event;
use crate::connection::{ConnectionId, Profile, ProviderKey, Status, Tenant};
use crate::error::{Error, Mistake};

/// The mistakes of one request, reported together.
#[derive(Debug, Default)]
pub(super) struct Mistakes(Vec<Mistake>);

impl Mistakes {
    pub(super) fn add(&mut self, field: &str, message: impl Into<String>) {
        self.0.push(Mistake { field: field.to_owned(), message: message.into() });
    }

    /// Notes a mistake; what was right is handed on.
    pub(super) fn note<T>(&mut self, parsed: Result<T, Mistake>) -> Option<T> {
        parsed.map_err(|mistake| self.0.push(mistake)).ok()
    }

    /// `parsed`, unless there were mistakes.
    pub(super) fn none_or<T>(self, parsed: Option<T>) -> Result<T, Error> {
        match parsed {
            Some(parsed) if self.0.is_empty() => Ok(parsed),
            _ => Err(Error::InvalidRequest(self.0)),
        }
    }

    /// The connection a request names. Where a name is missing, the mistake says what there is.
    pub(super) fn connection_id(
        &mut self,
        broker: &Broker,
        tenant: String,
        provider: String,
        connection: String,
    ) -> Option<ConnectionId> {
        let is_provider_missing = provider.is_empty();
        match ConnectionId::parse(tenant, provider, connection) {
            Ok(id) => Some(id),
            Err(mistakes) => {
                self.0.extend(mistakes);
                if is_provider_missing
                    && let Some(mistake) = self.0.iter_mut().find(|mistake| mistake.field == "provider")
                {
                    mistake.message = format!("is empty; configured: {}", configured(broker));
                }
                None
            }
        }
    }

    /// A provider's key where one must be given.
    pub(super) fn provider(&mut self, broker: &Broker, provider: &str) -> Option<ProviderKey> {
        if provider.is_empty() {
            self.add("provider", format!("is empty; configured: {}", configured(broker)));
            return None;
        }
        self.note(ProviderKey::parse(provider))
    }

    pub(super) fn tenant(&mut self, tenant: &str) -> Option<Tenant> {
        self.note(Tenant::parse(tenant))
    }

    /// A span of time; absent stays absent.
    pub(super) fn span(&mut self, field: &str, span: Option<prost_types::Duration>) -> Option<Duration> {
        let span = Duration::try_from(span?);
        span.map_err(|_| self.add(field, "is negative; it must be zero or more")).ok()
    }

    /// An instant; absent stays absent.
    pub(super) fn instant(
        &mut self,
        field: &str,
        instant: Option<prost_types::Timestamp>,
    ) -> Option<Timestamp> {
        let prost_types::Timestamp { seconds, nanos } = instant?;
        let millis = seconds.checked_mul(1000).and_then(|ms| ms.checked_add(i64::from(nanos / 1_000_000)));
        if millis.is_none() {
            self.add(field, "is not a time between the years 1 and 9999");
        }
        millis.map(Timestamp::from_millis)
    }

    /// A SHA-256; empty is absent.
    pub(super) fn sha256(&mut self, field: &str, digest: &[u8]) -> Option<[u8; 32]> {
        if digest.is_empty() {
            return None;
        }
        let digest = digest.try_into();
        digest.map_err(|_| self.add(field, "must be the 32 bytes of a SHA-256 (in JSON: base64)")).ok()
    }
}

fn configured(broker: &Broker) -> String {
    let keys: Vec<_> = broker.providers().into_iter().map(|provider| provider.key).collect();
    if keys.is_empty() { "none".to_owned() } else { keys.join(", ") }
}

/// Absent where the contract says that empty means "not given".
pub(super) fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn timestamp(instant: Timestamp) -> prost_types::Timestamp {
    let millis = instant.as_millis();
    let nanos = i32::try_from(millis.rem_euclid(1000)).unwrap_or(0) * 1_000_000;
    prost_types::Timestamp { seconds: millis.div_euclid(1000), nanos }
}

pub(super) fn token_source(source: Source) -> v1::TokenSource {
    match source {
        Source::Cache => v1::TokenSource::Cache,
        Source::Store => v1::TokenSource::Store,
        Source::Refreshed => v1::TokenSource::Refreshed,
        Source::SharedRefresh => v1::TokenSource::SharedRefresh,
        Source::Stale => v1::TokenSource::Stale,
    }
}

pub(super) fn durability(durability: Durability) -> v1::Durability {
    match durability {
        Durability::Durable => v1::Durability::Durable,
        Durability::Degraded => v1::Durability::Degraded,
    }
}

pub(super) fn connection_status(status: Status) -> v1::ConnectionStatus {
    match status {
        Status::Pending => v1::ConnectionStatus::Pending,
        Status::Active => v1::ConnectionStatus::Active,
        Status::Ambiguous => v1::ConnectionStatus::Ambiguous,
        Status::ReauthRequired => v1::ConnectionStatus::ReauthRequired,
        Status::Revoking => v1::ConnectionStatus::Revoking,
        Status::Revoked => v1::ConnectionStatus::Revoked,
        Status::Disabled => v1::ConnectionStatus::Disabled,
    }
}

/// The status a filter asks for; unspecified is any.
pub(super) fn status_filter(status: v1::ConnectionStatus) -> Option<Status> {
    Status::ALL.into_iter().find(|known| connection_status(*known) == status)
}

pub(super) fn connection(profile: Profile) -> v1::Connection {
    let (account_id, email) = profile.account.map(|account| (account.id, account.email)).unwrap_or_default();
    let failure = profile.last_failure;
    v1::Connection {
        provider: profile.id.provider.to_string(),
        connection: profile.id.name.to_string(),
        tenant: profile.id.tenant.to_string(),
        status: connection_status(profile.status).into(),
        account_id,
        email: email.unwrap_or_default(),
        scopes: profile.scopes.as_slice().to_vec(),
        expire_time: profile.expires_at.map(timestamp),
        refresh_expire_time: profile.refresh_expires_at.map(timestamp),
        last_refresh_time: profile.refreshed_at.map(timestamp),
        last_error_time: failure.as_ref().map(|failure| timestamp(failure.at)),
        last_error_reason: failure.map(|failure| failure.reason).unwrap_or_default(),
        generation: profile.generation,
        renewable: profile.is_refreshable,
        create_time: Some(timestamp(profile.created_at)),
        update_time: Some(timestamp(profile.updated_at)),
        consent_time: profile.consented_at.map(timestamp),
        variables: profile.variables.into_iter().collect(),
    }
}

pub(super) fn history_event(event: &Event) -> v1::HistoryEvent {
    v1::HistoryEvent {
        event: event.what.as_str().to_owned(),
        time: Some(timestamp(event.at)),
        last_time: event.last_at.map(timestamp),
        count: event.times,
        generation: event.generation,
        why: event.why.clone().unwrap_or_default(),
    }
}

/// What a disconnection came to.
pub(super) fn disconnected(profile: &Profile, revocation: &RevocationState) -> v1::DisconnectResponse {
    let (revocation, pending_reason, next_attempt_at) = match revocation {
        RevocationState::Revoked => (v1::Revocation::Done, String::new(), None),
        RevocationState::Unconfirmed => (v1::Revocation::Unconfirmed, String::new(), None),
        RevocationState::Unsupported => (v1::Revocation::NotSupported, String::new(), None),
        RevocationState::NotNeeded => (v1::Revocation::NotNeeded, String::new(), None),
        RevocationState::Pending { error, next_attempt_at } => {
            (v1::Revocation::Pending, error.reason().to_string(), *next_attempt_at)
        }
    };
    v1::DisconnectResponse {
        revocation: revocation.into(),
        status: connection_status(profile.status).into(),
        pending_reason,
        next_attempt_time: next_attempt_at.map(timestamp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_word_of_its_own_on_the_wire() {
        for status in Status::ALL {
            assert_eq!(status_filter(connection_status(status)), Some(status));
            let word = connection_status(status).as_str_name();
            assert_eq!(word, format!("CONNECTION_STATUS_{}", status.as_str()));
        }
        assert_eq!(status_filter(v1::ConnectionStatus::Unspecified), None);
    }

    #[test]
    fn a_grant_that_may_live_on_is_never_said_to_be_revoked() {
        let id = ConnectionId::parse(String::new(), "google".into(), "u".into()).unwrap();
        let gone = crate::connection::Connection::pending(id, Timestamp::from_millis(0)).profile;
        for (state, expected) in [
            (RevocationState::Revoked, v1::Revocation::Done),
            (RevocationState::Unconfirmed, v1::Revocation::Unconfirmed),
            (RevocationState::Unsupported, v1::Revocation::NotSupported),
            (RevocationState::NotNeeded, v1::Revocation::NotNeeded),
        ] {
            let answer = disconnected(&gone, &state);
            assert_eq!((answer.revocation(), answer.pending_reason.as_str()), (expected, ""));
        }
    }

    #[test]
    fn instants_keep_their_milliseconds_also_before_1970() {
        for millis in [0, 1, 999, 1_790_000_000_123, -1, -1_500] {
            let there = timestamp(Timestamp::from_millis(millis));
            assert!((0..1_000_000_000).contains(&there.nanos));
            let back = Mistakes::default().instant("t", Some(there));
            assert_eq!(back, Some(Timestamp::from_millis(millis)));
        }
    }

    #[test]
    fn mistakes_are_reported_together() {
        let mut mistakes = Mistakes::default();
        mistakes.span("min_ttl", Some(prost_types::Duration { seconds: -1, nanos: 0 }));
        mistakes.sha256("if_not_equal_to", &[0; 31]);
        mistakes.instant("expire_time", Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }));
        let Err(Error::InvalidRequest(found)) = mistakes.none_or(Some(())) else {
            panic!("no mistake found")
        };
        let fields: Vec<_> = found.iter().map(|mistake| mistake.field.as_str()).collect();
        assert_eq!(fields, ["min_ttl", "if_not_equal_to", "expire_time"]);
    }
}
