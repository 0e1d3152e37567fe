//! Sealing (seal.md 6.1): AES-256-GCM under a key of its own for every record, derived by HKDF-SHA-256 from the ring
//! key and a fresh salt. Owns the envelope. Does not know records or engines. Invariant: what opens is exactly what
//! was sealed for that tenant, provider, connection, field and generation of that store, by a key of the ring; the
//! key is chosen by its id and committed to, never found by trying.
//!
//! ```text
//! (key, commit) = HKDF(enc key, salt, info = AAD)                   32 + 32 bytes
//! stored = fmt 1 | ring id 1 + n | salt 32 | commit 32 | nonce 12 | ciphertext + tag 16
//! AAD    = fmt, store id, ring id, tenant, provider, connection, field, generation; each with its length
//! ```

#[cfg(test)]
mod tests;

use std::sync::Arc;

use aes_gcm::aead::AeadInOut as _;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{Aes256Gcm, KeyInit as _};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::keyring::{KeyRing, Purpose, expand};
use crate::entropy::Entropy;
use crate::secret::Secret;

/// The one form there is. Another number is another form, never a negotiation.
const FORMAT: u8 = 1;
const SALT: usize = 32;
const COMMIT: usize = 32;
const NONCE: usize = 12;
const TAG: usize = 16;

/// Seals and opens for one store.
#[derive(Clone)]
pub(crate) struct Sealer {
    ring: Arc<KeyRing>,
    store: Uuid,
    entropy: Arc<dyn Entropy>,
    purpose: Purpose,
}

/// Where a sealed value belongs. It opens nowhere else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// The tenant; empty where the value has none, or its name is what is sealed.
    pub(crate) tenant: &'a str,
    /// The provider, likewise.
    pub(crate) provider: &'a str,
    /// The connection's name, or the key of the row where the name is what is sealed.
    pub(crate) connection: &'a [u8],
    /// Which part of the record.
    pub(crate) field: Field,
    /// The record's revision, or what else counts its writes.
    pub(crate) generation: u64,
}

/// The parts that are sealed apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// The store's index seed: the canary on which the key is proved.
    Identity,
    /// A connection's full name.
    Name,
    /// What a person may see of a connection.
    Profile,
    /// Its tokens.
    Tokens,
    /// What happened to it.
    History,
    /// A consent under way.
    Session,
    /// Tokens that the store did not take.
    Escrow,
    /// A frame of an export.
    Export,
    /// The end of an export.
    ExportEnd,
}

/// Why a sealed value does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unopened {
    /// Too short, or of a form this version does not know.
    Format,
    /// Sealed with a key the ring lacks.
    UnknownKey,
    /// Sealed with another key of that name, for another place, or altered.
    Refused,
}

impl Unopened {
    /// The reason, for an operator.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Format => "its seal is of an unknown form",
            Self::UnknownKey => "it is sealed with a key that the key file does not hold",
            Self::Refused => "its seal does not fit: another key, another place, or damage",
        }
    }
}

impl Sealer {
    pub(crate) fn new(ring: Arc<KeyRing>, store: Uuid, entropy: Arc<dyn Entropy>) -> Self {
        Self { ring, store, entropy, purpose: Purpose::Enc }
    }

    /// The same store's seal for tokens that lie outside it, under keys of its own.
    pub(crate) fn for_escrow(&self) -> Self {
        Self { purpose: Purpose::Escrow, ..self.clone() }
    }

    /// The store whose values it seals.
    pub(crate) fn store(&self) -> Uuid {
        self.store
    }

    /// Seals `plain` for `place`.
    pub(crate) fn seal(&self, place: Place<'_>, plain: &[u8]) -> Vec<u8> {
        let ring_id = self.ring.active().id;
        let ring_id = ring_id.as_str().as_bytes();
        let (salt, nonce) = (self.entropy.bytes::<SALT>(), self.entropy.bytes::<NONCE>());
        let aad = place.aad(self.store, ring_id);
        let derived = derive(self.ring.active_derived(self.purpose), &salt, &aad);
        let (key, commit) = derived.expose().split_at(32);

        let mut sealed = Vec::with_capacity(2 + ring_id.len() + SALT + COMMIT + NONCE + plain.len() + TAG);
        sealed.push(FORMAT);
        sealed.extend(u8::try_from(ring_id.len()));
        sealed.extend_from_slice(ring_id);
        sealed.extend_from_slice(&salt);
        sealed.extend_from_slice(commit);
        sealed.extend_from_slice(&nonce);
        let start = sealed.len();
        sealed.extend_from_slice(plain);
        let tag = encrypt(key, &nonce, &aad, &mut sealed[start..]);
        sealed.extend_from_slice(&tag);
        sealed
    }

    /// Opens what was sealed for `place`.
    pub(crate) fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unopened> {
        let envelope = Envelope::parse(sealed).ok_or(Unopened::Format)?;
        let aad = place.aad(self.store, envelope.ring_id);
        let enc = self.ring.derived(envelope.ring_id, self.purpose).ok_or(Unopened::UnknownKey)?;
        let derived = derive(enc, envelope.salt, &aad);
        let (key, commit) = derived.expose().split_at(32);
        if !bool::from(commit.ct_eq(envelope.commit)) {
            return Err(Unopened::Refused);
        }
        let mut plain = Zeroizing::new(envelope.ciphertext.to_vec());
        decrypt(key, envelope.nonce, &aad, &mut plain, envelope.tag)?;
        Ok(plain)
    }
}

/// A record's own key and the commitment to it.
fn derive(enc: &Secret<[u8; 32]>, salt: &[u8], aad: &[u8]) -> Secret<[u8; 64]> {
    expand(Some(salt), enc.expose(), aad)
}

/// The parts of a sealed value.
struct Envelope<'a> {
    ring_id: &'a [u8],
    salt: &'a [u8],
    commit: &'a [u8],
    nonce: &'a [u8],
    ciphertext: &'a [u8],
    tag: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn parse(sealed: &'a [u8]) -> Option<Self> {
        let (&[format, id_len], rest) = sealed.split_first_chunk::<2>()?;
        let (ring_id, rest) = rest.split_at_checked(usize::from(id_len))?;
        let (salt, rest) = rest.split_at_checked(SALT)?;
        let (commit, rest) = rest.split_at_checked(COMMIT)?;
        let (nonce, rest) = rest.split_at_checked(NONCE)?;
        let (ciphertext, tag) = rest.split_at_checked(rest.len().checked_sub(TAG)?)?;
        (format == FORMAT).then_some(Self { ring_id, salt, commit, nonce, ciphertext, tag })
    }
}

impl Place<'_> {
    /// Every part with its length before it, so that no two places read the same.
    fn aad(&self, store: Uuid, ring_id: &[u8]) -> Vec<u8> {
        let generation = self.generation.to_be_bytes();
        let parts: [&[u8]; 8] = [
            &[FORMAT],
            store.as_bytes(),
            ring_id,
            self.tenant.as_bytes(),
            self.provider.as_bytes(),
            self.connection,
            self.field.as_str().as_bytes(),
            &generation,
        ];
        let mut aad = Vec::with_capacity(parts.iter().map(|part| 8 + part.len()).sum());
        for part in parts {
            aad.extend_from_slice(&(part.len() as u64).to_be_bytes());
            aad.extend_from_slice(part);
        }
        aad
    }
}

impl Field {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Name => "name",
            Self::Profile => "profile",
            Self::Tokens => "tokens",
            Self::History => "history",
            Self::Session => "session",
            Self::Escrow => "escrow",
            Self::Export => "export",
            Self::ExportEnd => "export end",
        }
    }
}

fn cipher(key: &[u8]) -> Option<Aes256Gcm> {
    Aes256Gcm::new_from_slice(key).ok()
}

#[expect(clippy::expect_used, reason = "fails only above 64 GiB, and a record must not be stored unsealed")]
fn encrypt(key: &[u8], nonce: &[u8; NONCE], aad: &[u8], buffer: &mut [u8]) -> [u8; TAG] {
    let tag = cipher(key)
        .and_then(|cipher| cipher.encrypt_inout_detached(nonce.into(), aad, InOutBuf::from(buffer)).ok())
        .expect("AES-256-GCM takes a key of 32 bytes and records below 64 GiB");
    tag.into()
}

fn decrypt(key: &[u8], nonce: &[u8], aad: &[u8], buffer: &mut [u8], tag: &[u8]) -> Result<(), Unopened> {
    let (nonce, tag) = (<[u8; NONCE]>::try_from(nonce), <[u8; TAG]>::try_from(tag));
    let (Some(cipher), Ok(nonce), Ok(tag)) = (cipher(key), nonce, tag) else {
        return Err(Unopened::Format);
    };
    cipher
        .decrypt_inout_detached((&nonce).into(), aad, InOutBuf::from(buffer), (&tag).into())
        .map_err(|_| Unopened::Refused)
}
