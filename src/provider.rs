//! Providers as the broker sees them. Owns the port ([`ProviderClient`]) and, below it, the provider as data and
//! the clients that speak to one. Does not know stores, callers or gRPC. Invariant: a provider's failure is
//! classified here, once; what leaves is a [`ProviderError`], never a body.

pub mod address;
mod api;
mod authorization;
mod breaker;
mod budget;
mod cache;
pub mod call;
pub mod catalogue;
mod client_auth;
mod coding;
mod discovery;
mod endpoint;
pub mod field;
mod gate;
mod grant;
pub mod health;
pub mod http;
mod identity;
mod issuer;
mod learned;
pub mod oauth;
mod reply;
mod revocation;
mod sender;
pub mod spec;
pub mod target;
pub mod throttle;
pub mod trust;
pub mod url;
mod variable;
mod wire;

use std::any::Any;
use std::time::Duration;

use ::url::Url;
use async_trait::async_trait;

use crate::connection::lifetimes::Lifetimes;
use crate::connection::reuse::ReuseProfile;
use crate::connection::{
    AccessToken, Account, ConnectionId, IssuedTokens, ProviderKey, RefreshToken, Scopes, TokenSet, Values,
};
use crate::error::{Error, Mistake, ProviderError, Refusal, Rule};
use crate::secret::Secret;
use call::{CallPolicy, PreparedCall, Wanted};
use health::{ApiHealth, Budget, Health, Learned};

/// One configured provider: where it is, what it is like, and the calls the broker makes to it. Every call sends
/// at most one state-changing request, follows no redirect and repeats nothing.
#[async_trait]
pub trait ProviderClient: Send + Sync {
    /// The provider's key in the configuration.
    fn key(&self) -> &ProviderKey;

    /// Everything a person may see of it.
    fn info(&self) -> ProviderInfo;

    /// Whether it may be used (`enabled`).
    fn is_enabled(&self) -> bool;

    /// The scopes asked for when a connect names none.
    fn default_scopes(&self) -> &Scopes;

    /// Checks what a caller wants to add to the authorization request; all mistakes together.
    fn check_extra(&self, extra: &[(String, String)]) -> Result<(), Vec<Mistake>>;

    /// Checks what a caller gives for a connection's variables; all mistakes together. `held`: what it knows already.
    fn check_variables(
        &self,
        _occasion: Occasion,
        given: &Values,
        _held: &Values,
    ) -> Result<(), Vec<Mistake>> {
        variable::none(given)
    }

    /// The URL that starts a consent (RFC 6749 section 4.1.1), PKCE S256 always (RFC 7636).
    async fn authorization_url(&self, request: &AuthorizationRequest) -> Result<Url, ProviderError>;

    /// Whether `iss` of an authorization response is this provider's (RFC 9207 section 2.4): it must be present
    /// where the provider's metadata promises it, and equal where present.
    async fn accepts_issuer(&self, iss: Option<&str>) -> Result<bool, ProviderError>;

    /// Trades an authorization code for tokens (RFC 6749 section 4.1.3).
    async fn exchange(&self, grant: &CodeGrant) -> Result<IssuedTokens, ProviderError>;

    /// What it does with a refresh token that was presented before.
    fn reuse_profile(&self) -> ReuseProfile;

    /// How long its grants live, as far as that is known.
    fn lifetimes(&self) -> Lifetimes {
        Lifetimes::default()
    }

    /// Settles everything that must be settled before a refresh is written down as begun: whether the provider may
    /// be asked at all, whose turn it is, and where its token endpoint is. Waits its turn; sends no token. To drop the
    /// future is to leave the line, so a refresh that somebody begins to wait for can ask again, more urgently.
    ///
    /// # Errors
    /// Nothing was sent and nothing is known about the grant: `CircuitOpen` and `RateLimited` say when to ask again.
    async fn admit(&self, urgency: Urgency) -> Result<Admission, ProviderError>;

    /// Trades a refresh token for new tokens (RFC 6749 section 6), with the leave that `admit` gave. Gives up after
    /// `patience`, and says then whether the token may have left: only here is that known.
    async fn refresh(
        &self,
        admission: Admission,
        refresh: &RefreshToken,
        patience: Duration,
    ) -> Result<IssuedTokens, ProviderError>;

    /// Closes every circuit breaker and forgets every rest that the provider asked for: an operator knows better.
    fn close_breaker(&self) {}

    /// An access token was refused at this age, before its end, and its grant brought another.
    fn saw_token_refused(&self, _age: Duration) {}

    /// Revokes a grant in the provider's own way (RFC 7009: the refresh token first).
    async fn revoke(&self, tokens: &TokenSet) -> Result<Revocation, ProviderError>;

    /// Whose account an access token is for; `None` where the provider has no way to tell.
    async fn account(&self, access: &AccessToken) -> Result<Option<Account>, ProviderError>;

    /// How often and for how long calls at its API are tried, where the caller does not say.
    fn call_policy(&self) -> CallPolicy {
        CallPolicy::default()
    }

    /// Forgets every answer of its API that is remembered for a connection: the grant behind it ended, or is another's.
    fn forget_answers(&self, _id: &ConnectionId) {}

    /// Checks a call at its API by every rule. Nothing is sent.
    ///
    /// # Errors
    /// `RequestRefused`, which names the rule.
    fn prepare_call(&self, _id: &ConnectionId, _wanted: &Wanted) -> Result<Box<dyn PreparedCall>, Error> {
        Err(Refusal::new(Rule::NoApi, "this provider has no API that could be called").into())
    }
}

/// When a caller gives values for a connection's variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// A consent is begun; what the provider tells comes with its tokens.
    Connect,
    /// Tokens are brought along, and with them what the provider told then.
    Import,
}

/// How pressing a refresh is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nobody waits for it: it is done ahead of expiry.
    Ahead,
    /// A caller waits for it, and overtakes those for whom nobody does.
    Waiting,
    /// An earlier attempt is unanswered, and the time in which the provider takes the same refresh token again runs out.
    /// Overtakes everybody, and is let through while the provider rests, unless it rests for refusing this client, and
    /// when nothing is left of the budget.
    Rescue,
}

/// Leave to make one request to a token endpoint. Holds a place among the requests under way until it is dropped.
pub struct Admission {
    place: Box<dyn Any + Send>,
}

impl Admission {
    /// Leave that gives `place` back when it is dropped.
    pub fn holding(place: impl Any + Send) -> Self {
        Self { place: Box::new(place) }
    }

    /// The place that is held, if it is of that type.
    pub fn into_place<T: Any>(self) -> Option<Box<T>> {
        self.place.downcast().ok()
    }
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").finish_non_exhaustive()
    }
}

/// What goes into the URL that starts a consent.
#[derive(Debug)]
pub struct AuthorizationRequest {
    /// Where the answer is to come back.
    pub redirect_uri: String,
    /// What to ask for.
    pub scopes: Scopes,
    /// The single-use value that ties the answer to this request.
    pub state: Secret<String>,
    /// Base64url SHA-256 of the verifier.
    pub code_challenge: String,
    /// Which account the owner probably means.
    pub login_hint: Option<String>,
    /// More parameters, as the provider's entry allows.
    pub extra: Vec<(String, String)>,
}

/// An authorization code and what proves it is ours.
#[derive(Debug)]
pub struct CodeGrant {
    /// The code.
    pub code: Secret<String>,
    /// The PKCE verifier.
    pub code_verifier: Secret<String>,
    /// The redirect URI of the authorization request.
    pub redirect_uri: String,
}

/// What became of a grant that was to be revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// The provider confirmed it.
    Revoked,
    /// The provider was asked by an access token that is over, so that its answer says nothing of the refresh token that is
    /// held: that may live on.
    Unconfirmed,
    /// The provider has no way to revoke it: its owner must remove the app at the provider.
    Unsupported,
}

/// Everything a person may see of a provider.
#[derive(Clone, Debug, Default)]
pub struct ProviderInfo {
    /// Its key in the configuration.
    pub key: String,
    /// Its name for people.
    pub display_name: String,
    /// The catalogue entry it is made from; empty if it is described in full in the configuration.
    pub kind: String,
    /// Whether it may be used.
    pub is_enabled: bool,
    /// The client id registered at the provider; not a secret.
    pub client_id: String,
    /// Its issuer, where it has one.
    pub issuer: Option<String>,
    /// Authorization endpoint, as far as known (discovery is lazy).
    pub authorization_endpoint: Option<String>,
    /// Token endpoint.
    pub token_endpoint: Option<String>,
    /// Revocation endpoint.
    pub revocation_endpoint: Option<String>,
    /// Where the account is asked for.
    pub userinfo_endpoint: Option<String>,
    /// Scopes asked for when a connect names none.
    pub scopes: Vec<String>,
    /// The page where a client is registered.
    pub console_url: Option<String>,
    /// What trips people at this provider, a sentence each.
    pub notes: Vec<String>,
    /// How long an access token lives where the provider does not say.
    pub default_access_ttl: Option<Duration>,
    /// Whether refreshing gives a new refresh token: `always`, `sometimes`, `never`.
    pub rotation: String,
    /// What happens when a spent refresh token is used again: `reusable`, `grace`, `count`, `strict`.
    pub reuse: String,
    /// How its token endpoint fares; `None`: not measured.
    pub health: Option<Health>,
    /// What is left of its budget; `None`: not counted.
    pub budget: Option<Budget>,
    /// How its API fares; `None`: it has none that could be called.
    pub api: Option<ApiHealth>,
    /// What it was seen to do; `None`: nobody looks.
    pub learned: Option<Learned>,
}
