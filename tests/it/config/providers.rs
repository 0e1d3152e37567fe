//! Mistakes inside a provider's entry, and what is shown of one.

use super::{mistakes, origin_of, read, sentences};

#[test]
fn a_providers_mistakes_are_placed_in_the_file() {
    for (entry, place, sentence) in [
        ("{kind: google, client_id: c, client_secret: s}", "1:14 providers[0].key", "is missing"),
        ("{key: No, kind: google, client_id: c, client_secret: s}", "1:20 providers[0].key", "a-z 0-9"),
        ("{key: x, kind: google, client_secret: s}", "1:14 providers[0].client_id", "is missing"),
        (
            "{key: x, kind: google, client_id: [], client_secret: s}",
            "1:48 providers[0].client_id",
            "write a text",
        ),
        (
            "{key: x, kind: oidc, client_id: c, issuer: 'http://a.example'}",
            "1:57 providers[0].issuer",
            "https",
        ),
        (
            "{key: x, kind: oidc, client_id: c, issuer: 'https://a.example', token_timeout: soon}",
            "1:93 providers[0].token_timeout",
            "\"soon\" is not a duration; write 10s or 2m",
        ),
        (
            "{key: x, kind: oidc, client_id: c, issuer: 'https://a.example', client_secret: s, client_auth: none}",
            "1:109 providers[0].client_auth",
            "is none",
        ),
    ] {
        let text = format!("providers: [ {entry} ]");
        assert_eq!(mistakes(&text), [place], "{text}: {:?}", sentences(&text));
        assert!(sentences(&text)[0].contains(sentence), "{text}: {:?}", sentences(&text));
    }
}

/// What the schema of a provider's knobs says about slips of the finger: one mistake each, at the right key.
#[test]
fn a_slip_inside_a_knob_is_told_once_and_with_what_is_accepted() {
    let mut differences = Vec::new();
    for (knob, path, sentence) in [
        ("client_auth: bsic", "client_auth", "did you mean basic?"),
        ("client_auth: {}", "client_auth", "a mapping of keys is not accepted here; write auto, basic, post"),
        ("reuse: strickt", "reuse", "write reusable, strict, {count: …} or {grace: …}; did you mean strict?"),
        ("reuse: {grase: {seconds: 1}}", "reuse.grase", "unknown key; did you mean grace?"),
        ("reuse: {grace: {secnds: 1}}", "reuse.grace.secnds", "unknown key; did you mean seconds?"),
        ("reuse: {grace: 1}", "reuse.grace", "a number is not accepted here; write a mapping of keys"),
        (
            "webhook: {handshake: {style: echo}}",
            "webhook.handshake.style",
            "write none, echo_body, echo_query",
        ),
        ("webhook: {handshake: {style: echo_body}}", "webhook.handshake.path", "is missing"),
        ("webhook: {handshake: {styl: probe}}", "webhook.handshake.styl", "did you mean style?"),
        ("webhook: {handshake: {}}", "webhook.handshake.style", "is missing"),
        ("endpoints: {tokn: 'https://a.example'}", "endpoints.tokn", "did you mean token?"),
        ("errors: [{means: ded}]", "errors[0].means", "did you mean dead?"),
        ("errors: [{status: [abc], means: dead}]", "errors[0].status[0]", "write a whole number"),
        ("scopes: openid", "scopes", "text is not accepted here; write a list"),
        ("vars: {a: {b: c}}", "vars.a", "write a text"),
        ("max_parallel_refresh: -1", "max_parallel_refresh", "-1 is not accepted"),
        ("issuer: {a: b}", "issuer", "a mapping of keys is not accepted here; write a text"),
    ] {
        let issuer = if knob.starts_with("issuer") { "" } else { "issuer: 'https://a.example', " };
        let text = format!("providers: [{{key: x, kind: oidc, client_id: c, {issuer}{knob}}}]");
        let told = read(&text).map(|_| panic!("{text} is accepted")).unwrap_err().mistakes;
        let is_told = told.len() == 1
            && told[0].path == format!("providers[0].{path}")
            && told[0].message.contains(sentence);
        if !is_told {
            differences.push(format!("{knob}\n  wanted {path} {sentence}\n  told {told:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn a_key_misspelt_hides_no_mistake_in_the_key_that_was_meant() {
    let entry = "key: x, kind: oidc, client_id: c, issuer: 'https://a.example'";
    let text = format!("providers: [{{{entry}, endpoints: {{token: 'ftp://x', tokn: x}}}}]");
    assert_eq!(mistakes(&text).len(), 2, "{:?}", sentences(&text));
}

#[test]
fn the_keys_that_chose_something_are_shown_too() {
    let text =
        "providers: [{key: m, kind: microsoft, client_id: c, client_secret: s, vars: {tenant: common}}]";
    assert_eq!(origin_of(&read(text).unwrap(), "providers[0].vars.tenant"), "1:86");
}
