//! TLS to a peer whose certificate is trusted, or not.

use std::sync::{Arc, Mutex};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use token_broker::error::{ProviderError, Unsent};
use token_broker::provider::http::HttpSettings;
use token_broker::provider::trust::ExtraAuthorities;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{Renew as _, provider_with, refresh_token};

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 42\r\n\r\n{\"access_token\":\"a\",\"token_type\":\"bearer\"}";

/// What a handshake settled on.
#[derive(Debug, PartialEq)]
struct Settled {
    version: Option<rustls::ProtocolVersion>,
    protocol: Option<Vec<u8>>,
}

/// A token endpoint over TLS, with a certificate for `localhost` that it signed itself.
struct TlsPeer {
    url: String,
    certificate: String,
    settled: Arc<Mutex<Vec<Settled>>>,
}

async fn peer(versions: &[&'static rustls::SupportedProtocolVersion]) -> TlsPeer {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("https://localhost:{}/t", listener.local_addr().unwrap().port());
    let settled = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&settled);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let (_, session) = stream.get_ref();
            seen.lock().unwrap().push(Settled {
                version: session.protocol_version(),
                protocol: session.alpn_protocol().map(<[u8]>::to_vec),
            });
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(ANSWER.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    TlsPeer { url, certificate: cert.pem(), settled }
}

async fn refreshed(peer: &TlsPeer, certificate: Option<&str>) -> Result<(), ProviderError> {
    let extra = certificate.map(|pem| ExtraAuthorities::of_pem(pem.as_bytes()).unwrap());
    let settings = HttpSettings { extra_authorities: extra.unwrap_or_default(), ..HttpSettings::default() };
    let entry = json!({"endpoints": {"authorization": "https://as.example/a", "token": peer.url}});
    provider_with(entry, &settings).renewed(&refresh_token("rt")).await.map(|_| ())
}

#[tokio::test]
async fn an_extra_certificate_is_trusted_and_only_http_1_is_spoken() {
    for (version, expected) in [
        (&rustls::version::TLS13, rustls::ProtocolVersion::TLSv1_3),
        (&rustls::version::TLS12, rustls::ProtocolVersion::TLSv1_2),
    ] {
        let peer = peer(&[version]).await;
        assert_eq!(refreshed(&peer, Some(&peer.certificate)).await, Ok(()));
        let expected = Settled { version: Some(expected), protocol: Some(b"http/1.1".to_vec()) };
        assert_eq!(*peer.settled.lock().unwrap(), [expected]);
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused_before_anything_is_sent() {
    let peer = peer(&[&rustls::version::TLS13]).await;
    let refused = ProviderError::Unavailable { cause: Unsent::Untrusted, retry_after: None };
    assert_eq!(refreshed(&peer, None).await, Err(refused));
}
