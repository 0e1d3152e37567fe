//! A refresh that was never answered, of a connection that is being revoked: its refresh token is presented once more, so
//! that what was lost comes and is revoked too. Invariant: as for every refresh, no request leaves without an intent that
//! names it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::Broker;
use crate::broker::escrow::not_durable;
use crate::broker::keep::Weight;
use crate::broker::refresh::is_rescue;
use crate::clock::Timestamp;
use crate::connection::{Connection, ConnectionId, Waiting};
use crate::error::{Error, ProviderError, Unsent};
use crate::provider::{Admission, ProviderClient, Urgency};
use crate::store::{Expected, Stored};

/// The pause while the way to the provider is barred here: by its breaker or its budget, which no restart remembers.
const PAUSE: Duration = Duration::from_secs(2);

/// What is not known yet: why, and when it is asked again.
pub(super) struct Unknown {
    pub(super) error: Error,
    pub(super) until: Option<Timestamp>,
    /// Whether it is this broker that does not let the question out.
    pub(super) is_barred: bool,
}

impl Unknown {
    fn told(error: Error, until: Option<Timestamp>) -> Self {
        Self { error, until, is_barred: false }
    }
}

impl Broker {
    /// Asks after a lost answer, as far as that can be found out now. `None`: it is known, or will never be.
    pub(super) async fn ask_after_lost(
        self: &Arc<Self>,
        provider: &Arc<dyn ProviderClient>,
        id: &ConnectionId,
    ) -> Result<Option<Unknown>, Error> {
        let reuse = provider.reuse_profile();
        loop {
            let Some(stored) = self.tokens.get(id).await? else { return Ok(None) };
            let moment = self.moment(&reuse);
            let stored = Stored { value: self.unsent.taken_back(stored.value, &moment), ..stored };
            let Some(due) = stored.value.profile.asks_at(&moment) else { return Ok(None) };
            if due > moment.now {
                let profile = &stored.value.profile;
                let is_paused = profile.backoff.as_ref().is_some_and(|backoff| backoff.until >= due);
                let why = if is_paused { Waiting::Pause } else { Waiting::Outcome };
                let error = self.waits(profile, due, why);
                return Ok(Some(Unknown::told(error, Some(due))));
            }
            let is_pressing = is_rescue(&stored.value.profile, &moment);
            let urgency = if is_pressing { Urgency::Rescue } else { Urgency::Waiting };
            let admission = match provider.admit(urgency).await {
                Ok(admission) => admission,
                // Who refuses this client tells it nothing; what is held can be revoked all the same, perhaps.
                Err(ProviderError::Misconfigured(_)) => return Ok(None),
                Err(error) => return Ok(Some(self.not_asked(id, error))),
            };
            // Whatever ends the waiting for it: what comes of a request that has left is written down.
            let (broker, provider, id) = (self.clone(), provider.clone(), id.clone());
            let asking = async move { broker.present_again(&provider, &id, stored, admission).await };
            let asked = self.owned(self.flights.track_future(asking));
            if let Some(unknown) = asked.await? {
                return Ok(Some(unknown));
            }
        }
    }

    /// Presents a refresh token once more whose answer was lost. `None`: what came of it is in the record, which tells what
    /// is next.
    async fn present_again(
        self: &Arc<Self>,
        provider: &Arc<dyn ProviderClient>,
        id: &ConnectionId,
        stored: Stored<Connection>,
        admission: Admission,
    ) -> Result<Option<Unknown>, Error> {
        let reuse = provider.reuse_profile();
        // As for every refresh: a disk that takes its time takes it from the request.
        let latest = Instant::now() + reuse.token_timeout;
        let turn = self.cache.turn(id).await;
        if self.tokens.get(id).await?.is_none_or(|now| now.revision != stored.revision) {
            return Ok(None);
        }
        let written = Instant::now();
        let asking = stored.value.asking(self.dice(), &self.moment(&reuse));
        let kept = self.keep(&turn, &asking, Expected::At(stored.revision), Weight::Ordinary).await;
        drop(turn);
        if let Err(error) = kept {
            self.unsent.not_written(&asking, &error);
            return Ok(Some(Unknown::told(error.into(), None)));
        }
        let (Some(attempt), Some(refresh)) = (
            asking.profile.intent.clone(),
            asking.tokens.as_ref().and_then(|tokens| tokens.refresh.as_ref()),
        ) else {
            return Err(Error::Internal("a lost answer was asked after without an intent"));
        };
        let answered = self.send(&**provider, admission, (&attempt, refresh), latest).await;
        let late = ProviderError::Unavailable { cause: Unsent::TooLate, retry_after: None };
        if answered.is_none() {
            self.unsent.note(id, &attempt);
        }
        let outcome = answered.unwrap_or(Err(late));
        let attempt = attempt.timed_anew(self.clock.now(), written.elapsed());
        match outcome {
            Ok(issued) => {
                // Whoever waits for a token is told that the connection is gone.
                let _ = self.land(provider, asking, attempt, issued).await;
                if self.escrow.holds(id) {
                    return Ok(Some(Unknown::told(not_durable(), None)));
                }
            }
            Err(error) => {
                if let Err(failure) = self.settle(&**provider, id, &attempt, &Err(error.clone())).await {
                    let failed = asking.revocation_failed(&error, self.clock.now(), self.dice());
                    self.unwritten.heed(&failed.profile);
                    return Ok(Some(Unknown::told(failure.into(), None)));
                }
                if !matches!(error, ProviderError::Denied(_) | ProviderError::Ambiguous { .. }) {
                    let pause = self.connection(id).await?.backoff;
                    let error = Error::Provider { provider: id.provider.clone(), error };
                    return Ok(Some(Unknown::told(error, pause.map(|pause| pause.until))));
                }
            }
        }
        Ok(None)
    }

    /// The provider could not even be asked, and is when it may be.
    fn not_asked(&self, id: &ConnectionId, error: ProviderError) -> Unknown {
        let pause = error.retry_after().unwrap_or(PAUSE);
        // What its provider asked for it is kept waiting for; what our own breaker and line keep it from has a bound.
        let is_barred = matches!(error, ProviderError::CircuitOpen { .. } | ProviderError::NoTurn { .. });
        let error = Error::Provider { provider: id.provider.clone(), error };
        Unknown { error, until: Some(self.clock.now() + pause), is_barred }
    }
}
