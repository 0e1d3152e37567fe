//! Calls whose callers' deadline passes before there is an answer.

use std::time::Duration;

use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::connection_service_client::ConnectionServiceClient;
use token_broker::sandbox::{Endpoint, Exchange};
use tonic::{Code, Request};

use super::host::shown;
use super::{Desk, get, post, reason};

/// A call that is over before there is an answer, here and in the broker.
async fn called_within(desk: &Desk, deadline: Duration) {
    let mut request = Request::new(get("/x"));
    request.set_timeout(deadline);
    let code = desk.client().call_provider(request).await.unwrap_err().code();
    // Whichever clock is first, the caller's or the broker's.
    assert!(matches!(code, Code::Cancelled | Code::DeadlineExceeded), "{code:?}");
    let is_over = async { while shown(desk).await.in_flight > 0 {} };
    tokio::time::timeout(Duration::from_secs(60), is_over).await.unwrap();
}

/// What comes of a call after one to a host that said nothing for as long as its caller had, where one failure closes the
/// way.
async fn after_silence(head_timeout: &str, time: Duration) -> Result<u32, String> {
    let limits = format!("head_timeout: {head_timeout}, breaker: {{failures: 1, open: 10m}}");
    let desk = Desk::with(&format!(", api: {{limits: {{{limits}}}}}")).await;
    let hold = desk.whole.sandbox.script().hold_request(Endpoint::Echo);
    called_within(&desk, time).await;
    let next = desk.call(get("/x")).await;
    hold.release();
    desk.stop().await;
    next.map(|answer| answer.status).map_err(|status| reason(&status))
}

#[tokio::test]
async fn a_host_that_says_nothing_until_its_callers_time_is_over_has_failed() {
    let next = after_silence("3s", Duration::from_secs(2)).await;
    assert_eq!(next, Err("PROVIDER_CIRCUIT_OPEN".to_owned()));
}

#[tokio::test]
async fn callers_that_have_hardly_any_time_close_nobodys_way() {
    assert_eq!(after_silence("30s", Duration::from_millis(300)).await, Ok(200));
}

#[tokio::test]
async fn what_has_not_left_when_its_callers_time_is_over_does_not_leave_later() {
    let desk = Desk::new().await;
    let import = desk.tokenless("user-8");
    desk.whole.sandbox.grants().expire_access_tokens();
    let mut hold = desk.whole.sandbox.script().hold_every_request(Endpoint::Token);
    let mut connections = ConnectionServiceClient::new(desk.channel.clone());
    let importing = tokio::spawn(async move { connections.import_connection(import).await });
    // The connection is there, and its first token on its way.
    hold.reached(1).await;
    let charge = |connection: &str, time| {
        let call = post("/charge", b"7");
        let request_id = "charge-7".into();
        let mut request =
            Request::new(v1::CallProviderRequest { connection: connection.into(), request_id, ..call });
        request.set_timeout(time);
        let mut client = desk.client();
        async move { client.call_provider(request).await.unwrap_err().code() }
    };
    // This one has no token yet.
    let code = charge("user-8", Duration::from_millis(500)).await;
    assert!(matches!(code, Code::Cancelled | Code::DeadlineExceeded), "{code:?}");
    assert_eq!(desk.calls().len(), 0);
    // The token of this one is refused: what it wanted was not done, and it waits for another token.
    let mut call = std::pin::pin!(charge("user-42", Duration::from_secs(5)));
    tokio::select! {
        code = &mut call => panic!("{code:?} before its token was renewed"),
        () = hold.reached(2) => {}
    }
    let code = call.await;
    assert!(matches!(code, Code::Cancelled | Code::DeadlineExceeded), "{code:?}");
    assert_eq!(desk.calls().len(), 1);
    hold.release();
    importing.await.unwrap().unwrap();
    for connection in ["user-8", "user-42"] {
        let next = v1::CallProviderRequest { connection: connection.into(), ..get("/next") };
        assert_eq!(desk.call(next).await.unwrap().status, 200);
    }
    let log = desk.whole.sandbox.log();
    // Then nothing that was begun goes on.
    desk.stop().await;
    let is_charge = |exchange: &Exchange| exchange.endpoint == Endpoint::Echo;
    let calls = log.exchanges().into_iter().filter(is_charge).count();
    assert_eq!(calls, 3, "the one that was refused, and the two after that");
}
