//! What the outcome of a refresh does to the record as it stands when it comes (refresh.md section 2.6, step 7). Pure.
//! Invariant: of two who refreshed, the second changes nothing that the first stored; an outcome that is unknown stays
//! unknown until the provider has spoken about that very refresh token.

use super::attempt::{Backoff, Intent, LONGEST_PAUSE, LONGEST_PAUSE_UNAWAITED};
use super::history::Happening;
use super::reuse::{Reuse, ReuseProfile, Rotation};
use super::step::Moment;
use super::{
    AccessToken, Connection, Failure, IssuedTokens, RefreshToken, SURPLUS, Scopes, Status, variable,
};
use crate::clock::Timestamp;
use crate::error::ProviderError;
use crate::secret::Secret;

/// How much of the names of lost scopes is kept as what happened, in characters: the scopes that are left are in the record.
const NAMED: usize = 256;

/// A record after an outcome, and what that means.
#[derive(Debug)]
pub struct Landed {
    /// The record; to be stored unless the verdict says that nothing changed.
    pub connection: Connection,
    /// What it means.
    pub verdict: Verdict,
}

/// What an outcome means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// New tokens: store, then publish, then answer.
    Refreshed,
    /// New tokens came while the connection was being revoked: store them with it, so that they are revoked too.
    Surplus,
    /// The same, and the record holds as many as it can: nothing changed, and what came must be revoked at once.
    Excess,
    /// Nothing changed: somebody else's outcome stands. What came is dropped and **not** revoked, for that may end the
    /// grant that stands.
    Superseded,
    /// No tokens. The record says when to try again.
    Failed,
    /// The grant is dead: withdraw the access token, tell the app.
    Dead,
}

impl Verdict {
    /// Whether the record must be stored.
    pub const fn is_change(self) -> bool {
        !matches!(self, Self::Superseded | Self::Excess)
    }

    /// Whether the record holds tokens that exist nowhere else.
    pub const fn has_tokens(self) -> bool {
        matches!(self, Self::Refreshed | Self::Surplus)
    }
}

impl Connection {
    /// The record with the intent to present its refresh token now: to be durable before the request leaves.
    /// `attempt_id` must be random. Nothing is begun where there is no refresh token.
    pub fn begun(mut self, attempt_id: u64, moment: &Moment<'_>) -> Self {
        let now = moment.now;
        let Some(refresh) = self.tokens.as_ref().and_then(|tokens| tokens.refresh.as_ref()) else {
            return self;
        };
        let fingerprint = refresh.fingerprint();
        let profile = &mut self.profile;
        let chain = profile.intent.take().filter(|intent| intent.fingerprint == fingerprint);
        profile.fence += 1;
        let (first_sent_at, tries) = match &chain {
            Some(earlier) => (earlier.first_sent_at, earlier.tries.saturating_add(1)),
            None => (now, 1),
        };
        let is_unknown = chain.is_some() || profile.status == Status::Ambiguous;
        if is_unknown && profile.status == Status::Active {
            profile.status = Status::Ambiguous;
        }
        profile.intent = Some(Intent {
            attempt_id,
            holder: moment.holder,
            generation: profile.generation,
            fence: profile.fence,
            first_sent_at,
            sent_at: now,
            deadline: now + moment.reuse.token_timeout,
            tries,
            fingerprint,
        });
        profile.updated_at = now;
        if is_unknown {
            self.note(Happening::Resumed, None, now);
        }
        self
    }

    /// The record when an attempt was written down and then certainly not sent. Nothing changes where it is taken back
    /// already.
    pub fn unsent(mut self, attempt: &Intent, now: Timestamp) -> Landed {
        let intent = self.profile.intent.as_ref();
        let is_counted = intent
            .is_some_and(|intent| intent.attempt_id == attempt.attempt_id && intent.tries == attempt.tries);
        let is_fenced = self.profile.fence != attempt.fence;
        let is_revoking = self.profile.status == Status::Revoking;
        // The end of a connection fences a refresh under way, and puts no other in its place.
        if !is_counted || (is_fenced && !is_revoking) {
            return self.superseded();
        }
        // Begun since, so it was a question.
        if is_revoking && !is_fenced {
            self.profile.doubt = self.profile.doubt.map(|asked| asked.saturating_sub(1));
        }
        self.take_back(attempt);
        self.profile.updated_at = now;
        Landed { connection: self, verdict: Verdict::Failed }
    }

    /// The record after `attempt` came to `outcome`. `self` is the record as it is stored **now**, not as it was when
    /// the attempt began; the times of `attempt` are by the clock as it goes now ([`Intent::timed_anew`]). `dice` is
    /// chance, for pauses.
    pub fn landed(
        self,
        attempt: &Intent,
        outcome: &Result<IssuedTokens, ProviderError>,
        moment: &Moment<'_>,
        dice: u64,
    ) -> Landed {
        let now = moment.now;
        match (self.profile.status, outcome) {
            (Status::Revoking, Ok(issued)) => self.surplus(attempt, issued, now),
            (Status::Revoking, Err(error)) => self.revoking_unanswered(attempt, error, moment, dice),
            (Status::Pending | Status::Revoked | Status::Disabled, _) => self.superseded(),
            (Status::Active | Status::Ambiguous | Status::ReauthRequired, outcome) => {
                let is_beside = self.profile.generation != attempt.generation;
                match outcome {
                    // A consent that brought no refresh token came between, and kept the one that was presented; also
                    // where somebody has fenced us since.
                    Ok(issued)
                        if is_beside && (self.is_ours(attempt) || self.is_salvage(attempt, moment.reuse)) =>
                    {
                        self.succeeded_beside(attempt, issued, moment)
                    }
                    // With what it did bring, the owner need not come again at once: its own refresh will be told so.
                    Err(ProviderError::Denied(_)) if is_beside => self.superseded(),
                    Err(error) if is_beside && self.is_ours(attempt) => {
                        self.failed(attempt, error, moment, dice)
                    }
                    Ok(_) | Err(_) if is_beside => self.superseded(),
                    Ok(issued) => self.succeeded(attempt, issued, moment),
                    Err(_) if !self.is_ours(attempt) => self.superseded(),
                    Err(error) => self.failed(attempt, error, moment, dice),
                }
            }
        }
    }

    /// The record of a store that was put back to an older state: a refresh token that rotates may have been spent
    /// since. `None` where that cannot matter.
    pub fn rolled_back(mut self, reuse: &ReuseProfile, now: Timestamp) -> Option<Self> {
        if !self.may_be_spent(reuse) {
            return None;
        }
        self.profile.status = Status::Ambiguous;
        // Whatever it says of times and tries is of a past that was undone.
        self.profile.intent = None;
        self.profile.updated_at = now;
        self.note(Happening::RolledBack, None, now);
        Some(self)
    }

    /// Whether `attempt` was made for a later state of this record, which a store that was put back has lost.
    pub fn is_before(&self, attempt: &Intent) -> bool {
        // One that was ended and made anew under the same name counts its generations anew, too.
        attempt.generation > self.profile.generation && self.profile.created_at <= attempt.first_sent_at
    }

    /// The record of a store that was put back to a state before `attempt`, with what that attempt brought: newer than
    /// all that is stored, and perhaps not the newest. `None` where it does not belong to this record, or is of no use.
    pub fn restored(mut self, attempt: &Intent, issued: &IssuedTokens, moment: &Moment<'_>) -> Option<Self> {
        let held = self.tokens.as_ref().and_then(|tokens| tokens.refresh.as_ref());
        // An answer without a refresh token leaves the one that was presented, which is to be the one held.
        let is_whole = issued.refresh_token.is_some()
            || held.map(RefreshToken::fingerprint) == Some(attempt.fingerprint);
        let may_serve =
            matches!(self.profile.status, Status::Active | Status::Ambiguous | Status::ReauthRequired);
        // A consent that the store has lost may have been another account's.
        let known = (self.profile.account.as_ref(), issued.account.as_ref());
        let is_anothers = matches!(known, (Some(ours), Some(theirs)) if ours.id != theirs.id);
        if !self.is_before(attempt) || !is_whole || !may_serve || is_anothers {
            return None;
        }
        self.profile.generation = attempt.generation;
        self.profile.fence = self.profile.fence.max(attempt.fence) + 1;
        let before = self.profile.scopes.clone();
        let mut connection = self.refreshed(issued.copy(), counts_from(attempt, moment.reuse), moment.now);
        if connection.may_be_spent(moment.reuse) {
            connection.profile.status = Status::Ambiguous;
        }
        connection.note(Happening::Salvaged, None, moment.now);
        connection.note_lost_scopes(&before, moment.now);
        Some(connection)
    }

    fn may_be_spent(&self, reuse: &ReuseProfile) -> bool {
        self.profile.is_refreshable
            && matches!(self.profile.status, Status::Active | Status::Ambiguous)
            && reuse.rotation != Rotation::Never
            && reuse.reuse != Reuse::Reusable
    }

    fn is_ours(&self, attempt: &Intent) -> bool {
        self.profile.fence == attempt.fence
            && self.profile.intent.as_ref().is_some_and(|intent| intent.attempt_id == attempt.attempt_id)
    }

    fn superseded(self) -> Landed {
        Landed { connection: self, verdict: Verdict::Superseded }
    }

    /// Whether what came for an attempt that was fenced is of the refresh token that is still held: nobody stored a
    /// successor, so ours, if one came, is the only one there is.
    fn is_salvage(&self, attempt: &Intent, reuse: &ReuseProfile) -> bool {
        // A connection that was ended and made anew under the same name counts its generations anew, too: what came then
        // belongs to a grant that is no more.
        let held = self.tokens.as_ref().and_then(|tokens| tokens.refresh.as_ref());
        // And where only the newest answer's token is good, whoever fenced us has asked after us.
        held.map(RefreshToken::fingerprint) == Some(attempt.fingerprint)
            && !matches!(reuse.reuse, Reuse::Count { is_last_only: true, .. })
    }

    fn succeeded(mut self, attempt: &Intent, issued: &IssuedTokens, moment: &Moment<'_>) -> Landed {
        let is_ours = self.is_ours(attempt);
        if !is_ours {
            if !self.is_salvage(attempt, moment.reuse) {
                return self.superseded();
            }
            self.profile.fence += 1;
        }
        let was_unknown = attempt.tries > 1 || self.profile.status != Status::Active;
        let counts_from = counts_from(attempt, moment.reuse);
        let before = self.profile.scopes.clone();
        let mut connection = self.refreshed(issued.copy(), counts_from, moment.now);
        connection.note(happening(is_ours, was_unknown), None, moment.now);
        connection.note_lost_scopes(&before, moment.now);
        Landed { connection, verdict: Verdict::Refreshed }
    }

    /// The successor of the refresh token that a consent or an import has kept takes its place. An access token that came
    /// with that is newer, and may be allowed more: it stays.
    fn succeeded_beside(mut self, attempt: &Intent, issued: &IssuedTokens, moment: &Moment<'_>) -> Landed {
        let now = moment.now;
        let is_ours = self.is_ours(attempt);
        let came = issued.refresh_token.as_ref().map(Secret::digest);
        let held = self.tokens.as_ref().and_then(|tokens| tokens.refresh.as_ref());
        let is_successor = came.is_some() && came != held.map(|held| held.value.digest());
        // Where nothing rotates, whoever fenced us may have stored what is as good, and newer.
        if !is_ours && !is_successor {
            return self.superseded();
        }
        let Some(mut set) = self.tokens.take() else { return self.superseded() };
        self.profile.fence += u64::from(!is_ours);
        let spent = set.refresh.as_ref().map(RefreshToken::copy);
        let came = issued.copy().into_set(set.refresh, counts_from(attempt, moment.reuse));
        set.refresh = came.refresh;
        set.access = set.access.or(came.access);
        set.previous = previous(spent, set.refresh.as_ref(), set.previous);
        let was_unknown = attempt.tries > 1 || self.profile.status != Status::Active;
        self.profile.refreshed_at = Some(now);
        let what = happening(is_ours, was_unknown);
        let mut connection = self.holding(set, now);
        connection.note(what, None, now);
        Landed { connection, verdict: Verdict::Refreshed }
    }

    fn failed(mut self, attempt: &Intent, error: &ProviderError, moment: &Moment<'_>, dice: u64) -> Landed {
        let now = moment.now;
        let reason = error.reason().as_str();
        let is_dead_already = self.profile.status == Status::ReauthRequired;
        // The same attempt, with its times by the clock as it goes now.
        self.profile.intent = Some(attempt.clone());
        self.profile.updated_at = now;
        self.profile.last_failure =
            Some(Failure { reason: reason.to_owned(), oauth_error: error.oauth_code().cloned(), at: now });
        match error {
            ProviderError::Denied(_) => return self.denied(attempt, error, moment, dice),
            ProviderError::Ambiguous { .. } => {
                self.note(Happening::Ambiguous, Some(reason), now);
                if is_dead_already {
                    // An operator's try of a dead grant: what became of it the operator may ask once more. The intent
                    // stays, so that the next try is known to be a further use of the same token.
                    return Landed { connection: self, verdict: Verdict::Dead };
                }
                self.profile.status = Status::Ambiguous;
                let is_repeat_owed = self.profile.is_saved_by_grace(moment);
                let is_put_off =
                    !is_repeat_owed && (attempt.tries > 1 || moment.reuse.reuse == Reuse::Reusable);
                // What the provider asks for is noted whatever comes of it: how far it may put off a repeat that saves
                // the grant, the next step decides.
                if is_put_off || error.asked_wait().is_some_and(|asked| !asked.is_zero()) {
                    self.pause(error, now, dice);
                }
            }
            // The provider refused before it looked at the token, or never saw it: this attempt spent nothing.
            ProviderError::Unavailable { .. }
            | ProviderError::RateLimited { .. }
            | ProviderError::Malformed => {
                self.take_back(attempt);
                self.note(Happening::Failed, Some(reason), now);
                self.pause(error, now, dice);
            }
            // The client or the provider as a whole is unwell, and the connection is not: its provider rests, not it.
            ProviderError::Misconfigured(_)
            | ProviderError::NoTurn { .. }
            | ProviderError::CircuitOpen { .. } => {
                self.take_back(attempt);
                self.note(Happening::Failed, Some(reason), now);
                // But an earlier request's outcome is still to be found out, and that is not to be a loop.
                if self.profile.intent.is_some() {
                    self.pause(error, now, dice);
                }
            }
        }
        let verdict = if is_dead_already { Verdict::Dead } else { Verdict::Failed };
        Landed { connection: self, verdict }
    }

    fn denied(mut self, attempt: &Intent, error: &ProviderError, moment: &Moment<'_>, dice: u64) -> Landed {
        let now = moment.now;
        let code = error.oauth_code().map(|code| code.as_str().to_owned());
        self.profile.denials = self.profile.denials.saturating_add(1);
        let is_believed = self.profile.status == Status::ReauthRequired
            || self.profile.denials >= moment.reuse.invalid_grant_confirmations;
        if !is_believed {
            self.note(Happening::Denied, code.as_deref(), now);
            // Of this request the outcome is known; of an earlier one in the chain it is not.
            self.take_back(attempt);
            self.pause(error, now, dice);
            return Landed { connection: self, verdict: Verdict::Failed };
        }
        self.profile.status = Status::ReauthRequired;
        // An earlier request of the chain that was not answered stays a use of the token, should an operator try again.
        self.take_back(attempt);
        self.profile.backoff = None;
        self.profile.quarantined_at = Some(now);
        self.note(Happening::ReauthRequired, code.as_deref(), now);
        Landed { connection: self, verdict: Verdict::Dead }
    }

    fn surplus(mut self, attempt: &Intent, issued: &IssuedTokens, now: Timestamp) -> Landed {
        let mut came = issued.copy().into_set(None, attempt.sent_at);
        // A consent may have come between: then both grants end, and the newer one's tokens are those to lead.
        let is_newer_consent = self.profile.generation > attempt.generation + 1;
        let held =
            self.tokens.as_ref().and_then(|tokens| tokens.refresh.as_ref()).map(RefreshToken::fingerprint);
        let asked_about = self.profile.intent.as_ref().map(|intent| intent.fingerprint).or(held);
        self.tokens = match self.tokens.take() {
            None => Some(came),
            Some(held) if held.surplus.len() >= SURPLUS => {
                return Landed { connection: Self { tokens: Some(held), ..self }, verdict: Verdict::Excess };
            }
            Some(mut held) if is_newer_consent => {
                held.surplus.push(came);
                Some(held)
            }
            Some(mut held) => {
                came.surplus = std::mem::take(&mut held.surplus);
                came.previous = held.previous.take();
                came.surplus.insert(0, held);
                Some(came)
            }
        };
        // The answer about another grant's refresh token says nothing of what is still asked about this one's.
        if asked_about == Some(attempt.fingerprint) {
            self.profile.intent = None;
            self.profile.doubt = None;
            self.profile.backoff = None;
        }
        self.profile.updated_at = now;
        self.note(Happening::Surplus, None, now);
        Landed { connection: self, verdict: Verdict::Surplus }
    }

    /// This attempt reached nobody: what was known before it is known again.
    pub(super) fn take_back(&mut self, attempt: &Intent) {
        let Some(intent) = self.profile.intent.as_mut() else { return };
        if attempt.tries <= 1 {
            self.profile.intent = None;
        } else {
            intent.tries = attempt.tries - 1;
        }
    }

    pub(super) fn pause(&mut self, error: &ProviderError, now: Timestamp, dice: u64) {
        let before = self.profile.backoff.as_ref();
        let is_unawaited = self.profile.status == Status::Revoking;
        let longest = if is_unawaited { LONGEST_PAUSE_UNAWAITED } else { LONGEST_PAUSE };
        self.profile.backoff = Some(Backoff::after(before, error.asked_wait(), longest, now, dice));
    }

    /// Writes down which scopes it had `before` and has no more.
    fn note_lost_scopes(&mut self, before: &Scopes, now: Timestamp) {
        let lost = self.profile.scopes.missing(before.as_slice());
        if !lost.is_empty() {
            let mut named = lost.join(" ");
            if named.len() > NAMED {
                // At the end of a name: what is cut off could be read as another scope.
                let fits = lost.iter().scan(0, |end, scope| {
                    *end += scope.len() + 1;
                    (*end <= NAMED).then_some(scope.as_str())
                });
                named = fits.chain(["…"]).collect::<Vec<_>>().join(" ");
            }
            self.note(Happening::Narrowed, Some(&named), now);
        }
    }

    /// The same connection with what a refresh issued.
    fn refreshed(self, issued: IssuedTokens, counts_from: Timestamp, now: Timestamp) -> Self {
        let Self { mut profile, tokens, history } = self;
        profile.scopes = issued.scopes.clone().unwrap_or(profile.scopes);
        profile.refreshed_at = Some(now);
        variable::learn(&mut profile.variables, issued.variables.clone());
        let (held, kept, older) =
            tokens.map_or((None, None, None), |set| (set.access, set.refresh, set.previous));
        let spent = kept.as_ref().map(RefreshToken::copy);
        let mut set = issued.into_set(kept, counts_from);
        set.previous = previous(spent, set.refresh.as_ref(), older);
        keep_old_expiry(set.access.as_mut(), held.as_ref());
        Self { profile, tokens: None, history }.holding(set, now)
    }
}

/// What new tokens are in a connection's history.
const fn happening(is_ours: bool, was_unknown: bool) -> Happening {
    match (is_ours, was_unknown) {
        (false, _) => Happening::Salvaged,
        (true, true) => Happening::Recovered,
        (true, false) => Happening::Refreshed,
    }
}

/// The refresh token before `present`: the one that was `spent` for it. The same value once more is no successor: what was
/// before it still is.
fn previous(
    spent: Option<RefreshToken>,
    present: Option<&RefreshToken>,
    older: Option<RefreshToken>,
) -> Option<RefreshToken> {
    let is_rotated = spent.as_ref().map(RefreshToken::fingerprint) != present.map(RefreshToken::fingerprint);
    if is_rotated { spent } else { older }
}

/// From when the life of what came is counted. A provider with a grace period, or one that yields the same pair so many
/// times, may repeat what it issued for the first request of the chain, with a full `expires_in`: so from that request.
/// Everywhere else, and when the period was over, an answer with tokens is one that was made for this request.
fn counts_from(attempt: &Intent, reuse: &ReuseProfile) -> Timestamp {
    match reuse.reuse {
        Reuse::Grace { window, .. } if attempt.sent_at < attempt.first_sent_at + window => {
            attempt.first_sent_at.min(attempt.sent_at)
        }
        Reuse::Count { is_same_pair: true, .. } => attempt.first_sent_at.min(attempt.sent_at),
        Reuse::Grace { .. } | Reuse::Reusable | Reuse::Count { .. } | Reuse::Strict => attempt.sent_at,
    }
}

/// An access token that is already held does not live longer for being given again.
fn keep_old_expiry(came: Option<&mut AccessToken>, held: Option<&AccessToken>) {
    if let (Some(came), Some(held)) = (came, held)
        && came.value == held.value
    {
        came.issued_at = held.issued_at;
        came.expires_at = held.expires_at;
    }
}

#[cfg(test)]
mod tests;
