//! The keys that seal the store. Owns ring keys, their ids and the key file. Does not know what is sealed, nor where
//! the store lies. Invariant: a key never prints, and what is used is always derived for one purpose, never the ring
//! key itself.

mod file;
#[cfg(test)]
mod tests;

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;

use crate::clock::Timestamp;
use crate::entropy::Entropy;
use crate::secret::Secret;

pub use file::{KeyFault, KeyFileError, generate, list};

/// Names a ring key: `k1`, `k2`, … It is stored in clear beside everything the key sealed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyId(String);

/// A ring key as a person may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its name.
    pub id: KeyId,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether new records are sealed with it. The others only open.
    pub is_active: bool,
}

/// The ring: every key that may open a record, and the one that seals new ones.
pub struct KeyRing {
    keys: Vec<RingKey>,
    active: usize,
}

/// A ring key as it is used. Its own value is not kept; what is derived from it is, because every part of every record
/// that is sealed or opened asks for it.
struct RingKey {
    id: KeyId,
    created_at: Timestamp,
    enc: Secret<[u8; 32]>,
    escrow: Secret<[u8; 32]>,
}

/// What a derived key is for (seal.md 6.1). Keys of different purposes are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Sealing records.
    Enc,
    /// Sealing tokens that lie outside the store.
    Escrow,
}

impl KeyId {
    /// Parses an id: `k` and a number from 1 to 9 digits without a leading zero.
    pub fn parse(raw: &str) -> Option<Self> {
        let digits = raw.strip_prefix('k')?;
        let is_number = (1..=9).contains(&digits.len())
            && digits.bytes().all(|b| b.is_ascii_digit())
            && !digits.starts_with('0');
        is_number.then(|| Self(raw.to_owned()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl KeyRing {
    /// Reads the ring from a key file; see [`generate`] for its form.
    ///
    /// # Errors
    /// [`KeyFileError`] when the file cannot be read, others could read it, or it holds no fit key.
    pub fn load(path: &std::path::Path) -> Result<Self, KeyFileError> {
        file::load(path)
    }

    /// A ring of one fresh key that is written nowhere: what it seals dies with the process.
    pub fn ephemeral(entropy: &dyn Entropy) -> Self {
        let root = Secret::new(entropy.bytes::<32>());
        let key = RingKey::new(KeyId("k1".to_owned()), Timestamp::from_millis(0), &root);
        Self { keys: vec![key], active: 0 }
    }

    /// The keys of the ring, in the order of the file.
    pub fn infos(&self) -> Vec<KeyInfo> {
        let info = |(place, key): (usize, &RingKey)| KeyInfo {
            id: key.id.clone(),
            created_at: key.created_at,
            is_active: place == self.active,
        };
        self.keys.iter().enumerate().map(info).collect()
    }

    /// The key that seals new records.
    pub(crate) fn active(&self) -> KeyInfo {
        let key = &self.keys[self.active];
        KeyInfo { id: key.id.clone(), created_at: key.created_at, is_active: true }
    }

    /// The key named `id`, derived for `purpose`; `None` if the ring lacks it.
    pub(crate) fn derived(&self, id: &[u8], purpose: Purpose) -> Option<&Secret<[u8; 32]>> {
        let key = self.keys.iter().find(|key| key.id.0.as_bytes() == id)?;
        Some(key.derived(purpose))
    }

    /// The active key, derived for `purpose`.
    pub(crate) fn active_derived(&self, purpose: Purpose) -> &Secret<[u8; 32]> {
        self.keys[self.active].derived(purpose)
    }
}

impl RingKey {
    fn new(id: KeyId, created_at: Timestamp, root: &Secret<[u8; 32]>) -> Self {
        let derived = |purpose: Purpose| expand(Some(b"token-broker ring"), root.expose(), purpose.info());
        Self { id, created_at, enc: derived(Purpose::Enc), escrow: derived(Purpose::Escrow) }
    }

    fn derived(&self, purpose: Purpose) -> &Secret<[u8; 32]> {
        match purpose {
            Purpose::Enc => &self.enc,
            Purpose::Escrow => &self.escrow,
        }
    }
}

impl Purpose {
    const fn info(self) -> &'static [u8] {
        match self {
            Self::Enc => b"token-broker/1/enc",
            Self::Escrow => b"token-broker/1/escrow",
        }
    }
}

/// Ids only: never a key.
impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("keys", &self.keys.iter().map(|key| &key.id).collect::<Vec<_>>())
            .field("active", &self.keys[self.active].id)
            .finish()
    }
}

/// HKDF-SHA-256 (RFC 5869) to `N` bytes. `N` is at most 64 here, far below the limit of 255 · 32.
pub(crate) fn expand<const N: usize>(salt: Option<&[u8]>, ikm: &[u8], info: &[u8]) -> Secret<[u8; N]> {
    const { assert!(N <= 255 * 32) };
    let mut out = [0; N];
    let _cannot_fail = Hkdf::<Sha256>::new(salt, ikm).expand(info, &mut out);
    Secret::new(out)
}
