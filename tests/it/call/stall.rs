//! Callers that stop in the middle: what their calls hold is free again, whatever they do.

use std::sync::Arc;
use std::time::Duration;

use token_broker::clock::SystemClock;
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::stream_provider_call_request::Part as Sent;
use token_broker::sandbox::{Endpoint, Fault};
use token_broker::telemetry::{Capture, Filter, Format, Logging};
use tokio::sync::mpsc;
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt as _;

use super::stream::{chunk, head, message, tokio_stream_of};
use super::{Desk, get, reason};

/// A broker that lets a connection make one call at a time, with these limits besides.
async fn narrow(limits: &str) -> Desk {
    Desk::with(&format!(", api: {{limits: {{max_parallel: 1{limits}}}}}")).await
}

/// The answer to a call of which nothing is taken yet; there is more of it than any window takes.
async fn untaken(desk: &Desk, deadline: Option<Duration>) -> Streaming<v1::StreamProviderCallResponse> {
    desk.whole.sandbox.script().next(Endpoint::Echo, Fault::huge(256 * 1024 * 1024));
    let mut request = Request::new(futures_util::stream::iter([message(Sent::Head(head("GET", "/x")))]));
    if let Some(deadline) = deadline {
        request.set_timeout(deadline);
    }
    desk.client().stream_provider_call(request).await.unwrap().into_inner()
}

/// A call of the same connection, which waits for its turn.
async fn next_call(desk: &Desk) -> Result<u32, Status> {
    let mut request = Request::new(get("/next"));
    request.set_timeout(Duration::from_secs(30));
    desk.client().call_provider(request).await.map(|answer| answer.get_ref().status)
}

/// What an answer ends with.
async fn end(mut answer: Streaming<v1::StreamProviderCallResponse>) -> Status {
    loop {
        match answer.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it came to its end"),
            Err(status) => return status,
        }
    }
}

/// What the log says of streamed calls.
fn lines(log: &Capture) -> Vec<String> {
    log.text().lines().filter(|line| line.contains("StreamProviderCall")).map(str::to_owned).collect()
}

fn capture() -> Capture {
    let logging = Logging { filter: Filter::parse("info").unwrap(), format: Format::Json };
    Capture::start(&logging, Arc::new(SystemClock))
}

#[tokio::test]
async fn a_caller_that_takes_nothing_loses_its_place_by_the_limit_that_is_told() {
    for (limits, word, limit) in [
        (", stream_timeout: 500ms", "PROVIDER_UNAVAILABLE", "api.limits.stream_timeout"),
        (", stall_timeout: 500ms", "INVALID_REQUEST", "api.limits.stall_timeout"),
    ] {
        let log = capture();
        let desk = narrow(limits).await;
        let answer = untaken(&desk, None).await;
        assert_eq!(next_call(&desk).await.unwrap(), 200, "{limit}");
        let said = lines(&log);
        assert!(said.len() == 1 && said[0].contains(word) && said[0].contains(limit), "{said:?}");

        let status = end(answer).await;
        assert_eq!(reason(&status), word);
        assert!(status.message().contains(limit), "{status}");
        assert_eq!(lines(&log).len(), 1, "it is told once");
        desk.stop().await;
    }
}

#[tokio::test]
async fn a_caller_that_takes_nothing_loses_its_place_at_its_own_deadline() {
    let desk = narrow("").await;
    let answer = untaken(&desk, Some(Duration::from_secs(2))).await;
    assert_eq!(next_call(&desk).await.unwrap(), 200);
    assert_eq!(end(answer).await.code(), Code::DeadlineExceeded);
    desk.stop().await;
}

#[tokio::test]
async fn a_caller_that_never_sends_the_rest_loses_its_place() {
    let desk = narrow(", stall_timeout: 500ms").await;
    let begun = message(Sent::Head(head("POST", "/x")));
    for sent in [vec![begun.clone()], vec![begun, chunk("a", false)]] {
        let (sender, receiver) = mpsc::channel(2);
        for message in sent {
            sender.send(message).await.unwrap();
        }
        let mut client = desk.client();
        let answer = client.stream_provider_call(tokio_stream_of::messages(receiver));
        let status = tokio::time::timeout(Duration::from_secs(30), answer).await.unwrap().unwrap_err();
        assert_eq!(reason(&status), "INVALID_REQUEST");
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "chunk");
        assert!(status.message().contains("api.limits.stall_timeout"), "{status}");
        assert_eq!(next_call(&desk).await.unwrap(), 200);
    }
    desk.stop().await;
}

#[tokio::test]
async fn an_answer_that_goes_on_and_on_ends_with_its_time_and_says_by_which_limit() {
    for (limits, limit) in [
        (", stream_timeout: 500ms", "api.limits.stream_timeout"),
        (", idle_timeout: 200ms", "api.limits.idle_timeout"),
    ] {
        let desk = narrow(limits).await;
        // A byte every so often: never silent for the first, always for the second.
        let every = if limit.ends_with("idle_timeout") { 30_000 } else { 10 };
        desk.whole.sandbox.script().next(Endpoint::Echo, Fault::trickle(Duration::from_millis(every)));
        let request = futures_util::stream::iter([message(Sent::Head(head("GET", "/x")))]);
        let status = end(desk.client().stream_provider_call(request).await.unwrap().into_inner()).await;
        assert_eq!(reason(&status), "PROVIDER_UNAVAILABLE");
        assert_eq!(status.get_details_error_info().unwrap().metadata["limit"], limit);
        desk.stop().await;
    }
}
