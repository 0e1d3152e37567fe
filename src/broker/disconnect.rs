//! Disconnect: say no to callers first, revoke at the provider, then forget.

use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::cache::Turn;
use super::keep::Weight;
use super::{Broker, Disconnected, RevocationState};
use crate::connection::{Connection, ConnectionId, Profile, Status};
use crate::error::{Error, ProviderError};
use crate::provider::{ProviderClient, Revocation};
use crate::store::{Expected, Revision, Selection};

/// How long after a failed revocation the next is tried, at first and at most.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(300);

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

    /// Takes up the revocations that an earlier run could not finish.
    ///
    /// # Errors
    /// The store's.
    pub async fn resume_revocations(self: &Arc<Self>) -> Result<usize, Error> {
        let selection = Selection { status: Some(Status::Revoking), ..Selection::default() };
        let (mut resumed, mut after) = (0, None);
        loop {
            let page = self.tokens.list(&selection, after.as_ref(), 1000).await?;
            resumed += page.profiles.len();
            for profile in page.profiles {
                self.keep_revoking(profile.id);
            }
            after = page.next;
            if after.is_none() {
                return Ok(resumed);
            }
        }
    }

    async fn revoke_and_forget(self: Arc<Self>, id: ConnectionId) -> Result<Disconnected, Error> {
        let provider = self.configured_provider(id.provider.as_str())?.clone();
        let (profile, revocation) = self.try_revoke(&provider, &id, Intent::Begin).await?;
        if let RevocationState::Pending { error } = &revocation {
            tracing::warn!(connection = %id, %error, "the grant is not revoked yet; trying on");
            self.keep_revoking(id);
        }
        Ok(Disconnected { profile, revocation })
    }

    async fn try_revoke(
        &self,
        provider: &Arc<dyn ProviderClient>,
        id: &ConnectionId,
        intent: Intent,
    ) -> Result<(Profile, RevocationState), Error> {
        let turn = self.cache.turn(id).await;
        let Some(stored) = self.tokens.get(id).await? else {
            self.cache.retire(turn);
            return Err(Error::ConnectionNotFound(id.clone()));
        };
        let (mut connection, mut revision) = (stored.value, stored.revision);
        if connection.profile.status != Status::Revoking {
            if intent == Intent::Resume {
                // Forgotten meanwhile and connected anew under the same name: none of our business.
                return Ok((connection.profile, RevocationState::Revoked));
            }
            connection = connection.revoking(self.clock.now());
            revision = self.keep(&turn, &connection, Expected::At(revision), Weight::Ordinary).await?;
        }
        turn.withdraw();
        let revocation = match &connection.tokens {
            None => Ok(Revocation::Revoked),
            Some(tokens) => provider.revoke(tokens).await,
        };
        match revocation {
            Ok(outcome) => self.forget(turn, connection, revision, outcome).await,
            Err(error) => {
                let error = Error::Provider { provider: id.provider.clone(), error };
                Ok((connection.profile, RevocationState::Pending { error }))
            }
        }
    }

    async fn forget(
        &self,
        turn: Turn,
        connection: Connection,
        revision: Revision,
        outcome: Revocation,
    ) -> Result<(Profile, RevocationState), Error> {
        self.forget_record(&turn, Expected::At(revision)).await?;
        self.cache.retire(turn);
        let profile = Profile { status: Status::Revoked, updated_at: self.clock.now(), ..connection.profile };
        let state = match outcome {
            Revocation::Revoked => RevocationState::Revoked,
            Revocation::Unsupported => RevocationState::Unsupported,
        };
        tracing::info!(connection = %profile.id, "disconnected");
        Ok((profile, state))
    }

    /// Tries again until the provider has answered, the connection was brought back, or the broker drains. The
    /// record says REVOKING, so a restart goes on from there.
    fn keep_revoking(self: &Arc<Self>, id: ConnectionId) {
        // However often it is asked for, one task tries.
        if !self.revocations().insert(id.clone()) {
            return;
        }
        let broker = self.clone();
        let draining = self.draining.clone();
        self.tasks.spawn(async move {
            let trying = async {
                let mut wait = FIRST_RETRY;
                loop {
                    tokio::time::sleep(wait).await;
                    if broker.is_revoked(&id).await {
                        return;
                    }
                    wait = (wait * 2).min(LAST_RETRY);
                }
            };
            tokio::select! {
                () = trying => {}
                () = draining.cancelled() => {}
            }
            broker.revocations().remove(&id);
        });
    }

    fn revocations(&self) -> MutexGuard<'_, BTreeSet<ConnectionId>> {
        self.revocations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn is_revoked(&self, id: &ConnectionId) -> bool {
        let Ok(provider) = self.configured_provider(id.provider.as_str()) else {
            tracing::error!(connection = %id, "cannot be revoked: its provider is no longer configured");
            return true;
        };
        match self.try_revoke(provider, id, Intent::Resume).await {
            Ok((_, RevocationState::Revoked | RevocationState::Unsupported))
            | Err(Error::ConnectionNotFound(_)) => true,
            Ok((
                _,
                RevocationState::Pending {
                    error: Error::Provider { error: ProviderError::Misconfigured(code), .. },
                },
            )) => {
                tracing::error!(connection = %id, %code, "the provider refuses our client; trying on");
                false
            }
            Ok((_, RevocationState::Pending { .. })) => false,
            Err(error) => {
                tracing::warn!(connection = %id, %error, "a revocation could not be completed; trying on");
                false
            }
        }
    }
}
