//! The configuration, from text to what holds: every mistake with its place, nothing secret in any of them.

mod docs;
mod environment;
mod providers;
mod secrets;

use std::path::Path;

use token_broker::config::{self, Config, ConfigError, Environment};

fn read(text: &str) -> Result<Config, ConfigError> {
    config::parse(text, None, &Environment::default(), &[])
}

fn mistakes(text: &str) -> Vec<String> {
    told(read(text))
}

fn told(read: Result<Config, ConfigError>) -> Vec<String> {
    let error = read.map(|config| panic!("{config:?} is accepted")).unwrap_err();
    error.mistakes.iter().map(|mistake| format!("{} {}", mistake.place(), mistake.path)).collect()
}

fn sentences(text: &str) -> Vec<String> {
    let error = read(text).map(|config| panic!("{text:?}: {config:?} is accepted")).unwrap_err();
    error.mistakes.into_iter().map(|mistake| mistake.message).collect()
}

fn origin_of(config: &Config, path: &str) -> String {
    let values = config::effective(config);
    values.iter().find(|value| value.path == path).unwrap_or_else(|| panic!("{path}")).origin.to_string()
}

#[test]
fn an_empty_file_holds_all_defaults_and_warns_that_there_is_no_provider() {
    for text in ["", "\n", "# nothing yet\n", "---\n", "{}", "server:\n", "providers: []"] {
        let config = read(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(config.server, config::Server::default(), "{text:?}");
        let [warning] = config.warnings.as_slice() else { panic!("{text:?}: {:?}", config.warnings) };
        assert_eq!(warning.path, "providers", "{text:?}");
    }
    let config = read("").unwrap();
    assert_eq!(config.server.threads.get(), 1);
    assert_eq!(config.server.drain.to_string(), "15s");
    assert_eq!(config.server.grpc.socket_mode.bits(), 0o660);
    assert_eq!(config.server.grpc.tcp.to_string(), "127.0.0.1:7450");
    assert_eq!(config.server.public.listen.to_string(), "127.0.0.1:7451");
    assert_eq!(config.server.ops.listen.to_string(), "0.0.0.0:7452");
    assert_eq!(config.server.grpc.max_message_bytes.bytes(), 1 << 20);
    assert_eq!(config.store.path, Path::new("/var/lib/token-broker"));
    assert_eq!(config.http.timeout.duration().as_secs(), 30);
}

#[test]
fn every_mistake_is_told_in_one_run() {
    let text = "\
server:
  drain: soon
  threds: 2
  grpc:
    tcp: 0.0.0.0:7450
    max_message_bytes: big
  public:
    return_urls:
      - https://app.example/done
      - http://app.example/done
store:
  engine: sledge
providers:
  - key: google
    kind: google
    cliend_id: abc
    client_secret: s
  - key: own
    issuer: https://as.example
    client_id: abc
    enabled: yes
  - key: google
    kind: gogle
    client_id: abc
    client_secret: s
";
    let error =
        config::parse(text, Some(Path::new("config.yaml")), &Environment::default(), &[]).unwrap_err();
    let expected = r#"10 mistakes in config.yaml, nothing was started
  2:10   server.drain                   "soon" is not a duration; write 10s or 2m
  3:3    server.threds                  unknown key; did you mean threads?
  5:10   server.grpc.tcp                0.0.0.0:7450 can be reached from other machines, and callers there cannot be told apart without mutual TLS, which is not supported yet; write 127.0.0.1:7450, or use the socket
  6:24   server.grpc.max_message_bytes  "big" is not a size; write 1MiB or 512KiB
  10:9   server.public.return_urls[1]   must be https://; http:// is accepted for this machine only
  12:11  store.engine                   "sledge" is not accepted here; write sled, redb or memory
  16:5   providers[0].cliend_id         unknown key; did you mean client_id?
  21:14  providers[1].enabled           "yes" is only a text in YAML; write true or false
  22:10  providers[2].key               "google" is already used on line 14
  23:11  providers[2].kind              "gogle" is not known; known: atlassian, auth0, dex, django-oauth-toolkit, github, google, hydra, keycloak, microsoft, oidc, okta, sandbox"#;
    assert_eq!(error.to_string(), expected);
}

#[test]
fn what_a_provider_is_not_known_as_hides_none_of_its_other_mistakes() {
    let entry = "key: own, client_id: c, client_secret: s, scopes: ['a b'], token_timeout: 2h";
    let told = |text: &str| {
        let error = config::parse(text, None, &Environment::default(), &[]).unwrap_err();
        error.mistakes.iter().map(|mistake| mistake.path.clone()).collect::<Vec<_>>()
    };
    let both = ["providers[0].scopes", "providers[0].token_timeout"];
    let kind = told(&format!("providers: [{{kind: gogle, {entry}}}]"));
    assert_eq!(kind, ["providers[0].kind", both[0], both[1]]);
    let profile = told(&format!("providers: [{{kind: google, profile: nope, {entry}}}]"));
    assert_eq!(profile, ["providers[0].profile", both[0], both[1]]);
    let profile = told(
        "providers: [{key: own, kind: google, profile: nope, client_id: c, client_secret: s, token_timeout: soon}]",
    );
    assert_eq!(profile, ["providers[0].profile", "providers[0].token_timeout"]);
    let vars = told(
        "providers: [{key: own, kind: gogle, client_id: c, issuer: 'https://{place}.example', vars: {a: b}}]",
    );
    assert_eq!(vars, ["providers[0].kind"], "what the kind would know is not judged");
}

#[test]
fn a_file_of_authorities_is_read_with_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    let text = format!("http: {{ca_file: {}, timeout: 0s}}", file.display());
    let told = || config::parse(&text, None, &Environment::default(), &[]).unwrap_err().to_string();
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(told().contains("No such file") && told().contains("http.timeout"), "{}", told());
    for content in ["", "no certificate", broken] {
        std::fs::write(&file, content).unwrap();
        assert!(told().contains("1:17  http.ca_file"), "{}", told());
        assert!(told().contains("holds no certificates in PEM form"), "{}", told());
    }
    let good = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap().cert.pem();
    std::fs::write(&file, format!("{good}{broken}")).unwrap();
    assert!(told().contains("http.ca_file"), "half of it is not trusted in silence");
    let many = (good.len() + (4 << 20)) / good.len();
    std::fs::write(&file, good.repeat(many)).unwrap();
    assert!(told().contains("is larger than 4 MiB"), "nor is what fits of a larger one: {}", told());
    std::fs::write(&file, good).unwrap();
    assert!(!told().contains("http.ca_file"), "{}", told());
}

#[test]
fn each_kind_of_mistake_says_where_it_is_and_what_is_accepted() {
    let mut differences = Vec::new();
    for (text, place, sentence) in [
        // What is not built yet.
        (
            "providers: [{key: a, kind: github, client_id: c, client_secret: s, webhook: {}}]",
            "1:77 providers[0].webhook",
            "webhooks are not received yet",
        ),
        // Keys.
        ("colour: red", "1:1 colour", "known here: http, log, providers, refresh, seal, server, store"),
        ("server: {threads: 1, threads: 2}", "1:22 server.threads", "already written on line 1"),
        ("log:\n  level: info\nlog:\n  level: info\n", "3:1 log", "already written on line 1"),
        ("<<: {a: 1}", "1:5 a", "unknown key"),
        // Types.
        ("[]", "1:1 ", "a list is not accepted here; write a mapping of keys"),
        ("just text", "1:1 ", "text is not accepted here; write a mapping of keys"),
        ("server: 1", "1:9 server", "a number is not accepted here; write a mapping of keys"),
        ("providers: {}", "1:12 providers", "a mapping of keys is not accepted here; write a list"),
        ("providers: [x]", "1:13 providers[0]", "text is not accepted here; write a mapping of keys"),
        (
            "server: {threads: two}",
            "1:19 server.threads",
            "\"two\" is not accepted here; write a whole number",
        ),
        ("server: {threads: '2'}", "1:19 server.threads", "write the number without quotes"),
        ("server: {threads: 1.5}", "1:19 server.threads", "1.5 is not accepted here; write a whole number"),
        ("store: {ephemeral: on}", "1:20 store.ephemeral", "write true or false"),
        ("store: {ephemeral: y}", "1:20 store.ephemeral", "write true or false"),
        ("store: {ephemeral: 1}", "1:20 store.ephemeral", "write true or false"),
        // Values.
        ("server: {threads: 0}", "1:19 server.threads", "the least is 1"),
        ("server: {threads: 257}", "1:19 server.threads", "the most is 256"),
        ("log: {format: xml}", "1:15 log.format", "write auto, json or pretty"),
        ("log: {level: loud}", "1:14 log.level", "write one of off, error, warn"),
        ("server: {drain: 10}", "1:17 server.drain", "\"10\" is not a duration; write 10s or 2m"),
        ("server: {drain: 2h}", "1:17 server.drain", "one hour is the most"),
        ("server: {grpc: {tcp: localhost:80}}", "1:22 server.grpc.tcp", "write 127.0.0.1:80, or off"),
        ("server: {grpc: {tcp: '[::]:7450'}}", "1:22 server.grpc.tcp", "mutual TLS"),
        ("server: {grpc: {socket_mode: 432}}", "1:30 server.grpc.socket_mode", "write \"0660\", in quotes"),
        ("server: {grpc: {socket_mode: 0999}}", "1:30 server.grpc.socket_mode", "octal digits such as 0660"),
        ("server: {grpc: {socket: '@x'}}", "1:25 server.grpc.socket", "abstract socket"),
        ("server: {grpc: {max_message_bytes: 1KiB}}", "1:36 server.grpc.max_message_bytes", "16KiB to 64MiB"),
        ("server: {grpc: {authorities: ['a b']}}", "1:31 server.grpc.authorities[0]", "is not a host"),
        ("server: {public: {url: 'ftp://x'}}", "1:24 server.public.url", "must start with https://"),
        (
            "server: {public: {redirect_uris: [/cb]}}",
            "1:35 server.public.redirect_uris[0]",
            "not an absolute URL",
        ),
        ("http: {timeout: 0s}", "1:17 http.timeout", "1ms to 10m"),
        ("seal: {key_file: ''}", "1:18 seal.key_file", "write a path"),
        // What fits only together.
        ("server: {grpc: {tcp: off, socket: off}}", "1:16 server.grpc", "both off"),
        ("server: {public: {listen: '0.0.0.0:7451'}}", "1:18 server.public.url", "is missing"),
        (
            "server: {ops: {listen: '127.0.0.1:7450'}}",
            "1:24 server.ops.listen",
            "already taken by server.grpc.tcp",
        ),
        ("http: {connect_timeout: 60s}", "1:25 http.connect_timeout", "longer than http.timeout (30s)"),
        ("store: {engine: memory}", "1:17 store.engine", "ephemeral: true"),
        ("store: {escrow_path: /var/lib/token-broker/x}", "1:22 store.escrow_path", "another volume"),
        (
            "server: {public: {return_urls: ['https://a.example/', 'https://a.example/']}}",
            "1:55 server.public.return_urls[1]",
            "the same as return_urls[0]",
        ),
        // Syntax.
        ("server:\n\tdrain: 10s\n", "2:2 ", "indent with spaces"),
        ("server: {drain: 10s", "1:9 ", "this is not YAML"),
        ("seal: {key_file: !env X}", "1:23 ", "tags (!…) are not accepted"),
        ("seal: {key_file: *x}", "1:18 ", "names no anchor"),
        ("a: 1\n---\nb: 2\n", "3:1 ", "a second document starts here"),
    ] {
        let (told, said) = (mistakes(text), sentences(text));
        if told != [place] || !said[0].contains(sentence) {
            differences.push(format!("{text}\n  wanted {place} {sentence}\n  told {told:?} {said:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn every_level_that_is_accepted_is_one_that_the_log_understands() {
    for level in
        ["off", "error", "trace", "info,token_broker=debug", "warn,h2=info,token_broker::broker=trace"]
    {
        let config = read(&format!("log: {{level: '{level}'}}")).unwrap();
        assert!(token_broker::telemetry::Filter::parse(config.log.level.as_str()).is_ok(), "{level}");
    }
}

proptest::proptest! {
    /// Whatever the text is: an answer, and every place in it is in the text.
    #[test]
    fn any_text_is_answered(text in "[ -:{}\\[\\]a-c&*!|>'\"#%,?\n\t0-9~<]{0,80}") {
        if let Err(error) = read(&text) {
            for mistake in error.mistakes {
                if let Some(config::Origin::File { line, .. }) = mistake.origin {
                    proptest::prop_assert!(line >= 1 && line <= 1 + text.lines().count() as u64, "{text:?}");
                }
            }
        }
    }
}

#[test]
fn texts_keep_the_spelling_that_yaml_would_take_for_something_else() {
    for (written, meant) in
        [("0660", "0660"), ("'0660'", "0660"), ("660", "0660"), ("0o660", "0660"), ("0600", "0600")]
    {
        let config = read(&format!("server: {{grpc: {{socket_mode: {written}}}}}")).unwrap();
        assert_eq!(config.server.grpc.socket_mode.to_string(), meant, "{written}");
    }
    for id in
        ["y", "on", "0123", "1e5", "123456789012345678901234567890", "1_000", "0x10", "1.50", "true", ".inf"]
    {
        let config = read(&format!(
            "providers: [{{key: x, kind: oidc, issuer: 'https://a.example', client_id: {id}}}]"
        ))
        .unwrap_or_else(|error| panic!("{id}: {error}"));
        assert_eq!(config.providers[0].client_id, id);
    }
    let config = read("server: {grpc: {max_message_bytes: 65536, tcp: off}}").unwrap();
    assert_eq!(config.server.grpc.max_message_bytes.bytes(), 65536);
    assert_eq!(config.server.grpc.tcp.address(), None);
}

#[test]
fn an_anchor_may_be_used_and_its_mistakes_are_told_where_it_is_used() {
    let text = "http:\n  timeout: &t 20s\n  connect_timeout: *t\n";
    assert_eq!(read(text).unwrap().http.connect_timeout.to_string(), "20s");
    assert_eq!(
        mistakes("log: {level: &x loud}\nserver:\n  drain: *x\n"),
        ["1:17 log.level", "3:10 server.drain"]
    );
}

#[test]
fn a_bomb_of_aliases_and_a_deep_hole_are_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let previous = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", [previous.as_str(); 10].join(", "));
    }
    assert!(sentences(&bomb)[0].contains("repeats itself too often"), "{:?}", sentences(&bomb));
    let hole = format!("server: {}{}", "[".repeat(5000), "]".repeat(5000));
    assert_eq!(sentences(&hole).len(), 1);
}

#[test]
fn what_the_catalogue_says_is_shown_as_the_catalogues() {
    let text = "providers:\n  - key: g\n    kind: google\n    client_id: c\n    client_secret: s\n    scopes: [openid]\n";
    let config = read(text).unwrap();
    assert_eq!(origin_of(&config, "providers[0].kind"), "3:11");
    assert_eq!(origin_of(&config, "providers[0].scopes[0]"), "6:14");
    assert_eq!(origin_of(&config, "providers[0].enabled"), "default");
    assert_eq!(origin_of(&config, "providers[0].client_secret"), "5:20");
    assert!(config::effective(&config).iter().any(|value| value.origin.to_string() == "catalogue google"));
}

#[test]
fn a_key_with_nothing_after_it_takes_away_what_the_catalogue_says_there() {
    let entry = "key: x, kind: google, client_id: c, client_secret: s";
    let with = read(&format!("providers: [{{{entry}}}]")).unwrap();
    let without = read(&format!("providers: [{{{entry}, console: , profile: }}]")).unwrap();
    assert!(with.providers[0].spec.console.is_some());
    assert_eq!(without.providers[0].spec.console, None);
}

#[test]
fn a_file_that_cannot_be_the_configuration_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    let load = |file: &Path| config::load(Some(file), &Environment::default(), &[]).unwrap_err().to_string();
    assert!(load(&file).contains("cannot be read: No such file"), "{}", load(&file));
    assert!(load(directory.path()).contains("cannot be read"), "{}", load(directory.path()));
    std::fs::write(&file, b"a: b\nc: \xff\n").unwrap();
    assert!(load(&file).contains("not UTF-8 text: see line 2"), "{}", load(&file));
    std::fs::write(&file, "# padding\n".repeat(110_000)).unwrap();
    assert!(load(&file).contains("larger than 1 MiB"), "{}", load(&file));
}

#[test]
fn the_public_doors_address_is_the_bound_one_unless_it_is_given() {
    let bound = "127.0.0.1:41235".parse().unwrap();
    let config = read("server: {public: {listen: '127.0.0.1:0'}}").unwrap();
    assert_eq!(config.server.public.base_url(bound).unwrap().as_str(), "http://127.0.0.1:41235/");
    let config =
        read("server: {public: {listen: '0.0.0.0:7451', url: 'https://auth.example/broker'}}").unwrap();
    assert_eq!(config.server.public.base_url(bound).unwrap().as_str(), "https://auth.example/broker/");
}
