//! The circuit breaker of one token endpoint: closed, traffic flows; open, nothing is sent; half-open, one request at a
//! time is let through to try.
//!
//! The states and the count of failures in a row are those of `failsafe`. Added here is what it lacks: exactly one probe
//! at a time, several successes before it closes, the time until the next try, a way to trip it at once, and a rest
//! measured by tokio's clock, which stands still in tests. Knows neither errors nor HTTP.
//!
//! Invariant: an outcome counts only for the state in which its request was let through; one that comes late changes
//! nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use failsafe::backoff::{Constant, constant};
use failsafe::failure_policy::{ConsecutiveFailures, consecutive_failures};
use failsafe::{Instrument, StateMachine};
use tokio::time::Instant;

use super::health::BreakerState;
use super::spec::restraint::BreakerFigures;

/// The longest rest that a provider's `Retry-After` can talk us into; then it is tried again.
pub(in crate::provider) const LONGEST_REST: Duration = Duration::from_secs(900);

/// When to ask again while somebody else's probe is on its way.
const PROBE_TAKES: Duration = Duration::from_secs(1);

/// Of how many failures the moment is remembered.
const REMEMBERED: usize = 100;

/// The breaker. Whoever holds it holds it alone.
#[derive(Debug)]
pub(in crate::provider) struct Breaker {
    machine: StateMachine<ConsecutiveFailures<Constant>, Mirror>,
    mirror: Mirror,
    figures: BreakerFigures,
    /// Counts the changes of state.
    epoch: u64,
    /// The end of the rest, while open.
    rests_until: Instant,
    is_probe_out: bool,
    /// When the next request may go beside the probe that its sender holds up; `None`: now.
    next_beside: Option<Instant>,
    /// Probes that succeeded, while half-open.
    successes: u32,
    /// The endpoint said that it refuses everybody, and since then nothing better.
    refuses_everybody: bool,
    /// Failures since the last success, and when the first of them was.
    streak: u32,
    streak_began_at: Instant,
    /// When the latest failures were.
    failed_at: VecDeque<Instant>,
}

/// Leave to send one request. It must come back by [`Breaker::settle`] or [`Breaker::give_back`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::provider) struct Pass {
    epoch: u64,
    is_probe: bool,
}

/// Why nothing may be sent, and when to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::provider) struct Resting {
    pub(in crate::provider) retry_after: Duration,
}

/// What the outcome of a request says about the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::provider) enum Verdict {
    /// It works.
    Success,
    /// It fails, and perhaps said for how long.
    Failure(Option<Duration>),
    /// It will refuse everybody: no need to count.
    Trip,
    /// Nothing.
    Nothing,
}

impl Breaker {
    pub(in crate::provider) fn new(figures: BreakerFigures) -> Self {
        let mirror = Mirror::default();
        // The rest is ours to measure; failsafe's own is none at all.
        let policy = consecutive_failures(figures.failures, constant(Duration::ZERO));
        Self {
            machine: StateMachine::new(policy, mirror.clone()),
            mirror,
            figures,
            epoch: 0,
            rests_until: Instant::now(),
            is_probe_out: false,
            next_beside: None,
            successes: 0,
            refuses_everybody: false,
            streak: 0,
            streak_began_at: Instant::now(),
            failed_at: VecDeque::new(),
        }
    }

    pub(in crate::provider) fn state(&self) -> BreakerState {
        self.mirror.state()
    }

    /// Whether a request would be let through now, without letting it.
    pub(in crate::provider) fn check(&self, now: Instant) -> Result<(), Resting> {
        match self.state() {
            BreakerState::Closed => Ok(()),
            BreakerState::Open if now >= self.rests_until => Ok(()),
            BreakerState::Open => Err(Resting { retry_after: self.rests_until - now }),
            BreakerState::HalfOpen if self.is_probe_out => Err(Resting { retry_after: PROBE_TAKES }),
            BreakerState::HalfOpen => Ok(()),
        }
    }

    /// Lets a request through, or says when to ask again. While half-open that is one at a time.
    pub(in crate::provider) fn ask(&mut self, now: Instant) -> Result<Pass, Resting> {
        self.check(now)?;
        if self.state() == BreakerState::Open {
            self.half_open();
        }
        let is_probe = self.state() == BreakerState::HalfOpen;
        self.is_probe_out |= is_probe;
        Ok(Pass { epoch: self.epoch, is_probe })
    }

    /// [`Breaker::check`] for a request that its sender may hold up.
    pub(in crate::provider) fn check_beside(&self, now: Instant) -> Result<(), Resting> {
        match (self.state(), self.next_beside) {
            (BreakerState::HalfOpen, Some(next)) if now < next => Err(Resting { retry_after: next - now }),
            (BreakerState::HalfOpen, _) => Ok(()),
            (BreakerState::Closed | BreakerState::Open, _) => self.check(now),
        }
    }

    /// Lets a request through that its sender may hold up, or says when to ask again. It is no probe, which would be out
    /// for as long as a sender likes. While half-open one goes in each rest, beside the probe: it keeps no probe back, and
    /// the next of its kind no longer than a rest. Its success counts, its failure does not.
    pub(in crate::provider) fn ask_beside(&mut self, now: Instant) -> Result<Pass, Resting> {
        self.check_beside(now)?;
        if self.state() == BreakerState::Open {
            self.half_open();
        }
        if self.state() == BreakerState::HalfOpen {
            self.next_beside = Some(now + self.figures.open.duration());
        }
        Ok(Pass { epoch: self.epoch, is_probe: false })
    }

    /// Lets a request through that cannot wait for a better time, whatever the state.
    pub(in crate::provider) fn wave_through(&self) -> Pass {
        Pass { epoch: self.epoch, is_probe: false }
    }

    /// A request that was let through is not made after all.
    pub(in crate::provider) fn give_back(&mut self, pass: Pass) {
        if pass.is_probe && pass.epoch == self.epoch {
            self.is_probe_out = false;
        }
    }

    /// Takes the outcome of a request. Whether it changed the state is seen by comparing [`Breaker::state`].
    pub(in crate::provider) fn settle(&mut self, pass: Pass, verdict: Verdict, now: Instant) {
        if pass.epoch != self.epoch {
            return;
        }
        self.give_back(pass);
        match verdict {
            Verdict::Nothing => {}
            Verdict::Success => self.succeeded(),
            Verdict::Failure(rest) => self.failed(pass, rest, 1, now),
            Verdict::Trip => {
                self.failed(pass, None, self.figures.failures, now);
                self.refuses_everybody = true;
            }
        }
    }

    /// Closes it by hand.
    pub(in crate::provider) fn close(&mut self) {
        self.machine.reset();
        self.changed();
        self.streak = 0;
        self.refuses_everybody = false;
    }

    /// Whether the last that was heard is that the endpoint refuses everybody: then no request is worth an exception.
    pub(in crate::provider) fn refuses_everybody(&self) -> bool {
        self.refuses_everybody
    }

    /// When the next request may be sent, while open.
    pub(in crate::provider) fn next_try(&self, now: Instant) -> Option<Duration> {
        (self.state() == BreakerState::Open).then(|| self.rests_until.saturating_duration_since(now))
    }

    /// Failures in a row.
    pub(in crate::provider) fn streak(&self) -> u32 {
        self.streak
    }

    /// From the first of the failures in a row to the last.
    pub(in crate::provider) fn streak_took(&self) -> Duration {
        let last = self.failed_at.back().copied().unwrap_or(self.streak_began_at);
        last.saturating_duration_since(self.streak_began_at)
    }

    /// Failures within the last span of the breaker's rest; at most a hundred are told apart.
    pub(in crate::provider) fn recent_failures(&self, now: Instant) -> u32 {
        let window = self.figures.open.duration();
        let recent = self.failed_at.iter().filter(|at| now.saturating_duration_since(**at) < window).count();
        u32::try_from(recent).unwrap_or(u32::MAX)
    }

    fn succeeded(&mut self) {
        self.streak = 0;
        self.refuses_everybody = false;
        match self.state() {
            BreakerState::Closed => self.machine.on_success(),
            BreakerState::Open | BreakerState::HalfOpen => {
                // Whoever was waved through and succeeded has ended the rest.
                if self.state() == BreakerState::Open {
                    self.half_open();
                }
                self.successes += 1;
                self.next_beside = None;
                if self.successes >= self.figures.successes {
                    self.machine.on_success();
                    self.changed();
                }
            }
        }
    }

    fn failed(&mut self, pass: Pass, rest: Option<Duration>, times: u32, now: Instant) {
        if self.streak == 0 {
            self.streak_began_at = now;
        }
        self.streak = self.streak.saturating_add(1);
        if self.failed_at.len() == REMEMBERED {
            self.failed_at.pop_front();
        }
        self.failed_at.push_back(now);
        // That somebody was waved through a closed door and met nobody does not make the rest longer.
        let counts = match self.state() {
            BreakerState::Closed => true,
            BreakerState::HalfOpen => pass.is_probe,
            BreakerState::Open => false,
        };
        if !counts {
            return;
        }
        for _ in 0..times {
            self.machine.on_error();
        }
        if self.state() == BreakerState::Open {
            let rest = rest.unwrap_or_default().min(LONGEST_REST).max(self.figures.open.duration());
            self.rests_until = now + rest;
            // What the probe met may be over by the next time; a refusal is noted by whoever calls.
            self.refuses_everybody = false;
            self.changed();
        }
    }

    fn half_open(&mut self) {
        // failsafe compares the machine's own clock with the moment at which it opened, and one tick must lie between.
        while !self.machine.is_call_permitted() {
            std::hint::spin_loop();
        }
        self.changed();
    }

    fn changed(&mut self) {
        self.epoch += 1;
        self.is_probe_out = false;
        self.next_beside = None;
        self.successes = 0;
    }
}

/// What failsafe says its state is: it tells, and cannot be asked.
#[derive(Clone, Debug, Default)]
struct Mirror(Arc<AtomicU8>);

impl Mirror {
    fn state(&self) -> BreakerState {
        match self.0.load(Ordering::Relaxed) {
            0 => BreakerState::Closed,
            1 => BreakerState::Open,
            _ => BreakerState::HalfOpen,
        }
    }
}

impl Instrument for Mirror {
    fn on_call_rejected(&self) {}

    fn on_open(&self) {
        self.0.store(1, Ordering::Relaxed);
    }

    fn on_half_open(&self) {
        self.0.store(2, Ordering::Relaxed);
    }

    fn on_closed(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
