//! When a call is tried once more: pure figures. Owns the pauses and the budget. Knows no clock of its own and sends
//! nothing. Invariant: however many calls fail, repetitions that nobody asked for stay a fixed share of first attempts.

use std::time::Duration;

/// The longest pause between two attempts, whatever the doubling says.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What one first attempt adds to the budget, in hundredths of a repetition.
const EARNED: u32 = 20;

/// What one repetition costs.
const COST: u32 = 100;

/// What is saved at most, and there at the start: ten repetitions.
const SAVED: u32 = 1000;

/// The pause before the attempt after `made` ones: anything up to twice as much each time (full jitter), drawn by
/// `dice`.
pub(super) fn pause(first: Duration, made: u32, dice: u64) -> Duration {
    let ceiling = first.saturating_mul(1 << made.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
    let millis = u64::try_from(ceiling.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(dice % millis.saturating_add(1))
}

/// The pause where the provider said how long to wait. Those who were told the same do not come back as one: on top comes
/// anything up to a tenth of it, or up to `first` where that is more, but no more than half of what is `left` to the caller
/// after it.
pub(super) fn asked(wait: Duration, first: Duration, left: Duration, dice: u64) -> Duration {
    let spread = first.max(wait / 10).min(left.saturating_sub(wait) / 2);
    wait + pause(spread, 1, dice)
}

/// How many repetitions a provider may still get. A fifth of the first attempts, and ten in reserve: where everything
/// fails, trying again makes it worse.
#[derive(Debug)]
pub(super) struct RetryBudget(u32);

impl Default for RetryBudget {
    fn default() -> Self {
        Self(SAVED)
    }
}

impl RetryBudget {
    /// A first attempt was answered.
    pub(super) fn earn(&mut self) {
        self.0 = (self.0 + EARNED).min(SAVED);
    }

    /// Takes a repetition, if there is one.
    pub(super) fn spend(&mut self) -> bool {
        let left = self.0.checked_sub(COST);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_drawn_from_a_span_that_doubles_up_to_a_ceiling() {
        let first = Duration::from_millis(200);
        for (made, ceiling) in [(1, 200), (2, 400), (3, 800), (40, 10_000)] {
            let longest = (0..20_000).map(|dice| pause(first, made, dice)).max();
            assert_eq!(longest, Some(Duration::from_millis(ceiling)), "{made}");
        }
        assert_eq!(pause(first, 1, 0), Duration::ZERO);
    }

    #[test]
    fn a_pause_that_was_asked_for_is_kept_and_its_end_is_spread_as_far_as_there_is_time() {
        let (first, second) = (Duration::from_millis(200), Duration::from_secs(1));
        for (wait, left, most) in [
            (60 * second, 3600 * second, 66 * second),
            (second, 60 * second, second + first),
            (60 * second, 62 * second, 61 * second),
            (60 * second, 30 * second, 60 * second),
            (3600 * second, 9000 * second, 3610 * second),
        ] {
            let drawn = || (0..20_000).map(|dice| asked(wait, first, left, dice));
            assert_eq!((drawn().min(), drawn().max()), (Some(wait), Some(most)), "{wait:?} {left:?}");
        }
    }

    #[test]
    fn repetitions_stay_a_fifth_of_first_attempts() {
        let mut budget = RetryBudget::default();
        let mut repeated = 0;
        for _ in 0..1000 {
            budget.earn();
            repeated += u32::from(budget.spend()) + u32::from(budget.spend());
        }
        assert_eq!(repeated, 1000 / 5 + 10 - 1, "what was in reserve, and a fifth");
    }
}
