//! One listener, its connections, and their end.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// How long a connection without a request in hand may still send what it has written, once the door closes.
const LINGER: Duration = Duration::from_millis(250);

/// Request line and headers together; an authorization response with everything in it stays far below.
const MAX_HEAD: usize = 16 * 1024;

const MAX_HEADERS: usize = 64;

/// What one door grants its peers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at the same time; more wait in the listener's queue.
    pub(super) connections: usize,
    /// How long a peer may take to send a whole request head, and to be silent between two.
    pub(super) head: Duration,
    /// How long a connection may live.
    pub(super) life: Duration,
    /// Whether a connection may carry a second request.
    pub(super) is_kept_alive: bool,
}

/// Serves `router` until `shutdown`, then lets what is in hand finish for at most `drain`, and then ends: also with a
/// peer that sends half a request, reads nothing or says nothing at all. Axum's own server waits for such peers for
/// ever. HTTP/1.1 only: whoever stands in front speaks it, and there are no streams to abuse.
pub(super) async fn serve(
    name: &'static str,
    listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
    drain: Duration,
) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(name, &listener, &permits) => accepted,
        };
        if let Some((stream, permit)) = accepted {
            connections.spawn(converse(stream, permit, router.clone(), limits, shutdown.clone(), drain));
        }
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, all_ended).await.is_err() {
        tracing::warn!(door = name, connections = connections.len(), "cut off at the drain deadline");
    }
    connections.shutdown().await;
}

async fn accept(
    name: &'static str,
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, permit)),
        Err(error) => {
            // Mostly a peer that went away before its turn. If it is a lack of file descriptors, asking again at once
            // would burn the processor until one is free.
            tracing::warn!(door = name, %error, "cannot accept a connection");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

async fn converse(
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
    drain: Duration,
) {
    let _permit = permit;
    // Without it Nagle's algorithm and a delayed acknowledgement hold an answer for 40 ms.
    let _ = stream.set_nodelay(true);
    let is_busy = Arc::new(AtomicBool::new(false));
    let busy = Arc::clone(&is_busy);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (router, busy) = (router.clone(), Arc::clone(&busy));
        busy.store(true, Ordering::Relaxed);
        async move {
            let response: Result<Response, Infallible> = router.oneshot(request.map(Body::new)).await;
            busy.store(false, Ordering::Relaxed);
            response
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .keep_alive(limits.is_kept_alive)
            .max_headers(MAX_HEADERS)
            .max_header_size(MAX_HEAD)
            .max_buf_size(2 * MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        // What goes wrong on a peer's connection (it hung up, it sent no HTTP) is not worth a line.
        _ = connection.as_mut() => return,
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(limits.life) => {}
    }
    connection.as_mut().graceful_shutdown();
    let patience = if is_busy.load(Ordering::Relaxed) { drain } else { LINGER.min(drain) };
    let _ = tokio::time::timeout(patience, connection).await;
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::AtomicUsize;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::JoinHandle;

    use super::*;

    const FAR: Duration = Duration::from_secs(3600);
    const LIMITS: Limits = Limits { connections: 8, head: FAR, life: FAR, is_kept_alive: true };

    async fn open(limits: Limits) -> SocketAddr {
        open_until(limits, CancellationToken::new()).await.0
    }

    async fn open_until(limits: Limits, shutdown: CancellationToken) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let router = Router::new().fallback(move || {
            let turn = asked.fetch_add(1, Ordering::Relaxed) + 1;
            async move { format!("hello {turn}") }
        });
        (address, tokio::spawn(serve("test", listener, router, limits, shutdown, FAR)))
    }

    /// What comes until the door closes the connection; a test that hangs here has found a door that does not.
    async fn rest(mut stream: TcpStream) -> String {
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text).await;
        text
    }

    #[tokio::test]
    async fn a_peer_that_does_not_finish_its_head_is_let_go() {
        let address = open(Limits { head: Duration::from_millis(20), ..LIMITS }).await;
        let mut half = TcpStream::connect(address).await.unwrap();
        half.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Sl").await.unwrap();
        let silent = TcpStream::connect(address).await.unwrap();
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(!rest(half).await.contains("hello"));
        assert_eq!(rest(silent).await, "");
        assert!(rest(idle).await.ends_with("hello 1"));
    }

    // No other limit helps here: only the door's own end can close these connections.
    #[tokio::test]
    async fn silence_and_half_a_head_do_not_hold_a_closing_door_open() {
        let shutdown = CancellationToken::new();
        let (address, served) = open_until(LIMITS, shutdown.clone()).await;
        let silent = TcpStream::connect(address).await.unwrap();
        let mut half = TcpStream::connect(address).await.unwrap();
        half.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Sl").await.unwrap();
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        // Answered last, so the others were taken in before.
        idle.read_exact(&mut [0; 15]).await.unwrap();

        shutdown.cancel();

        let closed = tokio::time::timeout(Duration::from_secs(20), served).await;
        closed.expect("the door closes").unwrap();
        drop((silent, half, idle));
    }

    #[tokio::test]
    async fn no_connection_outlives_its_time() {
        let address = open(Limits { life: Duration::from_millis(20), ..LIMITS }).await;
        let silent = TcpStream::connect(address).await.unwrap();
        assert_eq!(rest(silent).await, "");
    }

    #[tokio::test]
    async fn a_connection_too_many_waits_for_its_turn() {
        let address = open(Limits { connections: 1, ..LIMITS }).await;
        let ask = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let mut first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(ask.as_bytes()).await.unwrap();
        first.write_all(ask.as_bytes()).await.unwrap();
        // Asked later and yet served: the second was not taken in before the first was done.
        let (first, second) = (rest(first).await, rest(second).await);
        assert!(first.ends_with("hello 1"), "{first}");
        assert!(second.ends_with("hello 2"), "{second}");
    }

    #[tokio::test]
    async fn where_nothing_is_kept_alive_a_second_request_is_not_read() {
        let address = open(Limits { is_kept_alive: false, ..LIMITS }).await;
        let mut eager = TcpStream::connect(address).await.unwrap();
        let ask = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        eager.write_all(ask.repeat(3).as_bytes()).await.unwrap();
        assert_eq!(rest(eager).await.matches("hello").count(), 1);
    }
}
