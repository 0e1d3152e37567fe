//! Whether the event loops still turn.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How often a loop shows that it turns.
const BEAT: Duration = Duration::from_secs(1);

/// After this a loop counts as stuck. Long, because the answer to it is a restart: a dying disk or a throttled
/// processor must not cause one.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// When each event loop last turned. The loop that answers `/livez` proves itself by answering; the others beat here.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Mutex<Vec<Beat>>>);

#[derive(Debug)]
struct Beat {
    name: String,
    last: Instant,
}

/// Takes a loop off the list when its runtime ends, which is no failure.
struct Enrolled {
    pulse: Pulse,
    name: String,
}

impl Pulse {
    /// Beats for the loop called `name` until dropped: spawn it on that loop. Names must differ.
    pub async fn beat(self, name: impl Into<String>) {
        let enrolled = self.enrol(name.into());
        loop {
            tokio::time::sleep(BEAT).await;
            enrolled.turned_at(Instant::now());
        }
    }

    /// The loops that did not turn for 30 s.
    pub fn stuck(&self) -> Vec<String> {
        self.stuck_at(Instant::now())
    }

    fn enrol(self, name: String) -> Enrolled {
        self.lock().push(Beat { name: name.clone(), last: Instant::now() });
        Enrolled { pulse: self, name }
    }

    fn stuck_at(&self, now: Instant) -> Vec<String> {
        let is_stuck = |beat: &&Beat| now.saturating_duration_since(beat.last) > STUCK_AFTER;
        self.lock().iter().filter(is_stuck).map(|beat| beat.name.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Beat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Enrolled {
    fn turned_at(&self, now: Instant) {
        if let Some(beat) = self.pulse.lock().iter_mut().find(|beat| beat.name == self.name) {
            beat.last = now;
        }
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        self.pulse.lock().retain(|beat| beat.name != self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stops_turning_is_told_until_it_turns_or_ends() {
        let pulse = Pulse::default();
        let (one, two) = (pulse.clone().enrol("grpc-1".into()), pulse.clone().enrol("grpc-2".into()));
        let later = Instant::now() + STUCK_AFTER + BEAT;
        two.turned_at(later);
        assert_eq!(pulse.stuck_at(later), ["grpc-1"]);
        one.turned_at(later);
        assert_eq!(pulse.stuck_at(later), [""; 0]);
        assert_eq!(pulse.stuck_at(later + STUCK_AFTER + BEAT), ["grpc-1", "grpc-2"]);
        drop((one, two));
        assert_eq!(pulse.stuck_at(later + STUCK_AFTER + BEAT), [""; 0]);
    }
}
