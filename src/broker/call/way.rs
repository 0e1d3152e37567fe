//! One call from its acceptance to its answer: what is left of its time and its body, and what its attempts came to.
//!
//! Owns how long the next attempt has, and until when it must have left. Sends nothing and decides no repetition.

use std::time::Duration;

use tokio::time::Instant;

use super::super::{Source, TokenRequest};
use super::fate::{self, Fate};
use super::repeat::Ticket;
use super::shape::{Retry, RetryMode};
use super::source::Source as Body;
use crate::connection::ConnectionId;
use crate::error::{Error, Unsent};
use crate::provider::call::{Allowance, CallAnswer, CallBody, CallPolicy, PreparedCall, Repeatability};

/// A call on its way.
pub(super) struct Way {
    pub(super) id: ConnectionId,
    pub(super) prepared: Box<dyn PreparedCall>,
    pub(super) body: Body,
    /// The body of the next attempt.
    pub(super) next: CallBody,
    pub(super) scopes: Vec<String>,
    pub(super) retry: Retry,
    pub(super) policy: CallPolicy,
    /// Until when the caller waits for a turn or for a better time.
    pub(super) waits_until: Instant,
    /// When the caller stops waiting.
    pub(super) deadline: Option<Instant>,
    /// When it must be over, and by which limit; `None`: it takes the time it takes.
    pub(super) ends: Option<(Instant, &'static str)>,
    pub(super) attempts: u32,
    pub(super) repeats: u32,
    pub(super) has_renewed: bool,
    /// What came of an attempt that may have been carried out.
    pub(super) fate: Option<Fate>,
    /// Whether the provider did nothing for the latest attempt, by its own word or since it did not get it.
    pub(super) is_undone: bool,
    /// The id that a stream has taken.
    pub(super) claim: Option<Ticket>,
}

impl Drop for Way {
    /// The id of a call that was not made is nobody's, also where its caller just hung up.
    fn drop(&mut self) {
        if let Some(ticket) = self.claim.take_if(|_| self.is_undone || self.prepared.withdraw()) {
            ticket.free();
        }
    }
}

impl Way {
    /// Whether the provider may see this call twice.
    pub(super) fn is_harmless(&self) -> bool {
        let Repeatability { is_safe, has_key } = self.prepared.repeatability();
        match self.retry.mode {
            RetryMode::Never | RetryMode::Safe => is_safe || has_key,
            RetryMode::Idempotent => true,
        }
    }

    /// What the caller is told where no further attempt is made, for this error: not that the call was not made, where an
    /// attempt before may have been carried out. That the grant has ended it is told all the same if the call may be made
    /// again then: nothing else brings it further.
    pub(super) fn whole_truth(&mut self, error: Error) -> Result<(CallAnswer, Source), Error> {
        match self.fate.take() {
            Some(fate) if !(fate::is_ended(&error) && self.is_harmless()) => fate.told(),
            _ => Err(error),
        }
    }

    /// Until when the next attempt must have left, and what is said of it if it has not.
    pub(super) fn leaves_by(&self) -> Option<(Instant, Unsent)> {
        let by_limit = self.ends.map(|(ends_at, limit)| (ends_at, Unsent::OutOfTime { limit }));
        let by_caller = self.deadline.map(|deadline| (deadline, Unsent::TooLate));
        by_limit.into_iter().chain(by_caller).min_by_key(|(leaves_by, _)| *leaves_by)
    }

    /// The time that the next attempt has.
    pub(super) fn allowance(&self, dice: u64) -> Allowance {
        let now = Instant::now();
        let ends_at = self.ends.map(|(ends_at, _)| ends_at);
        let over_at = self.deadline.into_iter().chain(ends_at).min();
        Allowance {
            turn: self.waits_until.saturating_duration_since(now),
            left: over_at.map(|over_at| over_at.saturating_duration_since(now)),
            dice,
        }
    }

    pub(super) fn waits(&self, pause: Duration) -> bool {
        Instant::now() + pause < self.waits_until
    }

    /// What is asked of `access_token`: any living token but the one that was refused.
    pub(super) fn token(&self, refused: Option<[u8; 32]>) -> TokenRequest {
        TokenRequest {
            id: self.id.clone(),
            scopes: self.scopes.clone(),
            min_ttl: None,
            if_not_equal_to: refused,
            allow_stale: false,
        }
    }
}
