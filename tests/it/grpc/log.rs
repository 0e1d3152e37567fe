//! What a request leaves in the log: one line with the facts, at the level the fault deserves, and never a secret.

use std::sync::Arc;

use serde_json::Value;
use token_broker::clock::SystemClock;
use token_broker::error::{OAuthCode, ProviderError};
use token_broker::grpc::proto::v1;
use token_broker::telemetry::{Capture, Filter, Format, Logging};
use tonic::Request;

use super::served::{Served, framed, raw, wanted};
use crate::kit;

fn capture(level: &str) -> Capture {
    let logging = Logging { filter: Filter::parse(level).unwrap(), format: Format::Json };
    Capture::start(&logging, Arc::new(SystemClock))
}

/// The lines of the gRPC door.
fn lines(log: &Capture) -> Vec<Value> {
    let all = log.text();
    let parsed = all.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    parsed.filter(|line| line["target"].as_str().unwrap().starts_with("token_broker::grpc")).collect()
}

#[tokio::test]
async fn a_hit_leaves_no_line_and_everything_else_one() {
    let log = capture("info");
    let served = Served::start().await;
    served.stage.imported("user-42").await;
    let mut client = served.tokens().await;
    let mut named = Request::new(wanted("user-42"));
    named.metadata_mut().insert("x-request-id", "req-1".parse().unwrap());
    client.get_access_token(named).await.unwrap();
    let found = lines(&log);
    assert_eq!(found.len(), 1, "{found:?}");
    let line = &found[0];
    assert_eq!(line["level"].as_str().unwrap().to_lowercase(), "info");
    for (field, value) in [
        ("rpc", "GetAccessToken"),
        ("request_id", "req-1"),
        ("provider", "sandbox"),
        ("connection", "user-42"),
        ("caller", "loopback"),
        ("source", "store"),
        ("message", "answered"),
    ] {
        assert_eq!(line[field], value, "{line}");
    }
    assert!(line["duration_seconds"].is_number(), "{line}");

    client.get_access_token(wanted("user-42")).await.unwrap();
    assert_eq!(lines(&log).len(), 1, "a hit is not news");
}

#[tokio::test]
async fn a_failure_is_logged_once_at_the_level_of_its_fault() {
    let log = capture("info");
    let served = Served::start().await;
    let mut client = served.tokens().await;
    client.get_access_token(wanted("nobody")).await.unwrap_err();
    served.stage.expired("user-42").await;
    served.stage.provider.next(Err(ProviderError::Misconfigured(OAuthCode::new("invalid_client"))));
    client.get_access_token(wanted("user-42")).await.unwrap_err();
    served.stage.provider.next(Err(ProviderError::RateLimited { retry_after: None }));
    client.get_access_token(wanted("user-42")).await.unwrap_err();
    served.send(raw("localhost").header("origin", "x").body(framed(&wanted("user-42"))).unwrap()).await;

    let found: Vec<_> = lines(&log)
        .iter()
        .map(|line| {
            let level = line["level"].as_str().unwrap().to_lowercase();
            (level, line["reason"].as_str().unwrap().to_owned(), line["fault"].as_str().unwrap().to_owned())
        })
        .collect();
    let expected = [
        ("info", "CONNECTION_NOT_FOUND", "caller"),
        ("error", "PROVIDER_REJECTED_CLIENT", "operator"),
        ("warn", "PROVIDER_RATE_LIMITED", "provider"),
        ("info", "CALLER_UNKNOWN", "caller"),
    ]
    .map(|(level, reason, fault)| (level.to_owned(), reason.to_owned(), fault.to_owned()));
    assert_eq!(found, expected);
}

#[tokio::test]
async fn no_secret_of_a_request_or_an_answer_is_logged_at_trace() {
    let log = capture("trace");
    let served = Served::start().await;
    served.stage.provider.next(Ok(kit::issued("canary-access", Some("canary-rotated"))));
    let mut connections = served.connections().await;
    let import = v1::ImportConnectionRequest {
        provider: "sandbox".into(),
        connection: "user-42".into(),
        refresh_token: "canary-refresh".into(),
        ..v1::ImportConnectionRequest::default()
    };
    connections.import_connection(import).await.unwrap();
    let mut tokens = served.tokens().await;
    for _ in 0..2 {
        let answer = tokens.get_access_token(wanted("user-42")).await.unwrap().into_inner();
        assert_eq!(answer.access_token, "canary-access");
    }
    connections
        .complete_connect(v1::CompleteConnectRequest {
            state: "canary-state".into(),
            code: "canary-code".into(),
            error: "access_denied".into(),
            error_description: "canary-description".into(),
            ..v1::CompleteConnectRequest::default()
        })
        .await
        .unwrap_err();
    let finish = v1::FinishConnectRequest { session: "canary-session".into(), code: "canary-once".into() };
    connections.finish_connect(finish).await.unwrap_err();

    let text = log.text();
    assert!(text.contains("GetAccessToken") && text.contains("FinishConnect"), "the log is there");
    assert!(!text.contains("canary"), "{text}");
}
