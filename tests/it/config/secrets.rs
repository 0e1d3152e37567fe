//! Where secrets come from, and that they go nowhere else.

use token_broker::config::{self, Environment};

use super::{origin_of, read};

#[test]
fn a_secret_comes_from_its_key_or_from_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    let entry = "key: x, kind: oidc, issuer: 'https://a.example', client_id: c";
    for (content, secret) in
        [("s3cret\n", "s3cret"), ("s3cret\r\n", "s3cret"), ("two\nlines\n", "two\nlines")]
    {
        std::fs::write(&file, content).unwrap();
        let text = format!("providers: [{{{entry}, client_secret_file: {}}}]", file.display());
        let config = read(&text).unwrap();
        assert_eq!(config.providers[0].client_secret.as_ref().unwrap().expose(), secret);
    }
    // Relative to the file that says so.
    let text =
        format!("providers: [{{{entry}, client_secret_file: secret}}]\nseal: {{key_file: keys/seal.key}}\n");
    let config_file = directory.path().join("config.yaml");
    std::fs::write(&config_file, text).unwrap();
    let config = config::load(Some(&config_file), &Environment::default(), &[]).unwrap();
    assert_eq!(config.seal.key_file, directory.path().join("keys/seal.key"));
    assert_eq!(config.providers[0].client_secret.as_ref().unwrap().expose(), "two\nlines");
    assert_eq!(origin_of(&config, "providers[0].client_secret"), "1:97");

    for (secret, meant) in
        [("plain", "plain"), ("'0123'", "0123"), ("0123", "0123"), ("1e5", "1e5"), ("on", "on")]
    {
        let config = read(&format!("providers: [{{{entry}, client_secret: {secret}}}]")).unwrap();
        assert_eq!(config.providers[0].client_secret.as_ref().unwrap().expose(), meant);
    }
}

#[test]
fn a_secret_that_cannot_be_had_is_a_mistake() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(path("empty"), "\n").unwrap();
    std::fs::write(path("large"), "x".repeat(65 * 1024)).unwrap();
    std::fs::write(path("binary"), [0xff, 0xfe, 0x00]).unwrap();
    for (key, value, path, sentence) in [
        ("client_secret_file", path("absent"), "client_secret_file", "cannot be read: No such file"),
        ("client_secret_file", path(""), "client_secret_file", "cannot be read"),
        ("client_secret_file", path("empty"), "client_secret_file", "is empty"),
        ("client_secret_file", path("large"), "client_secret_file", "larger than 64 KiB"),
        ("client_secret_file", path("binary"), "client_secret_file", "is not text"),
        ("client_secret", "''".to_owned(), "client_secret", "is empty"),
        ("client_secret", "[a]".to_owned(), "client_secret", "one text"),
        ("client_secret", "{a: b}".to_owned(), "client_secret", "one text"),
        ("client_secret_file: x, client_secret", "s".to_owned(), "client_secret", "keep one of them"),
    ] {
        let text = format!("providers: [{{key: x, kind: google, client_id: c, {key}: {value}}}]");
        let error = read(&text).unwrap_err();
        let [mistake] = error.mistakes.as_slice() else { panic!("{text}: {error}") };
        assert_eq!(mistake.path, format!("providers[0].{path}"), "{error}");
        assert!(mistake.message.contains(sentence), "{error}");
        assert!(mistake.place().starts_with("1:"), "{error}");
    }
}

#[test]
fn no_secret_is_in_a_mistake_or_in_anything_that_prints() {
    const CANARY: &str = "canary-4711";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    std::fs::write(&file, CANARY).unwrap();
    let entry = "key: x, kind: oidc, issuer: 'https://a.example', client_id: c";

    for text in [
        format!("providers: [{{{entry}, client_secret: {CANARY}}}]"),
        format!("providers: [{{{entry}, client_secret_file: {}}}]", file.display()),
    ] {
        let config = read(&text).unwrap();
        assert_eq!(config.providers[0].client_secret.as_ref().unwrap().expose(), CANARY);
        let effective = config::effective(&config);
        let shown: Vec<String> = effective.iter().map(config::EffectiveValue::shown).collect();
        let all = format!("{config:?} {config:#?} {effective:?} {shown:?} {:?}", config.warnings);
        assert!(!all.contains(CANARY), "{all}");
        let secret = effective.iter().find(|value| value.path == "providers[0].client_secret").unwrap();
        assert_eq!(secret.shown(), "(secret)");
    }

    // Wrong in every place where a secret may end up.
    for text in [
        format!("providers: [{{{entry}, client_secret: [{CANARY}]}}]"),
        format!("providers: [{{{entry}, client_secret: {{a: {CANARY}}}}}]"),
        format!("providers: [{{{entry}, client_secret: {CANARY}, client_secret: {CANARY}}}]"),
        format!("providers: [{{{entry}, client_secret: {CANARY}, client_secret_file: x}}]"),
        format!("providers: [{{{entry}, client_secert: {CANARY}}}]"),
        format!("providers: [{{{entry}, clientsecretvalue: {CANARY}}}]"),
        format!("providers: [{{{entry}, client_auth: none, client_secret: {CANARY}}}]"),
        format!("providers: [{CANARY}]"),
        format!("providers: {CANARY}"),
        format!("providers:\n  client_secret {CANARY}\n"),
        format!("providers: {{client_secret: {CANARY}}}"),
        format!("client_secret: {CANARY}"),
        CANARY.to_owned(),
        format!("providers: [{{{entry}, client_secret: *{CANARY}}}]"),
        format!("providers: [{{{entry}, client_secret: !{CANARY} x}}]"),
        format!("providers: [{{{entry}, client_secret: \"{CANARY}}}]"),
        format!("providers: [{{{entry}, client_secret: '{CANARY}'{CANARY}}}]"),
        format!("providers: [{{{entry}, client_secret: {CANARY}, enabled: maybe}}]"),
        format!("a: &a {CANARY}\nb: *b\nproviders: *a"),
        format!("server: {{public: {{url: 'https://user:{CANARY}@a.example'}}}}"),
        format!("server: {{public: {{redirect_uris: ['https://user:{CANARY}@a.example']}}}}"),
    ] {
        let error = read(&text).map(|_| panic!("{text} is accepted")).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(CANARY), "{text}: {error}");
    }

    let variable = "TOKEN_BROKER_PROVIDERS__0__CLIENT_SECRET";
    let environment = Environment::of([(variable, CANARY)]);
    assert_eq!(format!("{environment:?}"), format!("{{{variable:?}}}"));
    let config = config::parse(&format!("providers: [{{{entry}}}]"), None, &environment, &[]).unwrap();
    assert_eq!(config.providers[0].client_secret.as_ref().unwrap().expose(), CANARY);
    assert_eq!(config.warnings[0].place(), variable, "a secret in the environment is warned of");
    assert!(!format!("{config:?}{:?}", config::effective(&config)).contains(CANARY));
    let broken = config::parse("providers: 1", None, &environment, &[]).unwrap_err();
    assert!(!format!("{broken}{broken:?}").contains(CANARY));
}

#[test]
fn headers_and_parameters_of_an_own_entry_are_shown_by_name_alone() {
    const CANARY: &str = "developer-token-4711";
    let config = read(&format!(
        "providers: [{{key: x, kind: oidc, issuer: 'https://a.example', client_id: c, client_secret: s, \
         api: {{hosts: ['https://api.example'], headers: {{developer-token: {CANARY}}}}}, \
         requests: {{token: {{set: {{key: {CANARY}}}, headers: {{x-key: {CANARY}}}}}}}}}]"
    ))
    .unwrap();
    let shown: Vec<String> =
        config::effective(&config).iter().map(|value| format!("{} {}", value.path, value.shown())).collect();
    assert!(!shown.join("\n").contains(CANARY), "{shown:#?}");
    for key in ["api.headers.developer-token", "requests.token.set.key", "requests.token.headers.x-key"] {
        assert!(shown.contains(&format!("providers[0].{key} (secret)")), "{key}: {shown:#?}");
    }
}
