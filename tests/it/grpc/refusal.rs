//! What a gRPC client on this machine would never send.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use prost::Message as _;
use token_broker::error::{Outage, ProviderError};
use token_broker::grpc::Limits;
use token_broker::grpc::proto::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::served::{PATIENCE, Served, framed, raw, wanted};

/// Status code and reason of a refusal.
fn refusal(response: &Response<Bytes>) -> (i32, String) {
    let header =
        |name: &str| response.headers().get(name).unwrap_or_else(|| panic!("{name}")).to_str().unwrap();
    let details = STANDARD_NO_PAD.decode(header("grpc-status-details-bin").trim_end_matches('=')).unwrap();
    let status = tonic_types::Status::decode(details.as_slice()).unwrap();
    let info = status.details.iter().find(|any| any.type_url.ends_with("google.rpc.ErrorInfo")).unwrap();
    let info = tonic_types::pb::ErrorInfo::decode(info.value.as_slice()).unwrap();
    (header("grpc-status").parse().unwrap(), info.reason)
}

#[tokio::test]
async fn a_request_that_is_passed_on_or_comes_from_a_browser_is_refused() {
    let served = Served::start().await;
    let spoilt = |name: &str| raw("localhost").header(name, "x").body(framed(&wanted("user-42"))).unwrap();
    for header in ["x-forwarded-for", "forwarded", "origin", "referer", "cookie", "sec-fetch-mode"] {
        let response = served.send(spoilt(header)).await;
        assert_eq!(refusal(&response), (Code::Unauthenticated as i32, "CALLER_UNKNOWN".into()), "{header}");
        assert_eq!(response.status(), 200, "{header}: gRPC says it in its own words");
    }
    let accepted = served.send(raw("localhost").body(framed(&wanted("nobody"))).unwrap()).await;
    assert_eq!(refusal(&accepted).1, "CONNECTION_NOT_FOUND");
}

#[tokio::test]
async fn a_request_to_a_rebound_name_is_refused() {
    let served = Served::start().await;
    for authority in ["evil.example", "evil.example:7450", "localhost.evil.example"] {
        let response = served.send(raw(authority).body(framed(&wanted("user-42"))).unwrap()).await;
        assert_eq!(refusal(&response).1, "CALLER_UNKNOWN", "{authority}");
    }
}

#[tokio::test]
async fn what_is_not_grpc_is_told_so_by_http_too() {
    let served = Served::start().await;
    let request = Request::post("http://localhost/tokenbroker.v1.TokenBrokerService/GetAccessToken")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from_static(b"{}")))
        .unwrap();
    let response = served.send(request).await;
    assert_eq!(response.status(), 415);
    assert_eq!(refusal(&response).1, "INVALID_REQUEST");
}

#[tokio::test]
async fn http_1_is_not_spoken_here() {
    let served = Served::start().await;
    let mut stream = TcpStream::connect(served.tcp).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // The end may come as a reset: what is sure is that no HTTP/1 answer does.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the end comes");
    assert!(!answer.starts_with(b"HTTP/1"), "{answer:?}");
}

#[tokio::test]
async fn an_oversized_message_is_refused_in_our_words() {
    let served = Served::with(Limits { message_bytes: 4096, ..Limits::default() }).await;
    let large = v1::GetAccessTokenRequest { scopes: vec!["x".repeat(8192)], ..wanted("user-42") };
    let refused = served.tokens().await.get_access_token(large).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let details = refused.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "MESSAGE_TOO_LARGE");
    assert_eq!(details.error_info().unwrap().metadata["limitBytes"], "4096");
    let import = v1::ImportConnectionRequest { refresh_token: "x".repeat(8192), ..Default::default() };
    let refused = served.connections().await.import_connection(import).await.unwrap_err();
    assert_eq!(refused.get_error_details().error_info().unwrap().reason, "MESSAGE_TOO_LARGE");
}

#[tokio::test]
async fn bytes_that_are_no_message_are_the_callers_mistake() {
    let served = Served::start().await;
    // A string that claims to be longer than the message.
    let broken = Full::new(Bytes::from_static(&[0, 0, 0, 0, 2, 0x0a, 0x7f]));
    let response = served.send(raw("localhost").body(broken).unwrap()).await;
    assert_eq!(refusal(&response), (Code::InvalidArgument as i32, "INVALID_REQUEST".into()));
    let nothing = served.send(raw("localhost").body(Full::new(Bytes::new())).unwrap()).await;
    assert_eq!(refusal(&nothing).1, "INVALID_REQUEST");
}

#[tokio::test]
async fn an_unknown_rpc_is_unimplemented() {
    let served = Served::start().await;
    for path in ["/tokenbroker.v1.TokenBrokerService/GetRefreshToken", "/no.Such/Thing", "/"] {
        let request = Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .body(framed(&wanted("user-42")))
            .unwrap();
        let response = served.send(request).await;
        assert_eq!(response.headers()["grpc-status"], "12", "{path}");
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_but_trailers_is_told_how_long_to_wait() {
    let served = Served::start().await;
    served.stage.expired("user-42").await;
    let outage = Box::new(Outage { failures: 5, ..Outage::default() });
    served
        .stage
        .provider
        .next(Err(ProviderError::CircuitOpen { retry_after: Duration::from_millis(7500), outage }));
    let response = served.send(raw("localhost").body(framed(&wanted("user-42"))).unwrap()).await;
    assert_eq!(refusal(&response), (Code::Unavailable as i32, "PROVIDER_CIRCUIT_OPEN".into()));
    assert_eq!(response.headers()["grpc-retry-pushback-ms"], "7500");
}
