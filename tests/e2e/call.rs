//! `CallProvider` and `StreamProviderCall` at web servers that other people wrote: what they say comes back as they said
//! it, whatever its size and its shape.

mod memory;
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
use upstream::{GIBIBYTE, Upstream};

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

    /// The same in HTTP/2, without TLS.
    async fn in_http2(upstream: &Upstream) -> Self {
        Self::of(json!({ "hosts": [upstream.http2.as_ref().unwrap()], "http2_prior_knowledge": true })).await
    }

    /// With that API.
    async fn of(api: Value) -> Self {
        let home = Home::of(&json!({
            "key": PROVIDER,
            "kind": "oidc",
            "issuer": "http://127.0.0.1:9",
            "client_id": "nobody",
            "client_auth": "none",
            "api": api,
        }));
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

fn no_body() -> std::iter::Empty<Bytes> {
    std::iter::empty()
}

#[tokio::test]
async fn every_method_arrives_with_its_body_its_query_and_the_token() {
    let upstream = Upstream::httpbin();
    let desk = Desk::at(&upstream).await;
    let bytes: Vec<u8> = (0..=255).collect();
    for method in ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"] {
        let has_body = ["POST", "PUT", "PATCH"].contains(&method);
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
        let once = v1::RetryPolicy { mode: v1::RetryMode::Never.into(), max_attempts: 1 };
        let call =
            v1::CallProviderRequest { retry: Some(once), ..request("GET", &format!("/status/{status}")) };
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
async fn a_gibibyte_goes_through_each_way_in_flat_memory() {
    let upstream = Upstream::nginx();
    a_gibibyte_goes_through(&upstream, Desk::at(&upstream).await).await;
    a_gibibyte_goes_through(&upstream, Desk::in_http2(&upstream).await).await;
}

async fn a_gibibyte_goes_through(upstream: &Upstream, desk: Desk) {
    // What a call costs at all: connections, buffers, the first pages of code.
    desk.stream(head("GET", "/small.txt"), no_body(), |_| {}).await.unwrap();
    let before = desk.broker.peak_memory();
    let (mut length, began) = (0, tokio::time::Instant::now());
    let (answer, _) = desk
        .stream(head("GET", "/large"), no_body(), |piece| {
            assert!(piece.len() <= CHUNK && piece.iter().all(|byte| *byte == 0));
            length += piece.len() as u64;
        })
        .await
        .unwrap();
    assert_eq!((answer.status, length), (200, GIBIBYTE));
    let (down, down_took) = (desk.broker.peak_memory(), began.elapsed());
    let began = tokio::time::Instant::now();
    let piece = Bytes::from(vec![7; CHUNK]);
    let pieces = std::iter::repeat_n(piece, usize::try_from(GIBIBYTE).unwrap() / CHUNK);
    let (answer, _) = desk.stream(head("PUT", "/put/given"), pieces, |_| {}).await.unwrap();
    assert_eq!(answer.status, 201);
    assert_eq!(std::fs::metadata(upstream.file("given")).unwrap().len(), GIBIBYTE);
    std::fs::remove_file(upstream.file("given")).unwrap();
    let (up, up_took) = (desk.broker.peak_memory(), began.elapsed());
    println!(
        "peak memory: {before} KiB before, {down} KiB after 1 GiB down ({down_took:?}), {up} KiB after 1 GiB up ({up_took:?})"
    );
    // A gibibyte, or a hundredth of one, would show.
    assert!(up - before < 10 * 1024, "{before} KiB, then {down} KiB, then {up} KiB");
}

#[tokio::test]
async fn without_tls_nginx_is_spoken_to_in_http_2_where_the_entry_says_so() {
    let upstream = Upstream::nginx();
    for (desk, protocol) in
        [(Desk::in_http2(&upstream).await, "HTTP/2.0"), (Desk::at(&upstream).await, "HTTP/1.1")]
    {
        let answer = desk.call(request("GET", "/protocol")).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, protocol.as_bytes()));
    }
    let desk = Desk::in_http2(&upstream).await;
    let answer = desk.call(request("GET", "/repeated")).await.unwrap();
    assert_eq!(values(&answer.headers, "x-many"), ["one", "two", "three"]);
    let nothing = desk.call(request("GET", "/nothing")).await.unwrap();
    assert_eq!((nothing.status, nothing.body.len()), (204, 0));
    let asking = v1::CallHead { headers: vec![field("accept-encoding", "gzip")], ..head("GET", "/trailers") };
    let (_, trailers) = desk.stream(asking, no_body(), |_| {}).await.unwrap();
    assert_eq!(values(&trailers, "x-sum"), ["1234", "5678"]);
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
async fn repeated_headers_stay_repeated_and_cookies_stay_away() {
    let upstream = Upstream::nginx();
    let desk = Desk::at(&upstream).await;
    let answer = desk.call(request("GET", "/repeated")).await.unwrap();
    assert_eq!(values(&answer.headers, "x-many"), ["one", "two", "three"]);
    assert_eq!(values(&answer.headers, "set-cookie"), [""; 0]);
    for hop in ["connection", "keep-alive", "transfer-encoding"] {
        assert_eq!(values(&answer.headers, hop), [""; 0], "{hop}");
    }
}

#[tokio::test]
async fn answers_without_a_body_are_answers() {
    let upstream = Upstream::nginx();
    let desk = Desk::at(&upstream).await;
    let nothing = desk.call(request("GET", "/nothing")).await.unwrap();
    assert_eq!((nothing.status, nothing.body.len()), (204, 0));
    let first = desk.call(request("GET", "/small.txt")).await.unwrap();
    let etag = values(&first.headers, "etag")[0].to_owned();
    let again = v1::CallProviderRequest {
        headers: vec![field("if-none-match", &etag)],
        ..request("GET", "/small.txt")
    };
    let unchanged = desk.call(again).await.unwrap();
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    let only_head = desk.call(request("HEAD", "/large")).await.unwrap();
    assert_eq!((only_head.status, only_head.body.len()), (200, 0));
    assert_eq!(values(&only_head.headers, "content-length"), [GIBIBYTE.to_string()]);
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
async fn trailers_come_last() {
    let upstream = Upstream::nginx();
    let desk = Desk::at(&upstream).await;
    // nginx sends trailers after a body in chunks, which it makes of one that it compresses.
    let asking = v1::CallHead { headers: vec![field("accept-encoding", "gzip")], ..head("GET", "/trailers") };
    let mut body = Vec::new();
    let (answer, trailers) =
        desk.stream(asking, no_body(), |piece| body.extend_from_slice(&piece)).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(values(&trailers, "x-sum"), ["1234", "5678"]);
}

#[tokio::test]
async fn what_is_compressed_stays_so() {
    let upstream = Upstream::nginx();
    let desk = Desk::at(&upstream).await;
    let plain = desk.call(request("GET", "/zipped")).await.unwrap();
    assert_eq!(&plain.body[..], b"a small file\n", "nobody asked for compression");
    let asking = v1::CallProviderRequest {
        headers: vec![field("accept-encoding", "gzip")],
        ..request("GET", "/zipped")
    };
    let zipped = desk.call(asking).await.unwrap();
    assert_eq!(values(&zipped.headers, "content-encoding"), ["gzip"]);
    assert_eq!(&zipped.body[..2], b"\x1f\x8b");
    // A bomb stays as small as it came.
    let before = desk.broker.peak_memory();
    let bomb = desk.call(request("GET", "/bomb")).await.unwrap();
    let length: u64 = values(&bomb.headers, "content-length")[0].parse().unwrap();
    assert_eq!(bomb.body.len() as u64, length);
    assert!(length < 1024 * 1024, "{length}");
    let grown = desk.broker.peak_memory() - before;
    println!("a bomb of 64 MiB in {length} bytes: {grown} KiB");
    assert!(grown < 8 * 1024, "{grown} KiB");
}

#[tokio::test]
async fn what_is_compressed_is_undone_where_asked() {
    let upstream = Upstream::nginx();
    let desk = Desk::at(&upstream).await;
    let asking = v1::CallProviderRequest { decompress: true, ..request("GET", "/zipped") };
    let undone = desk.call(asking).await.unwrap();
    assert_eq!(&undone.body[..], b"a small file\n");
    assert_eq!(values(&undone.headers, "content-encoding"), [""; 0]);
    assert_eq!(values(&undone.headers, "vary"), [""; 0]);
    // Trailers come after what was undone, too.
    let asking = v1::CallHead { decompress: true, ..head("GET", "/trailers") };
    let mut body = Vec::new();
    let (_, trailers) = desk.stream(asking, no_body(), |piece| body.extend_from_slice(&piece)).await.unwrap();
    assert_eq!((&body[..], values(&trailers, "x-sum")), (&b"a small file\n"[..], vec!["1234", "5678"]));
}

#[tokio::test]
async fn a_bomb_is_refused_by_ratio_and_by_size_in_flat_memory() {
    let upstream = Upstream::nginx();
    let by_ratio = json!({});
    let by_size = json!({ "max_decompression_ratio": 2000, "max_decompressed_bytes": 32 << 20 });
    for (limits, limit, longest) in [
        (by_ratio, "api.limits.max_decompression_ratio", 2 << 20),
        (by_size, "api.limits.max_decompressed_bytes", 32 << 20),
    ] {
        let desk = Desk::with(&upstream, limits).await;
        desk.stream(head("GET", "/small.txt"), no_body(), |_| {}).await.unwrap();
        let before = desk.broker.peak_memory();
        let asking = v1::CallHead { decompress: true, ..head("GET", "/bomb") };
        let mut length = 0;
        let error = desk.stream(asking, no_body(), |piece| length += piece.len()).await.unwrap_err();
        let grown = desk.broker.peak_memory() - before;
        println!("a bomb of 64 MiB: {error}; {length} bytes came, {grown} KiB of memory");
        assert_eq!((error.code(), reason(&error).as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
        assert!(error.message().contains(limit), "{error}");
        assert!(length <= longest, "{length}");
        assert!(grown < 8 * 1024, "{grown} KiB");
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
            retry: Some(v1::RetryPolicy { mode: v1::RetryMode::Never.into(), max_attempts: 1 }),
            ..request("GET", "/drip")
        };
        desk.call(drip).await
    };
    let (patient, strict) = tokio::join!(slow(1), slow(20));
    let patient = patient.unwrap();
    assert_eq!((patient.status, patient.body.len()), (200, 80));
    let error = strict.unwrap_err();
    assert_eq!(reason(&error), "PROVIDER_UNAVAILABLE", "{error}");
    let metadata = error.get_details_error_info().unwrap().metadata;
    assert_eq!(metadata["limit"], "api.limits.min_bytes_per_second");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_answer() {
    let upstream = Upstream::nginx();
    let desk = Desk::at(&upstream).await;
    let once = v1::RetryPolicy { mode: v1::RetryMode::Never.into(), max_attempts: 1 };
    let gone = v1::CallProviderRequest { retry: Some(once), ..request("GET", "/gone") };
    let error = desk.call(gone).await.unwrap_err();
    assert_eq!(reason(&error), "PROVIDER_UNAVAILABLE", "{error}");
    // In the middle: the file ends while it is sent.
    let mut length = 0;
    let file = upstream.file("large");
    let broken = desk
        .stream(head("GET", "/trickle"), no_body(), |piece| {
            length += piece.len();
            std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(1).unwrap();
        })
        .await
        .unwrap_err();
    assert!(length > 0, "the head and some bytes came before");
    assert_eq!(reason(&broken), "PROVIDER_UNAVAILABLE", "{broken}");
}

#[tokio::test]
async fn ten_thousand_headers_are_refused_and_the_next_call_works() {
    let upstream = Upstream::nginx();
    let desk = Desk::at(&upstream).await;
    let once = v1::RetryPolicy { mode: v1::RetryMode::Never.into(), max_attempts: 1 };
    let call = v1::CallProviderRequest { retry: Some(once), ..request("GET", "/fields") };
    let before = desk.broker.peak_memory();
    let error = desk.call(call).await.unwrap_err();
    let grown = desk.broker.peak_memory() - before;
    println!("{} header fields: {error}; {grown} KiB", upstream::MANY_FIELDS);
    assert_eq!(reason(&error), "PROVIDER_UNAVAILABLE", "{error}");
    assert!(error.message().contains("64 KiB"), "{error}");
    assert!(grown < 8 * 1024, "{grown} KiB");
    assert_eq!(desk.call(request("GET", "/small.txt")).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_redirect_is_the_callers_business() {
    let upstream = Upstream::nginx();
    let desk = Desk::at(&upstream).await;
    let answer = desk.call(request("GET", "/moved")).await.unwrap();
    assert_eq!(answer.status, 302);
    assert_eq!(values(&answer.headers, "location"), ["http://198.51.100.1/elsewhere"]);
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
