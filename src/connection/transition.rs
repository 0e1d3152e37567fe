//! How a connection comes, is renewed and goes: every transition but those of a refresh, pure.

use std::time::Duration;

use super::doubt::QUESTIONS;
use super::history::{Happening, History};
use super::reuse::ReuseProfile;
use super::{
    AccessToken, Account, Connection, ConnectionId, ConnectionName, Failure, IssuedTokens, Profile,
    RefreshToken, Scopes, Status, TokenSet, Told, Values, variable,
};
use crate::clock::Timestamp;
use crate::error::{OAuthCode, ProviderError, Reason, SessionFlaw, Unsent};

/// How long the refresh token of a dead grant is kept for an operator's retry: 30 days.
pub const QUARANTINE: Duration = Duration::from_secs(30 * 86_400);

/// What an owner's consent brought.
#[derive(Debug)]
pub struct Consent {
    /// The tokens.
    pub tokens: TokenSet,
    /// What was granted.
    pub scopes: Scopes,
    /// Whose account it is, where known.
    pub account: Option<Account>,
    /// What was given or told for the provider's variables.
    pub variables: Told,
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
                // One that was taken at its stated end or later has outlived it.
                let stated = kept.expires_at.filter(|end| *end > asked_at);
                Some(RefreshToken { expires_at: refresh_expires_at.or(stated), value: kept.value })
            }
            (None, None) => None,
        };
        let access = AccessToken {
            value: self.access_token,
            token_type: self.token_type,
            issued_at: asked_at,
            expires_at: self.expires_in.map(|life| asked_at + life),
        };
        TokenSet { access: Some(access), refresh, previous: None, surplus: Vec::new() }
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
            imported_at: None,
            last_failure: None,
            fence: 0,
            intent: None,
            backoff: None,
            denials: 0,
            quarantined_at: None,
            doubt: None,
            asked_at: None,
            variables: Values::new(),
            created_at: now,
            updated_at: now,
        };
        let mut connection = Self { profile, tokens: None, history: History::default() };
        connection.note(Happening::Begun, None, now);
        connection
    }

    /// The same connection after its owner consented, first or again. Where the provider sent no refresh token
    /// this time, the one held is kept, unless it is known to be another account's; and what is not known of it stays
    /// unknown: a refresh under way may be about to bring its successor, one that was never answered may have spent it.
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
        let held = self.tokens.and_then(|tokens| tokens.refresh).filter(|_| !is_other_account);
        let mut tokens = consent.tokens;
        let kept = held.filter(|_| tokens.refresh.is_none());
        let presented = kept.as_ref().map(RefreshToken::fingerprint);
        let intent = self.profile.intent.clone().filter(|intent| presented == Some(intent.fingerprint));
        let is_unknown = kept.is_some() && self.profile.status == Status::Ambiguous;
        tokens.refresh = tokens.refresh.or(kept);
        // Nor may a call with its token go where the other's things are: what is known stays with an account that is
        // known to be the same.
        let is_same_account = before.is_some() && before == after;
        let mut variables = if is_same_account { self.profile.variables } else { Values::new() };
        variable::learn(&mut variables, consent.variables);
        let profile = Profile {
            account: consent.account,
            scopes: consent.scopes,
            consented_at: Some(now),
            variables,
            ..self.profile
        };
        let before = Self { profile, tokens: None, history: self.history };
        let mut connection = match intent {
            None => before.renewed(tokens, now),
            // Not fenced: a refresh of the token that is kept has its say.
            Some(_) => before.holding(tokens, now),
        };
        connection.profile.intent = intent;
        if is_unknown {
            connection.profile.status = Status::Ambiguous;
        }
        connection.note(Happening::Connected, None, now);
        Ok(connection)
    }

    /// The error of the last failure, for those who are told to wait for what came of it.
    pub fn failure(profile: &Profile, now: Timestamp) -> ProviderError {
        let retry_after = profile.backoff.as_ref().map(|_| now.until(profile.resumes_at(now)));
        let failure = profile.last_failure.as_ref();
        match failure.and_then(|failure| Reason::parse(&failure.reason)) {
            Some(Reason::ProviderRateLimited) => ProviderError::RateLimited { retry_after },
            Some(Reason::ProviderMalformed) => ProviderError::Malformed,
            Some(Reason::ProviderRejectedClient) => ProviderError::Misconfigured(
                failure.and_then(|failure| failure.oauth_error.clone()).unwrap_or_else(|| OAuthCode::new("")),
            ),
            _ => ProviderError::Unavailable { cause: Unsent::Paused, retry_after },
        }
    }

    /// The same connection holding tokens that were got elsewhere. The owner consented at some time we do not know, and
    /// who it is: nothing is taken over from the grant before.
    pub fn imported(self, tokens: TokenSet, scopes: Scopes, now: Timestamp) -> Self {
        let profile = Profile {
            scopes,
            variables: Values::new(),
            account: None,
            consented_at: None,
            refreshed_at: None,
            imported_at: Some(now),
            ..self.profile
        };
        let mut connection = Self { profile, tokens: None, history: self.history }.renewed(tokens, now);
        connection.note(Happening::Imported, None, now);
        connection
    }

    /// The same connection, knowing this and no more for its provider's variables.
    pub fn knowing(mut self, variables: Values) -> Self {
        self.profile.variables = variables;
        self
    }

    /// The same connection, now that it is known whose account it is.
    pub fn identified(mut self, account: Account, now: Timestamp) -> Self {
        self.profile.account = Some(account);
        self.profile.updated_at = now;
        self
    }

    /// The same connection, which is of the same account as another. `other`: its name, where it may be told.
    pub fn sharing_account(mut self, other: Option<&ConnectionName>, now: Timestamp) -> Self {
        self.note(Happening::SameAccount, other.map(ConnectionName::as_str), now);
        self
    }

    /// The same connection on its way out: serves nothing, but keeps its tokens until the provider has revoked
    /// them. It is fenced, so that no refresh under way stores anything but what is to be revoked with it.
    pub fn revoking(mut self, reuse: &ReuseProfile, now: Timestamp) -> Self {
        // A refresh under way may still be answered; of an earlier one that was not, its record says no more.
        let chain = self.profile.intent.as_ref();
        self.profile.doubt = match self.profile.status {
            Status::Ambiguous => Some(0),
            // The provider has said that its refresh token is dead: it is not asked again.
            Status::ReauthRequired => chain.map(|_| QUESTIONS),
            _ => chain.filter(|intent| intent.tries > 1).map(|_| 0),
        };
        self.profile.status = Status::Revoking;
        self.profile.generation += 1;
        self.profile.fence += 1;
        self.profile.backoff = None;
        // RFC 7009 section 2.1 leaves it to the provider whether the end of one token ends others of its grant. So one
        // that it may still take is revoked by itself; one that is spent has nothing left to be ended.
        let may_live = reuse.takes_previous(self.profile.refreshed_at, now);
        if let Some(tokens) = self.tokens.as_mut().filter(|_| !may_live) {
            tokens.previous = None;
        }
        self.profile.updated_at = now;
        let why = self.profile.doubt.map(|_| Reason::ConnectionAmbiguous.as_str());
        self.note(Happening::Revoking, why, now);
        self
    }

    /// The same connection when the provider could not be asked to revoke it. Its pause is the time of the next try.
    pub fn revocation_failed(mut self, error: &ProviderError, now: Timestamp, dice: u64) -> Self {
        let reason = error.reason().as_str();
        self.pause(error, now, dice);
        self.profile.last_failure =
            Some(Failure { reason: reason.to_owned(), oauth_error: error.oauth_code().cloned(), at: now });
        self.profile.updated_at = now;
        self.note(Happening::RevocationFailed, Some(reason), now);
        self
    }

    /// The same connection with the pause of `told`, which another state of it was to be written with and was not.
    pub fn revocation_put_off(mut self, told: &Profile, now: Timestamp) -> Self {
        self.profile.backoff.clone_from(&told.backoff);
        self.profile.last_failure.clone_from(&told.last_failure);
        self.profile.updated_at = now;
        self.note(
            Happening::RevocationFailed,
            told.last_failure.as_ref().map(|failure| &*failure.reason),
            now,
        );
        self
    }

    /// The same connection as an operator wants it tried once more: the provider may have changed its mind (a user who
    /// was switched off and on again). `None` where there is nothing to try.
    pub fn retried(mut self, now: Timestamp) -> Option<Self> {
        if self.profile.status != Status::ReauthRequired || !self.profile.is_refreshable {
            return None;
        }
        self.note(Happening::Retried, None, now);
        Some(self)
    }

    /// The same connection without the tokens of its dead grant; `None` unless it is dead and their quarantine is over.
    pub fn wiped(mut self, now: Timestamp) -> Option<Self> {
        let is_over = self.profile.quarantined_at.is_some_and(|since| since + QUARANTINE <= now);
        if self.profile.status != Status::ReauthRequired || !is_over {
            return None;
        }
        self.tokens = None;
        self.profile.intent = None;
        self.profile.is_refreshable = false;
        self.profile.expires_at = None;
        self.profile.refresh_expires_at = None;
        self.profile.quarantined_at = None;
        self.profile.updated_at = now;
        self.note(Happening::Wiped, None, now);
        Some(self)
    }

    /// Everything of it that is to be revoked: the present tokens first, then what came beside them, then what may still
    /// live of an older one.
    pub fn revocable(&self) -> Vec<TokenSet> {
        let Some(tokens) = &self.tokens else { return Vec::new() };
        let TokenSet { access, refresh, previous, surplus } = tokens.copy();
        let mut sets = vec![TokenSet { access, refresh, previous: None, surplus: Vec::new() }];
        sets.extend(surplus);
        sets.extend(previous.map(|refresh| TokenSet {
            access: None,
            refresh: Some(refresh),
            previous: None,
            surplus: Vec::new(),
        }));
        sets
    }

    /// The same connection once more, token by token. Each copy is wiped by itself.
    pub fn copy(&self) -> Self {
        Self {
            profile: self.profile.clone(),
            tokens: self.tokens.as_ref().map(TokenSet::copy),
            history: self.history.clone(),
        }
    }

    /// The tokens it may serve from at the moment.
    pub fn serving(&self) -> Option<&TokenSet> {
        self.profile.status.serves().then_some(self.tokens.as_ref()).flatten()
    }

    /// Holding the tokens of a grant that was given anew: no refresh of the one before has a say any more.
    fn renewed(mut self, tokens: TokenSet, now: Timestamp) -> Self {
        self.profile.fence += 1;
        self.holding(tokens, now)
    }

    /// Writes down what happened.
    pub(super) fn note(&mut self, what: Happening, why: Option<&str>, at: Timestamp) {
        self.history.note(what, why, self.profile.generation, at);
    }

    pub(super) fn holding(mut self, tokens: TokenSet, now: Timestamp) -> Self {
        let profile = &mut self.profile;
        profile.intent = None;
        profile.backoff = None;
        profile.denials = 0;
        profile.quarantined_at = None;
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
    use super::super::attempt::Backoff;
    use super::*;
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
            variables: Told::new(),
        }
    }

    fn consent(refresh: Option<&str>, account: &str) -> Consent {
        Consent {
            tokens: issued("at-1", refresh).into_set(None, T0),
            scopes: ["a"].into_iter().collect(),
            account: Some(Account { id: account.into(), email: None }),
            variables: Told::new(),
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
    fn a_kept_refresh_token_that_has_outlived_its_stated_end_has_none() {
        for (end, then) in
            [(T0, None), (T1, None), (T1 + Duration::from_secs(1), Some(T1 + Duration::from_secs(1)))]
        {
            let kept = RefreshToken { value: Secret::new("rt-1".into()), expires_at: Some(end) };
            let set = issued("at-2", None).into_set(Some(kept), T1);
            assert_eq!(set.refresh.unwrap().expires_at, then);
        }
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
    fn what_is_known_for_variables_goes_with_its_account() {
        let told = |value: Option<&str>| Told::from([("org".to_owned(), value.map(str::to_owned))]);
        let connection = |consented, told| {
            let consent = Consent { variables: told, allow_account_change: true, ..consented };
            move |before: Connection| before.connected(consent, T1).unwrap()
        };
        let alice = connection(consent(None, "alice"), told(Some("a")))(active());
        assert_eq!(alice.profile.variables["org"], "a");
        let alice = connection(consent(None, "alice"), Told::new())(alice);
        assert_eq!(alice.profile.variables["org"], "a", "nobody said otherwise");
        let bob = connection(consent(None, "bob"), Told::new())(alice.copy());
        assert!(bob.profile.variables.is_empty());
        let unfit = connection(consent(None, "alice"), told(None))(alice.copy());
        assert!(unfit.profile.variables.is_empty());
        // Whoever it was before, and whoever it is now: nobody knows that it is the same.
        for now_known in [false, true] {
            let mut somebody = alice.copy();
            somebody.profile.account = None;
            let mut again = consent(None, "bob");
            if !now_known {
                again.account = None;
            }
            let somebody = connection(again, Told::new())(somebody);
            assert!(somebody.profile.variables.is_empty(), "now known: {now_known}");
        }
    }

    #[test]
    fn pending_and_revoking_connections_serve_nothing() {
        let id = active().profile.id;
        assert!(Connection::pending(id, T0).serving().is_none());
        assert!(active().revoking(&ReuseProfile::default(), T1).serving().is_none());
    }

    #[test]
    fn consent_revives_a_dead_connection_and_forgets_its_troubles() {
        let mut dead = active().expired(T1);
        dead.profile.backoff = Some(Backoff { failures: 3, until: T1, is_asked: false });
        dead.profile.denials = 2;
        dead.profile.quarantined_at = Some(T1);
        let fence = dead.profile.fence;
        let revived = dead.connected(consent(Some("rt-9"), "alice"), T1).unwrap();
        assert_eq!(revived.profile.status, Status::Active);
        assert_eq!(revived.profile.last_failure, None);
        assert_eq!((revived.profile.backoff.as_ref(), revived.profile.denials), (None, 0));
        assert_eq!(revived.profile.quarantined_at, None);
        assert!(revived.profile.fence > fence, "a refresh of the old grant has no say any more");
        assert_eq!(refresh_value(&revived), Some("rt-9"));
    }

    #[test]
    fn the_tokens_of_a_dead_grant_are_wiped_after_their_quarantine() {
        let mut dead = active().expired(T1);
        dead.profile.quarantined_at = Some(T1);
        assert!(dead.copy().wiped(T1 + QUARANTINE - Duration::from_millis(1)).is_none());
        let wiped = dead.wiped(T1 + QUARANTINE).unwrap();
        assert!(wiped.tokens.is_none() && !wiped.profile.is_refreshable);
        assert!(wiped.retried(T1 + QUARANTINE).is_none());
        assert!(active().wiped(T1 + QUARANTINE * 2).is_none(), "a living one is not touched");
    }

    #[test]
    fn all_that_may_still_live_is_to_be_revoked() {
        let mut connection = active();
        assert_eq!(connection.revocable().len(), 1);
        let tokens = connection.tokens.as_mut().unwrap();
        tokens.previous = Some(RefreshToken { value: Secret::new("rt-0".into()), expires_at: None });
        let sets = connection.revocable();
        let values: Vec<_> =
            sets.iter().map(|set| set.refresh.as_ref().unwrap().value.expose().as_str()).collect();
        assert_eq!(values, ["rt-1", "rt-0"]);
    }
}
