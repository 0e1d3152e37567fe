//! The floor: what tonic does by itself. The stock codec and router, one handler that clones a ready message, on one
//! `current_thread` runtime, listening on TCP and on a socket as the broker does.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io::Write as _;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use prost::Message as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use token_broker::grpc::proto::v1::{GetAccessTokenRequest, GetAccessTokenResponse};
use tokio::net::{TcpListener, UnixListener};
use tonic::server::{Grpc, NamedService, UnaryService};

use crate::child::{Kept, SERVER_CORE, pinned, ready_line};
use crate::drive::Door;
use crate::{Outcome, ROLE, Side};

const REPLY: &str = "LOAD_FLOOR_REPLY";
const SOCKET: &str = "LOAD_FLOOR_SOCKET";

/// A running floor.
pub(crate) struct Floor {
    child: Kept,
    tcp: String,
    directory: TempDir,
}

/// Starts this executable as the floor, answering with the encoded message `reply`.
pub(crate) fn start(reply: &Bytes) -> Outcome<Floor> {
    let directory = tempfile::tempdir()?;
    let mut child = Kept(
        pinned(SERVER_CORE, &std::env::current_exe()?)
            .env(ROLE, "floor")
            .env(REPLY, STANDARD.encode(reply))
            .env(SOCKET, directory.path().join("floor.sock"))
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let tcp = ready_line(child.0.stdout.take().ok_or("no stdout")?, |line| {
        Some(serde_json::from_str::<Value>(line).ok()?["tcp"].as_str()?.to_owned())
    })?;
    Ok(Floor { child, tcp, directory })
}

impl Floor {
    pub(crate) fn side(&self) -> Side {
        let socket = self.directory.path().join("floor.sock").to_string_lossy().into_owned();
        Side { tcp: Door::Tcp(self.tcp.clone()), socket: Door::Socket(socket), process: self.child.0.id() }
    }
}

/// What the child does.
pub(crate) async fn serve() -> Outcome<()> {
    let reply = GetAccessTokenResponse::decode(STANDARD.decode(std::env::var(REPLY)?)?.as_slice())?;
    let tcp = TcpListener::bind("127.0.0.1:0").await?;
    let socket = UnixListener::bind(std::env::var(SOCKET)?)?;
    writeln!(std::io::stdout().lock(), "{}", json!({ "tcp": tcp.local_addr()?.to_string() }))?;
    let over_tcp = stream::unfold(tcp, async |listener| {
        let accepted = listener.accept().await.and_then(|(stream, _)| {
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        Some((accepted, listener))
    });
    let over_socket = stream::unfold(socket, async |listener| {
        Some((listener.accept().await.map(|(stream, _)| stream), listener))
    });
    let server = || tonic::transport::Server::builder().add_service(Echo { reply: reply.clone() });
    tokio::try_join!(
        server().serve_with_incoming(Box::pin(over_tcp)),
        server().serve_with_incoming(Box::pin(over_socket))
    )?;
    Ok(())
}

/// What `tonic-build` generates for a service with one unary method, written out: the product's own generated server
/// has a prepared reply, and so is not stock.
#[derive(Clone)]
struct Echo {
    reply: GetAccessTokenResponse,
}

impl NamedService for Echo {
    const NAME: &'static str = "tokenbroker.v1.TokenBrokerService";
}

impl UnaryService<GetAccessTokenRequest> for Echo {
    type Response = GetAccessTokenResponse;
    type Future = Ready<Result<tonic::Response<Self::Response>, tonic::Status>>;

    fn call(&mut self, _request: tonic::Request<GetAccessTokenRequest>) -> Self::Future {
        ready(Ok(tonic::Response::new(self.reply.clone())))
    }
}

impl tower::Service<http::Request<tonic::body::Body>> for Echo {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(tonic_prost::ProstCodec::default());
            Ok(grpc.unary(echo, request).await)
        })
    }
}
