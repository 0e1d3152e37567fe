//! Calls that go on although nobody waits for them any more: what they hold, and how much that may be.
//!
//! Knows neither ids nor answers. Invariant: what was added is taken away once, so that a sum of nothing is no entry.

use std::collections::HashMap;

use crate::connection::ConnectionId;

/// How many there may be, and how many of one connection: so many of its calls wait for their turn or for a provider that is
/// silent, each with a task and a place in the line. Beyond the one who has less than its share goes on, up to twice as many.
const MOST_CALLS: usize = 512;
const MOST_CALLS_OF_ONE: usize = 128;

/// How many bytes their requests may hold, and how many those of one connection.
const MOST_BYTES: usize = 32 * 1024 * 1024;
const MOST_BYTES_OF_ONE: usize = 8 * 1024 * 1024;

/// A sum of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    calls: usize,
    bytes: usize,
}

/// A bound that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    /// Which.
    pub(super) limit: &'static str,
    /// Its figure, in calls or bytes.
    pub(super) most: usize,
}

/// All of them.
#[derive(Default)]
pub(super) struct Unattended {
    all: Held,
    of: HashMap<ConnectionId, Held>,
}

impl Unattended {
    /// Why no further call of this connection is begun that could become one of them. Looked at where a call begins: those
    /// that are under way by then may still hang up together.
    pub(super) fn full(&self, connection: &ConnectionId) -> Option<Full> {
        let (one, is_new) = match self.of.get(connection) {
            Some(one) => (*one, false),
            None => (Held::default(), true),
        };
        let holders = self.of.len() + usize::from(is_new);
        // Where all have as many as they may, nobody is kept out by those who have more than their share.
        let of_all = |one: usize, all: usize, most: usize| {
            let has_share = one.saturating_mul(holders) >= most;
            let most = if has_share { most } else { 2 * most };
            (all, most)
        };
        let (all_calls, most_calls) = of_all(one.calls, self.all.calls, MOST_CALLS);
        let (all_bytes, most_bytes) = of_all(one.bytes, self.all.bytes, MOST_BYTES);
        let bounds = [
            ("unattended_calls_of_connection", one.calls, MOST_CALLS_OF_ONE),
            ("unattended_bytes_of_connection", one.bytes, MOST_BYTES_OF_ONE),
            ("unattended_calls", all_calls, most_calls),
            ("unattended_bytes", all_bytes, most_bytes),
        ];
        let full = bounds.into_iter().find(|(_, held, most)| held >= most);
        full.map(|(limit, _, most)| Full { limit, most })
    }

    /// The caller of a call hung up.
    pub(super) fn add(&mut self, connection: &ConnectionId, bytes: usize) {
        let one = self.of.entry(connection.clone()).or_default();
        for held in [&mut self.all, one] {
            held.calls += 1;
            held.bytes += bytes;
        }
    }

    /// Somebody waits for it again, or it is over.
    pub(super) fn take(&mut self, connection: &ConnectionId, bytes: usize) {
        let Some(one) = self.of.get_mut(connection) else { return };
        for held in [&mut self.all, one] {
            held.calls -= 1;
            held.bytes -= bytes;
        }
        if one.calls == 0 {
            self.of.remove(connection);
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.all.calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(name: &str) -> ConnectionId {
        ConnectionId::parse(String::new(), "p".into(), name.into()).unwrap()
    }

    fn limit(held: &Unattended, name: &str) -> Option<&'static str> {
        held.full(&connection(name)).map(|full| full.limit)
    }

    #[test]
    fn a_connection_that_fills_its_part_leaves_the_others_theirs() {
        let mut held = Unattended::default();
        for _ in 0..MOST_CALLS_OF_ONE {
            assert_eq!(limit(&held, "a"), None);
            held.add(&connection("a"), 1);
        }
        held.add(&connection("b"), MOST_BYTES_OF_ONE);
        assert_eq!(limit(&held, "a"), Some("unattended_calls_of_connection"));
        assert_eq!(limit(&held, "b"), Some("unattended_bytes_of_connection"));
        assert_eq!(limit(&held, "c"), None);
        held.take(&connection("a"), 1);
        assert_eq!(limit(&held, "a"), None);
    }

    #[test]
    fn few_that_fill_what_there_is_for_all_leave_the_others_their_share() {
        let mut held = Unattended::default();
        let crowd = ["a", "b", "c", "d"];
        for name in crowd {
            for _ in 0..MOST_CALLS_OF_ONE {
                held.add(&connection(name), 1);
            }
        }
        for n in 0..MOST_CALLS / 5 {
            assert_eq!(limit(&held, "another"), None, "after {n}");
            held.add(&connection("another"), 1);
        }
        held.add(&connection("another"), 1);
        assert_eq!(limit(&held, "another"), Some("unattended_calls"), "it has its share");
        assert_eq!(limit(&held, "one-more"), None);
        let mut held = Unattended::default();
        for name in crowd {
            held.add(&connection(name), MOST_BYTES_OF_ONE);
        }
        held.add(&connection("another"), MOST_BYTES / 10);
        assert_eq!(limit(&held, "another"), None);
        held.add(&connection("another"), MOST_BYTES / 10 + 1);
        assert_eq!(limit(&held, "another"), Some("unattended_bytes"), "it has its share");
        assert_eq!(limit(&held, "one-more"), None);
    }

    #[test]
    fn all_connections_together_have_a_bound() {
        let names: Vec<String> = (0..2 * MOST_CALLS).map(|n| n.to_string()).collect();
        let mut held = Unattended::default();
        for name in &names {
            assert_eq!(limit(&held, "another"), None);
            held.add(&connection(name), 1);
        }
        let full = Full { limit: "unattended_calls", most: 2 * MOST_CALLS };
        assert_eq!(held.full(&connection("another")), Some(full));
        for name in &names {
            held.take(&connection(name), 1);
        }
        assert_eq!((held.all, held.of.len()), (Held::default(), 0), "nothing is left of what is over");
        for name in &names[..2 * MOST_BYTES / MOST_BYTES_OF_ONE] {
            assert_eq!(limit(&held, "another"), None);
            held.add(&connection(name), MOST_BYTES_OF_ONE);
        }
        assert_eq!(limit(&held, "another"), Some("unattended_bytes"));
    }
}
