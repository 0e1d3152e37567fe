//! `store`: where connections are kept.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::finding::Found;

/// Where connections are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// What keeps them.
    pub engine: Engine,
    /// The directory. It is the broker's alone, mode 0700.
    #[schemars(with = "String", extend("format" = "path"))]
    pub path: PathBuf,
    /// A directory on another volume: new tokens that the store cannot take are written there too, sealed, until it has
    /// them.
    #[schemars(with = "Option<String>", extend("format" = "path"))]
    pub escrow_path: Option<PathBuf>,
    /// Says that losing the store with the process or the pod is meant: every owner then has to consent again.
    pub ephemeral: bool,
    /// How many disconnected connections have their history kept, at most; the oldest go first, and all after 30 days.
    pub ended_histories: u32,
}

/// What keeps connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// sled, an embedded database on disk, every record sealed.
    #[default]
    Sled,
    /// redb, another one: less memory, fewer dependencies. `token-broker store export` and `store import` lead from
    /// one to the other.
    Redb,
    /// Memory: gone with the process.
    Memory,
}

impl Engine {
    /// Its name, as the configuration spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Redb => "redb",
            Self::Memory => "memory",
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            engine: Engine::Sled,
            path: PathBuf::from("/var/lib/token-broker"),
            escrow_path: None,
            ephemeral: false,
            ended_histories: 10_000,
        }
    }
}

impl Store {
    pub(super) fn check(&self, found: &mut Found) {
        if let Some(escrow) = &self.escrow_path {
            if self.engine == Engine::Memory {
                found.mistake("store.escrow_path", "a store in memory has no need of it; take it away");
            } else if escrow.starts_with(&self.path) || self.path.starts_with(escrow) {
                found.mistake(
                    "store.escrow_path",
                    "it and store.path lie in one another; name a directory on another volume",
                );
            }
        }
        if self.engine == Engine::Memory && !self.ephemeral {
            found.mistake(
                "store.engine",
                "memory loses every grant at a restart; say ephemeral: true if you mean it",
            );
        }
    }
}
