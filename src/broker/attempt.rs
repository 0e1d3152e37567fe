//! One attempt at a token endpoint: the intent durable, then one request, then its outcome durable. Owns the order of
//! these; what each means is decided in the pure core. Invariant: no request leaves without an intent that names it,
//! none leaves after its deadline, and tokens that came are never dropped while they may be the only ones.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::access_token::{Demand, not_serving};
use super::keep::Weight;
use super::refresh::{SHORT_PAUSE, is_rescue};
use super::schedule::LEAST_GAP;
use super::unsent::Told;
use super::{Broker, ServedToken};
use crate::clock::Timestamp;
use crate::connection::reuse::Reuse;
use crate::connection::{
    AccessToken, CLOCK_MARGIN, Connection, ConnectionId, Intent, IssuedTokens, Profile, RefreshToken, Scopes,
    Status, Step, Verdict, Waiting,
};
use crate::error::{AmbiguousCause, Error, ProviderError, StoreError, Unsent};
use crate::failpoint;
use crate::provider::{Admission, ProviderClient};
use crate::store::Expected;

/// The time between two looks at a lost answer that should have been asked for by then.
const LEAST_PAUSE: Duration = Duration::from_millis(50);

/// How much longer than its patience a request is waited for: within what is added to its deadline before anybody else
/// acts ([`CLOCK_MARGIN`]). Only a fault of ours takes it up.
const OVERSTAY: Duration = Duration::from_secs(1);
const _: () = assert!(OVERSTAY.as_secs() < CLOCK_MARGIN.as_secs());

/// What an attempt came to.
pub(super) enum Flown {
    /// New tokens, durable and published, or answered as degraded.
    Landed(Arc<ServedToken>),
    /// Look again: somebody else has changed the record, or the same token may be sent once more at once.
    Again,
    /// Look again: something changed before anything was sent.
    Unsent,
}

/// Whether a request is the first of its chain. While the broker drains none is sent that is: the process may end
/// before its answer, and where that would cost the grant, waiting for the next start costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// Nothing of this chain has left.
    Anew,
    /// Something has, or what was lost can be saved now and perhaps not later.
    GoesOn,
}

/// What the provider answered.
pub(super) type Outcome = Result<IssuedTokens, ProviderError>;

/// What an outcome did to the record.
pub(super) enum Settled {
    /// Durable and published.
    Token(Arc<ServedToken>),
    /// Durable: the grant is dead.
    Dead(Profile),
    /// Durable: no tokens.
    Failed(Profile),
    /// Durable: the connection is being revoked, and what came with it; or nothing came.
    Surplus,
    /// No record holds what came, and none will: the connection was forgotten, or it is being revoked and its record
    /// holds no more tokens.
    Stray,
    /// Somebody else's outcome stands.
    Superseded,
}

/// At what age the token was refused that this refresh is to replace, where it should have lived on. How old one is that
/// was imported nobody knows.
fn refused_early(begun: &Connection, demand: &Demand, now: Timestamp) -> Option<Duration> {
    let access = begun.tokens.as_ref()?.access.as_ref()?;
    let is_ours = begun.profile.consented_at.is_some() || begun.profile.refreshed_at.is_some();
    let is_early = is_ours && demand.refuses(Some(access)) && access.lives_for(Duration::ZERO, now);
    // Issued in the future: the clock was set back since, and says neither its age nor whether it is over.
    (is_early && access.issued_at <= now).then(|| now.since(access.issued_at))
}

impl Broker {
    /// One request, with the leave that `admission` is.
    pub(super) async fn attempt(
        self: &Arc<Self>,
        provider: &Arc<dyn ProviderClient>,
        id: &ConnectionId,
        demand: &Demand,
        start: Start,
        admission: Admission,
    ) -> Result<Flown, Error> {
        let reuse = provider.reuse_profile();
        // The deadline runs on a clock that nobody sets, and from before the intent is written: a disk that takes its
        // time takes it from the request, never from those who wait for the intent's end.
        let latest = Instant::now() + reuse.token_timeout;
        let Some((begun, written)) = self.begin(&**provider, id, demand, start).await? else {
            return Ok(Flown::Unsent);
        };
        let (Some(attempt), Some(refresh)) =
            (&begun.profile.intent, begun.tokens.as_ref().and_then(|tokens| tokens.refresh.as_ref()))
        else {
            return Err(Error::Internal("a refresh began without an intent"));
        };
        let Some(outcome) = self.send(&**provider, admission, (attempt, refresh), latest).await else {
            return Err(self.give_up(id, attempt).await);
        };
        // Only a grant that lives tells of its tokens: where it is over, so are they.
        if let Some(age) = refused_early(&begun, demand, attempt.sent_at)
            && outcome.is_ok()
        {
            provider.saw_token_refused(age);
        }
        let attempt = attempt.timed_anew(self.clock.now(), written.elapsed());
        let issued = match outcome {
            Ok(issued) => issued,
            Err(error) => return self.land_failure(provider, begun, &attempt, error).await,
        };
        let held = begun.tokens.as_ref().and_then(|tokens| tokens.access.as_ref());
        let is_repeated = held.is_some_and(|held| held.value == issued.access_token);
        let flown = self.land(provider, begun, attempt, issued).await?;
        if let Flown::Landed(token) = &flown
            && is_repeated
        {
            self.rest_with_repeated(id, &token.access);
        }
        Ok(flown)
    }

    /// The provider has no successor yet. It is asked again when half of what is left of the token's life is over: a few
    /// times until its end, and not at every call.
    fn rest_with_repeated(&self, id: &ConnectionId, access: &AccessToken) {
        let left = access.expires_at.map_or(Duration::ZERO, |expires_at| self.clock.now().until(expires_at));
        self.cache.rest_with_repeated(id, (left / 2).max(LEAST_GAP));
    }

    /// Sends what was written down, once, with the leave that `admission` is. `latest`: the end of its time by a clock that
    /// nobody sets. `None`: too little of that was left, and it was not sent.
    pub(super) async fn send(
        &self,
        provider: &dyn ProviderClient,
        admission: Admission,
        (attempt, refresh): (&Intent, &RefreshToken),
        latest: Instant,
    ) -> Option<Outcome> {
        let reuse = provider.reuse_profile();
        failpoint::hit("refresh.send.before").await;
        let started = Instant::now();
        let left = latest.duration_since(started);
        let now = self.clock.now();
        if left < reuse.token_timeout / 4 || attempt.is_too_late(&reuse, now) {
            return None;
        }
        let patience = left.min(attempt.patience(&reuse, now));
        // Who sends it gives it up, and knows then whether it has left.
        let answered = timeout(patience + OVERSTAY, provider.refresh(admission, refresh, patience)).await;
        let outcome = answered.unwrap_or(Err(ProviderError::Ambiguous { cause: AmbiguousCause::Timeout }));
        failpoint::hit("refresh.send.after").await;
        self.metrics.refresh_took(provider.key().as_str(), started.elapsed());
        self.metrics.refreshed(provider.key().as_str(), outcome.as_ref().err().map(ProviderError::reason));
        Some(outcome)
    }

    /// Writes the intent, and says when by a clock that nobody sets. `None` where something has changed while we waited
    /// for our turn at the provider.
    async fn begin(
        &self,
        provider: &dyn ProviderClient,
        id: &ConnectionId,
        demand: &Demand,
        start: Start,
    ) -> Result<Option<(Connection, Instant)>, Error> {
        let turn = self.cache.turn(id).await;
        let Some(stored) = self.tokens.get(id).await? else { return Ok(None) };
        let reuse = provider.reuse_profile();
        let (moment, written) = (self.moment(&reuse), Instant::now());
        let (connection, revision) = (self.unsent.taken_back(stored.value, &moment), stored.revision);
        let access = connection.tokens.as_ref().and_then(|tokens| tokens.access.as_ref());
        let is_over = self
            .cache
            .token(id)
            .is_some_and(|known| known.generation == connection.profile.generation && known.is_over());
        let is_met = !is_over
            && connection.serving().is_some()
            && access
                .is_some_and(|access| demand.is_met_by(access, connection.profile.generation, moment.now));
        let is_refused = is_over || demand.refuses(access);
        let connection = match connection.profile.step(&moment, is_refused) {
            _ if is_met => return Ok(None),
            Step::Send => connection,
            Step::Wait { why: Waiting::Pause, .. } if demand.has_paused => connection,
            Step::NotServing if demand.revives => match connection.retried(moment.now) {
                Some(connection) => connection,
                None => return Ok(None),
            },
            Step::Wait { .. } | Step::Unrefreshable | Step::NotServing => return Ok(None),
        };
        let is_rescue = is_rescue(&connection.profile, &moment);
        let mut begun = connection.begun(self.dice(), &moment);
        // Which costs no write of its own.
        begun.profile.asked_at = begun.profile.asked_at.max(self.cache.asked_at(id, moment.now));
        failpoint::hit("refresh.intent.before").await;
        if start == Start::Anew && self.draining.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        // To save a lost answer inside a grace period is to save tokens that exist nowhere else.
        let weight = if is_rescue { Weight::Rescue } else { Weight::Ordinary };
        if let Err(error) = self.keep(&turn, &begun, Expected::At(revision), weight).await {
            self.unsent.not_written(&begun, &error);
            return Err(error.into());
        }
        failpoint::hit("refresh.intent.after").await;
        // From here on others may change the record: a hanging provider must not keep an owner from disconnecting.
        drop(turn);
        Ok(Some((begun, written)))
    }

    /// Takes an intent back whose request never left.
    async fn give_up(&self, id: &ConnectionId, attempt: &Intent) -> Error {
        tracing::error!(connection = %id, "writing a refresh down took too long; it was not sent");
        let error = ProviderError::Unavailable { cause: Unsent::TooLate, retry_after: None };
        let turn = self.cache.turn(id).await;
        let stored = match self.tokens.get(id).await {
            Ok(Some(stored)) => Some(stored),
            Ok(None) => {
                // Nobody would ask what is remembered of it.
                self.unsent.forget(id);
                self.cache.retire(turn);
                return Error::Provider { provider: id.provider.clone(), error };
            }
            Err(_) => None,
        };
        self.unsent.note(id, attempt);
        if let Some(stored) = stored {
            let landed = stored.value.unsent(attempt, self.clock.now());
            if landed.verdict.is_change()
                && let Err(error) = self
                    .keep(&turn, &landed.connection, Expected::At(stored.revision), Weight::Ordinary)
                    .await
            {
                tracing::warn!(connection = %id, %error, "an intent could not be taken back");
            }
        }
        Error::Provider { provider: id.provider.clone(), error }
    }

    /// Makes new tokens durable, or sees to it that they will be.
    pub(super) async fn land(
        self: &Arc<Self>,
        provider: &Arc<dyn ProviderClient>,
        begun: Connection,
        attempt: Intent,
        issued: IssuedTokens,
    ) -> Result<Flown, Error> {
        let id = begun.profile.id.clone();
        if !provider.reuse_profile().old_at_survives {
            // It was ended when these were issued. Whoever asks from here on waits for them to be durable.
            self.cache.withdraw_spent(&id, attempt.generation);
        }
        let outcome = Ok(issued);
        let first_wait = Duration::from_millis(50);
        let (mut wait, mut is_aside) = (first_wait, false);
        loop {
            let settled = self.settle(&**provider, &id, &attempt, &outcome).await;
            // Once it was tried: what took too long to write may be written all the same. What no record holds stays
            // there until it is revoked.
            if wait > first_wait && !matches!(settled, Err(_) | Ok(Settled::Stray)) {
                self.drop_aside(&id, &attempt).await;
            }
            match settled {
                Ok(Settled::Token(token)) => {
                    tracing::info!(connection = %id, generation = token.generation, "refreshed");
                    return Ok(Flown::Landed(token));
                }
                Ok(Settled::Surplus) => return Err(Error::ConnectionNotFound(id)),
                Ok(Settled::Stray) => {
                    self.revoke_stray(provider, &id, &attempt, outcome, is_aside);
                    return Err(Error::ConnectionNotFound(id));
                }
                Ok(Settled::Dead(_) | Settled::Failed(_) | Settled::Superseded) => return Ok(Flown::Again),
                // A short trouble is over before anybody need hear of it.
                Err(StoreError::Unavailable(why)) if wait < Duration::from_millis(400) => {
                    tracing::error!(connection = %id, why, "new tokens are not durable yet");
                    is_aside = is_aside || self.set_aside(&id, &attempt, &outcome).await;
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
                Err(error) => {
                    is_aside = is_aside || self.set_aside(&id, &attempt, &outcome).await;
                    let held = self.put_in_escrow(provider, begun, attempt, outcome, is_aside, &error);
                    return Ok(held.map_or(Flown::Again, Flown::Landed));
                }
            }
        }
    }

    /// Writes down what failed, and says what those are told who wait.
    async fn land_failure(
        self: &Arc<Self>,
        provider: &Arc<dyn ProviderClient>,
        begun: Connection,
        attempt: &Intent,
        error: ProviderError,
    ) -> Result<Flown, Error> {
        let id = &begun.profile.id.clone();
        let is_denied = matches!(error, ProviderError::Denied(_));
        let is_lost = matches!(error, ProviderError::Ambiguous { .. });
        let is_retriable = is_denied || is_lost;
        let is_unheard =
            matches!(error, ProviderError::RateLimited { .. } | ProviderError::Unavailable { .. });
        let told = Error::Provider { provider: id.provider.clone(), error: error.clone() };
        let outcome: Outcome = Err(error.clone());
        let profile = match self.settle(&**provider, id, attempt, &outcome).await {
            Ok(Settled::Failed(profile)) => profile,
            Ok(Settled::Dead(profile)) => return Err(not_serving(&profile)),
            Ok(Settled::Surplus | Settled::Stray) => return Err(Error::ConnectionNotFound(id.clone())),
            Ok(Settled::Token(_) | Settled::Superseded) => return Ok(Flown::Again),
            Err(failure) => {
                // The intent stands, so nothing is forgotten: a lost outcome counts as unknown from now on.
                tracing::warn!(connection = %id, error = %failure, "a failed refresh could not be recorded");
                let reuse = provider.reuse_profile();
                // A grace period does not wait for the disk. The repeat is written down first, like every request.
                if is_lost && matches!(reuse.reuse, Reuse::Grace { .. } | Reuse::Count { .. }) {
                    return Ok(Flown::Again);
                }
                // A denial is asked for once more, and written down then.
                if is_denied {
                    return Err(failure.into());
                }
                let (moment, dice) = (self.moment(&reuse), self.dice());
                self.unsent.not_recorded(id, attempt, Told { error, at: moment.now, dice });
                if is_lost {
                    return Err(failure.into());
                }
                begun.landed(attempt, &outcome, &moment, dice).connection.profile
            }
        };
        let reuse = provider.reuse_profile();
        let moment = self.moment(&reuse);
        match profile.step(&moment, false) {
            // Look again: it may be sent once more at once, or after a pause that is worth waiting for.
            _ if is_denied => Ok(Flown::Again),
            Step::Send if is_retriable => Ok(Flown::Again),
            Step::Wait { until, why } if is_retriable => {
                if is_lost && profile.is_saved_by_grace(&moment) {
                    self.repeat_at(until, provider, id, attempt);
                }
                Err(self.waits(&profile, until, why))
            }
            // The repeat of one that was lost: the grace period goes on, whatever this one was told.
            step @ (Step::Send | Step::Wait { .. }) if is_unheard && profile.is_saved_by_grace(&moment) => {
                let soon = moment.now + LEAST_PAUSE;
                let until = if let Step::Wait { until, .. } = step { until.max(soon) } else { soon };
                self.repeat_at(until, provider, id, attempt);
                Err(told)
            }
            Step::Send | Step::Wait { .. } | Step::Unrefreshable | Step::NotServing => Err(told),
        }
    }

    /// Sees to it that the lost answer of `attempt` is asked for again at `until`, whether or not anybody asks for the
    /// connection then, and whatever rests by then for work that nobody waits for: what a provider asks to wait must not
    /// cost the grant.
    fn repeat_at(
        self: &Arc<Self>,
        until: Timestamp,
        provider: &Arc<dyn ProviderClient>,
        id: &ConnectionId,
        attempt: &Intent,
    ) {
        let (broker, provider, id, attempt_id) =
            (self.clone(), provider.clone(), id.clone(), attempt.attempt_id);
        let demand = Demand { newer_than: Some(attempt.generation), ..Demand::default() };
        let mut pause = self.clock.now().until(until);
        // Whatever keeps it from being sent for longer, a clock that was set back or a store: the schedule goes on.
        let ends = Instant::now() + pause + SHORT_PAUSE;
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    // The next start goes on; what is due in a moment is not left to it.
                    () = broker.draining.cancelled(), if pause > SHORT_PAUSE => return,
                }
                // Who shares a flight that looked too early shares its answer.
                while let Some(flight) = broker.cache.flight(&id) {
                    let _ = flight.landed().await;
                }
                let Err(error) = broker.fetch(&provider, &id, &demand).await else { return };
                tracing::info!(connection = %id, reason = %error.reason(), "not found out yet");
                // Two clocks never run alike: by the one that counts it may have been a moment too early.
                let next = match broker.connection(&id).await {
                    Ok(now) if now.intent.as_ref().is_some_and(|intent| intent.attempt_id == attempt_id) => {
                        broker.may_try_at(&now)
                    }
                    _ => return,
                };
                let Some(next) = next else { return };
                pause = broker.clock.now().until(next).max(LEAST_PAUSE);
                if Instant::now() + pause > ends {
                    return;
                }
            }
        });
    }

    /// Says so where a connection has fewer scopes than `before`, durably. What it is good for is left to the app.
    pub(super) fn heed_lost_scopes(&self, before: &Scopes, profile: &Profile) {
        let lost = profile.scopes.missing(before.as_slice());
        if !lost.is_empty() {
            tracing::warn!(connection = %profile.id, ?lost, "the provider granted fewer scopes than before");
            self.metrics.grant_narrowed(profile.id.provider.as_str());
        }
    }

    /// Does to the record, as it is now, what the outcome means.
    pub(super) async fn settle(
        &self,
        provider: &dyn ProviderClient,
        id: &ConnectionId,
        attempt: &Intent,
        outcome: &Outcome,
    ) -> Result<Settled, StoreError> {
        let reuse = provider.reuse_profile();
        loop {
            let turn = self.cache.turn(id).await;
            let Some(stored) = self.tokens.get(id).await? else {
                self.cache.retire(turn);
                return Ok(Settled::Stray);
            };
            let before = stored.value.profile.scopes.clone();
            let landed = stored.value.landed(attempt, outcome, &self.moment(&reuse), self.dice());
            let (connection, verdict) = (landed.connection, landed.verdict);
            if verdict.is_change() {
                let weight = if verdict.has_tokens() { Weight::Rescue } else { Weight::Ordinary };
                if verdict.has_tokens() {
                    failpoint::hit("refresh.commit.before").await;
                }
                match self.keep(&turn, &connection, Expected::At(stored.revision), weight).await {
                    Err(StoreError::Conflict) => continue,
                    kept => kept?,
                };
                if verdict.has_tokens() {
                    failpoint::hit("refresh.commit.after").await;
                }
            }
            return Ok(match verdict {
                Verdict::Refreshed => {
                    self.heed_lost_scopes(&before, &connection.profile);
                    failpoint::hit("refresh.publish.before").await;
                    match self.served(connection) {
                        Ok(token) => {
                            turn.publish(token.clone());
                            Settled::Token(token)
                        }
                        Err(_) => Settled::Superseded,
                    }
                }
                Verdict::Surplus => Settled::Surplus,
                Verdict::Excess => Settled::Stray,
                Verdict::Superseded => Settled::Superseded,
                Verdict::Failed if connection.profile.status == Status::Revoking => Settled::Surplus,
                Verdict::Failed => Settled::Failed(connection.profile),
                Verdict::Dead => {
                    turn.withdraw();
                    tracing::warn!(connection = %id, "the grant is dead; its owner must consent again");
                    Settled::Dead(connection.profile)
                }
            });
        }
    }
}
