//! One family of tokens: what a single consent has issued, and what is still good. Owns the reuse state machine. Does
//! not know token values, clients, HTTP or what time it is; every transition takes the time and the profile.
//! Invariant: a family that has ended never issues again, and no access token of it is live.

use std::time::Duration;

use crate::clock::Timestamp;

use super::profile::{GraceResult, GraceScope, Reuse, ReuseProfile, Rotation};

#[cfg(test)]
mod tests;

/// The number of a refresh token in its family, in order of issue, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// The number of an access token in its family, in order of issue, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccessSerial(pub u64);

/// How long tokens live from their issue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Access tokens.
    pub access_token_ttl: Duration,
    /// Refresh tokens, each from its own issue; `None` is for ever.
    pub refresh_token_ttl: Option<Duration>,
}

/// The time and the rules under which one request is answered.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The present instant.
    pub now: Timestamp,
    /// What the server does with refresh tokens.
    pub profile: &'a ReuseProfile,
    /// How long what it issues lives.
    pub ttl: Lifetimes,
}

/// Why a family issues no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Revoked: by RFC 7009, by code replay, or by the test's hand.
    Revoked,
    /// A spent refresh token came back.
    Reused,
}

/// What a request was answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The refresh token of the answer.
    pub refresh: RefreshIssued,
    /// The access token of the answer.
    pub access: AccessIssued,
}

/// The refresh token of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshIssued {
    /// A new one.
    New(Generation),
    /// One that was given before.
    Same(Generation),
    /// None: the caller keeps what it has.
    Omitted,
}

/// The access token of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessIssued {
    /// A new one.
    New(AccessSerial),
    /// One that was given before, dead by now or not.
    Repeated(AccessSerial),
}

impl RefreshIssued {
    /// Its number, if there is one in the answer.
    pub fn generation(self) -> Option<Generation> {
        match self {
            Self::New(generation) | Self::Same(generation) => Some(generation),
            Self::Omitted => None,
        }
    }
}

impl AccessIssued {
    /// Its number.
    pub fn serial(self) -> AccessSerial {
        match self {
            Self::New(serial) | Self::Repeated(serial) => serial,
        }
    }
}

/// Why a refresh was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No such refresh token.
    Unknown,
    /// The refresh token outlived its lifetime.
    Expired,
    /// The family had ended before.
    Ended(End),
    /// A spent token came back; the family ended by it, or not, as the profile says.
    Reused {
        /// Whether this request ended the family.
        ended: bool,
    },
}

/// The tokens of one consent.
#[derive(Clone, Debug, Default)]
pub struct Family {
    refresh: Vec<RefreshToken>,
    access: Vec<AccessToken>,
    end: Option<End>,
}

#[derive(Clone, Debug)]
struct RefreshToken {
    /// Rotations between this token and the first; siblings share it.
    depth: u64,
    issued_at: Timestamp,
    expires_at: Option<Timestamp>,
    /// Refreshes it has answered without being spent: what [`Rotation::EveryNth`] counts.
    uses: u32,
    /// Set when it was first exchanged for a successor.
    spent_at: Option<Timestamp>,
    /// Answers given to it after it was spent.
    repeats: u32,
    /// A newer sibling has been issued and the profile accepts only the newest.
    superseded: bool,
    /// The access token last issued together with it.
    companion: AccessSerial,
}

#[derive(Clone, Debug)]
struct AccessToken {
    expires_at: Timestamp,
    killed: bool,
}

impl Family {
    /// A new family with its first access token and, unless `with_refresh` is false, its first refresh token.
    pub fn begun(now: Timestamp, ttl: Lifetimes, with_refresh: bool) -> (Self, Issued) {
        let mut family = Self::default();
        let access = family.issue_access(now, ttl);
        let refresh = if with_refresh {
            RefreshIssued::New(family.issue_refresh(1, access, now, ttl))
        } else {
            RefreshIssued::Omitted
        };
        (family, Issued { refresh, access: AccessIssued::New(access) })
    }

    /// Answers a refresh with the token `presented`, or refuses it.
    ///
    /// # Errors
    ///
    /// [`Refused`] when the token is not good; the family may have ended by it.
    pub fn refresh(&mut self, presented: Generation, terms: &Terms<'_>) -> Result<Issued, Refused> {
        if let Some(end) = self.end {
            return Err(Refused::Ended(end));
        }
        let at = index(presented.0);
        let Some(token) = self.refresh.get(at) else { return Err(Refused::Unknown) };
        if token.expires_at.is_some_and(|expires_at| expires_at <= terms.now) {
            return Err(Refused::Expired);
        }
        if token.superseded {
            return Err(self.reused(terms));
        }
        match token.spent_at {
            None => Ok(self.used(at, terms)),
            Some(spent_at) => match self.grace(at, spent_at, terms) {
                Some(result) => Ok(self.repeated(at, result, terms)),
                None => Err(self.reused(terms)),
            },
        }
    }

    /// Ends the family: nothing of it is good any more. The first reason stays.
    pub fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
    }

    /// Why the family issues no more, if so.
    pub fn ended(&self) -> Option<End> {
        self.end
    }

    /// Kills one access token and nothing else (RFC 7009 leaves the rest to the server).
    pub fn end_access(&mut self, serial: AccessSerial) {
        if let Some(token) = self.access.get_mut(index(serial.0)) {
            token.killed = true;
        }
    }

    /// Lets every live access token expire at `now`.
    pub fn expire_access(&mut self, now: Timestamp) {
        for token in &mut self.access {
            token.expires_at = token.expires_at.min(now);
        }
    }

    /// Whether the access token is good at `now`.
    pub fn is_access_live(&self, serial: AccessSerial, now: Timestamp) -> bool {
        self.end.is_none()
            && self.access.get(index(serial.0)).is_some_and(|token| !token.killed && now < token.expires_at)
    }

    /// Whether the refresh token has been exchanged for a successor, or replaced by a newer sibling.
    pub fn is_spent(&self, generation: Generation) -> bool {
        self.refresh
            .get(index(generation.0))
            .is_some_and(|token| token.spent_at.is_some() || token.superseded)
    }

    /// The refresh token that the access token was last issued together with; `None` once another was.
    pub fn issued_beside(&self, serial: AccessSerial) -> Option<Generation> {
        self.refresh.iter().rposition(|token| token.companion == serial).map(generation)
    }

    /// The newest refresh token's number; `None` when the family never had one.
    pub fn newest(&self) -> Option<Generation> {
        self.refresh.len().checked_sub(1).map(generation)
    }

    /// A current refresh token answers: it rotates, or stays.
    fn used(&mut self, at: usize, terms: &Terms<'_>) -> Issued {
        let token = &mut self.refresh[at];
        token.uses += 1;
        let rotates = match terms.profile.rotation {
            Rotation::Always => true,
            Rotation::EveryNth(n) => token.uses.is_multiple_of(n.max(1)),
            Rotation::Never => false,
        };
        let is_too_young = terms.now.since(token.issued_at) < terms.profile.min_rotation_interval;
        if !rotates {
            self.renewed(at, RefreshIssued::Omitted, terms)
        } else if is_too_young {
            self.renewed(at, RefreshIssued::Same(generation(at)), terms)
        } else {
            self.rotated(at, terms)
        }
    }

    /// What a spent refresh token that comes back is answered with; `None` when this is reuse.
    fn grace(&self, at: usize, spent_at: Timestamp, terms: &Terms<'_>) -> Option<GraceResult> {
        let repeats = self.refresh[at].repeats;
        match terms.profile.reuse {
            Reuse::Reusable => Some(GraceResult::NewPair),
            Reuse::Grace { window, scope, result, max_uses } => (terms.now < spent_at + window
                && max_uses.is_none_or(|max| repeats < max)
                && (scope == GraceScope::Chain || self.is_previous(at)))
            .then_some(result),
            Reuse::Count { uses, last_only } => {
                (repeats < uses && (!last_only || self.is_previous(at))).then_some(GraceResult::NewPair)
            }
            Reuse::Strict => None,
        }
    }

    /// Answers a repeat that the profile allows.
    fn repeated(&mut self, at: usize, result: GraceResult, terms: &Terms<'_>) -> Issued {
        self.refresh[at].repeats += 1;
        let newest = self.refresh.len() - 1;
        let same = RefreshIssued::Same(generation(newest));
        match result {
            GraceResult::NewPair => self.rotated(at, terms),
            GraceResult::SameToken => self.renewed(newest, same, terms),
            GraceResult::SamePair => {
                Issued { refresh: same, access: AccessIssued::Repeated(self.refresh[newest].companion) }
            }
        }
    }

    /// Refuses a repeat, and ends the family where the profile says so.
    fn reused(&mut self, terms: &Terms<'_>) -> Refused {
        if terms.profile.reuse_ends_family {
            self.end(End::Reused);
        }
        Refused::Reused { ended: terms.profile.reuse_ends_family }
    }

    /// Issues a successor of the refresh token at `parent` and a new access token.
    fn rotated(&mut self, parent: usize, terms: &Terms<'_>) -> Issued {
        let token = &mut self.refresh[parent];
        token.spent_at.get_or_insert(terms.now);
        let depth = token.depth + 1;
        if matches!(terms.profile.reuse, Reuse::Count { last_only: true, .. }) {
            for sibling in self.refresh.iter_mut().filter(|token| token.depth == depth) {
                sibling.superseded = true;
            }
        }
        self.kill_old_access(terms);
        let access = self.issue_access(terms.now, terms.ttl);
        let generation = self.issue_refresh(depth, access, terms.now, terms.ttl);
        Issued { refresh: RefreshIssued::New(generation), access: AccessIssued::New(access) }
    }

    /// Issues a new access token beside a refresh token that stays.
    fn renewed(&mut self, holder: usize, refresh: RefreshIssued, terms: &Terms<'_>) -> Issued {
        self.kill_old_access(terms);
        let access = self.issue_access(terms.now, terms.ttl);
        self.refresh[holder].companion = access;
        Issued { refresh, access: AccessIssued::New(access) }
    }

    fn kill_old_access(&mut self, terms: &Terms<'_>) {
        if !terms.profile.old_at_survives {
            self.access.iter_mut().for_each(|token| token.killed = true);
        }
    }

    fn issue_access(&mut self, now: Timestamp, ttl: Lifetimes) -> AccessSerial {
        self.access.push(AccessToken { expires_at: now + ttl.access_token_ttl, killed: false });
        AccessSerial(self.access.len() as u64)
    }

    fn issue_refresh(
        &mut self,
        depth: u64,
        companion: AccessSerial,
        now: Timestamp,
        ttl: Lifetimes,
    ) -> Generation {
        self.refresh.push(RefreshToken {
            depth,
            issued_at: now,
            expires_at: ttl.refresh_token_ttl.map(|ttl| now + ttl),
            uses: 0,
            spent_at: None,
            repeats: 0,
            superseded: false,
            companion,
        });
        generation(self.refresh.len() - 1)
    }

    /// Whether the refresh token is one rotation behind the newest.
    fn is_previous(&self, at: usize) -> bool {
        let newest = self.refresh.iter().map(|token| token.depth).max();
        newest == Some(self.refresh[at].depth + 1)
    }
}

/// The place of the `number`-th element; a place that is never filled for 0.
fn index(number: u64) -> usize {
    usize::try_from(number.wrapping_sub(1)).unwrap_or(usize::MAX)
}

/// The number of the refresh token at a place.
fn generation(at: usize) -> Generation {
    Generation(at as u64 + 1)
}
