//! Calls that must not be made: every case of `ssrf/corpus.yaml` goes through the types that callers' requests go through,
//! and whatever those let pass through a real client on loopback, where a connection to anywhere else would be counted.

mod corpus;
mod hops;
mod network;
mod property;
mod told;

use std::collections::BTreeMap;

use serde_json::json;
use token_broker::clock::Timestamp;
use token_broker::connection::{AccessToken, ConnectionId, Credential, ProviderKey};
use token_broker::error::{Mistake, Refusal};
use token_broker::provider::spec::ProviderSpec;
use token_broker::provider::target::{Api, AuthorizedTarget, Request, Target};
use token_broker::secret::Secret;

use corpus::{Case, Corpus};

fn key() -> ProviderKey {
    ProviderKey::parse("acme").unwrap()
}

fn connection() -> ConnectionId {
    ConnectionId::parse(String::new(), "acme".into(), "user-42".into()).unwrap()
}

fn token() -> AccessToken {
    AccessToken {
        value: Secret::new("canary-token".to_owned()),
        token_type: "Bearer".to_owned(),
        issued_at: Timestamp::from_millis(0),
        expires_at: None,
    }
}

fn compiled(spec: serde_json::Value) -> Result<Api, Vec<Mistake>> {
    let spec: ProviderSpec = serde_json::from_value(spec).unwrap();
    Api::compile(&key(), &spec)
}

/// The provider of most cases, at `base`; only `prefixes` of its paths may be called.
fn acme(base: &str, prefixes: &[&str]) -> Api {
    let spec = json!({
        "allow_http": true,
        "variables": {"account": {"from": "token", "pattern": "[0-9]+"}},
        "api": {
            "hosts": [base, "*.files.acme.example"],
            "path_prefixes": prefixes,
            "allow_networks": ["127.0.0.1"],
            "auth_header": "X-Acme-Key",
            "auth_value": "{access_token}",
            "headers": {"X-Acme-Account": "{account}", "X-Acme-Version": "2026-01"},
        },
    });
    compiled(spec).unwrap()
}

fn values() -> BTreeMap<String, String> {
    BTreeMap::from([("account".to_owned(), "7".to_owned())])
}

/// What a call names, where a case says nothing else.
struct Call<'a> {
    method: &'a str,
    host: Option<&'a str>,
    path: &'a str,
    query: &'a [(String, String)],
}

impl Default for Call<'_> {
    fn default() -> Self {
        Self { method: "GET", host: None, path: "/x", query: &[] }
    }
}

fn target(api: &Api, call: &Call<'_>, variables: &BTreeMap<String, String>) -> Result<Target, Refusal> {
    let Call { method, host, path, query } = *call;
    api.target(&Request { connection: &connection(), method, host, path, query, variables })
}

fn authorized(target: Target) -> AuthorizedTarget {
    target.authorize(&Credential::new(&connection(), &token())).unwrap()
}

fn url(target: Target) -> String {
    authorized(target).url().to_string()
}

/// Where `case` leads from the file of which it is a redirect.
fn redirected(api: &Api, case: &Case<String>, location: &str) -> Result<Target, Refusal> {
    let method = case.method.as_deref().unwrap_or("GET");
    let mut at = target(api, &Call { method, path: "/files/a", ..Call::default() }, &values())?;
    for before in &case.after {
        at = at.redirected(before)?;
    }
    at.redirected(location)
}

const BASE: &str = "https://api.acme.example/v1";

/// Holds every case of a section against what becomes of it.
fn hold<T: corpus::Input>(
    section: &str,
    cases: &[Case<T>],
    outcome: impl Fn(&Case<T>, &T) -> Result<String, Refusal>,
) -> usize {
    let mut failures = Vec::new();
    for case in cases {
        let input = case.input.stretched(case.long);
        let outcome = outcome(case, &input);
        let is_as_expected = match (&outcome, &case.rule, &case.is) {
            (Err(refusal), Some(rule), None) => refusal.rule().as_str() == rule,
            (Ok(what), None, Some(is)) => what == is,
            _ => false,
        };
        if !is_as_expected {
            failures.push(format!("{section} {case:?}: {outcome:?}"));
        }
        if let Err(refusal) = &outcome {
            let sentence = refusal.to_string();
            assert!(sentence.ends_with(&format!("(rule {})", refusal.rule())), "{sentence}");
            assert!(!sentence.contains("evil"), "{section}: {sentence} repeats what was tried");
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
    cases.iter().filter(|case| case.rule.is_some()).count()
}

#[test]
fn no_case_of_the_corpus_leads_elsewhere() {
    let corpus = Corpus::read();
    let (open, closed) = (acme(BASE, &[]), acme(BASE, &["/files", "/open/"]));
    let to = |api: &Api, call: Call<'_>| target(api, &call, &values()).map(url);
    let refused = [
        hold("path", &corpus.path, |_, path| to(&open, Call { path, ..Call::default() })),
        hold("prefix", &corpus.prefix, |_, path| to(&closed, Call { path, ..Call::default() })),
        hold("host", &corpus.host, |_, host| to(&open, Call { host: Some(host), ..Call::default() })),
        hold("method", &corpus.method, |_, method| to(&open, Call { method, ..Call::default() })),
        hold("query", &corpus.query, |_, query| to(&open, Call { query, ..Call::default() })),
        hold("redirect", &corpus.redirect, |case, location| {
            redirected(&acme(BASE, &["/files"]), case, location).map(url)
        }),
        hold("header", &corpus.header, |_, (name, value)| {
            let fields = [(name.as_str(), value.as_str())];
            let headers = token_broker::provider::field::outgoing(&open, fields, &values())?;
            let name = name.to_ascii_lowercase();
            let value = String::from_utf8(headers[&name].as_bytes().to_vec()).unwrap();
            Ok(format!("{name}: {value}"))
        }),
        hold("variable", &corpus.variable, |case, value| {
            let spec = json!({
                "variables": {"v": {"from": "token", "pattern": case.pattern}},
                "api": {"hosts": [case.of]},
            });
            let given = value.iter().map(|value| ("v".to_owned(), value.clone())).collect();
            target(&compiled(spec).unwrap(), &Call::default(), &given).map(url)
        }),
    ];
    assert!(refused.iter().sum::<usize>() >= 300, "{refused:?}");
}

#[test]
fn what_cannot_be_a_host_is_refused_before_anything_starts() {
    for case in &Corpus::read().entry {
        let outcome = compiled(json!({"api": {"hosts": [case.input]}}));
        let mistakes = outcome.expect_err(&case.input);
        let is = case.is.as_deref().unwrap();
        let is_told = |mistake: &Mistake| mistake.field == "api.hosts[0]" && mistake.message.starts_with(is);
        assert!(mistakes.len() == 1 && is_told(&mistakes[0]), "{}: {mistakes:?}", case.input);
    }
}

#[test]
fn a_pattern_that_lets_any_host_through_is_a_mistake() {
    for (host, pattern) in [
        ("{v}", ".*"),
        ("{v}", "https://.*"),
        ("{v}", r"[a-z0-9.-]+"),
        ("https://{v}", r"[a-z0-9-]+(\.[a-z0-9-]+)+"),
        ("{v}.com", "[a-z]+"),
        ("{v}acme.example", "[a-z]+"),
        ("https://{v}:8443/x", r"[a-z.]+"),
        ("{v}", r"[0-9.]+"),
        ("{v}", r"[a-z0-9-]+\.com"),
        ("{v}", r"https://[a-z0-9.-]+\.com"),
        ("https://{v}", r"[a-z0-9-]+\.(io|dev)"),
    ] {
        let spec = json!({
            "variables": {"v": {"from": "token", "pattern": pattern}},
            "api": {"hosts": [host]},
        });
        let mistakes = compiled(spec).expect_err(host);
        assert!(mistakes[0].message.contains("lets any host through"), "{host} {pattern}: {mistakes:?}");
    }
}
