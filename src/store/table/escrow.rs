//! Tokens that lie outside the store, as files: their names and their bytes.
//!
//! ```text
//! name  = 32 hex digits of the connection's row key | "-" | 16 hex digits of the attempt
//! bytes = "TBE1" | store id 16 | sealed for that name
//! ```

use uuid::Uuid;

use super::Table;
use crate::connection::{ConnectionId, Intent, IssuedTokens};
use crate::error::StoreError;
use crate::store::EscrowedTokens;
use crate::store::record;
use crate::store::seal::{Field, Place, Unopened};

const MAGIC: &[u8; 4] = b"TBE1";

/// Why a file that is whole is none of this store's.
pub(crate) const FOREIGN: &str = "it belongs to another store";

impl Table {
    /// The store whose rows and tokens these are.
    pub(crate) fn store(&self) -> Uuid {
        self.sealer.store()
    }

    /// The name under which what `attempt` brought for `id` lies. It shows neither.
    pub(crate) fn escrow_name(&self, id: &ConnectionId, attempt: &Intent) -> String {
        let row = self.index.connection(id);
        let row = row[1..17].iter().fold(0_u128, |sum, byte| (sum << 8) | u128::from(*byte));
        format!("{row:032x}-{:016x}", attempt.attempt_id)
    }

    /// The bytes that lie under `name`.
    pub(crate) fn seal_escrow(
        &self,
        name: &str,
        id: &ConnectionId,
        attempt: &Intent,
        issued: &IssuedTokens,
    ) -> Result<Vec<u8>, StoreError> {
        let plain = record::encode_escrow(id, attempt, issued)?;
        let sealed = self.sealer.for_escrow().seal(place(name), &plain);
        Ok([MAGIC, self.sealer.store().as_bytes().as_slice(), &sealed].concat())
    }

    /// Whether `bytes`, meant for `name`, are the beginning of tokens of this store and no more: nothing can be had from
    /// them, under whatever key of the ring.
    pub(crate) fn is_cut_short(&self, name: &str, bytes: &[u8]) -> bool {
        let head = [MAGIC, self.sealer.store().as_bytes().as_slice()].concat();
        match bytes.strip_prefix(head.as_slice()) {
            Some(sealed) => matches!(
                self.sealer.for_escrow().open(place(name), sealed),
                Err(Unopened::Format | Unopened::Refused)
            ),
            None => head.starts_with(bytes),
        }
    }

    /// What lies under `name`; else why it does not open.
    pub(crate) fn open_escrow(&self, name: &str, bytes: &[u8]) -> Result<EscrowedTokens, &'static str> {
        let rest = bytes.strip_prefix(MAGIC).ok_or("it holds no tokens of this version, or is damaged")?;
        let (store, sealed) = rest.split_first_chunk::<16>().ok_or("it is cut off")?;
        if Uuid::from_bytes(*store) != self.sealer.store() {
            return Err(FOREIGN);
        }
        let plain = self.sealer.for_escrow().open(place(name), sealed).map_err(Unopened::as_str)?;
        let held =
            record::decode_escrow(&plain).map_err(|_| "it was written by another version of token-broker")?;
        if self.escrow_name(&held.id, &held.attempt) != name {
            return Err("it lies under another name than what it holds");
        }
        Ok(held)
    }
}

fn place(name: &str) -> Place<'_> {
    Place { tenant: "", provider: "", connection: name.as_bytes(), field: Field::Escrow, generation: 0 }
}
