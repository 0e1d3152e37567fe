//! How long what a provider gives lives when nobody touches it: the facts on which refreshing ahead rests.

use std::time::Duration;

/// The lifetimes of one provider's grants, and how often they may be refreshed. Unknown stays unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetimes {
    /// A refresh token that is not used for so long dies.
    pub refresh_idle: Option<Duration>,
    /// The grant ends so long after its owner consented, used or not.
    pub refresh_absolute: Option<Duration>,
    /// The least time between two refreshes of one connection.
    pub min_gap: Option<Duration>,
}
