//! How the door closes: whoever is served is served to the end, and nobody is waited for who says nothing.

use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use token_broker::grpc::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use super::served::{PATIENCE, Served, wanted};

/// Whoever watches health is told that the door closes, and neither that stream nor one of reflection is waited for.
#[tokio::test]
async fn a_stream_without_end_hears_that_the_door_closes_and_does_not_hold_it_open() {
    let served = Served::start().await;
    drop(served.readiness.guard("start-up"));
    let mut health = HealthClient::new(served.channel().await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    while watch.message().await.unwrap().unwrap().status() != ServingStatus::Serving {}
    let mut reflection = ServerReflectionClient::new(served.channel().await);
    let asks_nothing = futures_util::stream::pending::<ServerReflectionRequest>();
    let mut reflected = reflection.server_reflection_info(asks_nothing).await.unwrap().into_inner();

    let (told, asked, ()) = tokio::join!(
        async {
            let last = watch.message().await.unwrap().unwrap().status();
            (last, watch.message().await.unwrap_err().code())
        },
        async { reflected.message().await.unwrap_err().code() },
        served.close(),
    );
    assert_eq!(told, (ServingStatus::NotServing, Code::Unavailable));
    assert_eq!(asked, Code::Unavailable);
}

/// The limit is twice the patience of `close`: who waits for it, fails.
#[tokio::test]
async fn an_idle_connection_and_a_silent_peer_do_not_hold_the_door_open() {
    let served = Served::start().await;
    // Connected, and not a byte more.
    let idle = TcpStream::connect(served.tcp).await.unwrap();
    // Speaks HTTP/2 up to the settings, then reads nothing and answers nothing.
    let mut silent = TcpStream::connect(served.tcp).await.unwrap();
    silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut settings = [0; 9];
    silent.read_exact(&mut settings).await.unwrap();
    // A well-behaved client that keeps its connection.
    let mut client = served.tokens().await;
    client.get_access_token(wanted("nobody")).await.unwrap_err();
    served.close().await;
    drop((idle, silent, client));
}

#[tokio::test]
async fn a_request_under_way_is_answered_while_the_door_closes() {
    let served = Served::start().await;
    served.stage.expired("user-42").await;
    served.stage.provider.hold();
    let mut client = served.tokens().await;
    let call = tokio::spawn(async move { client.get_access_token(wanted("user-42")).await });
    served.stage.provider.requests_reach(1).await;
    served.closing.cancel();
    // The door is shut: no newcomer gets in.
    tokio::time::timeout(PATIENCE, async {
        while TcpStream::connect(served.tcp).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the listener closes");
    served.stage.provider.release();
    assert_eq!(call.await.unwrap().unwrap().into_inner().access_token, "at-1");
    served.close().await;
}

#[tokio::test]
async fn what_does_not_end_is_cut_at_the_limit() {
    let limits = Limits { drain: Duration::from_millis(100), ..Limits::default() };
    let served = Served::with(limits).await;
    served.stage.expired("user-42").await;
    served.stage.provider.hold();
    let mut client = served.tokens().await;
    let call = tokio::spawn(async move { client.get_access_token(wanted("user-42")).await });
    served.stage.provider.requests_reach(1).await;
    served.close().await;
    assert!(call.await.unwrap().is_err());
}

#[tokio::test]
async fn a_peer_that_stops_reading_its_answers_is_cut_too() {
    let limits = Limits { drain: Duration::from_millis(100), ..Limits::default() };
    let served = Served::with(limits).await;
    let stream = TcpStream::connect(served.tcp).await.unwrap();
    // A window of one byte: the answer can never leave.
    let (mut client, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    served.stage.imported("user-42").await;
    let request = super::served::raw("localhost").body(super::served::framed(&wanted("user-42"))).unwrap();
    let response = client.send_request(request).await.unwrap();
    served.close().await;
    drop(response);
    connection.abort();
}
