//! The pure core: what a connection is and how it changes. Owns ids, tokens, statuses and transitions. Does not
//! know how anything is stored, sent or awaited: no tokio, no I/O. Invariant: a transition takes `self` and a time
//! and returns `Self`; a refresh token is never overwritten with nothing.

pub mod alphabet;
mod attempt;
mod doubt;
mod expiry;
pub mod history;
mod id;
mod landing;
mod left;
pub mod lifetimes;
mod past;
pub mod reuse;
mod session;
mod step;
mod token;
mod transition;
mod variable;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use attempt::{Backoff, CLOCK_MARGIN, Holder, Intent, LONGEST_ASKED};
pub use history::History;
pub use id::{ConnectionId, ConnectionName, ProviderKey, Tenant};
pub use landing::{Landed, Verdict};
pub use past::REMEMBERED;
pub use session::{CodeWait, ConnectSession, FinishWait, Phase, SESSION_TTL};
pub use step::{LATE_PROBE, Moment, Others, Step, Waiting};
pub use token::{AccessToken, Credential, IssuedTokens, RefreshToken, SURPLUS, Scopes, TokenSet};
pub use transition::{Consent, QUARANTINE};
pub use variable::{Told, Values};

use crate::clock::Timestamp;
use crate::error::OAuthCode;

/// One owner's authorised link to one provider, with its tokens. Not `Clone`: there is one copy of a token, and it
/// is wiped when dropped.
#[derive(Debug)]
pub struct Connection {
    /// Everything about it that a person may see.
    pub profile: Profile,
    /// The tokens; none while PENDING and after they were revoked.
    pub tokens: Option<TokenSet>,
    /// What happened to it.
    pub history: History,
}

/// Everything about a connection that a person may see: never a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Its name: tenant, provider, connection.
    pub id: ConnectionId,
    /// What it can do at the moment.
    pub status: Status,
    /// Counts the token sets it has had; the first is 1. Never decreases.
    pub generation: u64,
    /// Whose account at the provider it is, once known.
    pub account: Option<Account>,
    /// What the provider granted.
    pub scopes: Scopes,
    /// When the current access token expires; `None` if there is none or the provider states none.
    pub expires_at: Option<Timestamp>,
    /// When the current refresh token expires, where the provider says so.
    pub refresh_expires_at: Option<Timestamp>,
    /// Whether a refresh token is held.
    pub is_refreshable: bool,
    /// When the owner last consented.
    pub consented_at: Option<Timestamp>,
    /// When tokens were last refreshed.
    pub refreshed_at: Option<Timestamp>,
    /// When tokens last came from elsewhere; how old they were then nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported_at: Option<Timestamp>,
    /// The last failure since the last success.
    pub last_failure: Option<Failure>,
    /// Counts the attempts to refresh it and whatever puts them off. Never decreases.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub fence: u64,
    /// A refresh that is under way, or whose outcome nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<Intent>,
    /// The pause after failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    /// How many times in a row the provider said that the grant is dead.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub denials: u32,
    /// Since when the refresh token of a dead grant is kept for an operator's retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined_at: Option<Timestamp>,
    /// While it is being revoked: how often the provider was asked what became of a refresh that it never answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<u32>,
    /// When a caller last asked for its token, as far as it is written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_at: Option<Timestamp>,
    /// Its values for the provider's variables: given when it was connected, or told with its tokens.
    #[serde(default, skip_serializing_if = "Values::is_empty")]
    pub variables: Values,
    /// When the connection was first begun or imported.
    pub created_at: Timestamp,
    /// When the record last changed.
    pub updated_at: Timestamp,
}

impl Profile {
    /// When the provider gave the tokens that are held. An import's time is that of the import; of a record that does not
    /// say when that was, the time of its last change.
    pub fn obtained_at(&self) -> Timestamp {
        self.refreshed_at.max(self.consented_at).or(self.imported_at).unwrap_or(self.updated_at)
    }

    /// When the refresh token that is held dies if nobody uses it: at the end that the provider states for it, or where its
    /// `idle` life is over. `None` where neither is known. A stated end at which or after which it was used is outlived,
    /// and counts for nothing.
    pub fn refresh_ends_at(&self, idle: Option<Duration>) -> Option<Timestamp> {
        let obtained_at = self.obtained_at();
        let stated = self.refresh_expires_at.filter(|end| *end > obtained_at);
        stated.into_iter().chain(idle.map(|idle| obtained_at + idle)).min()
    }
}

/// What is zero in most records is not written.
fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}

/// What a connection can do at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Begun, not consented yet. Serves nothing.
    Pending,
    /// Serves tokens.
    Active,
    /// A refresh's outcome is unknown.
    Ambiguous,
    /// The provider ended the grant; only the owner's consent helps.
    ReauthRequired,
    /// Being revoked at the provider. Serves nothing.
    Revoking,
    /// Revoked and forgotten.
    Revoked,
    /// Switched off by an operator.
    Disabled,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Active,
        Self::Ambiguous,
        Self::ReauthRequired,
        Self::Revoking,
        Self::Revoked,
        Self::Disabled,
    ];

    /// Whether a connection in it may serve tokens.
    pub const fn serves(self) -> bool {
        matches!(self, Self::Active | Self::Ambiguous)
    }

    /// The word for it, `UPPER_SNAKE`, as on the wire without its prefix.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Active => "ACTIVE",
            Self::Ambiguous => "AMBIGUOUS",
            Self::ReauthRequired => "REAUTH_REQUIRED",
            Self::Revoking => "REVOKING",
            Self::Revoked => "REVOKED",
            Self::Disabled => "DISABLED",
        }
    }
}

/// Whose account at the provider a connection is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The provider's own stable id of it (OIDC `sub`, or what the provider's spec names).
    pub id: String,
    /// Its email address, where the provider tells.
    pub email: Option<String>,
}

/// The last thing that went wrong with a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The reason, as on the wire.
    pub reason: String,
    /// The provider's own code, where it sent one.
    pub oauth_error: Option<OAuthCode>,
    /// When.
    pub at: Timestamp,
}
