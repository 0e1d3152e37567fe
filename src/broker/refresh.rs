//! One flight: what is stored is read again, and only then is the provider asked, as often as its habits allow. Knows
//! what a caller gets; what is sent and stored is decided in `attempt.rs` and in the pure core.

use std::sync::Arc;
use std::time::Duration;

use super::access_token::{Demand, not_serving};
use super::attempt::{Flown, Start};
use super::cache::{Landing, Pilot, Turn};
use super::escrow::not_durable;
use super::keep::Weight;
use super::{Broker, ServedToken, Source};
use crate::clock::Timestamp;
use crate::connection::reuse::{Reuse, ReuseProfile};
use crate::connection::{
    AccessToken, Connection, ConnectionId, Moment, Others, Profile, Status, Step, Waiting,
};
use crate::error::{Error, ProviderError, StoreError};
use crate::failpoint;
use crate::provider::{Admission, ProviderClient, Urgency};
use crate::store::{Expected, Revision, Stored};

/// For how long after nothing better could be had those who have a living token do not ask for it again.
pub(super) const REST: Duration = Duration::from_secs(5);

/// The longest pause before a denial is asked to be confirmed for which callers are kept waiting, and before a lost answer
/// is asked for again for which a broker that drains waits.
pub(super) const SHORT_PAUSE: Duration = Duration::from_secs(5);

/// How long after a failed write the next is tried, at first and at most; each wait is twice the one before.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// What stands when a flight looks.
enum Ground {
    /// A token that will do.
    Met(Landing),
    /// The way to the provider is free.
    Clear(Urgency),
    /// It will be in a moment.
    Soon(Duration, Urgency),
}

impl Broker {
    /// One flight. It ends with a token, or with what those are told who wait for one.
    pub(super) async fn fly(
        self: &Arc<Self>,
        provider: &Arc<dyn ProviderClient>,
        id: &ConnectionId,
        demand: &Demand,
        pilot: &Pilot,
    ) -> Landing {
        let landing = self.fly_on(provider, id, demand, pilot).await;
        if matches!(
            landing,
            Err(Error::Provider { .. } | Error::ConnectionAmbiguous { .. }) | Ok((_, Source::Stale))
        ) {
            self.cache.rest(id, REST);
        }
        failpoint::hit("refresh.answer.before").await;
        landing
    }

    async fn fly_on(
        self: &Arc<Self>,
        provider: &Arc<dyn ProviderClient>,
        id: &ConnectionId,
        demand: &Demand,
        pilot: &Pilot,
    ) -> Landing {
        let mut demand = demand.clone();
        let (mut has_sent, mut has_come_dead) = (false, false);
        loop {
            if let Some(landing) = self.escrowed(id, &demand) {
                return landing;
            }
            let urgency = match self.look(&**provider, id, &demand).await? {
                Ground::Met(landing) => return landing,
                Ground::Soon(pause, urgency) => {
                    tokio::select! {
                        biased;
                        // Nothing is lost by a denial that is confirmed later: of its request the outcome is known.
                        () = self.draining.cancelled(), if urgency != Urgency::Rescue => {
                            return Err(Error::ShuttingDown);
                        }
                        () = tokio::time::sleep(pause) => {}
                    }
                    demand.has_paused = true;
                    continue;
                }
                // Held, but not for this record.
                Ground::Clear(_) if self.escrow.holds(id) => return Err(not_durable()),
                Ground::Clear(urgency) => urgency,
            };
            // What was begun is seen to its end: a grace period may be over before the next start.
            let start = if has_sent || urgency == Urgency::Rescue { Start::GoesOn } else { Start::Anew };
            let admission = tokio::select! {
                biased;
                () = self.draining.cancelled(), if start == Start::Anew => return Err(Error::ShuttingDown),
                admission = self.admit(&**provider, urgency, pilot) => admission?,
            };
            let flown = self.attempt(provider, id, &demand, start, admission).await?;
            demand.has_paused = false;
            has_sent |= !matches!(flown, Flown::Unsent);
            match flown {
                Flown::Landed(token) if token.access.is_alive(self.clock.now()) => {
                    return Ok((token, Source::Refreshed));
                }
                // What a grace period repeats may have died meanwhile. Its refresh token has not.
                Flown::Landed(token) if !has_come_dead => {
                    has_come_dead = true;
                    // Its successor's chain is another one.
                    has_sent = false;
                    demand.newer_than = demand.newer_than.max(Some(token.generation));
                }
                Flown::Landed(_) => {
                    let error = ProviderError::Malformed;
                    return Err(Error::Provider { provider: id.provider.clone(), error });
                }
                Flown::Again | Flown::Unsent => {}
            }
        }
    }

    /// Alone with the connection: what is stored, and what may be done.
    async fn look(
        &self,
        provider: &dyn ProviderClient,
        id: &ConnectionId,
        demand: &Demand,
    ) -> Result<Ground, Error> {
        let turn = self.cache.turn(id).await;
        let Some(stored) = self.tokens.get(id).await? else {
            self.unsent.forget(id);
            self.cache.retire(turn);
            return Err(Error::ConnectionNotFound(id.clone()));
        };
        let reuse = provider.reuse_profile();
        let moment = self.moment(&reuse);
        let now = moment.now;
        let mut stored = Stored { value: self.unsent.taken_back(stored.value, &moment), ..stored };
        if let Some(value) = stored.value.unexpired(now).filter(|value| !is_known_over(&turn, value)) {
            let revision = self.keep(&turn, &value, Expected::At(stored.revision), Weight::Ordinary).await?;
            tracing::warn!(connection = %id, "the clock was ahead: its access token is not over yet");
            stored = Stored { value, revision };
        }
        if demand.revives && stored.value.profile.status == Status::ReauthRequired {
            let is_possible = stored.value.profile.is_refreshable;
            return if is_possible {
                Ok(Ground::Clear(Urgency::Waiting))
            } else {
                Err(not_serving(&stored.value.profile))
            };
        }
        let Some(tokens) = stored.value.serving() else {
            // Only what changes is told: a watch that looks because of what it was told must not wake itself.
            if self.cache.token(id).is_some() {
                turn.withdraw();
            }
            return Err(not_serving(&stored.value.profile));
        };
        // What memory knows of this very token, it knows by a better clock.
        let known = self.cache.token(id).filter(|known| known.generation == stored.value.profile.generation);
        let is_over = known.as_ref().is_some_and(|known| known.is_over());
        if let Some(access) = tokens.access.as_ref().filter(|_| !is_over) {
            if demand.is_met_by(access, stored.value.profile.generation, now) {
                let token = match known {
                    Some(known) => known,
                    None => {
                        let token = self.served(stored.value)?;
                        turn.publish(token.clone());
                        token
                    }
                };
                return Ok(Ground::Met(Ok((token, Source::Store))));
            }
            // What still lives is durable, so it may be fallen back on; after a restart memory does not know it yet.
            if access.is_alive(now) && known.is_none() {
                turn.publish(self.served_copy(access, &stored.value.profile));
            }
        }
        let profile = &stored.value.profile;
        match profile.step(&moment, is_over || demand.refuses(tokens.access.as_ref())) {
            Step::Wait { why: Waiting::Pause, .. } if demand.has_paused => {
                Ok(Ground::Clear(urgency(profile, &moment, demand)))
            }
            Step::Send => Ok(Ground::Clear(urgency(profile, &moment, demand))),
            Step::NotServing => Err(not_serving(profile)),
            Step::Unrefreshable => {
                self.keep_unrefreshable(&turn, stored, demand).await.map(|landed| Ground::Met(Ok(landed)))
            }
            // Denied and not believed yet: who waits for the answer waits for its confirmation too.
            Step::Wait { until, why: Waiting::Pause }
                if profile.denials > 0 && now.until(until) <= SHORT_PAUSE =>
            {
                Ok(Ground::Soon(now.until(until), urgency(profile, &moment, demand)))
            }
            Step::Wait { until, why } => Err(self.waits(profile, until, why)),
        }
    }

    /// Leave to ask the provider. A flight that nobody waited for is put forward when somebody does, and is theirs from then
    /// on: nobody who waits is told what keeps back work that nobody waits for.
    async fn admit(
        &self,
        provider: &dyn ProviderClient,
        urgency: Urgency,
        pilot: &Pilot,
    ) -> Result<Admission, Error> {
        let admitted = match urgency {
            Urgency::Ahead => tokio::select! {
                biased;
                () = pilot.is_awaited() => provider.admit(Urgency::Waiting).await,
                admitted = provider.admit(Urgency::Ahead) => match admitted {
                    Err(_) if !pilot.leave_unless_awaited() => provider.admit(Urgency::Waiting).await,
                    admitted => admitted,
                },
            },
            urgency => provider.admit(urgency).await,
        };
        admitted.map_err(|error| Error::Provider { provider: provider.key().clone(), error })
    }

    /// What is known besides a record. On one node every other holder is an earlier run on a volume that we hold
    /// locked.
    pub(super) fn moment<'a>(&self, reuse: &'a ReuseProfile) -> Moment<'a> {
        Moment { now: self.clock.now(), holder: self.holder, others: Others::Gone, reuse }
    }

    /// What those are told who must wait until then.
    pub(super) fn waits(&self, profile: &Profile, until: Timestamp, why: Waiting) -> Error {
        let now = self.clock.now();
        match why {
            Waiting::Outcome => {
                Error::ConnectionAmbiguous { connection: profile.id.clone(), retry_after: now.until(until) }
            }
            Waiting::Pause => Error::Provider {
                provider: profile.id.provider.clone(),
                error: Connection::failure(profile, now),
            },
            Waiting::Gap => Error::Provider {
                provider: profile.id.provider.clone(),
                error: ProviderError::RateLimited { retry_after: Some(now.until(until)) },
            },
        }
    }

    /// Makes tokens durable that were given to somebody who waits, and can begin again.
    pub(super) async fn commit(
        &self,
        turn: &Turn,
        connection: &Connection,
        expected: Expected,
    ) -> Result<Revision, Error> {
        let mut wait = FIRST_RETRY;
        loop {
            match self.keep(turn, connection, expected, Weight::Rescue).await {
                Err(StoreError::Unavailable(why)) if wait < LAST_RETRY => {
                    tracing::error!(connection = %connection.profile.id, why, "new tokens are not durable yet");
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
                outcome => return Ok(outcome?),
            }
        }
    }

    /// What is served of a connection, consuming it: the refresh token is wiped here.
    pub(super) fn served(&self, connection: Connection) -> Result<Arc<ServedToken>, Error> {
        let Connection { profile, tokens, .. } = connection;
        let access = tokens
            .and_then(|tokens| tokens.access)
            .ok_or(Error::Internal("a connection without a token was served"))?;
        Ok(Arc::new(self.serving(access, &profile)))
    }

    /// What is served of a connection whose refresh token is still needed.
    pub(super) fn served_copy(&self, access: &AccessToken, profile: &Profile) -> Arc<ServedToken> {
        Arc::new(self.serving(access.copy(), profile))
    }

    pub(super) fn serving(&self, access: AccessToken, profile: &Profile) -> ServedToken {
        let hits = self.metrics.tokens_served(profile.id.provider.as_str(), Source::Cache.as_str());
        ServedToken::new(profile.id.clone(), access, profile.scopes.clone(), profile.generation, hits)
            .knowing(profile.variables.clone())
            .ending(self.clock.now())
    }

    /// Chance, for names that must not repeat and for pauses.
    pub(super) fn dice(&self) -> u64 {
        u64::from_be_bytes(self.entropy.bytes())
    }

    /// A connection that has an access token and nothing to renew it with: served while it lives, to those who are
    /// content with it. A caller's report of a 401 is not the provider's word, so it changes nothing that is stored; nor does
    /// a wall clock that jumped ahead.
    async fn keep_unrefreshable(
        &self,
        turn: &Turn,
        stored: Stored<Connection>,
        demand: &Demand,
    ) -> Result<(Arc<ServedToken>, Source), Error> {
        let Stored { value: connection, revision } = stored;
        let access = connection.tokens.as_ref().and_then(|tokens| tokens.access.as_ref());
        if let Some(access) = access.filter(|access| access.is_alive(self.clock.now())) {
            if !demand.is_content_with(access) {
                return Err(not_serving(&connection.profile));
            }
            return Ok((self.served(connection)?, Source::Stale));
        }
        // Memory knows by a clock that nobody sets that it lives: the wall clock may be put right again, a death may not.
        let known = self.cache.token(turn.id());
        let known = known.filter(|known| known.generation == connection.profile.generation);
        if known.as_ref().is_some_and(|known| !known.is_over()) {
            return Err(not_serving(&connection.profile));
        }
        if let Some(known) = known {
            turn.note_over(known.access.value.digest());
        }
        turn.withdraw();
        let connection = connection.expired(self.clock.now());
        self.keep(turn, &connection, Expected::At(revision), Weight::Ordinary).await?;
        Err(not_serving(&connection.profile))
    }
}

/// Whether this run knows by a clock that nobody sets that its access token is over.
fn is_known_over(turn: &Turn, connection: &Connection) -> bool {
    let access = connection.tokens.as_ref().and_then(|tokens| tokens.access.as_ref());
    access.is_some_and(|access| turn.is_over(access.value.digest()))
}

/// Whether an earlier request is unanswered and the provider takes its refresh token again, but only now.
pub(super) fn is_rescue(profile: &Profile, moment: &Moment<'_>) -> bool {
    profile.intent.as_ref().is_some_and(|intent| match moment.reuse.reuse {
        // A first request in the future: the clock was set back, and nobody knows how old it is.
        Reuse::Grace { window, .. } => {
            intent.first_sent_at <= moment.now && moment.now < intent.first_sent_at + window
        }
        // However late it is asked for again.
        Reuse::Count { .. } | Reuse::Reusable | Reuse::Strict => false,
    })
}

/// How pressing a refresh is. The retry of an unanswered one may race against the end of a grace period.
fn urgency(profile: &Profile, moment: &Moment<'_>, demand: &Demand) -> Urgency {
    match (is_rescue(profile, moment), demand.is_ahead) {
        (true, _) => Urgency::Rescue,
        (false, true) => Urgency::Ahead,
        (false, false) => Urgency::Waiting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::reuse::ReuseProfile;
    use crate::connection::{Holder, RefreshToken, Scopes, TokenSet};
    use crate::secret::Secret;

    #[test]
    fn a_first_request_that_lies_ahead_is_rescued_by_no_grace_period() {
        let window = Duration::from_secs(30);
        let reuse = ReuseProfile { reuse: Reuse::Grace { window, max_uses: 2 }, ..ReuseProfile::default() };
        let sent_at = Timestamp::from_millis(1_000_000_000);
        let at = |now| Moment { now, holder: Holder(1), others: Others::Gone, reuse: &reuse };
        let refresh = Some(RefreshToken { value: Secret::new("rt-0".into()), expires_at: None });
        let tokens = TokenSet { access: None, refresh, previous: None, surplus: Vec::new() };
        let id = ConnectionId::parse(String::new(), "sandbox".into(), "user-42".into()).unwrap();
        let connection = Connection::pending(id, sent_at).imported(tokens, Scopes::default(), sent_at);
        let profile = connection.begun(1, &at(sent_at)).profile;
        assert!(is_rescue(&profile, &at(sent_at)));
        assert!(!is_rescue(&profile, &at(sent_at + window)));
        // The clock was set back since.
        assert!(!is_rescue(&profile, &at(sent_at - Duration::from_secs(3600))));
    }
}
