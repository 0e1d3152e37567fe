//! `StreamProviderCall`: chunks both ways, and what a caller does wrong with them.

use bytes::Bytes;
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::stream_provider_call_request::Part as Sent;
use token_broker::grpc::proto::v1::stream_provider_call_response::Part as Came;
use token_broker::sandbox::{Delivery, Endpoint, Exchange, Fault};
use token_broker::secret::Secret;
use tokio::sync::mpsc;
use tokio_stream_of::messages;
use tonic::Status;
use tonic_types::StatusExt as _;

use super::{Desk, reason};

/// A stream of messages from a channel.
pub(super) mod tokio_stream_of {
    use futures_util::{Stream, stream};
    use token_broker::grpc::proto::v1::StreamProviderCallRequest;
    use tokio::sync::mpsc;

    pub(in crate::call) fn messages(
        receiver: mpsc::Receiver<StreamProviderCallRequest>,
    ) -> impl Stream<Item = StreamProviderCallRequest> {
        stream::unfold(receiver, |mut receiver| async {
            let message = receiver.recv().await?;
            Some((message, receiver))
        })
    }
}

pub(super) fn head(method: &str, path: &str) -> v1::CallHead {
    v1::CallHead {
        provider: "sandbox".into(),
        connection: "user-42".into(),
        method: method.into(),
        path: path.into(),
        ..Default::default()
    }
}

pub(super) fn message(part: Sent) -> v1::StreamProviderCallRequest {
    v1::StreamProviderCallRequest { part: Some(part) }
}

pub(super) fn chunk(data: impl Into<Bytes>, end: bool) -> v1::StreamProviderCallRequest {
    message(Sent::Chunk(v1::BodyChunk { data: data.into(), end }))
}

/// What came back.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) head: v1::AnswerHead,
    pub(super) body: Vec<u8>,
    has_ended: bool,
    pub(super) trailers: Vec<v1::Header>,
    largest: usize,
}

pub(super) async fn called(desk: &Desk, sent: Vec<v1::StreamProviderCallRequest>) -> Result<Answer, Status> {
    let sent = futures_util::stream::iter(sent);
    let mut came = desk.client().stream_provider_call(sent).await?.into_inner();
    let mut answer = Answer::default();
    while let Some(message) = came.message().await? {
        match message.part.unwrap() {
            Came::Head(head) => answer.head = head,
            Came::Chunk(chunk) => {
                assert!(!answer.has_ended, "nothing follows the end");
                answer.largest = answer.largest.max(chunk.data.len());
                answer.body.extend_from_slice(&chunk.data);
                answer.has_ended = chunk.end;
            }
            Came::Trailers(trailers) => answer.trailers = trailers.trailers,
        }
    }
    Ok(answer)
}

/// The answer to a call without a body: its head and its body.
pub(super) async fn read(desk: &Desk, head: v1::CallHead) -> Result<(v1::AnswerHead, Vec<u8>), Status> {
    let answer = called(desk, vec![message(Sent::Head(head))]).await?;
    Ok((answer.head, answer.body))
}

#[tokio::test]
async fn a_body_goes_and_comes_in_chunks() {
    let desk = Desk::new().await;
    let mut sent = vec![message(Sent::Head(head("PUT", "/file")))];
    sent.extend((0..10).map(|n| chunk(vec![b'0' + n; 1000], false)));
    sent.push(chunk("last", true));
    let answer = called(&desk, sent).await.unwrap();
    assert_eq!((answer.head.status, answer.head.attempts), (200, 1));
    assert!(answer.has_ended && answer.trailers.is_empty());
    let echo: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(echo["body_bytes"], 10_004);
    assert!(echo["body"].as_str().unwrap().ends_with("999last"));
    desk.stop().await;
}

#[tokio::test]
async fn a_large_answer_comes_in_chunks_that_fit() {
    let desk = Desk::new().await;
    desk.whole.sandbox.script().next(Endpoint::Echo, Fault::huge(8 * 1024 * 1024));
    let answer = called(&desk, vec![message(Sent::Head(head("GET", "/file")))]).await.unwrap();
    assert!(answer.body.len() >= 8 * 1024 * 1024 && answer.has_ended);
    assert!(answer.largest <= 64 * 1024, "{}", answer.largest);
    desk.stop().await;
}

#[tokio::test]
async fn a_dead_token_costs_a_small_stream_one_more_attempt_and_a_long_one_its_answer() {
    let desk = Desk::new().await;
    desk.whole.sandbox.grants().expire_access_tokens();
    let small = vec![message(Sent::Head(head("POST", "/a"))), chunk("all of it", true)];
    let answer = called(&desk, small).await.unwrap();
    assert_eq!((answer.head.status, answer.head.attempts), (200, 2));

    let mut broker = desk.client();
    let asked = v1::GetAccessTokenRequest {
        provider: "sandbox".into(),
        connection: "user-42".into(),
        ..Default::default()
    };
    let dead = broker.get_access_token(asked.clone()).await.unwrap().into_inner().access_token;
    desk.whole.sandbox.grants().expire_access_tokens();
    let long = || vec![message(Sent::Head(head("POST", "/b"))), chunk("one", false), chunk("two", true)];
    let answer = called(&desk, long()).await.unwrap();
    assert_eq!((answer.head.status, answer.head.attempts), (401, 1), "half of it is gone");
    // The token is renewed all the same, for those who come after.
    let renewed = |exchanges: &[Exchange]| {
        let refreshes = exchanges.iter().filter(|exchange| exchange.is_refresh() && exchange.ended.is_some());
        (refreshes.count() == 2).then_some(())
    };
    desk.whole.sandbox.log().wait_until(renewed).await;
    // Whoever names the dead one waits until its successor is published.
    let refused = Secret::new(dead.clone()).digest().to_vec();
    let asked = v1::GetAccessTokenRequest { if_not_equal_to: refused, ..asked };
    assert_ne!(broker.get_access_token(asked).await.unwrap().into_inner().access_token, dead);
    let answer = called(&desk, long()).await.unwrap();
    assert_eq!((answer.head.status, answer.head.attempts), (200, 1));
    assert_eq!(desk.whole.sandbox.log().counts().refresh_requests, 2);
    desk.stop().await;
}

#[tokio::test]
async fn many_streams_with_a_dead_token_cost_one_refresh_and_only_whole_ones_are_made_once_more() {
    let desk = Desk::new().await;
    desk.call(super::get("/warm")).await.unwrap();
    desk.whole.sandbox.grants().expire_access_tokens();
    let mut hold = desk.whole.sandbox.script().hold_every_request(Endpoint::Echo);
    let whole = vec![message(Sent::Head(head("POST", "/whole"))), chunk("all of it", true)];
    let long = vec![message(Sent::Head(head("POST", "/long"))), chunk("one", false), chunk("two", true)];
    let calls = (0..60).map(|n| called(&desk, if n % 2 == 0 { whole.clone() } else { long.clone() }));
    // All of them are under way with the old token before the first is answered.
    let release = async {
        hold.reached(60).await;
        hold.release();
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(calls), release);
    for (n, answer) in answers.into_iter().enumerate() {
        let head = answer.unwrap().head;
        let expected = if n % 2 == 0 { (200, 2) } else { (401, 1) };
        assert_eq!((head.status, head.attempts), expected, "stream {n}");
    }
    assert_eq!(desk.whole.sandbox.log().counts().refresh_requests, 1);
    desk.stop().await;
}

#[tokio::test]
async fn what_a_caller_does_wrong_with_chunks_is_told_by_its_field() {
    let desk = Desk::new().await;
    let opened = || message(Sent::Head(head("POST", "/a")));
    let promised =
        |length| message(Sent::Head(v1::CallHead { content_length: Some(length), ..head("POST", "/a") }));
    let table = [
        ("head", vec![]),
        ("head", vec![chunk("a", true)]),
        ("head", vec![opened(), opened()]),
        ("head", vec![opened(), chunk("a", false), opened()]),
        ("part", vec![opened(), v1::StreamProviderCallRequest { part: None }]),
        ("chunk.data", vec![opened(), chunk(vec![0; 65_537], true)]),
        ("chunk.end", vec![opened(), chunk("a", false)]),
        ("head.content_length", vec![promised(3)]),
        ("head.content_length", vec![promised(3), chunk("abcd", true)]),
        ("head.content_length", vec![promised(3), chunk("a", false), chunk("b", true)]),
        ("head.method", vec![message(Sent::Head(head("", "/a"))), chunk("a", true)]),
    ];
    for (field, sent) in table {
        let shown = format!("{field}: {} messages", sent.len());
        let status = called(&desk, sent).await.unwrap_err();
        assert_eq!(reason(&status), "INVALID_REQUEST", "{shown}");
        let found = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(found[0].field, field, "{shown}");
    }
    assert!(desk.calls().iter().all(|call| call.delivery.is_none()), "none looked complete to the provider");
    desk.stop().await;
}

#[tokio::test]
async fn a_caller_that_hangs_up_ends_the_call_at_the_provider() {
    let desk = Desk::new().await;
    let hold = desk.whole.sandbox.script().hold_answer(Endpoint::Echo);
    let mut hold = hold;
    let (sender, receiver) = mpsc::channel(2);
    sender.send(message(Sent::Head(head("GET", "/slow")))).await.unwrap();
    sender.send(chunk("", true)).await.unwrap();
    let mut client = desk.client();
    let waiting = tokio::spawn(async move { client.stream_provider_call(messages(receiver)).await });
    hold.reached(1).await;
    waiting.abort();
    let left = |call: &Exchange| call.delivery == Some(Delivery::ClientLeft);
    let log = desk.whole.sandbox.log();
    tokio::time::timeout(std::time::Duration::from_secs(30), log.wait_for(left)).await.unwrap();
    drop(sender);
    desk.stop().await;
}
