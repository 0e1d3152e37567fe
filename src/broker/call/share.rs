//! What many connections keep in one bounded memory, and whose goes when it is full: the oldest of whoever holds most, so
//! that nobody's goes for what another one keeps beyond its share. Among those who hold about as much age decides, and
//! what came last stays.
//!
//! Knows neither ids nor answers. Invariant: the sums are those of what is there, and a holder of nothing is no entry.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, VecDeque};

use tokio::time::Instant;

/// A connection, where only that it is another one matters.
pub(super) type Holder = u64;

/// Things with a weight each, and a time until which they are kept.
pub(super) struct Shares<T> {
    holders: HashMap<Holder, Share<T>>,
    /// By the power of two that each one's weight reaches, and by age among those of the same: the last goes first.
    by_weight: BTreeSet<(Option<u32>, Reverse<Instant>, Holder)>,
    /// Whose the newest is.
    newest: Option<Holder>,
    /// By the time until which each one's oldest is kept.
    by_age: BTreeSet<(Instant, Holder)>,
    weight: usize,
    count: usize,
}

struct Share<T> {
    /// Oldest first.
    things: VecDeque<(Instant, usize, T)>,
    weight: usize,
}

impl<T> Default for Shares<T> {
    fn default() -> Self {
        Self {
            holders: HashMap::new(),
            by_weight: BTreeSet::new(),
            newest: None,
            by_age: BTreeSet::new(),
            weight: 0,
            count: 0,
        }
    }
}

impl<T> Shares<T> {
    /// Of all that is there.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Adds the newest of a holder's.
    pub(super) fn push(&mut self, holder: Holder, until: Instant, weight: usize, thing: T) {
        self.change(holder, |share| {
            share.things.push_back((until, weight, thing));
            share.weight += weight;
        });
        self.weight += weight;
        self.count += 1;
        self.newest = Some(holder);
    }

    /// Takes one out whose time is over.
    pub(super) fn take_old(&mut self, now: Instant) -> Option<T> {
        let (until, holder) = *self.by_age.first()?;
        if now < until {
            return None;
        }
        self.take_oldest_of(holder).map(|(_, thing)| thing)
    }

    /// Takes the oldest out of whoever holds most, with the time until which it was to be kept: of those within a factor of
    /// two, whoever's is oldest. What was pushed last goes only where there is nothing else.
    pub(super) fn take_of_the_largest(&mut self) -> Option<(Instant, T)> {
        let is_newest = |holder| {
            let count = || self.holders.get(&holder).map_or(0, |share| share.things.len());
            self.newest == Some(holder) && count() == 1
        };
        let mut largest = self.by_weight.iter().rev().map(|(.., holder)| *holder);
        let other = largest.find(|holder| !is_newest(*holder));
        self.take_oldest_of(other.or(self.newest)?)
    }

    fn take_oldest_of(&mut self, holder: Holder) -> Option<(Instant, T)> {
        let (until, weight, thing) = self.change(holder, |share| {
            let taken = share.things.pop_front();
            share.weight -= taken.as_ref().map_or(0, |(_, weight, _)| *weight);
            taken
        })?;
        self.weight -= weight;
        self.count -= 1;
        Some((until, thing))
    }

    fn change<R>(&mut self, holder: Holder, change: impl FnOnce(&mut Share<T>) -> R) -> R {
        // Most connections have one thing here.
        let new = || Share { things: VecDeque::with_capacity(1), weight: 0 };
        let share = self.holders.entry(holder).or_insert_with(new);
        if let Some((until, ..)) = share.things.front() {
            self.by_weight.remove(&(share.weight.checked_ilog2(), Reverse(*until), holder));
            self.by_age.remove(&(*until, holder));
        }
        let result = change(share);
        match share.things.front() {
            Some((until, ..)) => {
                self.by_weight.insert((share.weight.checked_ilog2(), Reverse(*until), holder));
                self.by_age.insert((*until, holder));
            }
            None => drop(self.holders.remove(&holder)),
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_oldest_of_whoever_holds_most_goes_first_and_sums_stay_true() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut shares = Shares::default();
        for (holder, seconds, weight, thing) in
            [(1, 1, 10, "a"), (2, 2, 10, "b"), (2, 3, 10, "c"), (3, 4, 15, "d")]
        {
            shares.push(holder, at(seconds), weight, thing);
        }
        assert_eq!((shares.weight(), shares.count()), (45, 4));
        assert_eq!(shares.take_of_the_largest(), Some((at(2), "b")));
        assert_eq!(shares.take_old(now), None);
        assert_eq!(shares.take_old(at(3)), Some("a"));
        assert_eq!(shares.take_old(at(3)), Some("c"));
        assert_eq!(shares.take_of_the_largest(), Some((at(4), "d")), "there is nothing else");
        assert_eq!((shares.weight(), shares.count(), shares.take_old(at(9))), (0, 0, None));
        assert!(shares.holders.is_empty() && shares.by_age.is_empty() && shares.by_weight.is_empty());
    }

    #[tokio::test]
    async fn of_many_who_hold_about_as_much_the_oldest_goes_and_the_newest_stays() {
        let now = Instant::now();
        let mut shares = Shares::default();
        // In no order of their own.
        let holder = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for n in 0..1000 {
            shares.push(holder(n), now + Duration::from_secs(n), 64 + usize::try_from(n % 64).unwrap(), n);
            if n >= 100 {
                assert_eq!(shares.take_of_the_largest().map(|(_, gone)| gone), Some(n - 100));
            }
        }
        // One that holds most by far goes first, but not before another one can.
        shares.push(holder(1000), now, 1 << 20, 1000);
        assert_eq!(shares.take_of_the_largest().map(|(_, gone)| gone), Some(900));
        shares.push(holder(1001), now, 1, 1001);
        assert_eq!(shares.take_of_the_largest().map(|(_, gone)| gone), Some(1000));
    }
}
