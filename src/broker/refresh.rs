//! The refresh: one request, then durable, then published. Runs in a task of the cache, alone with its connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::access_token::{Demand, not_serving};
use super::cache::{Landing, Turn};
use super::keep::Weight;
use super::{Broker, ServedToken, Source};
use crate::clock::Timestamp;
use crate::connection::{AccessToken, Connection, Landed, Moment, Others, Profile, Step, Verdict, Waiting};
use crate::error::{Error, ProviderError, StoreError};
use crate::provider::{ProviderClient, Urgency};
use crate::store::{Expected, Revision, Stored};

/// How long after a failed write the next is tried, at first and at most; each wait is twice the one before.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// How long to go on trying to make tokens durable while the store is down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Persistence {
    /// About three seconds: somebody waits, and can begin again.
    Brief,
    /// Until the process ends: the tokens' predecessors are spent, so to drop them may be to lose the grant.
    Endless,
}

impl Broker {
    /// Spends the refresh token of `stored` and keeps what comes.
    pub(super) async fn refresh(
        &self,
        turn: &Turn,
        provider: &dyn ProviderClient,
        stored: Stored<Connection>,
        demand: &Demand,
    ) -> Landing {
        if self.draining.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        let Stored { value: connection, revision } = stored;
        let reuse = provider.reuse_profile();
        let moment =
            Moment { now: self.clock.now(), holder: self.holder, others: Others::Gone, reuse: &reuse };
        let access = connection.tokens.as_ref().and_then(|tokens| tokens.access.as_ref());
        let is_refused =
            demand.not.is_some_and(|refused| access.is_some_and(|at| at.value.digest() == refused));
        match connection.profile.step(&moment, is_refused) {
            Step::Send => {}
            Step::Unrefreshable => return self.keep_unrefreshable(turn, connection, revision, demand).await,
            Step::NotServing => return Err(not_serving(&connection.profile)),
            Step::Wait { until, why } => return Err(self.waits(&connection.profile, until, why)),
        }
        let admission = match provider.admit(Urgency::Waiting).await {
            Ok(admission) => admission,
            Err(error) => return Err(Error::Provider { provider: turn.id().provider.clone(), error }),
        };
        let moment = Moment { now: self.clock.now(), ..moment };
        let mut connection = connection.begun(self.dice(), &moment);
        // Which costs no write of its own.
        connection.profile.asked_at =
            connection.profile.asked_at.max(self.cache.asked_at(turn.id(), moment.now));
        let Some(attempt) = connection.profile.intent.clone() else {
            return Err(Error::Internal("a refresh began without an intent"));
        };
        // Durable before the request leaves: whoever comes after us must know that it may have been sent.
        let revision = self.keep(turn, &connection, Expected::At(revision), Weight::Ordinary).await?;
        let Some(refresh) = connection.tokens.as_ref().and_then(|tokens| tokens.refresh.as_ref()) else {
            return Err(Error::Internal("a refresh began without a refresh token"));
        };
        let started = Instant::now();
        let outcome = provider.refresh(admission, refresh).await;
        self.metrics.refresh_took(provider.key().as_str(), started.elapsed());
        self.metrics.refreshed(provider.key().as_str(), outcome.as_ref().err().map(ProviderError::reason));
        let moment = Moment { now: self.clock.now(), ..moment };
        let landed = connection.landed(&attempt, &outcome, &moment, self.dice());
        if let Err(error) = outcome {
            return Err(self.note_failure(turn, landed, revision, error).await);
        }
        let connection = landed.connection;
        self.commit(turn, &connection, Expected::At(revision), Persistence::Endless).await?;
        tracing::info!(connection = %turn.id(), generation = connection.profile.generation, "refreshed");
        let token = self.served(connection)?;
        turn.publish(token.clone());
        Ok((token, Source::Refreshed))
    }

    /// Makes tokens durable that a provider has just given and that exist nowhere else yet.
    pub(super) async fn commit(
        &self,
        turn: &Turn,
        connection: &Connection,
        expected: Expected,
        persistence: Persistence,
    ) -> Result<Revision, Error> {
        let mut wait = FIRST_RETRY;
        loop {
            match self.keep(turn, connection, expected, Weight::Rescue).await {
                Err(StoreError::Unavailable(why))
                    if persistence == Persistence::Endless || wait < LAST_RETRY / 2 =>
                {
                    tracing::error!(connection = %connection.profile.id, why, "new tokens are not durable yet");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LAST_RETRY);
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
        let hits = self.metrics.tokens_served(profile.id.provider.as_str(), Source::Cache.as_str());
        Ok(Arc::new(ServedToken::new(access, profile.scopes, profile.generation, hits)))
    }

    /// What is served of a connection whose refresh token is still needed.
    pub(super) fn served_copy(&self, access: &AccessToken, profile: &Profile) -> Arc<ServedToken> {
        let hits = self.metrics.tokens_served(profile.id.provider.as_str(), Source::Cache.as_str());
        Arc::new(ServedToken::new(access.copy(), profile.scopes.clone(), profile.generation, hits))
    }

    /// Remembers a failed refresh, and says what the caller is told. Only the provider's word ends the grant.
    async fn note_failure(
        &self,
        turn: &Turn,
        landed: Landed,
        revision: Revision,
        error: ProviderError,
    ) -> Error {
        let Landed { connection, verdict } = landed;
        if verdict == Verdict::Dead {
            turn.withdraw();
        }
        if let Err(error) = self.keep(turn, &connection, Expected::At(revision), Weight::Ordinary).await {
            tracing::warn!(connection = %turn.id(), %error, "a failed refresh could not be recorded");
        }
        if verdict == Verdict::Dead {
            return not_serving(&connection.profile);
        }
        Error::Provider { provider: turn.id().provider.clone(), error }
    }

    /// What those are told who must wait until then.
    fn waits(&self, profile: &Profile, until: Timestamp, why: Waiting) -> Error {
        let now = self.clock.now();
        match why {
            Waiting::Outcome => {
                Error::ConnectionAmbiguous { connection: profile.id.clone(), retry_after: now.until(until) }
            }
            Waiting::Pause => Error::Provider {
                provider: profile.id.provider.clone(),
                error: Connection::failure(profile, now),
            },
        }
    }

    /// Chance, for names that must not repeat and for pauses.
    pub(super) fn dice(&self) -> u64 {
        u64::from_be_bytes(self.entropy.bytes())
    }

    /// A connection that has an access token and nothing to renew it with: served while it lives, to those who are
    /// content with it. A caller's report of a 401 is not the provider's word, so it changes nothing that is stored.
    async fn keep_unrefreshable(
        &self,
        turn: &Turn,
        connection: Connection,
        revision: Revision,
        demand: &Demand,
    ) -> Landing {
        let access = connection.tokens.as_ref().and_then(|tokens| tokens.access.as_ref());
        if let Some(access) = access.filter(|access| access.is_alive(self.clock.now())) {
            if !demand.is_content_with(access) {
                return Err(not_serving(&connection.profile));
            }
            return Ok((self.served(connection)?, Source::Stale));
        }
        turn.withdraw();
        let connection = connection.expired(self.clock.now());
        self.keep(turn, &connection, Expected::At(revision), Weight::Ordinary).await?;
        Err(not_serving(&connection.profile))
    }
}
