//! The rest of the check, knob by knob: contradictions, senseless figures, and engines that are not here yet.

use super::{Found, RESERVED_HEADERS};
use crate::provider::spec::ProviderSpec;
use crate::provider::spec::lifecycle::{Reuse, Rotation, Spent};
use crate::provider::spec::mint::{ClientAuth, Comes, Mint, ResponseMode, StartedBy};
use crate::provider::spec::outcome::{ErrorSource, IdentitySource, Introspect, Meaning, Revoke};
use crate::provider::spec::place::RequestShape;
use crate::provider::spec::reply::Expiry;
use crate::provider::spec::span::Span;
use crate::provider::target::Api;

/// A lease outlasts two of these (refresh.md 2.6 step 2); longer ones would hold a connection's callers hostage.
const LONGEST_TOKEN_TIMEOUT: Span = Span::from_secs(60);

/// The moments of so many requests are kept in memory, sixteen bytes each.
const MOST_IN_A_WINDOW: u32 = 100_000;
const LONGEST_WINDOW: Span = Span::from_secs(86_400);
const LONGEST_REST: Span = Span::from_secs(3600);

impl ProviderSpec {
    pub(super) fn check_knobs(&self, found: &mut Found) {
        self.check_mint(found);
        self.check_reply(found);
        self.check_lifecycle(found);
        self.check_errors(found);
        self.check_end(found);
        self.check_calls(found);
    }

    fn check_mint(&self, found: &mut Found) {
        found.refuse(
            !matches!(self.mint, Mint::RefreshToken | Mint::Static),
            "mint",
            "this way to mint tokens is not supported yet; refresh_token and static are",
        );
        check_client_auth("client_auth", &self.client_auth, found);
        for scope in
            self.scopes.iter().chain(&self.offline.scope).chain(self.scope_style.more.values().flatten())
        {
            if !is_scope(scope) {
                found.add("scopes", format!("{scope:?} is not a scope (RFC 6749 section 3.3); write a list"));
            }
        }
        found.refuse(self.scope_style.separator.is_empty(), "scope_style.separator", "must not be empty");
        found.refuse(self.scope_style.parameter.is_empty(), "scope_style.parameter", "must not be empty");
        found.refuse(
            !self.scope_style.sent && !self.scopes.is_empty(),
            "scopes",
            "this provider takes no scopes (scope_style.sent is false)",
        );
        found.refuse(
            matches!(self.mint, Mint::Static) && self.offline.comes == Comes::Always,
            "offline.comes",
            "a static token comes without a refresh token",
        );
        let callback = &self.callback;
        found.refuse(
            callback.response_mode != ResponseMode::Query,
            "callback.response_mode",
            "form_post is not supported yet",
        );
        found.refuse(
            callback.code_parameter != "code",
            "callback.code_parameter",
            "only code is supported yet",
        );
        found.refuse(!callback.keep.is_empty(), "callback.keep", "keeping parameters is not supported yet");
        found.refuse(callback.hmac_parameter.is_some(), "callback.hmac_parameter", "is not supported yet");
        found.refuse(
            callback.started_by == StartedBy::Vendor,
            "callback.started_by",
            "connections that the vendor begins are not supported yet",
        );
    }

    fn check_reply(&self, found: &mut Found) {
        found.refuse(self.response.success_status.is_empty(), "response.success_status", "must not be empty");
        for status in self.response.success_status.iter().filter(|status| !(200..300).contains(*status)) {
            found.add("response.success_status", format!("{status} is never a success"));
        }
        found.refuse(!self.slots.is_empty(), "slots", "several tokens in one grant are not supported yet");
        found.refuse(
            matches!(self.expiry, Expiry::Introspect | Expiry::Jwt),
            "expiry",
            "is not supported yet; write fixed and lifetimes.access",
        );
        found.refuse(
            self.expiry == Expiry::Fixed && self.lifetimes.access.is_none(),
            "lifetimes.access",
            "is missing; a fixed expiry needs it",
        );
    }

    fn check_lifecycle(&self, found: &mut Found) {
        match &self.reuse {
            Reuse::Grace(grace) => {
                found.refuse(grace.seconds == 0, "reuse.grace.seconds", "no grace is reuse: strict");
                found.refuse(
                    grace.max_uses < 2,
                    "reuse.grace.max_uses",
                    "counts the first use, so it is at least 2",
                );
            }
            Reuse::Count(count) => {
                found.refuse(count.n == 0, "reuse.count.n", "no further use is reuse: strict")
            }
            Reuse::Reusable | Reuse::Strict => {}
        }
        found.refuse(
            self.rotation == Rotation::Never && self.reuse != Reuse::Reusable,
            "reuse",
            "a refresh token that is never rotated stays good: write reuse: reusable",
        );
        found.refuse(
            self.reuse == Reuse::Reusable && self.spent != Spent::Unknown,
            "spent",
            "contradicts reuse: reusable, which says that no refresh token is ever spent",
        );
        found.refuse(self.dead_when.is_empty(), "dead_when", "must name at least one error code");
        found.refuse(
            !(1..=10).contains(&self.invalid_grant_confirmations),
            "invalid_grant_confirmations",
            "must be between 1 and 10",
        );
        found.refuse(
            self.token_timeout.is_zero() || self.token_timeout > LONGEST_TOKEN_TIMEOUT,
            "token_timeout",
            "must be more than 0s and at most 1m",
        );
        self.check_restraint(found);
        found.refuse(
            !self.fallback.is_empty(),
            "fallback",
            "trying earlier refresh tokens is not supported yet",
        );
        found.refuse(
            self.mint_limits.window.is_some(),
            "mint_limits.window",
            "a limit of a connection's tokens in a span is not supported yet; min_gap is, and token_budget for the client",
        );
    }

    fn check_restraint(&self, found: &mut Found) {
        found.refuse(self.max_parallel_refresh == 0, "max_parallel_refresh", "must be at least 1");
        let budget = &self.token_budget;
        found.refuse(
            !(1..=MOST_IN_A_WINDOW).contains(&budget.count),
            "token_budget.count",
            "must be between 1 and 100000",
        );
        found.refuse(
            budget.per.is_zero() || budget.per > LONGEST_WINDOW,
            "token_budget.per",
            "must be more than 0s and at most 1d",
        );
        let breaker = self.breaker.figures();
        found.refuse(
            !(1..=1000).contains(&breaker.failures),
            "breaker.failures",
            "must be between 1 and 1000; a provider that is never left alone is not offered",
        );
        found.refuse(
            breaker.open.is_zero() || breaker.open > LONGEST_REST,
            "breaker.open",
            "must be more than 0s and at most 1h",
        );
        found.refuse(
            !(1..=100).contains(&breaker.successes),
            "breaker.successes",
            "must be between 1 and 100",
        );
    }

    fn check_errors(&self, found: &mut Found) {
        for (index, rule) in self.errors.iter().enumerate() {
            let path = format!("errors[{index}]");
            let by_text = !rule.is.is_empty() || rule.matches.is_some();
            found.refuse(
                !by_text && rule.status.is_empty(),
                &path,
                "matches everything; give status, is or matches",
            );
            let is_for_api = matches!(rule.means, Meaning::TokenBad);
            let is_for_both = matches!(rule.means, Meaning::Throttled | Meaning::Transient);
            found.refuse(
                rule.at == ErrorSource::Api && !is_for_api && !is_for_both,
                format!("{path}.means").as_str(),
                "says nothing of the API's replies; token_bad, throttled and transient do",
            );
            found.refuse(
                rule.at == ErrorSource::Token && is_for_api,
                format!("{path}.means").as_str(),
                "is for the API's replies; write at: api",
            );
            // A proxy or a firewall in front of the provider answers with any status; only words can end a grant.
            found.refuse(
                !by_text && rule.means == Meaning::Dead,
                &path,
                "a status alone never means dead; give is or matches",
            );
            for status in rule.status.iter().filter(|status| !(100..600).contains(*status)) {
                found.add(format!("{path}.status"), format!("{status} is not an HTTP status"));
            }
        }
    }

    fn check_end(&self, found: &mut Found) {
        match &self.revoke {
            Revoke::Rfc7009 | Revoke::None => {}
            Revoke::Custom { client_auth, .. } => {
                if let Some(client_auth) = client_auth {
                    check_client_auth("revoke.client_auth", client_auth, found);
                }
            }
            Revoke::Bearer { request, .. } => check_call("revoke.request", request, &["client_id"], found),
            Revoke::Rest { request, client_auth, .. } => {
                check_call("revoke.request", request, &["client_id", "access_token", "refresh_token"], found);
                check_client_auth("revoke.client_auth", client_auth, found);
            }
        }
        let identity = &self.identity;
        match (identity.from, &identity.request) {
            (IdentitySource::Request, None) => {
                found.add("identity.request", "is missing; from: request needs it");
            }
            (IdentitySource::Request, Some(request)) => {
                check_call("identity.request", request, &["client_id"], found)
            }
            (_, Some(_)) => found.add("identity.request", "is only read with from: request"),
            (IdentitySource::Callback, None) => {
                found.add("identity.from", "an account id from the callback is not supported yet");
            }
            (_, None) => {}
        }
        found.refuse(
            self.introspect != Introspect::None,
            "introspect",
            "asking for a token's state is not supported yet",
        );
    }

    fn check_calls(&self, found: &mut Found) {
        found.mistakes.extend(Api::mistakes(self));
        for name in self.api.headers.keys() {
            let reserved = RESERVED_HEADERS.contains(&name.to_ascii_lowercase().as_str());
            found.refuse(reserved, &format!("api.headers.{name}"), "belongs to the engine and cannot be set");
        }
        let is_plain = self.api.hosts.iter().any(|host| host.as_str().starts_with("http://"));
        found.refuse(
            self.api.http2_prior_knowledge && !is_plain,
            "api.http2_prior_knowledge",
            "is for hosts without TLS, and api.hosts has none with http://; over TLS the host chooses HTTP/2 by itself",
        );
        let limits = &self.api.limits;
        found.refuse(
            limits.max_decompressed_bytes == 0,
            "api.limits.max_decompressed_bytes",
            "lets no answer through; it is at least 1",
        );
        found.refuse(
            limits.max_decompression_ratio == 0,
            "api.limits.max_decompression_ratio",
            "lets no answer through; it is at least 1, and deflate reaches 1032",
        );
        if let Some(cache) = &self.api.cache {
            found.refuse(
                cache.max_entries == 0,
                "api.cache.max_entries",
                "keeps nothing; leave cache out, or write at least 1",
            );
            found.refuse(
                cache.max_body_bytes > cache.max_bytes,
                "api.cache.max_body_bytes",
                "is more than max_bytes, so that such a body would never be kept",
            );
        }
        for (index, wait) in self.rate.wait.iter().enumerate() {
            found.refuse(
                wait.header.is_none() && wait.path.is_none() && wait.matches.is_none(),
                &format!("rate.wait[{index}]"),
                "says nowhere to look; give header, path or matches",
            );
        }
        for (index, rule) in self.rate.throttled.iter().enumerate() {
            found.refuse(
                rule.status.is_empty(),
                &format!("rate.throttled[{index}].status"),
                "must not be empty",
            );
        }
    }
}

/// A request of the provider's own: it needs an address, and no credential may stand in that.
fn check_call(path: &str, request: &RequestShape, known: &[&str], found: &mut Found) {
    found.shape(path, request, known);
    let url = format!("{path}.url");
    match &request.url {
        Some(template) => found.url(url, template, &["client_id"]),
        None => found.add(url, "is missing"),
    }
    found.refuse(
        !request.rename.is_empty() || !request.drop.is_empty(),
        path,
        "has no parameters but its own: rename and drop have no meaning",
    );
    let credential = request.set.values().any(|value| value.names().any(|name| name != "client_id"));
    found.refuse(
        credential && request.format == crate::provider::spec::place::Format::Query,
        &format!("{path}.format"),
        "would put a credential into a URL; write form or json",
    );
}

fn check_client_auth(path: &str, auth: &ClientAuth, found: &mut Found) {
    match auth {
        ClientAuth::PrivateKeyJwt(_) | ClientAuth::MintedSecret(_) => {
            found.add(path, "signing with the client's key is not supported yet; basic, post and none are");
        }
        ClientAuth::Header { name, value } => {
            found.refuse(
                http::HeaderName::from_bytes(name.as_bytes()).is_err(),
                &format!("{path}.header.name"),
                "is not a header's name",
            );
            found.names(format!("{path}.header.value"), value, &["client_id", "client_secret"]);
        }
        ClientAuth::Auto
        | ClientAuth::Basic
        | ClientAuth::Post
        | ClientAuth::None
        | ClientAuth::SecretAsUser
        | ClientAuth::Bearer => {}
    }
}

/// `scope-token` of RFC 6749 section 3.3.
pub(in crate::provider) fn is_scope(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b == 0x21 || (0x23..=0x5b).contains(&b) || (0x5d..=0x7e).contains(&b))
}
