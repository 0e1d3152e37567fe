//! How a token is minted: K3 mint, K5 client authentication, K6 scopes, K7 offline access, K8 PKCE, K9 callback.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::place::RequestShape;
use super::span::Span;
use super::value::Template;

/// What a usable token is made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "style", rename_all = "snake_case", deny_unknown_fields)]
pub enum Mint {
    /// A refresh token (RFC 6749 section 6). A reply without one and without an expiry is a token that does not end.
    #[default]
    RefreshToken,
    /// The access token never expires: it can only be used and revoked.
    Static,
    /// The still valid access token is traded for a fresh one.
    ExchangeSelf {
        /// The trade.
        request: Box<RequestShape>,
    },
    /// The app's own secret and the connection's id; nothing secret is kept for each user.
    ClientCredentials {
        /// The request, with the connection's variables.
        request: Box<RequestShape>,
    },
    /// A JWT signed with the app's key is posted.
    AppJwt {
        /// The request.
        request: Box<RequestShape>,
        /// What is signed.
        jwt: MintedJwt,
    },
}

/// A JWT that we sign: a client assertion, a minted client secret, an app token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MintedJwt {
    /// The signature algorithm, such as `ES256`.
    pub algorithm: String,
    /// The `kid` header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Claims besides `iat`, `exp` and `jti`.
    #[serde(default)]
    pub claims: BTreeMap<String, Template>,
    /// How long it is good.
    pub max_life: Span,
}

/// How the client proves itself at the token endpoint (RFC 6749 section 2.3).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// What the provider's metadata offers: `basic`, then `post`. Without metadata `post`; without a secret `none`.
    #[default]
    Auto,
    /// `client_secret_basic`: the Authorization header, id and secret form-encoded first as the RFC says.
    Basic,
    /// `client_secret_post`: in the body.
    Post,
    /// A public client: only `client_id` in the body.
    None,
    /// Basic with the secret as user and an empty password.
    SecretAsUser,
    /// `Authorization: Bearer` with the secret.
    Bearer,
    /// A header of the provider's own; `{client_id}` and `{client_secret}` are filled in.
    Header {
        /// The header's name.
        name: String,
        /// Its value.
        value: Template,
    },
    /// `private_key_jwt` (RFC 7523).
    PrivateKeyJwt(MintedJwt),
    /// The client secret is itself a JWT signed with the app's key, sent as `post`.
    MintedSecret(MintedJwt),
}

/// How scopes are asked for and read back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScopeStyle {
    /// What stands between scopes in the request.
    pub separator: String,
    /// What stands between scopes in the reply, besides white space. A JSON array is always understood.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_separator: Option<String>,
    /// The request parameter's name.
    pub parameter: String,
    /// Further parameters with scopes of their own class, such as `user_scope`.
    pub more: BTreeMap<String, Vec<String>>,
    /// Whether scopes are sent at all.
    pub sent: bool,
}

impl Default for ScopeStyle {
    fn default() -> Self {
        Self {
            separator: " ".to_owned(),
            reply_separator: None,
            parameter: "scope".to_owned(),
            more: BTreeMap::new(),
            sent: true,
        }
    }
}

/// What makes a refresh token appear.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Offline {
    /// A scope that is always added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Parameters added to the authorization URL.
    pub authorization: BTreeMap<String, String>,
    /// Parameters added to the exchange of the code.
    pub token: BTreeMap<String, String>,
    /// A switch in the provider's console, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_setting: Option<String>,
    /// Whether a refresh token comes in the end.
    pub comes: Comes,
}

/// Whether consent yields a refresh token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Comes {
    /// Sometimes: settings, scopes or the user decide.
    #[default]
    Depends,
    /// Always, with the parameters above.
    Always,
    /// Never.
    Never,
}

/// Proof key for code exchange (RFC 7636). `S256` is sent always; there is no `plain` and no off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pkce {
    /// Sent, whether or not the provider looks at it.
    #[default]
    S256,
    /// Sent, and the provider refuses requests without it.
    Required,
}

/// What the redirect back from consent looks like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Callback {
    /// How the parameters arrive.
    pub response_mode: ResponseMode,
    /// What the code's parameter is called.
    pub code_parameter: String,
    /// Further parameters to keep for variables.
    pub keep: Vec<String>,
    /// Whether the `iss` parameter must be there (RFC 9207). When it is there it is always compared.
    pub iss: IssParameter,
    /// A parameter with an HMAC over the others, made with the client secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hmac_parameter: Option<String>,
    /// Who begins.
    pub started_by: StartedBy,
}

impl Default for Callback {
    fn default() -> Self {
        Self {
            response_mode: ResponseMode::Query,
            code_parameter: "code".to_owned(),
            keep: Vec::new(),
            iss: IssParameter::Metadata,
            hmac_parameter: None,
            started_by: StartedBy::User,
        }
    }
}

/// How the parameters of the redirect arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResponseMode {
    /// In the query.
    #[default]
    Query,
    /// In a form that the browser posts.
    FormPost,
}

/// When the callback must carry `iss` (RFC 9207).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IssParameter {
    /// When the provider's metadata advertises it.
    #[default]
    Metadata,
    /// Always.
    Required,
}

/// Who begins a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartedBy {
    /// The user, from the app.
    #[default]
    User,
    /// The provider, from its marketplace.
    Vendor,
}
