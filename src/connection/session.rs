//! A consent under way: what must be remembered between sending the owner to the provider and having tokens.

use std::time::Duration;

use super::{Account, ConnectionId, Scopes, TokenSet, Told, Values};
use crate::clock::Timestamp;
use crate::secret::Secret;

/// How long an owner may take (refresh.md and RFC 9700 section 4.7 leave it to us): 10 minutes.
pub const SESSION_TTL: Duration = Duration::from_secs(600);

/// A consent under way. Stored under a digest of the secret that leads to it (`state`, then the one-time code),
/// never under the secret itself.
#[derive(Debug)]
pub struct ConnectSession {
    /// The id the app got from `BeginConnect`; binds `FinishConnect` to the backend that began.
    pub session: String,
    /// The connection that is to be made.
    pub connection: ConnectionId,
    /// After this it is worth nothing.
    pub expires_at: Timestamp,
    /// Whether an account other than the connection's present one may take its place.
    pub allow_account_change: bool,
    /// What is being waited for.
    pub phase: Phase,
}

/// What a consent under way waits for.
#[derive(Debug)]
pub enum Phase {
    /// The provider's answer.
    Code(CodeWait),
    /// The app's backend, which proves with a one-time code that the same browser came back.
    Finish(FinishWait),
}

/// Waiting for the provider's answer.
#[derive(Debug)]
pub struct CodeWait {
    /// The PKCE verifier (RFC 7636), which never leaves the broker before the exchange.
    pub code_verifier: Secret<String>,
    /// The redirect URI of the authorization request; the token request must repeat it (RFC 6749 section 4.1.3).
    pub redirect_uri: String,
    /// Where the public door sends the browser afterwards; `None` when the app has a callback of its own.
    pub return_url: Option<String>,
    /// The scopes asked for: what was granted, if the provider does not say.
    pub scopes: Scopes,
    /// What the app gave for the provider's variables.
    pub variables: Values,
}

/// Waiting for the app's backend. The tokens serve nobody until then.
#[derive(Debug)]
pub struct FinishWait {
    /// The tokens the exchange gave.
    pub tokens: TokenSet,
    /// What was granted.
    pub scopes: Scopes,
    /// Whose account it is, where known.
    pub account: Option<Account>,
    /// What was given or told for the provider's variables.
    pub variables: Told,
}
