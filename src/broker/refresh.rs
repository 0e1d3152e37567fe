//! The refresh: one request, then durable, then published. Runs in a task of the cache, alone with its connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::access_token::{Demand, not_serving};
use super::cache::{Landing, Turn};
use super::keep::Weight;
use super::{Broker, ServedToken, Source};
use crate::connection::{AccessToken, Connection, Profile};
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
        let Some(refresh) = connection.tokens.as_ref().and_then(|tokens| tokens.refresh.as_ref()) else {
            return self.keep_unrefreshable(turn, connection, revision, demand).await;
        };
        let admission = match provider.admit(Urgency::Waiting).await {
            Ok(admission) => admission,
            Err(error) => return Err(self.note_failure(turn, connection, revision, error).await),
        };
        // The life of the new token is counted from before the request, never from the answer.
        let asked_at = self.clock.now();
        let started = Instant::now();
        let outcome = provider.refresh(admission, refresh).await;
        self.metrics.refresh_took(provider.key().as_str(), started.elapsed());
        self.metrics.refreshed(provider.key().as_str(), outcome.as_ref().err().map(ProviderError::reason));
        let issued = match outcome {
            Ok(issued) => issued,
            Err(error) => return Err(self.note_failure(turn, connection, revision, error).await),
        };
        let connection = connection.refreshed(issued, asked_at, self.clock.now());
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
        let Connection { profile, tokens } = connection;
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
        connection: Connection,
        revision: Revision,
        error: ProviderError,
    ) -> Error {
        let is_dead = matches!(error, ProviderError::Denied(_));
        let is_news =
            connection.profile.last_failure.as_ref().map(|f| &*f.reason) != Some(error.reason().as_str());
        let connection = connection.refresh_failed(&error, self.clock.now());
        if is_dead {
            turn.withdraw();
        }
        // A flapping provider must not cost a durable write per call.
        if (is_dead || is_news)
            && let Err(error) = self.keep(turn, &connection, Expected::At(revision), Weight::Ordinary).await
        {
            tracing::warn!(connection = %turn.id(), %error, "a failed refresh could not be recorded");
        }
        if is_dead {
            return not_serving(&connection.profile);
        }
        Error::Provider { provider: turn.id().provider.clone(), error }
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
