//! TLS for outgoing requests: rustls over ring, 1.2 or newer, the system's certificates.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// Why no client could be built.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The extra certificates cannot be read.
    #[error("{}: no PEM certificates can be read from it", .0.display())]
    ExtraCa(PathBuf),
    /// The TLS library refuses its own defaults.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
    /// The HTTP library refuses the settings.
    #[error("the HTTP client cannot be set up")]
    Client,
}

/// The certificates of the system, or Mozilla's where the system has none, and the extra ones. No key log, whatever
/// the environment says.
pub(super) fn client_config(extra_ca_file: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    // A broken certificate in the system's store is the system's affair; what is left is used.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(path) = extra_ca_file {
        let refuse = || TlsError::ExtraCa(path.to_owned());
        let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
            .map_err(|_| refuse())?
            .collect::<Result<_, _>>()
            .map_err(|_| refuse())?;
        if certificates.is_empty() {
            return Err(refuse());
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|_| refuse())?;
        }
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
