//! The engines that a store can lie in. Both the crash suite and the torture kit are about one of them at a time.

use token_broker::store::guard::{DurableStore, OpenError, Opening};
use token_broker::store::{redb, sled};

/// What keeps the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Sled,
    Redb,
}

impl Engine {
    pub(crate) const ALL: [Self; 2] = [Self::Sled, Self::Redb];

    /// As the configuration spells it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Redb => "redb",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.name() == name)
    }

    pub(crate) fn open(self, opening: Opening) -> Result<DurableStore, OpenError> {
        match self {
            Self::Sled => sled::open(opening),
            Self::Redb => redb::open(opening),
        }
    }
}
