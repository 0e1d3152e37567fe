//! The schemes that are compared.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scheme {
    /// No lock at all: two pods, each with a store of its own.
    Nothing,
    /// A lock that expires, and a write that does not look (as several brokers do).
    TtlLock,
    /// A database row, locked while the provider is asked.
    RowLock,
    /// Intent, lease and compare-and-swap; whoever finds an expired lease sends at once.
    Takeover,
    /// What the broker does.
    Ours,
}

impl Scheme {
    pub(super) const ALL: [Self; 5] =
        [Self::Nothing, Self::TtlLock, Self::RowLock, Self::Takeover, Self::Ours];

    /// Whether it runs the functions of the core.
    pub(super) fn has_intent(self) -> bool {
        matches!(self, Self::Takeover | Self::Ours)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "no lock (two pods, two stores)",
            Self::TtlLock => "TTL lock, blind write",
            Self::RowLock => "row lock held during the call",
            Self::Takeover => "intent + lease + CAS, immediate takeover",
            Self::Ours => "intent + lease + CAS + wait-out + late probe",
        })
    }
}
