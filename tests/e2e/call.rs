//! `CallProvider` and `StreamProviderCall` at web servers that other people wrote: what they say comes back as they said
//! it, whatever its size and its shape.

mod memory;
mod nginx;
mod trust;
mod upstream;

use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::stream_provider_call_request::Part as Sent;
use token_broker::grpc::proto::v1::stream_provider_call_response::Part as Came;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use upstream::{Upstream, Way};

use crate::broker::{Broker, Home, PROVIDER};

const TOKEN: &str = "an-access-token-for-calls";

/// As much of a body as fits into one message.
const CHUNK: usize = 64 * 1024;

/// A broker whose provider's API is `upstream`, with one connection.
struct Desk {
    broker: Broker,
    _home: Home,
}

impl Desk {
    async fn at(upstream: &Upstream) -> Self {
        Self::with(upstream, json!({})).await
    }

    async fn with(upstream: &Upstream, limits: Value) -> Self {
        Self::of(json!({ "hosts": [upstream.base], "limits": limits })).await
    }

    /// With that API.
    async fn of(api: Value) -> Self {
        Self::in_home(home(api)).await
    }

    /// With nginx as its API, come to this way.
    async fn by(way: Way, upstream: &Upstream) -> Self {
        Self::by_within(way, upstream, json!({})).await
    }

    async fn by_within(way: Way, upstream: &Upstream, limits: Value) -> Self {
        let mut api = upstream.api(way);
        api["limits"] = limits;
        Self::in_home(home(api).trusting(&upstream.authority())).await
    }

    async fn in_home(home: Home) -> Self {
        let broker = home.start();
        broker.import("user-42", TOKEN).await;
        Self { broker, _home: home }
    }

    async fn call(&self, request: v1::CallProviderRequest) -> Result<v1::CallProviderResponse, Status> {
        let mut tokens = self.broker.tokens().await.max_decoding_message_size(64 * 1024 * 1024);
        tokens.call_provider(request).await.map(tonic::Response::into_inner)
    }

    /// One streamed call; `came` is given every piece of the answer's body. Answers its head and its trailers.
    async fn stream(
        &self,
        head: v1::CallHead,
        body: impl Iterator<Item = Bytes> + Send + 'static,
        mut came: impl FnMut(Bytes),
    ) -> Result<(v1::AnswerHead, Vec<v1::Header>), Status> {
        let part = |part| v1::StreamProviderCallRequest { part: Some(part) };
        let chunks = body.map(move |data| part(Sent::Chunk(v1::BodyChunk { data, end: false })));
        let end = part(Sent::Chunk(v1::BodyChunk { data: Bytes::new(), end: true }));
        let messages = std::iter::once(part(Sent::Head(head))).chain(chunks).chain([end]);
        let sent = futures_util::stream::iter(messages);
        let mut answer = self.broker.tokens().await.stream_provider_call(sent).await?.into_inner();
        let (mut head, mut trailers) = (None, Vec::new());
        while let Some(message) = answer.next().await {
            match message?.part.unwrap() {
                Came::Head(said) => head = Some(said),
                Came::Chunk(chunk) => came(chunk.data),
                Came::Trailers(said) => trailers = said.trailers,
            }
        }
        Ok((head.expect("an answer has a head"), trailers))
    }
}

/// What a broker needs whose provider has that API.
fn home(api: Value) -> Home {
    Home::of(&json!({
        "key": PROVIDER,
        "kind": "oidc",
        "issuer": "http://127.0.0.1:9",
        "client_id": "nobody",
        "client_auth": "none",
        "api": api,
    }))
}

fn request(method: &str, path: &str) -> v1::CallProviderRequest {
    v1::CallProviderRequest {
        provider: PROVIDER.into(),
        connection: "user-42".into(),
        method: method.into(),
        path: path.into(),
        ..Default::default()
    }
}

fn head(method: &str, path: &str) -> v1::CallHead {
    v1::CallHead {
        provider: PROVIDER.into(),
        connection: "user-42".into(),
        method: method.into(),
        path: path.into(),
        ..Default::default()
    }
}

fn field(name: &str, value: &str) -> v1::Header {
    v1::Header { name: name.into(), value: value.into() }
}

/// Every value of a header field, in order.
fn values<'a>(headers: &'a [v1::Header], name: &str) -> Vec<&'a str> {
    headers.iter().filter(|field| field.name == name).map(|field| field.value.as_str()).collect()
}

/// Asked once, whatever comes of it.
fn once(call: v1::CallProviderRequest) -> v1::CallProviderRequest {
    let retry = Some(v1::RetryPolicy { mode: v1::RetryMode::Never.into(), max_attempts: 1 });
    v1::CallProviderRequest { retry, ..call }
}

fn no_body() -> std::iter::Empty<Bytes> {
    std::iter::empty()
}

#[tokio::test]
async fn every_method_arrives_with_its_body_its_query_and_the_token() {
    let upstream = Upstream::httpbin();
    let desk = Desk::at(&upstream).await;
    let bytes: Vec<u8> = (0..=255).collect();
    for method in ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"] {
        let has_body = ["POST", "PUT", "PATCH", "DELETE"].contains(&method);
        let answer = desk
            .call(v1::CallProviderRequest {
                query: vec![
                    v1::QueryParameter { name: "a".into(), value: "1 & 2".into() },
                    v1::QueryParameter { name: "a".into(), value: "é".into() },
                ],
                headers: vec![field("content-type", "application/octet-stream"), field("x-own", "mine")],
                body: if has_body { bytes.clone() } else { Vec::new() },
                ..request(method, "/anything/a%20b")
            })
            .await
            .unwrap();
        assert_eq!((answer.status, answer.attempts), (200, 1), "{method}");
        if method == "HEAD" || method == "OPTIONS" {
            assert!(answer.body.is_empty(), "{method}");
            let length: usize = values(&answer.headers, "content-length")[0].parse().unwrap();
            assert_eq!(length > 0, method == "HEAD", "{method}");
            if method == "OPTIONS" {
                let allowed = values(&answer.headers, "allow").join(", ");
                for method in ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"] {
                    assert!(allowed.split(", ").any(|other| other == method), "{allowed}");
                }
            }
            continue;
        }
        let echo: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(echo["method"], method);
        assert_eq!(echo["args"]["a"], json!(["1 & 2", "é"]), "{method}");
        assert_eq!(echo["headers"]["Authorization"], format!("Bearer {TOKEN}"), "{method}");
        assert_eq!(echo["headers"]["X-Own"], "mine", "{method}");
        if has_body {
            let base64 = echo["data"].as_str().unwrap().rsplit(',').next().unwrap().to_owned();
            let data = base64::engine::general_purpose::STANDARD.decode(base64).unwrap();
            assert_eq!(data, bytes, "{method}");
        }
    }
}

#[tokio::test]
async fn every_status_is_an_answer() {
    let upstream = Upstream::httpbin();
    let desk = Desk::at(&upstream).await;
    for status in
        [200, 201, 202, 204, 301, 302, 304, 400, 401, 403, 404, 409, 418, 422, 500, 501, 502, 503, 504, 429]
    {
        let call = once(request("GET", &format!("/status/{status}")));
        assert_eq!(desk.call(call).await.unwrap().status, status);
    }
}

#[tokio::test]
async fn binary_and_chunked_bodies_come_back_as_they_are() {
    let upstream = Upstream::httpbin();
    let desk = Desk::at(&upstream).await;
    let answer = desk.call(request("GET", "/image/png")).await.unwrap();
    assert_eq!(values(&answer.headers, "content-type"), ["image/png"]);
    assert_eq!(&answer.body[..8], b"\x89PNG\r\n\x1a\n");
    let same = |path: &str| v1::CallProviderRequest {
        query: vec![v1::QueryParameter { name: "seed".into(), value: "7".into() }],
        ..request("GET", path)
    };
    // The same bytes, once with a length and once in chunks.
    let whole = desk.call(same("/bytes/100000")).await.unwrap();
    let chunked = desk.call(same("/stream-bytes/100000")).await.unwrap();
    assert_eq!(whole.body.len(), 100_000);
    assert_eq!(values(&whole.headers, "content-length"), ["100000"]);
    assert_eq!(values(&chunked.headers, "transfer-encoding"), [""; 0], "a hop's own business");
    assert_eq!(chunked.body.len(), 100_000);
    // A body that is sent in chunks arrives whole.
    let pieces = (0..40).map(|n| Bytes::from(vec![b'a' + (n % 26); 1000]));
    let mut body = Vec::new();
    let (answer, _) =
        desk.stream(head("POST", "/post"), pieces, |piece| body.extend_from_slice(&piece)).await.unwrap();
    assert_eq!(answer.status, 200);
    let echo: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(echo["data"].as_str().unwrap().len(), 40_000);
}

#[tokio::test]
async fn a_host_that_does_not_speak_http_2_is_told_of_with_the_key_to_change() {
    // What each says to a preface is its own.
    for upstream in [Upstream::nginx(), Upstream::httpbin(), Upstream::hinting()] {
        let desk = Desk::of(json!({ "hosts": [upstream.base], "http2_prior_knowledge": true })).await;
        let error = desk.call(request("GET", "/small.txt")).await.unwrap_err();
        assert_eq!(reason(&error), "PROVIDER_UNAVAILABLE", "{error}");
        assert!(error.message().contains("api.http2_prior_knowledge"), "{error}");
    }
}

#[tokio::test]
async fn informational_answers_are_not_taken_for_the_answer() {
    let upstream = Upstream::hinting();
    let desk = Desk::at(&upstream).await;
    let answer = desk.call(request("POST", "/")).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"done"[..]));
    assert_eq!(values(&answer.headers, "x-final"), ["yes"]);
}

#[tokio::test]
async fn a_body_without_an_end_is_cut_at_a_limit_in_flat_memory() {
    let upstream = Upstream::hinting();
    let most = 32 << 20;
    let desk = Desk::with(&upstream, json!({ "max_response_bytes": most })).await;
    desk.stream(head("GET", "/"), no_body(), |_| {}).await.unwrap();
    let before = desk.broker.peak_memory();
    let mut length = 0;
    let streamed =
        desk.stream(head("GET", "/endless"), no_body(), |piece| length += piece.len()).await.unwrap_err();
    let grown = desk.broker.peak_memory() - before;
    println!("a body without an end: {length} bytes came, {grown} KiB of memory");
    assert!(streamed.message().contains("api.limits.max_response_bytes"), "{streamed}");
    assert!((most / 2..=most).contains(&length), "{length}");
    assert!(grown < 8 * 1024, "{grown} KiB");
    // An answer in one message is cut where that ends.
    let whole = desk.call(request("GET", "/endless")).await.unwrap_err();
    for error in [streamed, whole] {
        assert_eq!(
            (error.code(), reason(&error).as_str()),
            (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_trickle_is_cut_off_and_says_so() {
    let upstream = Upstream::httpbin();
    let desk = Desk::with(&upstream, json!({ "idle_timeout": "500ms" })).await;
    // One byte, and then nothing for a minute.
    let drip = v1::CallProviderRequest {
        query: [("numbytes", "2"), ("duration", "120"), ("delay", "0")]
            .map(|(name, value)| v1::QueryParameter { name: name.into(), value: value.into() })
            .into(),
        ..request("GET", "/drip")
    };
    let error = desk.call(drip).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert_eq!(reason(&error), "PROVIDER_UNAVAILABLE");
}

#[tokio::test]
async fn an_answer_may_be_as_slow_as_the_entry_says_and_no_slower() {
    let upstream = Upstream::httpbin();
    let slow = async |least: u64| {
        let desk = Desk::with(&upstream, json!({ "min_bytes_per_second": least, "timeout": "10m" })).await;
        // A byte every 500 ms.
        let drip = v1::CallProviderRequest {
            query: [("numbytes", "80"), ("duration", "40"), ("delay", "0")]
                .map(|(name, value)| v1::QueryParameter { name: name.into(), value: value.into() })
                .into(),
            ..request("GET", "/drip")
        };
        desk.call(once(drip)).await
    };
    let (patient, strict) = tokio::join!(slow(1), slow(20));
    let patient = patient.unwrap();
    assert_eq!((patient.status, patient.body.len()), (200, 80));
    let error = strict.unwrap_err();
    assert_eq!(reason(&error), "PROVIDER_UNAVAILABLE", "{error}");
    let metadata = error.get_details_error_info().unwrap().metadata;
    assert_eq!(metadata["limit"], "api.limits.min_bytes_per_second");
}

fn reason(error: &Status) -> String {
    error.get_details_error_info().map(|info| info.reason).unwrap_or_else(|| format!("{error:?}"))
}

/// The proxy keeps no secret of the caller's: what the log says of a call.
#[tokio::test]
async fn a_call_is_logged_without_what_it_carries() {
    let upstream = Upstream::httpbin();
    let desk = Desk::at(&upstream).await;
    let places = ["query", "header", "body", "path"];
    let canaries: BTreeMap<&str, String> = places.map(|place| (place, format!("canary-{place}"))).into();
    let call = v1::CallProviderRequest {
        query: vec![v1::QueryParameter { name: "q".into(), value: canaries["query"].clone() }],
        headers: vec![field("x-own", &canaries["header"])],
        body: canaries["body"].clone().into(),
        ..request("POST", &format!("/anything/{}", canaries["path"]))
    };
    assert_eq!(desk.call(call).await.unwrap().status, 200);
    let log = desk.broker.stop();
    for (place, canary) in canaries.into_iter().chain([("token", TOKEN.to_owned())]) {
        assert!(!log.contains(&canary), "the {place} is in the log:\n{log}");
    }
}
