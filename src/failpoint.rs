//! Named points at which a test may kill, hold, delay or fail a broker, and shift its clock. Owns their names. Does not
//! know what is done between them. Invariant: without the cargo feature `failpoints` there are none: every point is an
//! empty function and no environment variable is read, which a test of the default binary shows.
//!
//! | variable | what it says |
//! |---|---|
//! | `TOKEN_BROKER_FAILPOINTS` | what happens where: `refresh.send.after=kill@2,store.sync.before=delay:5s`; `@/path`: read that file at every point |
//! | `TOKEN_BROKER_FAILPOINT_LOG` | a file that gets a line for each point passed: microseconds since 1970, point, how often |
//! | `TOKEN_BROKER_CLOCK_OFFSET` | a file with milliseconds, which may be negative, by which the wall clock is off |
//!
//! | action | what it does |
//! |---|---|
//! | `kill` | SIGKILL to the process itself |
//! | `delay:200ms` | waits so long |
//! | `pause:/path` | waits until that file exists |
//! | `error:ENOSPC`, `error:EIO` | fails as the disk does, at points that can fail |
//! | `count` | nothing but the line in the log |
//!
//! After the action may stand when: `@3` the third time only, `@3+` from the third time on. Else it is every time.

#[cfg(feature = "failpoints")]
mod armed;
#[cfg(feature = "failpoints")]
mod plan;

#[cfg(not(feature = "failpoints"))]
pub use absent::{check, clock, hit};
#[cfg(feature = "failpoints")]
pub use armed::{check, clock, hit};

/// Every point there is, and whether it can fail. A plan that names another is refused, so no test waits at a point that
/// nobody passes.
pub const POINTS: &[(&str, Fails)] = &[
    ("refresh.intent.before", Fails::Never),
    ("refresh.intent.after", Fails::Never),
    ("refresh.send.before", Fails::Never),
    ("refresh.send.after", Fails::Never),
    ("refresh.commit.before", Fails::Never),
    ("refresh.commit.after", Fails::Never),
    ("refresh.publish.before", Fails::Never),
    ("refresh.answer.before", Fails::Never),
    ("disconnect.revoking.after", Fails::Never),
    ("disconnect.revoked.after", Fails::Never),
    // An error here makes the store say no, as an engine that cannot write.
    ("store.commit.before", Fails::AsToldTo),
    // An error here is a sync that failed.
    ("store.sync.before", Fails::AsToldTo),
    ("store.sync.after", Fails::Never),
    // An error here makes the store lie: it acknowledges what it never wrote. The negative control of the torture kit.
    ("store.commit.lie", Fails::AsToldTo),
];

/// Whether a point can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fails {
    /// By [`check`], when told to.
    AsToldTo,
    /// It is only passed, by [`hit`] or [`check`].
    Never,
}

/// What stands here when there are no failpoints.
#[cfg(not(feature = "failpoints"))]
mod absent {
    use std::io;
    use std::sync::Arc;

    use crate::clock::{Clock, SystemClock};

    /// Passes a point in a task. No async function: its future would carry the point's name into the program.
    #[inline(always)]
    pub fn hit(_point: &'static str) -> std::future::Ready<()> {
        std::future::ready(())
    }

    /// Passes a point in a thread that may block, and fails there if it is told to.
    ///
    /// # Errors
    /// Never without the feature.
    #[inline(always)]
    pub fn check(_point: &'static str) -> io::Result<()> {
        Ok(())
    }

    /// The machine's clock.
    pub fn clock() -> Arc<dyn Clock> {
        Arc::new(SystemClock)
    }
}
