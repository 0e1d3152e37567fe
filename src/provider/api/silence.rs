//! A call whose time runs out while its host is silent: whether that is the host's failure.
//!
//! Knows no HTTP. Invariant: a caller that goes away before its time says nothing about the host.

use std::time::Duration;

use tokio::time::Instant;

use super::turn::{Leave, Verdict};
use crate::error::{AmbiguousCause, ProviderError};
use crate::provider::http::api::Pulse;

/// Which part of `api.limits.head_timeout` a host must have been silent, if a call's time was over before. The figure says
/// what is slow at this API, so a part of it says more than a span of ours; with the default of 10 s a third lets the usual
/// deadline of 5 s count, and no answer that is only slow.
const TELLING: u32 = 3;

/// By how much a call may end before its time: the caller's clock began before ours, and its hang-up may be here first.
const EARLY: Duration = Duration::from_millis(250);

/// A call that waits for the head of its answer. To be told when that wait is over; dropped before, its caller or its time
/// has gone.
pub(super) struct Waiting<'a> {
    leave: &'a mut Leave,
    pulse: &'a Pulse,
    telling: Duration,
    ends_at: Option<Instant>,
}

impl<'a> Waiting<'a> {
    /// `head_timeout` is the entry's, `ends_at` when the call's time is over.
    pub(super) fn new(
        leave: &'a mut Leave,
        pulse: &'a Pulse,
        head_timeout: Duration,
        ends_at: Option<Instant>,
    ) -> Self {
        Self { leave, pulse, telling: head_timeout / TELLING, ends_at }
    }

    /// There is an answer, or a failure that speaks for itself.
    pub(super) fn over(mut self) {
        self.ends_at = None;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let was_in_time = self.ends_at.is_none_or(|ends_at| Instant::now() + EARLY < ends_at);
        if !was_in_time && self.pulse.silence().is_some_and(|silence| silence >= self.telling) {
            let lost = ProviderError::Ambiguous { cause: AmbiguousCause::Timeout };
            self.leave.settle(Verdict::Failed(lost, None));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::turn::Turns;
    use super::*;
    use crate::clock::{ManualClock, Timestamp};
    use crate::connection::{ConnectionId, ProviderKey};
    use crate::provider::call::Allowance;
    use crate::provider::health::BreakerState;
    use crate::provider::spec::limit::CallLimits;
    use crate::provider::spec::restraint::{Breaker, BreakerFigures};
    use crate::telemetry::Metrics;

    const SECOND: Duration = Duration::from_secs(1);

    /// Whether a call counts as a failure of its host that has so many seconds, of 12 for the head of an answer, and is
    /// dropped after so many.
    async fn fails(seconds: Option<u32>, dropped_after: Duration, pulse: &Pulse) -> bool {
        let figures = BreakerFigures { failures: 1, ..BreakerFigures::default() };
        let limits = CallLimits { breaker: Breaker::Own(figures), ..CallLimits::default() };
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(0)));
        let provider = ProviderKey::parse("p").unwrap();
        let turns = Turns::new(&provider, &limits, clock, Arc::new(Metrics::default()));
        let id = ConnectionId::parse(String::new(), "p".into(), "c".into()).unwrap();
        let time = Allowance { turn: SECOND, left: None, dice: 0 };
        let mut leave = turns.enter(&id, &"api.example:443".into(), time).await.unwrap();
        let ends_at = seconds.map(|seconds| Instant::now() + seconds * SECOND);
        let waiting = Waiting::new(&mut leave, pulse, 12 * SECOND, ends_at);
        tokio::time::sleep(dropped_after).await;
        drop(waiting);
        drop(leave);
        turns.health().breaker == BreakerState::Open
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_runs_out_is_the_hosts_failure_where_it_was_silent_for_a_third_of_what_it_may_take() {
        for (seconds, dropped_after, counts) in [
            (Some(4), 4 * SECOND, true),
            (Some(8), 8 * SECOND, true),
            (Some(3), 3 * SECOND, false),
            // The caller hung up: at once, late, and a moment before the broker's own clock said so.
            (Some(8), SECOND, false),
            (Some(8), 7 * SECOND, false),
            (Some(8), 8 * SECOND - EARLY, true),
            (None, 11 * SECOND, false),
        ] {
            let pulse = Pulse::default();
            assert_eq!(fails(seconds, dropped_after, &pulse).await, counts, "{seconds:?} {dropped_after:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_the_callers_own_body_was_awaited_is_not_the_hosts() {
        let pulse = Pulse::default();
        pulse.beats(true);
        assert!(!fails(Some(8), 8 * SECOND, &pulse).await);
        let pulse = Pulse::default();
        tokio::time::sleep(6 * SECOND).await;
        pulse.done();
        assert!(!fails(Some(3), 3 * SECOND, &pulse).await, "it counts from the last byte");
    }
}
