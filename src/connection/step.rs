//! What may be done with a refresh token at this moment (refresh.md section 2.6, steps 2 to 5 and rule R). Pure: looks
//! at the record and the time, changes nothing.

use std::time::Duration;

use super::attempt::{Holder, Intent, NOTICED};
use super::reuse::{Reuse, ReuseProfile, usable};
use super::{Profile, Status};
use crate::clock::Timestamp;

/// How long before the access token's end a strict provider is asked what became of an unanswered refresh.
///
/// If the refresh was done there, asking ends the grant and perhaps the living access token; if it was not, waiting
/// costs nothing, as long as the refresh token itself lives. So it is asked as late as still leaves time for an answer,
/// and before that token dies unused.
pub const LATE_PROBE: Duration = Duration::from_secs(30);

/// When to look again at what waits for something that may never come.
const NEVER: Duration = Duration::from_secs(86_400);

/// What is known besides the record when a decision is made.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The time.
    pub now: Timestamp,
    /// Who decides.
    pub holder: Holder,
    /// Whether another holder that wrote an intent may still be sending.
    pub others: Others,
    /// What the provider does with a refresh token that it has seen before.
    pub reuse: &'a ReuseProfile,
}

/// What is known of another holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// It is an earlier run on a volume that is locked by us now: it sends nothing more. What it had sent may still
    /// be on its way: when a process is killed, its kernel sends on what was written to the socket.
    Gone,
    /// It may be a living replica, paused perhaps.
    MayLive,
}

/// What may be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Present the refresh token: write the intent, then send.
    Send,
    /// Nothing before that time.
    Wait {
        /// When to look again.
        until: Timestamp,
        /// What is waited for.
        why: Waiting,
    },
    /// There is no refresh token.
    Unrefreshable,
    /// It serves nothing: never consented to, dead, on its way out or switched off.
    NotServing,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The end of a pause after a failure that spent nothing.
    Pause,
    /// The end of the time for which the provider gives a connection no further tokens.
    Gap,
    /// The time at which the outcome of a refresh can be found out.
    Outcome,
}

impl Profile {
    /// What may be done for somebody who wants a better access token. `is_refused`: whoever asks was refused with the
    /// present one, so there is nothing left of it to protect.
    pub fn step(&self, moment: &Moment<'_>, is_refused: bool) -> Step {
        let now = moment.now;
        match self.due(moment, is_refused) {
            Ok((Some(due), _)) if due <= now => Step::Send,
            Ok((due, why)) => Step::Wait { until: due.unwrap_or(now + NEVER), why },
            Err(step) => step,
        }
    }

    /// When the refresh token may be presented next, now or later; `None` where it never may, or where only the word that
    /// its access token was refused makes it due. For a schedule: not before that time, and where the outcome of a
    /// refresh is unknown, at that time.
    pub fn next_attempt_at(&self, moment: &Moment<'_>) -> Option<Timestamp> {
        let (due, _) = self.due(moment, false).ok()?;
        due.map(|due| due.max(moment.now))
    }

    /// From when on the refresh token may be presented, and what is waited for until then; no time: never. Or what keeps
    /// it from being presented at all.
    fn due(&self, moment: &Moment<'_>, is_refused: bool) -> Result<(Option<Timestamp>, Waiting), Step> {
        match self.status {
            Status::Active | Status::Ambiguous => {}
            Status::Pending
            | Status::ReauthRequired
            | Status::Revoking
            | Status::Revoked
            | Status::Disabled => return Err(Step::NotServing),
        }
        if !self.is_refreshable {
            return Err(Step::Unrefreshable);
        }
        let now = moment.now;
        let resumes_at = self.resumes_at(now);
        Ok(match &self.intent {
            Some(intent) => (self.chain_resumes_at(intent, moment, is_refused, resumes_at), Waiting::Outcome),
            None if self.status == Status::Ambiguous => {
                let probe_at = self.late_probe_at(moment, is_refused);
                (probe_at.map(|at| at.max(resumes_at)), Waiting::Outcome)
            }
            None => {
                let gap_ends_at = self.gap_ends_at(now, moment.reuse.min_gap);
                if gap_ends_at > resumes_at {
                    (Some(gap_ends_at), Waiting::Gap)
                } else {
                    (Some(resumes_at), Waiting::Pause)
                }
            }
        })
    }

    /// Whether an unanswered refresh may be saved by sending its token once more within a grace period: each time is a
    /// use, so these are few.
    pub fn is_saved_by_grace(&self, moment: &Moment<'_>) -> bool {
        match (&self.intent, moment.reuse.reuse) {
            (Some(intent), Reuse::Grace { window, max_uses, .. }) => {
                self.is_in_grace(intent, window, max_uses, moment.now)
            }
            _ => false,
        }
    }

    /// When a connection with an unfinished refresh must be seen to at the latest, for an order among them: the end of
    /// a grace period comes before everything that can wait, and that can wait until one of its tokens ends.
    pub fn recovery_deadline(&self, reuse: &ReuseProfile) -> Timestamp {
        let far = Timestamp::from_millis(i64::MAX);
        match (&self.intent, reuse.reuse) {
            (Some(intent), Reuse::Grace { window, .. }) => intent.first_sent_at + window,
            _ => {
                let ends = self.expires_at.into_iter().chain(self.refresh_ends_at(reuse.refresh_idle));
                ends.min().unwrap_or(far)
            }
        }
    }

    /// The end of the pause after failures; now where there is none, or where the last failure lies ahead: the clock was
    /// set back since, and the pause would be as much longer.
    pub fn resumes_at(&self, now: Timestamp) -> Timestamp {
        let was_set_back = self.last_failure.as_ref().is_some_and(|failure| failure.at > now + NOTICED);
        self.backoff.as_ref().filter(|_| !was_set_back).map_or(now, |backoff| backoff.ends_at(now))
    }

    /// When the provider gives this connection tokens again. An import's tokens are of unknown age: at once.
    fn gap_ends_at(&self, now: Timestamp, min_gap: Duration) -> Timestamp {
        match self.refreshed_at.max(self.consented_at) {
            // In the future: the clock was set back since, and to wait for it could last for years.
            Some(obtained_at) if obtained_at <= now => obtained_at + min_gap,
            _ => now,
        }
    }

    fn chain_resumes_at(
        &self,
        intent: &Intent,
        moment: &Moment<'_>,
        is_refused: bool,
        resumes_at: Timestamp,
    ) -> Option<Timestamp> {
        let now = moment.now;
        let settled = intent.settled_at(now, moment.reuse.token_timeout);
        let is_done = intent.holder == moment.holder || moment.others == Others::Gone;
        match moment.reuse.reuse {
            // Two requests side by side harm nobody here.
            Reuse::Reusable => Some(resumes_at),
            Reuse::Grace { window, max_uses, .. } if self.is_in_grace(intent, window, max_uses, now) => {
                let last = intent.first_sent_at + usable(window);
                // A wait that outlasts the grace period would cost the grant.
                let free = if is_done || settled > last { now } else { settled };
                Some(free.max(pause_in_grace(intent, resumes_at, last, window, now)))
            }
            // In time the number of uses is not limited. But the newest answer's token is the good one: a request that
            // is still under way must be settled before the next, or its answer would be the newest.
            Reuse::Count { max_uses, .. } if intent.tries < max_uses => Some(settled.max(resumes_at)),
            // What was sent may arrive after what is sent now, and would then end the grant that was just saved: so
            // even where the sender is certainly gone, its request is let settle.
            Reuse::Grace { .. } | Reuse::Count { .. } | Reuse::Strict => {
                let probe_at = self.late_probe_at(moment, is_refused);
                probe_at.map(|at| at.max(settled).max(resumes_at))
            }
        }
    }

    pub(super) fn is_in_grace(
        &self,
        intent: &Intent,
        window: Duration,
        max_uses: u32,
        now: Timestamp,
    ) -> bool {
        // A first request in the future: the clock was set back, and nobody knows how old it is.
        intent.first_sent_at <= now
            && now < intent.first_sent_at + usable(window)
            && intent.tries < max_uses
            // The provider's word that it is dead is no lost answer.
            && self.denials == 0
    }

    /// The latest good time to ask a provider that may end the grant for it: at once where no access token lives. `None`:
    /// never, for one lives that never ends, and the refresh token does not die either.
    fn late_probe_at(&self, moment: &Moment<'_>, is_refused: bool) -> Option<Timestamp> {
        // A consent and a refresh always bring an access token; of an import none is kept whose end is not known, unless it
        // came alone.
        let has_access = self.consented_at.is_some() || self.refreshed_at.is_some();
        let access_probe_at = match self.expires_at {
            Some(expires_at) if !is_refused => Some(expires_at - LATE_PROBE),
            None if !is_refused && has_access => None,
            _ => return Some(moment.now),
        };
        access_probe_at.into_iter().chain(self.last_use_at(moment)).min()
    }

    /// The latest good time to use the refresh token lest it dies of not being used: a tenth of its life before its end, for
    /// whatever keeps the request from being sent then costs the grant. `None` where no end of it is known, and where that
    /// is over: nothing is saved by asking sooner then, and perhaps an access token lost.
    fn last_use_at(&self, moment: &Moment<'_>) -> Option<Timestamp> {
        let ends_at = self.refresh_ends_at(moment.reuse.refresh_idle).filter(|end| moment.now < *end)?;
        let life = self.obtained_at().until(ends_at);
        let last = ends_at - (life / 10).max(LATE_PROBE).min(life / 2);
        match &self.intent {
            // It was asked then, and the answer was lost, too: half of what is left is let pass before each further time.
            Some(intent) if last <= intent.sent_at => {
                Some(intent.sent_at + intent.sent_at.until(ends_at) / 2)
            }
            _ => Some(last),
        }
    }
}

/// The end of a pause inside a grace period whose last good moment is `last`. One that leaves no time before that is
/// cut to half of what was left when the last request went: so it is tried ever more often, and never in a loop.
fn pause_in_grace(
    intent: &Intent,
    resumes_at: Timestamp,
    last: Timestamp,
    window: Duration,
    now: Timestamp,
) -> Timestamp {
    if intent.sent_at > now {
        // The clock was set back since, and nobody knows what was left.
        return now;
    }
    if resumes_at + (window - usable(window)) <= last {
        return resumes_at;
    }
    resumes_at.min(intent.sent_at + intent.sent_at.until(last) / 2)
}
