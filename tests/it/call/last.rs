//! Calls that are made again and then get no answer: what their callers are told of the attempts before.

use token_broker::grpc::proto::v1;
use token_broker::sandbox::{Endpoint, Fault};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Desk, get, header, post, reason};

/// A breaker that opens at the third failure and stays so, after two of them.
async fn failing(fault: Fault) -> Desk {
    let desk = Desk::with(", api: {limits: {breaker: {failures: 3, open: 10m}}}").await;
    desk.whole.sandbox.script().always(Endpoint::Echo, fault);
    for _ in 0..2 {
        // An answer or an error, as it failed.
        drop(desk.call(post("/x", b"a")).await);
    }
    desk
}

async fn assert_resting(desk: &Desk, sent: usize) {
    assert_eq!(desk.calls().len(), sent);
    assert_eq!(reason(&desk.call(get("/x")).await.unwrap_err()), "PROVIDER_CIRCUIT_OPEN");
}

#[tokio::test]
async fn the_answer_with_which_the_host_begins_to_rest_is_the_callers() {
    let desk = failing(Fault::status(503).body("text/plain", "down for the night")).await;
    let answer = desk.call(get("/x")).await.unwrap();
    assert_eq!((answer.status, answer.attempts, &answer.body[..]), (503, 1, &b"down for the night"[..]));
    assert!(answer.headers.contains(&header("content-type", "text/plain")), "{:?}", answer.headers);
    assert_resting(&desk, 3).await;
    desk.stop().await;
}

#[tokio::test]
async fn of_an_answer_that_is_too_large_to_be_kept_the_status_is_told() {
    let desk = failing(Fault::status(503).body("text/plain", vec![b'x'; 100 * 1024])).await;
    let status = desk.call(get("/x")).await.unwrap_err();
    assert_eq!(reason(&status), "PROVIDER_UNAVAILABLE");
    assert!(status.message().contains("it answered 503"), "{status}");
    assert_resting(&desk, 3).await;
    desk.stop().await;
}

#[tokio::test]
async fn an_attempt_whose_answer_was_lost_is_not_hidden_by_the_rest_that_it_began() {
    let desk = failing(Fault::drop_request()).await;
    let status = desk.call(get("/x")).await.unwrap_err();
    assert_eq!(reason(&status), "PROVIDER_UNAVAILABLE");
    assert!(status.message().contains("answer was lost"), "{status}");
    assert_resting(&desk, 3).await;
    desk.stop().await;
}

#[tokio::test]
async fn a_pause_that_the_provider_asks_for_later_does_not_unmake_what_it_answered_before() {
    let desk = Desk::new().await;
    let script = desk.whole.sandbox.script();
    script.next(Endpoint::Echo, Fault::status(503).body("text/plain", "perhaps done"));
    script.next(Endpoint::Echo, Fault::status(429).retry_after(std::time::Duration::from_secs(3600)));
    let request = v1::CallProviderRequest { request_id: "charge-7".into(), ..post("/charge", b"7") };
    let answer = desk.call(request).await.unwrap();
    assert_eq!((answer.status, answer.attempts, &answer.body[..]), (503, 2, &b"perhaps done"[..]));
    desk.stop().await;
}

#[tokio::test]
async fn a_grant_that_ended_meanwhile_is_not_hidden_by_what_an_earlier_attempt_was_answered() {
    let desk = Desk::new().await;
    let script = desk.whole.sandbox.script();
    script.next(Endpoint::Echo, Fault::status(503));
    script.next(Endpoint::Echo, Fault::status(401));
    script.always(Endpoint::Token, Fault::oauth_error("invalid_grant"));
    let status = desk.call(get("/x")).await.unwrap_err();
    assert_eq!(reason(&status), "REAUTH_REQUIRED", "{status}");
    assert_eq!(desk.calls().len(), 2);
    desk.stop().await;
}

#[tokio::test]
async fn an_attempt_that_was_redirected_counts_though_the_budget_lets_no_more_of_it_go() {
    let desk = Desk::with(", api: {limits: {budget: {count: 2, per: 1h}}}").await;
    let script = desk.whole.sandbox.script();
    script.next(Endpoint::Echo, Fault::status(503));
    script.next(Endpoint::Echo, Fault::redirect(302, "/api/near"));
    let request = v1::CallProviderRequest { follow_redirects: true, ..get("/x") };
    let answer = desk.call(request).await.unwrap();
    assert_eq!((answer.status, answer.attempts), (503, 2));
    assert_eq!(desk.calls().len(), 2);
    desk.stop().await;
}

/// A host that answers its first request with 504, and nobody after that.
async fn gone() -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        drop(listener);
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n7") {
            assert_ne!(socket.read_buf(&mut request).await.unwrap(), 0, "the request is not complete");
        }
        let answer = "HTTP/1.1 504 Gateway Timeout\r\nconnection: close\r\ncontent-length: 4\r\n\r\nlate";
        socket.write_all(answer.as_bytes()).await.unwrap();
    });
    (port, task)
}

#[tokio::test]
async fn a_call_that_was_answered_with_504_is_not_said_to_be_unmade_by_its_last_attempt() {
    let (port, host) = gone().await;
    let desk = Desk::with(&format!(", api: {{hosts: ['http://localhost:{port}']}}")).await;
    let request = v1::CallProviderRequest { request_id: "charge-7".into(), ..post("/charge", b"7") };
    let answer = desk.call(request).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (504, &b"late"[..]));
    host.await.unwrap();
    desk.stop().await;
}
