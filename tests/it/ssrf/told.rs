//! Values that make a provider's host, all the way: told by a token endpoint or given by an app, kept in the connection's
//! record, and filled in by a whole broker's call. What does not fit is never stored, and nothing is sent for it.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use token_broker::broker::{
    AllowedUrls, AuthorizationResponse, BeginConnect, Broker, Deps, ImportConnection, ProviderCall, Retry,
    Settings, TokenRequest,
};
use token_broker::clock::SystemClock;
use token_broker::connection::Profile;
use token_broker::entropy::SeededEntropy;
use token_broker::error::{Error, Mistake, Rule};
use token_broker::provider::call::CallBody;
use token_broker::provider::oauth::OAuthProvider;
use token_broker::secret::Secret;
use token_broker::store::memory::MemoryStore;
use token_broker::telemetry::Metrics;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::connection;
use super::corpus::{Corpus, Input as _};
use super::network::{Names, OUTSIDE, Server, get, resolved};

const CALLBACK: &str = "https://app.example/callback";

/// A token endpoint that issues new tokens for whatever it is sent, and tells `v` beside them.
struct TokenEndpoint {
    port: u16,
    told: Arc<Mutex<Value>>,
    task: JoinHandle<()>,
}

impl TokenEndpoint {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let told = Arc::new(Mutex::new(Value::Null));
        let tells = told.clone();
        let task = tokio::spawn(async move {
            let mut number = 0;
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut request = Vec::new();
                let mut buffer = [0; 4096];
                while !is_whole(&request) {
                    match socket.read(&mut buffer).await {
                        Ok(0) | Err(_) => break,
                        Ok(count) => request.extend_from_slice(&buffer[..count]),
                    }
                }
                number += 1;
                let body = json!({
                    "access_token": format!("at-{number}"),
                    "refresh_token": format!("rt-{number}"),
                    "token_type": "Bearer",
                    "expires_in": 3600,
                    "v": *tells.lock().unwrap(),
                })
                .to_string();
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        Self { port, told, task }
    }

    fn tells(&self, value: impl Into<Value>) {
        *self.told.lock().unwrap() = value.into();
    }

    /// A provider at this endpoint, which asks these names and may connect to where nobody may be led: what keeps a call
    /// from there is not its address.
    fn provider(
        &self,
        host: &str,
        variables: Value,
        names: &Arc<Names>,
    ) -> Result<OAuthProvider, Vec<Mistake>> {
        let at = |path: &str| format!("http://127.0.0.1:{}/{path}", self.port);
        let entry = json!({
            "key": "acme",
            "client_id": "app",
            "client_auth": "none",
            "allow_http": true,
            "endpoints": {"authorization": at("authorize"), "token": at("token")},
            "variables": variables,
            "api": {
                "hosts": [host],
                "headers": {"X-V": "{v}"},
                "allow_networks": ["127.0.0.1", OUTSIDE.to_string()],
            },
        });
        resolved(entry, names.clone())
    }
}

impl Drop for TokenEndpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether head and body of a form are there.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

fn broker(provider: OAuthProvider) -> Arc<Broker> {
    let store = Arc::new(MemoryStore::default());
    let deps = Deps {
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SeededEntropy::new(1)),
        tokens: store.clone(),
        sessions: store,
        escrow: None,
        providers: vec![Arc::new(provider)],
        metrics: Arc::new(Metrics::default()),
    };
    let only = |url: &str| AllowedUrls { exact: vec![url.to_owned()], is_loopback_allowed: false };
    let public_url = url::Url::parse("http://127.0.0.1:7451").unwrap();
    let settings = Settings {
        public_url,
        return_urls: only("https://app.example/"),
        redirect_uris: only(CALLBACK),
        ended_histories: 0,
    };
    Broker::new(deps, settings)
}

/// Takes over a refresh token, which is refreshed at once.
async fn import(broker: &Arc<Broker>, variables: &[(&str, &str)]) -> Result<Profile, Error> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let import = ImportConnection {
        id: connection(),
        refresh_token: Some(Secret::new("rt-0".to_owned())),
        access_token: None,
        expires_at: None,
        scopes: Vec::new(),
        variables: variables.collect(),
        replace: true,
    };
    broker.import_connection(import).await
}

async fn call(broker: &Arc<Broker>) -> Result<u16, Error> {
    let call = ProviderCall {
        id: connection(),
        wanted: get(),
        body: CallBody::Empty,
        retry: Retry::default(),
        scopes: Vec::new(),
        deadline: None,
    };
    broker.call_whole(call, 1024).await.map(|answer| answer.status)
}

/// The entry's host as the corpus has it, at the port of the servers here wherever the entry itself says scheme and port.
fn at_port(of: &str, port: u16) -> String {
    let of = of.strip_prefix("https://").unwrap_or(of);
    match of.split_once('/') {
        _ if of == "{v}" => of.to_owned(),
        Some((host, path)) => format!("http://{host}:{port}/{path}"),
        None => format!("http://{of}:{port}"),
    }
}

#[tokio::test]
async fn no_value_that_a_provider_tells_leads_elsewhere() {
    let (ours, outside, port) = Server::pair().await;
    let endpoint = TokenEndpoint::start().await;
    let corpus = Corpus::read();
    let (mut unfit, mut answered) = (0, 0);
    for case in corpus.told.iter().chain(&corpus.variable) {
        let variables = json!({"v": {"from": "token", "pattern": case.pattern}});
        let names = Arc::new(Names::default());
        let host = at_port(case.of.as_ref().unwrap(), port);
        let provider = match endpoint.provider(&host, variables, &names) {
            Ok(provider) => broker(provider),
            Err(mistakes) => {
                assert!(!mistakes.is_empty(), "a pattern as loose as that starts nothing: {case:?}");
                continue;
            }
        };
        endpoint.tells(case.input.stretched(case.long));
        let profile = import(&provider, &[]).await.unwrap();
        let outcome = call(&provider).await;
        let asked = names.asked();
        match (&case.rule, outcome) {
            (Some(rule), Err(Error::RequestRefused(refusal))) => {
                let sentence = refusal.to_string();
                assert!(!sentence.contains("evil"), "{sentence}");
                // What does not fit its pattern is not even stored.
                let is_stored = !profile.variables.is_empty();
                let rule = if is_stored { rule.as_str() } else { Rule::VariableMissing.as_str() };
                assert_eq!(refusal.rule().as_str(), rule, "{case:?}");
                assert!(asked.is_empty(), "{case:?}: {asked:?}");
                if !is_stored {
                    assert!(sentence.contains(" v ") && sentence.contains(case.pattern.as_ref().unwrap()));
                    unfit += 1;
                }
            }
            (None, outcome) => {
                let url = url::Url::parse(case.is.as_ref().unwrap()).unwrap();
                assert!(!asked.is_empty(), "{case:?}");
                assert!(
                    asked.iter().all(|name| Some(name.as_str()) == url.host_str()),
                    "{case:?}: {asked:?}"
                );
                match outcome {
                    Ok(status) => {
                        assert_eq!(status, 307, "{case:?}");
                        answered += 1;
                    }
                    // The value is all of the host: nobody listens at the port of HTTPS.
                    Err(Error::Provider { .. }) => assert_eq!(case.of.as_deref(), Some("{v}"), "{case:?}"),
                    Err(other) => panic!("{case:?}: {other:?}"),
                }
            }
            (_, outcome) => panic!("{case:?}: {outcome:?}"),
        }
        assert_eq!(ours.count() + outside.count(), answered, "{case:?}");
        let request = TokenRequest {
            id: connection(),
            scopes: Vec::new(),
            min_ttl: None,
            if_not_equal_to: None,
            allow_stale: false,
        };
        provider.access_token(request).await.expect("the grant is not lost for it");
    }
    assert!(unfit >= 40, "{unfit}");
    // Names below the provider's own domain lead outside here, and its fixed host to ours: the counters count.
    assert!(ours.count() > 0 && outside.count() > 1, "{answered}");
}

#[tokio::test]
async fn calls_follow_the_host_that_the_provider_told_last() {
    let (ours, outside, port) = Server::pair().await;
    let endpoint = TokenEndpoint::start().await;
    let host = format!("http://{{v}}.files.acme.example:{port}/v1");
    let variables = json!({"v": {"from": "token", "pattern": "[a-z]+"}});
    let names = Arc::new(Names::default());
    let broker = broker(endpoint.provider(&host, variables, &names).unwrap());
    let is_at = |name: &str| {
        let head = ours.heads().pop().unwrap();
        let host = format!("host: {name}.files.acme.example:{port}\r\n");
        assert!(head.starts_with("GET /v1/x ") && head.contains(&host), "{head}");
        assert!(head.contains(&format!("x-v: {name}\r\n")), "{head}");
    };

    endpoint.tells("eu");
    let profile = import(&broker, &[]).await.unwrap();
    assert_eq!(profile.variables["v"], "eu");
    assert_eq!(call(&broker).await.unwrap(), 307);
    is_at("eu");

    endpoint.tells("us");
    broker.refresh_connection(connection(), None).await.unwrap();
    assert_eq!(call(&broker).await.unwrap(), 307);
    is_at("us");

    endpoint.tells(Value::Null);
    broker.refresh_connection(connection(), None).await.unwrap();
    assert_eq!(call(&broker).await.unwrap(), 307);
    is_at("us");

    names.asked();
    endpoint.tells(format!("evil.example:{port}/"));
    let profile = broker.refresh_connection(connection(), None).await.unwrap();
    assert!(profile.variables.is_empty(), "the old host is not called with the new token");
    match call(&broker).await {
        Err(Error::RequestRefused(refusal)) => assert_eq!(refusal.rule(), Rule::VariableMissing),
        other => panic!("{other:?}"),
    }
    assert_eq!((ours.count(), outside.count(), names.asked()), (3, 0, Vec::new()));
}

#[tokio::test]
async fn what_an_app_gives_is_checked_kept_and_not_asked_for_again() {
    let (ours, _outside, port) = Server::pair().await;
    let endpoint = TokenEndpoint::start().await;
    let host = format!("http://{{v}}-{{tier}}.files.acme.example:{port}");
    let variables = json!({
        "v": {"from": "input", "pattern": "eu|us", "description": "where the account lives"},
        "tier": {"from": "input", "pattern": "a|b", "default": "a"},
    });
    let broker = broker(endpoint.provider(&host, variables, &Arc::default()).unwrap());
    let begin = |variables: &[(&str, &str)]| BeginConnect {
        id: connection(),
        redirect_uri: Some(CALLBACK.to_owned()),
        variables: variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        ..crate::kit::begin("user-42")
    };
    let connect = async |variables: &[(&str, &str)]| {
        let begun = broker.begin_connect(begin(variables)).await.unwrap();
        let url = url::Url::parse(begun.authorization_url.expose()).unwrap();
        let state = url.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
        let response = AuthorizationResponse {
            state: state.into(),
            code: Some(Secret::new("code".to_owned())),
            iss: None,
            error: None,
        };
        broker.complete_connect(response).await.unwrap()
    };
    let fields = |error: Error| match error {
        Error::InvalidRequest(mistakes) => {
            mistakes.into_iter().map(|mistake| (mistake.field, mistake.message)).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let told = |field: &str, message: &str| vec![(field.to_owned(), message.to_owned())];

    let missing = broker.begin_connect(begin(&[])).await.unwrap_err();
    let is_missing = "is missing (where the account lives); it must be eu|us";
    assert_eq!(fields(missing), told("variables.v", is_missing));
    let unfit = broker.begin_connect(begin(&[("v", "evil.example#")])).await.unwrap_err();
    assert_eq!(fields(unfit), told("variables.v", "does not fit; it must be eu|us"));
    assert_eq!(fields(import(&broker, &[]).await.unwrap_err()), told("variables.v", is_missing));

    assert_eq!(
        connect(&[("v", "eu")]).await.variables.into_iter().collect::<Vec<_>>(),
        [("v".to_owned(), "eu".to_owned())]
    );
    assert_eq!(call(&broker).await.unwrap(), 307);
    assert!(
        ours.heads().pop().unwrap().contains("host: eu-a.files.acme.example"),
        "the default fills the rest"
    );

    assert_eq!(connect(&[("tier", "b")]).await.variables.len(), 2, "what is known need not be given again");
    assert_eq!(call(&broker).await.unwrap(), 307);
    assert!(ours.heads().pop().unwrap().contains("host: eu-b.files.acme.example"));

    let profile = import(&broker, &[("v", "us")]).await.unwrap();
    assert_eq!(profile.variables.len(), 1, "another grant takes nothing over");
    let stored = broker.connection(&connection()).await.unwrap();
    assert_eq!(stored.variables["v"], "us");
}
