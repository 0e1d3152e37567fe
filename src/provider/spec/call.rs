//! Calls through the proxy: K23 api, K24 rate. Typed and checked; `CallProvider` reads them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::limit::{AnswerCache, CallLimits};
use super::span::Span;
use super::value::{Pattern, Pointer, Template};

/// Where the provider's API is and how a call carries the token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Api {
    /// Where it is: hosts (`api.example.com`), or addresses that say more (`https://api.example.com:8443/v3`); paths of
    /// callers go below the path of the address. One leading `*.` stands for any single label. May hold variables. A call
    /// that names no host goes to the first one without `*.`.
    pub hosts: Vec<Template>,
    /// Path prefixes that may be called, whole segments, as callers write them; empty means any.
    pub path_prefixes: Vec<String>,
    /// Networks that the hosts may resolve to although they are not public (`10.0.0.0/8`): for a provider inside the
    /// cluster. The address of a loopback host that is written in `hosts` needs no mention.
    pub allow_networks: Vec<String>,
    /// Hosts with `http://` are spoken to in HTTP/2 at once (RFC 9113 section 3.3), for a gateway inside the cluster that
    /// speaks it without TLS. Nothing written: in HTTP/1.1. Over TLS the host chooses.
    pub http2_prior_knowledge: bool,
    /// The header with the token.
    pub auth_header: String,
    /// Its value.
    pub auth_value: Template,
    /// Headers that every call needs.
    pub headers: BTreeMap<String, Template>,
    /// The header in which it takes a key by which it knows a repetition, such as `Idempotency-Key`: filled with the
    /// `request_id` of a call, which may then be repeated whatever its method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_header: Option<String>,
    /// What a call may cost.
    pub limits: CallLimits,
    /// How much is remembered of answers to GET. Nothing where this is not written; `{}` is enough to have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<AnswerCache>,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            path_prefixes: Vec::new(),
            allow_networks: Vec::new(),
            http2_prior_knowledge: false,
            auth_header: "Authorization".to_owned(),
            auth_value: Template::new("Bearer {access_token}"),
            headers: BTreeMap::new(),
            idempotency_header: None,
            limits: CallLimits::default(),
            cache: None,
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
    /// How long to wait where a reply means "slower" and does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_wait: Option<Span>,
    /// The header with the calls left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_header: Option<String>,
    /// The header with the calls used, for providers that do not say how many are left: `18` beside `limit_header`, or
    /// `18/5000` with the calls allowed in it. Of several windows the first counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_header: Option<String>,
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
    /// What the field contains; without a field, the body's text.
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

/// Where a time to wait is found: in a header, in a field of the body, or, with neither, anywhere in the body's text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// In this header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// In this field of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Pointer>,
    /// What in it is the time: the pattern's first group, or all that it matches. Everything when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<Pattern>,
    /// What the number means.
    pub unit: WaitUnit,
}

/// What a time to wait means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitUnit {
    /// Seconds from now.
    Seconds,
    /// Milliseconds from now.
    Milliseconds,
    /// An HTTP date.
    HttpDate,
    /// An instant as RFC 3339 text.
    Timestamp,
    /// Seconds since 1970.
    EpochSeconds,
    /// Milliseconds since 1970.
    EpochMilliseconds,
}
