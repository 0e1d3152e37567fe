//! When it fails, and the end: K19 errors, K20 revoke, K21 identity, K22 introspect.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mint::ClientAuth;
use super::place::RequestShape;
use super::value::{Pattern, Pointer};

/// One row of the table that says what a failure means. Rows are tried in order; the first that matches decides.
/// After them comes `dead_when`, then the meaning that the RFCs give.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorRule {
    /// Whose replies it is about.
    #[serde(default)]
    pub at: ErrorSource,
    /// Statuses; empty means any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<u16>,
    /// Which field of the reply is looked at; `response.error` when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Pointer>,
    /// Its value is one of these; empty means any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub is: Vec<String>,
    /// It contains a match of this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<Pattern>,
    /// What it means.
    pub means: Meaning,
}

/// Whose replies an error rule is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorSource {
    /// The token endpoint's.
    #[default]
    Token,
    /// The provider's API's, in calls made through the broker.
    Api,
}

/// What a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Meaning {
    /// The grant has ended: its owner must consent again.
    Dead,
    /// The owner must consent to more, or again.
    Consent,
    /// The owner must prove who they are again (MFA, conditional access).
    StepUp,
    /// A passing trouble of the provider's; nothing was spent.
    Transient,
    /// Too many requests; nothing was spent.
    Throttled,
    /// Our client id, secret or configuration is wrong; the grant is not to blame.
    ClientBroken,
    /// Nobody can tell: never taken for death, never taken for harmless.
    Ambiguous,
    /// The access token is no longer good: it is refreshed once and the call made again. Only of the API's replies, where
    /// status 401 means it unless a row says otherwise.
    TokenBad,
}

/// How a grant is ended at the provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "style", rename_all = "snake_case", deny_unknown_fields)]
pub enum Revoke {
    /// RFC 7009 at `endpoints.revocation` or where discovery says; if neither has one, nothing is called.
    #[default]
    Rfc7009,
    /// RFC 7009 with other habits.
    Custom {
        /// Which token is presented.
        #[serde(default)]
        token: RevokedToken,
        /// How far it reaches.
        #[serde(default)]
        reach: Reach,
        /// How the client proves itself; as at the token endpoint when missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client_auth: Option<ClientAuth>,
    },
    /// A request with the token to be revoked as its bearer.
    #[serde(rename = "self")]
    Bearer {
        /// The request.
        request: Box<RequestShape>,
        /// How far it reaches.
        #[serde(default)]
        reach: Reach,
    },
    /// A call of the provider's own; `{access_token}`, `{refresh_token}` and `{client_id}` are filled in.
    Rest {
        /// The request. A token may stand in its body, never in its URL.
        request: Box<RequestShape>,
        /// How the client proves itself.
        #[serde(default)]
        client_auth: ClientAuth,
        /// Which token is presented.
        #[serde(default)]
        token: RevokedToken,
        /// How far it reaches.
        #[serde(default)]
        reach: Reach,
        /// Statuses, besides 2xx, that mean that there is nothing left to revoke.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        gone_status: Vec<u16>,
    },
    /// The provider has no way; forgetting is all that can be done.
    None,
}

impl Revoke {
    /// The request of the provider's own, where it has one.
    pub fn request(&self) -> Option<&RequestShape> {
        match self {
            Self::Bearer { request, .. } | Self::Rest { request, .. } => Some(request),
            Self::Rfc7009 | Self::Custom { .. } | Self::None => None,
        }
    }
}

/// Which token is presented for revocation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RevokedToken {
    /// The refresh token, or the access token where there is none.
    #[default]
    RefreshFirst,
    /// Only the access token.
    Access,
    /// Both, one after the other: ending one leaves the other alive.
    Both,
}

/// How far a revocation reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// The tokens of this grant.
    #[default]
    Grant,
    /// The presented token alone.
    Token,
    /// Every grant that the user gave to this client.
    User,
    /// Every grant that the user gave to any client of the same owner.
    Project,
}

/// Whose account a grant is for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Identity {
    /// Where the facts come from.
    pub from: IdentitySource,
    /// The request, for `from: request`; with the access token as bearer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestShape>,
    /// Fields that together make the account's id, joined by `:`; all must be there. By default `/sub`.
    pub id: Vec<Pointer>,
    /// Fields that may hold the email address; the first that does is taken. By default `/email`.
    pub email: Vec<Pointer>,
    /// Whether the id is another one for every client, so that it means nothing elsewhere.
    pub pairwise: bool,
}

/// Where the facts about an account come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdentitySource {
    /// The userinfo endpoint, if there is one and `openid` was granted or the endpoint is written down.
    #[default]
    Userinfo,
    /// A request of the provider's own.
    Request,
    /// The token reply itself.
    Token,
    /// Claims of the ID token that came with the token reply over TLS (OpenID Connect Core 3.1.3.7 rule 6).
    IdToken,
    /// A parameter of the callback.
    Callback,
    /// Nowhere.
    None,
}

/// How a token's state is asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "style", rename_all = "snake_case", deny_unknown_fields)]
pub enum Introspect {
    /// Not at all.
    #[default]
    None,
    /// RFC 7662 at `endpoints.introspection` or where discovery says.
    Rfc7662,
    /// A request of the provider's own.
    Request {
        /// The request.
        request: Box<RequestShape>,
        /// The field that says whether the token is good.
        active: Pointer,
    },
}
