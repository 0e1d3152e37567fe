//! Answers that are given again: to whom, and when no more.

use std::time::Duration;

use http::header::{AGE, CACHE_CONTROL, ETAG, SET_COOKIE, VARY};
use token_broker::clock::{Clock as _, SystemClock};
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::AnswerSource::{Cache, Provider, Revalidated};
use token_broker::grpc::proto::v1::connection_service_client::ConnectionServiceClient;
use token_broker::sandbox::{Endpoint, Fault};

use super::{Desk, get, header, json};

pub(super) const ENTRY: &str = ", api: {cache: {max_entries: 10}}";

pub(super) fn fresh(body: &'static str) -> Fault {
    Fault::status(200).body("text/plain", body).header(CACHE_CONTROL, "max-age=600").header(ETAG, "\"1\"")
}

fn unchanged(cache_control: &str) -> Fault {
    Fault::status(304).header(CACHE_CONTROL, cache_control).header(ETAG, "\"1\"")
}

pub(super) async fn asked(desk: &Desk, request: v1::CallProviderRequest) -> (v1::AnswerSource, u32, String) {
    let answer = desk.call(request).await.unwrap();
    assert_eq!(answer.status, 200);
    (answer.answer_source(), answer.attempts, String::from_utf8(answer.body.to_vec()).unwrap())
}

fn of(connection: &str) -> v1::CallProviderRequest {
    v1::CallProviderRequest { connection: connection.into(), ..get("/x") }
}

/// A grant of the sandbox's takes the place of the one before.
async fn import_again(desk: &Desk, name: &str, account: &str) {
    let grant = desk.whole.sandbox.grants().issue(account, &["openid", "email"]);
    let ends_at = SystemClock.now() + grant.expires_in;
    let asked = v1::ImportConnectionRequest {
        provider: "sandbox".into(),
        connection: name.into(),
        refresh_token: grant.refresh_token.unwrap().expose().clone(),
        access_token: grant.access_token.expose().clone(),
        expire_time: Some(prost_types::Timestamp { seconds: ends_at.as_millis() / 1000, nanos: 0 }),
        replace: true,
        ..Default::default()
    };
    ConnectionServiceClient::new(desk.channel.clone()).import_connection(asked).await.unwrap();
}

#[tokio::test]
async fn an_answer_is_given_again_to_its_own_connection_alone() {
    let desk = Desk::with(ENTRY).await;
    desk.connect("user-43").await;
    let script = desk.whole.sandbox.script();
    script.next(Endpoint::Echo, fresh("first"));
    assert_eq!(asked(&desk, of("user-42")).await, (Provider, 1, "first".into()));
    let again = desk.call(of("user-42")).await.unwrap();
    assert_eq!((again.answer_source(), again.attempts, &again.body[..]), (Cache, 0, &b"first"[..]));
    assert!(again.headers.iter().any(|field| field.name == AGE.as_str()), "{:?}", again.headers);
    assert_eq!(again.token_source(), v1::TokenSource::Cache);
    script.next(Endpoint::Echo, fresh("second"));
    assert_eq!(asked(&desk, of("user-43")).await, (Provider, 1, "second".into()));
    assert_eq!(asked(&desk, of("user-43")).await, (Cache, 0, "second".into()));
    assert_eq!(asked(&desk, of("user-42")).await, (Cache, 0, "first".into()));
    assert_eq!(desk.calls().len(), 2);
    desk.stop().await;
}

#[tokio::test]
async fn the_provider_is_asked_whether_a_doubtful_answer_is_still_good() {
    let desk = Desk::with(ENTRY).await;
    let script = desk.whole.sandbox.script();
    let doubtful = Fault::status(200)
        .body("text/plain", "kept")
        .header(CACHE_CONTROL, "no-cache")
        .header(ETAG, "\"1\"")
        .header(VARY, "accept");
    script.next(Endpoint::Echo, doubtful.clone());
    assert_eq!(asked(&desk, get("/x")).await, (Provider, 1, "kept".into()));
    script.next(Endpoint::Echo, unchanged("no-cache"));
    assert_eq!(asked(&desk, get("/x")).await, (Revalidated, 1, "kept".into()));
    // One that speaks of another answer is no answer to this: it is asked for anew, in the same attempt.
    script.next(Endpoint::Echo, Fault::status(304).header(ETAG, "\"2\""));
    script.next(Endpoint::Echo, doubtful);
    assert_eq!(asked(&desk, get("/x")).await, (Provider, 1, "kept".into()));
    // The sandbox says back what it is sent, and says nothing of how long that is good.
    let sent = json(&desk.call(get("/x")).await.unwrap())["headers"].as_array().unwrap().clone();
    assert!(sent.iter().any(|pair| pair[0] == "if-none-match" && pair[1] == "\"1\""), "{sent:?}");
    desk.stop().await;
}

#[tokio::test]
async fn a_callers_wish_and_a_cookie_keep_answers_out() {
    let desk = Desk::with(ENTRY).await;
    let script = desk.whole.sandbox.script();
    let with =
        |value: &str| v1::CallProviderRequest { headers: vec![header("cache-control", value)], ..get("/x") };
    script.next_n(2, Endpoint::Echo, fresh("a"));
    assert_eq!(asked(&desk, with("no-store")).await.0, Provider);
    assert_eq!(asked(&desk, get("/x")).await.0, Provider, "the one before left nothing");
    assert_eq!(asked(&desk, get("/x")).await.0, Cache);
    script.next(Endpoint::Echo, unchanged("max-age=600"));
    assert_eq!(asked(&desk, with("no-cache")).await.0, Revalidated);
    let with_cookie = fresh("b").header(SET_COOKIE, "a=b");
    script.next_n(2, Endpoint::Echo, with_cookie);
    for _ in 0..2 {
        assert_eq!(asked(&desk, get("/cookie")).await.0, Provider);
    }
    desk.stop().await;
}

#[tokio::test]
async fn what_is_written_to_an_address_is_read_from_it_next() {
    let desk = Desk::with(ENTRY).await;
    let script = desk.whole.sandbox.script();
    script.next(Endpoint::Echo, fresh("old"));
    asked(&desk, get("/x")).await;
    asked(&desk, v1::CallProviderRequest { method: "DELETE".into(), ..get("/x") }).await;
    script.next(Endpoint::Echo, fresh("new"));
    assert_eq!(asked(&desk, get("/x")).await, (Provider, 1, "new".into()));
    desk.stop().await;
}

#[tokio::test]
async fn what_may_have_been_written_by_a_call_whose_caller_left_is_read_anew() {
    let desk = Desk::with(ENTRY).await;
    let script = desk.whole.sandbox.script();
    script.next(Endpoint::Echo, fresh("old"));
    asked(&desk, get("/x")).await;
    let mut hold = script.hold_answer(Endpoint::Echo);
    let writing = tokio::spawn({
        let mut client = desk.client();
        let call = v1::CallProviderRequest { method: "DELETE".into(), ..get("/x") };
        let mut call = tonic::Request::new(call);
        call.set_timeout(Duration::from_millis(300));
        async move { client.call_provider(call).await }
    });
    hold.reached(1).await;
    writing.await.unwrap().unwrap_err();
    hold.release();
    script.clear();
    script.next(Endpoint::Echo, fresh("new"));
    assert_eq!(asked(&desk, get("/x")).await, (Provider, 1, "new".into()));
    desk.stop().await;
}

#[tokio::test]
async fn a_connection_that_changes_hands_or_ends_leaves_nothing_behind() {
    let desk = Desk::with(ENTRY).await;
    let script = desk.whole.sandbox.script();
    script.next(Endpoint::Echo, fresh("of user-42"));
    asked(&desk, get("/x")).await;
    // One that is on its way while the connection changes hands, too.
    let mut hold = script.hold_answer(Endpoint::Echo);
    let under_way = tokio::spawn({
        let mut client = desk.client();
        async move { client.call_provider(get("/y")).await }
    });
    hold.reached(1).await;
    script.next(Endpoint::Echo, fresh("never seen"));
    import_again(&desk, "user-42", "somebody-else").await;
    hold.release();
    under_way.await.unwrap().unwrap();
    script.clear();
    for path in ["/x", "/y"] {
        let answer = desk.call(get(path)).await.unwrap();
        assert_eq!(answer.answer_source(), Provider);
        assert_eq!(json(&answer)["account"], "somebody-else");
    }

    script.next(Endpoint::Echo, fresh("of somebody else"));
    asked(&desk, get("/z")).await;
    let named = v1::DisconnectRequest {
        provider: "sandbox".into(),
        connection: "user-42".into(),
        ..Default::default()
    };
    ConnectionServiceClient::new(desk.channel.clone()).disconnect(named).await.unwrap();
    desk.call(get("/z")).await.unwrap_err();
    desk.connect("user-42").await;
    assert_eq!(json(&desk.call(get("/z")).await.unwrap())["account"], "user-42");
    desk.stop().await;
}

#[tokio::test]
async fn nothing_is_remembered_where_the_entry_does_not_say_so() {
    let desk = Desk::new().await;
    desk.whole.sandbox.script().next_n(2, Endpoint::Echo, fresh("a"));
    for _ in 0..2 {
        assert_eq!(asked(&desk, get("/x")).await, (Provider, 1, "a".into()));
    }
    desk.stop().await;
}
