//! Who may call a provider's API next: a breaker for each of its hosts, and for each connection so many calls at a time, so
//! many in a span, and the pause that the provider asked for.
//!
//! Knows no HTTP. The breakers are others than the token endpoint's. Invariant: whoever was let through holds a
//! [`Leave`]; one that is dropped unsettled says nothing about the API and gives its place back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::host::{HostPass, Hosts, Pace};
use crate::clock::{Clock, Timestamp};
use crate::connection::{ConnectionId, ProviderKey};
use crate::error::{ProviderError, Reason};
use crate::provider::breaker;
use crate::provider::budget::Purse;
use crate::provider::call::Allowance;
use crate::provider::health::{ApiHealth, ApiQuota};
use crate::provider::spec::limit::CallLimits;
use crate::provider::throttle::Quota;
use crate::telemetry::Metrics;

/// Lanes kept of connections that call nothing at the moment.
const MOST_LANES: usize = 10_000;

/// Over which part of a pause those who waited for its end are spread, and over how long at least and at most: as one crowd
/// they would earn the next pause, and one after the other they find out sooner that there is one.
const SPREAD: u32 = 10;
const SHORTEST_SPREAD: Duration = Duration::from_millis(100);
const LONGEST_SPREAD: Duration = Duration::from_secs(10);

/// The pause where a provider asks for one and does not say how long.
const UNSAID: Duration = Duration::from_secs(1);

/// The limits that hold calls back, as a provider's entry spells them.
const MAX_PARALLEL: &str = "api.limits.max_parallel";
const BUDGET: &str = "api.limits.budget";

/// The turns of one API.
pub(super) struct Turns(Arc<Shared>);

struct Shared {
    provider: ProviderKey,
    limits: CallLimits,
    clock: Arc<dyn Clock>,
    /// An operator ended every pause.
    pauses_ended: Notify,
    state: Mutex<State>,
}

struct State {
    hosts: Hosts,
    lanes: HashMap<ConnectionId, Lane>,
    last_failure: Option<(Reason, Timestamp)>,
    last_success_at: Option<Timestamp>,
    under_way: u32,
}

/// What is known of one connection's calls.
struct Lane {
    places: Arc<Semaphore>,
    purse: Option<Purse>,
    rest: Option<Rest>,
    quota: Option<(Quota, Timestamp)>,
}

/// A pause that the provider asked for.
#[derive(Clone, Copy, Debug)]
struct Rest {
    until: Instant,
    /// Over how long after it those are spread who waited for its end.
    spread: Duration,
}

/// When a connection's next request may leave.
struct Opening {
    at: Instant,
    /// Over how long after that those are spread who wait for it.
    spread: Duration,
    /// Which limit of the entry holds it back; `None`: the provider does.
    limit: Option<&'static str>,
}

/// What a call says about the host that it went to.
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
    pass: Option<HostPass>,
    _place: OwnedSemaphorePermit,
    /// Until when it waits for a turn, and how its dice fell.
    until: Instant,
    dice: u64,
    /// Whether the budget holds a request of it to be under way.
    is_counted: bool,
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
            hosts: Hosts::new(provider.clone(), limits.breaker.figures(), metrics),
            lanes: HashMap::new(),
            last_failure: None,
            last_success_at: None,
            under_way: 0,
        };
        let (provider, limits, state) = (provider.clone(), limits.clone(), Mutex::new(state));
        Self(Arc::new(Shared { provider, limits, clock, pauses_ended: Notify::new(), state }))
    }

    /// Waits for a turn to call `host`.
    pub(super) async fn enter(
        &self,
        connection: &ConnectionId,
        host: &Arc<str>,
        time: Allowance,
    ) -> Result<Leave, ProviderError> {
        self.entered(Pace::Own, connection, host, time).await
    }

    /// The same, for a call whose body its sender has yet to send: it is never the probe of a host that rested.
    pub(super) async fn enter_beside(
        &self,
        connection: &ConnectionId,
        host: &Arc<str>,
        time: Allowance,
    ) -> Result<Leave, ProviderError> {
        self.entered(Pace::Senders, connection, host, time).await
    }

    async fn entered(
        &self,
        pace: Pace,
        connection: &ConnectionId,
        host: &Arc<str>,
        time: Allowance,
    ) -> Result<Leave, ProviderError> {
        let now = Instant::now();
        let until = now + time.turn;
        let places = {
            let mut state = self.0.state();
            state.hosts.check(host, pace, now)?;
            let lane = state.lane(connection, &self.0.limits);
            // Those who wait for the end of the pause may have all the places: whoever cannot wait so long would stand behind
            // them for nothing.
            if let Some(pause) = lane.pause(now).filter(|pause| *pause >= time.turn) {
                return Err(ProviderError::RateLimited { retry_after: Some(pause) });
            }
            lane.places.clone()
        };
        let place = match timeout_at(until, places.acquire_owned()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) | Err(_) => {
                let pause = self.0.state().lane(connection, &self.0.limits).pause(Instant::now());
                return Err(match pause {
                    Some(_) => ProviderError::RateLimited { retry_after: pause },
                    None => ProviderError::NoTurn { limit: MAX_PARALLEL, retry_after: UNSAID },
                });
            }
        };
        let shared = &self.0;
        let begin = |state: &mut State, now| state.hosts.ask(host, pace, now);
        let pass = shared.begun(connection, until, time.dice, begin).await?;
        shared.state().under_way += 1;
        Ok(Leave {
            turns: shared.clone(),
            connection: connection.clone(),
            pass: Some(pass),
            _place: place,
            until,
            dice: time.dice,
            is_counted: true,
            counts: None,
            status: None,
        })
    }

    pub(super) fn close(&self) {
        let mut state = self.0.state();
        state.hosts.close();
        state.lanes.values_mut().for_each(|lane| lane.rest = None);
        self.0.pauses_ended.notify_waiters();
    }

    /// Waits so long, or until an operator ends every pause.
    pub(super) async fn rest(&self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.0.pauses_ended.notified() => {}
        }
    }

    pub(super) fn health(&self) -> ApiHealth {
        let (now, at) = (Instant::now(), self.0.clock.now());
        let mut state = self.0.state();
        let quotas = state.lanes.values().filter_map(|lane| lane.quota);
        let scarcest =
            quotas.filter(|(quota, _)| quota.remaining.is_some()).min_by_key(|(quota, _)| quota.remaining);
        let pausing = state.lanes.values().filter(|lane| lane.rest.is_some_and(|rest| rest.until > now));
        let pausing = u32::try_from(pausing.count()).unwrap_or(u32::MAX);
        ApiHealth {
            last_failure: state.last_failure,
            last_success_at: state.last_success_at,
            under_way: state.under_way,
            pausing,
            quota: scarcest.and_then(|(quota, at)| {
                Some(ApiQuota { remaining: quota.remaining?, limit: quota.limit, seen_at: at })
            }),
            ..state.hosts.health(now, at)
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a connection may send one more request, does what that takes, and counts it.
    async fn begun<T>(
        &self,
        connection: &ConnectionId,
        until: Instant,
        dice: u64,
        begin: impl Fn(&mut State, Instant) -> Result<T, ProviderError>,
    ) -> Result<T, ProviderError> {
        loop {
            // From before the look at the lane: what ends in between is not missed.
            let pauses_ended = self.pauses_ended.notified();
            let Opening { at: opens_at, spread, limit } = {
                let mut state = self.state();
                let now = Instant::now();
                match state.lane(connection, &self.limits).opens(now) {
                    Some(opens) => opens,
                    None => {
                        let begun = begin(&mut state, now)?;
                        if let Some(purse) = &mut state.lane(connection, &self.limits).purse {
                            purse.take();
                        }
                        return Ok(begun);
                    }
                }
            };
            let Some(room) = until.checked_duration_since(opens_at).filter(|room| !room.is_zero()) else {
                let retry_after = opens_at.saturating_duration_since(Instant::now());
                return Err(match limit {
                    Some(limit) => ProviderError::NoTurn { limit, retry_after },
                    None => ProviderError::RateLimited { retry_after: Some(retry_after) },
                });
            };
            // Half of what time is left after it is for the call itself.
            tokio::select! {
                () = sleep_until(opens_at + part(spread.min(room / 2), dice)) => {}
                () = pauses_ended => {}
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
            rest: None,
            quota: None,
        }
    }

    /// When the next call may leave; `None`: now. What the budget lets go it counts one by one.
    fn opens(&mut self, now: Instant) -> Option<Opening> {
        let rest = self.rest.map(|rest| Opening { at: rest.until, spread: rest.spread, limit: None });
        let purse = self.purse.as_mut().map(|purse| purse.when(1, now));
        let purse = purse.map(|at| Opening { at, spread: Duration::ZERO, limit: Some(BUDGET) });
        rest.into_iter().chain(purse).filter(|opening| opening.at > now).max_by_key(|opening| opening.at)
    }

    /// What is left of the pause that the provider asked for.
    fn pause(&self, now: Instant) -> Option<Duration> {
        self.rest.map(|rest| rest.until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Whether nothing is lost with it.
    fn is_idle(&mut self, now: Instant, limits: &CallLimits) -> bool {
        let is_free = Arc::strong_count(&self.places) == 1;
        let is_full = self.purse.as_mut().zip(limits.budget).is_none_or(|(purse, window)| {
            purse.left(now) >= usize::try_from(window.count).unwrap_or(usize::MAX)
        });
        is_free && is_full && self.rest.is_none_or(|rest| rest.until <= now)
    }
}

impl Rest {
    fn of(wait: Duration, now: Instant) -> Self {
        Self { until: now + wait, spread: (wait / SPREAD).clamp(SHORTEST_SPREAD, LONGEST_SPREAD) }
    }
}

/// Some part of a span, as the dice fall.
fn part(span: Duration, dice: u64) -> Duration {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(dice % millis.saturating_add(1))
}

impl Leave {
    /// The call leaves now: it is counted, whatever becomes of it.
    pub(super) fn used(&mut self, metrics: &Arc<Metrics>) {
        self.counts = Some(metrics.clone());
    }

    /// The call goes on with one more request, such as a redirect that is followed: waits for its turn as the first did.
    pub(super) async fn again(&mut self) -> Result<(), ProviderError> {
        self.spend();
        self.turns.begun(&self.connection, self.until, self.dice, |_, _| Ok(())).await?;
        self.is_counted = true;
        Ok(())
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

    /// What the call says about its host. The place is kept until this is dropped.
    pub(super) fn settle(&mut self, verdict: Verdict) {
        let Some(pass) = self.pass.take() else { return };
        let (now, at) = (Instant::now(), self.turns.clock.now());
        let mut state = self.turns.state();
        let mut failure = None;
        let for_breaker = match &verdict {
            Verdict::Works => {
                state.last_success_at = Some(at);
                breaker::Verdict::Success
            }
            Verdict::Failed(error, rest) => {
                state.last_failure = Some((error.reason(), at));
                failure = Some(error);
                breaker::Verdict::Failure(*rest)
            }
            Verdict::Throttled(wait) => {
                let rest = Rest::of(wait.unwrap_or(UNSAID), now);
                let lane = state.lane(&self.connection, &self.turns.limits);
                if lane.rest.is_none_or(|known| known.until < rest.until) {
                    lane.rest = Some(rest);
                }
                // It answers: what it said is about one connection.
                breaker::Verdict::Success
            }
            Verdict::Nothing => breaker::Verdict::Nothing,
        };
        state.hosts.settle(&pass, for_breaker, failure, now);
    }

    /// The request that was under way is over, for the budget.
    fn spend(&mut self) {
        if !std::mem::take(&mut self.is_counted) {
            return;
        }
        if let Some(purse) = &mut self.turns.state().lane(&self.connection, &self.turns.limits).purse {
            purse.spend(Instant::now());
        }
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
        self.spend();
        let mut state = self.turns.state();
        state.under_way = state.under_way.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests;
