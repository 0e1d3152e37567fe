//! Calls through the proxy: K23 api, K24 rate. Typed and checked; `CallProvider` reads them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::{Pattern, Pointer, Template};

/// Where the provider's API is and how a call carries the token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Api {
    /// Hosts; one leading `*.` stands for any single label. May hold variables.
    pub hosts: Vec<Template>,
    /// Path prefixes that may be called; empty means any.
    pub path_prefixes: Vec<String>,
    /// The header with the token.
    pub auth_header: String,
    /// Its value.
    pub auth_value: Template,
    /// Headers that every call needs.
    pub headers: BTreeMap<String, Template>,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            path_prefixes: Vec::new(),
            auth_header: "Authorization".to_owned(),
            auth_value: Template::new("Bearer {access_token}"),
            headers: BTreeMap::new(),
        }
    }
}

/// How the API says "slower".
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rate {
    /// Replies that mean it, besides status 429.
    pub throttled: Vec<Throttle>,
    /// Where the time to wait is, in order of preference; `Retry-After` is always understood.
    pub wait: Vec<Wait>,
    /// The header with the calls left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_header: Option<String>,
    /// The header with the calls allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_header: Option<String>,
}

/// A reply that means "slower".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Throttle {
    /// Its statuses.
    pub status: Vec<u16>,
    /// A header that must be there, with this value if one is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderIs>,
    /// A field of its body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Pointer>,
    /// What the field contains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<Pattern>,
}

/// A header and its value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderIs {
    /// The header.
    pub name: String,
    /// Its value; any when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// Where a time to wait is found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// In this header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// In this field of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Pointer>,
    /// What the number means.
    pub unit: WaitUnit,
}

/// What a time to wait means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitUnit {
    /// Seconds from now.
    Seconds,
    /// An HTTP date.
    HttpDate,
    /// Seconds since 1970.
    EpochSeconds,
    /// Milliseconds since 1970.
    EpochMilliseconds,
}
