//! The gRPC door open on a socket and on loopback, with the broker of `kit` behind it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use token_broker::entropy::SeededEntropy;
use token_broker::error::Error;
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::connection_service_client::ConnectionServiceClient;
use token_broker::grpc::proto::v1::token_broker_service_client::TokenBrokerServiceClient;
use token_broker::grpc::{self, Address, Door, Limits, Listener, Offer, Parts};
use token_broker::readiness::Readiness;
use token_broker::telemetry::Metrics;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::kit::Stage;

/// Longer than anything here takes; only a failure waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Served {
    pub(crate) stage: Stage,
    pub(crate) tcp: SocketAddr,
    pub(crate) socket: PathBuf,
    pub(crate) admin: PathBuf,
    pub(crate) readiness: Readiness,
    pub(crate) closing: CancellationToken,
    running: JoinHandle<Result<(), Error>>,
    _home: tempfile::TempDir,
}

impl Served {
    pub(crate) async fn start() -> Self {
        Self::with(Limits { drain: PATIENCE * 2, ..Limits::default() }).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        let stage = Stage::new();
        let home = tempfile::tempdir().unwrap();
        let (socket, admin) = (home.path().join("run/broker.sock"), home.path().join("run/admin.sock"));
        let bind = async |address| Listener::bind(&address).await.unwrap();
        let on_tcp = bind(Address::Tcp("127.0.0.1:0".parse().unwrap())).await;
        let tcp = on_tcp.tcp_address().unwrap();
        let on_socket = bind(Address::Unix { path: socket.clone(), mode: 0o660 }).await;
        let on_admin = bind(Address::Unix { path: admin.clone(), mode: 0o600 }).await;
        let readiness = Readiness::default();
        let parts = Parts {
            broker: stage.broker.clone(),
            entropy: Arc::new(SeededEntropy::new(7)),
            metrics: Arc::new(Metrics::default()),
            readiness: readiness.clone(),
        };
        let doors = vec![
            Door { listener: on_tcp, offer: Offer::Apps },
            Door { listener: on_socket, offer: Offer::Apps },
            Door { listener: on_admin, offer: Offer::Operators },
        ];
        let closing = CancellationToken::new();
        let until = closing.clone();
        let running =
            tokio::spawn(
                async move { grpc::serve(doors, parts, &[], &limits, until.cancelled_owned()).await },
            );
        Self { stage, tcp, socket, admin, readiness, closing, running, _home: home }
    }

    pub(crate) async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.tcp)).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn channel_at(&self, socket: &std::path::Path) -> Channel {
        Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn tokens(&self) -> TokenBrokerServiceClient<Channel> {
        TokenBrokerServiceClient::new(self.channel().await)
    }

    pub(crate) async fn connections(&self) -> ConnectionServiceClient<Channel> {
        ConnectionServiceClient::new(self.channel().await)
    }

    /// Sends one request as a client of our own making, for what a real client would never send.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Response<Bytes> {
        let stream = TcpStream::connect(self.tcp).await.unwrap();
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let (head, body) = client.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap();
        drop(client);
        connection.abort();
        Response::from_parts(head, body.to_bytes())
    }

    /// Ends the broker; returns when it is down.
    pub(crate) async fn close(self) {
        self.closing.cancel();
        tokio::time::timeout(PATIENCE, self.running).await.expect("the drain ends").unwrap().unwrap();
        assert!(!self.socket.exists() && !self.admin.exists(), "the sockets' files are gone");
    }
}

/// A request as gRPC clients make it, to be spoilt by a test.
pub(crate) fn raw(authority: &str) -> http::request::Builder {
    Request::post(format!("http://{authority}/tokenbroker.v1.TokenBrokerService/GetAccessToken"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

/// A message in its frame.
pub(crate) fn framed(message: &impl Message) -> Full<Bytes> {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut frame).unwrap();
    Full::new(frame.freeze())
}

pub(crate) fn wanted(connection: &str) -> v1::GetAccessTokenRequest {
    v1::GetAccessTokenRequest {
        provider: "sandbox".into(),
        connection: connection.into(),
        ..v1::GetAccessTokenRequest::default()
    }
}
