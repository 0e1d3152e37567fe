//! What leaves the machine and what does not.

use std::process::Command;
use std::sync::Arc;

use serde_json::json;
use token_broker::clock::SystemClock;
use token_broker::error::{AmbiguousCause, ProviderError};
use token_broker::provider::catalogue::ProviderEntry;
use token_broker::provider::{ProviderClient as _, Revocation};
use token_broker::sandbox::{Endpoint, Fault, On};
use token_broker::telemetry::{Capture, Filter, Format, Logging};

use super::peer::{Manner, Peer};
use super::{
    CANARY, Renew as _, access_token, provider, provider_of, refresh_token, refresh_token_of, sandbox,
    token_set,
};

#[tokio::test]
async fn a_redirect_is_not_followed_and_leaks_nothing() {
    let sandbox = sandbox();
    let thief = Peer::json(200, r#"{"access_token":"stolen","token_type":"bearer"}"#).await;
    let provider = provider_of(&sandbox, json!({}));
    for status in [301, 302, 303, 307, 308] {
        let grant = sandbox.grants().issue("user-42", &["openid"]);
        sandbox.script().next(On::refresh(), Fault::redirect(status, &thief.url("/token")));
        let error = provider.renewed(&refresh_token_of(&grant)).await.unwrap_err();
        assert_eq!(error, ProviderError::Malformed, "{status}");
        sandbox.script().next(Endpoint::Revoke, Fault::redirect(status, &thief.url("/revoke")));
        assert_ne!(provider.revoke(&token_set(&grant)).await, Ok(Revocation::Revoked), "{status}");
        sandbox.script().next(Endpoint::UserInfo, Fault::redirect(status, &thief.url("/me")));
        assert!(provider.account(&access_token("at")).await.is_err(), "{status}");
    }
    assert_eq!(thief.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn plain_http_to_another_machine_is_refused_before_anything_is_sent() {
    for entry in [
        json!({"issuer": "http://as.example"}),
        json!({"issuer": "https://as.example", "endpoints": {"token": "http://as.example/token"}}),
        json!({"kind": "oidc", "issuer": "http://10.0.0.1"}),
    ] {
        let mut entry = entry.clone();
        entry
            .as_object_mut()
            .unwrap()
            .extend(json!({"key": "x", "client_id": "c"}).as_object().unwrap().clone());
        let entry: ProviderEntry = serde_json::from_value(entry).unwrap();
        let mistakes = entry.resolve(None).unwrap_err();
        assert!(mistakes[0].message.contains("https://"), "{mistakes:?}");
    }
}

#[tokio::test]
async fn a_request_says_who_sends_it_and_no_more_than_it_must() {
    let peer = Peer::json(200, r#"{"access_token":"a","token_type":"bearer"}"#).await;
    let entry = json!({"endpoints": {"authorization": "https://as.example/a", "token": peer.url("/t")}});
    provider(entry).renewed(&refresh_token("rt")).await.unwrap();
    let request = &peer.requests()[0];
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut names: Vec<&str> = head.lines().skip(1).filter_map(|line| line.split(':').next()).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "content-length", "content-type", "host", "user-agent"]);
    assert!(head.contains("user-agent: token-broker/"), "{head}");
    let secret = format!("client_secret={CANARY}-client-secret");
    assert_eq!(body, format!("grant_type=refresh_token&refresh_token=rt&client_id=app&{secret}"));
}

#[tokio::test]
async fn an_answer_larger_than_64_kib_is_cut_off_however_it_is_sent() {
    let body = |size: usize| {
        let start = r#"{"access_token":"a","token_type":"bearer","pad":""#;
        format!("{start}{}\"}}", "x".repeat(size - start.len() - 2))
    };
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
    let sized = |size: usize| format!("{head}content-length: {size}\r\n\r\n{}", body(size));
    let chunked = |size: usize| {
        format!("{head}transfer-encoding: chunked\r\n\r\n{size:x}\r\n{}\r\n0\r\n\r\n", body(size))
    };
    const LIMIT: usize = 64 * 1024;
    for (answer, is_read) in
        [(sized(LIMIT), true), (sized(LIMIT + 1), false), (chunked(LIMIT), true), (chunked(LIMIT + 1), false)]
    {
        let peer = Peer::new(Manner::Says(answer)).await;
        let entry = json!({"endpoints": {"authorization": "https://as.example/a", "token": peer.url("/t")}});
        let outcome = provider(entry).renewed(&refresh_token("rt")).await;
        let expected = (!is_read).then_some(ProviderError::Ambiguous { cause: AmbiguousCause::Unparsable });
        assert_eq!(outcome.err(), expected);
    }
}

/// Runs in a process of its own, because the environment is the process's; see the test below.
#[tokio::test]
async fn child_with_a_proxy_in_its_environment() {
    let Ok(url) = std::env::var("TOKEN_BROKER_TEST_PEER") else { return };
    let entry = json!({"endpoints": {"authorization": "https://as.example/a", "token": url}});
    provider(entry).renewed(&refresh_token("rt")).await.unwrap();
}

#[tokio::test]
async fn a_proxy_in_the_environment_is_ignored() {
    let proxy = Peer::json(200, r#"{"access_token":"stolen","token_type":"bearer"}"#).await;
    let peer = Peer::json(200, r#"{"access_token":"a","token_type":"bearer"}"#).await;
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "provider::wire::child_with_a_proxy_in_its_environment"]);
    child.env("TOKEN_BROKER_TEST_PEER", peer.url("/t"));
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        child.env(name, proxy.url(""));
    }
    for name in ["no_proxy", "NO_PROXY", "REQUEST_METHOD"] {
        child.env_remove(name);
    }
    let output = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(peer.requests().len(), 1, "the child did send its request");
    assert_eq!(proxy.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn no_secret_is_printed_by_anybody_at_any_level() {
    let logging = Logging {
        filter: Filter::parse("trace,hyper=trace,hyper_util=trace,reqwest=trace,rustls=trace").unwrap(),
        format: Format::Json,
    };
    let log = Capture::start(&logging, Arc::new(SystemClock));
    tracing::trace!(target: "token_broker", "listening");

    let mut printed = String::new();
    let bodies = [
        (
            200,
            r#"{"access_token":"canary-at","refresh_token":"canary-new-rt","token_type":"bearer","scope":"a"}"#,
        ),
        (200, r#"{"access_token":"canary-at","access_token":"canary-at"}"#),
        (200, r#"{"access_token":{"canary":1}}"#),
        (400, r#"{"error":"invalid_grant","error_description":"canary-at is dead"}"#),
        (400, r#"{"error":"the token canary-rt is bad"}"#),
        (500, "canary in a page"),
    ];
    for (status, body) in bodies {
        let peer = Peer::json(status, body).await;
        let url = peer.url("/t?key=canary-query");
        let entry = json!({"endpoints": {"authorization": "https://as.example/a", "token": url}, "client_auth": "basic"});
        let provider = provider(entry);
        let outcome = provider.renewed(&refresh_token("canary-rt")).await;
        printed += &format!("{outcome:?} {provider:?}");
        if let Err(error) = outcome {
            printed += &error.to_string();
        }
    }
    let sandbox = sandbox();
    sandbox.script().always(On::refresh(), Fault::drop_answer());
    let provider = provider_of(&sandbox, json!({"token_timeout": "1s"}));
    printed += &format!("{:?}", provider.renewed(&refresh_token("canary-rt")).await);
    drop(sandbox);
    printed += &format!("{:?}", provider.renewed(&refresh_token("canary-rt")).await);

    let logged = log.text();
    assert!(logged.contains("listening"), "the collector works");
    assert!(!printed.contains(CANARY), "{printed}");
    let lines: Vec<&str> = logged.lines().filter(|line| line.contains(CANARY)).collect();
    assert!(lines.is_empty(), "{lines:#?}");
}
