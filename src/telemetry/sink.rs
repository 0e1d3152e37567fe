//! Where log lines go.

use std::io::Write as _;

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
