//! Tokens that came for a connection which is no more, or whose record holds no more of them: revoked by a task of the
//! broker's own, which tries until the provider has answered. Where there is a second place they lie there until then,
//! and a restart goes on. Knows nothing of how they came. Invariant: nothing is revoked beside a connection that stands
//! under the same name, for at some providers that ends the grant of the one that stands.

use std::sync::Arc;
use std::time::Duration;

use super::Broker;
use super::attempt::Outcome;
use crate::connection::{ConnectionId, Intent, Status, TokenSet};
use crate::error::Error;
use crate::provider::{ProviderClient, Revocation};

/// The pause after a first try that failed, and the longest. Each is twice the one before, less some chance.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What one try came to.
enum Tried {
    /// Nothing is left to be done.
    Done,
    /// A consent is under way that is to take the connection's place: what becomes of it is waited for.
    Later,
}

impl Broker {
    /// Has tokens revoked that `attempt` brought and no record holds. `is_aside`: the second place has them.
    pub(super) fn revoke_stray(
        self: &Arc<Self>,
        provider: &Arc<dyn ProviderClient>,
        id: &ConnectionId,
        attempt: &Intent,
        outcome: Outcome,
        is_aside: bool,
    ) {
        let (broker, provider) = (self.clone(), provider.clone());
        let (id, attempt) = (id.clone(), attempt.clone());
        tracing::warn!(connection = %id, "tokens came that no record holds; they are revoked");
        self.tasks.spawn(async move {
            broker.revoke_until_done(&*provider, &id, &attempt, &outcome, is_aside).await;
        });
    }

    async fn revoke_until_done(
        &self,
        provider: &dyn ProviderClient,
        id: &ConnectionId,
        attempt: &Intent,
        outcome: &Outcome,
        mut is_aside: bool,
    ) {
        let Ok(issued) = outcome else { return };
        let stray = issued.copy().into_set(None, attempt.sent_at);
        let mut longest = FIRST_PAUSE;
        loop {
            // First of all: the process may end while the provider takes its time.
            is_aside = is_aside || self.set_aside(id, attempt, outcome).await;
            let asked = match self.try_to_revoke_stray(provider, id, &stray).await {
                Ok(Tried::Done) => break,
                Ok(Tried::Later) => None,
                Err(error) => {
                    tracing::error!(connection = %id, %error, "tokens that no record holds are not revoked yet");
                    error.retry_after()
                }
            };
            let pause = asked.unwrap_or_default().max(longest - longest / 4 * self.share());
            longest = (longest * 2).min(LONGEST_PAUSE);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.draining.cancelled() => {
                    if is_aside {
                        tracing::warn!(connection = %id, "the next start goes on revoking what no record holds");
                    } else {
                        tracing::error!(connection = %id, "tokens that no record holds live on at the provider");
                    }
                    return;
                }
            }
        }
        // Also where it was not told to be there: what took too long to write may be written all the same.
        self.drop_aside(id, attempt).await;
    }

    async fn try_to_revoke_stray(
        &self,
        provider: &dyn ProviderClient,
        id: &ConnectionId,
        stray: &TokenSet,
    ) -> Result<Tried, Error> {
        match self.tokens.get(id).await?.map(|stored| stored.value.profile.status) {
            None | Some(Status::Revoking | Status::Revoked) => {}
            Some(Status::Pending) => return Ok(Tried::Later),
            Some(Status::Active | Status::Ambiguous | Status::ReauthRequired | Status::Disabled) => {
                tracing::error!(
                    connection = %id,
                    "tokens of an earlier grant are not revoked: it was connected anew, and that could end with them"
                );
                return Ok(Tried::Done);
            }
        }
        match provider.revoke(stray).await {
            Ok(Revocation::Revoked) => {
                tracing::info!(connection = %id, "tokens that no record held are revoked");
                Ok(Tried::Done)
            }
            Ok(Revocation::Unconfirmed) => {
                tracing::error!(
                    connection = %id,
                    "tokens that no record holds may live on: their access token is over, and the provider takes no other"
                );
                Ok(Tried::Done)
            }
            Ok(Revocation::Unsupported) => {
                tracing::error!(
                    connection = %id,
                    "tokens that no record holds live on: the provider has no revocation, their owner must remove the app there"
                );
                Ok(Tried::Done)
            }
            Err(error) => Err(Error::Provider { provider: id.provider.clone(), error }),
        }
    }

    /// None or one, as the dice fall: so that many who failed together do not come back together.
    fn share(&self) -> u32 {
        u32::from(self.dice().is_multiple_of(2))
    }
}
