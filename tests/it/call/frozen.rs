//! A shared connection on which nothing comes any more, and nothing says so: which calls it costs, and what they are told.

use std::sync::atomic::Ordering;
use std::time::Duration;

use token_broker::grpc::proto::v1;
use tokio::sync::mpsc;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use super::http2::{Api, DOORS, Door, answer, conversed};
use super::{Desk, get, post, reason};

/// An API whose first connection freezes when the second call has come: it stays open, and nothing is read or written any
/// more. Every call that comes is told of. The broker waits so long for an answer.
async fn freezing(door: Door, head_timeout: &str) -> (Api, Desk, mpsc::UnboundedReceiver<usize>) {
    let (tell, told) = mpsc::unbounded_channel();
    let api = Api::serving(door, move |number, socket| {
        let tell = tell.clone();
        async move {
            if number > 0 {
                return conversed(socket).await;
            }
            let Ok(mut connection) = h2::server::handshake(socket).await else { return };
            for call in 1.. {
                let Some(Ok((request, respond))) = connection.accept().await else { return };
                tell.send(call).unwrap();
                if call == 2 {
                    return std::future::pending::<()>().await;
                }
                tokio::spawn(answer(request, respond));
            }
        }
    });
    let api = api.await;
    let desk = api.desk_with(&format!(", limits: {{head_timeout: {head_timeout}}}")).await;
    assert_eq!(desk.call(get("/warm")).await.unwrap().status, 200);
    (api, desk, told)
}

#[tokio::test]
async fn a_frozen_connection_costs_the_calls_that_were_on_it_and_no_more() {
    for door in DOORS {
        let (api, desk, mut told) = freezing(door, "3s").await;
        while told.recv().await != Some(1) {}
        let (first, second, repeated) = tokio::join!(
            desk.call(post("/charge", b"7")),
            desk.call(post("/charge", b"8")),
            desk.call(get("/x"))
        );
        for status in [first.unwrap_err(), second.unwrap_err()] {
            assert_eq!(reason(&status), "PROVIDER_UNAVAILABLE", "{door:?}");
            let metadata = status.get_details_error_info().unwrap().metadata;
            assert_eq!(metadata["limit"], "api.limits.head_timeout", "{door:?}");
            assert!(status.message().contains("the provider's answer was lost"), "{door:?}: {status}");
        }
        let repeated = repeated.unwrap();
        assert_eq!(
            (repeated.status, repeated.attempts),
            (200, 2),
            "{door:?}: what may be repeated has an answer"
        );
        assert_eq!(desk.call(post("/charge", b"9")).await.unwrap().status, 200, "{door:?}");
        assert_eq!(api.connections.load(Ordering::SeqCst), 2, "{door:?}: one for all who waited in vain");
        desk.stop().await;
    }
}

#[tokio::test]
async fn callers_with_less_time_than_a_head_may_take_leave_a_frozen_connection_behind_too() {
    for door in DOORS {
        let (api, desk, _told) = freezing(door, "3s").await;
        let mut request = Request::new(post("/charge", b"7"));
        request.set_timeout(Duration::from_secs(2));
        let code = desk.client().call_provider(request).await.unwrap_err().code();
        // Whichever clock is first, the caller's or the broker's.
        assert!(matches!(code, Code::Cancelled | Code::DeadlineExceeded), "{door:?}: {code:?}");
        let next = v1::CallProviderRequest { request_id: "charge-8".into(), ..post("/charge", b"8") };
        assert_eq!(desk.call(next).await.unwrap().status, 200, "{door:?}");
        assert_eq!(api.connections.load(Ordering::SeqCst), 2, "{door:?}");
        desk.stop().await;
    }
}

#[tokio::test]
async fn a_call_that_goes_away_at_once_takes_no_connection_with_it() {
    for door in DOORS {
        let (api, desk, mut told) = freezing(door, "60s").await;
        let mut client = desk.client();
        let call = tokio::spawn(async move { client.call_provider(post("/charge", b"7")).await });
        while told.recv().await != Some(2) {}
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        let mut request = Request::new(post("/charge", b"8"));
        request.set_timeout(Duration::from_secs(2));
        let code = desk.client().call_provider(request).await.unwrap_err().code();
        let is_over = matches!(code, Code::Cancelled | Code::DeadlineExceeded);
        assert!(is_over, "{door:?}: it is on the frozen one still: {code:?}");
        assert_eq!(api.connections.load(Ordering::SeqCst), 1, "{door:?}");
        desk.stop().await;
    }
}

#[tokio::test]
async fn a_call_that_waits_in_vain_beside_others_that_are_answered_takes_no_connection_with_it() {
    for door in DOORS {
        let (tell, mut told) = mpsc::unbounded_channel();
        let api = Api::serving(door, move |_, socket| {
            let tell = tell.clone();
            async move {
                let Ok(mut connection) = h2::server::handshake(socket).await else { return };
                let mut silent = Vec::new();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    if request.uri().path() == "/never" {
                        silent.push(respond);
                        tell.send(()).unwrap();
                    } else {
                        tokio::spawn(answer(request, respond));
                    }
                }
            }
        });
        let api = api.await;
        let desk = api.desk_with(", limits: {head_timeout: 3s}").await;
        assert_eq!(desk.call(get("/warm")).await.unwrap().status, 200);
        let mut client = desk.client();
        let mut never = std::pin::pin!(client.call_provider(post("/never", b"7")));
        tokio::select! {
            answer = &mut never => panic!("{door:?}: {answer:?}"),
            () = async { told.recv().await.unwrap() } => {}
        }
        assert_eq!(desk.call(get("/beside")).await.unwrap().status, 200, "{door:?}");
        assert_eq!(reason(&never.await.unwrap_err()), "PROVIDER_UNAVAILABLE", "{door:?}");
        assert_eq!(desk.call(get("/after")).await.unwrap().status, 200, "{door:?}");
        assert_eq!(api.connections.load(Ordering::SeqCst), 1, "{door:?}");
        desk.stop().await;
    }
}

#[tokio::test]
async fn a_new_connection_that_dies_before_its_first_answer_is_left_behind_as_the_one_before_was() {
    let api = Api::serving(Door::Tls, |number, socket| async move {
        if number == 2 {
            return conversed(socket).await;
        }
        let Ok(mut connection) = h2::server::handshake(socket).await else { return };
        let mut silent = Vec::new();
        while let Some(Ok((request, respond))) = connection.accept().await {
            if request.uri().path() == "/warm" {
                tokio::spawn(answer(request, respond));
            } else {
                silent.push(respond);
            }
        }
    });
    let api = api.await;
    let desk = api.desk_with(", limits: {head_timeout: 3s}").await;
    assert_eq!(desk.call(get("/warm")).await.unwrap().status, 200);
    for body in [b"7", b"8"] {
        let status = desk.call(post("/charge", body)).await.unwrap_err();
        assert_eq!(reason(&status), "PROVIDER_UNAVAILABLE");
    }
    assert_eq!(desk.call(post("/charge", b"9")).await.unwrap().status, 200);
    assert_eq!(api.connections.load(Ordering::SeqCst), 3);
    desk.stop().await;
}
