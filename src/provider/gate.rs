//! Who may ask the token endpoint next: one line before it, in which a caller who waits overtakes work that nobody waits
//! for.
//!
//! Owns the order, the places under way, and the rests that a provider asks for. The breaker and the budget decide
//! whether at all; this decides who. Knows no OAuth and sends nothing. Invariant: whoever was let through holds a
//! [`Place`]; a place that is dropped unused gives everything back: the breaker's probe, the budget, the turn; and one
//! that is dropped while its refresh is under way counts as a refresh that nobody answered.

mod line;
mod outcome;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use self::line::{Line, Ticket};
use self::outcome::Asker;
use super::Urgency;
use super::breaker::Pass;
use super::health::{BreakerState, Budget, Health};
use super::spec::ProviderSpec;
use crate::clock::Clock;
use crate::connection::ProviderKey;
use crate::error::{AmbiguousCause, ProviderError};
use crate::telemetry::Metrics;

/// Nobody stands in line for longer, but for what saves a grant, and nobody is let into it who would have to for the
/// budget's sake: told when to come back, a caller can choose, and a schedule is a better place to wait in than a task.
const LONGEST_TURN: Duration = Duration::from_secs(5);

/// The gate of one token endpoint. Clones are the same gate.
#[derive(Clone)]
pub(in crate::provider) struct Gate(Arc<Shared>);

struct Shared {
    provider: ProviderKey,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    throttles_client: bool,
    line: Mutex<Line>,
}

/// A place among the requests under way.
pub(in crate::provider) struct Place {
    gate: Gate,
    pass: Pass,
    urgency: Urgency,
    asker: Asker,
    used_at: Option<Instant>,
    is_settled: bool,
}

impl Gate {
    pub(in crate::provider) fn new(
        provider: ProviderKey,
        spec: &ProviderSpec,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        metrics.set_breaker_state(provider.as_str(), BreakerState::Closed.as_str());
        Self(Arc::new(Shared {
            provider,
            clock,
            metrics,
            throttles_client: spec.throttles_client,
            line: Mutex::new(Line::new(spec)),
        }))
    }

    /// Whether it makes sense to stand in line at all; costs nothing and takes nothing.
    pub(in crate::provider) fn check(&self, urgency: Urgency) -> Result<(), ProviderError> {
        let mut line = self.line();
        let refusal = line.refusal(urgency, Instant::now());
        match refusal {
            None => Ok(()),
            Some(error) => {
                line.refused += u64::from(matches!(error, ProviderError::CircuitOpen { .. }));
                Err(error)
            }
        }
    }

    /// Waits for a turn. To drop the future is to leave the line.
    pub(in crate::provider) async fn enter(&self, urgency: Urgency) -> Result<Place, ProviderError> {
        let now = Instant::now();
        let (ticket, turn) = Ticket::new(now);
        let refusal = {
            let mut line = self.line();
            let refusal = line.refusal(urgency, now);
            if refusal.is_none() {
                line.join(urgency, ticket);
            }
            refusal
        };
        if let Some(error) = refusal {
            return Err(error);
        }
        self.serve();
        // The line lives as long as this gate and answers every ticket it lets go of.
        turn.await.unwrap_or(Err(ProviderError::Malformed))
    }

    /// Takes a place out of turn, whatever the breaker says: for a request that has no better time.
    pub(in crate::provider) fn enter_uncalled(&self) -> Place {
        let mut line = self.line();
        let pass = line.breaker.wave_through();
        line.begin(Urgency::Rescue, Asker::Consent);
        self.place(pass, Urgency::Rescue, Asker::Consent)
    }

    /// Closes the breaker by hand and forgets every rest.
    pub(in crate::provider) fn close(&self) {
        self.change(|line, _| {
            line.breaker.close();
            line.background_rests_until = None;
            line.everybody_rests_until = None;
        });
    }

    /// How the token endpoint fares.
    pub(in crate::provider) fn health(&self) -> Health {
        let (now, at) = (Instant::now(), self.0.clock.now());
        let line = self.line();
        let later = |until: Option<Instant>| {
            until
                .and_then(|until| until.checked_duration_since(now))
                .filter(|left| !left.is_zero())
                .map(|left| at + left)
        };
        let rests = line.breaker.next_try(now).map(|left| at + left).filter(|next| *next > at);
        Health {
            breaker: line.breaker.state(),
            consecutive_failures: line.breaker.streak(),
            recent_failures: line.breaker.recent_failures(now),
            last_failure: line.last_failure.as_ref().map(|(error, at)| (error.reason(), *at)),
            last_success_at: line.last_success_at,
            next_attempt_at: rests.max(later(line.everybody_rests_until)),
            background_rests_until: later(line.background_rests_until),
        }
    }

    /// What is left of the budget.
    pub(in crate::provider) fn budget(&self, spec: &ProviderSpec) -> Budget {
        let (now, at) = (Instant::now(), self.0.clock.now());
        let mut line = self.line();
        let whole = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let remaining = whole(line.purse.left(now));
        let full_at = line.purse.full_at().and_then(|full| full.checked_duration_since(now));
        Budget {
            limit: spec.token_budget.count,
            per: spec.token_budget.per.duration(),
            remaining,
            reserved: whole(line.purse.reserve()),
            full_at: full_at.map(|left| at + left),
            under_way: whole(line.under_way()),
            in_line: whole(line.length()),
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, pass: Pass, urgency: Urgency, asker: Asker) -> Place {
        Place { gate: self.clone(), pass, urgency, asker, used_at: None, is_settled: false }
    }

    /// Changes the line, tells if that changed the breaker, and lets in whoever may now.
    fn change(&self, change: impl FnOnce(&mut Line, Instant)) {
        {
            let mut line = self.line();
            let before = line.breaker.state();
            change(&mut line, Instant::now());
            self.tell(before, &mut line);
        }
        self.serve();
    }

    /// Lets in whoever may, in order, and sees to it that the rest is looked at again.
    fn serve(&self) {
        let (served, next_look) = {
            let mut line = self.line();
            let before = line.breaker.state();
            let now = Instant::now();
            let served = line.serve(now);
            self.tell(before, &mut line);
            (served, line.next_look(now))
        };
        // Outside the lock: a ticket whose owner has gone gives its place back, and that is the next to be served.
        for (ticket, outcome) in served {
            ticket.answer(outcome.map(|(pass, urgency)| self.place(pass, urgency, Asker::Refresh)));
        }
        if let (Some(at), Ok(runtime)) = (next_look, tokio::runtime::Handle::try_current()) {
            let gate = Arc::downgrade(&self.0);
            runtime.spawn(async move {
                tokio::time::sleep_until(at).await;
                if let Some(shared) = gate.upgrade() {
                    let gate = Self(shared);
                    gate.line().looked(at);
                    gate.serve();
                }
            });
        }
    }

    /// One line in the log and one step of the metric for each change of the breaker.
    fn tell(&self, before: BreakerState, line: &mut Line) {
        let state = line.breaker.state();
        if state == before {
            return;
        }
        let provider = self.0.provider.as_str();
        self.0.metrics.set_breaker_state(provider, state.as_str());
        match state {
            BreakerState::Open => {
                line.refused = 0;
                let failures = line.breaker.streak();
                let rest = line.breaker.next_try(Instant::now()).unwrap_or_default();
                let (last, reason) = match &line.last_failure {
                    Some((error, _)) => (error.to_string(), error.reason().as_str()),
                    None => (String::new(), ""),
                };
                let is_ours = matches!(line.last_failure, Some((ProviderError::Misconfigured(_), _)));
                let rest_seconds = rest.as_secs();
                if is_ours {
                    tracing::error!(
                        provider,
                        reason,
                        failures,
                        rest_seconds,
                        last,
                        "the provider refuses this client; its breaker opens"
                    );
                } else {
                    tracing::warn!(
                        provider,
                        reason,
                        failures,
                        rest_seconds,
                        last,
                        "the provider fails; its breaker opens"
                    );
                }
            }
            BreakerState::HalfOpen => {
                tracing::info!(provider, "the provider is tried again, one request at a time")
            }
            BreakerState::Closed => {
                let refused = line.refused;
                tracing::info!(provider, refused, "the provider answers again; its breaker closes");
            }
        }
    }
}

impl Place {
    /// The request leaves now: from here on it counts.
    pub(in crate::provider) fn used(&mut self) {
        self.used_at = Some(Instant::now());
    }

    /// What became of the request.
    pub(in crate::provider) fn settle<T>(mut self, outcome: Result<&T, &ProviderError>) {
        self.report(outcome.err());
    }

    fn report(&mut self, error: Option<&ProviderError>) {
        self.is_settled = true;
        let (pass, urgency, asker, sent_at) = (self.pass, self.urgency, self.asker, self.used_at);
        let throttles_client = self.gate.0.throttles_client;
        let at = self.gate.0.clock.now();
        self.gate.change(|line, now| {
            line.end(urgency, asker, Some(now));
            line.learn(error, at, now, sent_at, throttles_client);
            line.breaker.settle(pass, asker.verdict(error), now);
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        // Whoever refreshes waits until the request itself runs out of time: who goes away before that ends with the
        // process. Of a consent it may be the owner's browser that hung up.
        if self.used_at.is_some() && self.asker == Asker::Refresh {
            return self.report(Some(&ProviderError::Ambiguous { cause: AmbiguousCause::Timeout }));
        }
        let (pass, urgency, asker, used_at) = (self.pass, self.urgency, self.asker, self.used_at);
        self.gate.change(|line, now| {
            line.end(urgency, asker, used_at.map(|_| now));
            line.breaker.give_back(pass);
        });
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("provider", &self.0.provider).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
