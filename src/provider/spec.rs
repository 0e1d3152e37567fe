//! A provider as data: everything that one authorization server does differently from another, in 27 knobs,
//! and how the broker holds itself back there.
//!
//! Owns the serde types (the JSON Schema and the docs are made from them) and the check that names every mistake. Knows
//! no I/O, no client id and no secret. Invariant: a spec that passed [`ProviderSpec::check`] asks for nothing that the
//! engine would have to ignore.
//!
//! | knobs | fields | in |
//! |---|---|---|
//! | K1 K2 K4 | `variables`, `profiles`, `issuer`, `discovery`, `endpoints`, `requests` | [`place`] |
//! | K3 K5–K9 | `mint`, `client_auth`, `scopes`, `scope_style`, `offline`, `pkce`, `callback` | [`mint`] |
//! | K10–K12 | `response`, `slots`, `expiry` | [`reply`] |
//! | K13–K18 | `rotation`, `reuse`, `old_at_survives`, `spent`, `fallback`, `lifetimes`, `mint_limits` | [`lifecycle`] |
//! | K19–K22 | `errors`, `dead_when`, `revoke`, `identity`, `introspect` | [`outcome`] |
//! | K23 K24 | `api`, `rate` | [`call`], [`limit`] |
//! | K25–K27 | `webhook` | [`webhook`] |
//! | – | `max_parallel_refresh`, `token_budget`, `breaker`, `throttles_client` | [`restraint`] |

pub mod call;
mod check;
pub mod lifecycle;
pub mod limit;
pub mod mint;
pub mod outcome;
pub mod place;
pub mod reply;
pub mod restraint;
pub mod span;
pub mod value;
pub mod webhook;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use call::{Api, Rate};
use lifecycle::{Fallback, Lifetimes, MintLimits, Reuse, Rotation, Spent, Window};
use mint::{Callback, ClientAuth, Mint, Offline, Pkce, ScopeStyle};
use outcome::{ErrorRule, Identity, Introspect, Revoke};
use place::{Discovery, Endpoints, Requests, Variable};
use reply::{Expiry, Response, Slot};
use restraint::Breaker;
use span::Span;
use value::Template;
use webhook::Webhook;

pub(in crate::provider) use check::PROTOCOL as PROTOCOL_PARAMETERS;

/// What one authorization server is like. `{issuer: https://…}` alone describes any OpenID provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProviderSpec {
    /// Its name, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// The page where a client is registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console: Option<String>,
    /// Traps that people fall into.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Where these facts were read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,

    /// The issuer identifier (RFC 8414, OpenID Connect Discovery). Metadata and callbacks must name exactly this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<Template>,
    /// How metadata is found.
    pub discovery: Discovery,
    /// Addresses; what is missing comes from discovery.
    pub endpoints: Endpoints,
    /// Allows `http://` to hosts that are not this machine: tokens and the client secret then travel unencrypted, and
    /// anyone on the way can take them.
    pub allow_http: bool,
    /// Networks in which its hosts may be although they are not public (`10.0.0.0/8`): for a provider inside the cluster. An
    /// address or a name of this machine that is itself written as the issuer or an endpoint needs no mention.
    pub allow_networks: Vec<String>,
    /// Values that the templates need.
    pub variables: BTreeMap<String, Variable>,
    /// Named sets of changes to this spec (sandbox, region, national cloud); `profile` chooses one.
    #[schemars(with = "BTreeMap<String, BTreeMap<String, serde_json::Value>>")]
    pub profiles: BTreeMap<String, serde_json::Map<String, serde_json::Value>>,

    /// What a usable token is made from.
    pub mint: Mint,
    /// How requests differ from what the RFCs say.
    pub requests: Requests,
    /// How the client proves itself.
    pub client_auth: ClientAuth,
    /// The scopes asked for when the caller names none.
    pub scopes: Vec<String>,
    /// How scopes are written.
    pub scope_style: ScopeStyle,
    /// What makes a refresh token appear.
    pub offline: Offline,
    /// Proof key for code exchange. S256 is always sent.
    pub pkce: Pkce,
    /// The redirect back from consent.
    pub callback: Callback,
    /// Parameters of the authorization URL that a caller may set, such as `prompt` or `hd`.
    pub caller_parameters: Vec<String>,

    /// How a reply is read.
    pub response: Response,
    /// Several tokens in one grant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<Slot>,
    /// What the reply's expiry means.
    pub expiry: Expiry,

    /// Whether a refresh yields a new refresh token.
    pub rotation: Rotation,
    /// Whether the refresh token just used may be used once more. Unknown is strict.
    pub reuse: Reuse,
    /// Whether the access token before a refresh lives on after it.
    pub old_at_survives: bool,
    /// What the provider does when it sees a spent refresh token.
    pub spent: Spent,
    /// Error codes of the token endpoint that mean that the grant has ended.
    pub dead_when: Vec<String>,
    /// The other failures, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ErrorRule>,
    /// How often death must be answered before it is believed.
    pub invalid_grant_confirmations: u32,
    /// How long the token endpoint may take to answer. With `reuse: grace` a first try gets at most three quarters of the period, so
    /// that there is time for another.
    pub token_timeout: Span,
    /// How many refreshes may be under way at this provider at a time, with retries that only a grace period saves up to
    /// twice as many. Where it is more than one, one of them is kept for callers who wait.
    pub max_parallel_refresh: u32,
    /// How many requests the token endpoint gets within any span of that length. A fifth of them is kept for callers
    /// who wait.
    pub token_budget: Window,
    /// When the token endpoint is left alone after failures: `standard` (5 in a row, 60 s), `aggressive` (3, 30 s),
    /// `tolerant` (10, 120 s), or figures of one's own.
    pub breaker: Breaker,
    /// Whether a 429 of the token endpoint is about the whole client. Then callers, too, are kept waiting for as long
    /// as it says; otherwise only work that nobody waits for is.
    pub throttles_client: bool,
    /// Earlier refresh tokens to try after a dead answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fallback: Vec<Fallback>,
    /// How long tokens live when the reply does not say.
    pub lifetimes: Lifetimes,
    /// How often tokens may be minted.
    pub mint_limits: MintLimits,

    /// How a grant is ended at the provider.
    pub revoke: Revoke,
    /// Whose account it is.
    pub identity: Identity,
    /// How a token's state is asked for.
    pub introspect: Introspect,

    /// The provider's API.
    pub api: Api,
    /// How the API says "slower".
    pub rate: Rate,
    /// Webhooks.
    pub webhook: Webhook,
}

impl Default for ProviderSpec {
    fn default() -> Self {
        Self {
            title: String::new(),
            console: None,
            notes: Vec::new(),
            sources: Vec::new(),
            issuer: None,
            discovery: Discovery::default(),
            endpoints: Endpoints::default(),
            allow_http: false,
            allow_networks: Vec::new(),
            variables: BTreeMap::new(),
            profiles: BTreeMap::new(),
            mint: Mint::default(),
            requests: Requests::default(),
            client_auth: ClientAuth::default(),
            scopes: Vec::new(),
            scope_style: ScopeStyle::default(),
            offline: Offline::default(),
            pkce: Pkce::default(),
            callback: Callback::default(),
            caller_parameters: Vec::new(),
            response: Response::default(),
            slots: Vec::new(),
            expiry: Expiry::default(),
            rotation: Rotation::default(),
            reuse: Reuse::default(),
            old_at_survives: false,
            spent: Spent::default(),
            dead_when: vec!["invalid_grant".to_owned()],
            errors: Vec::new(),
            invalid_grant_confirmations: 1,
            token_timeout: Span::from_secs(10),
            max_parallel_refresh: 4,
            token_budget: restraint::DEFAULT_BUDGET,
            breaker: Breaker::default(),
            throttles_client: false,
            fallback: Vec::new(),
            lifetimes: Lifetimes::default(),
            mint_limits: MintLimits::default(),
            revoke: Revoke::default(),
            identity: Identity::default(),
            introspect: Introspect::default(),
            api: Api::default(),
            rate: Rate::default(),
            webhook: Webhook::default(),
        }
    }
}

impl ProviderSpec {
    /// Whether an endpoint must come from the provider's metadata.
    pub fn needs_discovery(&self) -> bool {
        self.discovery.style != place::DiscoveryStyle::Off
            && self.issuer.is_some()
            && (self.endpoints.authorization.is_none() || self.endpoints.token.is_none())
    }
}
