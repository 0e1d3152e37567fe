//! Where connections and consents under way are kept. Owns the storage contract (the traits below, and
//! `store/conformance.rs`, which is the contract as tests) and its implementations. Does not know providers,
//! callers or gRPC. Invariant: what a write acknowledged survives any crash, and nothing leaves here unsealed.

#[cfg(test)]
pub(crate) mod conformance;
mod engine;
pub mod export;
pub mod guard;
mod index;
pub mod keyring;
pub mod memory;
mod record;
pub mod redb;
pub mod remedy;
mod seal;
pub mod sled;
mod table;

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::connection::{
    ConnectSession, Connection, ConnectionId, Intent, IssuedTokens, Profile, ProviderKey, Status, Tenant,
};
use crate::error::StoreError;

/// A stored value with the revision it was read at.
#[derive(Debug)]
pub struct Stored<T> {
    /// The value.
    pub value: T,
    /// Its revision: what [`Expected::At`] takes.
    pub revision: Revision,
}

/// Counts the writes of one record, from 1, or from above what was removed before: it never repeats for a record's
/// name, even after it was removed, as long as the same process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// What the writer believes is stored: the condition of a compare-and-swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing is stored under that name.
    Absent,
    /// Exactly this revision is stored.
    At(Revision),
}

/// Which connections a listing is about. Empty selects all that there are.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only of this tenant.
    pub tenant: Option<Tenant>,
    /// Only of this provider.
    pub provider: Option<ProviderKey>,
    /// Only in this status.
    pub status: Option<Status>,
    /// Only names that start with this.
    pub name_prefix: Option<String>,
    /// Also what is remembered of those that are no more.
    pub with_ended: bool,
}

impl Selection {
    /// Whether `profile` is selected.
    pub fn contains(&self, profile: &Profile) -> bool {
        (self.with_ended || !profile.id.is_ended())
            && self.tenant.as_ref().is_none_or(|tenant| *tenant == profile.id.tenant)
            && self.provider.as_ref().is_none_or(|provider| *provider == profile.id.provider)
            && self.status.is_none_or(|status| status == profile.status)
            && self
                .name_prefix
                .as_ref()
                .is_none_or(|prefix| profile.id.name.as_str().starts_with(prefix.as_str()))
    }
}

/// A place in a listing: opaque outside the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageToken(pub Vec<u8>);

/// A part of a listing.
#[derive(Debug)]
pub struct Page {
    /// The selected connections, in the store's own stable order.
    pub profiles: Vec<Profile>,
    /// Where the next part starts; `None` after the last.
    pub next: Option<PageToken>,
    /// Records of this part that do not open, selected or not: what they are about cannot be known. Each is counted
    /// in exactly one part.
    pub unreadable: usize,
}

/// Connections by name.
///
/// The contract, which `store::conformance` tests for every implementation:
///
/// - `put` and `remove` are **durable when they return**, atomic, and compare-and-swap on the record's revision: on
///   a mismatch they change nothing and answer [`StoreError::Conflict`].
/// - A reader sees the last acknowledged write or a later one, never an older one, and never half of one. What it
///   sees is durable.
/// - Dropping the future of a write leaves it either wholly done or wholly undone.
/// - `get` and `list` open what they return. A record that does not open is never taken for absent: by name it is
///   [`StoreError::Unreadable`]; a listing counts it ([`Page::unreadable`]), says so in the log and gives the others,
///   for one damaged record must not keep everybody from theirs.
/// - After the first failure of the engine every call answers [`StoreError::Unavailable`] until the store has been
///   reopened and verified; nothing is repeated as if it could succeed.
#[async_trait]
pub trait TokenStore: Send + Sync {
    /// The connection of that name; `None` if there is none.
    async fn get(&self, id: &ConnectionId) -> Result<Option<Stored<Connection>>, StoreError>;

    /// Writes `connection` under its own id if the store holds what `expected` says.
    async fn put(&self, connection: &Connection, expected: Expected) -> Result<Revision, StoreError>;

    /// [`TokenStore::put`] of what costs a grant if it is not written: tokens that a provider has just issued and that
    /// exist nowhere else yet, or the intent to ask again for some that got lost. A store that takes no other write,
    /// because its disk is full, makes room for this one if it can.
    async fn rescue(&self, connection: &Connection, expected: Expected) -> Result<Revision, StoreError> {
        self.put(connection, expected).await
    }

    /// Forgets the connection if the store holds what `expected` says. The bytes it left in the engine's file stay
    /// sealed; they are gone for good when their key is destroyed.
    async fn remove(&self, id: &ConnectionId, expected: Expected) -> Result<(), StoreError>;

    /// Up to `limit` selected connections after `after`, without opening a token.
    async fn list(
        &self,
        selection: &Selection,
        after: Option<&PageToken>,
        limit: usize,
    ) -> Result<Page, StoreError>;
}

/// Tokens that a refresh brought and the store did not take.
#[derive(Debug)]
pub struct EscrowedTokens {
    /// Whose.
    pub id: ConnectionId,
    /// The attempt that brought them: it says to which state of the record they belong.
    pub attempt: Intent,
    /// What the provider answered.
    pub issued: IssuedTokens,
    /// Whether the store that was to take them was put back to a state before their connection: see
    /// [`EscrowStore::set_apart`].
    pub is_apart: bool,
}

/// What lies in an [`EscrowStore`].
#[derive(Debug, Default)]
pub struct EscrowContents {
    /// What was put there.
    pub tokens: Vec<EscrowedTokens>,
    /// What does not open: damaged, of another store, or put there by somebody else. It stays.
    pub unreadable: Vec<UnreadableEscrow>,
}

/// Something in an [`EscrowStore`] that does not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableEscrow {
    /// Where it lies, for an operator.
    pub place: String,
    /// Why it does not open.
    pub why: &'static str,
}

/// A second place, on another volume, for tokens that the store could not take (refresh.md section 2.6, step 7a).
///
/// What `put` acknowledged is durable and sealed, and `list` gives it until it was removed. A put for the same attempt
/// replaces; to remove what is not there is no failure. What does not open is listed as such, never left out and never
/// removed.
#[async_trait]
pub trait EscrowStore: Send + Sync {
    /// Writes down what `attempt` brought for `id`.
    async fn put(&self, id: &ConnectionId, attempt: &Intent, issued: &IssuedTokens)
    -> Result<(), StoreError>;

    /// Everything that is there.
    async fn list(&self) -> Result<EscrowContents, StoreError>;

    /// Marks what `attempt` brought for `id` as of a connection that the store lacks because it was put back: no later
    /// run is to take it for what nobody holds any more. Durable when it returns, and until it is removed.
    async fn set_apart(&self, id: &ConnectionId, attempt: &Intent) -> Result<(), StoreError>;

    /// Forgets what `attempt` brought for `id`: the store has it, or nobody needs it any more.
    async fn remove(&self, id: &ConnectionId, attempt: &Intent) -> Result<(), StoreError>;
}

/// SHA-256 of the secret that leads to a consent under way. The store keys it once more (HMAC), so that not even
/// the digest stands on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey(pub [u8; 32]);

/// Consents under way, by the digest of the secret that leads to them. Durability, atomicity and failure are as for
/// [`TokenStore`].
#[async_trait]
pub trait SessionStore: Send + Sync {
    /// Writes a session, replacing one of the same key.
    async fn put(&self, key: SessionKey, session: &ConnectSession) -> Result<(), StoreError>;

    /// The session of that key, left in place.
    async fn get(&self, key: SessionKey) -> Result<Option<ConnectSession>, StoreError>;

    /// The session of that key, removed: of any number of concurrent takers exactly one gets it.
    async fn take(&self, key: SessionKey) -> Result<Option<ConnectSession>, StoreError>;

    /// Removes every session that expired before `now`; answers how many. What cannot be read stays, and is counted in
    /// the log.
    async fn sweep(&self, now: Timestamp) -> Result<usize, StoreError>;
}
