//! The provider's own gate before the simulated provider: the line, the budget and the breaker as they come. What they must
//! let be is seen from outside, by what is let through and what becomes of it: never more at a time than there are places,
//! never more in any span than the budget has, nothing while the breaker rests, and then one probe at a time. What saves a
//! grant passes budget and breaker; what it took of the budget is taken from the others.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use serde_json::json;
use token_broker::connection::{IssuedTokens, RefreshToken};
use token_broker::error::{AmbiguousCause, ProviderError};
use token_broker::provider::health::Health;
use token_broker::provider::oauth::{LocalPeer, OAuthProvider};
use token_broker::provider::{Admission, ProviderClient as _, Urgency};
use token_broker::secret::Secret;
use token_broker::telemetry::Metrics;
use tokio::time::Instant;

use super::provider::{Peer, issued};
use super::truth::Truth;
use crate::kit::entry;

/// Requests that may be under way at a time.
const PLACES: usize = 2;
/// Requests in any span of `PER`.
const BUDGET: usize = 3;
const PER: Duration = Duration::from_secs(4);
/// Failures in a row that open the breaker, its rest, and the successes that close it.
const FAILURES: u32 = 3;
const REST: Duration = Duration::from_secs(10);
const SUCCESSES: u32 = 2;

/// The gate of one run, and what is seen of it.
pub(super) struct Gate {
    provider: OAuthProvider,
    watch: Arc<Watch>,
}

impl Gate {
    pub(super) fn new(peer: Arc<Peer>) -> Self {
        let held_to = json!({
            "max_parallel_refresh": PLACES,
            "token_budget": {"count": BUDGET, "per": format!("{}s", PER.as_secs())},
            "breaker": {"failures": FAILURES, "open": format!("{}s", REST.as_secs()), "successes": SUCCESSES},
        });
        let config = entry::local("sim", &held_to);
        let (truth, clock) = (peer.truth.clone(), peer.truth.clock.clone());
        let watch = Arc::new(Watch { truth, seen: Mutex::default() });
        Self { provider: OAuthProvider::local(config, peer, clock, Arc::new(Metrics::default())), watch }
    }

    pub(super) fn health(&self) -> Option<Health> {
        self.provider.info().health
    }

    pub(super) async fn admit(&self, urgency: Urgency) -> Result<Admission, ProviderError> {
        let admission = self.provider.admit(urgency).await?;
        Ok(Admission::holding(Watch::let_through(&self.watch, urgency, admission)))
    }

    pub(super) async fn refresh(
        &self,
        admission: Admission,
        refresh: &RefreshToken,
        patience: Duration,
    ) -> Result<IssuedTokens, ProviderError> {
        let mut leave = admission.into_place::<Leave>().unwrap();
        let admission = leave.admission.take().unwrap();
        leave.is_sent = true;
        self.watch.sent(leave.is_rescue);
        let outcome = self.provider.refresh(admission, refresh, patience).await;
        // Whoever is told that a grant is dead was told something.
        leave.verdict = Some(matches!(outcome, Ok(_) | Err(ProviderError::Denied(_))));
        outcome
    }
}

/// What a breaker lets be.
#[derive(Clone, Copy, Debug)]
enum State {
    Closed { failures: u32 },
    Open { since: Instant },
    HalfOpen { probes: u32, successes: u32 },
}

#[derive(Debug)]
struct Seen {
    state: State,
    /// Changes of state: an outcome counts only for the one in which its request was let through.
    epoch: u64,
    under_way: usize,
    /// When requests left within the last span, and whether each was to save a grant.
    sent: VecDeque<(Instant, bool)>,
}

impl Default for Seen {
    fn default() -> Self {
        Self { state: State::Closed { failures: 0 }, epoch: 0, under_way: 0, sent: VecDeque::new() }
    }
}

struct Watch {
    truth: Arc<Truth>,
    seen: Mutex<Seen>,
}

/// Somebody who was let through.
struct Leave {
    admission: Option<Admission>,
    watch: Arc<Watch>,
    epoch: u64,
    is_probe: bool,
    is_rescue: bool,
    is_sent: bool,
    /// Whether it was answered well; `None`: not at all.
    verdict: Option<bool>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let verdict = if self.is_sent { Some(self.verdict.unwrap_or(false)) } else { None };
        self.watch.is_over(self.epoch, self.is_probe, verdict);
    }
}

impl Watch {
    fn let_through(watch: &Arc<Self>, urgency: Urgency, admission: Admission) -> Leave {
        let mut seen = watch.seen.lock().unwrap();
        seen.under_way += 1;
        if seen.under_way > PLACES {
            watch.truth.breach(format!("gate: {} let through at a time", seen.under_way));
        }
        let now = Instant::now();
        let (mut epoch, mut is_probe) = (seen.epoch, false);
        let is_rescue = urgency == Urgency::Rescue;
        if !is_rescue {
            // What left at this very moment may have been let through later.
            let counted = seen.within_the_span(now).iter().filter(|(at, _)| *at < now).count();
            if counted >= BUDGET {
                watch.truth.breach(format!("budget: {urgency:?} let through after {counted} within {PER:?}"));
            }
            if let State::Open { since } = seen.state {
                if since == now {
                    // Let through at the very moment, and before.
                    epoch -= 1;
                } else {
                    if now < since + REST {
                        watch.truth.breach(format!(
                            "breaker: {urgency:?} let through {:?} into its rest",
                            since.elapsed()
                        ));
                    }
                    seen.change(State::HalfOpen { probes: 0, successes: 0 });
                    epoch = seen.epoch;
                }
            }
            if let State::HalfOpen { probes, .. } = &mut seen.state {
                (*probes, is_probe) = (*probes + 1, true);
                watch.truth.met.lock().unwrap().probes += 1;
                if *probes > 1 {
                    watch.truth.breach(format!("breaker: {probes} probes at a time"));
                }
            }
        }
        let mut met = watch.truth.met.lock().unwrap();
        met.full += u64::from(seen.under_way == PLACES);
        drop(met);
        drop(seen);
        Leave {
            admission: Some(admission),
            watch: watch.clone(),
            epoch,
            is_probe,
            is_rescue,
            is_sent: false,
            verdict: None,
        }
    }

    fn sent(&self, is_rescue: bool) {
        let mut seen = self.seen.lock().unwrap();
        let now = Instant::now();
        seen.sent.push_back((now, is_rescue));
        let ordinary = seen.within_the_span(now).iter().filter(|(_, is_rescue)| !is_rescue).count();
        if ordinary > BUDGET {
            self.truth.breach(format!("budget: {ordinary} requests within {PER:?}"));
        }
    }

    fn is_over(&self, epoch: u64, is_probe: bool, verdict: Option<bool>) {
        let mut seen = self.seen.lock().unwrap();
        seen.under_way -= 1;
        if epoch != seen.epoch {
            return;
        }
        if let (true, State::HalfOpen { probes, .. }) = (is_probe, &mut seen.state) {
            *probes -= 1;
        }
        match (verdict, seen.state) {
            (Some(true), State::Closed { .. }) => seen.state = State::Closed { failures: 0 },
            // Of somebody who could not wait.
            (Some(true), State::Open { .. }) => seen.change(State::HalfOpen { probes: 0, successes: 1 }),
            (Some(true), State::HalfOpen { successes, .. }) if successes + 1 >= SUCCESSES => {
                seen.change(State::Closed { failures: 0 });
            }
            (Some(true), State::HalfOpen { probes, successes }) => {
                seen.state = State::HalfOpen { probes, successes: successes + 1 };
            }
            (Some(false), State::Closed { failures }) if failures + 1 < FAILURES => {
                seen.state = State::Closed { failures: failures + 1 };
            }
            (Some(false), State::Closed { .. }) => seen.change(State::Open { since: Instant::now() }),
            (Some(false), State::HalfOpen { .. }) if is_probe => {
                seen.change(State::Open { since: Instant::now() });
            }
            (Some(false), _) | (None, _) => {}
        }
    }
}

impl Seen {
    /// What left within the span that ends now.
    fn within_the_span(&mut self, now: Instant) -> &VecDeque<(Instant, bool)> {
        while self.sent.front().is_some_and(|(at, _)| *at + PER <= now) {
            self.sent.pop_front();
        }
        &self.sent
    }

    fn change(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
    }
}

/// The same provider, as its answers are written.
#[async_trait]
impl LocalPeer for Peer {
    async fn post(&self, body: &[u8]) -> Option<(StatusCode, Vec<u8>)> {
        let presented = url::form_urlencoded::parse(body).find(|(key, _)| key == "refresh_token").unwrap().1;
        let refresh = RefreshToken { value: Secret::new(presented.into_owned()), expires_at: None };
        let (status, body) = match self.present(&refresh).await {
            Ok((grant, number)) => {
                let issued = issued(&grant, number);
                let body = json!({
                    "access_token": issued.access_token.expose(),
                    "token_type": issued.token_type,
                    "expires_in": issued.expires_in.unwrap().as_secs(),
                    "refresh_token": issued.refresh_token.unwrap().expose(),
                });
                (StatusCode::OK, body.to_string())
            }
            Err(ProviderError::Denied(code)) => {
                (StatusCode::BAD_REQUEST, json!({"error": code.as_str()}).to_string())
            }
            Err(ProviderError::RateLimited { .. }) => (StatusCode::TOO_MANY_REQUESTS, String::new()),
            Err(ProviderError::Ambiguous { cause: AmbiguousCause::Status { status, .. } }) => {
                (StatusCode::from_u16(status).unwrap(), String::new())
            }
            // Cut off.
            Err(ProviderError::Ambiguous { .. }) => (StatusCode::OK, "{".to_owned()),
            Err(_) => return None,
        };
        Some((status, body.into_bytes()))
    }
}
