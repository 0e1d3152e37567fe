//! Readiness as a set of guards. Owns the list of what start-up still waits for. Does not know what the parts do.
//! Invariant: ready is said when the last guard drops, once, and never before.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// What start-up still waits for.
#[derive(Clone, Debug)]
pub struct Readiness {
    awaited: Arc<Mutex<Vec<&'static str>>>,
    is_ready: Arc<watch::Sender<bool>>,
}

/// Holds readiness back until it is dropped.
#[derive(Debug)]
pub struct ReadinessGuard {
    name: &'static str,
    readiness: Readiness,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { awaited: Arc::default(), is_ready: Arc::new(watch::Sender::new(false)) }
    }
}

impl Readiness {
    /// Takes a guard for the part called `name`. Take all guards before the first can drop.
    pub fn guard(&self, name: &'static str) -> ReadinessGuard {
        self.lock().push(name);
        ReadinessGuard { name, readiness: self.clone() }
    }

    /// Whether nothing is awaited any more.
    pub fn is_ready(&self) -> bool {
        *self.is_ready.borrow()
    }

    /// The parts that are still awaited.
    pub fn awaited(&self) -> Vec<&'static str> {
        self.lock().clone()
    }

    /// Follows readiness: `true` once ready, `false` again when the broker drains.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.is_ready.subscribe()
    }

    /// Takes readiness back for good: the broker drains.
    pub fn end(&self) {
        self.lock().push("shutdown");
        self.is_ready.send_replace(false);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<&'static str>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ReadinessGuard {
    fn drop(&mut self) {
        let mut awaited = self.readiness.lock();
        if let Some(place) = awaited.iter().position(|name| *name == self.name) {
            awaited.swap_remove(place);
        }
        if awaited.is_empty() {
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
        drop(doors);
        assert!(readiness.is_ready());
        readiness.end();
        assert!(!readiness.is_ready());
        assert_eq!(readiness.awaited(), ["shutdown"]);
    }
}
