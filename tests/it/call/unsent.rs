//! Calls whose time runs out before anything of them has left: they were certainly not made, and are told so.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::connection_service_client::ConnectionServiceClient;
use token_broker::grpc::proto::v1::stream_provider_call_request::Part as Sent;
use token_broker::sandbox::Endpoint;
use tokio::sync::Notify;
use tonic::Status;
use tonic_types::StatusExt as _;

use super::http2::{Api, Door, conversed, received};
use super::stream::{head, message};
use super::{Desk, get, post, reason};

/// No key by which the provider would know a repetition.
const KEYLESS: &str = ", idempotency_header: null";

fn limit(status: &Status) -> String {
    status.get_details_error_info().unwrap().metadata.get("limit").cloned().unwrap_or_default()
}

fn once(request: v1::CallProviderRequest) -> v1::CallProviderRequest {
    let retry = Some(v1::RetryPolicy { mode: v1::RetryMode::Never.into(), max_attempts: 0 });
    v1::CallProviderRequest { retry, request_id: "charge-7".into(), ..request }
}

/// An API that answers one request at a time: `/open` with a head, and with no more until it is told to; of others every
/// head is counted.
async fn narrow() -> (Api, Arc<Notify>, Arc<AtomicUsize>) {
    let (end, served) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (ended, counted) = (end.clone(), served.clone());
    let api = Api::serving(Door::Tls, move |_, socket| {
        let (ended, counted) = (ended.clone(), counted.clone());
        async move {
            let handshake = h2::server::Builder::new().max_concurrent_streams(1).handshake(socket);
            let Ok(mut connection) = handshake.await else { return };
            while let Some(Ok((mut request, mut respond))) = connection.accept().await {
                let ended = ended.clone();
                let is_open = request.uri().path() == "/open";
                counted.fetch_add(usize::from(!is_open), Ordering::SeqCst);
                tokio::spawn(async move {
                    while let Some(data) = request.body_mut().data().await {
                        if data.is_err() {
                            return;
                        }
                    }
                    let response = http::Response::new(());
                    if is_open {
                        let mut stream = respond.send_response(response, false).unwrap();
                        ended.notified().await;
                        drop(stream.send_data(bytes::Bytes::new(), true));
                    } else {
                        drop(respond.send_response(response, true));
                    }
                });
            }
        }
    });
    (api.await, end, served)
}

#[tokio::test]
async fn a_call_that_only_stood_in_line_was_not_made_and_its_id_is_free() {
    let (api, end, served) = narrow().await;
    let desk = api.desk_with(&format!("{KEYLESS}, limits: {{head_timeout: 1s}}")).await;
    // The provider's word on how many may be open is heard by the first answer.
    assert_eq!(desk.call(get("/warm")).await.unwrap().status, 200);
    let open = futures_util::stream::iter([message(Sent::Head(head("GET", "/open")))]);
    let mut open = desk.client().stream_provider_call(open).await.unwrap().into_inner();
    open.message().await.unwrap().unwrap();
    let calls = ["a", "b", "c"].map(|id| {
        let request = once(post("/charge", b"7"));
        v1::CallProviderRequest { request_id: id.into(), ..request }
    });
    let waiting = calls.iter().map(|request| desk.call(request.clone()));
    let mut unsent = Vec::new();
    for (outcome, request) in futures_util::future::join_all(waiting).await.into_iter().zip(&calls) {
        let status = outcome.unwrap_err();
        assert_eq!(
            (reason(&status).as_str(), limit(&status).as_str()),
            ("PROVIDER_UNAVAILABLE", "api.limits.head_timeout")
        );
        if status.message().contains("did not leave") {
            unsent.push(request.clone());
        }
    }
    assert_eq!(unsent.len(), 2, "the head of the first in line is with the connection, and may go");
    end.notify_one();
    while open.message().await.unwrap().is_some() {}
    let before = served.load(Ordering::SeqCst);
    for request in unsent {
        assert_eq!(desk.call(request).await.unwrap().status, 200);
    }
    assert_eq!(served.load(Ordering::SeqCst), before + 2);
    assert!(before <= 2, "the first call, and perhaps the first in line: {before}");
    desk.stop().await;
}

#[tokio::test]
async fn a_call_whose_connection_hangs_is_made_over_another_whatever_its_method() {
    for body in [&b"charge"[..], b""] {
        let api = Api::hanging(1, Door::Tls, |_, socket| conversed(socket)).await;
        let desk = api.desk_with(&format!("{KEYLESS}, limits: {{head_timeout: 1s}}")).await;
        let answer = desk.call(post("/charge", body)).await.unwrap();
        assert_eq!((answer.status, answer.attempts), (200, 2), "{body:?}");
        desk.stop().await;
    }
}

#[tokio::test]
async fn a_call_that_may_have_been_made_is_not_said_to_be_unmade_by_its_last_attempt() {
    let api = Api::serving(Door::Plain, |number, socket| async move {
        // Of the first connection a request is taken; the others are closed before one comes.
        if number > 0 {
            return;
        }
        let mut connection = h2::server::handshake(socket).await.unwrap();
        connection.accept().await.unwrap().unwrap();
    })
    .await;
    let desk = api.desk_with("").await;
    let request = v1::CallProviderRequest { request_id: "charge-7".into(), ..post("/charge", b"7") };
    let status = desk.call(request).await.unwrap_err();
    assert!(status.message().contains("the connection broke"), "{status}");
    assert!(api.connections.load(Ordering::SeqCst) > 1, "it was tried again");
    desk.stop().await;
}

#[tokio::test]
async fn time_that_the_token_takes_is_the_calls() {
    let desk = Desk::with(&format!(", api: {{limits: {{timeout: 300ms}}{KEYLESS}}}")).await;
    let import = desk.tokenless("user-8");
    let fresh = once(v1::CallProviderRequest { connection: "user-8".into(), ..post("/charge", b"7") });
    let declined = once(post("/charge", b"7"));
    desk.whole.sandbox.grants().expire_access_tokens();
    let mut hold = desk.whole.sandbox.script().hold_every_request(Endpoint::Token);
    let mut connections = ConnectionServiceClient::new(desk.channel.clone());
    let importing = tokio::spawn(async move { connections.import_connection(import).await });
    // The connection is there, and its first token on its way.
    hold.reached(1).await;
    for (request, sent) in [(&fresh, 0), (&declined, 1)] {
        let status = desk.call(request.clone()).await.unwrap_err();
        assert_eq!(
            (reason(&status).as_str(), limit(&status).as_str()),
            ("PROVIDER_UNAVAILABLE", "api.limits.timeout")
        );
        assert!(status.message().contains("did not leave"), "{status}");
        assert_eq!(desk.calls().len(), sent);
    }
    hold.release();
    importing.await.unwrap().unwrap();
    // What the flights under way bring serves the same calls, under the same ids.
    for request in [fresh, declined] {
        while desk.call(request.clone()).await.is_err() {}
        assert_eq!(desk.call(request).await.unwrap().status, 200);
    }
    desk.stop().await;
}

#[tokio::test]
async fn a_body_that_is_taken_slowly_has_the_time_it_takes() {
    const PIECE: usize = 64 * 1024;
    let api = Api::serving(Door::Tls, |_, socket| async move {
        let Ok(mut connection) = h2::server::handshake(socket).await else { return };
        while let Some(Ok((mut request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let mut untaken = 0;
                let mut taken = 0;
                while taken + untaken < 14 * PIECE {
                    let Some(Ok(data)) = request.body_mut().data().await else { return };
                    untaken += data.len();
                    if untaken + 1 >= PIECE {
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        request.body_mut().flow_control().release_capacity(untaken).unwrap();
                        (taken, untaken) = (taken + untaken, 0);
                    }
                }
                let response = http::Response::builder().header("x-received", taken + untaken);
                drop(respond.send_response(response.body(()).unwrap(), true));
            });
        }
    })
    .await;
    let desk = api.desk_with(&format!("{KEYLESS}, limits: {{head_timeout: 1s}}")).await;
    let answer = desk.call(post("/slow", &vec![b'a'; 14 * PIECE])).await.unwrap();
    assert_eq!((answer.status, received(&answer.headers)), (200, "917504"));
    desk.stop().await;
}
