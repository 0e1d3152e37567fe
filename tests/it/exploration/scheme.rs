//! The schemes that are compared.

use std::fmt;

use token_broker::connection::Others;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scheme {
    /// No lock at all: two pods, each with a store of its own.
    Nothing,
    /// A lock that expires, and a write that does not look (as several brokers do).
    TtlLock,
    /// The same, and whatever fails is written down as the grant's death: what no broker may do. It is in no row of the
    /// table, and shows that a false death would be seen.
    Hasty,
    /// A database row, locked while the provider is asked.
    RowLock,
    /// Intent, lease and compare-and-swap; whoever finds an expired lease sends at once.
    Takeover,
    /// What the design says for many nodes: whoever wrote an intent may live on, paused perhaps.
    ManyNodes,
    /// What the broker runs: one node on a volume that it holds locked, so that whoever wrote an intent is gone. What it
    /// had sent may still be on its way.
    OneNode,
}

impl Scheme {
    pub(super) const ALL: [Self; 6] =
        [Self::Nothing, Self::TtlLock, Self::RowLock, Self::Takeover, Self::ManyNodes, Self::OneNode];

    /// Whether it runs the functions of the core.
    pub(super) fn has_intent(self) -> bool {
        matches!(self, Self::Takeover | Self::ManyNodes | Self::OneNode)
    }

    /// How many replicas live at the same time.
    pub(super) fn nodes(self) -> usize {
        if self == Self::OneNode { 1 } else { 2 }
    }

    /// What a replica knows of the others.
    pub(super) fn others(self) -> Others {
        if self == Self::OneNode { Others::Gone } else { Others::MayLive }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "no lock (two pods, two stores)",
            Self::TtlLock => "TTL lock, blind write",
            Self::Hasty => "TTL lock, any failure is the grant's death",
            Self::RowLock => "row lock held during the call",
            Self::Takeover => "intent + lease + CAS, immediate takeover",
            Self::ManyNodes => "+ wait-out + late probe, many nodes (MayLive)",
            Self::OneNode => "the same on one node (Gone): what is run",
        })
    }
}
