//! How many requests a token endpoint may still get: at most `count` within any span of `per`, as the provider sees it.
//!
//! Here a request counts from the moment it is allowed until `per` after its answer, so that no delay on the way can put two
//! windows' worth into one of the provider's. What was allowed and not used is as if it had never been. Whoever takes
//! without asking may overdraw it; then the next wait for longer. Knows no classes of callers and does not wait.
//!
//! Our own and not a crate's, for none that was looked at does these three (November 2026). governor 0.10 and leaky-bucket 1
//! fill a bucket: as large as the figure, it lets nearly twice of it through in a span (governor, 60 a minute: 119); smaller,
//! it holds back a burst that the provider allows. rate-net 2 and throttle-net 2 have a sliding window, which counts what
//! leaves, and are a few months old; rate_limiters 0.1 counts whole seconds of the wall clock.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The budget of one token endpoint. Begins full with the process.
#[derive(Debug)]
pub(in crate::provider) struct Purse {
    count: usize,
    per: Duration,
    under_way: usize,
    /// When requests were answered, oldest first; none is older than `per` once [`Purse::left`] was asked.
    answered_at: VecDeque<Instant>,
}

impl Purse {
    pub(in crate::provider) fn new(count: u32, per: Duration) -> Self {
        let count = usize::try_from(count).unwrap_or(usize::MAX).max(1);
        Self { count, per, under_way: 0, answered_at: VecDeque::new() }
    }

    /// What is kept for callers who wait: a fifth, and at least one unless one is all there is.
    pub(in crate::provider) fn reserve(&self) -> usize {
        (self.count / 5).max(usize::from(self.count > 1))
    }

    /// How many more may be sent now.
    pub(in crate::provider) fn left(&mut self, now: Instant) -> usize {
        while self.answered_at.front().is_some_and(|at| *at + self.per <= now) {
            self.answered_at.pop_front();
        }
        self.count.saturating_sub(self.under_way + self.answered_at.len())
    }

    /// When `wanted` more may be sent; now, if that is so now. Requests under way are taken to be answered now.
    pub(in crate::provider) fn when(&mut self, wanted: usize, now: Instant) -> Instant {
        if self.left(now) >= wanted {
            return now;
        }
        // With what was overdrawn; one at least.
        let missing = wanted + self.under_way + self.answered_at.len() - self.count;
        if let Some(at) = self.answered_at.get(missing - 1) {
            return *at + self.per;
        }
        // Beyond that: those under way come back a window from now, and then the whole purse once more each window.
        let beyond = missing.saturating_sub(self.answered_at.len() + self.under_way);
        let windows = u32::try_from(1 + beyond.div_ceil(self.count)).unwrap_or(u32::MAX);
        now + self.per.saturating_mul(windows)
    }

    /// When all of it is there again, if nothing more is sent.
    pub(in crate::provider) fn full_at(&self) -> Option<Instant> {
        self.answered_at.back().map(|at| *at + self.per)
    }

    /// One is sent, whether or not any was left.
    pub(in crate::provider) fn take(&mut self) {
        self.under_way += 1;
    }

    /// A request was answered, or given up after it had left.
    pub(in crate::provider) fn spend(&mut self, now: Instant) {
        self.under_way = self.under_way.saturating_sub(1);
        self.answered_at.push_back(now);
    }

    /// A request was not sent after all.
    pub(in crate::provider) fn put_back(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn no_span_of_that_length_sees_more_than_the_figure_however_the_requests_fall() {
        let start = Instant::now();
        let mut purse = Purse::new(10, SECOND);
        let mut sent = Vec::new();
        // Asked every 7 ms, answered 30 ms later: 4.2 windows.
        let mut under_way: VecDeque<Instant> = VecDeque::new();
        for tick in 0..600 {
            let now = start + Duration::from_millis(7 * tick);
            while under_way.front().is_some_and(|at| *at + Duration::from_millis(30) <= now) {
                under_way.pop_front();
                purse.spend(now);
            }
            if purse.left(now) > 0 {
                purse.take();
                sent.push(now);
                under_way.push_back(now);
            }
        }
        let busiest =
            sent.iter().map(|from| sent.iter().filter(|at| (*from..*from + SECOND).contains(at)).count());
        assert_eq!(busiest.max(), Some(10));
        assert!(sent.len() >= 40, "four windows were used: {}", sent.len());
    }

    #[test]
    fn what_was_not_used_is_there_again_at_once() {
        let now = Instant::now();
        let mut purse = Purse::new(2, SECOND);
        purse.take();
        purse.take();
        assert_eq!(purse.left(now), 0);
        purse.put_back();
        assert_eq!(purse.left(now), 1);
        purse.spend(now);
        assert_eq!(purse.left(now), 1, "the other counts on");
        assert_eq!(purse.left(now + SECOND), 2);
    }

    #[test]
    fn the_time_of_the_next_is_known() {
        let now = Instant::now();
        let mut purse = Purse::new(2, SECOND);
        assert_eq!(purse.when(2, now), now);
        for n in 0..2 {
            purse.take();
            purse.spend(now + SECOND / 10 * n);
        }
        let later = now + SECOND / 2;
        assert_eq!(purse.when(1, later), now + SECOND);
        assert_eq!(purse.when(2, later), now + SECOND / 10 * 11);
        assert_eq!(purse.when(3, later), later + SECOND * 2, "the two, and a window later the third");
        assert_eq!(purse.when(5, later), later + SECOND * 3);
        assert_eq!(purse.full_at(), Some(now + SECOND / 10 * 11));
    }

    #[test]
    fn what_was_overdrawn_is_waited_for_as_well() {
        let now = Instant::now();
        let mut purse = Purse::new(2, SECOND);
        for n in 0..4 {
            purse.take();
            purse.spend(now + SECOND / 10 * n);
        }
        let later = now + SECOND / 2;
        assert_eq!(purse.left(later), 0);
        assert_eq!(purse.when(1, later), now + SECOND / 10 * 12, "three are forgotten by then");
        assert_eq!(purse.left(now + SECOND / 10 * 11), 0);
        assert_eq!(purse.left(now + SECOND / 10 * 12), 1);
    }

    #[test]
    fn a_fifth_is_kept_back_unless_one_is_all() {
        for (count, kept) in [(1, 0), (2, 1), (5, 1), (50, 10)] {
            assert_eq!(Purse::new(count, SECOND).reserve(), kept, "{count}");
        }
    }
}
