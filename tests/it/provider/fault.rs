//! What befalls a refresh on the wire, and what it is taken for.

use std::time::Duration;

use serde_json::json;
use token_broker::error::{AmbiguousCause, ProviderError, Unsent};
use token_broker::provider::ProviderClient as _;
use token_broker::provider::http::HttpSettings;
use token_broker::sandbox::{Fault, On};

use super::flow::{VERIFIER, code_grant};
use super::peer::{Manner, Peer};
use super::{Renew as _, provider, provider_of, provider_with, refresh_token, refresh_token_of, sandbox};

fn ambiguous(cause: AmbiguousCause) -> ProviderError {
    ProviderError::Ambiguous { cause }
}

fn answered(status: u16, retry_after: Option<Duration>) -> ProviderError {
    ambiguous(AmbiguousCause::Status { status, retry_after })
}

fn unsent(cause: Unsent) -> ProviderError {
    ProviderError::Unavailable { cause, retry_after: None }
}

#[tokio::test]
async fn every_fault_is_told_for_what_it_is_and_none_is_taken_for_death() {
    let sandbox = sandbox();
    let provider = provider_of(&sandbox, json!({"token_timeout": "500ms", "dead_when": ["invalid_grant"]}));
    let hour = Duration::from_secs(3600);
    let limited = |seconds| ProviderError::RateLimited { retry_after: seconds };
    let table = [
        (Fault::drop_request(), ambiguous(AmbiguousCause::Reset)),
        (Fault::drop_answer(), ambiguous(AmbiguousCause::Reset)),
        (Fault::delay_answer(hour), ambiguous(AmbiguousCause::Timeout)),
        (Fault::trickle(Duration::from_secs(1)), ambiguous(AmbiguousCause::Timeout)),
        (Fault::cut(), ambiguous(AmbiguousCause::Reset)),
        (Fault::truncated(), ambiguous(AmbiguousCause::Unparsable)),
        (Fault::empty(), ambiguous(AmbiguousCause::Unparsable)),
        (Fault::huge(16 * 1024 * 1024), ambiguous(AmbiguousCause::Unparsable)),
        (Fault::html(200), ambiguous(AmbiguousCause::Unparsable)),
        (Fault::html(502).after_processing(), answered(502, None)),
        (Fault::status(500), answered(500, None)),
        (Fault::status(503).retry_after(hour), answered(503, Some(hour))),
        (Fault::status(504), answered(504, None)),
        (Fault::html(403), unsent(Unsent::Refused(403))),
        (Fault::status(429), limited(None)),
        (Fault::status(429).retry_after(hour), limited(Some(hour))),
        (Fault::oauth_error("temporarily_unavailable"), unsent(Unsent::Refused(400))),
    ];
    for (fault, expected) in table {
        let grant = sandbox.grants().issue("user-42", &["openid"]);
        let shown = format!("{fault:?}");
        sandbox.script().next(On::refresh(), fault);
        let error = provider.renewed(&refresh_token_of(&grant)).await.unwrap_err();
        assert_eq!(error, expected, "{shown}");
    }
}

#[tokio::test]
async fn a_rule_lets_a_503_say_that_nothing_was_processed() {
    let sandbox = sandbox();
    let provider = provider_of(&sandbox, json!({"errors": [{"status": [503], "means": "transient"}]}));
    let grant = sandbox.grants().issue("user-42", &["openid"]);
    sandbox.script().next(On::refresh(), Fault::status(503).retry_after(Duration::from_secs(9)));
    let error = provider.renewed(&refresh_token_of(&grant)).await.unwrap_err();
    let wait = Some(Duration::from_secs(9));
    assert_eq!(error, ProviderError::Unavailable { cause: Unsent::Refused(503), retry_after: wait });
}

#[tokio::test]
async fn a_server_that_is_away_was_certainly_not_reached() {
    let mut sandbox = sandbox();
    let provider = provider_of(&sandbox, json!({}));
    let grant = sandbox.grants().issue("user-42", &["openid"]);
    provider.renewed(&refresh_token_of(&grant)).await.unwrap();
    let newer = sandbox.grants().issue("user-42", &["openid"]);
    sandbox.unplug().await;
    assert_eq!(provider.renewed(&refresh_token_of(&newer)).await.unwrap_err(), unsent(Unsent::Connect));
    sandbox.plug().unwrap();
    assert!(
        provider.renewed(&refresh_token_of(&newer)).await.is_ok(),
        "the same token, since it was never sent"
    );
}

/// Endpoints at a peer, over TLS or not.
fn at(url: &str) -> serde_json::Value {
    json!({"endpoints": {"authorization": "https://as.example/a", "token": url}})
}

#[tokio::test]
async fn a_refresh_token_comes_and_goes_as_the_provider_wrote_it() {
    let peer = Peer::json(200, r#"{"access_token":"at-1","refresh_token":"rt & 1 +"}"#).await;
    let provider = provider(at(&peer.url("/t")));
    let issued = provider.renewed(&refresh_token("rt-0")).await.unwrap();
    let renewed = issued.refresh_token.unwrap();
    assert_eq!(renewed.expose(), "rt & 1 +");
    provider.renewed(&refresh_token(renewed.expose())).await.unwrap();
    let last = peer.requests().pop().unwrap();
    assert!(last.contains("refresh_token=rt+%26+1+%2B"), "{last}");
}

#[tokio::test]
async fn a_200_whose_tokens_cannot_be_read_leaves_open_what_became_of_the_refresh() {
    for body in [
        r#"{"access_token":"at-1","refresh_token":17}"#,
        r#"{"access_token":"at-1","refresh_token":{"value":"rt-1"}}"#,
        r#"{"access_token":"at-1","refresh_token":"rt\n1"}"#,
        r#"{"access_token":"a t","refresh_token":"rt-1"}"#,
        r#"{"refresh_token":"rt-1"}"#,
    ] {
        let peer = Peer::json(200, body).await;
        let provider = provider(at(&peer.url("/t")));
        let error = provider.renewed(&refresh_token("rt-0")).await.unwrap_err();
        assert_eq!(error, ambiguous(AmbiguousCause::Unparsable), "{body}");
        let error = provider.exchange(&code_grant("code", VERIFIER)).await.unwrap_err();
        assert_eq!(error, ambiguous(AmbiguousCause::Unparsable), "{body}");
    }
}

#[tokio::test]
async fn a_tls_failure_is_not_sent() {
    let plain = Peer::new(Manner::Blurts("HTTP/1.1 400 Bad Request\r\n\r\n")).await;
    let error =
        provider(at(&format!("https://{}/t", plain.address))).renewed(&refresh_token("canary-rt")).await;
    assert_eq!(error.unwrap_err(), unsent(Unsent::Tls));
    assert!(!plain.requests().concat().contains("canary"));
}

#[tokio::test]
async fn a_handshake_that_hangs_is_not_sent_and_ends_in_time() {
    let silent = Peer::new(Manner::Silent).await;
    let settings = HttpSettings { connect_timeout: Duration::from_millis(200), ..HttpSettings::default() };
    let provider = provider_with(at(&format!("https://{}/t", silent.address)), &settings);
    assert_eq!(provider.renewed(&refresh_token("rt")).await.unwrap_err(), unsent(Unsent::Connect));
}

#[tokio::test]
async fn a_peer_that_takes_the_request_and_is_silent_is_ambiguous() {
    let silent = Peer::new(Manner::Silent).await;
    let mut entry = at(&silent.url("/t"));
    entry.as_object_mut().unwrap().insert("token_timeout".to_owned(), json!("200ms"));
    let error = provider(entry).renewed(&refresh_token("rt")).await.unwrap_err();
    assert_eq!(error, ambiguous(AmbiguousCause::Timeout));
}
