//! What the figures of an entry do to calls: sizes, times, repetitions; and what its words about the API's replies mean.

use std::process::Command;
use std::time::Duration;

use http::HeaderName;
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::provider_service_client::ProviderServiceClient;
use token_broker::grpc::proto::v1::stream_provider_call_request::Part as Sent;
use token_broker::sandbox::{Endpoint, Fault};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::stream::{called, chunk, head, message};
use super::{Desk, get, post, reason};

fn told(status: &Status, key: &str) -> String {
    status.get_details_error_info().unwrap().metadata[key].clone()
}

#[tokio::test]
async fn a_body_beyond_the_entrys_limit_is_refused_by_the_limits_name() {
    let desk = Desk::with(", api: {limits: {max_request_bytes: 1000, max_response_bytes: 2000}}").await;
    desk.call(post("/x", &[b'a'; 1000])).await.unwrap();
    let sent = |sizes: &[usize]| {
        let mut sent = vec![message(Sent::Head(head("POST", "/x")))];
        sent.extend(sizes.iter().map(|size| chunk(vec![b'a'; *size], false)));
        sent.push(chunk("", true));
        sent
    };
    called(&desk, sent(&[600, 400])).await.unwrap();
    let larger = [
        desk.call(post("/x", &[b'a'; 1001])).await.unwrap_err(),
        called(&desk, sent(&[600, 401])).await.unwrap_err(),
    ];
    desk.whole.sandbox.script().next_n(2, Endpoint::Echo, Fault::huge(2001));
    let long = [desk.call(get("/x")).await.unwrap_err(), called(&desk, sent(&[])).await.unwrap_err()];
    for (statuses, limit, most) in
        [(larger, "api.limits.max_request_bytes", "1000"), (long, "api.limits.max_response_bytes", "2000")]
    {
        for status in statuses {
            assert_eq!(
                (status.code(), reason(&status).as_str()),
                (Code::ResourceExhausted, "MESSAGE_TOO_LARGE")
            );
            assert_eq!((told(&status, "limit").as_str(), told(&status, "most").as_str()), (limit, most));
            assert!(status.message().contains(limit), "{status}");
        }
    }
    desk.stop().await;
}

#[tokio::test]
async fn a_unary_call_has_the_time_that_the_entry_gives_it_and_no_more() {
    let desk = Desk::with(", api: {limits: {timeout: 300ms}}").await;
    let hold = desk.whole.sandbox.script().hold_every_request(Endpoint::Echo);
    let status = desk.call(get("/x")).await.unwrap_err();
    assert_eq!(
        (reason(&status).as_str(), told(&status, "limit").as_str()),
        ("PROVIDER_UNAVAILABLE", "api.limits.timeout")
    );
    hold.release();
    // In the middle of its body too.
    desk.whole.sandbox.script().next(Endpoint::Echo, Fault::trickle(Duration::from_millis(20)));
    let status = desk.call(get("/x")).await.unwrap_err();
    assert_eq!(told(&status, "limit"), "api.limits.timeout");
    desk.stop().await;
}

#[tokio::test]
async fn where_everything_fails_repetitions_stay_a_fifth_and_ten() {
    let desk = Desk::with(", api: {limits: {retry: aggressive, breaker: {failures: 1000}}}").await;
    desk.whole.sandbox.script().always(Endpoint::Echo, Fault::status(503));
    for _ in 0..20 {
        assert_eq!(desk.call(get("/x")).await.unwrap().status, 503);
    }
    let repeated = desk.calls().len() - 20;
    assert!((10..=20 / 5 + 10).contains(&repeated), "{repeated}");
    desk.stop().await;
}

#[tokio::test]
async fn what_the_entry_calls_a_bad_token_renews_it_whatever_the_status() {
    let rule =
        ", errors: [{at: api, status: [400], path: /error/code, is: [token_expired], means: token_bad}]";
    let desk = Desk::with(rule).await;
    let bad = |code: &str| {
        let body = format!("{{\"error\":{{\"code\":\"{code}\"}}}}");
        Fault::status(400).body("application/json", body)
    };
    desk.whole.sandbox.script().next(Endpoint::Echo, bad("token_expired"));
    let answer = desk.call(post("/x", b"once more")).await.unwrap();
    assert_eq!((answer.status, answer.attempts), (200, 2));
    assert_eq!(desk.whole.sandbox.log().counts().refresh_requests, 1);
    desk.whole.sandbox.script().next(Endpoint::Echo, bad("something_else"));
    let answer = desk.call(post("/x", b"once")).await.unwrap();
    assert_eq!((answer.status, answer.attempts), (400, 1));
    assert_eq!(desk.whole.sandbox.log().counts().refresh_requests, 1);
    desk.stop().await;
}

#[tokio::test]
async fn what_is_left_of_a_quota_is_shown() {
    let desk = Desk::with(", rate: {remaining_header: x-left, limit_header: x-most}").await;
    let fault = Fault::status(404)
        .header(HeaderName::from_static("x-left"), "17")
        .header(HeaderName::from_static("x-most"), "50");
    desk.whole.sandbox.script().next(Endpoint::Echo, fault);
    assert_eq!(desk.call(get("/x")).await.unwrap().status, 404);
    let shown = v1::GetProviderRequest { provider: "sandbox".into() };
    let shown =
        ProviderServiceClient::new(desk.channel.clone()).get_provider(shown).await.unwrap().into_inner();
    let quota = shown.provider.unwrap().api.unwrap().quota.unwrap();
    assert_eq!((quota.remaining, quota.limit), (17, 50));
    desk.stop().await;
}

#[tokio::test]
async fn a_redirect_that_is_followed_is_one_more_request_of_the_budget() {
    let desk = Desk::with(", api: {limits: {budget: {count: 3, per: 10m}}}").await;
    let followed = |path: &str| {
        let mut request =
            tonic::Request::new(v1::CallProviderRequest { follow_redirects: true, ..get(path) });
        request.set_timeout(Duration::from_secs(30));
        request
    };
    desk.whole.sandbox.script().next(Endpoint::Echo, Fault::redirect(302, "/api/near"));
    assert_eq!(desk.client().call_provider(followed("/a")).await.unwrap().into_inner().status, 200);
    // One is left: it goes to the redirect, and where that leads is not asked.
    desk.whole.sandbox.script().next(Endpoint::Echo, Fault::redirect(302, "/api/near"));
    let status = desk.client().call_provider(followed("/b")).await.unwrap_err();
    assert_eq!(reason(&status), "PROVIDER_RATE_LIMITED");
    assert_eq!(desk.calls().len(), 3);
    desk.stop().await;
}

#[tokio::test]
async fn a_500_opens_the_breaker_and_what_is_an_answer_does_not() {
    for (status, opens) in [(500, true), (504, true), (501, false), (404, false)] {
        let desk = Desk::with(", api: {limits: {breaker: {failures: 3, open: 10m}}}").await;
        desk.whole.sandbox.script().next_n(3, Endpoint::Echo, Fault::status(status));
        for _ in 0..3 {
            assert_eq!(desk.call(post("/x", b"a")).await.unwrap().status, u32::from(status));
        }
        let next = desk.call(get("/x")).await.map_err(|status| reason(&status));
        assert_eq!(next.is_err_and(|reason| reason == "PROVIDER_CIRCUIT_OPEN"), opens, "{status}");
        desk.stop().await;
    }
}

/// Runs in a process of its own, because the environment is the process's; see the test below.
#[tokio::test]
async fn child_with_a_proxy_in_its_environment() {
    if std::env::var_os("TOKEN_BROKER_TEST_CALL").is_none() {
        return;
    }
    let desk = Desk::new().await;
    assert_eq!(desk.call(get("/x")).await.unwrap().status, 200);
    println!("the call was made");
    desk.stop().await;
}

#[tokio::test]
async fn a_proxy_in_the_environment_is_not_asked() {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "--nocapture", "call::measures::child_with_a_proxy_in_its_environment"]);
    child.env("TOKEN_BROKER_TEST_CALL", "1");
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        // Where nobody listens: what goes there is lost.
        child.env(name, "http://127.0.0.1:9");
    }
    for name in ["no_proxy", "NO_PROXY", "REQUEST_METHOD"] {
        child.env_remove(name);
    }
    let output = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("the call was made"), "{said}");
}

#[tokio::test]
async fn a_503_that_asks_for_a_longer_wait_than_there_is_time_is_the_answer() {
    let desk = Desk::new().await;
    let hour = Fault::status(503).retry_after(Duration::from_secs(3600));
    desk.whole.sandbox.script().always(Endpoint::Echo, hour);
    let answer = desk.call(get("/x")).await.unwrap();
    assert_eq!((answer.status, answer.attempts), (503, 1), "nothing is sent before that hour is over");
    desk.stop().await;
}
