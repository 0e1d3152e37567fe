//! Secrets planted in every input of a whole broker, then looked for everywhere they must not be: the log at TRACE,
//! errors, `Debug`, metrics, URLs we emit, and the store's files.
//!
//! Only this thread's log is seen here, and no PKCE verifier: the end-to-end test of the same name in `tests/e2e` reads
//! the log of the real binary, and knows what the provider was told.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use regex::bytes::Regex;
use token_broker::clock::SystemClock;
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::connection_service_client::ConnectionServiceClient;
use token_broker::grpc::proto::v1::provider_service_client::ProviderServiceClient;
use token_broker::grpc::proto::v1::token_broker_service_client::TokenBrokerServiceClient;
use token_broker::sandbox::{Endpoint, Fault, Generation, On};
use token_broker::telemetry::{Capture, Filter, Format, Logging};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use url::Url;

use crate::whole::Whole;

/// Everything that must never be seen: a name to complain about, and all forms of it.
#[derive(Default)]
struct Canaries(Vec<(String, Regex)>);

impl Canaries {
    fn plant(&mut self, name: &str, value: impl Into<String>) -> String {
        let value = value.into();
        self.plant_bytes(name, value.as_bytes());
        value
    }

    fn plant_bytes(&mut self, name: &str, value: &[u8]) {
        assert!(value.len() >= 8, "{name} is too short to be looked for");
        // One expression, so that a large file is read once for all forms.
        let literal = |form: &Vec<u8>| form.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
        let any = forms(value).iter().map(literal).collect::<Vec<_>>().join("|");
        self.0.push((name.to_owned(), Regex::new(&format!("(?s-u){any}")).unwrap()));
    }

    fn assert_absent(&self, place: &str, bytes: &[u8]) {
        for (name, forms) in &self.0 {
            assert!(!forms.is_match(bytes), "{name} is in {place}");
        }
    }

    fn assert_absent_but(&self, place: &str, text: &str, allowed: &str) {
        let rest = Self(self.0.iter().filter(|(name, _)| name != allowed).cloned().collect());
        rest.assert_absent(place, text.as_bytes());
    }
}

/// A secret as it is, in a URL, as `Debug` prints bytes, and inside whatever base64 encodes.
fn forms(value: &[u8]) -> Vec<Vec<u8>> {
    let in_url = url::form_urlencoded::byte_serialize(value).collect::<String>();
    let in_debug = format!("{value:?}").trim_matches(['[', ']']).to_owned();
    let mut forms = vec![value.to_owned(), in_url.into_bytes(), in_debug.into_bytes()];
    for engine in [STANDARD, URL_SAFE] {
        // The text depends on how many bytes stand before the value in its first group of three; groups that are
        // not the value's alone are left out.
        for before in 0..3 {
            let encoded = engine.encode([vec![0; before], value.to_owned()].concat());
            let first = if before == 0 { 0 } else { 4 };
            let end = (before + value.len()) / 3 * 4;
            forms.push(encoded.as_bytes()[first..end].to_owned());
        }
    }
    forms
}

/// One GET, as a browser sends it; the answer's head and body as text.
pub(crate) async fn get(url: &Url) -> String {
    let address = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let target = &url[url::Position::BeforePath..];
    let request = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

pub(crate) fn location(answer: &str) -> Url {
    let line = answer.lines().find(|line| line.to_ascii_lowercase().starts_with("location:"));
    let line = line.unwrap_or_else(|| panic!("leads nowhere: {answer}"));
    Url::parse(line.split_once(':').unwrap().1.trim()).unwrap()
}

pub(crate) fn parameter(url: &Url, name: &str) -> String {
    url.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned()
}

fn every_file(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            every_file(&path, found);
        } else if path.is_file() {
            found.push(path);
        }
    }
}

/// Walks a consent by the public door and plants everything that passes by.
async fn connect(channel: &Channel, canaries: &mut Canaries) -> v1::Connection {
    let mut connections = ConnectionServiceClient::new(channel.clone());
    let asked = v1::BeginConnectRequest {
        provider: "sandbox".into(),
        connection: "walked".into(),
        return_url: "http://127.0.0.1:9/done".into(),
        ..Default::default()
    };
    let begun = connections.begin_connect(asked).await.unwrap().into_inner();
    canaries.plant("session", &begun.session);
    let authorization = Url::parse(&begun.authorization_url).unwrap();
    canaries.plant("state", parameter(&authorization, "state"));
    let callback = location(&get(&authorization).await);
    canaries.plant("authorization code", parameter(&callback, "code"));
    let returned = location(&get(&callback).await);
    let code = canaries.plant("one-time code", parameter(&returned, "code"));
    canaries.assert_absent_but("the return URL", returned.as_str(), "one-time code");
    let finish = v1::FinishConnectRequest { session: begun.session, code };
    connections.finish_connect(finish).await.unwrap().into_inner().connection.unwrap()
}

/// The same with a provider that fails on the way; returns what the browser and the app are told.
async fn walked_into_a_fault(channel: &Channel, canaries: &mut Canaries, connection: &str) -> String {
    let mut connections = ConnectionServiceClient::new(channel.clone());
    let asked = v1::BeginConnectRequest {
        provider: "sandbox".into(),
        connection: connection.into(),
        return_url: "http://127.0.0.1:9/done".into(),
        ..Default::default()
    };
    let begun = connections.begin_connect(asked).await.unwrap().into_inner();
    canaries.plant("session", &begun.session);
    let authorization = Url::parse(&begun.authorization_url).unwrap();
    canaries.plant("state", parameter(&authorization, "state"));
    let callback = location(&get(&authorization).await);
    canaries.plant("authorization code", parameter(&callback, "code"));
    let page = get(&callback).await;
    if !page.to_ascii_lowercase().contains("\nlocation:") {
        return page;
    }
    let returned = location(&page);
    let Some((_, code)) = returned.query_pairs().find(|(key, _)| key == "code") else { return page };
    let code = canaries.plant("one-time code", code);
    canaries.assert_absent_but("the return URL", returned.as_str(), "one-time code");
    let finish = v1::FinishConnectRequest { session: begun.session, code };
    format!("{:?}", connections.finish_connect(finish).await)
}

/// Calls at the provider with canaries in every place, answered and refused, both ways.
async fn called(tokens: &mut TokenBrokerServiceClient<Channel>, canaries: &mut Canaries) -> String {
    let path = canaries.plant("a call's path", "path-canary-4711");
    let value = canaries.plant("a call's query", "query-canary-4711");
    let field = canaries.plant("a call's header", "field-canary-4711");
    let body = canaries.plant("a call's body", "call-body-canary-4711");
    let header = |name: &str| v1::Header { name: name.into(), value: field.clone() };
    let asked = v1::CallProviderRequest {
        provider: "sandbox".into(),
        connection: "walked".into(),
        method: "POST".into(),
        path: format!("/{path}"),
        query: vec![v1::QueryParameter { name: "q".into(), value: value.clone() }],
        headers: vec![header("x-field")],
        body: body.clone().into(),
        ..Default::default()
    };
    let answer = tokens.call_provider(asked.clone()).await.unwrap().into_inner();
    assert!(answer.body.windows(body.len()).any(|part| part == body.as_bytes()), "the sandbox echoes");
    let mut seen = format!("{asked:?} {answer:?}");
    let refused = [
        v1::CallProviderRequest { headers: vec![header("authorization")], ..asked.clone() },
        v1::CallProviderRequest { path: format!("/../{path}"), ..asked.clone() },
    ];
    for asked in refused {
        seen += &format!("{:?}", tokens.call_provider(asked).await.unwrap_err());
    }
    let head = v1::CallHead {
        provider: "sandbox".into(),
        connection: "walked".into(),
        method: "POST".into(),
        path: format!("/{path}"),
        query: vec![v1::QueryParameter { name: "q".into(), value }],
        headers: vec![header("x-field")],
        ..Default::default()
    };
    let chunk = v1::BodyChunk { data: body.into(), end: true };
    let parts = [
        v1::stream_provider_call_request::Part::Head(head),
        v1::stream_provider_call_request::Part::Chunk(chunk),
    ];
    let sent = parts.map(|part| v1::StreamProviderCallRequest { part: Some(part) });
    seen += &format!("{sent:?}");
    let mut came = tokens.stream_provider_call(futures_util::stream::iter(sent)).await.unwrap().into_inner();
    while let Some(message) = came.message().await.unwrap() {
        seen += &format!("{message:?}");
    }
    seen
}

#[tokio::test]
async fn planted_secrets_are_seen_nowhere() {
    let logging = Logging { filter: Filter::parse("trace").unwrap(), format: Format::Json };
    let log = Capture::start(&logging, Arc::new(SystemClock));
    let mut canaries = Canaries::default();
    let whole = Whole::new();
    canaries.plant("client secret", &whole.secret);
    let credentials = format!("{}:{}", whole.sandbox.client_id(), whole.secret);
    canaries.plant("Basic credentials", STANDARD.encode(credentials));
    canaries.plant_bytes("ring key", &whole.ring_key());

    // Found by discovery, so that its answers are read too.
    let discovered = format!(
        "}}, {{key: discovered, kind: oidc, issuer: '{}', client_id: '{}', client_secret: '{}'",
        whole.sandbox.issuer(),
        whole.sandbox.client_id(),
        whole.secret
    );
    let bound = whole.build_with(&discovered).await;
    let (ops, public) = (bound.addresses.ops.unwrap(), bound.addresses.public.unwrap());
    let endpoint = format!("http://{}", bound.addresses.grpc_tcp.unwrap());
    whole.sandbox.register_redirect_uri(whole.sandbox.client_id(), &bound.broker.redirect_uri("sandbox"));
    let (broker, mut ready) = (bound.broker.clone(), bound.readiness.subscribe());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(bound.run(async { drop(stopped.await) }));
    ready.wait_for(|is_ready| *is_ready).await.unwrap();
    let channel = Channel::from_shared(endpoint).unwrap().connect().await.unwrap();
    let mut tokens = TokenBrokerServiceClient::new(channel.clone());
    let mut connections = ConnectionServiceClient::new(channel.clone());
    let mut seen = String::new();

    // A consent, an import, a refresh, and every way a provider can put a secret into a failure.
    let walked = connect(&channel, &mut canaries).await;
    seen += &format!("{walked:?}");
    let grant = whole.sandbox.grants().issue("imported", &["openid", "email"]);
    let imported = v1::ImportConnectionRequest {
        provider: "sandbox".into(),
        connection: "imported".into(),
        refresh_token: canaries.plant("imported refresh token", grant.refresh_token.unwrap().expose()),
        access_token: canaries.plant("imported access token", grant.access_token.expose()),
        ..Default::default()
    };
    seen += &format!("{imported:?}");
    seen += &format!("{:?}", connections.import_connection(imported).await.unwrap().into_inner());
    for name in ["walked", "imported"] {
        let asked = v1::GetAccessTokenRequest {
            provider: "sandbox".into(),
            connection: name.into(),
            ..Default::default()
        };
        let answer = tokens.get_access_token(asked).await.unwrap().into_inner();
        canaries.plant("served access token", &answer.access_token);
        seen += &format!("{answer:?}");
        let asked = v1::RefreshConnectionRequest {
            provider: "sandbox".into(),
            connection: name.into(),
            ..Default::default()
        };
        seen += &format!("{:?}", connections.refresh_connection(asked).await.unwrap().into_inner());
    }
    seen += &called(&mut tokens, &mut canaries).await;
    let body = canaries.plant("a provider's body", "body-canary-4711");
    let description = canaries.plant("error_description", "description-canary-4711");
    let json = format!("{{\"error\":\"invalid_scope\",\"error_description\":\"{description}\"}}");
    let leaky = || {
        [
            Fault::html(502).body("text/html", body.clone()),
            Fault::status(200).body("application/json", format!("{{\"access_token\": \"{body}\"")),
            Fault::status(400).body("application/json", json.clone()),
            Fault::redirect(307, &format!("http://127.0.0.1:9/?x={body}")),
            Fault::truncated(),
            Fault::drop_answer(),
            Fault::oauth_error("invalid_grant"),
        ]
        .map(Fault::without_processing)
    };
    let grants = whole.sandbox.grants();
    assert!(grants.list().iter().all(|grant| grant.newest > Some(Generation(1))), "{grants:?}: all rotated");
    let script = whole.sandbox.script();
    for fault in leaky() {
        script.next(On::code_exchange(), fault);
        seen += &walked_into_a_fault(&channel, &mut canaries, "no-tokens").await;
    }
    for fault in leaky() {
        script.next(Endpoint::Discovery, fault);
        let asked = v1::BeginConnectRequest {
            provider: "discovered".into(),
            connection: "nowhere".into(),
            return_url: "http://127.0.0.1:9/done".into(),
            ..Default::default()
        };
        seen += &format!("{:?}", connections.begin_connect(asked).await.unwrap_err());
        script.clear();
    }
    for fault in leaky() {
        script.next(Endpoint::UserInfo, fault);
        seen += &walked_into_a_fault(&channel, &mut canaries, "no-account").await;
        script.clear();
    }
    for (n, fault) in leaky().into_iter().enumerate() {
        let connection = format!("not-revoked-{n}");
        let grant = whole.sandbox.grants().issue(&connection, &["openid"]);
        let import = v1::ImportConnectionRequest {
            provider: "sandbox".into(),
            connection: connection.clone(),
            refresh_token: canaries.plant("a refresh token", grant.refresh_token.unwrap().expose()),
            ..Default::default()
        };
        connections.import_connection(import).await.unwrap();
        script.next(Endpoint::Revoke, fault);
        let ended = v1::DisconnectRequest { provider: "sandbox".into(), connection, ..Default::default() };
        seen += &format!("{:?}", connections.disconnect(ended).await);
        script.clear();
    }
    for fault in leaky() {
        script.next(On::refresh(), fault);
        let asked = v1::RefreshConnectionRequest {
            provider: "sandbox".into(),
            connection: "imported".into(),
            ..Default::default()
        };
        let status = connections.refresh_connection(asked).await.unwrap_err();
        seen += &format!("{status:?} {status}");
    }
    let made_up = "?state=state-canary-4711&code=code-canary-4711&error_description=description-canary-4711";
    seen += &get(&Url::parse(&format!("http://{public}/callback/sandbox{made_up}")).unwrap()).await;
    seen += &get(&Url::parse(&format!("http://{ops}/readyz?verbose")).unwrap()).await;
    let wrong = v1::CompleteConnectRequest {
        state: canaries.plant("a made-up state", "state-canary-4711"),
        code: canaries.plant("a made-up code", "code-canary-4711"),
        error_description: description,
        ..Default::default()
    };
    seen += &format!("{:?}", connections.complete_connect(wrong).await.unwrap_err());
    let listed = connections.list_connections(v1::ListConnectionsRequest::default()).await.unwrap();
    seen += &format!("{:?}", listed.into_inner());
    let mut providers = ProviderServiceClient::new(channel.clone());
    let shown = v1::GetProviderRequest { provider: "sandbox".into() };
    seen += &format!("{:?}", providers.get_provider(shown).await.unwrap().into_inner());
    let walked = v1::DisconnectRequest {
        provider: "sandbox".into(),
        connection: "walked".into(),
        ..Default::default()
    };
    seen += &format!("{:?}", connections.disconnect(walked).await.unwrap().into_inner());

    broker.sweep().await.unwrap();
    let metrics = get(&Url::parse(&format!("http://{ops}/metrics")).unwrap()).await;
    for series in ["token_broker_refreshes_total", "token_broker_call_bytes_total"] {
        assert!(metrics.contains(series), "there is something to look through");
    }
    drop((channel, tokens, connections, providers));
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(60), running).await.unwrap().unwrap().unwrap();

    for token in grants.tokens() {
        canaries.plant("a token of the sandbox", token.expose());
    }
    let log = log.text();
    assert!(log.contains("\"refreshed\""), "there is something to look through: {log}");
    canaries.assert_absent("the log", log.as_bytes());
    canaries.assert_absent("metrics", metrics.as_bytes());
    canaries.assert_absent("answers and errors in Debug form", seen.as_bytes());
    let mut files = Vec::new();
    every_file(&whole.directory.path().join("store"), &mut files);
    assert!(files.len() > 1, "{files:?}");
    // Not even whose tokens they are stands in the clear on disk.
    canaries.plant("a connection's name", "imported");
    for file in files {
        canaries.assert_absent(&file.display().to_string(), &std::fs::read(&file).unwrap());
    }
}

#[test]
fn a_secret_that_got_out_is_found() {
    let mut canaries = Canaries::default();
    canaries.plant("a token", "token/canary");
    let basic = STANDARD.encode("client:token/canary");
    for leak in ["GET /?t=token/canary", "GET /?t=token%2Fcanary", &basic, &format!("{:?}", b"-token/canary")]
    {
        let found = std::panic::catch_unwind(|| canaries.assert_absent("a log", leak.as_bytes()));
        let complaint = found.unwrap_err().downcast::<String>().unwrap();
        assert_eq!(*complaint, "a token is in a log", "{leak}");
    }
    canaries.assert_absent("a log", b"GET /?t=token%2F");
}
