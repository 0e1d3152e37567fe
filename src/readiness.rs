//! Readiness as a set of guards. Owns the list of what start-up still waits for. Does not know what the parts do.
//! Invariant: ready is said while no guard is held, and never before the first ones dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// What start-up still waits for.
#[derive(Clone, Debug)]
pub struct Readiness {
    parts: Arc<Mutex<Parts>>,
    is_ready: Arc<watch::Sender<bool>>,
}

#[derive(Debug, Default)]
struct Parts {
    awaited: Vec<&'static str>,
    /// Every part that ever took a guard, in order.
    known: Vec<&'static str>,
    has_started: bool,
    /// What is not as it should be, and keeps nobody from being served.
    degraded: Option<String>,
}

/// Holds readiness back until it is dropped.
#[derive(Debug)]
pub struct ReadinessGuard {
    name: &'static str,
    readiness: Readiness,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { parts: Arc::default(), is_ready: Arc::new(watch::Sender::new(false)) }
    }
}

impl Readiness {
    /// Takes a guard for the part called `name`: from here on nobody is ready. Take all guards of a start before the first
    /// can drop; a part that fails later takes one again.
    pub fn guard(&self, name: &'static str) -> ReadinessGuard {
        let mut parts = self.lock();
        parts.awaited.push(name);
        if !parts.known.contains(&name) {
            parts.known.push(name);
        }
        self.is_ready.send_replace(false);
        drop(parts);
        ReadinessGuard { name, readiness: self.clone() }
    }

    /// Whether nothing is awaited any more.
    pub fn is_ready(&self) -> bool {
        *self.is_ready.borrow()
    }

    /// The parts that are still awaited.
    pub fn awaited(&self) -> Vec<&'static str> {
        self.lock().awaited.clone()
    }

    /// Every part that ever held readiness back, with whether it is still awaited.
    pub fn parts(&self) -> Vec<(&'static str, bool)> {
        let parts = self.lock();
        parts.known.iter().map(|name| (*name, parts.awaited.contains(name))).collect()
    }

    /// Whether readiness was ever reached: start-up is over, whatever came after.
    pub fn has_started(&self) -> bool {
        self.lock().has_started
    }

    /// What is not as it should be, although requests are served.
    pub fn degraded(&self) -> Option<String> {
        self.lock().degraded.clone()
    }

    /// Says what is not as it should be and holds nobody back; `None`: all is well again.
    pub fn set_degraded(&self, what: Option<String>) {
        self.lock().degraded = what;
    }

    /// Follows readiness: `true` once ready, `false` again when the broker drains.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.is_ready.subscribe()
    }

    /// Takes readiness back for good: the broker drains.
    pub fn end(&self) {
        let mut parts = self.lock();
        parts.awaited.push("shutdown");
        parts.known.push("shutdown");
        self.is_ready.send_replace(false);
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ReadinessGuard {
    fn drop(&mut self) {
        let mut parts = self.readiness.lock();
        if let Some(place) = parts.awaited.iter().position(|name| *name == self.name) {
            parts.awaited.remove(place);
        }
        if parts.awaited.is_empty() {
            parts.has_started = true;
            self.readiness.is_ready.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_said_when_the_last_guard_drops_and_taken_back_at_the_end() {
        let readiness = Readiness::default();
        let (store, doors) = (readiness.guard("store"), readiness.guard("doors"));
        drop(store);
        assert!(!readiness.is_ready());
        assert_eq!(readiness.awaited(), ["doors"]);
        assert_eq!(readiness.parts(), [("store", false), ("doors", true)]);
        assert!(!readiness.has_started());
        drop(doors);
        assert!(readiness.is_ready());
        readiness.end();
        assert!(!readiness.is_ready());
        assert!(readiness.has_started());
        assert_eq!(readiness.awaited(), ["shutdown"]);
    }

    #[test]
    fn a_part_that_fails_later_takes_ready_back_until_it_is_well() {
        let readiness = Readiness::default();
        drop(readiness.guard("doors"));
        let (first, second) = (readiness.guard("store"), readiness.guard("store"));
        assert!(!readiness.is_ready());
        drop(first);
        assert!(!readiness.is_ready(), "the other one is still held");
        drop(second);
        assert!(readiness.is_ready());
        assert!(readiness.has_started());
    }

    #[test]
    fn a_broker_that_is_stopped_while_it_starts_never_says_ready() {
        let readiness = Readiness::default();
        let store = readiness.guard("store");
        readiness.end();
        drop(store);
        assert!(!readiness.is_ready());
        assert!(!readiness.has_started());
    }
}
