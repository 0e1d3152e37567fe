//! One attempt to refresh as it is written down before it leaves, and the pause after one that failed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::RefreshToken;
use super::reuse::{Reuse, ReuseProfile, usable};
use crate::clock::Timestamp;

/// How far two clocks may be apart, and how long a request that has left may still be under way when its sender has
/// given it up: what is added to a deadline before somebody else acts.
pub const CLOCK_MARGIN: Duration = Duration::from_secs(2);

/// The least by which two clocks must part before it is taken for more than the time it takes to read them.
pub(super) const NOTICED: Duration = Duration::from_secs(1);

/// The first pause after a failure. Each is twice the one before, times chance (full jitter).
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest that we choose where callers wait for a token: a provider that is well again is not kept from them for
/// longer. What keeps a herd away from one that is not is its breaker and its budget.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The longest where nobody waits: a revocation.
pub(super) const LONGEST_PAUSE_UNAWAITED: Duration = Duration::from_secs(300);
/// A pause of no length would be none.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause that a provider can ask for (`Retry-After`, a day) with what we add to it.
pub const LONGEST_ASKED: Duration = Duration::from_secs(2 * 86_400);

/// Which run of which process acts: drawn at start, so that no two runs share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Holder(pub u64);

/// A refresh that is about to be sent, is under way, or whose outcome nobody knows. It is durable before the request
/// leaves, and on one node it is the lease as well: whoever finds one that is not its own keeps away until
/// [`Intent::until`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// Names this attempt. Random: a fence may repeat after a store was rolled back, this does not.
    pub attempt_id: u64,
    /// Who sends.
    pub holder: Holder,
    /// The generation whose refresh token is presented.
    pub generation: u64,
    /// The connection's fence as this attempt raised it.
    pub fence: u64,
    /// When the first request of this chain left: the same refresh token, its outcome unknown ever since.
    pub first_sent_at: Timestamp,
    /// When this request leaves. A new token's life counts from here.
    pub sent_at: Timestamp,
    /// After this the sender neither sends nor waits.
    pub deadline: Timestamp,
    /// Requests of this chain that may have reached the provider, this one included.
    pub tries: u32,
    /// Which refresh token: the first eight bytes of its SHA-256.
    pub fingerprint: u64,
}

impl Intent {
    /// The end of the lease: from then on somebody else may act, for nothing of this attempt is under way any more.
    pub fn until(&self) -> Timestamp {
        self.deadline + CLOCK_MARGIN
    }

    /// How long this request is waited for if it leaves now. Where the provider takes its refresh token once more, but only
    /// for a while, a first answer that does not come is given up while there is still time to ask again: after three
    /// quarters of it. Only the first: a provider that is slow, not silent, must be waited for in the end. So must it be
    /// where writing the attempt down has left less than a quarter of that: nobody answers in so short a time.
    pub fn patience(&self, reuse: &ReuseProfile, now: Timestamp) -> Duration {
        match reuse.reuse {
            Reuse::Grace { window, .. } if self.tries == 1 => {
                let within = |left: Duration| reuse.token_timeout.min(left * 3 / 4);
                let left = within(now.until(self.first_sent_at + usable(window)));
                if left < within(usable(window)) / 4 { reuse.token_timeout } else { left }
            }
            _ => reuse.token_timeout,
        }
    }

    /// Whether this is a repeat that was begun within a grace period and would leave when that is over: then it could end
    /// the grant. A first request ends none, however late it leaves.
    pub fn is_too_late(&self, reuse: &ReuseProfile, now: Timestamp) -> bool {
        let Reuse::Grace { window, .. } = reuse.reuse else { return false };
        let last = self.first_sent_at + usable(window);
        self.tries > 1 && self.sent_at < last && last <= now
    }

    /// The same attempt by a clock that was set while its request was under way, which took `elapsed` by one that nobody
    /// sets. Where the clock was set forward, what the attempt brings counts from as early as before: a machine that stood
    /// still looks the same, and its tokens grew older meanwhile.
    pub fn timed_anew(&self, now: Timestamp, elapsed: Duration) -> Self {
        let (expected, mut attempt) = (self.sent_at + elapsed, self.clone());
        let (ahead, back) = (expected.until(now), now.until(expected));
        if ahead >= NOTICED {
            attempt.first_sent_at = attempt.first_sent_at + ahead;
            attempt.deadline = attempt.deadline + ahead;
        }
        if back >= NOTICED {
            attempt.first_sent_at = attempt.first_sent_at - back;
            attempt.sent_at = attempt.sent_at - back;
            attempt.deadline = attempt.deadline - back;
        }
        attempt
    }

    /// [`Intent::until`], unless it lies further off than any attempt can last: then the clock was set back since,
    /// and to wait for it could last for years.
    pub(super) fn settled_at(&self, now: Timestamp, token_timeout: Duration) -> Timestamp {
        if self.until() > now + token_timeout + CLOCK_MARGIN * 2 { now } else { self.until() }
    }
}

impl RefreshToken {
    /// Tells this token from another without being one: the first eight bytes of its SHA-256.
    pub fn fingerprint(&self) -> u64 {
        self.value.digest().iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
    }
}

/// The pause that a connection keeps after failures. Survives restarts, so that a crash loop is no stampede.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backoff {
    /// Failures in a row.
    pub failures: u32,
    /// No request before this.
    pub until: Timestamp,
    /// Whether the provider asked for it (`Retry-After`); else it is of our own choice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_asked: bool,
}

impl Backoff {
    /// The pause after one more failure, of `longest` at most. `asked` is what the provider wants (`Retry-After`), and is
    /// honoured in full.
    pub(super) fn after(
        before: Option<&Self>,
        asked: Option<Duration>,
        longest: Duration,
        now: Timestamp,
        dice: u64,
    ) -> Self {
        let failures = before.map_or(0, |backoff| backoff.failures).saturating_add(1);
        let pause = match asked {
            Some(asked) => asked + share(FIRST_PAUSE.max(asked / 10), dice),
            None => {
                let most = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(16)).min(longest);
                share(most, dice).max(SHORTEST_PAUSE)
            }
        };
        Self { failures, until: now + pause, is_asked: asked.is_some() }
    }

    /// When it ends; at once if it lies further off than any pause can, because the clock was set back since.
    pub fn ends_at(&self, now: Timestamp) -> Timestamp {
        if self.until > now + LONGEST_ASKED { now } else { self.until }
    }
}

/// Some part of `span`, as the dice fall.
fn share(span: Duration, dice: u64) -> Duration {
    const SIDES: u32 = 1000;
    span * u32::try_from(dice % u64::from(SIDES + 1)).unwrap_or(SIDES) / SIDES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_try_is_given_up_in_time_for_another_and_no_other_is() {
        let second = Duration::from_secs;
        let begun_at = Timestamp::from_millis(1_000_000);
        let intent = |tries| Intent {
            attempt_id: 1,
            holder: Holder(1),
            generation: 1,
            fence: 1,
            first_sent_at: begun_at,
            sent_at: begun_at,
            deadline: begun_at + second(10),
            tries,
            fingerprint: 1,
        };
        let grace = |window| Reuse::Grace { window: second(window), max_uses: 2 };
        for (what, reuse, tries, after, expected) in [
            ("three quarters of what is left", grace(5), 1, 0, second(3)),
            ("the same later on", grace(5), 1, 2, Duration::from_millis(1500)),
            ("nothing is left to save", grace(5), 1, 5, second(10)),
            ("a second try", grace(5), 2, 1, second(10)),
            ("there is time enough", grace(60), 1, 0, second(10)),
            ("a repeat is not accepted", Reuse::Strict, 1, 0, second(10)),
        ] {
            let reuse = ReuseProfile { reuse, ..ReuseProfile::default() };
            assert_eq!(intent(tries).patience(&reuse, begun_at + second(after)), expected, "{what}");
        }
    }

    const T0: Timestamp = Timestamp::from_millis(1_000_000_000);

    #[test]
    fn what_would_leave_too_late_for_a_grace_period_is_known_before_it_leaves() {
        let millis = Duration::from_millis;
        let intent = |tries, begun_after| Intent {
            attempt_id: 1,
            holder: Holder(1),
            generation: 1,
            fence: 1,
            first_sent_at: T0,
            sent_at: T0 + millis(begun_after),
            deadline: T0 + millis(begun_after + 10_000),
            tries,
            fingerprint: 1,
        };
        let grace = Reuse::Grace { window: Duration::from_secs(5), max_uses: 3 };
        for (what, reuse, tries, begun_after, leaves_after, expected) in [
            ("a first request", grace, 1, 0, 9_000, false),
            ("a repeat is waited for in the end", grace, 2, 3_000, 3_999, false),
            ("but not sent when the time for it is over", grace, 2, 3_000, 4_000, true),
            ("begun when nothing was left to save", grace, 2, 4_000, 9_000, false),
            ("nothing runs out", Reuse::Strict, 1, 0, 9_000, false),
        ] {
            let reuse = ReuseProfile { reuse, ..ReuseProfile::default() };
            let intent = intent(tries, begun_after);
            assert_eq!(intent.is_too_late(&reuse, T0 + millis(leaves_after)), expected, "{what}");
        }
        let reuse = ReuseProfile { reuse: grace, ..ReuseProfile::default() };
        assert!(!intent(2, 0).is_too_late(&reuse, T0 - millis(60_000)), "the clock was set back");
        for (what, leaves_after, expected) in [
            ("written at once", 0, 3_000),
            ("a quarter of that is left", 3_000, 750),
            ("less: it is waited for in full", 3_001, 10_000),
            ("nothing is left", 4_000, 10_000),
        ] {
            assert_eq!(intent(1, 0).patience(&reuse, T0 + millis(leaves_after)), millis(expected), "{what}");
        }
    }

    #[test]
    fn an_attempt_follows_a_clock_that_is_set_while_it_is_under_way() {
        let seconds = Duration::from_secs;
        let attempt = Intent {
            attempt_id: 1,
            holder: Holder(1),
            generation: 1,
            fence: 1,
            first_sent_at: T0,
            sent_at: T0 + seconds(2),
            deadline: T0 + seconds(12),
            tries: 2,
            fingerprint: 1,
        };
        let times = |now, elapsed| {
            let attempt = attempt.timed_anew(now, elapsed);
            (attempt.first_sent_at, attempt.sent_at, attempt.deadline)
        };
        let as_it_was = (T0, T0 + seconds(2), T0 + seconds(12));
        assert_eq!(times(T0 + seconds(5), seconds(3)), as_it_was);
        assert_eq!(times(T0 + seconds(5), Duration::from_millis(3900)), as_it_was, "no more than jitter");
        let hour = seconds(3600);
        let (first, sent, deadline) = as_it_was;
        assert_eq!(times(T0 + seconds(5) - hour, seconds(3)), (first - hour, sent - hour, deadline - hour));
        assert_eq!(times(T0 + seconds(5) + hour, seconds(3)), (first + hour, sent, deadline + hour));
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_are_shortened_by_chance() {
        let mut backoff = None;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let next = Backoff::after(backoff.as_ref(), None, LONGEST_PAUSE, T0, 1000);
            pauses.push(T0.until(next.until).as_secs());
            backoff = Some(next);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        let many = Backoff { failures: u32::MAX, until: T0, is_asked: false };
        for dice in 0..3000 {
            let pause = T0.until(Backoff::after(Some(&many), None, LONGEST_PAUSE, T0, dice).until);
            assert!((SHORTEST_PAUSE..=LONGEST_PAUSE).contains(&pause), "{pause:?}");
        }
    }

    #[test]
    fn what_the_provider_asks_for_is_honoured_in_full_and_never_shortened() {
        let asked = Duration::from_secs(120);
        for dice in [0, 1, 500, 1000, u64::MAX] {
            let pause = T0.until(Backoff::after(None, Some(asked), LONGEST_PAUSE, T0, dice).until);
            assert!((asked..=asked + asked / 10).contains(&pause), "{pause:?}");
        }
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nobody_wait_for_it() {
        let backoff = Backoff { failures: 1, until: T0 + Duration::from_secs(10 * 86_400), is_asked: false };
        assert_eq!(backoff.ends_at(T0), T0);
    }
}
