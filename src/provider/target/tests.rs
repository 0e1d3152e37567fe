use super::*;
use crate::clock::Timestamp;
use crate::connection::AccessToken;
use crate::provider::spec::ProviderSpec;

fn api(yaml: serde_json::Value) -> Api {
    let spec: ProviderSpec = serde_json::from_value(yaml).unwrap();
    Api::compile(&ProviderKey::parse("acme").unwrap(), &spec).unwrap()
}

fn connection(provider: &str, name: &str) -> ConnectionId {
    ConnectionId::parse(String::new(), provider.into(), name.into()).unwrap()
}

fn token(value: &str) -> AccessToken {
    AccessToken {
        value: Secret::new(value.to_owned()),
        token_type: "Bearer".to_owned(),
        issued_at: Timestamp::from_millis(0),
        expires_at: None,
    }
}

fn to(api: &Api, path: &str) -> Result<Target, Refusal> {
    ask(api, None, path, &[], &BTreeMap::new())
}

fn ask(
    api: &Api,
    host: Option<&str>,
    path: &str,
    query: &[(&str, &str)],
    variables: &BTreeMap<String, String>,
) -> Result<Target, Refusal> {
    let query: Vec<_> = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let id = connection("acme", "user-42");
    api.target(&Request { connection: &id, method: "GET", host, path, query: &query, variables })
}

fn rule<T: fmt::Debug>(outcome: Result<T, Refusal>) -> &'static str {
    outcome.unwrap_err().rule().as_str()
}

fn plain() -> Api {
    api(serde_json::json!({"api": {"hosts": ["https://api.acme.example/v1", "*.files.acme.example"]}}))
}

#[test]
fn a_path_becomes_a_url_below_the_base() {
    let target = ask(&plain(), None, "/a b/ü%20/x;v=1/", &[("q", "a b&c=d/…"), ("q", "")], &BTreeMap::new());
    let url = target.unwrap().url;
    assert_eq!(
        url.as_str(),
        "https://api.acme.example/v1/a%20b/%C3%BC%20/x;v=1/?q=a%20b%26c%3Dd%2F%E2%80%A6&q="
    );
}

#[test]
fn a_host_is_one_of_the_providers_own() {
    let none = BTreeMap::new();
    let file = ask(&plain(), Some("EU-1.files.acme.example"), "/x", &[], &none).unwrap();
    assert_eq!(file.url.as_str(), "https://eu-1.files.acme.example/x");
    for host in [
        "acme.example",
        "files.acme.example",
        "a.b.files.acme.example",
        ".files.acme.example",
        "*.files.acme.example",
        "api.acme.example.",
        "api.acme.example:443",
        "user@api.acme.example",
        "evil.example#.files.acme.example",
        "127.0.0.1",
        "",
    ] {
        assert_eq!(rule(ask(&plain(), Some(host), "/x", &[], &none)), "host", "{host}");
    }
}

#[test]
fn only_the_connections_own_token_goes_with_a_target() {
    let api = plain();
    let token = token("secret-canary");
    for other in [connection("acme", "user-43"), connection("other", "user-42")] {
        let target = to(&api, "/x").unwrap();
        assert_eq!(rule(target.authorize(&Credential::new(&other, &token))), "credential");
    }
    let own = connection("acme", "user-42");
    let authorized = to(&api, "/x").unwrap().authorize(&Credential::new(&own, &token)).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer of-a-caller"));
    authorized.sign(&mut headers);
    let sent: Vec<_> = headers.get_all(http::header::AUTHORIZATION).iter().collect();
    assert_eq!(sent, ["Bearer secret-canary"]);
    assert!(sent[0].is_sensitive() && !format!("{authorized:?}").contains("canary"));
    let named = self::api(serde_json::json!({"api": {
        "hosts": ["https://api.acme.example"], "auth_header": "X-Acme-Token", "auth_value": "key {access_token}",
    }}));
    let mut headers = HeaderMap::new();
    to(&named, "/x").unwrap().authorize(&Credential::new(&own, &token)).unwrap().sign(&mut headers);
    let sent: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    assert_eq!(sent, [("x-acme-token", &b"key secret-canary"[..])], "where and how the entry says");
    // Programs behind CGI and its likes are handed all of these as one.
    for (name, is_own) in
        [("x-acme-token", true), ("x_acme_token", true), ("x-acme_token", true), ("x-acme-tokens", false)]
    {
        assert_eq!(named.owns_field(&name.parse().unwrap()), is_own, "{name}");
    }
    let foreign = connection("other", "user-42");
    let query = [];
    let variables = BTreeMap::new();
    let request = Request {
        connection: &foreign,
        method: "GET",
        host: None,
        path: "/",
        query: &query,
        variables: &variables,
    };
    assert_eq!(rule(api.target(&request)), "credential");
}

#[test]
fn a_redirect_stays_at_its_origin_and_below_its_base() {
    let api = api(serde_json::json!({"api": {
        "hosts": ["https://api.acme.example/v1"], "path_prefixes": ["/files", "/open/"],
    }}));
    let start = to(&api, "/files/a/b").unwrap();
    for (location, expected) in [
        ("/v1/files/c?x=1&y=a%20b#part", "https://api.acme.example/v1/files/c?x=1&y=a%20b"),
        ("https://api.acme.example/v1/open/d", "https://api.acme.example/v1/open/d"),
        ("HTTPS://API.acme.example:443/v1/open/d", "https://api.acme.example/v1/open/d"),
        ("//api.acme.example/v1/open/d", "https://api.acme.example/v1/open/d"),
        ("c", "https://api.acme.example/v1/files/a/c"),
        ("?page=2", "https://api.acme.example/v1/files/a/b?page=2"),
    ] {
        assert_eq!(start.redirected(location).unwrap().url.as_str(), expected, "{location}");
    }
    let third = start.redirected("c").unwrap().redirected("d").unwrap().redirected("e").unwrap();
    assert_eq!(rule(third.redirected("f")), "redirect_hops");
}
