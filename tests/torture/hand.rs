//! The hand on both clocks: the sandbox's, and the broker's, which reads how far it is off from a file.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use token_broker::clock::{Clock, SystemClock, Timestamp};

/// Both clocks, each as far off as it was set.
pub(crate) struct Hand {
    sandbox: AtomicI64,
    broker: AtomicI64,
    file: PathBuf,
}

impl Hand {
    pub(crate) fn new(folder: &Path) -> Self {
        let hand =
            Self { sandbox: AtomicI64::new(0), broker: AtomicI64::new(0), file: folder.join("clock-offset") };
        hand.write();
        hand
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Time goes by, for everybody.
    pub(crate) fn advance(&self, span: Duration) {
        let millis = i64::try_from(span.as_millis()).unwrap();
        self.sandbox.fetch_add(millis, Ordering::SeqCst);
        self.shift_broker(millis);
    }

    /// Somebody sets the clock of the broker's machine.
    pub(crate) fn shift_broker(&self, millis: i64) {
        self.broker.fetch_add(millis, Ordering::SeqCst);
        self.write();
    }

    fn write(&self) {
        // By rename: a clock that is read half-written would be read as right.
        let new = self.file.with_extension("new");
        std::fs::write(&new, self.broker.load(Ordering::SeqCst).to_string()).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        let now = SystemClock.now().as_millis() + self.sandbox.load(Ordering::SeqCst);
        Timestamp::from_millis(now)
    }
}
