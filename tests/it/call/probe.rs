//! A host that rested and is tried again: by whose call, and what that is to others.

use std::time::Duration;

use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::stream_provider_call_request::Part as Sent;
use token_broker::grpc::proto::v1::stream_provider_call_response::Part as Came;
use token_broker::sandbox::{Endpoint, Fault};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::{Response, Status, Streaming};

use super::host::shown;
use super::stream::tokio_stream_of::messages;
use super::stream::{chunk, head, message};
use super::{Desk, get, post, reason};

type Answer = Result<Response<Streaming<v1::StreamProviderCallResponse>>, Status>;

/// An upload whose sender has sent a piece, and now does nothing.
async fn begun(desk: &Desk) -> (mpsc::Sender<v1::StreamProviderCallRequest>, JoinHandle<Answer>) {
    let (sender, receiver) = mpsc::channel(2);
    sender.send(message(Sent::Head(head("PUT", "/file")))).await.unwrap();
    sender.send(chunk("a", false)).await.unwrap();
    let mut client = desk.client();
    let call = tokio::spawn(async move { client.stream_provider_call(messages(receiver)).await });
    (sender, call)
}

#[tokio::test]
async fn an_upload_that_waits_for_its_sender_keeps_nobody_out() {
    let desk = Desk::with(", api: {limits: {breaker: {failures: 1, open: 100ms, successes: 1}}}").await;
    desk.whole.sandbox.script().next(Endpoint::Echo, Fault::status(503));
    assert_eq!(desk.call(post("/x", b"a")).await.unwrap().status, 503);
    let let_through = async {
        loop {
            let (sender, call) = begun(&desk).await;
            while !call.is_finished() {
                if shown(&desk).await.in_flight == 1 {
                    return (sender, call);
                }
            }
            assert_eq!(reason(&call.await.unwrap().unwrap_err()), "PROVIDER_CIRCUIT_OPEN");
        }
    };
    let (sender, upload) = tokio::time::timeout(Duration::from_secs(60), let_through).await.unwrap();

    for _ in 0..3 {
        assert_eq!(desk.call(get("/x")).await.unwrap().status, 200);
    }
    sender.send(chunk("b", true)).await.unwrap();
    let mut answer = upload.await.unwrap().unwrap().into_inner();
    let Some(Came::Head(head)) = answer.message().await.unwrap().unwrap().part else { panic!("no head") };
    assert_eq!(head.status, 200);
    drop(answer);
    desk.stop().await;
}
