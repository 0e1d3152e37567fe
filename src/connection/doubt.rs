//! A connection that is being revoked, and a refresh of it that was never answered: the successor of its refresh token may
//! live on at the provider, where no revocation of ours ends it for certain. Pure. Invariant: a doubt ends with an answer
//! about that very refresh token, or stands.

use super::attempt::Intent;
use super::landing::{Landed, Verdict};
use super::reuse::{Reuse, ReuseProfile, Rotation};
use super::step::{Moment, Others};
use super::{Connection, Failure, Profile, Status};
use crate::clock::Timestamp;
use crate::error::ProviderError;

/// How often the provider is asked before its connection is revoked without an answer.
pub(super) const QUESTIONS: u32 = 3;

impl Profile {
    /// Whether a refresh token may have been issued that never came.
    pub fn is_in_doubt(&self, reuse: &ReuseProfile) -> bool {
        reuse.rotation != Rotation::Never && (self.doubt.is_some() || self.intent.is_some())
    }

    /// When its refresh token may be presented once more, to get what was lost and have it revoked too: nothing is left
    /// to be protected, so a provider that ends the grant for it is welcome to. `None`: there is nothing to be found
    /// out, or it was asked often enough. Not before the end of a pause that the provider has asked for.
    pub fn asks_at(&self, moment: &Moment<'_>) -> Option<Timestamp> {
        let is_open = self.status == Status::Revoking
            && self.is_refreshable
            && self.is_in_doubt(moment.reuse)
            && self.doubt.unwrap_or(0) < QUESTIONS;
        if !is_open {
            return None;
        }
        let now = moment.now;
        Some(self.settled_in_doubt_at(moment).max(self.resumes_at(now)))
    }

    /// While it is being revoked: the end of a pause that the provider has asked for. One that we have chosen ourselves
    /// keeps nobody from trying who is told to try.
    pub fn asked_to_wait_until(&self, now: Timestamp) -> Option<Timestamp> {
        let ends_at = self.resumes_at(now);
        let is_asked = self.backoff.as_ref().is_some_and(|backoff| backoff.is_asked);
        (self.status == Status::Revoking && now < ends_at && is_asked).then_some(ends_at)
    }

    /// When nothing that was sent can come between what is sent then and its answer.
    fn settled_in_doubt_at(&self, moment: &Moment<'_>) -> Timestamp {
        let now = moment.now;
        let Some(intent) = &self.intent else { return now };
        let is_done = intent.holder == moment.holder || moment.others == Others::Gone;
        match moment.reuse.reuse {
            Reuse::Reusable => now,
            Reuse::Grace { window, max_uses, .. }
                if is_done && self.is_in_grace(intent, window, max_uses, now) =>
            {
                now
            }
            // What was sent may arrive after what is sent now, and its answer would be lost again.
            _ => intent.settled_at(now, moment.reuse.token_timeout).max(now),
        }
    }
}

impl Connection {
    /// The record with the intent to ask once more: to be durable before the request leaves.
    pub fn asking(self, attempt_id: u64, moment: &Moment<'_>) -> Self {
        let mut asking = self.begun(attempt_id, moment);
        asking.profile.doubt = Some(asking.profile.doubt.unwrap_or(0) + 1);
        asking
    }

    /// The record of a connection that is being revoked after an attempt that brought no tokens.
    pub(super) fn revoking_unanswered(
        mut self,
        attempt: &Intent,
        error: &ProviderError,
        moment: &Moment<'_>,
        dice: u64,
    ) -> Landed {
        let intent = self.profile.intent.as_ref();
        let Some(intent) = intent.filter(|intent| intent.attempt_id == attempt.attempt_id) else {
            return Landed { connection: self, verdict: Verdict::Superseded };
        };
        match error {
            ProviderError::Ambiguous { .. } => {
                self.profile.doubt.get_or_insert(0);
                if error.asked_wait().is_some() {
                    self.put_off(error, moment.now, dice);
                }
            }
            ProviderError::Denied(_) => {
                // Where it would have been taken again, the grant is dead. Else it is dead because it was spent, perhaps.
                let is_word_on_the_grant = match moment.reuse.reuse {
                    Reuse::Reusable => true,
                    Reuse::Grace { window, max_uses, .. } => {
                        attempt.sent_at < attempt.first_sent_at + window && intent.tries <= max_uses
                    }
                    Reuse::Count { max_uses, .. } => intent.tries <= max_uses,
                    Reuse::Strict => false,
                };
                let is_first = attempt.tries <= 1 && self.profile.doubt.is_none();
                self.profile.doubt = (!is_first && !is_word_on_the_grant).then_some(QUESTIONS);
                self.profile.backoff = None;
                self.profile.intent = None;
            }
            // This request reached nobody who had heard the question.
            ProviderError::Unavailable { .. }
            | ProviderError::RateLimited { .. }
            | ProviderError::NoTurn { .. }
            | ProviderError::CircuitOpen { .. } => {
                self.profile.doubt = self.profile.doubt.map(|asked| asked.saturating_sub(1));
                self.unasked(attempt, error, moment.now, dice);
            }
            ProviderError::Malformed | ProviderError::Misconfigured(_) => {
                self.unasked(attempt, error, moment.now, dice);
            }
        }
        self.profile.updated_at = moment.now;
        Landed { connection: self, verdict: Verdict::Failed }
    }

    /// The question was refused, or reached nobody: where it is still open it is asked again after a pause, also by
    /// another run.
    fn unasked(&mut self, attempt: &Intent, error: &ProviderError, now: Timestamp, dice: u64) {
        self.take_back(attempt);
        if self.profile.doubt.is_some() {
            self.put_off(error, now, dice);
        }
    }

    fn put_off(&mut self, error: &ProviderError, now: Timestamp, dice: u64) {
        let (reason, oauth_error) = (error.reason().as_str().to_owned(), error.oauth_code().cloned());
        self.profile.last_failure = Some(Failure { reason, oauth_error, at: now });
        self.pause(error, now, dice);
    }
}
