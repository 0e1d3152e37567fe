//! What a server does with refresh tokens, as data. Owns the reuse profiles of the refresh design and one
//! constructor for each behaviour measured at servers people run. Does not know tokens or time. Invariant: every
//! difference between two servers is a field here, so [`super::grant`] has no special cases by name.

use std::time::Duration;

/// How a server rotates refresh tokens and what it does when a spent one comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReuseProfile {
    /// When a refresh answers with a new refresh token.
    pub rotation: Rotation,
    /// What presenting a spent refresh token does.
    pub reuse: Reuse,
    /// A current refresh token younger than this is answered with itself and a new access token (Dex).
    pub min_rotation_interval: Duration,
    /// Whether earlier access tokens live on after a refresh that succeeded.
    pub old_at_survives: bool,
    /// Whether refused reuse ends the whole family, access tokens included. Dex only refuses.
    pub reuse_ends_family: bool,
    /// The words in which a dead or spent refresh token is refused.
    pub refusal: Refusal,
}

/// When a refresh answers with a new refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Every time.
    Always,
    /// On every n-th use of one refresh token; the uses between leave it current and out of the answer.
    EveryNth(u32),
    /// Never: the answer holds no refresh token (RFC 6749 section 6).
    Never,
}

/// What presenting a spent refresh token does: one that has been exchanged for a successor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// It keeps working; each use gives a further pair and nothing dies.
    Reusable,
    /// It works for a while after it was first spent. Later, or too often, is reuse.
    Grace {
        /// How long after the first use.
        window: Duration,
        /// Which spent tokens qualify.
        scope: GraceScope,
        /// What the repeated request is answered with.
        result: GraceResult,
        /// How many repeats are answered; `None` is no limit.
        max_uses: Option<u32>,
    },
    /// It works `uses` more times, whenever that is (Keycloak's "refresh token max reuse").
    Count {
        /// How many repeats are answered.
        uses: u32,
        /// Only the newest answer's refresh token is good: an older sibling presented is reuse.
        last_only: bool,
    },
    /// The first repeat is reuse.
    Strict,
}

/// Which spent refresh tokens a grace window covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraceScope {
    /// Only the generation just before the newest (Auth0, Supabase).
    PreviousOnly,
    /// Any generation of the family, each within its own window (Hydra).
    Chain,
}

/// What a repeat inside the grace window is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraceResult {
    /// The successor given before, and a new access token (Dex).
    SameToken,
    /// The very pair given before, with a full `expires_in` even if the access token has died since (django).
    SamePair,
    /// A further pair in the same family (Hydra, Keycloak).
    NewPair,
}

/// The words of a refusal. What means death differs: most say 400 `invalid_grant`, Dex 400 `invalid_request`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// The OAuth `error` code.
    pub error: String,
}

impl Default for Refusal {
    fn default() -> Self {
        Self { status: 400, error: "invalid_grant".to_owned() }
    }
}

impl ReuseProfile {
    /// Single use: the first repeat ends the family and its access tokens. The default, and the worst case.
    pub fn strict() -> Self {
        Self {
            rotation: Rotation::Always,
            reuse: Reuse::Strict,
            min_rotation_interval: Duration::ZERO,
            old_at_survives: true,
            reuse_ends_family: true,
            refusal: Refusal::default(),
        }
    }

    /// The refresh token is never replaced (Google).
    pub fn reusable() -> Self {
        Self { rotation: Rotation::Never, reuse: Reuse::Reusable, ..Self::strict() }
    }

    /// A new refresh token each time, and the old ones keep working (Entra, Keycloak's default).
    pub fn reusable_rotating() -> Self {
        Self { reuse: Reuse::Reusable, ..Self::strict() }
    }

    /// The previous generation is answered with a further pair for `window`, then reuse ends the family (Auth0).
    pub fn grace(window: Duration) -> Self {
        let (scope, result) = (GraceScope::PreviousOnly, GraceResult::NewPair);
        Self { reuse: Reuse::Grace { window, scope, result, max_uses: None }, ..Self::strict() }
    }

    /// Single use, and a refresh kills the earlier access tokens at once (Hydra and django without grace, GitHub).
    pub fn strict_old_at_dies() -> Self {
        Self { old_at_survives: false, ..Self::strict() }
    }

    /// Keycloak with "revoke refresh token" and one reuse: no time limit, only the newest answer is good.
    pub fn keycloak_one_reuse() -> Self {
        Self { reuse: Reuse::Count { uses: 1, last_only: true }, ..Self::strict() }
    }

    /// Dex: inside `interval` a repeat gets the same successor and nothing rotates; afterwards a repeat is refused
    /// as `invalid_request` and the family lives on.
    pub fn dex(interval: Duration) -> Self {
        let (scope, result) = (GraceScope::PreviousOnly, GraceResult::SameToken);
        Self {
            reuse: Reuse::Grace { window: interval, scope, result, max_uses: None },
            min_rotation_interval: interval,
            reuse_ends_family: false,
            refusal: Refusal { status: 400, error: "invalid_request".to_owned() },
            ..Self::strict()
        }
    }

    /// Ory Hydra with a grace period: each repeat gives a further pair, earlier access tokens die at once.
    pub fn hydra(window: Duration) -> Self {
        let (scope, result) = (GraceScope::Chain, GraceResult::NewPair);
        Self { reuse: Reuse::Grace { window, scope, result, max_uses: None }, ..Self::strict_old_at_dies() }
    }

    /// django-oauth-toolkit with a grace period: a repeat gets the same pair again, earlier access tokens die.
    pub fn django(window: Duration) -> Self {
        let (scope, result) = (GraceScope::Chain, GraceResult::SamePair);
        Self { reuse: Reuse::Grace { window, scope, result, max_uses: None }, ..Self::strict_old_at_dies() }
    }
}

impl Default for ReuseProfile {
    fn default() -> Self {
        Self::strict()
    }
}
