//! What a provider does with a refresh token that was presented before: the facts on which every decision about a
//! lost answer rests (refresh.md section 2.6). Unknown means the worst.

use std::time::Duration;

use crate::clock::Timestamp;

/// The rotation and reuse habits of one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReuseProfile {
    /// Whether a refresh answers with a new refresh token.
    pub rotation: Rotation,
    /// Whether a refresh token may be presented a second time.
    pub reuse: Reuse,
    /// Whether an access token outlives the refresh that replaced it.
    pub old_at_survives: bool,
    /// How many times the provider must say that the grant is dead before it is believed.
    pub invalid_grant_confirmations: u32,
    /// How long one token request may take in all.
    pub token_timeout: Duration,
    /// The least time from the answer of one refresh, or from a consent, to the next refresh of the same connection.
    pub min_gap: Duration,
    /// A refresh token that is not used for so long dies; `None`: not known. A lost answer must be asked about before that.
    pub refresh_idle: Option<Duration>,
}

impl Default for ReuseProfile {
    fn default() -> Self {
        Self {
            rotation: Rotation::Always,
            reuse: Reuse::Strict,
            old_at_survives: false,
            invalid_grant_confirmations: 1,
            token_timeout: Duration::from_secs(10),
            min_gap: Duration::ZERO,
            refresh_idle: None,
        }
    }
}

impl ReuseProfile {
    /// Whether a refresh token whose successor was stored at `rotated_at` may still be taken at `now`.
    pub fn takes_previous(&self, rotated_at: Option<Timestamp>, now: Timestamp) -> bool {
        match self.reuse {
            Reuse::Reusable | Reuse::Count { .. } => true,
            // Counted from its first use, which was before that.
            Reuse::Grace { window, .. } => rotated_at.is_none_or(|at| now < at + window),
            Reuse::Strict => false,
        }
    }
}

/// Whether a refresh answers with a new refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Never.
    Never,
    /// Now and then.
    Sometimes,
    /// Every time.
    Always,
}

/// Whether a refresh token may be presented a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Always.
    Reusable,
    /// For a while after its first use.
    Grace {
        /// How long.
        window: Duration,
        /// How many uses there may be in all, the first included.
        max_uses: u32,
    },
    /// A number of times, however late.
    Count {
        /// How many uses there may be in all, the first included.
        max_uses: u32,
        /// Whether only the newest answer's refresh token is good: to use an older sibling ends the grant.
        is_last_only: bool,
        /// Whether each use yields the same pair, whose life began with the first; `false`: a new one.
        is_same_pair: bool,
    },
    /// Never: a second use may end the grant with every token of it.
    Strict,
}

/// The part of a grace period in which a request still arrives in time.
pub(super) fn usable(window: Duration) -> Duration {
    window - (window / 5).min(Duration::from_secs(1))
}
