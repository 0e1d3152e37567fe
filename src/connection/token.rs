//! Tokens as the broker holds them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Account, ConnectionId, Told, Values};
use crate::clock::Timestamp;
use crate::secret::Secret;

/// An access token and what its provider said of it.
#[derive(Debug, PartialEq)]
pub struct AccessToken {
    /// The token; opaque, never parsed (RFC 9068 section 6).
    pub value: Secret<String>,
    /// How it is presented, usually `Bearer` (RFC 6749 section 7.1), as the provider spelled it.
    pub token_type: String,
    /// When it was asked for. Its life is counted from here, so it ends early rather than late.
    pub issued_at: Timestamp,
    /// When it expires; `None` if the provider states none.
    pub expires_at: Option<Timestamp>,
}

impl AccessToken {
    /// Whether it still works for at least `min_ttl`, which is capped at half the token's whole life: a demand no
    /// token can meet would otherwise refresh at every call.
    pub fn lives_for(&self, min_ttl: Duration, now: Timestamp) -> bool {
        let Some(expires_at) = self.expires_at else { return true };
        let min_ttl = min_ttl.min(self.issued_at.until(expires_at) / 2);
        expires_at > now + min_ttl
    }

    /// The same token once more. Each copy is wiped by itself.
    pub fn copy(&self) -> Self {
        Self {
            value: Secret::new(self.value.expose().clone()),
            token_type: self.token_type.clone(),
            issued_at: self.issued_at,
            expires_at: self.expires_at,
        }
    }

    /// Whether it has not expired yet.
    pub fn is_alive(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|expires_at| expires_at > now)
    }

    /// How long before expiry a successor is due: a tenth of its life, at least 60 s.
    pub fn refresh_margin(&self) -> Duration {
        let life = self.expires_at.map_or(Duration::ZERO, |expires_at| self.issued_at.until(expires_at));
        (life / 10).max(Duration::from_secs(60))
    }
}

/// An access token together with the connection whose it is: the only form in which a token goes into a call, so that
/// it can be held against the connection that the call was made out for, and so that the values which make the host of the
/// call come from the same record as the token. Made where a token leaves its connection's record or its place in memory,
/// and nowhere else.
#[derive(Clone, Copy, Debug)]
pub struct Credential<'a> {
    of: &'a ConnectionId,
    token: &'a AccessToken,
    values: &'a Values,
}

/// Of a connection that has none.
static NO_VALUES: Values = Values::new();

impl<'a> Credential<'a> {
    /// The token of connection `of`.
    pub fn new(of: &'a ConnectionId, token: &'a AccessToken) -> Self {
        Self { of, token, values: &NO_VALUES }
    }

    /// The same, with what the connection knows for its provider's variables.
    pub fn knowing(self, values: &'a Values) -> Self {
        Self { values, ..self }
    }

    /// Whose it is.
    pub fn of(&self) -> &'a ConnectionId {
        self.of
    }

    /// The token.
    pub fn token(&self) -> &'a AccessToken {
        self.token
    }

    /// What the connection knows for its provider's variables.
    pub fn values(&self) -> &'a Values {
        self.values
    }
}

/// A refresh token. It is spent at the provider's token endpoint and shown to nobody.
#[derive(Debug, PartialEq)]
pub struct RefreshToken {
    /// The token.
    pub value: Secret<String>,
    /// When it expires, where the provider says so.
    pub expires_at: Option<Timestamp>,
}

/// The tokens of one generation of a connection.
#[derive(Debug, PartialEq)]
pub struct TokenSet {
    /// What callers get; `None` until the first refresh of an imported refresh token.
    pub access: Option<AccessToken>,
    /// What the broker keeps for itself; `None` where the provider gives none.
    pub refresh: Option<RefreshToken>,
    /// The refresh token before that one, where the provider rotates. It is spent; some providers take it once more.
    pub previous: Option<RefreshToken>,
    /// Tokens that came while the connection was being revoked, or that these have pushed aside then: to be revoked
    /// with it. At most [`SURPLUS`].
    pub surplus: Vec<TokenSet>,
}

/// How many sets of tokens are kept beside the present ones of a connection that is being revoked. One refresh of it is
/// under way at a time, so more come only where it is disconnected and connected again during as many of them.
pub const SURPLUS: usize = 8;

impl RefreshToken {
    /// The same token once more. Each copy is wiped by itself.
    pub fn copy(&self) -> Self {
        Self { value: Secret::new(self.value.expose().clone()), expires_at: self.expires_at }
    }
}

impl TokenSet {
    /// The same tokens once more. Each copy is wiped by itself.
    pub fn copy(&self) -> Self {
        Self {
            access: self.access.as_ref().map(AccessToken::copy),
            refresh: self.refresh.as_ref().map(RefreshToken::copy),
            previous: self.previous.as_ref().map(RefreshToken::copy),
            surplus: self.surplus.iter().map(Self::copy).collect(),
        }
    }
}

/// What a token endpoint answered, with the provider's defaults applied (RFC 6749 section 5.1).
#[derive(Debug)]
pub struct IssuedTokens {
    /// The access token.
    pub access_token: Secret<String>,
    /// Its type as the provider spelled it.
    pub token_type: String,
    /// How long it lives, from the moment it was asked for; `None` if it does not expire.
    pub expires_in: Option<Duration>,
    /// The refresh token, if one came: RFC 6749 section 6 lets a refresh answer leave it out.
    pub refresh_token: Option<Secret<String>>,
    /// How long the refresh token lives, where the provider says so.
    pub refresh_expires_in: Option<Duration>,
    /// What was granted; `None` if the provider did not say, which means what was asked (RFC 6749 section 5.1).
    pub scopes: Option<Scopes>,
    /// The account, where the token answer itself names it.
    pub account: Option<Account>,
    /// What it tells of the provider's variables.
    pub variables: Told,
}

impl IssuedTokens {
    /// The same answer once more. Each copy is wiped by itself.
    pub fn copy(&self) -> Self {
        Self {
            access_token: Secret::new(self.access_token.expose().clone()),
            token_type: self.token_type.clone(),
            expires_in: self.expires_in,
            refresh_token: self.refresh_token.as_ref().map(|token| Secret::new(token.expose().clone())),
            refresh_expires_in: self.refresh_expires_in,
            scopes: self.scopes.clone(),
            account: self.account.clone(),
            variables: self.variables.clone(),
        }
    }
}

/// A set of scopes (RFC 6749 section 3.3): sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scopes(Vec<String>);

impl Scopes {
    /// The scopes of this grant that `wanted` names and it lacks.
    pub fn missing(&self, wanted: &[String]) -> Vec<String> {
        wanted.iter().filter(|scope| self.0.binary_search(scope).is_err()).cloned().collect()
    }

    /// The scopes in order.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<S: Into<String>> FromIterator<S> for Scopes {
    fn from_iter<I: IntoIterator<Item = S>>(scopes: I) -> Self {
        let mut scopes: Vec<String> = scopes.into_iter().map(Into::into).filter(|s| !s.is_empty()).collect();
        scopes.sort_unstable();
        scopes.dedup();
        Self(scopes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUED: Timestamp = Timestamp::from_millis(1_000_000);

    fn token(life: Option<u64>) -> AccessToken {
        AccessToken {
            value: Secret::new("at".into()),
            token_type: "Bearer".into(),
            issued_at: ISSUED,
            expires_at: life.map(|s| ISSUED + Duration::from_secs(s)),
        }
    }

    #[test]
    fn a_fresh_token_meets_any_min_ttl_so_that_no_demand_refreshes_for_ever() {
        let day = Duration::from_secs(86_400);
        assert!(token(Some(30)).lives_for(day, ISSUED));
        assert!(!token(Some(30)).lives_for(day, ISSUED + Duration::from_secs(15)));
        assert!(token(Some(30)).lives_for(Duration::from_secs(5), ISSUED + Duration::from_secs(24)));
    }

    #[test]
    fn a_token_without_expiry_lives() {
        assert!(token(None).lives_for(Duration::MAX, ISSUED));
        assert!(token(None).is_alive(Timestamp::from_millis(i64::MAX)));
    }

    #[test]
    fn a_token_is_dead_at_its_expiry_to_the_millisecond() {
        let at = token(Some(30));
        assert!(at.is_alive(ISSUED + Duration::from_millis(29_999)));
        assert!(!at.is_alive(ISSUED + Duration::from_millis(30_000)));
    }

    #[test]
    fn the_refresh_margin_is_a_tenth_of_life_and_at_least_a_minute() {
        assert_eq!(token(Some(3600)).refresh_margin(), Duration::from_secs(360));
        assert_eq!(token(Some(300)).refresh_margin(), Duration::from_secs(60));
    }

    #[test]
    fn scopes_are_a_set() {
        let granted: Scopes = ["b", "a", "b", ""].into_iter().collect();
        assert_eq!(granted.as_slice(), ["a", "b"]);
        assert_eq!(granted.missing(&["a".into(), "c".into()]), ["c"]);
    }
}
