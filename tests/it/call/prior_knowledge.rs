//! Calls at an API without TLS whose entry says that it speaks HTTP/2 (RFC 9113 section 3.3), at one of which it does not,
//! and at one that speaks both.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::stream_provider_call_request::Part as Sent;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tonic::Code;

use super::stream::{called, chunk, head, message};
use super::{Desk, get, post, reason};

/// A host without TLS.
struct Host {
    port: u16,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Host {
    async fn serving<S>(serve: impl Fn(TcpStream) -> S + Send + 'static) -> Self
    where
        S: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(socket));
            }
        });
        Self { port, connections, task }
    }

    /// One that speaks whatever it is spoken to in, and says in what.
    async fn of_both() -> Self {
        Self::serving(|socket| async {
            let served = auto::Builder::new(TokioExecutor::new());
            drop(served.serve_connection(TokioIo::new(socket), service_fn(told)).await);
        })
        .await
    }

    /// A broker whose API is here, with more in the entry's `api` (YAML, flow style, with a comma before).
    async fn desk(&self, api: &str) -> Desk {
        Desk::with(&format!(", api: {{hosts: ['http://127.0.0.1:{}']{api}}}", self.port)).await
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const KNOWN: &str = ", http2_prior_knowledge: true";

/// Which HTTP a request came in, and its body.
async fn told(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let version = format!("{:?}", request.version());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Ok(Response::builder().header("x-version", version).body(Full::new(body)).unwrap())
}

fn version(headers: &[v1::Header]) -> &str {
    &headers.iter().find(|field| field.name == "x-version").unwrap().value
}

#[tokio::test]
async fn a_host_without_tls_is_spoken_to_in_http_2_where_its_entry_says_so_and_in_http_1_1_elsewhere() {
    for (api, expected) in [(KNOWN, "HTTP/2.0"), ("", "HTTP/1.1")] {
        let host = Host::of_both().await;
        let desk = host.desk(api).await;
        let answer = desk.call(post("/x", b"all of it")).await.unwrap();
        assert_eq!(
            (answer.status, version(&answer.headers), &answer.body[..]),
            (200, expected, &b"all of it"[..])
        );
        let sent = vec![message(Sent::Head(head("PUT", "/x"))), chunk("one, ", false), chunk("two", true)];
        let answer = called(&desk, sent).await.unwrap();
        assert_eq!((answer.head.status, version(&answer.head.headers)), (200, expected));
        assert_eq!(answer.body, b"one, two");
        desk.stop().await;
    }
}

#[tokio::test]
async fn calls_that_come_together_make_one_connection() {
    let host = Host::of_both().await;
    let desk = host.desk(KNOWN).await;
    let calls = (0..20).map(|n| desk.call(get(&format!("/{n}"))));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(version(&answer.unwrap().headers), "HTTP/2.0");
    }
    assert_eq!(host.connections.load(Ordering::SeqCst), 1);
    desk.stop().await;
}

/// Reads what comes first, answers as a host does that has never heard of HTTP/2, and hangs up.
async fn refuse(mut socket: TcpStream) {
    drop(socket.read(&mut [0; 1024]).await);
    drop(
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await,
    );
    drop(socket.shutdown().await);
    // Until the other side has read it.
    drop(socket.read_to_end(&mut Vec::new()).await);
}

async fn converse(socket: TcpStream) {
    drop(http1::Builder::new().serve_connection(TokioIo::new(socket), service_fn(told)).await);
}

#[tokio::test]
async fn a_host_that_speaks_only_http_1_1_is_told_of_with_the_key_to_change() {
    // One says so in its own way, the other hangs up at the preface.
    for host in [Host::serving(refuse).await, Host::serving(converse).await] {
        let desk = host.desk(KNOWN).await;
        for request in [get("/x"), post("/x", b"charge")] {
            let status = desk.call(request).await.unwrap_err();
            assert_eq!(
                (status.code(), reason(&status).as_str()),
                (Code::Unavailable, "PROVIDER_UNAVAILABLE")
            );
            assert!(status.message().contains("api.http2_prior_knowledge"), "{}", status.message());
        }
        desk.stop().await;
    }
}
