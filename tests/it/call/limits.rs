//! What a provider may ask for and what it may cost: pauses, failures, sizes, silence.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use token_broker::clock::{Clock as _, SystemClock};
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::connection_service_client::ConnectionServiceClient;
use token_broker::grpc::proto::v1::stream_provider_call_request::Part as Sent;
use token_broker::grpc::proto::v1::stream_provider_call_response::Part as Came;
use token_broker::sandbox::{Endpoint, Exchange, Fault};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::stream::{called, chunk, head, message};
use super::{Desk, get, json, post, reason};

/// Every way to ask for a minute's pause.
fn throttled() -> Vec<(&'static str, Fault)> {
    let minute = Duration::from_secs(60);
    let at = SystemClock.now() + minute;
    let field = |name: &'static str, status: u16, value: String| {
        Fault::status(status).header(http::HeaderName::from_static(name), &value)
    };
    vec![
        ("seconds", Fault::status(429).retry_after(minute)),
        ("an HTTP date", Fault::status(429).retry_after_at(at)),
        ("epoch seconds", field("x-reset", 429, (at.as_millis() / 1000).to_string())),
        ("epoch milliseconds", field("x-reset-ms", 429, at.as_millis().to_string())),
        ("403 as throttle", field("x-left", 403, "0".into()).retry_after(minute)),
        (
            "a pattern in the body",
            Fault::status(400)
                .body("application/json", r#"{"error":{"code":"slow_down"}}"#)
                .retry_after(minute),
        ),
    ]
}

const RATE: &str = ", rate: {throttled: [{status: [403], header: {name: x-left, value: '0'}}, \
     {status: [400], path: /error/code, matches: slow_down}], \
     wait: [{header: x-reset, unit: epoch_seconds}, {header: x-reset-ms, unit: epoch_milliseconds}]}";

#[tokio::test]
async fn a_stream_has_the_time_that_the_entry_gives_it_and_no_more() {
    let desk = Desk::with(", api: {limits: {stream_timeout: 300ms}}").await;
    let hold = desk.whole.sandbox.script().hold_every_request(Endpoint::Echo);
    let sent = vec![message(Sent::Head(head("POST", "/slow"))), chunk("a", true)];
    let status = called(&desk, sent).await.unwrap_err();
    assert_eq!(reason(&status), "PROVIDER_UNAVAILABLE");
    assert_eq!(desk.calls().len(), 1, "what may have been done is not done again");
    hold.release();
    desk.stop().await;
}

#[tokio::test]
async fn a_pause_that_is_longer_than_the_caller_can_wait_is_told() {
    let desk = Desk::with(RATE).await;
    for (how, fault) in throttled() {
        // Each at a connection of its own: the pause is kept for those who call next.
        desk.connect(&how.replace(' ', "-")).await;
        desk.whole.sandbox.script().next(Endpoint::Echo, fault);
        let asked = || {
            let request = v1::CallProviderRequest { connection: how.replace(' ', "-"), ..get("/x") };
            let mut request = Request::new(request);
            request.set_timeout(Duration::from_secs(5));
            request
        };
        let before = desk.calls().len();
        for _ in 0..3 {
            let status = desk.client().call_provider(asked()).await.unwrap_err();
            assert_eq!(
                (status.code(), reason(&status).as_str()),
                (Code::ResourceExhausted, "PROVIDER_RATE_LIMITED")
            );
            let wait = status.get_details_retry_info().unwrap().retry_delay.unwrap();
            assert!((50..=61).contains(&wait.as_secs()), "{how}: {wait:?}");
        }
        assert_eq!(desk.calls().len() - before, 1, "{how}: it was left alone after the first");
    }
    desk.stop().await;
}

#[tokio::test]
async fn a_short_pause_is_waited_for() {
    let desk = Desk::new().await;
    desk.whole.sandbox.script().next(Endpoint::Echo, Fault::status(429).retry_after(Duration::from_secs(1)));
    let answer = desk.call(post("/x", b"once more")).await.unwrap();
    assert_eq!((answer.status, answer.attempts), (200, 2));
    assert_eq!(json(&answer)["body"], "once more");
    desk.stop().await;
}

#[tokio::test]
async fn a_stream_waits_for_its_turn_as_long_as_its_caller_does() {
    let desk = Desk::with(", api: {limits: {timeout: 300ms}}").await;
    desk.whole.sandbox.script().next(Endpoint::Echo, Fault::status(429).retry_after(Duration::from_secs(1)));
    let sent = futures_util::stream::iter([message(Sent::Head(head("GET", "/x")))]);
    let mut request = Request::new(sent);
    request.set_timeout(Duration::from_secs(60));
    let mut answer = desk.client().stream_provider_call(request).await.unwrap().into_inner();
    let Some(Came::Head(head)) = answer.message().await.unwrap().unwrap().part else { panic!("no head") };
    assert_eq!((head.status, head.attempts), (200, 2));
    drop(answer);
    desk.stop().await;
}

#[tokio::test]
async fn a_caller_that_wants_no_repetition_gets_the_429() {
    let desk = Desk::new().await;
    desk.whole.sandbox.script().next(Endpoint::Echo, Fault::status(429).retry_after(Duration::from_secs(1)));
    let retry = Some(v1::RetryPolicy { mode: v1::RetryMode::Never.into(), max_attempts: 0 });
    let answer = desk.call(v1::CallProviderRequest { retry, ..get("/x") }).await.unwrap();
    assert_eq!((answer.status, answer.attempts), (429, 1));
    desk.stop().await;
}

#[tokio::test]
async fn what_the_provider_did_not_do_may_be_asked_for_again_under_the_same_id() {
    let refused = r#", errors: [{at: api, status: [400], path: /error, is: [expired], means: token_bad}]"#;
    let retry = Some(v1::RetryPolicy { mode: v1::RetryMode::Never.into(), max_attempts: 0 });
    let desk = Desk::with(refused).await;
    let order =
        |id: &str| v1::CallProviderRequest { request_id: id.into(), retry, ..post("/orders", b"one") };
    let script = desk.whole.sandbox.script();
    script.next(Endpoint::Echo, Fault::status(429).retry_after(Duration::ZERO));
    assert_eq!(desk.call(order("a")).await.unwrap().status, 429);
    assert_eq!(desk.call(order("a")).await.unwrap().status, 200);
    // Once with the token that was cached, once with its successor.
    for _ in 0..2 {
        let bad = Fault::status(400).body("application/json", r#"{"error":"expired"}"#);
        script.next(Endpoint::Echo, bad);
    }
    assert_eq!(desk.call(order("b")).await.unwrap().status, 400);
    assert_eq!(desk.call(order("b")).await.unwrap().status, 200);
    desk.stop().await;
}

#[tokio::test]
async fn only_what_may_be_repeated_is_repeated_after_a_failure() {
    let idempotent = v1::RetryPolicy { mode: v1::RetryMode::Idempotent.into(), max_attempts: 5 };
    let never = v1::RetryPolicy { mode: v1::RetryMode::Never.into(), max_attempts: 0 };
    let table = [
        (get("/x"), 3),
        (v1::CallProviderRequest { retry: Some(never), ..get("/x") }, 1),
        (post("/x", b"a"), 1),
        (v1::CallProviderRequest { retry: Some(idempotent), ..post("/x", b"a") }, 5),
        (v1::CallProviderRequest { request_id: "key-1".into(), ..post("/x", b"a") }, 3),
    ];
    for fault in [Fault::status(503), Fault::drop_request()] {
        let desk = Desk::with(", api: {limits: {breaker: {failures: 1000}}}").await;
        desk.whole.sandbox.script().always(Endpoint::Echo, fault);
        for (request, sent) in &table {
            let before = desk.calls().len();
            // An answer or an error, as it failed; what counts is how often it was sent.
            drop(desk.call(request.clone()).await);
            assert_eq!(desk.calls().len() - before, *sent, "{request:?}");
        }
        desk.stop().await;
    }
}

#[tokio::test]
async fn a_failing_api_opens_its_breaker_and_refreshes_go_on() {
    let entry = ", api: {limits: {breaker: {failures: 3, open: 10m}, retry: conservative}}";
    let desk = Desk::with(entry).await;
    desk.whole.sandbox.script().always(Endpoint::Echo, Fault::status(503));
    for _ in 0..3 {
        desk.call(post("/x", b"a")).await.unwrap();
    }
    let status = desk.call(get("/x")).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "PROVIDER_CIRCUIT_OPEN"));
    assert_eq!(desk.calls().len(), 3);

    let asked = v1::RefreshConnectionRequest {
        provider: "sandbox".into(),
        connection: "user-42".into(),
        ..Default::default()
    };
    let mut connections = ConnectionServiceClient::new(desk.channel.clone());
    connections.refresh_connection(asked).await.unwrap();
    desk.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_hundred_calls_at_once_one_tries_an_api_that_rested() {
    let limits = "max_parallel: 100, breaker: {failures: 1, open: 1ms, successes: 2}, retry: conservative";
    let desk = Desk::with(&format!(", api: {{limits: {{{limits}}}}}")).await;
    let script = desk.whole.sandbox.script();
    let never = v1::RetryPolicy { mode: v1::RetryMode::Never.into(), max_attempts: 0 };
    let crowd = || -> FuturesUnordered<_> {
        let call = |_| {
            let (mut client, request) = (desk.client(), get("/x"));
            let request = v1::CallProviderRequest { retry: Some(never), ..request };
            tokio::spawn(async move { client.call_provider(request).await })
        };
        (0..100).map(call).collect()
    };
    script.next(Endpoint::Echo, Fault::status(503));
    assert_eq!(desk.call(post("/x", b"a")).await.unwrap().status, 503);
    let mut sent = 1;
    // It closes after the second that succeeds.
    for _ in 0..2 {
        let hold = script.hold_every_request(Endpoint::Echo);
        let mut calls = crowd();
        for _ in 1..100 {
            let status = calls.next().await.unwrap().unwrap().unwrap_err();
            assert_eq!(reason(&status), "PROVIDER_CIRCUIT_OPEN");
            assert!(status.get_details_retry_info().unwrap().retry_delay.is_some(), "{status}");
        }
        hold.release();
        assert_eq!(calls.next().await.unwrap().unwrap().unwrap().get_ref().status, 200);
        sent += 1;
        assert_eq!(desk.calls().len(), sent);
        script.clear();
    }
    let answers: Vec<_> = crowd().collect().await;
    assert!(answers.into_iter().all(|answer| answer.unwrap().is_ok()));
    assert_eq!(desk.calls().len(), sent + 100);
    desk.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_too_large_for_one_message_names_the_limit() {
    let desk = Desk::new().await;
    desk.whole.sandbox.script().next(Endpoint::Echo, Fault::huge(64 * 1024 * 1024));
    let status = desk.call(get("/x")).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    assert_eq!(status.get_details_error_info().unwrap().metadata["limitBytes"], "4063232");
    assert!(status.message().contains("StreamProviderCall"), "{}", status.message());
    desk.stop().await;
}

#[tokio::test]
async fn a_silent_or_a_slow_provider_is_not_waited_for_without_end() {
    let entry = ", api: {limits: {head_timeout: 200ms, idle_timeout: 200ms}}";
    let desk = Desk::with(entry).await;
    let script = desk.whole.sandbox.script();
    let never = v1::RetryPolicy { mode: v1::RetryMode::Never.into(), max_attempts: 0 };
    let hold = script.hold_request(Endpoint::Echo);
    let request = v1::CallProviderRequest { retry: Some(never), ..get("/x") };
    let status = desk.call(request.clone()).await.unwrap_err();
    assert_eq!(reason(&status), "PROVIDER_UNAVAILABLE");
    hold.release();
    for fault in [Fault::trickle(Duration::from_secs(30)), Fault::cut()] {
        script.next(Endpoint::Echo, fault);
        let status = desk.call(request.clone()).await.unwrap_err();
        assert_eq!(reason(&status), "PROVIDER_UNAVAILABLE");
    }
    desk.stop().await;
}

#[tokio::test]
async fn whoever_was_told_when_to_come_back_does_so_however_many_there_are() {
    let desk = Desk::new().await;
    let names: Vec<String> = (0..20).map(|n| format!("one-of-many-{n}")).collect();
    for name in &names {
        desk.connect(name).await;
    }
    let fault = Fault::status(429).retry_after(Duration::from_secs(1));
    desk.whole.sandbox.script().next_n(20, Endpoint::Echo, fault);
    let calls = names.iter().map(|name| {
        desk.call(v1::CallProviderRequest { connection: name.clone(), ..post("/x", b"once more") })
    });
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.unwrap().status, 200);
    }
    desk.stop().await;
}

#[tokio::test]
async fn whoever_is_told_to_come_back_at_once_does_so_within_the_budget() {
    let desk = Desk::new().await;
    desk.whole.sandbox.script().always(Endpoint::Echo, Fault::status(429).retry_after(Duration::ZERO));
    for _ in 0..30 {
        let status = desk.call(post("/x", b"a")).await.unwrap_err();
        assert_eq!(reason(&status), "PROVIDER_RATE_LIMITED");
    }
    // Each once, ten in reserve, and one for five answers.
    let sent = desk.calls().len();
    assert!((40..=46).contains(&sent), "{sent}");
    desk.stop().await;
}

#[tokio::test]
async fn a_call_that_waits_for_a_better_time_keeps_no_place() {
    let hosts = "['http://127.0.0.1:{port}/api', 'http://localhost:{port}/api']";
    let desk = Desk::with(&format!(", api: {{hosts: {hosts}, limits: {{max_parallel: 1}}}}")).await;
    let script = desk.whole.sandbox.script();
    script.next(Endpoint::Echo, Fault::status(503).retry_after(Duration::from_secs(30)));
    let (mut client, waiting) = (desk.client(), get("/waits"));
    let waiting = tokio::spawn(async move { client.call_provider(waiting).await });
    let is_answered = |exchange: &Exchange| exchange.endpoint == Endpoint::Echo;
    desk.whole.sandbox.log().wait_for(is_answered).await;
    let mut next = Request::new(v1::CallProviderRequest { host: "localhost".into(), ..get("/next") });
    next.set_timeout(Duration::from_secs(10));
    assert_eq!(desk.client().call_provider(next).await.unwrap().get_ref().status, 200);
    waiting.abort();
    desk.stop().await;
}

#[tokio::test]
async fn where_nothing_can_renew_the_token_a_401_is_the_answer() {
    let desk = Desk::new().await;
    let grant = desk.whole.sandbox.grants().issue("user-7", &["openid"]);
    let import = v1::ImportConnectionRequest {
        provider: "sandbox".into(),
        connection: "user-7".into(),
        access_token: grant.access_token.expose().clone(),
        ..Default::default()
    };
    ConnectionServiceClient::new(desk.channel.clone()).import_connection(import).await.unwrap();
    let call = || v1::CallProviderRequest { connection: "user-7".into(), ..get("/x") };
    desk.whole.sandbox.script().next(Endpoint::Echo, Fault::status(401).body("text/plain", "not for you"));
    let answer = desk.call(call()).await.unwrap();
    assert_eq!((answer.status, answer.attempts, &answer.body[..]), (401, 1, &b"not for you"[..]));
    assert_eq!(desk.call(call()).await.unwrap().status, 200, "its token is as good as before");
    desk.stop().await;
}

/// A host that answers with the first event of a stream, and then with nothing more.
async fn events() -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\ndata: one\n\n";
        socket.write_all(answer.as_bytes()).await.unwrap();
        // Until the client leaves.
        socket.read_to_end(&mut Vec::new()).await.unwrap();
    });
    (port, task)
}

#[tokio::test]
async fn the_first_event_of_an_endless_answer_is_handed_on_though_the_entry_reads_bodies() {
    let (port, host) = events().await;
    // Its silence after that is nobody's trouble.
    let desk = Desk::with(&format!(
        ", errors: [{{at: api, is: [invalid_auth], means: token_bad}}], \
         api: {{hosts: ['http://localhost:{port}'], limits: {{idle_timeout: 1h}}}}"
    ))
    .await;
    let request = futures_util::stream::iter([message(Sent::Head(head("GET", "/events")))]);
    let mut client = desk.client();
    let answer = tokio::time::timeout(Duration::from_secs(60), client.stream_provider_call(request)).await;
    let mut answer = answer.expect("the head is held back").unwrap().into_inner();
    assert!(matches!(answer.message().await.unwrap().unwrap().part, Some(Came::Head(_))));
    let Some(Came::Chunk(event)) = answer.message().await.unwrap().unwrap().part else { panic!("no chunk") };
    assert_eq!(&event.data[..], b"data: one\n\n");
    drop(answer);
    host.await.unwrap();
    desk.stop().await;
}

/// What comes of an answer of which a byte comes every 100 ms, and would for more than half a minute.
async fn trickled(least: u64) -> Result<v1::CallProviderResponse, Status> {
    let limits = format!(", api: {{limits: {{min_bytes_per_second: {least}, timeout: 10m}}}}");
    let desk = Desk::with(&limits).await;
    desk.whole.sandbox.script().next(Endpoint::Echo, Fault::trickle(Duration::from_millis(100)));
    let answer = desk.call(post("/x", &[b'x'; 300])).await;
    desk.stop().await;
    answer
}

#[tokio::test]
#[ignore = "slow: tests/run.sh --only slow"]
async fn an_answer_may_be_as_slow_as_the_entry_says_and_no_slower() {
    let (patient, strict) = tokio::join!(trickled(1), trickled(100));
    assert_eq!(json(&patient.unwrap())["body_bytes"], 300);
    let status = strict.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "PROVIDER_UNAVAILABLE"));
    let metadata = status.get_details_error_info().unwrap().metadata;
    assert_eq!(metadata["limit"], "api.limits.min_bytes_per_second");
}
