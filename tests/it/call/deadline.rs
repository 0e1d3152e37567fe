//! Calls whose callers' deadline passes before there is an answer.

use std::time::Duration;

use token_broker::sandbox::Endpoint;
use tonic::{Code, Request};

use super::host::shown;
use super::{Desk, get, reason};

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

#[tokio::test]
async fn a_host_that_says_nothing_until_its_callers_time_is_over_has_failed() {
    let limits = ", api: {limits: {head_timeout: 3s, breaker: {failures: 1, open: 10m}}}";
    let desk = Desk::with(limits).await;
    let hold = desk.whole.sandbox.script().hold_request(Endpoint::Echo);
    called_within(&desk, Duration::from_secs(2)).await;
    assert_eq!(reason(&desk.call(get("/x")).await.unwrap_err()), "PROVIDER_CIRCUIT_OPEN");
    hold.release();
    desk.stop().await;
}

#[tokio::test]
async fn callers_that_have_hardly_any_time_close_nobodys_way() {
    let limits = ", api: {limits: {head_timeout: 30s, breaker: {failures: 1, open: 10m}}}";
    let desk = Desk::with(limits).await;
    let hold = desk.whole.sandbox.script().hold_request(Endpoint::Echo);
    called_within(&desk, Duration::from_millis(300)).await;
    assert_eq!(desk.call(get("/x")).await.unwrap().status, 200);
    hold.release();
    desk.stop().await;
}
