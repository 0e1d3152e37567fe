//! The check of a whole spec: every mistake, each with its path, in one pass.
//!
//! What the types cannot say: addresses that may not be called, names that nothing fills, parameters that belong to the
//! protocol, contradictions, and knobs whose engine is not here yet. The last are refused rather than ignored.

mod knobs;

use std::collections::BTreeMap;

use super::ProviderSpec;
use super::place::{DiscoveryStyle, Format, Method, RequestShape, Variable, VariableSource};
use super::value::Template;
use crate::error::Mistake;
use crate::provider::url::{CheckedUrl, PlainHttp};

/// Parameters that carry the protocol itself. Nothing but the engine may set or drop them.
pub(in crate::provider) const PROTOCOL: &[&str] = &[
    "assertion",
    "client_assertion",
    "client_assertion_type",
    "client_id",
    "client_secret",
    "code",
    "code_challenge",
    "code_challenge_method",
    "code_verifier",
    "grant_type",
    "nonce",
    "redirect_uri",
    "refresh_token",
    "request",
    "request_uri",
    "response_mode",
    "response_type",
    "scope",
    "state",
    "token",
];

/// Parameters that may be dropped or renamed all the same, for providers that never read the RFC.
const RENAMEABLE: &[&str] = &[
    "client_id",
    "client_secret",
    "code",
    "grant_type",
    "redirect_uri",
    "refresh_token",
    "response_type",
    "scope",
];

/// Headers that belong to the engine or to the connection.
const RESERVED_HEADERS: &[&str] = &[
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl ProviderSpec {
    /// Every mistake in the spec. Templates are expected to be filled from the entry's `vars` already.
    pub fn check(&self) -> Vec<Mistake> {
        let mut found = Found { mistakes: Vec::new(), plain: PlainHttp::from_flag(self.allow_http) };
        self.check_places(&mut found);
        self.check_requests(&mut found);
        self.check_knobs(&mut found);
        found.mistakes
    }

    fn check_places(&self, found: &mut Found) {
        for (name, variable) in &self.variables {
            let path = format!("variables.{name}");
            if !is_variable_name(name) {
                found.add(&path, "a variable is named with small letters, digits and underscores");
            }
            match variable.from {
                VariableSource::Config => {}
                VariableSource::Input | VariableSource::Token => {
                    self.check_connection_variable(&path, variable, found)
                }
                VariableSource::IdToken if variable.pattern.is_some() => {}
                VariableSource::IdToken => {
                    found.add(&path, "a claim that becomes part of the issuer needs a pattern")
                }
                VariableSource::Callback
                | VariableSource::AccessToken
                | VariableSource::Call
                | VariableSource::Webhook => found.add(
                    format!("{path}.from"),
                    "is not supported yet; config, input, token and id_token are",
                ),
            }
        }
        for (key, template) in self.endpoints.each() {
            found.url(format!("endpoints.{key}"), template, &[]);
        }
        if let Some(url) = &self.discovery.url {
            found.url("discovery.url", url, &[]);
        }
        if let Some(issuer) = &self.issuer {
            let claims: Vec<&str> = self
                .variables
                .iter()
                .filter(|(_, variable)| variable.from == VariableSource::IdToken)
                .map(|(name, _)| name.as_str())
                .collect();
            found.url("issuer", issuer, &claims);
            if issuer.as_str().contains(['?', '#']) {
                found.add("issuer", "must have neither query nor fragment (RFC 8414 section 2)");
            }
        }
        let discovered = self.issuer.is_some() && self.discovery.style != DiscoveryStyle::Off;
        for (key, endpoint) in
            [("authorization", &self.endpoints.authorization), ("token", &self.endpoints.token)]
        {
            if endpoint.is_none() && !discovered {
                found.add(
                    format!("endpoints.{key}"),
                    "is missing; write it down, or give an issuer to discover it",
                );
            }
        }
        if self.needs_discovery()
            && self.issuer.as_ref().is_some_and(|issuer| issuer.names().next().is_some())
        {
            found.add(
                "issuer",
                "holds a claim, so nothing can be discovered from it; write the endpoints down",
            );
        }
    }

    /// One whose values lie in each connection's record.
    fn check_connection_variable(&self, path: &str, variable: &Variable, found: &mut Found) {
        match &variable.pattern {
            None => found.add(
                format!("{path}.pattern"),
                "is missing; what a connection brings is held against one before it is stored",
            ),
            Some(_) if variable.default.as_ref().is_some_and(|default| !variable.takes(default)) => {
                found.add(format!("{path}.default"), "does not fit the pattern");
            }
            Some(_) => {}
        }
        found.refuse(
            variable.from == VariableSource::Input && variable.path.is_some(),
            &format!("{path}.path"),
            "has no meaning for a value that the app gives",
        );
    }

    fn check_requests(&self, found: &mut Found) {
        let requests = &self.requests;
        for (key, shape) in [
            ("authorization", &requests.authorization),
            ("token", &requests.token),
            ("refresh", &requests.refresh),
            ("revocation", &requests.revocation),
        ] {
            let path = format!("requests.{key}");
            // A refresh does not know where its grant came back to.
            let known: &[&str] = if key == "token" { &["client_id", "redirect_uri"] } else { &["client_id"] };
            found.shape(&path, shape, known);
            if shape.url.is_some() {
                found.add(format!("{path}.url"), format!("write endpoints.{key} instead"));
            }
            if shape.method.is_some_and(|method| method != Method::Post) {
                found.add(format!("{path}.method"), "only POST is supported here yet");
            }
            if shape.format == Format::Query {
                found.add(format!("{path}.format"), "would put a credential into a URL; write form or json");
            }
            for name in shape.set.keys().filter(|name| PROTOCOL.contains(&name.as_str())) {
                // A refresh that must repeat the redirect URI is the one exception (K4).
                if !(key == "refresh" && name == "redirect_uri") {
                    found.add(format!("{path}.set.{name}"), "belongs to the protocol and cannot be set");
                }
            }
            for name in shape.rename.keys().chain(&shape.drop) {
                if PROTOCOL.contains(&name.as_str()) && !RENAMEABLE.contains(&name.as_str()) {
                    found.add(
                        &path,
                        format!("{name} protects the flow and can be neither dropped nor renamed"),
                    );
                }
            }
            for name in shape.rename.values().filter(|name| PROTOCOL.contains(&name.as_str())) {
                found.add(
                    format!("{path}.rename"),
                    format!("{name} is already the name of a protocol parameter"),
                );
            }
        }
        if requests.authorization.format != Format::Form || !requests.authorization.headers.is_empty() {
            found.add(
                "requests.authorization",
                "a browser sends this one: only set, rename and drop have a meaning",
            );
        }
        let own_names = [
            ("offline.authorization", self.offline.authorization.keys().collect::<Vec<_>>()),
            ("offline.token", self.offline.token.keys().collect()),
            ("caller_parameters", self.caller_parameters.iter().collect()),
            ("scope_style.more", self.scope_style.more.keys().collect()),
        ];
        for (path, names) in own_names {
            for name in names.into_iter().filter(|name| PROTOCOL.contains(&name.as_str())) {
                found.add(path, format!("{name} belongs to the protocol and cannot be set"));
            }
        }
    }
}

/// The mistakes so far, and what addresses are held against.
struct Found {
    mistakes: Vec<Mistake>,
    plain: PlainHttp,
}

impl Found {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.mistakes.push(Mistake { field: path.into(), message: message.into() });
    }

    fn refuse(&mut self, when: bool, path: &str, message: &str) {
        if when {
            self.add(path, message);
        }
    }

    /// Names in braces must be among `known`; everything else would stay in the text.
    fn names(&mut self, path: impl Into<String>, template: &Template, known: &[&str]) {
        let path = path.into();
        for name in template.names().filter(|name| !known.contains(name)) {
            let why = if known.is_empty() {
                format!("{{{name}}} is not a variable of this provider that has a value; set it in vars")
            } else {
                format!("nothing fills {{{name}}}; known here: {}", known.join(", "))
            };
            self.add(&path, why);
        }
    }

    fn url(&mut self, path: impl Into<String>, template: &Template, known: &[&str]) {
        let path = path.into();
        let before = self.mistakes.len();
        self.names(&path, template, known);
        if self.mistakes.len() > before {
            return;
        }
        // A letter stands for whatever is filled in later; by then it was held against its own pattern.
        let text = template.fill(|_| Some("x".into()));
        if let Err(error) = CheckedUrl::parse(&text, self.plain) {
            self.add(path, error.to_string());
        }
    }

    fn shape(&mut self, path: &str, shape: &RequestShape, known: &[&str]) {
        for (name, value) in &shape.set {
            self.names(format!("{path}.set.{name}"), value, known);
        }
        self.headers(&format!("{path}.headers"), &shape.headers, known);
    }

    fn headers(&mut self, path: &str, headers: &BTreeMap<String, Template>, known: &[&str]) {
        for (name, value) in headers {
            let path = format!("{path}.{name}");
            if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                self.add(&path, "is not a header's name");
            } else if RESERVED_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
                self.add(&path, "belongs to the engine and cannot be set");
            }
            if http::HeaderValue::from_str(value.as_str()).is_err() {
                self.add(&path, "holds a character that no header may hold");
            }
            self.names(path, value, known);
        }
    }
}

/// Small letters, digits and underscores, a letter first.
pub(in crate::provider) fn is_variable_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}
