//! Calls at an API that speaks HTTP/2, over TLS, settled by ALPN, and without it: chunks, trailers, streams that are reset,
//! and how many connections all that takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use token_broker::config::Override;
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::stream_provider_call_request::Part as Sent;
use token_broker::grpc::proto::v1::stream_provider_call_response::Part as Came;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::stream::{called, chunk, head, message};
use super::{Desk, get, post, reason};

/// How an API is come to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Door {
    Tls,
    /// The provider's entry says that it speaks HTTP/2.
    Plain,
}

pub(super) const DOORS: [Door; 2] = [Door::Tls, Door::Plain];

/// A connection, whatever is below HTTP.
pub(super) type Socket = Box<dyn Wire>;

pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// An API of which every answer says by the path what it is to be like.
pub(super) struct Api {
    door: Door,
    port: u16,
    certificate: String,
    pub(super) connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Api {
    pub(super) async fn start() -> Self {
        Self::behind(Door::Tls).await
    }

    pub(super) async fn behind(door: Door) -> Self {
        Self::serving(door, |_, socket| conversed(socket)).await
    }

    /// An API that serves its connections so; it is told which one each is, from 0.
    pub(super) async fn serving<S>(door: Door, serve: impl Fn(usize, Socket) -> S + Send + 'static) -> Self
    where
        S: Future<Output = ()> + Send + 'static,
    {
        Self::hanging(0, door, serve).await
    }

    /// The same, whose first `hung` connections nobody takes up.
    pub(super) async fn hanging<S>(
        hung: usize,
        door: Door,
        serve: impl Fn(usize, Socket) -> S + Send + 'static,
    ) -> Self
    where
        S: Future<Output = ()> + Send + 'static,
    {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let task = tokio::spawn(async move {
            let mut hanging = Vec::new();
            while let Ok((socket, _)) = listener.accept().await {
                if hanging.len() < hung {
                    hanging.push(socket);
                    continue;
                }
                let socket: Socket = match door {
                    Door::Plain => Box::new(socket),
                    Door::Tls => {
                        let Ok(socket) = acceptor.accept(socket).await else { continue };
                        assert_eq!(
                            socket.get_ref().1.alpn_protocol(),
                            Some(&b"h2"[..]),
                            "HTTP/2 is settled on"
                        );
                        Box::new(socket)
                    }
                };
                tokio::spawn(serve(counted.fetch_add(1, Ordering::SeqCst), socket));
            }
        });
        Self { door, port, certificate: cert.pem(), connections, task }
    }

    /// A broker of whose provider this is the API.
    pub(super) async fn desk(&self) -> Desk {
        self.desk_with("").await
    }

    /// The same, with more in the entry's `api` (YAML, flow style, with a comma before).
    pub(super) async fn desk_with(&self, api: &str) -> Desk {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, &self.certificate).unwrap();
        let (scheme, knowledge) = match self.door {
            Door::Tls => ("https", ""),
            Door::Plain => ("http", ", http2_prior_knowledge: true"),
        };
        let entry = format!(", api: {{hosts: ['{scheme}://localhost:{}']{knowledge}{api}}}", self.port);
        let over = [Override::new("--ca", "http.ca_file", file.display().to_string())];
        Desk::over(&entry, &over).await
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves a connection to its end.
pub(super) async fn conversed(socket: Socket) {
    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond));
    }
}

pub(super) async fn answer(request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let (head, mut body) = request.into_parts();
    assert!(head.headers["authorization"].to_str().unwrap().starts_with("Bearer "));
    let mut received = 0;
    while let Some(Ok(data)) = body.data().await {
        received += data.len();
        let _ = body.flow_control().release_capacity(data.len());
    }
    let response = http::Response::builder().header("x-received", received).body(()).unwrap();
    match head.uri.path() {
        "/reset" => {
            let mut stream = respond.send_response(response, false).unwrap();
            send(&mut stream, Bytes::from_static(&[b'x'; 1000])).await;
            stream.send_reset(h2::Reason::INTERNAL_ERROR);
        }
        "/large" => {
            let mut stream = respond.send_response(response, false).unwrap();
            for _ in 0..64 {
                send(&mut stream, Bytes::from_static(&[b'x'; 64 * 1024])).await;
            }
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-check", "sum".parse().unwrap());
            trailers.insert("set-cookie", "a=b".parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        }
        path if path.starts_with("/fields/") => {
            let mut response = response;
            for n in 0..path["/fields/".len()..].parse().unwrap() {
                let name = http::HeaderName::try_from(format!("x-field-{n}")).unwrap();
                response.headers_mut().insert(name, "value".parse().unwrap());
            }
            respond.send_response(response, true).unwrap();
        }
        "/trailers" => {
            let mut stream = respond.send_response(response, false).unwrap();
            let mut trailers = http::HeaderMap::new();
            for n in 0..1001 {
                trailers.append("x-check", n.into());
            }
            stream.send_trailers(trailers).unwrap();
        }
        _ => drop(respond.send_response(response, true).unwrap()),
    }
}

/// Sends all of it, as the other side makes room.
async fn send(stream: &mut h2::SendStream<Bytes>, mut data: Bytes) {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
        let piece = data.split_to(room.min(data.len()));
        if stream.send_data(piece, false).is_err() {
            return;
        }
    }
}

pub(super) fn received(headers: &[v1::Header]) -> &str {
    &headers.iter().find(|field| field.name == "x-received").unwrap().value
}

#[tokio::test]
async fn many_calls_share_one_connection() {
    for door in DOORS {
        let api = Api::behind(door).await;
        let desk = api.desk().await;
        let first = desk.call(post("/echo", &[b'a'; 3000])).await.unwrap();
        assert_eq!((first.status, received(&first.headers)), (200, "3000"));
        let calls = (0..40).map(|n| desk.call(get(&format!("/n/{n}"))));
        for answer in futures_util::future::join_all(calls).await {
            assert_eq!(answer.unwrap().status, 200);
        }
        assert_eq!(api.connections.load(Ordering::SeqCst), 1);
        desk.stop().await;
    }
}

#[tokio::test]
async fn a_large_body_goes_and_comes_with_its_trailers() {
    for door in DOORS {
        let api = Api::behind(door).await;
        let desk = api.desk().await;
        let mut sent = vec![message(Sent::Head(head("POST", "/large")))];
        sent.extend((0..40).map(|_| chunk(vec![b'y'; 64 * 1024], false)));
        sent.push(chunk("", true));
        let answer = called(&desk, sent).await.unwrap();
        assert_eq!((answer.head.status, received(&answer.head.headers)), (200, "2621440"));
        assert_eq!(answer.body.len(), 64 * 64 * 1024);
        let trailers: Vec<_> =
            answer.trailers.iter().map(|field| (field.name.as_str(), field.value.as_str())).collect();
        assert_eq!(trailers, [("x-check", "sum")], "trailers come, cookies among them do not");
        desk.stop().await;
    }
}

#[tokio::test]
async fn callers_that_take_nothing_starve_no_other_call_on_their_connection() {
    for door in DOORS {
        let api = Api::behind(door).await;
        let desk = api.desk().await;
        let mut untaken = Vec::new();
        for _ in 0..6 {
            let sent = [message(Sent::Head(head("POST", "/large"))), chunk("", true)];
            // Each on a connection of its own to the broker: what they share is the one to the provider.
            let mut client = desk.client_of_its_own().await;
            let answer = client.stream_provider_call(futures_util::stream::iter(sent)).await;
            untaken.push(answer.unwrap().into_inner());
        }
        let sent = vec![message(Sent::Head(head("POST", "/large"))), chunk("", true)];
        let answer = called(&desk, sent).await.unwrap();
        assert_eq!(answer.body.len(), 64 * 64 * 1024);
        assert_eq!(api.connections.load(Ordering::SeqCst), 1);
        drop(untaken);
        desk.stop().await;
    }
}

#[tokio::test]
async fn an_answer_with_too_many_fields_is_told_and_costs_no_other_call_its_connection() {
    for door in DOORS {
        let api = Api::behind(door).await;
        let desk = api.desk().await;
        // One that is under way meanwhile, with more to come than its window has room for.
        let sent = [message(Sent::Head(head("POST", "/large"))), chunk("", true)];
        let mut client = desk.client_of_its_own().await;
        let under_way = client.stream_provider_call(futures_util::stream::iter(sent)).await;
        let mut under_way = under_way.unwrap().into_inner();
        assert!(matches!(under_way.message().await.unwrap().unwrap().part, Some(Came::Head(_))));
        for (path, why) in [
            ("/fields/10000", "(its header fields exceed 1000 or 64 KiB)"),
            // The library says no more than this.
            ("/fields/15000", "(the connection broke)"),
            ("/trailers", "(its header fields exceed 1000 or 64 KiB)"),
        ] {
            let sent = vec![message(Sent::Head(head("POST", path))), chunk("a", true)];
            let status = called(&desk, sent).await.unwrap_err();
            assert_eq!(reason(&status), "PROVIDER_UNAVAILABLE", "{path}");
            assert!(status.message().ends_with(why), "{path}: {status}");
        }
        let mut length = 0;
        while let Some(message) = under_way.message().await.unwrap() {
            length += if let Some(Came::Chunk(chunk)) = message.part { chunk.data.len() } else { 0 };
        }
        assert_eq!(length, 64 * 64 * 1024);
        assert_eq!(api.connections.load(Ordering::SeqCst), 1);
        desk.stop().await;
    }
}

#[tokio::test]
async fn a_stream_that_is_reset_in_the_middle_is_told_and_the_connection_goes_on() {
    for door in DOORS {
        let api = Api::behind(door).await;
        let desk = api.desk().await;
        let status = called(&desk, vec![message(Sent::Head(head("POST", "/reset"))), chunk("a", true)]).await;
        assert_eq!(reason(&status.unwrap_err()), "PROVIDER_UNAVAILABLE");
        assert_eq!(desk.call(get("/echo")).await.unwrap().status, 200);
        assert_eq!(api.connections.load(Ordering::SeqCst), 1);
        desk.stop().await;
    }
}
