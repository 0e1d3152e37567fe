//! The keys under which rows lie. Owns the index seed. Does not know what the rows hold. Invariant: no name stands
//! in clear on disk, and nobody without the seed can tell whether a name is there (seal.md 6.7).

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::SessionKey;
use super::keyring::expand;
use crate::connection::{ConnectionId, Tenant};
use crate::secret::Secret;

/// The key of a row: what kind it is, then an HMAC of its name. Fixed length, so that no key is a prefix of another.
pub(crate) type Key = [u8; 33];

/// The first byte of every key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The store's own header.
    Header,
    /// A connection.
    Connection,
    /// A consent under way.
    Session,
}

impl Kind {
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Header => b'h',
            Self::Connection => b'c',
            Self::Session => b's',
        }
    }
}

/// The key of the one header row.
pub(crate) const HEADER: Key = {
    let mut key = [0; 33];
    key[0] = Kind::Header.byte();
    key
};

/// The key of the one row that says how far the store is.
pub(crate) const MARK: Key = {
    let mut key = HEADER;
    key[32] = 1;
    key
};

/// Makes row keys. The seed is the store's own and is sealed with the ring, rather than derived from a ring key: so
/// a new ring key moves no row, and a retired one takes no index with it.
pub(crate) struct Index {
    seed: Secret<[u8; 32]>,
}

impl Index {
    pub(crate) const fn new(seed: Secret<[u8; 32]>) -> Self {
        Self { seed }
    }

    /// The row of a connection: HMAC-SHA-256 under the tenant's own key.
    pub(crate) fn connection(&self, id: &ConnectionId) -> Key {
        let parts = [id.tenant.as_str(), id.provider.as_str(), id.name.as_str()].map(str::as_bytes);
        hmac(Kind::Connection, &self.tenant_key(&id.tenant), &parts)
    }

    /// The row of a session: keyed once more, so that not even the digest stands on disk.
    pub(crate) fn session(&self, key: SessionKey) -> Key {
        let session_key = expand(None, self.seed.expose(), b"token-broker/1/index/session");
        hmac(Kind::Session, &session_key, &[&key.0])
    }

    fn tenant_key(&self, tenant: &Tenant) -> Secret<[u8; 64]> {
        let info = [b"token-broker/1/index/tenant/", tenant.as_str().as_bytes()].concat();
        expand(None, self.seed.expose(), &info)
    }
}

fn hmac(kind: Kind, key: &Secret<[u8; 64]>, parts: &[&[u8]]) -> Key {
    let mut mac = Hmac::<Sha256>::new(key.expose().into());
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    let mut row = [kind.byte(); 33];
    row[1..].copy_from_slice(&mac.finalize().into_bytes());
    row
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn index(seed: u8) -> Index {
        Index::new(Secret::new([seed; 32]))
    }

    fn id(tenant: &str, provider: &str, name: &str) -> ConnectionId {
        ConnectionId::parse(tenant.into(), provider.into(), name.into()).unwrap()
    }

    #[test]
    fn a_name_has_one_row_and_no_two_names_share_one() {
        let names = [
            id("", "google", "user"),
            id("g", "google", "user"),
            id("", "googleu", "ser"),
            id("", "google", "userx"),
            id("user", "google", "user"),
        ];
        let rows: HashSet<Key> = names.iter().map(|id| index(1).connection(id)).collect();
        assert_eq!(rows.len(), names.len());
        assert!(names.iter().all(|id| rows.contains(&index(1).connection(id))));
        assert!(names.iter().all(|id| !rows.contains(&index(2).connection(id))), "another store, other rows");
    }

    #[test]
    fn a_sessions_row_is_not_its_digest() {
        let row = index(1).session(SessionKey([9; 32]));
        assert_ne!(row[1..], [9; 32]);
        assert_eq!(row[0], b's');
    }
}
