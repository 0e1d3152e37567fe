//! Faults and the ground-truth log, seen from the client's end and from the server's.

use std::io;
use std::time::Duration;

use token_broker::clock::Timestamp;
use token_broker::sandbox::{
    Behavior, Delivery, Effect, Endpoint, Exchange, Fault, Fingerprint, Generation, On,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::wire::{Answer, Case, encoded};

/// Longer than anything here may take; only a hang meets it.
const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("this never happened")
}

/// Meets the next refresh with `fault`. What the client got, and what the server holds true.
async fn meet(fault: Fault) -> (io::Result<Answer>, Exchange) {
    let case = Case::new(Behavior::default());
    let (refresh_token, _) = case.tokens();
    case.sandbox.script().next(On::refresh(), fault);
    let answer = soon(case.refresh(&refresh_token)).await;
    let truth = soon(case.sandbox.log().wait_for(|exchange| exchange.ended.is_some())).await;
    let next = case.refresh(&refresh_token).await.unwrap();
    assert_eq!(next.status, if truth.processed.is_some() { 400 } else { 200 }, "the books and the log agree");
    (answer, truth)
}

#[tokio::test]
async fn a_lost_answer_has_rotated_and_a_lost_request_has_not() {
    let (answer, truth) = meet(Fault::drop_answer()).await;
    assert!(answer.is_err());
    assert_eq!(truth.effect, Some(Effect::Rotated { to: Generation(2) }));
    assert_eq!((truth.fault, truth.delivery), (Some("drop_answer"), Some(Delivery::Dropped)));

    let (answer, truth) = meet(Fault::drop_request()).await;
    assert!(answer.is_err());
    assert_eq!((truth.effect, truth.processed), (None, None));
}

#[tokio::test]
async fn a_dropped_connection_carries_not_one_byte() {
    let case = Case::new(Behavior::default());
    case.sandbox.script().next(Endpoint::Token, Fault::drop_answer());
    let mut stream = TcpStream::connect(case.sandbox.address()).await.unwrap();
    let head =
        format!("POST /token HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\n\r\n", case.sandbox.address());
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.is_empty());
}

#[tokio::test]
async fn a_proxys_error_comes_before_or_after_the_rotation() {
    let (answer, truth) = meet(Fault::html(502)).await;
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.header("content-type")), (502, "text/html; charset=utf-8"));
    assert_eq!(truth.processed, None);
    assert_eq!(truth.delivery, Some(Delivery::Sent { status: 502 }));

    let (answer, truth) = meet(Fault::html(502).after_processing()).await;
    assert_eq!(answer.unwrap().status, 502);
    assert!(truth.processed.is_some());
}

#[tokio::test]
async fn refusals_carry_what_they_were_given() {
    let (answer, _) = meet(Fault::status(429).retry_after(Duration::from_secs(17))).await;
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.header("retry-after"), &*answer.body), (429, "17", ""));

    let at = Timestamp::from_millis(784_111_777_000);
    let (answer, _) = meet(Fault::status(503).retry_after_at(at)).await;
    assert_eq!(answer.unwrap().header("retry-after"), "Sun, 06 Nov 1994 08:49:37 GMT");

    let (answer, _) = meet(Fault::oauth_error("invalid_client")).await;
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.text("error")), (401, "invalid_client".to_owned()));

    let (answer, _) = meet(Fault::redirect(307, "http://127.0.0.1:9/elsewhere")).await;
    assert_eq!(answer.unwrap().header("location"), "http://127.0.0.1:9/elsewhere");
}

#[tokio::test]
async fn a_body_may_be_empty_broken_or_cut_after_the_rotation() {
    let (answer, truth) = meet(Fault::empty()).await;
    let answer = answer.unwrap();
    assert_eq!((answer.status, &*answer.body), (200, ""));
    assert_eq!(truth.effect, Some(Effect::Rotated { to: Generation(2) }));

    let (answer, _) = meet(Fault::truncated()).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.body.starts_with('{') && answer.json().is_null(), "half of it, as if it were all");

    let (answer, truth) = meet(Fault::cut()).await;
    assert!(answer.is_err(), "the head promised more");
    assert_eq!(truth.delivery, Some(Delivery::Sent { status: 200 }));
}

#[tokio::test]
async fn a_cut_body_arrives_up_to_the_cut() {
    let case = Case::new(Behavior::default());
    case.sandbox.script().next(Endpoint::Discovery, Fault::cut());
    let mut stream = TcpStream::connect(case.sandbox.address()).await.unwrap();
    let target = "/.well-known/openid-configuration";
    let head = format!("GET {target} HTTP/1.1\r\nhost: {}\r\n\r\n", case.sandbox.address());
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let promised: usize =
        head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
    assert_eq!(body.len(), promised / 2);
}

#[tokio::test]
async fn a_body_may_trickle_or_never_end() {
    let (answer, truth) = meet(Fault::trickle(Duration::from_millis(1))).await;
    assert!(answer.unwrap().json()["access_token"].is_string());
    assert!(truth.processed < truth.ended);

    let (answer, _) = meet(Fault::huge(1_000_001)).await;
    let answer = answer.unwrap();
    assert_eq!(answer.body.len(), 1_000_001);
    assert!(answer.body.starts_with("{\"access_token\":\"aaa"));
}

#[tokio::test]
async fn a_delay_may_come_before_or_after() {
    for fault in
        [Fault::delay_request(Duration::from_millis(5)), Fault::delay_answer(Duration::from_millis(5))]
    {
        assert_eq!(meet(fault).await.0.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_held_request_has_arrived_and_changed_nothing() {
    let case = Case::new(Behavior::default());
    let (refresh_token, _) = case.tokens();
    let mut hold = case.sandbox.script().hold_request(On::refresh().account("user-42"));
    let log = case.sandbox.log();
    let observe = async {
        soon(hold.reached(1)).await;
        let seen = log.exchanges();
        assert!(seen[0].is_in_flight() && seen[0].processed.is_none());
        assert_eq!(seen[0].subject.fingerprint, Some(Fingerprint::of(&refresh_token)));
        assert_eq!(log.rotations(), 0);
        hold.release();
    };
    let (answer, ()) = tokio::join!(soon(case.refresh(&refresh_token)), observe);
    assert_eq!(answer.unwrap().status, 200);
}

#[tokio::test]
async fn a_held_answer_has_taken_effect() {
    let case = Case::new(Behavior::default());
    let (refresh_token, _) = case.tokens();
    let hold = case.sandbox.script().hold_answer(On::refresh());
    let log = case.sandbox.log();
    let observe = async {
        let truth = soon(log.wait_for(|exchange| exchange.processed.is_some())).await;
        assert!(truth.is_in_flight());
        assert_eq!(log.rotations(), 1);
        drop(hold);
    };
    let (answer, ()) = tokio::join!(soon(case.refresh(&refresh_token)), observe);
    assert_eq!(answer.unwrap().status, 200);
}

#[tokio::test]
async fn two_requests_with_one_refresh_token_in_flight_overlap() {
    let case = Case::new(Behavior::default());
    let (refresh_token, _) = case.tokens();
    let mut hold = case.sandbox.script().hold_every_request(On::refresh());
    let log = case.sandbox.log();
    let observe = async {
        soon(hold.reached(2)).await;
        hold.release();
    };
    let (one, two, ()) =
        tokio::join!(soon(case.refresh(&refresh_token)), soon(case.refresh(&refresh_token)), observe);
    let mut statuses = [one.unwrap().status, two.unwrap().status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400]);
    let overlapped: Vec<bool> = log.refreshes().iter().map(|exchange| exchange.overlapped).collect();
    assert_eq!(overlapped, [false, true]);
    assert_eq!((log.counts().overlaps, log.spent_tokens_presented()), (1, 1));
}

#[tokio::test]
async fn a_client_that_hangs_up_undoes_nothing() {
    let case = Case::new(Behavior::default());
    let (refresh_token, _) = case.tokens();
    let mut hold = case.sandbox.script().hold_request(On::refresh());
    {
        let refresh = case.refresh(&refresh_token);
        tokio::pin!(refresh);
        tokio::select! {
            _ = &mut refresh => panic!("answered while held"),
            () = hold.reached(1) => {}
        }
    }
    let log = case.sandbox.log();
    let left = soon(log.wait_for(|exchange| exchange.delivery == Some(Delivery::ClientLeft))).await;
    assert!(left.is_in_flight(), "the server is not done with it");
    hold.release();
    let truth = soon(log.wait_for(|exchange| exchange.ended.is_some())).await;
    assert_eq!(truth.effect, Some(Effect::Rotated { to: Generation(2) }));
    assert_eq!(truth.delivery, Some(Delivery::ClientLeft));
}

#[tokio::test]
async fn half_a_body_spends_nothing() {
    let case = Case::new(Behavior::default());
    let (refresh_token, _) = case.tokens();
    let form = encoded(&[("grant_type", "refresh_token"), ("refresh_token", &refresh_token)]);
    let mut stream = TcpStream::connect(case.sandbox.address()).await.unwrap();
    let head = format!(
        "POST /token HTTP/1.1\r\nhost: {}\r\nauthorization: {}\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
        case.sandbox.address(),
        case.basic(),
        form.len() + 1,
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(case.sandbox.log().token_requests(), 0);
    assert_eq!(case.refresh(&refresh_token).await.unwrap().status, 200);
}

#[tokio::test]
async fn an_unplugged_server_refuses_connections_and_forgets_nothing() {
    let mut case = Case::new(Behavior::default());
    let (refresh_token, _) = case.tokens();
    let address = case.sandbox.address();
    soon(case.sandbox.unplug()).await;
    let refused = case.refresh(&refresh_token).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

    case.sandbox.plug().unwrap();
    assert_eq!(case.sandbox.address(), address);
    assert_eq!(case.refresh(&refresh_token).await.unwrap().status, 200);
}

#[tokio::test]
async fn stopping_ends_requests_that_are_held() {
    let case = Case::new(Behavior::default());
    let (refresh_token, _) = case.tokens();
    let mut hold = case.sandbox.script().hold_request(On::refresh());
    let (address, log) = (case.sandbox.address(), case.sandbox.log());
    let mut stream = TcpStream::connect(address).await.unwrap();
    let form = encoded(&[("grant_type", "refresh_token"), ("refresh_token", &refresh_token)]);
    let head = format!(
        "POST /token HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: {}\r\n\r\n{form}",
        form.len(),
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    soon(hold.reached(1)).await;
    soon(case.sandbox.stop()).await;

    let truth = soon(log.wait_for(|exchange| exchange.ended.is_some())).await;
    assert_eq!(truth.processed, None);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn dropping_the_sandbox_closes_its_connections() {
    let case = Case::new(Behavior::default());
    let mut idle = TcpStream::connect(case.sandbox.address()).await.unwrap();
    drop(case.sandbox);
    let mut answer = Vec::new();
    // A connection not yet accepted is reset, an accepted one ends: it is over either way.
    let _ = soon(idle.read_to_end(&mut answer)).await;
    assert!(answer.is_empty());
}

#[tokio::test]
async fn the_log_holds_no_token_code_or_secret() {
    let case = Case::new(Behavior::default());
    let page = case.authorize(&[]).await;
    case.authorize(&[("client_id", "sbx_in_the_wrong_field")]).await;
    case.consent(&page, &[("account", "sbx_in_the_wrong_field"), ("decision", "approve")]).await;
    let form = [("account", "user-42"), ("scope", "openid"), ("decision", "approve")];
    let code = case.consent(&page, &form).await.returned("code").unwrap();
    let tokens = case.redeem(&code, &[]).await;
    case.user_info(&tokens.text("access_token")).await;
    case.refresh(&tokens.text("refresh_token")).await.unwrap();
    case.post("/revoke", &[("token", &tokens.text("refresh_token"))]).await.unwrap();

    let shown = format!("{:?} {:?}", case.sandbox, case.sandbox.log().exchanges());
    assert_eq!(case.sandbox.log().exchanges().len(), 8);
    assert!(!shown.contains("sbx_"), "{shown}");
    assert!(shown.contains(&Fingerprint::of(&code).to_string()));
}

#[tokio::test]
async fn a_witness_sees_a_request_before_it_has_any_effect() {
    let case = Case::new(Behavior::default());
    let (refresh_token, _) = case.tokens();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let grants = case.sandbox.grants();
    case.sandbox.witness(move |exchange| tell.send((exchange.clone(), grants.list()[0].newest)).unwrap());

    let answer = case.refresh(&refresh_token).await.unwrap();

    let (seen, newest) = told.recv().await.unwrap();
    assert!(seen.is_refresh() && seen.processed.is_none());
    assert_eq!((seen.subject.generation, newest), (Some(Generation(1)), Some(Generation(1))));
    let grants = case.sandbox.grants();
    assert_eq!(
        grants.issued_beside(&answer.text("access_token")),
        Some((grants.list()[0].id, Generation(2)))
    );
}
