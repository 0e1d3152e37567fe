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
