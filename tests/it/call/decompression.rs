//! Answers that come compressed: as they are, or undone where the caller asks.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING};
use token_broker::grpc::proto::v1;
use token_broker::sandbox::{Endpoint, Fault};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::stream::read;
use super::{Desk, get, header, json, reason};

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn compressed(body: &[u8]) -> Fault {
    Fault::status(200).body("text/plain", gzip(body)).header(CONTENT_ENCODING, "gzip")
}

fn asking(path: &str) -> v1::CallProviderRequest {
    v1::CallProviderRequest { decompress: true, ..get(path) }
}

fn has_field(headers: &[v1::Header], name: &str) -> bool {
    headers.iter().any(|field| field.name == name)
}

#[tokio::test]
async fn an_answer_is_decompressed_where_asked_and_nowhere_else() {
    let desk = Desk::new().await;
    let body = b"a body of words, and words, and words".repeat(100);
    desk.whole.sandbox.script().next_n(3, Endpoint::Echo, compressed(&body));

    let plain = desk.call(get("/x")).await.unwrap();
    assert_eq!(plain.body, gzip(&body));
    assert!(plain.headers.contains(&header("content-encoding", "gzip")));

    let undone = desk.call(asking("/x")).await.unwrap();
    assert_eq!(undone.body, body);
    assert!(!has_field(&undone.headers, "content-encoding") && !has_field(&undone.headers, "content-length"));
    assert!(undone.headers.contains(&header("content-type", "text/plain")));

    let (head, streamed) = read(&desk, v1::CallHead { decompress: true, ..head() }).await.unwrap();
    assert_eq!(streamed, body);
    assert!(!has_field(&head.headers, "content-encoding"));
    desk.stop().await;
}

#[tokio::test]
async fn what_a_compressed_body_says_to_the_broker_is_heard_and_the_bytes_pass_as_they_came() {
    let entry = ", rate: {throttled: [{status: [400], path: /error/code, matches: slow_down}, \
         {status: [403], matches: quota exceeded}]}, \
         errors: [{at: api, status: [400], path: /error/code, is: [token_expired], means: token_bad}]";
    let desk = Desk::with(entry).await;
    let fault = |status: u16, body: &[u8]| {
        Fault::status(status).body("application/json", gzip(body)).header(CONTENT_ENCODING, "gzip")
    };
    let script = desk.whole.sandbox.script();
    let no_retry = Some(v1::RetryPolicy { mode: v1::RetryMode::Never.into(), max_attempts: 0 });

    script.next(Endpoint::Echo, fault(400, br#"{"error":{"code":"token_expired"}}"#));
    let answer = desk.call(get("/x")).await.unwrap();
    assert_eq!((answer.status, answer.attempts), (200, 2), "the token is renewed");

    let unheard = br#"{"error":{"code":"something_else"}}"#;
    script.next(Endpoint::Echo, fault(400, unheard));
    let answer = desk.call(get("/x")).await.unwrap();
    assert_eq!((answer.status, answer.body.as_ref()), (400, gzip(unheard).as_slice()));
    assert!(answer.headers.contains(&header("content-encoding", "gzip")));

    for (status, body) in
        [(400, &br#"{"error":{"code":"slow_down"}}"#[..]), (403, b"your daily quota exceeded, sorry")]
    {
        let slow = fault(status, body).retry_after(Duration::from_secs(60));
        // Each at a connection of its own: the pause is kept for those who call next.
        let connection = format!("user-{status}");
        desk.connect(&connection).await;
        let call =
            || v1::CallProviderRequest { connection: connection.clone(), retry: no_retry, ..get("/x") };
        script.next(Endpoint::Echo, slow);
        let answer = desk.call(call()).await.unwrap();
        assert_eq!((u32::from(status), answer.body.as_ref()), (answer.status, gzip(body).as_slice()));
        let mut hurried = tonic::Request::new(call());
        hurried.set_timeout(Duration::from_secs(30));
        let held_back = desk.client().call_provider(hurried).await.unwrap_err();
        assert_eq!(reason(&held_back), "PROVIDER_RATE_LIMITED");
    }
    desk.stop().await;
}

#[tokio::test]
async fn an_answer_that_cannot_be_undone_is_not_remembered() {
    let desk = Desk::with(", api: {cache: {max_entries: 10}}").await;
    let script = desk.whole.sandbox.script();
    let remembered = |body: Vec<u8>| {
        let fault = Fault::status(200).body("text/plain", body).header(CONTENT_ENCODING, "gzip");
        fault.header(CACHE_CONTROL, "max-age=600")
    };
    let body = b"words, and words".repeat(100);
    let whole = gzip(&body);
    script.next(Endpoint::Echo, remembered(whole[..whole.len() - 6].to_vec()));
    script.next(Endpoint::Echo, remembered(whole));
    let answer = match desk.call(asking("/x")).await {
        Ok(answer) => answer,
        Err(_) => desk.call(asking("/x")).await.unwrap(),
    };
    assert_eq!(answer.body, body);
    assert_eq!(answer.answer_source(), v1::AnswerSource::Provider);
    desk.stop().await;
}

fn head() -> v1::CallHead {
    v1::CallHead {
        provider: "sandbox".into(),
        connection: "user-42".into(),
        method: "GET".into(),
        path: "/x".into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn codings_that_can_be_undone_are_asked_for_unless_the_caller_names_its_own() {
    let desk = Desk::new().await;
    let sent = |answer: &v1::CallProviderResponse| {
        let fields = json(answer)["headers"].as_array().unwrap().clone();
        let field = fields.into_iter().find(|pair| pair[0] == "accept-encoding");
        field.map(|pair| pair[1].as_str().unwrap().to_owned())
    };
    assert_eq!(sent(&desk.call(get("/x")).await.unwrap()), None);
    assert_eq!(sent(&desk.call(asking("/x")).await.unwrap()).as_deref(), Some("gzip, deflate"));
    let own = v1::CallProviderRequest { headers: vec![header("accept-encoding", "br")], ..asking("/x") };
    assert_eq!(sent(&desk.call(own).await.unwrap()).as_deref(), Some("br"));
    desk.stop().await;
}

#[tokio::test]
async fn an_answer_that_swells_beyond_a_limit_is_refused_by_its_name() {
    let entry = ", api: {limits: {max_decompressed_bytes: 3000000}}";
    let desk = Desk::with(entry).await;
    let (monotonous, long) = (vec![0; 2_900_000], varied(3_100_000));
    for (body, limit, most) in [
        (monotonous, "api.limits.max_decompression_ratio", "100"),
        (long, "api.limits.max_decompressed_bytes", "3000000"),
    ] {
        desk.whole.sandbox.script().next_n(2, Endpoint::Echo, compressed(&body));
        let unary = desk.call(asking("/x")).await.unwrap_err();
        let streamed = read(&desk, v1::CallHead { decompress: true, ..head() }).await.unwrap_err();
        for status in [unary, streamed] {
            assert_eq!(
                (status.code(), reason(&status).as_str()),
                (Code::ResourceExhausted, "MESSAGE_TOO_LARGE")
            );
            assert!(status.message().contains(limit), "{}", status.message());
            let info = status.get_details_error_info().unwrap();
            assert_eq!((info.metadata["limit"].as_str(), info.metadata["most"].as_str()), (limit, most));
        }
    }
    assert_eq!(desk.calls().len(), 4, "no call is made again for that");
    desk.stop().await;
}

/// Bytes that compress, but not a hundredfold.
fn varied(length: usize) -> Vec<u8> {
    let mut state = 7_u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b"abcdefghijklmnop"[(state >> 28) as usize]
    })
    .take(length)
    .collect()
}
