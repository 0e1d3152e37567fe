//! The provider's own gate before the simulated provider: the line, the budget and the breaker as they come. What they must
//! let be is seen from outside, by what is let through and what becomes of it: never more at a time than there are places,
//! and with those that save a grant never more than twice as many; never more in any span than the budget has, nothing
//! while the breaker rests, and then one probe at a time; nothing that nobody waits for while the provider has asked to
//! wait, and nothing at all where it says that it throttles the client. Nobody stands in line for long. What saves a grant
//! does as long as it must, and passes budget and breaker; what it took of the budget is taken from the others.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderMap, StatusCode, header};
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

/// The longest that anybody stands in line.
const LONGEST_TURN: Duration = Duration::from_secs(5);

/// The longest that a provider can have all others wait for one connection's answer, and what a 429 without a word means.
const LONGEST_REST: Duration = Duration::from_secs(900);
const UNSAID_REST: Duration = Duration::from_secs(5);

/// The gate of one run, and what is seen of it.
pub(super) struct Gate {
    provider: OAuthProvider,
    watch: Arc<Watch>,
}

impl Gate {
    pub(super) fn new(peer: Arc<Peer>, throttles_client: bool) -> Self {
        let held_to = json!({
            "max_parallel_refresh": PLACES,
            "throttles_client": throttles_client,
            "token_budget": {"count": BUDGET, "per": format!("{}s", PER.as_secs())},
            "breaker": {"failures": FAILURES, "open": format!("{}s", REST.as_secs()), "successes": SUCCESSES},
        });
        let config = entry::local("sim", &held_to);
        let (truth, clock) = (peer.truth.clone(), peer.truth.clock.clone());
        let watch = Arc::new(Watch { truth, throttles_client, seen: Mutex::default() });
        Self { provider: OAuthProvider::local(config, peer, clock, Arc::new(Metrics::default())), watch }
    }

    pub(super) fn health(&self) -> Option<Health> {
        self.provider.info().health
    }

    pub(super) async fn admit(&self, urgency: Urgency) -> Result<Admission, ProviderError> {
        let began = Instant::now();
        let admitted = self.provider.admit(urgency).await;
        if began.elapsed() > LONGEST_TURN && urgency != Urgency::Rescue {
            self.watch.truth.breach(format!("line: {urgency:?} stood in it for {:?}", began.elapsed()));
        }
        let admission = admitted?;
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
        leave.sent_at = Some(Instant::now());
        self.watch.sent(leave.is_rescue);
        let outcome = self.provider.refresh(admission, refresh, patience).await;
        // Whoever is told that a grant is dead was told something.
        leave.verdict = Some(matches!(outcome, Ok(_) | Err(ProviderError::Denied(_))));
        leave.error = outcome.as_ref().err().cloned();
        outcome
    }
}

/// What a breaker lets be.
#[derive(Clone, Copy, Debug)]
enum State {
    Closed { failures: u32 },
    Open { since: Instant, rest: Duration },
    HalfOpen { probes: u32, successes: u32 },
}

#[derive(Debug)]
struct Seen {
    state: State,
    /// Changes of state: an outcome counts only for the one in which its request was let through.
    epoch: u64,
    under_way: usize,
    /// How many of those are to save a grant.
    rescues: usize,
    /// When requests left within the last span, and whether each was to save a grant.
    sent: VecDeque<(Instant, bool)>,
    /// When the provider last asked to wait, until when that keeps away what nobody waits for, and until when everybody.
    asked_at: Option<Instant>,
    background_rests_until: Option<Instant>,
    everybody_rests_until: Option<Instant>,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            state: State::Closed { failures: 0 },
            epoch: 0,
            under_way: 0,
            rescues: 0,
            sent: VecDeque::new(),
            asked_at: None,
            background_rests_until: None,
            everybody_rests_until: None,
        }
    }
}

struct Watch {
    truth: Arc<Truth>,
    /// What the provider says of a 429: it is about all of this client's requests.
    throttles_client: bool,
    seen: Mutex<Seen>,
}

/// Somebody who was let through.
struct Leave {
    admission: Option<Admission>,
    watch: Arc<Watch>,
    epoch: u64,
    is_probe: bool,
    is_rescue: bool,
    sent_at: Option<Instant>,
    error: Option<ProviderError>,
    /// Whether it was answered well; `None`: not at all.
    verdict: Option<bool>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let verdict = self.sent_at.map(|_| self.verdict.unwrap_or(false));
        self.watch.is_asked_to_rest(self.sent_at, verdict, self.error.as_ref());
        let asked = self.error.as_ref().and_then(ProviderError::asked_wait);
        self.watch.is_over(self, verdict, asked);
    }
}

impl Watch {
    fn let_through(watch: &Arc<Self>, urgency: Urgency, admission: Admission) -> Leave {
        let mut seen = watch.seen.lock().unwrap();
        let is_rescue = urgency == Urgency::Rescue;
        seen.under_way += 1;
        seen.rescues += usize::from(is_rescue);
        if seen.under_way - seen.rescues > PLACES || seen.under_way > 2 * PLACES {
            let (all, rescues) = (seen.under_way, seen.rescues);
            watch
                .truth
                .breach(format!("gate: {all} let through at a time, {rescues} of them to save a grant"));
        }
        let now = Instant::now();
        let (mut epoch, mut is_probe) = (seen.epoch, false);
        if !is_rescue {
            // What left at this very moment may have been let through later.
            let counted = seen.within_the_span(now).iter().filter(|(at, _)| *at < now).count();
            if counted >= BUDGET {
                watch.truth.breach(format!("budget: {urgency:?} let through after {counted} within {PER:?}"));
            }
            seen.check_rest(watch, urgency, now);
            if let State::Open { since, rest } = seen.state {
                if since == now {
                    // Let through at the very moment, and before.
                    epoch -= 1;
                } else {
                    if now < since + rest {
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
            sent_at: None,
            error: None,
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

    /// What the provider's answer asks of others than the connection that it was for.
    fn is_asked_to_rest(
        &self,
        sent_at: Option<Instant>,
        verdict: Option<bool>,
        error: Option<&ProviderError>,
    ) {
        let mut seen = self.seen.lock().unwrap();
        let now = Instant::now();
        if verdict == Some(true) && sent_at > seen.asked_at {
            seen.background_rests_until = None;
        }
        let is_throttled = matches!(error, Some(ProviderError::RateLimited { .. }));
        let asked = error.and_then(ProviderError::asked_wait).or(is_throttled.then_some(UNSAID_REST));
        let Some(rest) = asked.map(|rest| rest.min(LONGEST_REST)) else { return };
        seen.asked_at = Some(now);
        seen.background_rests_until = seen.background_rests_until.max(Some(now + rest));
        if is_throttled && self.throttles_client {
            seen.everybody_rests_until = seen.everybody_rests_until.max(Some(now + rest));
        }
    }

    fn is_over(&self, leave: &Leave, verdict: Option<bool>, asked: Option<Duration>) {
        let mut seen = self.seen.lock().unwrap();
        let is_probe = leave.is_probe;
        let rest = asked.unwrap_or_default().min(LONGEST_REST).max(REST);
        seen.under_way -= 1;
        seen.rescues -= usize::from(leave.is_rescue);
        if leave.epoch != seen.epoch {
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
            (Some(false), State::Closed { .. }) => seen.change(State::Open { since: Instant::now(), rest }),
            (Some(false), State::HalfOpen { .. }) if is_probe => {
                seen.change(State::Open { since: Instant::now(), rest });
            }
            (Some(false), _) | (None, _) => {}
        }
    }
}

impl Seen {
    /// Nobody is let through who must wait because the provider has asked for it.
    fn check_rest(&self, watch: &Watch, urgency: Urgency, now: Instant) {
        let until = match urgency {
            Urgency::Ahead => self.background_rests_until.max(self.everybody_rests_until),
            Urgency::Waiting => self.everybody_rests_until,
            Urgency::Rescue => None,
        };
        // Who was let through at the very moment was so before.
        if let Some(until) = until.filter(|until| now < *until && self.asked_at != Some(now)) {
            watch.truth.breach(format!(
                "rest: {urgency:?} let through {:?} before the provider's wait is over",
                until.duration_since(now)
            ));
        }
    }

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
    async fn post(&self, body: &[u8]) -> Option<(StatusCode, HeaderMap, Vec<u8>)> {
        let presented = url::form_urlencoded::parse(body).find(|(key, _)| key == "refresh_token").unwrap().1;
        let refresh = RefreshToken { value: Secret::new(presented.into_owned()), expires_at: None };
        let answer = self.present(&refresh).await;
        let asked = answer.as_ref().err().and_then(ProviderError::asked_wait);
        let seconds = asked.map(|wait| (header::RETRY_AFTER, wait.as_secs().into()));
        let (status, body) = match answer {
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
        Some((status, seconds.into_iter().collect(), body.into_bytes()))
    }
}
