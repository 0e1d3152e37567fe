//! What the environment and flags change.

use std::path::Path;

use token_broker::config::{self, Config, ConfigError, Environment, Override};

use super::origin_of;

const NOWHERE: [(&str, &str); 0] = [];

fn with_environment(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    config::parse(text, None, &Environment::of(variables.iter().copied()), &[])
}

#[test]
fn the_environment_changes_what_the_file_says_and_a_flag_changes_both() {
    let text = "server:\n  threads: 2\n  drain: 20s\n  public: {return_urls: [https://a.example/]}\n";
    let environment = Environment::of([
        ("TOKEN_BROKER_SERVER__THREADS", "3"),
        ("TOKEN_BROKER_SERVER__GRPC__SOCKET", ""),
        ("TOKEN_BROKER_SERVER__GRPC__SOCKET_MODE", "0600"),
        ("TOKEN_BROKER_SERVER__PUBLIC__RETURN_URLS__1", "https://b.example/"),
        ("TOKEN_BROKER_SERVER__PUBLIC__REDIRECT_URIS__0", "https://c.example/"),
        ("TOKEN_BROKER_STORE__EPHEMERAL", "true"),
        ("TOKEN_BROKER_HTTP__TIMEOUT", "40s"),
        ("TOKEN_BROKER_LOG", "debug"),
    ]);
    let flags = [Override::new("--timeout", "http.timeout", "50s")];
    let config = config::parse(text, None, &environment, &flags).unwrap();
    assert_eq!(config.server.threads.get(), 3);
    assert_eq!(config.server.grpc.socket.path(), None);
    assert_eq!(config.server.grpc.socket_mode.bits(), 0o600);
    assert_eq!(config.server.public.return_urls.len(), 2);
    assert!(config.store.ephemeral);
    assert_eq!(config.log.level.as_str(), "debug");
    assert_eq!(config.http.timeout.to_string(), "50s");
    for (path, origin) in [
        ("server.threads", "TOKEN_BROKER_SERVER__THREADS"),
        ("server.drain", "3:10"),
        ("server.public.return_urls[0]", "4:26"),
        ("server.public.return_urls[1]", "TOKEN_BROKER_SERVER__PUBLIC__RETURN_URLS__1"),
        ("server.public.allow_loopback_return", "default"),
        ("http.timeout", "--timeout"),
        ("http.connect_timeout", "default"),
        ("http.ca_file", "default"),
        ("log.level", "TOKEN_BROKER_LOG"),
    ] {
        assert_eq!(origin_of(&config, path), origin, "{path}");
    }
}

#[test]
fn a_provider_is_reached_in_the_environment_by_its_number_or_its_key() {
    let text = "providers: [{key: my-oidc, kind: oidc, client_id: a, issuer: 'https://a.example'}]";
    for name in ["0", "MY_OIDC"] {
        let variable = format!("TOKEN_BROKER_PROVIDERS__{name}__CLIENT_ID");
        let config = with_environment(text, &[(&variable, "b")]).unwrap();
        assert_eq!(config.providers[0].client_id, "b");
        assert_eq!(origin_of(&config, "providers[0].client_id"), variable);
    }
}

#[test]
fn a_wrong_variable_is_a_mistake_that_names_it() {
    for (name, value, path, sentence) in [
        ("TOKEN_BROKER_SERVER__THREDS", "2", "server.threds", "unknown key; did you mean threads?"),
        ("TOKEN_BROKER_SERVR__THREADS", "2", "servr", "did you mean server?"),
        ("TOKEN_BROKER_SERVER__THREADS", "two", "server.threads", "write a whole number"),
        ("TOKEN_BROKER_SERVER__THREADS", "", "server.threads", "write a whole number"),
        ("TOKEN_BROKER_SERVER__DRAIN", "soon", "server.drain", "write 10s or 2m"),
        ("TOKEN_BROKER_SERVER__GRPC", "x", "server.grpc", "holds keys"),
        ("TOKEN_BROKER_SERVER__DRAIN__SECONDS", "1", "server.drain.seconds", "nothing is accepted here"),
        ("TOKEN_BROKER_SERVER__PUBLIC__RETURN_URLS", "x", "server.public.return_urls", "one by one"),
        (
            "TOKEN_BROKER_SERVER__PUBLIC__RETURN_URLS__1",
            "https://a.example",
            "server.public.return_urls",
            "0 entries",
        ),
        ("TOKEN_BROKER_PROVIDERS__ACME__CLIENT_ID", "x", "providers", "no entry has the key"),
        ("TOKEN_BROKER_LOG", "loud", "log.level", "write one of off"),
    ] {
        let error = with_environment("", &[(name, value)]).unwrap_err();
        let [mistake] = error.mistakes.as_slice() else { panic!("{error}") };
        assert_eq!((mistake.place().as_str(), mistake.path.as_str()), (name, path), "{error}");
        assert!(mistake.message.contains(sentence), "{error}");
    }
}

#[test]
fn variables_that_are_not_the_configurations_are_let_be() {
    let config = with_environment(
        "",
        &[
            ("TOKEN_BROKER_ENDPOINT", "unix:///x"),
            ("TOKEN_BROKER_CONFIG", "/x"),
            // What Kubernetes sets for a service called token-broker.
            ("TOKEN_BROKER_PORT", "tcp://10.0.0.1:7450"),
            ("TOKEN_BROKER_SERVICE_HOST", "10.0.0.1"),
            ("TOKEN_BROKER_PORT_7450_TCP_ADDR", "10.0.0.1"),
            ("HOME__DIR", "/"),
        ],
    );
    assert_eq!(config.unwrap().server, config::Server::default());
}

#[test]
fn the_file_is_the_flags_then_the_variables() {
    let environment = Environment::of([(config::FILE_VARIABLE, "/from/environment.yaml")]);
    let flag = Path::new("/from/flag.yaml");
    assert_eq!(config::find_file(Some(flag), &environment).as_deref(), Some(flag));
    assert_eq!(config::find_file(None, &environment).as_deref(), Some(Path::new("/from/environment.yaml")));
    let found = config::find_file(None, &Environment::of(NOWHERE));
    assert_eq!(found.is_some(), Path::new(config::DEFAULT_FILE).exists());
}
