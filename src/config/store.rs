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
    /// Says that losing the store with the process or the pod is meant: every owner then has to consent again.
    pub ephemeral: bool,
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
        Self { engine: Engine::Sled, path: PathBuf::from("/var/lib/token-broker"), ephemeral: false }
    }
}

impl Store {
    pub(super) fn check(&self, found: &mut Found) {
        if self.engine == Engine::Memory && !self.ephemeral {
            found.mistake(
                "store.engine",
                "memory loses every grant at a restart; say ephemeral: true if you mean it",
            );
        }
    }
}
