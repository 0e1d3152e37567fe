//! The upstream: hyper, which answers with zeros, plain and over TLS, in either version of HTTP, and counts the connections
//! it is made.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::child::{DRIVER_CORE, Kept, pinned, ready_line};
use crate::{Outcome, ROLE, STREAMED};

/// The door without TLS to which HTTP/2 is spoken at once.
pub(crate) const PLAIN_HTTP2: &str = "http2";

/// The path that takes a body and counts it.
pub(crate) const SINK: &str = "/sink";

const FOLDER: &str = "CALL_UPSTREAM_FOLDER";

/// A running upstream.
pub(crate) struct Upstream {
    _child: Kept,
    _folder: TempDir,
    /// What each door is called, and its base.
    pub(crate) bases: Vec<(String, String)>,
    /// The certificate to trust, PEM.
    pub(crate) certificate: PathBuf,
}

/// Starts this executable as the upstream.
pub(crate) fn start() -> Outcome<Upstream> {
    let folder = tempfile::tempdir()?;
    let mut child = Kept(
        pinned(DRIVER_CORE, &std::env::current_exe()?)
            .env(ROLE, "upstream")
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let ports: Vec<u64> = ready_line(child.0.stdout.take().ok_or("no stdout")?, |line| {
        serde_json::from_str::<Value>(line).ok()?["ports"].as_array()?.iter().map(Value::as_u64).collect()
    })?;
    let doors = [("http1", "http"), (PLAIN_HTTP2, "http"), ("https1", "https"), ("https2", "https")];
    let bases = doors
        .iter()
        .zip(ports)
        .map(|((name, scheme), port)| ((*name).to_owned(), format!("{scheme}://localhost:{port}")))
        .collect();
    let certificate = folder.path().join("certificate.pem");
    Ok(Upstream { _child: child, _folder: folder, bases, certificate })
}

impl Upstream {
    /// The client that the broker uses for this door, by itself.
    pub(crate) fn client(&self, name: &str) -> Outcome<reqwest::Client> {
        client(&self.certificate, name == PLAIN_HTTP2)
    }

    /// How many connections were made to it so far.
    pub(crate) async fn connections(&self) -> Outcome<u64> {
        let (name, base) = self.bases.first().ok_or("no door")?;
        let asked = self.client(name)?.get(format!("{base}/connections"));
        Ok(asked.send().await?.text().await?.parse::<u64>()? - 1)
    }
}

/// A client that trusts this certificate, pooled, with either version of HTTP; `is_http2`: with HTTP/2 at once.
pub(crate) fn client(certificate: &std::path::Path, is_http2: bool) -> Outcome<reqwest::Client> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    #[expect(clippy::disallowed_methods, reason = "what the broker's own client is held against")]
    let builder = reqwest::Client::builder();
    let builder = builder.tls_backend_preconfigured(tls).no_proxy();
    Ok(if is_http2 { builder.http2_prior_knowledge() } else { builder }.build()?)
}

/// What the child does.
pub(crate) async fn serve() -> Outcome<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let folder = PathBuf::from(std::env::var(FOLDER)?);
    std::fs::write(folder.join("certificate.pem"), made.cert.pem())?;
    let tls = |alpn: &[u8]| -> Outcome<TlsAcceptor> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    };
    // In the order of their names.
    let doors = [None, None, Some(tls(b"http/1.1")?), Some(tls(b"h2")?)];
    let connections = Arc::new(AtomicU64::new(0));
    let (mut ports, mut serving) = (Vec::new(), Vec::new());
    for tls in doors {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        ports.push(listener.local_addr()?.port());
        let connections = connections.clone();
        serving.push(tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(connected(tcp, tls.clone(), connections.clone()));
            }
        }));
    }
    writeln!(std::io::stdout().lock(), "{}", json!({ "ports": ports }))?;
    for door in serving {
        door.await?;
    }
    Ok(())
}

async fn connected(tcp: TcpStream, tls: Option<TlsAcceptor>, connections: Arc<AtomicU64>) {
    if tcp.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(move |request: Request<Incoming>| {
        let connections = connections.clone();
        async move {
            Ok::<_, hyper::Error>(Response::new(if request.uri().path() == SINK {
                taken(request.into_body()).await?
            } else {
                answer(request.uri().path(), &connections)
            }))
        }
    });
    let server = Builder::new(TokioExecutor::new());
    let _ended = match tls {
        None => server.serve_connection(TokioIo::new(tcp), service).await,
        Some(tls) => match tls.accept(tcp).await {
            Ok(stream) => server.serve_connection(TokioIo::new(stream), service).await,
            Err(_) => return,
        },
    };
}

/// Takes all that is sent, and says how many bytes that were.
async fn taken(mut body: Incoming) -> Result<BoxBody<Bytes, std::convert::Infallible>, hyper::Error> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(Full::new(Bytes::from(length.to_string())).boxed())
}

fn answer(path: &str, connections: &AtomicU64) -> BoxBody<Bytes, std::convert::Infallible> {
    const PIECE: usize = 64 * 1024;
    match path {
        "/1KiB" => Full::new(Bytes::from(vec![0; 1024])).boxed(),
        "/1MiB" => Full::new(Bytes::from(vec![0; 1024 * 1024])).boxed(),
        "/connections" => Full::new(Bytes::from(connections.load(Ordering::Relaxed).to_string())).boxed(),
        _ => {
            let piece = Bytes::from(vec![0; PIECE]);
            let pieces = std::iter::repeat_n(piece, STREAMED / PIECE).map(|piece| Ok(Frame::data(piece)));
            BoxBody::new(StreamBody::new(stream::iter(pieces)))
        }
    }
}
