//! The listener and its connections. Owns routes, the loopback rule and how a connection is closed without an answer. Does
//! not know what an answer says. Invariant: nothing but a loopback address is ever bound, and a request whose `Host` is
//! not the sandbox's own is refused, so no web page reaches it by a name that resolves here (DNS rebinding).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::HOST;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use super::call::Reply;
use super::exchange::{Process, World, exchange};
use super::fate::Unanswered;
use super::record::{Effect, Endpoint};
use super::{authorize, discovery, page, resource, token};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// A port of our own: reserved for as long as this lives, listened on or not.
pub(super) struct Port {
    pub(super) address: SocketAddr,
    /// Bound and never listening: nobody else gets the port while the listener is away, and a client that tries is
    /// refused at once.
    _placeholder: TcpSocket,
}

impl Port {
    /// Reserves `address`; port 0 takes a free one. Refuses what is not loopback.
    pub(super) fn reserve(address: SocketAddr) -> io::Result<Self> {
        if !address.ip().is_loopback() {
            let refusal = format!("the sandbox listens on loopback only, not on {address}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, refusal));
        }
        let placeholder = bound(address)?;
        Ok(Self { address: placeholder.local_addr()?, _placeholder: placeholder })
    }

    /// Listens on it.
    pub(super) fn listen(&self) -> io::Result<TcpListener> {
        bound(self.address)?.listen(BACKLOG)
    }
}

fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // On Linux two sockets may share a port this way while at most one listens.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Accepts connections until `stop` fires or its sender is gone, then closes all of them.
pub(super) async fn serve(listener: TcpListener, router: Router, mut stop: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            _ = &mut stop => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    number += 1;
                    connections.spawn(connection(stream, number, router.clone()));
                }
                Err(error) => {
                    tracing::debug!(%error, "the sandbox could not accept a connection");
                    // Out of descriptors, most likely: trying again at once would spin.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// The number of the connection that a request came by, in order from 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionNumber(pub(super) u64);

async fn connection(stream: TcpStream, number: u64, router: Router) {
    // Small answers must not wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let router = router.clone();
        request.extensions_mut().insert(ConnectionNumber(number));
        async move {
            let Ok(response) = router.oneshot(request.map(Body::new)).await;
            match response.extensions().get::<Unanswered>() {
                Some(_) => Err(Closed),
                None => Ok(response),
            }
        }
    });
    let served =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::trace!(%error, "a sandbox connection ended");
    }
}

/// Makes hyper close the connection without a byte.
#[derive(Debug)]
struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closed on purpose")
    }
}

impl std::error::Error for Closed {}

/// The routes, behind the check of `Host`.
pub(super) fn router(world: &Arc<World>) -> Router {
    let to = |endpoint: Endpoint, process: Process| {
        let world = Arc::clone(world);
        move |request: Request| exchange(Arc::clone(&world), endpoint, process, request)
    };
    let metadata = || get(to(Endpoint::Discovery, discovery::metadata));
    let user_info = || to(Endpoint::UserInfo, resource::user_info);
    Router::new()
        .route("/", get(front_page))
        .route("/.well-known/openid-configuration", metadata())
        .route("/.well-known/oauth-authorization-server", metadata())
        .route("/authorize", get(to(Endpoint::Authorize, authorize::ask)))
        .route("/consent", post(to(Endpoint::Consent, authorize::answer)))
        .route("/token", post(to(Endpoint::Token, token::issue)))
        .route("/revoke", post(to(Endpoint::Revoke, token::revoke)))
        .route("/userinfo", get(user_info()).post(user_info()))
        .route("/api/{*path}", any(to(Endpoint::Echo, resource::echo)))
        .layer(middleware::from_fn_with_state(Arc::clone(world), own_host_only))
}

/// Says what this is to a person who opens the issuer's address.
async fn front_page() -> Reply {
    authorize::guarded(Reply::html(StatusCode::OK, page::front(), Effect::Served))
}

async fn own_host_only(State(world): State<Arc<World>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let (name, port) = host.rsplit_once(':').unwrap_or((host, "80"));
    let is_own = ["127.0.0.1", "localhost", "[::1]"].contains(&name) && port == world.port.to_string();
    if is_own { next.run(request).await } else { StatusCode::MISDIRECTED_REQUEST.into_response() }
}
