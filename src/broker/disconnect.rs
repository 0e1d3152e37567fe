//! Disconnect: say no to callers first, revoke at the provider, then forget. A workflow that a restart goes on with: its
//! state is the record's, REVOKING, with the time of the next try.

mod doubt;
pub(super) mod wait;

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use self::doubt::Unknown;
use super::cache::Turn;
use super::escrow::not_durable;
use super::keep::Weight;
use super::{Broker, Disconnected, RevocationState};
use crate::clock::Timestamp;
use crate::connection::reuse::ReuseProfile;
use crate::connection::{Connection, ConnectionId, LONGEST_ASKED, Profile, Status, Waiting};
use crate::error::{Error, ProviderError, StoreError};
use crate::failpoint;
use crate::provider::{ProviderClient, Revocation};
use crate::store::{Expected, Revision, Selection};

/// The shortest time between two tries.
const SHORTEST: Duration = Duration::from_millis(200);

/// The longest time without a look at the clock: it may have been set meanwhile.
const LONGEST_NAP: Duration = Duration::from_secs(300);

/// What a refresh under way is given beyond its deadline to be stored, before its connection is revoked without it.
const SETTLING: Duration = Duration::from_secs(2);

/// The first and the longest time between two tries where the store keeps one from being written down.
const FIRST_STORE_RETRY: Duration = Duration::from_secs(1);
const LONGEST_STORE_RETRY: Duration = Duration::from_secs(60);

/// For how long at most the question after a lost answer is kept in by the broker's own breaker before what is held is
/// revoked without it: about what the three questions to a provider that answers nothing take.
const LONGEST_BARRED: Duration = Duration::from_secs(300);

/// The revocations that are being carried on, and by what each hears when its next try is due.
pub(super) type Revocations = BTreeMap<ConnectionId, watch::Sender<Timestamp>>;

/// How far a revocation came.
#[derive(Default)]
struct Progress {
    /// Whether there is a record that says REVOKING, or may say so: it is not known whether its write was done.
    is_begun: bool,
    /// What the provider said of all that the record held at that revision: should the store not let it be written down,
    /// the provider is not asked again.
    answered: Option<(Revision, RevocationState)>,
    /// Since when the question after a lost answer is not let out.
    barred_since: Option<Instant>,
}

impl Progress {
    /// Whether the question was kept in for as long as a revocation waits for it.
    fn gives_question_up(&mut self, unknown: &Unknown) -> bool {
        if !unknown.is_barred {
            self.barred_since = None;
            return false;
        }
        self.barred_since.get_or_insert_with(Instant::now).elapsed() >= LONGEST_BARRED
    }
}

/// What a try leaves to be done.
enum Next {
    /// Nothing.
    Over,
    /// Another, then.
    At(Timestamp),
    /// Another when the store, or whatever else of ours failed, has rested.
    StoreFails,
}

/// Whether a revocation is asked for now, or was asked for earlier and is only to be carried on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Intent {
    Begin,
    Resume,
}

impl Broker {
    /// Ends a connection. From the moment REVOKING is durable it serves nothing, whatever the provider does.
    ///
    /// # Errors
    /// `CONNECTION_NOT_FOUND`, or the store's. A provider that cannot be reached is no error: the answer says
    /// PENDING and the broker keeps trying.
    pub async fn disconnect(self: &Arc<Self>, id: ConnectionId) -> Result<Disconnected, Error> {
        let broker = self.clone();
        self.owned(async move { broker.revoke_and_forget(id).await }).await
    }

    /// Takes up the revocations that an earlier run could not finish: those that [`Broker::recover`] came upon, or all that
    /// are found.
    ///
    /// # Errors
    /// The store's.
    pub async fn resume_revocations(self: &Arc<Self>) -> Result<usize, Error> {
        let found = match self.recovering.take_revoking() {
            Some(found) => found,
            None => self.revoking().await?,
        };
        let resumed = found.len();
        for profile in found {
            let due = self.due(None, &profile);
            self.keep_revoking(profile.id, due, Progress::default());
        }
        Ok(resumed)
    }

    async fn revoking(&self) -> Result<Vec<Profile>, Error> {
        let selection = Selection { status: Some(Status::Revoking), ..Selection::default() };
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = self.tokens.list(&selection, after.as_ref(), 1000).await?;
            found.extend(page.profiles);
            after = page.next;
            if after.is_none() {
                return Ok(found);
            }
        }
    }

    async fn revoke_and_forget(self: Arc<Self>, id: ConnectionId) -> Result<Disconnected, Error> {
        let provider = self.configured_provider(id.provider.as_str())?.clone();
        let mut progress = Progress::default();
        let tried = self.try_revoke(&provider, &id, Intent::Begin, &mut progress).await;
        let (profile, revocation) = match tried {
            Ok(tried) => tried,
            Err(error) => {
                // Names of nothing cost no memory, also while the store cannot say that they are.
                if progress.is_begun {
                    self.keep_revoking(id, self.clock.now(), progress);
                }
                return Err(error);
            }
        };
        if let RevocationState::Pending { error, next_attempt_at } = &revocation {
            tracing::warn!(connection = %id, %error, "the grant is not revoked yet; trying on");
            // What is in memory alone is written down as soon as the store lets it be.
            let due = if self.unwritten.has(&id) {
                self.clock.now() + FIRST_STORE_RETRY
            } else {
                self.due(*next_attempt_at, &profile)
            };
            self.keep_revoking(id, due, progress);
        }
        Ok(Disconnected { profile, revocation })
    }

    async fn try_revoke(
        self: &Arc<Self>,
        provider: &Arc<dyn ProviderClient>,
        id: &ConnectionId,
        intent: Intent,
        progress: &mut Progress,
    ) -> Result<(Profile, RevocationState), Error> {
        let profile = self.mark_revoking(id, &provider.reuse_profile(), intent, progress).await?;
        if profile.status != Status::Revoking {
            // Forgotten meanwhile and connected anew under the same name: none of our business.
            return Ok((profile, RevocationState::Revoked));
        }
        if let Some((told, until)) = self.unwritten_wait(id).await {
            let error = self.waits(&told, until, Waiting::Pause);
            return Ok((profile, RevocationState::Pending { error, next_attempt_at: Some(until) }));
        }
        // Whoever repeats it: what the provider asks for holds. The task that goes on has waited for it.
        if let Some(until) = profile.asked_to_wait_until(self.clock.now()).filter(|_| intent == Intent::Begin)
        {
            let error = self.waits(&profile, until, Waiting::Pause);
            return Ok((profile, RevocationState::Pending { error, next_attempt_at: Some(until) }));
        }
        failpoint::hit("disconnect.revoking.after").await;
        if let Some(error) = self.await_surplus(provider, &profile).await {
            return Ok((profile, RevocationState::Pending { error, next_attempt_at: None }));
        }
        if let Some(unknown) = self.ask_after_lost(provider, id).await? {
            if !progress.gives_question_up(&unknown) {
                let Unknown { error, until, .. } = unknown;
                return Ok((profile, RevocationState::Pending { error, next_attempt_at: until }));
            }
            tracing::warn!(connection = %id, error = %unknown.error, "revoked without asking after a lost answer");
        }
        loop {
            // Not alone with the connection: who asks for it meanwhile is told that it is gone, however long the
            // provider takes.
            let Some(stored) = self.tokens.get(id).await? else {
                return Ok((profile, RevocationState::Revoked));
            };
            let connection = self.unsent.taken_back(stored.value, &self.moment(&provider.reuse_profile()));
            let revision = stored.revision;
            if connection.profile.status != Status::Revoking {
                return Ok((connection.profile, RevocationState::Revoked));
            }
            let outcome = match &progress.answered {
                Some((at, state)) if *at == revision => Ok(state.clone()),
                _ => revoked(&**provider, &connection).await,
            };
            progress.answered = outcome.as_ref().ok().map(|state| (revision, state.clone()));
            let state = match outcome {
                Ok(state) => state,
                Err(error) => match self.put_off(connection, revision, error).await? {
                    Some(put_off) => return Ok(put_off),
                    None => continue,
                },
            };
            let turn = self.cache.turn(id).await;
            if self.tokens.get(id).await?.is_some_and(|stored| stored.revision != revision) {
                // Tokens came that must be revoked too, or another try noted how it failed.
                continue;
            }
            let state = match state {
                RevocationState::Revoked if connection.profile.is_in_doubt(&provider.reuse_profile()) => {
                    tracing::error!(connection = %id, "a token that never came may live on at the provider");
                    RevocationState::Unconfirmed
                }
                state => state,
            };
            failpoint::hit("disconnect.revoked.after").await;
            return self.forget(turn, connection, revision, state).await;
        }
    }

    /// From the moment this has returned the connection serves nothing, and no refresh can store anything but what is
    /// to be revoked with it.
    async fn mark_revoking(
        &self,
        id: &ConnectionId,
        reuse: &ReuseProfile,
        intent: Intent,
        progress: &mut Progress,
    ) -> Result<Profile, Error> {
        let turn = self.cache.turn(id).await;
        let Some(stored) = self.tokens.get(id).await? else {
            self.cache.retire(turn);
            return Err(Error::ConnectionNotFound(id.clone()));
        };
        let moment = self.moment(reuse);
        let mut connection = self.unsent.taken_back(stored.value, &moment);
        if connection.profile.status != Status::Revoking {
            if intent == Intent::Resume {
                return Ok(connection.profile);
            }
            progress.is_begun = true;
            self.unwritten.forget(id);
            connection = connection.revoking(reuse, moment.now);
            self.keep(&turn, &connection, Expected::At(stored.revision), Weight::Ordinary).await?;
        }
        progress.is_begun = true;
        turn.withdraw();
        self.forget_answers(id);
        Ok(connection.profile)
    }

    /// Lets a refresh under way land, so that what it brings is revoked too. Answers why that must be waited for longer.
    async fn await_surplus(&self, provider: &Arc<dyn ProviderClient>, profile: &Profile) -> Option<Error> {
        let is_ours = profile.intent.as_ref().is_some_and(|intent| intent.holder == self.holder);
        if let Some(flight) = self.cache.flight(&profile.id).filter(|_| is_ours) {
            let longest = provider.reuse_profile().token_timeout + SETTLING;
            let _ = tokio::time::timeout(longest, flight.landed()).await;
        }
        self.escrow.holds(&profile.id).then(not_durable)
    }

    /// Notes a try that failed, with the time of the next. `None` where its record is not what it was, so that there is
    /// more to be revoked or another try noted how it failed, and nothing is in the way of asking again.
    async fn put_off(
        &self,
        connection: Connection,
        revision: Revision,
        error: ProviderError,
    ) -> Result<Option<(Profile, RevocationState)>, Error> {
        let connection = connection.revocation_failed(&error, self.clock.now(), self.dice());
        let id = &connection.profile.id;
        // Before anything is asked of a store, which may fail.
        self.unwritten.heed(&connection.profile);
        let turn = self.cache.turn(id).await;
        let has_changed = self.tokens.get(id).await?.is_some_and(|stored| stored.revision != revision);
        if has_changed && error.asked_wait().is_none() {
            return Ok(None);
        }
        if !has_changed {
            match self.keep(&turn, &connection, Expected::At(revision), Weight::Ordinary).await {
                Ok(_) => self.unwritten.forget(id),
                Err(error) => {
                    tracing::warn!(connection = %id, %error, "a failed revocation could not be recorded");
                }
            }
        }
        let next_attempt_at = connection.profile.backoff.as_ref().map(|backoff| backoff.until);
        let error = Error::Provider { provider: id.provider.clone(), error };
        Ok(Some((connection.profile, RevocationState::Pending { error, next_attempt_at })))
    }

    async fn forget(
        &self,
        turn: Turn,
        connection: Connection,
        revision: Revision,
        state: RevocationState,
    ) -> Result<(Profile, RevocationState), Error> {
        if let Some(end) = state.end() {
            // Before the record goes: after a crash between the two it is revoked once more, and its end told again.
            self.remember(&connection, end).await?;
        }
        match self.forget_record(&turn, Expected::At(revision)).await {
            // Another try was there first, and had the same tokens revoked.
            Err(StoreError::Conflict) if self.tokens.get(turn.id()).await?.is_none() => {}
            forgotten => forgotten?,
        }
        self.unwritten.forget(turn.id());
        self.cache.retire(turn);
        let profile = Profile { status: Status::Revoked, updated_at: self.clock.now(), ..connection.profile };
        if state == RevocationState::Unsupported {
            tracing::warn!(connection = %profile.id, "the provider has no revocation; the owner must remove the app there");
        }
        tracing::info!(connection = %profile.id, "disconnected");
        Ok((profile, state))
    }

    /// When the next try is due: then, or by its record.
    fn due(&self, next_attempt_at: Option<Timestamp>, profile: &Profile) -> Timestamp {
        let now = self.clock.now();
        next_attempt_at.unwrap_or_else(|| profile.resumes_at(now))
    }

    /// Returns when it is `due` by the clock on the wall, or by one that nobody sets, whichever comes first.
    async fn rest_until(&self, due: Timestamp) {
        let left =
            || Some(self.clock.now().until(due)).filter(|left| *left <= LONGEST_ASKED).unwrap_or_default();
        let ends = Instant::now() + left().max(SHORTEST);
        loop {
            let pause = left().max(SHORTEST).min(ends.duration_since(Instant::now()));
            tokio::time::sleep(pause.min(LONGEST_NAP)).await;
            if pause <= LONGEST_NAP {
                return;
            }
        }
    }

    /// Tries again until the provider has answered, the connection was brought back, or the broker drains. The
    /// record says REVOKING, so a restart goes on from there.
    fn keep_revoking(self: &Arc<Self>, id: ConnectionId, due: Timestamp, mut progress: Progress) {
        let (sender, mut dues) = watch::channel(due);
        {
            // However often it is asked for, one task tries. It hears when: the provider may have asked for another time.
            let mut revocations = self.revocations();
            if let Some(under_way) = revocations.get(&id) {
                under_way.send_replace(due);
                return;
            }
            revocations.insert(id.clone(), sender);
        }
        let broker = self.clone();
        let draining = self.draining.clone();
        self.tasks.spawn(async move {
            let trying = async {
                let (mut due, mut store_rest) = (due, FIRST_STORE_RETRY);
                loop {
                    tokio::select! {
                        () = broker.rest_until(due) => {}
                        Ok(()) = dues.changed() => {
                            due = *dues.borrow_and_update();
                            continue;
                        }
                    }
                    match broker.carry_on(&id, &mut progress).await {
                        Next::Over => return,
                        Next::At(next) => (due, store_rest) = (next, FIRST_STORE_RETRY),
                        Next::StoreFails => {
                            due = broker.clock.now() + store_rest;
                            store_rest = (store_rest * 2).min(LONGEST_STORE_RETRY);
                        }
                    }
                }
            };
            tokio::select! {
                () = trying => {}
                () = draining.cancelled() => {}
            }
            // The next start knows what the store holds.
            let _ = broker.unwritten_wait(&id).await;
            broker.revocations().remove(&id);
        });
    }

    fn revocations(&self) -> MutexGuard<'_, Revocations> {
        self.revocations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more try.
    async fn carry_on(self: &Arc<Self>, id: &ConnectionId, progress: &mut Progress) -> Next {
        let Ok(provider) = self.configured_provider(id.provider.as_str()) else {
            tracing::error!(connection = %id, "cannot be revoked: its provider is no longer configured");
            return Next::Over;
        };
        match self.try_revoke(provider, id, Intent::Resume, progress).await {
            Ok((profile, RevocationState::Pending { error, next_attempt_at })) => {
                if let Error::Provider { error: ProviderError::Misconfigured(code), .. } = &error {
                    tracing::error!(connection = %id, %code, "the provider refuses our client; trying on");
                }
                // What is in memory alone is written down as soon as the store lets it be.
                if self.unwritten.has(id) {
                    return Next::StoreFails;
                }
                Next::At(self.due(next_attempt_at, &profile))
            }
            Ok(_) | Err(Error::ConnectionNotFound(_)) => Next::Over,
            Err(error) => {
                tracing::warn!(connection = %id, %error, "a revocation could not be completed; trying on");
                Next::StoreFails
            }
        }
    }
}

/// Has the provider revoke every token of a connection.
async fn revoked(
    provider: &dyn ProviderClient,
    connection: &Connection,
) -> Result<RevocationState, ProviderError> {
    let mut state = RevocationState::NotNeeded;
    // The provider itself has called its refresh token dead.
    let is_dead = connection.profile.quarantined_at.is_some();
    for tokens in connection.revocable() {
        let said = match provider.revoke(&tokens).await? {
            Revocation::Unconfirmed if is_dead => Revocation::Revoked,
            // The refresh token before this one, of a grant that was taken back by its access token.
            Revocation::Unconfirmed if tokens.access.is_none() && state == RevocationState::Revoked => {
                Revocation::Revoked
            }
            said => said,
        };
        match (said, &state) {
            (Revocation::Unsupported, _) => state = RevocationState::Unsupported,
            (_, RevocationState::Unsupported) => {}
            (Revocation::Unconfirmed, _) => {
                tracing::error!(
                    connection = %connection.profile.id,
                    "a refresh token may live on: the provider takes a grant back by its access token, and that was over"
                );
                state = RevocationState::Unconfirmed;
            }
            (Revocation::Revoked, RevocationState::Unconfirmed) => {}
            (Revocation::Revoked, _) => state = RevocationState::Revoked,
        }
    }
    Ok(state)
}
