//! Ids of streamed calls: no stream is answered twice, and none is made twice that may not be.

use std::time::Duration;

use futures_util::Stream;
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::connection_service_client::ConnectionServiceClient;
use token_broker::grpc::proto::v1::stream_provider_call_request::Part as Sent;
use token_broker::sandbox::{Endpoint, Fault, On};
use tonic::{Code, Request, Status};

use super::host::shown;
use super::stream::{Answer, called, chunk, head, message};
use super::{Desk, post};

/// A provider that knows no header for the id.
const KEYLESS: &str = ", api: {idempotency_header: null}";

fn charge(method: &str) -> Vec<v1::StreamProviderCallRequest> {
    let head = v1::CallHead { request_id: "charge-7".into(), ..head(method, "/charge") };
    vec![message(Sent::Head(head)), chunk("7", true)]
}

async fn charged(desk: &Desk) -> Result<u32, Code> {
    called(desk, charge("POST")).await.map(|answer| answer.head.status).map_err(|status| status.code())
}

/// What the first of these calls comes to that finds its id free.
async fn once_free<S>(desk: &Desk, request: impl Fn() -> Request<S>) -> Result<(), Code>
where
    S: Stream<Item = v1::StreamProviderCallRequest> + Send + 'static,
{
    let found = async {
        loop {
            let outcome = desk.client().stream_provider_call(request()).await;
            match outcome.map_err(|status| status.code()) {
                Err(Code::InvalidArgument) => {}
                outcome => break outcome.map(drop),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), found).await.unwrap()
}

#[tokio::test]
async fn a_stream_under_an_id_that_was_used_is_refused_where_it_could_be_done_twice() {
    let desk = Desk::with(KEYLESS).await;
    assert_eq!(charged(&desk).await, Ok(200));
    let again: Result<Answer, Status> = called(&desk, charge("POST")).await;
    let refused = again.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("request_id"), "{}", refused.message());
    let unary = v1::CallProviderRequest { request_id: "charge-7".into(), ..post("/charge", b"7") };
    assert_eq!(desk.call(unary).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(desk.calls().len(), 1);
    // What does nothing may be asked as often as anybody likes.
    for _ in 0..2 {
        assert_eq!(called(&desk, charge("OPTIONS")).await.unwrap().head.status, 200);
    }
    desk.stop().await;
}

#[tokio::test]
async fn a_provider_that_is_told_the_id_sees_to_it_itself() {
    let desk = Desk::new().await;
    for _ in 0..2 {
        assert_eq!(charged(&desk).await, Ok(200));
    }
    assert_eq!(desk.calls().len(), 2);
    desk.stop().await;
}

#[tokio::test]
async fn a_stream_whose_caller_hung_up_after_it_left_keeps_its_id() {
    let desk = Desk::with(KEYLESS).await;
    let mut hold = desk.whole.sandbox.script().hold_request(Endpoint::Echo);
    let mut client = desk.client();
    let first =
        tokio::spawn(
            async move { client.stream_provider_call(futures_util::stream::iter(charge("POST"))).await },
        );
    hold.reached(1).await;
    assert_eq!(charged(&desk).await, Err(Code::InvalidArgument), "it is under way");
    first.abort();
    let is_over = async { while shown(&desk).await.in_flight > 0 {} };
    tokio::time::timeout(Duration::from_secs(60), is_over).await.unwrap();
    hold.release();
    assert_eq!(charged(&desk).await, Err(Code::InvalidArgument), "it may have been done");
    assert_eq!(desk.calls().len(), 1);
    desk.stop().await;
}

#[tokio::test]
async fn a_stream_that_never_left_leaves_its_id_to_the_next() {
    let desk = Desk::with(KEYLESS).await;
    let import = desk.tokenless("user-8");
    let mut hold = desk.whole.sandbox.script().hold_every_request(Endpoint::Token);
    let mut connections = ConnectionServiceClient::new(desk.channel.clone());
    let importing = tokio::spawn(async move { connections.import_connection(import).await });
    // The connection is there, and its first token on its way.
    hold.reached(1).await;
    let charge = |path: &str| {
        let head = v1::CallHead { connection: "user-8".into(), request_id: "8".into(), ..head("POST", path) };
        futures_util::stream::iter([message(Sent::Head(head)), chunk("8", true)])
    };
    // Each is ended by its caller; the next finds the id free once the broker has heard of that.
    for _ in 0..3 {
        let early = || {
            let mut request = Request::new(charge("/early"));
            request.set_timeout(Duration::from_millis(300));
            request
        };
        once_free(&desk, early).await.unwrap_err();
    }
    hold.release();
    importing.await.unwrap().unwrap();
    assert_eq!(once_free(&desk, || Request::new(charge("/late"))).await, Ok(()));
    assert_eq!(desk.calls().len(), 1);
    desk.stop().await;
}

#[tokio::test]
async fn a_stream_whose_token_was_refused_leaves_its_id_to_the_next() {
    let desk = Desk::with(KEYLESS).await;
    desk.whole.sandbox.grants().expire_access_tokens();
    let mut hold = desk.whole.sandbox.script().hold_every_request(Endpoint::Token);
    let mut client = desk.client();
    let first =
        tokio::spawn(
            async move { client.stream_provider_call(futures_util::stream::iter(charge("POST"))).await },
        );
    // Its token was refused, and a new one is on its way.
    hold.reached(1).await;
    assert_eq!(charged(&desk).await, Err(Code::InvalidArgument), "it is under way");
    first.abort();
    let asking = || Request::new(futures_util::stream::iter(charge("POST")));
    let hasty = || {
        let mut request = asking();
        request.set_timeout(Duration::from_millis(300));
        request
    };
    once_free(&desk, hasty).await.unwrap_err();
    hold.release();
    assert_eq!(once_free(&desk, asking).await, Ok(()));
    desk.stop().await;
}

#[tokio::test]
async fn a_stream_whose_grant_has_ended_leaves_its_id_to_the_next_consent() {
    let desk = Desk::with(KEYLESS).await;
    desk.whole.sandbox.grants().expire_access_tokens();
    desk.whole.sandbox.script().always(On::refresh(), Fault::oauth_error("invalid_grant"));
    for _ in 0..2 {
        assert_eq!(charged(&desk).await, Err(Code::FailedPrecondition));
    }
    desk.stop().await;
}

#[tokio::test]
async fn a_stream_that_was_told_to_wait_leaves_its_id_to_the_next() {
    let desk = Desk::with(KEYLESS).await;
    let wait = Fault::status(429).retry_after(Duration::from_secs(3600));
    desk.whole.sandbox.script().next(Endpoint::Echo, wait);
    for _ in 0..2 {
        assert_eq!(charged(&desk).await, Err(Code::ResourceExhausted));
    }
    desk.stop().await;
}
