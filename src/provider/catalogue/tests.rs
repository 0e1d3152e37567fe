mod docs;

use serde_json::json;

use super::*;
use crate::error::Mistake;
use crate::provider::spec::ProviderSpec;
use crate::provider::spec::lifecycle::Reuse;
use crate::provider::spec::mint::ClientAuth;
use crate::secret::Secret;

fn entry(yaml: &str) -> ProviderEntry {
    serde_json::from_value(Value::Object(parse_yaml(yaml).unwrap())).unwrap()
}

fn resolve(yaml: &str) -> Result<ProviderConfig, Vec<Mistake>> {
    entry(yaml).resolve(None)
}

fn fields(yaml: &str) -> Vec<String> {
    resolve(yaml).unwrap_err().into_iter().map(|mistake| mistake.field).collect()
}

/// The mistakes of a spec that is complete but for what `yaml` adds.
fn mistakes_of(yaml: &str) -> Vec<Mistake> {
    resolve(&format!("{{key: x, client_id: c, issuer: 'https://as.example', {yaml}}}")).unwrap_err()
}

#[test]
fn every_embedded_provider_resolves_with_each_of_its_profiles() {
    assert_eq!(catalogue().len(), EMBEDDED.len(), "an embedded file does not parse");
    for known in catalogue() {
        let spec: ProviderSpec = serde_json::from_value(Value::Object(known.spec().clone())).unwrap();
        let vars = match known.kind {
            "sandbox" => "vars: {port: '1'}",
            "auth0" | "okta" => "vars: {domain: acme.example}",
            "django-oauth-toolkit" => "vars: {host: as.example}",
            _ => "",
        };
        let is_described = spec.issuer.is_some() || spec.endpoints.token.is_some();
        let issuer = if is_described { "" } else { "issuer: https://as.example" };
        for profile in spec.profiles.keys().map(|name| format!("profile: {name}")).chain([String::new()]) {
            let yaml = format!(
                "key: x\nclient_id: c\nclient_secret: s\nkind: {}\n{vars}\n{issuer}\n{profile}",
                known.kind
            );
            resolve(&yaml).unwrap_or_else(|mistakes| panic!("{} {profile}: {mistakes:#?}", known.kind));
        }
        assert!(
            !spec.title.is_empty() && !spec.sources.is_empty() && !spec.notes.is_empty(),
            "{}",
            known.kind
        );
    }
}

#[test]
fn a_generic_provider_is_its_issuer() {
    let config = resolve("{key: acme, client_id: c, issuer: 'https://login.acme.example/'}").unwrap();
    assert!(config.spec.needs_discovery());
    assert_eq!(config.spec.issuer.unwrap().as_str(), "https://login.acme.example/");
    assert_eq!(config.kind, "");
}

#[test]
fn a_provider_that_needs_no_new_knob_is_yaml_only() {
    let config = resolve(
        "
        key: acme
        title: Acme
        client_id: c
        client_secret: s
        endpoints: {authorization: 'https://{region}.acme.example/auth', token: 'https://{region}.acme.example/token'}
        variables: {region: {pattern: '[a-z]{2}', default: eu}}
        vars: {region: us}
        client_auth: basic
        scope_style: {separator: ','}
        rotation: always
        reuse: {grace: {seconds: 30}}
        errors: [{status: [403], is: [access_denied], means: client_broken}]
        ",
    )
    .unwrap();
    assert_eq!(config.spec.endpoints.token.unwrap().as_str(), "https://us.acme.example/token");
    assert_eq!(config.spec.client_auth, ClientAuth::Basic);
    assert!(matches!(config.spec.reuse, Reuse::Grace(grace) if grace.seconds == 30 && grace.max_uses == 2));
}

#[test]
fn changes_lie_over_the_catalogue_and_what_belongs_together_is_replaced_whole() {
    let config = resolve(
        "{key: g, kind: google, client_id: c, client_secret: s, scopes: [openid], revoke: {style: none},
          reuse: {grace: {seconds: 5}}, rotation: sometimes, identity: null,
          mint_limits: {live_cap: null}, offline: {authorization: {access_type: offline}}}",
    )
    .unwrap();
    assert_eq!(config.spec.scopes, ["openid"]);
    assert_eq!(config.spec.offline.authorization.keys().collect::<Vec<_>>(), ["access_type"]);
    assert!(matches!(config.spec.reuse, Reuse::Grace(_)));
    assert_eq!(config.spec.identity, ProviderSpec::default().identity, "null takes away");
    assert_eq!(config.spec.mint_limits.live_cap, None);
    assert_eq!(config.spec.endpoints.token.unwrap().as_str(), "https://oauth2.googleapis.com/token");
}

#[test]
fn microsofts_issuer_keeps_its_claim_and_its_tenant_is_held_to_its_pattern() {
    let yaml = "{key: m, kind: microsoft, client_id: c, client_secret: s, vars: {tenant: TENANT}}";
    let spec = resolve(&yaml.replace("TENANT", "contoso.onmicrosoft.com")).unwrap().spec;
    assert_eq!(spec.issuer.unwrap().as_str(), "https://login.microsoftonline.com/{tenantid}/v2.0");
    assert_eq!(
        spec.endpoints.token.unwrap().as_str(),
        "https://login.microsoftonline.com/contoso.onmicrosoft.com/oauth2/v2.0/token"
    );
    assert_eq!(spec.api.hosts[0].as_str(), "graph.microsoft.com");
    assert_eq!(fields(&yaml.replace("TENANT", "common/../evil")), ["vars.tenant"]);
}

#[test]
fn every_mistake_is_reported_together_with_its_path() {
    let fields = fields(
        "{key: Bad Key, kind: google, client_secret: s, client_secret_file: /f, vars: {tenant: x},
          endpoints: {token: 'http://as.example/token'}, token_timeout: 2h, dead_when: [], scopes: ['a b'],
          requests: {authorization: {set: {state: fixed}}, token: {headers: {Host: evil}, format: query}}}",
    );
    for expected in [
        "key",
        "client_id",
        "client_secret_file",
        "vars.tenant",
        "endpoints.token",
        "token_timeout",
        "dead_when",
        "scopes",
        "requests.authorization.set.state",
        "requests.token.headers.Host",
        "requests.token.format",
    ] {
        assert!(fields.iter().any(|field| field == expected), "{expected} is missing in {fields:?}");
    }
}

#[test]
fn a_wrong_type_or_an_unknown_key_is_told_with_its_path() {
    for (yaml, path, words) in [
        ("token_timeout: soon", "token_timeout", "write 10s or 2m"),
        ("reuse: {grace: {seconds: x}}", "reuse.grace.seconds", "invalid type"),
        ("requests: {token: {heders: {}}}", "requests.token.heders", "unknown field"),
        ("identity: {id: [sub]}", "identity.id[0]", "write /sub"),
    ] {
        let mistakes = mistakes_of(yaml);
        assert_eq!(mistakes[0].field, path, "{mistakes:?}");
        assert!(mistakes[0].message.contains(words), "{mistakes:?}");
    }
}

#[test]
fn a_knob_whose_engine_is_not_here_is_refused_and_not_ignored() {
    for (yaml, path) in [
        ("mint: {style: app_jwt, request: {}, jwt: {algorithm: ES256, max_life: 1m}}", "mint"),
        ("client_auth: {private_key_jwt: {algorithm: ES256, max_life: 1m}}", "client_auth"),
        ("callback: {response_mode: form_post}", "callback.response_mode"),
        ("slots: [{name: bot, access_token: /bot}]", "slots"),
        ("expiry: jwt", "expiry"),
        ("fallback: [previous]", "fallback"),
        ("mint_limits: {window: {count: 10, per: 10m}}", "mint_limits.window"),
        ("introspect: {style: rfc7662}", "introspect"),
        ("identity: {from: callback}", "identity.from"),
        ("variables: {shop: {from: callback, pattern: '[a-z]+'}}", "variables.shop.from"),
    ] {
        let mistakes = mistakes_of(yaml);
        assert_eq!(mistakes.len(), 1, "{yaml}: {mistakes:?}");
        assert_eq!(mistakes[0].field, path, "{mistakes:?}");
        assert!(mistakes[0].message.contains("not supported yet"), "{mistakes:?}");
    }
}

#[test]
fn a_breaker_is_a_preset_or_figures_of_ones_own() {
    let figures = |breaker: &str| {
        let yaml = format!("{{key: x, client_id: c, issuer: 'https://as.example', {breaker}}}");
        let figures = resolve(&yaml).unwrap().spec.breaker.figures();
        (figures.failures, figures.open.duration().as_secs(), figures.successes)
    };
    assert_eq!(figures(""), (5, 60, 3));
    assert_eq!(figures("breaker: standard"), (5, 60, 3));
    assert_eq!(figures("breaker: aggressive"), (3, 30, 3));
    assert_eq!(figures("breaker: tolerant"), (10, 120, 3));
    assert_eq!(figures("breaker: {failures: 7, open: 5s}"), (7, 5, 3));
    for wrong in ["breaker: none", "breaker: {falures: 3}", "breaker: 5"] {
        assert_eq!(mistakes_of(wrong)[0].field, "breaker", "{wrong}");
    }
}

#[test]
fn each_provider_does_with_a_spent_token_what_was_measured_or_documented() {
    use crate::connection::reuse::{self, Rotation};
    let seconds = std::time::Duration::from_secs;
    let grace = |window| reuse::Reuse::Grace { window, max_uses: 2 };
    let (strict, reusable) = (reuse::Reuse::Strict, reuse::Reuse::Reusable);
    let once = reuse::Reuse::Count { max_uses: 2, is_last_only: true, is_same_pair: false };
    let issuer = "issuer: 'https://as.example'";
    let domain = "vars: {domain: acme.example}";
    for (yaml, rotation, expected, survives) in [
        ("kind: google".to_owned(), Rotation::Never, reusable, true),
        ("kind: github".to_owned(), Rotation::Always, strict, false),
        ("kind: microsoft".to_owned(), Rotation::Always, reusable, true),
        (format!("kind: oidc, {issuer}"), Rotation::Always, strict, false),
        ("kind: sandbox, vars: {port: '1'}".to_owned(), Rotation::Always, strict, true),
        ("kind: atlassian".to_owned(), Rotation::Always, grace(seconds(600)), false),
        (format!("kind: keycloak, {issuer}"), Rotation::Always, strict, true),
        (format!("kind: keycloak, {issuer}, profile: revoke_off"), Rotation::Always, reusable, true),
        (format!("kind: keycloak, {issuer}, profile: reuse_once"), Rotation::Always, once, true),
        (format!("kind: hydra, {issuer}"), Rotation::Always, strict, false),
        (format!("kind: dex, {issuer}"), Rotation::Sometimes, strict, true),
        ("kind: django-oauth-toolkit, vars: {host: as.example}".to_owned(), Rotation::Always, strict, false),
        (format!("kind: auth0, {domain}"), Rotation::Sometimes, strict, false),
        (format!("kind: auth0, {domain}, profile: rotation_off"), Rotation::Never, reusable, false),
        (format!("kind: okta, {domain}"), Rotation::Sometimes, strict, false),
        (format!("kind: okta, {domain}, profile: rotation_on"), Rotation::Always, grace(seconds(30)), false),
        (format!("kind: okta, {domain}, profile: rotation_off"), Rotation::Never, reusable, false),
    ] {
        let spec = resolve(&format!("{{key: x, client_id: c, client_secret: s, {yaml}}}")).unwrap().spec;
        let is = (Rotation::from(spec.rotation), reuse::Reuse::from(&spec.reuse), spec.old_at_survives);
        assert_eq!(is, (rotation, expected, survives), "{yaml}");
    }
}

#[test]
fn a_host_variable_without_walls_is_refused() {
    for pattern in ["", "pattern: '.*'", "pattern: '[^ ]+'", "pattern: '[a-z/]+'"] {
        let mistakes = mistakes_of(&format!(
            "variables: {{h: {{default: a, {pattern}}}}}, endpoints: {{token: 'https://{{h}}.example/t'}}"
        ));
        assert_eq!(mistakes[0].field, "variables.h.pattern", "{pattern}: {mistakes:?}");
    }
}

#[test]
fn contradictions_and_dangers_are_mistakes() {
    for (yaml, path) in [
        ("rotation: never", "reuse"),
        ("reuse: reusable, spent: refused", "spent"),
        ("reuse: {grace: {seconds: 0}}", "reuse.grace.seconds"),
        ("errors: [{status: [403], means: dead}]", "errors[0]"),
        ("errors: [{means: transient}]", "errors[0]"),
        ("client_auth: basic", "client_secret"),
        ("client_secret: s, client_auth: none", "client_auth"),
        ("caller_parameters: [redirect_uri]", "caller_parameters"),
        ("requests: {token: {drop: [code_verifier]}}", "requests.token"),
        ("revoke: {style: rest, request: {url: 'https://a.example/{access_token}'}}", "revoke.request.url"),
        ("endpoints: {token: 'https://{who}.example/'}", "endpoints.token"),
        ("issuer: 'https://as.example/?x'", "issuer"),
        ("api: {hosts: ['http://a.example']}", "api.hosts[0]"),
        ("api: {hosts: ['https://10.1.2.3']}", "api.hosts[0]"),
        ("api: {hosts: ['https://user@a.example']}", "api.hosts[0]"),
        ("api: {hosts: ['{nothing}.a.example']}", "api.hosts[0]"),
        ("api: {allow_networks: ['10.0.0.1/8']}", "api.allow_networks[0]"),
        ("api: {path_prefixes: ['v1']}", "api.path_prefixes[0]"),
        ("api: {hosts: [a.example], http2_prior_knowledge: true}", "api.http2_prior_knowledge"),
        ("api: {headers: {Host: x}}", "api.headers.Host"),
        ("api: {headers: {'X Y': x}}", "api.headers.X Y"),
        ("api: {auth_value: Bearer}", "api.auth_value"),
        ("rate: {wait: [{unit: seconds}]}", "rate.wait[0]"),
        ("errors: [{at: api, status: [403], means: consent}]", "errors[0].means"),
        ("errors: [{status: [401], means: token_bad}]", "errors[0].means"),
        ("profile: eu", "profile"),
        ("token_budget: {count: 0, per: 1s}", "token_budget.count"),
        ("token_budget: {count: 5, per: 0s}", "token_budget.per"),
        ("max_parallel_refresh: 0", "max_parallel_refresh"),
        ("breaker: {failures: 0}", "breaker.failures"),
        ("breaker: {open: 2h}", "breaker.open"),
        ("breaker: {successes: 0}", "breaker.successes"),
    ] {
        let yaml = if yaml.starts_with("issuer") {
            format!("{{key: x, client_id: c, {yaml}}}")
        } else {
            format!("{{key: x, client_id: c, issuer: 'https://as.example', {yaml}}}")
        };
        assert_eq!(fields(&yaml), [path], "{yaml}");
    }
}

#[test]
fn a_catalogue_name_without_kind_is_hinted_at() {
    let mistakes = resolve("{key: google, client_id: c}").unwrap_err();
    assert!(mistakes.iter().any(|mistake| mistake.message.contains("kind: google")), "{mistakes:?}");
    let mistakes = resolve("{key: g, kind: gogle, client_id: c}").unwrap_err();
    assert!(mistakes[0].message.contains("github, google, hydra, keycloak, microsoft"), "{mistakes:?}");
}

#[test]
fn plain_http_needs_plain_words_and_warns() {
    let yaml = "{key: x, client_id: c, issuer: 'http://as.example', allow_http: FLAG}";
    assert_eq!(fields(&yaml.replace("FLAG", "false")), ["issuer"]);
    let config = resolve(&yaml.replace("FLAG", "true")).unwrap();
    assert!(config.warnings()[0].contains("unencrypted"), "{:?}", config.warnings());
}

#[test]
fn no_secret_prints() {
    let yaml = "{key: x, client_id: c, client_secret: canary-1, issuer: 'https://as.example'}";
    let entry = entry(yaml);
    let printed = format!("{entry:?}");
    let config = entry.resolve(Some(Secret::new("canary-2".to_owned()))).unwrap();
    assert!(!format!("{printed}{config:?}").contains("canary"));
}

#[test]
fn the_schema_of_an_entry_knows_its_own_keys_and_the_specs_and_no_others() {
    let schema = schemars::schema_for!(ProviderEntry);
    let properties = schema.get("properties").unwrap().as_object().unwrap();
    for key in ["key", "kind", "client_secret_file", "vars", "issuer", "reuse", "webhook"] {
        assert!(properties.contains_key(key), "{key}");
    }
    assert_eq!(schema.get("additionalProperties"), Some(&json!(false)));
    assert_eq!(schema.get("required"), Some(&json!(["key"])));

    let (mut compiler, mut schemas) = (boon::Compiler::new(), boon::Schemas::new());
    compiler.add_resource("schema:entry", schema.as_value().clone()).unwrap();
    let index = compiler.compile("schema:entry", &mut schemas).unwrap();
    for known in catalogue() {
        let mut entry = known.spec().clone();
        entry.insert("key".into(), json!("x"));
        let entry = Value::Object(entry);
        if let Err(wrong) = schemas.validate(&entry, index) {
            panic!("{}: {wrong}", known.kind);
        }
    }
}
