//! The watchdog (G6). Owns a thread that counts ticks while something is being waited for. Does not know what.
//! Counting ticks rather than comparing times means that a machine that slept has not used anybody's time up.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the dog looks.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// A commit: more than 10 s.
    Commit,
    /// Closing the engine: more than 5 s.
    Drop,
}

impl Stuck {
    const fn ticks(self) -> u32 {
        match self {
            Self::Commit => 10,
            Self::Drop => 5,
        }
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Commit => "a commit to the store",
            Self::Drop => "closing the store",
        };
        write!(f, "{what} has not returned for {} s", self.ticks())
    }
}

/// Ends when it is dropped.
pub(super) struct Watchdog {
    yard: Arc<Yard>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Yard {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// What is waited for, and for how many ticks so far.
    watched: Option<(Stuck, u32)>,
    is_over: bool,
}

impl Watchdog {
    /// Starts the thread. Without it (the system gives none) nothing is watched and all else works.
    pub(super) fn start(tick: Duration, on_stuck: Arc<dyn Fn(Stuck) + Send + Sync>) -> Self {
        let yard = Arc::new(Yard::default());
        let thread = std::thread::Builder::new().name("store-watchdog".to_owned()).spawn({
            let yard = Arc::clone(&yard);
            move || yard.walk(tick, &*on_stuck)
        });
        if thread.is_err() {
            tracing::error!("the store's watchdog could not be started");
        }
        Self { yard, thread: thread.ok() }
    }

    /// Runs `work` under watch. One at a time. Starting and ending a watch wakes nobody.
    pub(super) fn watch<T>(&self, what: Stuck, work: impl FnOnce() -> T) -> T {
        self.yard.state().watched = Some((what, 0));
        let done = work();
        self.yard.state().watched = None;
        done
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.yard.state().is_over = true;
        self.yard.ended.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Yard {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn walk(&self, tick: Duration, on_stuck: &(dyn Fn(Stuck) + Send + Sync)) {
        let mut state = self.state();
        loop {
            state = self
                .ended
                .wait_timeout_while(state, tick, |state| !state.is_over)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            if state.is_over {
                return;
            }
            let Some((what, ticks)) = &mut state.watched else { continue };
            *ticks += 1;
            // The first tick may have come at once: one more than the limit is at least the limit.
            if *ticks > what.ticks() {
                let what = *what;
                state.watched = None;
                drop(state);
                on_stuck(what);
                state = self.state();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn what_does_not_return_is_reported_and_what_returns_is_not() {
        let (tell, told) = mpsc::channel();
        let tell = Mutex::new(tell);
        let on_stuck = Arc::new(move |what| tell.lock().unwrap().send(what).unwrap());
        let dog = Watchdog::start(Duration::from_millis(1), on_stuck);
        dog.watch(Stuck::Commit, || ());
        // The work ends only when the dog has barked.
        let barked = dog.watch(Stuck::Drop, || told.recv().unwrap());
        assert_eq!(barked, Stuck::Drop);
        assert!(told.try_recv().is_err(), "once");
    }
}
