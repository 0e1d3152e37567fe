//! How a connection changes: every transition, pure.

use super::{
    AccessToken, Account, Connection, ConnectionId, Failure, IssuedTokens, Profile, RefreshToken, Scopes,
    Status, TokenSet,
};
use crate::clock::Timestamp;
use crate::error::{ProviderError, SessionFlaw};

/// What an owner's consent brought.
#[derive(Debug)]
pub struct Consent {
    /// The tokens.
    pub tokens: TokenSet,
    /// What was granted.
    pub scopes: Scopes,
    /// Whose account it is, where known.
    pub account: Option<Account>,
    /// Whether another account than before is welcome.
    pub allow_account_change: bool,
}

impl IssuedTokens {
    /// The token set this answer makes when it was asked for at `asked_at`. Where the answer has no refresh token,
    /// `kept` stays (RFC 6749 section 6).
    pub fn into_set(self, kept: Option<RefreshToken>, asked_at: Timestamp) -> TokenSet {
        let refresh_expires_at = self.refresh_expires_in.map(|life| asked_at + life);
        let refresh = match (self.refresh_token, kept) {
            (Some(value), _) => Some(RefreshToken { value, expires_at: refresh_expires_at }),
            (None, Some(kept)) => {
                Some(RefreshToken { expires_at: refresh_expires_at.or(kept.expires_at), value: kept.value })
            }
            (None, None) => None,
        };
        let access = AccessToken {
            value: self.access_token,
            token_type: self.token_type,
            issued_at: asked_at,
            expires_at: self.expires_in.map(|life| asked_at + life),
        };
        TokenSet { access: Some(access), refresh }
    }
}

impl Connection {
    /// A connection that was begun and waits for its owner. Serves nothing.
    pub fn pending(id: ConnectionId, now: Timestamp) -> Self {
        let profile = Profile {
            id,
            status: Status::Pending,
            generation: 0,
            account: None,
            scopes: Scopes::default(),
            expires_at: None,
            refresh_expires_at: None,
            is_refreshable: false,
            consented_at: None,
            refreshed_at: None,
            last_failure: None,
            created_at: now,
            updated_at: now,
        };
        Self { profile, tokens: None }
    }

    /// The same connection after its owner consented, first or again. Where the provider sent no refresh token
    /// this time, the one held is kept, provided it is the same account's.
    ///
    /// # Errors
    /// [`SessionFlaw::AccountChanged`] or [`SessionFlaw::AccountUnknown`] when another account consented, or one
    /// that could not be told, and that was not asked for. Nothing is lost: the stored record stays.
    pub fn connected(self, consent: Consent, now: Timestamp) -> Result<Self, SessionFlaw> {
        let before = self.profile.account.as_ref().map(|account| &account.id);
        let after = consent.account.as_ref().map(|account| &account.id);
        let flaw = match (before, after) {
            (Some(before), Some(after)) if before != after => Some(SessionFlaw::AccountChanged),
            (Some(_), None) => Some(SessionFlaw::AccountUnknown),
            _ => None,
        };
        let is_other_account = flaw.is_some();
        if let Some(flaw) = flaw.filter(|_| !consent.allow_account_change) {
            return Err(flaw);
        }
        // A refresh token of another account must not stand behind this account's access token.
        let kept = self.tokens.and_then(|tokens| tokens.refresh).filter(|_| !is_other_account);
        let mut tokens = consent.tokens;
        tokens.refresh = tokens.refresh.or(kept);
        let profile = Profile {
            account: consent.account,
            scopes: consent.scopes,
            consented_at: Some(now),
            ..self.profile
        };
        Ok(Self { profile, tokens: None }.holding(tokens, now))
    }

    /// The same connection after a refresh that was asked for at `asked_at`.
    pub fn refreshed(self, issued: IssuedTokens, asked_at: Timestamp, now: Timestamp) -> Self {
        let scopes = issued.scopes.clone().unwrap_or(self.profile.scopes);
        let kept = self.tokens.and_then(|tokens| tokens.refresh);
        let profile = Profile { scopes, refreshed_at: Some(now), ..self.profile };
        Self { profile, tokens: None }.holding(issued.into_set(kept, asked_at), now)
    }

    /// The same connection after a refresh failed. Only the provider's word that the grant is dead changes its
    /// status; the tokens stay in every case.
    pub fn refresh_failed(mut self, error: &ProviderError, now: Timestamp) -> Self {
        if matches!(error, ProviderError::Denied(_)) {
            self.profile.status = Status::ReauthRequired;
        }
        self.profile.last_failure = Some(Failure {
            reason: error.reason().as_str().to_owned(),
            oauth_error: error.oauth_code().cloned(),
            at: now,
        });
        self.profile.updated_at = now;
        self
    }

    /// The same connection holding tokens that were got elsewhere. The owner consented at some time we do not know.
    pub fn imported(self, tokens: TokenSet, scopes: Scopes, now: Timestamp) -> Self {
        let profile =
            Profile { scopes, account: None, consented_at: None, refreshed_at: None, ..self.profile };
        Self { profile, tokens: None }.holding(tokens, now)
    }

    /// The same connection, now that it is known whose account it is.
    pub fn identified(mut self, account: Account, now: Timestamp) -> Self {
        self.profile.account = Some(account);
        self.profile.updated_at = now;
        self
    }

    /// The same connection once its access token has expired and there is no refresh token to renew it.
    pub fn expired(mut self, now: Timestamp) -> Self {
        self.profile.status = Status::ReauthRequired;
        self.profile.updated_at = now;
        self
    }

    /// The same connection on its way out: serves nothing, but keeps its tokens until the provider has revoked
    /// them.
    pub fn revoking(mut self, now: Timestamp) -> Self {
        self.profile.status = Status::Revoking;
        self.profile.generation += 1;
        self.profile.updated_at = now;
        self
    }

    /// The tokens it may serve from at the moment.
    pub fn serving(&self) -> Option<&TokenSet> {
        matches!(self.profile.status, Status::Active | Status::Ambiguous)
            .then_some(self.tokens.as_ref())
            .flatten()
    }

    fn holding(mut self, tokens: TokenSet, now: Timestamp) -> Self {
        let profile = &mut self.profile;
        profile.status = Status::Active;
        profile.generation += 1;
        profile.expires_at = tokens.access.as_ref().and_then(|access| access.expires_at);
        profile.refresh_expires_at = tokens.refresh.as_ref().and_then(|refresh| refresh.expires_at);
        profile.is_refreshable = tokens.refresh.is_some();
        profile.last_failure = None;
        profile.updated_at = now;
        self.tokens = Some(tokens);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::{AmbiguousCause, OAuthCode, Unsent};
    use crate::secret::Secret;

    const T0: Timestamp = Timestamp::from_millis(1_000_000);
    const T1: Timestamp = Timestamp::from_millis(2_000_000);

    fn issued(access: &str, refresh: Option<&str>) -> IssuedTokens {
        IssuedTokens {
            access_token: Secret::new(access.to_owned()),
            token_type: "Bearer".into(),
            expires_in: Some(Duration::from_secs(3600)),
            refresh_token: refresh.map(|r| Secret::new(r.to_owned())),
            refresh_expires_in: None,
            scopes: None,
            account: None,
        }
    }

    fn consent(refresh: Option<&str>, account: &str) -> Consent {
        Consent {
            tokens: issued("at-1", refresh).into_set(None, T0),
            scopes: ["a"].into_iter().collect(),
            account: Some(Account { id: account.into(), email: None }),
            allow_account_change: false,
        }
    }

    fn active() -> Connection {
        let id = ConnectionId::parse(String::new(), "sandbox".into(), "user-42".into()).unwrap();
        Connection::pending(id, T0).connected(consent(Some("rt-1"), "alice"), T0).unwrap()
    }

    fn refresh_value(connection: &Connection) -> Option<&str> {
        Some(connection.tokens.as_ref()?.refresh.as_ref()?.value.expose())
    }

    #[test]
    fn a_reply_without_a_refresh_token_keeps_the_stored_one() {
        let after = active().refreshed(issued("at-2", None), T1, T1);
        assert_eq!(refresh_value(&after), Some("rt-1"));
        assert_eq!(after.profile.generation, 2);
        assert_eq!(after.profile.expires_at, Some(T1 + Duration::from_secs(3600)));
    }

    #[test]
    fn a_new_refresh_token_replaces_the_old() {
        assert_eq!(refresh_value(&active().refreshed(issued("at-2", Some("rt-2")), T1, T1)), Some("rt-2"));
    }

    #[test]
    fn re_consent_never_overwrites_a_refresh_token_with_nothing() {
        let again = active().connected(consent(None, "alice"), T1).unwrap();
        assert_eq!(refresh_value(&again), Some("rt-1"));
        assert_eq!(again.profile.consented_at, Some(T1));
        assert_eq!(again.profile.created_at, T0);
    }

    #[test]
    fn another_account_is_refused_unless_asked_for_and_never_inherits_the_old_refresh_token() {
        assert_eq!(
            active().connected(consent(None, "mallory"), T1).unwrap_err(),
            SessionFlaw::AccountChanged
        );
        let untold = Consent { account: None, ..consent(None, "alice") };
        assert_eq!(active().connected(untold, T1).unwrap_err(), SessionFlaw::AccountUnknown);
        let asked = Consent { allow_account_change: true, ..consent(None, "bob") };
        let after = active().connected(asked, T1).unwrap();
        assert_eq!(refresh_value(&after), None);
        assert_eq!(after.profile.account.unwrap().id, "bob");
    }

    #[test]
    fn only_the_providers_word_ends_a_grant() {
        let survivable = [
            ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None },
            ProviderError::Ambiguous { cause: AmbiguousCause::Status(502) },
            ProviderError::RateLimited { retry_after: None },
            ProviderError::Misconfigured(OAuthCode::new("invalid_client")),
            ProviderError::Malformed,
        ];
        for error in survivable {
            let after = active().refresh_failed(&error, T1);
            assert_eq!(after.profile.status, Status::Active, "{error:?}");
            assert!(after.serving().is_some());
        }
        let dead = active().refresh_failed(&ProviderError::Denied(OAuthCode::new("invalid_grant")), T1);
        assert_eq!(dead.profile.status, Status::ReauthRequired);
        assert!(dead.serving().is_none());
        assert_eq!(refresh_value(&dead), Some("rt-1"), "kept, for an operator's retry");
    }

    #[test]
    fn pending_and_revoking_connections_serve_nothing() {
        let id = active().profile.id;
        assert!(Connection::pending(id, T0).serving().is_none());
        assert!(active().revoking(T1).serving().is_none());
    }

    #[test]
    fn consent_revives_a_dead_connection() {
        let dead = active().refresh_failed(&ProviderError::Denied(OAuthCode::new("invalid_grant")), T1);
        let revived = dead.connected(consent(Some("rt-9"), "alice"), T1).unwrap();
        assert_eq!(revived.profile.status, Status::Active);
        assert_eq!(revived.profile.last_failure, None);
        assert_eq!(refresh_value(&revived), Some("rt-9"));
    }
}
