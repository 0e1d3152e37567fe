//! What comes back: K10 response, K11 slots, K12 expiry.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::value::Pointer;

/// How a reply of the token endpoint is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Response {
    /// How the body is decoded.
    pub decode: Decode,
    /// Statuses of success.
    pub success_status: Vec<u16>,
    /// A field that must have a given value, for providers that answer 200 to everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success_when: Option<Equals>,
    /// Where the access token is.
    pub access_token: Pointer,
    /// Where the refresh token is.
    pub refresh_token: Pointer,
    /// Where the access token's lifetime or end is; `expiry` says what it means.
    pub expires: Pointer,
    /// Where the granted scopes are.
    pub scope: Pointer,
    /// Where the token type is. A reply without one counts as `Bearer`: refusing it would throw away a grant that
    /// the provider has already rotated.
    pub token_type: Pointer,
    /// Where the ID token is.
    pub id_token: Pointer,
    /// Where the error code is. A reply with one is a failure whatever its status.
    pub error: Pointer,
}

impl Default for Response {
    fn default() -> Self {
        Self {
            decode: Decode::Auto,
            success_status: vec![200],
            success_when: None,
            access_token: Pointer::fixed("/access_token"),
            refresh_token: Pointer::fixed("/refresh_token"),
            expires: Pointer::fixed("/expires_in"),
            scope: Pointer::fixed("/scope"),
            token_type: Pointer::fixed("/token_type"),
            id_token: Pointer::fixed("/id_token"),
            error: Pointer::fixed("/error"),
        }
    }
}

/// How a body is decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decode {
    /// As a form if the content type says so, else as JSON.
    #[default]
    Auto,
    /// As JSON, whatever the content type says.
    Json,
    /// As a form, whatever the content type says.
    Form,
}

/// A field and the value it must have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Equals {
    /// Which field.
    pub path: Pointer,
    /// Which value.
    pub is: Value,
}

/// One of several tokens in one grant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// What it is called, such as `bot`.
    pub name: String,
    /// Where its access token is.
    pub access_token: Pointer,
    /// Where its own refresh token is, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<Pointer>,
    /// Which hosts or resource it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

/// What `response.expires` means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Expiry {
    /// A number of seconds from now.
    #[default]
    Seconds,
    /// A number of minutes from now.
    Minutes,
    /// A number of milliseconds from now.
    Milliseconds,
    /// An instant as RFC 3339 text.
    Timestamp,
    /// An instant in seconds since 1970.
    EpochSeconds,
    /// An instant in milliseconds since 1970.
    EpochMilliseconds,
    /// Nothing: the token lives as long as `lifetimes.access` says.
    Fixed,
    /// Nothing: the token does not expire.
    Never,
    /// Nothing: the introspection endpoint knows.
    Introspect,
    /// Nothing: the access token is a JWT whose `exp` is read.
    Jwt,
}
