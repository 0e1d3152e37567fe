//! Where log lines go.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

/// Takes whole lines, each with its line end.
pub trait Sink: Send + Sync {
    /// Writes one line. Cannot fail: there is nobody left to tell.
    fn write(&self, line: &str);
}

/// Standard error, one `write` a line, so that lines of several processes on one pipe do not mix.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stderr;

impl Sink for Stderr {
    fn write(&self, line: &str) {
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

/// Keeps every line: for tests, which then look for what must never be there.
#[derive(Clone, Debug, Default)]
pub struct Capture(Arc<Mutex<String>>);

impl Capture {
    /// Everything written so far.
    pub fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Sink for Capture {
    fn write(&self, line: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_str(line);
    }
}
