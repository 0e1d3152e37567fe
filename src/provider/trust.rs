//! Certificate authorities that are trusted besides the public ones, as an operator names them.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// Authorities read from PEM, each of which the TLS library takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtraAuthorities(Vec<CertificateDer<'static>>);

/// The text holds no certificate, or one that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("holds no certificates in PEM form that can be used")]
pub struct NoAuthorities;

impl ExtraAuthorities {
    /// Reads one or more certificates (RFC 7468 section 5).
    ///
    /// # Errors
    /// [`NoAuthorities`] if there is none, or one is broken: half of what was meant is not trusted in silence.
    pub fn of_pem(pem: &[u8]) -> Result<Self, NoAuthorities> {
        let read = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>();
        let authorities = Self(read.map_err(|_| NoAuthorities)?);
        if authorities.0.is_empty() {
            return Err(NoAuthorities);
        }
        authorities.add_to(&mut RootCertStore::empty()).map_err(|_| NoAuthorities)?;
        Ok(authorities)
    }

    /// Adds them to those that are trusted.
    ///
    /// # Errors
    /// As the TLS library has them; none after [`Self::of_pem`].
    pub(in crate::provider) fn add_to(&self, roots: &mut RootCertStore) -> Result<(), rustls::Error> {
        self.0.iter().try_for_each(|authority| roots.add(authority.clone()))
    }
}
