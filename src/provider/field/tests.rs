use super::*;
use crate::clock::Timestamp;
use crate::connection::{AccessToken, ProviderKey};
use crate::provider::spec::ProviderSpec;
use crate::secret::Secret;

fn api() -> Api {
    let spec: ProviderSpec = serde_json::from_value(serde_json::json!({
        "variables": {"shop": {"from": "token", "pattern": "[a-z]+"}},
        "api": {
            "hosts": ["api.acme.example"],
            "auth_header": "X-Acme-Token",
            "auth_value": "{access_token}",
            "headers": {"X-Version": "2026-01", "X-Shop": "{shop}", "X-Twice": "t {access_token}"},
        },
    }))
    .unwrap();
    Api::compile(&ProviderKey::parse("acme").unwrap(), &spec).unwrap()
}

fn shop() -> BTreeMap<String, String> {
    BTreeMap::from([("shop".to_owned(), "tea".to_owned())])
}

fn sent(fields: &[(&str, &str)]) -> Result<Vec<(String, String)>, Refusal> {
    let headers = outgoing(&api(), fields.iter().copied(), &shop())?;
    let text = |value: &HeaderValue| String::from_utf8(value.as_bytes().to_vec()).unwrap();
    Ok(headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect())
}

fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_callers_fields_leave_in_order_and_repeated_and_the_entrys_beside_them() {
    let fields = sent(&[("Accept", "a/b"), ("x-more", "1"), ("X-MORE", "2"), ("x-name", "Zoë")]).unwrap();
    assert_eq!(
        fields,
        pairs(&[
            ("accept", "a/b"),
            ("x-more", "1"),
            ("x-more", "2"),
            ("x-name", "Zoë"),
            ("x-shop", "tea"),
            ("x-version", "2026-01"),
        ])
    );
    let own = sent(&[("X-Version", "2025-07")]).unwrap();
    assert_eq!(own, pairs(&[("x-version", "2025-07"), ("x-shop", "tea")]), "a fixed field is a default");
}

#[test]
fn no_spelling_of_a_reserved_field_leaves() {
    for name in RESERVED.iter().copied().chain([
        "AUTHORIZATION",
        "Content_Length",
        "x_forwarded_for",
        "X-Forwarded-Host",
        "proxy-authorization",
        "Proxy-Connection",
        "x-acme-token",
        "X-Shop",
        "x-twice",
    ]) {
        let refusal = sent(&[(name, "canary")]).unwrap_err();
        assert_eq!(refusal.rule(), Rule::HeaderReserved, "{name}");
        assert!(!refusal.to_string().contains("canary"));
    }
}

#[test]
fn a_field_cannot_smuggle_another() {
    for (name, value, rule) in [
        (":path", "/x", Rule::HeaderName),
        ("", "x", Rule::HeaderName),
        ("x y", "x", Rule::HeaderName),
        ("x:", "x", Rule::HeaderName),
        ("x\r\ny", "x", Rule::HeaderName),
        ("ü", "x", Rule::HeaderName),
        ("x", "a\r\nHost: evil.example", Rule::HeaderValue),
        ("x", "a\n folded", Rule::HeaderValue),
        ("x", "a\rb", Rule::HeaderValue),
        ("x", "a\0b", Rule::HeaderValue),
        ("x", "a\u{85}b", Rule::HeaderValue),
        ("x", " a", Rule::HeaderValue),
        ("x", "a\t", Rule::HeaderValue),
    ] {
        assert_eq!(sent(&[(name, value)]).unwrap_err().rule(), rule, "{name:?}: {value:?}");
    }
    assert!(sent(&[("x", "a\tb c"), ("y", "")]).is_ok());
}

#[test]
fn fields_are_counted_and_measured() {
    let many = vec![("x", "1"); MOST_FIELDS];
    assert!(sent(&many).is_ok());
    let more = vec![("x", "1"); MOST_FIELDS + 1];
    assert_eq!(sent(&more).unwrap_err().rule(), Rule::HeaderSize);
    let long = "a".repeat(MOST_BYTES - FIELD_OVERHEAD - 1);
    assert!(sent(&[("x", &long)]).is_ok());
    assert_eq!(sent(&[("x", &long), ("y", "")]).unwrap_err().rule(), Rule::HeaderSize);
}

#[test]
fn a_field_that_needs_a_connections_value_does_not_leave_without_it() {
    let refusal = outgoing(&api(), [], &BTreeMap::new()).unwrap_err();
    assert_eq!(refusal.rule(), Rule::VariableMissing);
    let evil = BTreeMap::from([("shop".to_owned(), "a\r\nb".to_owned())]);
    assert_eq!(outgoing(&api(), [], &evil).unwrap_err().rule(), Rule::VariableValue);
}

fn token() -> AccessToken {
    AccessToken {
        value: Secret::new("canary/token+1".to_owned()),
        token_type: "Bearer".to_owned(),
        issued_at: Timestamp::from_millis(0),
        expires_at: None,
    }
}

fn came(fields: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_static(value));
    }
    let out = incoming(&headers, &token());
    out.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
}

#[test]
fn an_answers_fields_come_back_without_the_connections_own() {
    let fields = came(&[
        ("content-type", "a/b"),
        ("connection", "close, X-Secret"),
        ("x-secret", "1"),
        ("link", "</1>; rel=next"),
        ("set-cookie", "a=b"),
        ("transfer-encoding", "chunked"),
        ("keep-alive", "timeout=5"),
        ("link", "</2>; rel=last"),
        ("x-last", "1"),
    ]);
    assert_eq!(
        fields,
        pairs(&[
            ("content-type", "a/b"),
            ("link", "</1>; rel=next"),
            ("link", "</2>; rel=last"),
            ("x-last", "1"),
        ])
    );
}

#[test]
fn a_challenge_keeps_its_scheme_alone() {
    let fields = came(&[("www-authenticate", "Bearer realm=\"x\", scope=\"a b\", Basic realm=\"y\"")]);
    assert_eq!(fields, pairs(&[("www-authenticate", "Bearer"), ("www-authenticate", "Basic")]));
}

#[test]
fn no_spelling_of_the_token_comes_back() {
    let base64 = STANDARD_OF_TOKEN;
    for value in [
        "canary/token+1",
        "x=canary/token+1;",
        "canary%2Ftoken%2B1",
        "canary%2ftoken%2b1",
        "canary/token%2b1",
        base64,
    ] {
        assert!(came(&[("x-echo", value), ("location", value)]).is_empty(), "{value}");
    }
    assert_eq!(came(&[("x-echo", "canary/token")]).len(), 1);
}

/// `canary/token+1` in base64.
const STANDARD_OF_TOKEN: &str = "Y2FuYXJ5L3Rva2VuKzE=";
