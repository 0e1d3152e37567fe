//! Tokens that came and cannot be stored: held in memory until they can. Knows neither disk nor provider beyond the
//! moment of trying again. Invariant: what is held here is served as degraded or not at all, no further refresh of its
//! connection is begun, and it leaves only when the store has it or says that somebody else's outcome stands.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::access_token::Demand;
use super::attempt::{Outcome, Settled};
use super::cache::Landing;
use super::{Broker, ServedToken, Source};
use crate::connection::{Connection, ConnectionId, Intent};
use crate::error::{Error, StoreError};
use crate::provider::ProviderClient;

/// How long after a failed write the next is tried, at first, at most, and at most while the broker drains.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);
const DRAIN_RETRY: Duration = Duration::from_millis(100);

/// What is held, by connection.
#[derive(Default)]
pub(super) struct Escrow(Mutex<HashMap<ConnectionId, Held>>);

struct Held {
    /// The new token, degraded.
    token: Arc<ServedToken>,
    /// Whether the token before it may still be served.
    old_survives: bool,
}

impl Escrow {
    pub(super) fn holds(&self, id: &ConnectionId) -> bool {
        self.lock().contains_key(id)
    }

    fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnectionId, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broker {
    /// How many connections have tokens that are not durable. More than none is trouble.
    pub fn escrowed_count(&self) -> usize {
        self.escrow.len()
    }

    /// What is answered for a connection whose new tokens are held here; `None` where none are.
    pub(super) fn escrowed(&self, id: &ConnectionId, demand: &Demand) -> Option<Landing> {
        let (token, old_survives) = {
            let held = self.escrow.lock();
            let held = held.get(id)?;
            (held.token.clone(), held.old_survives)
        };
        let now = self.clock.now();
        let old = self.cache.token(id).filter(|old| {
            old_survives && old.access.is_alive(now) && !old.is_over() && demand.is_content_with(&old.access)
        });
        if let Some(old) = old {
            return Some(Ok((old, Source::Stale)));
        }
        if token.access.is_alive(now) && !token.is_over() && !demand.refuses(Some(&token.access)) {
            return Some(Ok((token, Source::SharedRefresh)));
        }
        let why = "the last refresh of this connection is not durable yet".to_owned();
        Some(Err(StoreError::Unavailable(why).into()))
    }

    /// Holds what a refresh brought, answers it as degraded, and tries to store it until that works.
    pub(super) fn put_in_escrow(
        self: &Arc<Self>,
        provider: &Arc<dyn ProviderClient>,
        begun: Connection,
        attempt: Intent,
        outcome: Outcome,
        why: &StoreError,
    ) -> Result<Arc<ServedToken>, Error> {
        let id = begun.profile.id.clone();
        let reuse = provider.reuse_profile();
        let would_be = begun.landed(&attempt, &outcome, &self.moment(&reuse), 0).connection;
        let Some(access) = would_be.tokens.and_then(|tokens| tokens.access) else {
            return Err(Error::Internal("tokens came without an access token"));
        };
        let token = Arc::new(self.serving(access, &would_be.profile).degraded());
        tracing::error!(connection = %id, %why, "new tokens are held in memory: the store does not take them");
        let held = Held { token: token.clone(), old_survives: reuse.old_at_survives };
        self.escrow.lock().insert(id.clone(), held);
        self.metrics.set_escrowed(self.escrow.len());
        let (broker, provider) = (self.clone(), provider.clone());
        self.tasks.spawn(async move { broker.empty_escrow(&provider, &id, &attempt, &outcome).await });
        Ok(token)
    }

    async fn empty_escrow(
        self: &Arc<Self>,
        provider: &Arc<dyn ProviderClient>,
        id: &ConnectionId,
        attempt: &Intent,
        outcome: &Outcome,
    ) {
        let mut wait = FIRST_RETRY;
        loop {
            match self.settle(&**provider, id, attempt, outcome).await {
                Ok(settled) => {
                    let is_stored = matches!(settled, Settled::Token(_));
                    tracing::info!(connection = %id, is_stored, "held tokens were settled");
                    if let (Settled::Gone | Settled::Excess, Ok(issued)) = (&settled, outcome) {
                        self.revoke_stray(provider, id, issued.copy(), attempt, &settled).await;
                    }
                    break;
                }
                Err(error) => tracing::warn!(connection = %id, %error, "held tokens are not durable yet"),
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(LAST_RETRY),
                // Now it is stored or lost: try often.
                () = self.draining.cancelled(), if wait > DRAIN_RETRY => wait = DRAIN_RETRY,
            }
            if self.draining.is_cancelled() {
                wait = DRAIN_RETRY;
            }
        }
        self.escrow.lock().remove(id);
        self.metrics.set_escrowed(self.escrow.len());
    }
}
