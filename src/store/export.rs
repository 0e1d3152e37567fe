//! A store's connections as one stream that any engine can take (G12). Owns the form. Does not know engines or files.
//! Invariant: nothing of a connection stands in clear, and a stream that was cut off, mixed up or altered is refused as
//! a whole.
//!
//! ```text
//! token-broker export 1 {"export":…,"store":…,"engine":…,"key":…,…}\n     in clear; bound by every seal
//! frame  = length 4 | sealed: records, each with its length 4 before it
//! record = parts, each: name 1 + n | value 4 + n; the first is the connection's id
//! last   = length 4 | sealed under another field: how many records there were, 8
//! ```
//!
//! Consents under way are left out: they live for ten minutes.

mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) use stream::{Reader, Writer};

use super::keyring::{KeyId, KeyRing};
use super::remedy::Remedy;
use crate::clock::Timestamp;
use crate::entropy::Entropy;
use crate::error::StoreError;

/// What an export says of itself, in clear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportHeader {
    /// The export's own id.
    pub export: Uuid,
    /// The store it was made from.
    pub store: Uuid,
    /// That store's engine. It may be taken into any other.
    pub engine: String,
    /// The ring key that it is sealed with.
    pub key: String,
    /// When that key was made.
    pub key_made_at: Timestamp,
    /// When it was made.
    pub made_at: Timestamp,
    /// Why the store was taken for an older state of itself, so that refresh tokens in the export may be spent; none
    /// where it was the newest there was.
    #[serde(default)]
    pub rollback: Option<String>,
    /// Records that were written to the store and were not there.
    #[serde(default)]
    pub missing: u64,
}

/// What it takes to seal or open an export.
#[derive(Clone)]
pub(crate) struct Seals {
    pub(crate) keys: Arc<KeyRing>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

/// Why an export cannot be written or taken. `Display` says what; [`ExportError::why`] and [`ExportError::next`] the rest.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// It does not begin as an export does.
    #[error("this is no export of token-broker")]
    NotAnExport,
    /// Another version wrote it.
    #[error("this export is of a form that this version does not know")]
    UnknownForm(String),
    /// The keys at hand do not open it.
    #[error("this key does not open the export")]
    WrongKey {
        /// The key it wants.
        wants: String,
        /// When that key was made.
        wants_made_at: Timestamp,
        /// The keys at hand.
        holds: Vec<KeyId>,
    },
    /// It ends before its end.
    #[error("the export is cut off")]
    CutOff {
        /// Records before that place.
        records: u64,
    },
    /// It was altered, or its parts are not in order.
    #[error("the export is damaged")]
    Damaged {
        /// Records before that place.
        records: u64,
    },
    /// There are connections where it should go.
    #[error("the store holds {connections} connections already")]
    NotEmpty {
        /// How many.
        connections: u64,
    },
    /// A store is there, and only a new one can be told to be of old.
    #[error("there is a store already, and only a new one can be made from a backup")]
    NotNew,
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stream could not be read or written.
    #[error("the export cannot be read or written")]
    Io(#[from] io::Error),
}

impl ExportError {
    /// What is known about the cause, in one line.
    pub fn why(&self) -> String {
        let nothing = "nothing was changed";
        match self {
            Self::NotAnExport => format!("it does not begin with {:?}; {nothing}", stream::MAGIC),
            Self::UnknownForm(found) => format!("it says form {found}, this version knows form 1; {nothing}"),
            Self::WrongKey { wants, wants_made_at, holds } => {
                let holds: Vec<&str> = holds.iter().map(KeyId::as_str).collect();
                let day: String = wants_made_at.to_string().chars().take(10).collect();
                let holds = holds.join(", ");
                format!("it was sealed with key {wants} (made {day}); the file holds {holds}; {nothing}")
            }
            Self::CutOff { records } => {
                format!("it ends after {records} connections, without its end; {nothing}")
            }
            Self::Damaged { records } => {
                format!("what follows after {records} connections does not open; {nothing}")
            }
            Self::NotEmpty { .. } => "theirs may be the newer tokens, so nothing was changed".to_owned(),
            Self::NotNew => nothing.to_owned(),
            Self::Store(_) => String::new(),
            Self::Io(error) => error.to_string(),
        }
    }

    /// What helps; `None` where a look at the whole store tells.
    pub fn remedy(&self) -> Option<Remedy> {
        let fix = match self {
            Self::NotAnExport => "name a file that `store export` wrote",
            Self::UnknownForm(_) => "run the version of token-broker that wrote it",
            Self::WrongKey { .. } => "name the file of that key with --export-key-file",
            Self::CutOff { .. } | Self::Damaged { .. } => "make the export again, or take another copy of it",
            Self::NotEmpty { .. } => {
                "add --merge to add what the store lacks, or name an empty directory with --path"
            }
            Self::NotNew => "name an empty directory with --path",
            Self::Store(_) | Self::Io(_) => return None,
        };
        Some(Remedy::Change(fix.to_owned()))
    }

    /// Whether another key than the one at hand is wanted.
    pub fn is_wrong_key(&self) -> bool {
        matches!(self, Self::WrongKey { .. })
    }
}
