//! The log of one thread, kept: for tests, which then look for what must be there and what must never be.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tracing::Dispatch;
use tracing::subscriber::{DefaultGuard, NoSubscriber};

use super::sink::Sink;
use super::{Logging, subscriber};
use crate::clock::Clock;

/// Keeps every line the current thread logs, until dropped.
pub struct Capture {
    lines: Arc<Lines>,
    _guard: DefaultGuard,
}

#[derive(Default)]
struct Lines(Mutex<String>);

impl Sink for Lines {
    fn write(&self, line: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_str(line);
    }
}

impl Capture {
    /// Starts to keep what this thread logs, and what tasks log that run on it.
    pub fn start(logging: &Logging, clock: Arc<dyn Clock>) -> Self {
        // While a process has one subscriber only, tracing asks the default of whichever thread comes first to a
        // place in the code whether that place matters to anybody: a thread without a log would switch it off for
        // this one. A second subscriber that lives for ever makes it ask all of them.
        static WITNESS: OnceLock<Dispatch> = OnceLock::new();
        WITNESS.get_or_init(|| Dispatch::new(NoSubscriber::new()));
        let lines = Arc::new(Lines::default());
        let subscriber = subscriber(logging, clock, lines.clone());
        Self { lines, _guard: tracing::subscriber::set_default(subscriber) }
    }

    /// Everything logged so far.
    pub fn text(&self) -> String {
        self.lines.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
