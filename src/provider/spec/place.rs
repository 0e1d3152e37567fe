//! Where things are: endpoints, discovery, variables (K1), and the one request shape used for every endpoint (K4).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ProviderSpec;
use super::value::{Pattern, Pointer, Template};
use crate::provider::address::AddressPolicy;
use crate::provider::url::{CheckedUrl, PlainHttp};

/// The provider's addresses. What is missing comes from discovery when an `issuer` is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Endpoints {
    /// Where the user's browser is sent to consent (RFC 6749 section 3.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Template>,
    /// Where codes and refresh tokens are exchanged (RFC 6749 section 3.2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Template>,
    /// Where refresh tokens go, if not to `token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Template>,
    /// Where tokens are revoked (RFC 7009).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revocation: Option<Template>,
    /// Who the user is (OpenID Connect Core section 5.3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userinfo: Option<Template>,
    /// Whether a token is still good (RFC 7662).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub introspection: Option<Template>,
}

impl Endpoints {
    /// Every address that is set, with its key.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, &Template)> {
        [
            ("authorization", &self.authorization),
            ("token", &self.token),
            ("refresh", &self.refresh),
            ("revocation", &self.revocation),
            ("userinfo", &self.userinfo),
            ("introspection", &self.introspection),
        ]
        .into_iter()
        .filter_map(|(key, template)| Some((key, template.as_ref()?)))
    }
}

/// How the provider's metadata is found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Discovery {
    /// Which document to read.
    pub style: DiscoveryStyle,
    /// The document's address, when it is neither of the well-known ones below the issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Template>,
    /// Hosts to which the metadata may point, besides the issuer's own. Empty: any at first, and from then on only
    /// those of the first time.
    pub hosts: Vec<String>,
}

/// Which metadata document is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiscoveryStyle {
    /// Read `/.well-known/openid-configuration` if an issuer is given and an endpoint is missing.
    #[default]
    Oidc,
    /// Read `/.well-known/oauth-authorization-server` (RFC 8414) instead.
    Oauth,
    /// Read nothing: every endpoint is written down.
    Off,
}

/// A value that the spec's templates need and that is not the same for every user of the provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    /// Where the value comes from.
    #[serde(default)]
    pub from: VariableSource,
    /// The whole value must match this. Required for a value that becomes part of a host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<Pattern>,
    /// Used when the entry's `vars`, or the connection, says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// Where in the reply, claims or parameters it stands, for sources other than `config` and `input`. In the token reply the
    /// field of the same name, if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Pointer>,
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// The longest value of a connection's, in bytes: twice the longest name of the DNS.
const LONGEST_VALUE: usize = 512;

impl Variable {
    /// Whether a value may be kept for it. Without a pattern none may.
    pub fn takes(&self, value: &str) -> bool {
        value.len() <= LONGEST_VALUE
            && self.pattern.as_ref().is_some_and(|pattern| pattern.matches_all(value))
    }
}

impl ProviderSpec {
    /// The addresses at which the authorization server may be. What is written in the entry itself is meant; what a name
    /// resolves to, and what metadata points to, must be public unless the entry says otherwise. Networks that do not
    /// parse, of which the check speaks, allow nothing.
    pub(in crate::provider) fn addresses(&self) -> AddressPolicy {
        let requests = [self.identity.request.as_ref(), self.revoke.request()];
        let urls: Vec<_> = self
            .endpoints
            .each()
            .map(|(_, template)| template)
            .chain(&self.issuer)
            .chain(&self.discovery.url)
            .chain(requests.into_iter().flatten().filter_map(|request| request.url.as_ref()))
            .filter_map(|template| CheckedUrl::parse(template.as_str(), PlainHttp::Allowed).ok())
            .collect();
        let networks = self.allow_networks.iter().filter_map(|text| text.parse().ok()).collect();
        AddressPolicy::new(networks)
            .with_written(&mut urls.iter().map(CheckedUrl::host))
            .with_literals(urls.iter().filter_map(CheckedUrl::literal))
    }
}

/// Where a variable's value comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VariableSource {
    /// The entry's `vars`.
    #[default]
    Config,
    /// The app, when it begins or imports a connection (`variables`).
    Input,
    /// A parameter of the redirect back from consent.
    Callback,
    /// A field of the token reply, read again at every refresh.
    Token,
    /// A claim of the ID token. Inside `issuer` it stands for whatever its pattern allows.
    IdToken,
    /// A claim of the access token.
    AccessToken,
    /// A field of a follow-up call's reply.
    Call,
    /// A field of an inbound webhook.
    Webhook,
}

/// The shape of a request, the same for every endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RequestShape {
    /// The HTTP method; by default POST with a body, GET without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// Where to, for requests that have no endpoint of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Template>,
    /// How parameters are written.
    pub format: Format,
    /// Parameters added. Values may hold `{client_id}`, variables and, in `token`, `{redirect_uri}`.
    pub set: BTreeMap<String, Template>,
    /// Parameters called something else here: ours to theirs.
    pub rename: BTreeMap<String, String>,
    /// Parameters left out.
    pub drop: Vec<String>,
    /// Headers added.
    pub headers: BTreeMap<String, Template>,
}

/// HTTP methods a spec may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// GET.
    Get,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
}

/// How a request's parameters are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// `application/x-www-form-urlencoded`, as RFC 6749 says.
    #[default]
    Form,
    /// A flat JSON object.
    Json,
    /// In the URL. Refused wherever a parameter is a credential.
    Query,
}

/// By endpoint: how each request differs from what the RFCs say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Requests {
    /// The URL that the user's browser opens; only `set`, `rename` and `drop` mean something.
    pub authorization: RequestShape,
    /// The exchange of a code.
    pub token: RequestShape,
    /// The refresh; it takes nothing over from `token`.
    pub refresh: RequestShape,
    /// RFC 7009 revocation.
    pub revocation: RequestShape,
}
