//! TLS for outgoing requests: rustls over ring, 1.2 or newer, the system's certificates.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use crate::provider::trust::ExtraAuthorities;

/// Why no client could be built.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The TLS library refuses its own defaults.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
    /// The HTTP library refuses the settings.
    #[error("the HTTP client cannot be set up")]
    Client,
}

/// The certificates of the system, or Mozilla's where the system has none, and the extra ones. No key log, whatever
/// the environment says.
pub(super) fn client_config(extra: &ExtraAuthorities) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    // A broken certificate in the system's store is the system's affair; what is left is used.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    extra.add_to(&mut roots)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
