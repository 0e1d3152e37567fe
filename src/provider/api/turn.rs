//! Who may call a provider's API next: the breaker for all, and for each connection so many calls at a time, so many in a
//! span, and the pause that the provider asked for.
//!
//! Knows no HTTP. The breaker is another one than the token endpoint's. Invariant: whoever was let through holds a
//! [`Leave`]; one that is dropped unsettled says nothing about the API and gives its place back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::clock::{Clock, Timestamp};
use crate::connection::{ConnectionId, ProviderKey};
use crate::error::{Outage, ProviderError};
use crate::provider::breaker::{self, Breaker, Pass};
use crate::provider::budget::Purse;
use crate::provider::health::{ApiHealth, ApiQuota, BreakerState};
use crate::provider::spec::limit::CallLimits;
use crate::provider::throttle::Quota;
use crate::telemetry::Metrics;

/// Lanes kept of connections that call nothing at the moment.
const MOST_LANES: usize = 10_000;

/// The pause where a provider asks for one and does not say how long.
const UNSAID: Duration = Duration::from_secs(1);

/// The turns of one API.
pub(super) struct Turns(Arc<Shared>);

struct Shared {
    provider: ProviderKey,
    limits: CallLimits,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

struct State {
    breaker: Breaker,
    lanes: HashMap<ConnectionId, Lane>,
    last_failure: Option<(ProviderError, Timestamp)>,
    last_success_at: Option<Timestamp>,
    refused: u64,
    under_way: u32,
}

/// What is known of one connection's calls.
struct Lane {
    places: Arc<Semaphore>,
    purse: Option<Purse>,
    rests_until: Option<Instant>,
    quota: Option<(Quota, Timestamp)>,
}

/// What a call says about the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It answers.
    Works,
    /// It fails, and perhaps said for how long.
    Failed(ProviderError, Option<Duration>),
    /// It wants this connection to pause.
    Throttled(Option<Duration>),
    /// Nothing.
    Nothing,
}

/// Leave to make one call.
pub(super) struct Leave {
    turns: Arc<Shared>,
    connection: ConnectionId,
    pass: Option<Pass>,
    _place: OwnedSemaphorePermit,
    counts: Option<Arc<Metrics>>,
    status: Option<u16>,
}

impl Turns {
    pub(super) fn new(
        provider: &ProviderKey,
        limits: &CallLimits,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let state = State {
            breaker: Breaker::new(limits.breaker.figures()),
            lanes: HashMap::new(),
            last_failure: None,
            last_success_at: None,
            refused: 0,
            under_way: 0,
        };
        metrics.set_api_breaker_state(provider.as_str(), BreakerState::Closed.as_str());
        let (provider, limits, state) = (provider.clone(), limits.clone(), Mutex::new(state));
        Self(Arc::new(Shared { provider, limits, clock, metrics, state }))
    }

    /// Waits for a turn, at most for `patience`.
    pub(super) async fn enter(
        &self,
        connection: &ConnectionId,
        patience: Duration,
    ) -> Result<Leave, ProviderError> {
        let until = Instant::now() + patience;
        let places = {
            let mut state = self.0.state();
            self.0.check_breaker(&mut state)?;
            state.lane(connection, &self.0.limits).places.clone()
        };
        let place = match timeout_at(until, places.acquire_owned()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) | Err(_) => return Err(ProviderError::RateLimited { retry_after: Some(UNSAID) }),
        };
        loop {
            let better = {
                let mut state = self.0.state();
                let now = Instant::now();
                let lane = state.lane(connection, &self.0.limits);
                match lane.opens_at(now) {
                    Some(opens_at) => opens_at,
                    None => {
                        let before = state.breaker.state();
                        let pass = match state.breaker.ask(now) {
                            Ok(pass) => pass,
                            Err(resting) => return Err(self.0.refusal(&mut state, resting.retry_after)),
                        };
                        self.0.tell(before, &mut state);
                        if let Some(purse) = &mut state.lane(connection, &self.0.limits).purse {
                            purse.take();
                        }
                        state.under_way += 1;
                        return Ok(Leave {
                            turns: self.0.clone(),
                            connection: connection.clone(),
                            pass: Some(pass),
                            _place: place,
                            counts: None,
                            status: None,
                        });
                    }
                }
            };
            if better >= until {
                let retry_after = Some(better.saturating_duration_since(Instant::now()));
                return Err(ProviderError::RateLimited { retry_after });
            }
            sleep_until(better).await;
        }
    }

    pub(super) fn close(&self) {
        let mut state = self.0.state();
        let before = state.breaker.state();
        state.breaker.close();
        state.lanes.values_mut().for_each(|lane| lane.rests_until = None);
        self.0.tell(before, &mut state);
    }

    pub(super) fn health(&self) -> ApiHealth {
        let (now, at) = (Instant::now(), self.0.clock.now());
        let state = self.0.state();
        let quotas = state.lanes.values().filter_map(|lane| lane.quota);
        let scarcest =
            quotas.filter(|(quota, _)| quota.remaining.is_some()).min_by_key(|(quota, _)| quota.remaining);
        ApiHealth {
            breaker: state.breaker.state(),
            consecutive_failures: state.breaker.streak(),
            last_failure: state.last_failure.as_ref().map(|(error, at)| (error.reason(), *at)),
            last_success_at: state.last_success_at,
            next_attempt_at: state.breaker.next_try(now).filter(|left| !left.is_zero()).map(|left| at + left),
            under_way: state.under_way,
            quota: scarcest.and_then(|(quota, at)| {
                Some(ApiQuota { remaining: quota.remaining?, limit: quota.limit, seen_at: at })
            }),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_breaker(&self, state: &mut State) -> Result<(), ProviderError> {
        match state.breaker.check(Instant::now()) {
            Ok(()) => Ok(()),
            Err(resting) => Err(self.refusal(state, resting.retry_after)),
        }
    }

    fn refusal(&self, state: &mut State, retry_after: Duration) -> ProviderError {
        state.refused += 1;
        let outage = Outage {
            failures: state.breaker.streak(),
            within: state.breaker.streak_took(),
            last: state.last_failure.as_ref().map(|(error, _)| error.clone()),
            refused: state.refused,
        };
        ProviderError::CircuitOpen { retry_after, outage: Box::new(outage) }
    }

    /// One line in the log and one step of the metric for each change of the breaker.
    fn tell(&self, before: BreakerState, state: &mut State) {
        let now = state.breaker.state();
        if now == before {
            return;
        }
        let provider = self.provider.as_str();
        self.metrics.set_api_breaker_state(provider, now.as_str());
        match now {
            BreakerState::Open => {
                let (failures, last) = (state.breaker.streak(), state.last_failure.as_ref());
                state.refused = 0;
                let last = last.map(|(error, _)| error.to_string()).unwrap_or_default();
                tracing::warn!(provider, failures, last, "the provider's API fails; its breaker opens");
            }
            BreakerState::HalfOpen => {
                tracing::info!(provider, "the provider's API is tried again, one call at a time");
            }
            BreakerState::Closed => {
                let refused = state.refused;
                tracing::info!(provider, refused, "the provider's API answers again; its breaker closes");
            }
        }
    }
}

impl State {
    fn lane(&mut self, connection: &ConnectionId, limits: &CallLimits) -> &mut Lane {
        if self.lanes.len() >= MOST_LANES && !self.lanes.contains_key(connection) {
            let now = Instant::now();
            self.lanes.retain(|_, lane| !lane.is_idle(now, limits));
        }
        self.lanes.entry(connection.clone()).or_insert_with(|| Lane::new(limits))
    }
}

impl Lane {
    fn new(limits: &CallLimits) -> Self {
        let places = usize::try_from(limits.max_parallel).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS))),
            purse: limits.budget.map(|window| Purse::new(window.count, window.per.duration())),
            rests_until: None,
            quota: None,
        }
    }

    /// When the next call may leave; `None`: now.
    fn opens_at(&mut self, now: Instant) -> Option<Instant> {
        let rest = self.rests_until.filter(|until| *until > now);
        let purse = self.purse.as_mut().map(|purse| purse.when(1, now)).filter(|at| *at > now);
        rest.max(purse)
    }

    /// Whether nothing is lost with it.
    fn is_idle(&mut self, now: Instant, limits: &CallLimits) -> bool {
        let is_free = Arc::strong_count(&self.places) == 1;
        let is_full = self.purse.as_mut().zip(limits.budget).is_none_or(|(purse, window)| {
            purse.left(now) >= usize::try_from(window.count).unwrap_or(usize::MAX)
        });
        is_free && is_full && self.rests_until.is_none_or(|until| until <= now)
    }
}

impl Leave {
    /// The call leaves now: it is counted, whatever becomes of it.
    pub(super) fn used(&mut self, metrics: &Arc<Metrics>) {
        self.counts = Some(metrics.clone());
    }

    /// A head has come.
    pub(super) fn answered(&mut self, status: u16) {
        self.status = Some(status);
        self.count();
    }

    /// What is left of the connection's quota.
    pub(super) fn learn(&mut self, quota: Quota) {
        if quota != Quota::default() {
            let at = self.turns.clock.now();
            self.turns.state().lane(&self.connection, &self.turns.limits).quota = Some((quota, at));
        }
    }

    /// What the call says about the API. The place is kept until this is dropped.
    pub(super) fn settle(&mut self, verdict: Verdict) {
        let Some(pass) = self.pass.take() else { return };
        let (now, at) = (Instant::now(), self.turns.clock.now());
        let mut state = self.turns.state();
        let before = state.breaker.state();
        let for_breaker = match &verdict {
            Verdict::Works => {
                state.last_success_at = Some(at);
                breaker::Verdict::Success
            }
            Verdict::Failed(error, rest) => {
                state.last_failure = Some((error.clone(), at));
                breaker::Verdict::Failure(*rest)
            }
            Verdict::Throttled(wait) => {
                let until = now + wait.unwrap_or(UNSAID);
                let lane = state.lane(&self.connection, &self.turns.limits);
                lane.rests_until = lane.rests_until.max(Some(until));
                // It answers: what it said is about one connection.
                breaker::Verdict::Success
            }
            Verdict::Nothing => breaker::Verdict::Nothing,
        };
        state.breaker.settle(pass, for_breaker, now);
        self.turns.tell(before, &mut state);
    }

    fn count(&mut self) {
        if let Some(metrics) = self.counts.take() {
            metrics.provider_requested(self.turns.provider.as_str(), "api", self.status);
        }
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.settle(Verdict::Nothing);
        self.count();
        let now = Instant::now();
        let mut state = self.turns.state();
        state.under_way = state.under_way.saturating_sub(1);
        if let Some(purse) = &mut state.lane(&self.connection, &self.turns.limits).purse {
            purse.spend(now);
        }
    }
}

#[cfg(test)]
mod tests;
