//! The process as the operating system sees it. Owns what keeps its memory from being read by others, and the signals
//! that end it. Does not know what it runs. Invariant: nothing here can stop the broker from starting; what could not
//! be had is said once, as a warning.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What could not be done to keep this process's memory its own.
#[derive(Debug, Default)]
pub struct Hardening {
    missing: Vec<(&'static str, io::Error)>,
}

/// Keeps memory, which holds tokens and keys, from other processes of the same user and from core files: no
/// `ptrace`, no `/proc/PID/mem` and no dump (`PR_SET_DUMPABLE` 0), and a core size of zero for good. First thing in
/// the process, before any secret is read.
///
/// Pages are not locked: `mlockall` fails allocations beyond a limit that containers set low, and locking single
/// pages needs unsafe code. Keep swap off, or encrypted.
pub fn harden() -> Hardening {
    let mut missing = Vec::new();
    if let Err(error) = forbid_dumps() {
        missing.push(("not dumpable (PR_SET_DUMPABLE)", error));
    }
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Core, none) {
        missing.push(("no core files (RLIMIT_CORE)", error.into()));
    }
    Hardening { missing }
}

#[cfg(target_os = "linux")]
fn forbid_dumps() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};

    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    match dumpable_behavior()? {
        DumpableBehavior::NotDumpable => Ok(()),
        _ => Err(io::Error::other("set, and yet not in force")),
    }
}

#[cfg(not(target_os = "linux"))]
fn forbid_dumps() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Hardening {
    /// Logs a warning for each measure that is not in force. Call once the log is set up.
    pub fn report(&self) {
        for (measure, error) in &self.missing {
            tracing::warn!(measure, %error, "this process is less protected than it should be");
        }
    }

    /// Whether every measure is in force.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}

/// The signals that concern the broker, caught from the moment this exists.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

/// A signal that asks the process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// SIGTERM, what kubelet and systemd send.
    Terminate,
    /// SIGINT, what Ctrl-C sends.
    Interrupt,
}

impl Stop {
    /// What a shell expects of a process that such a signal ended: 128 and the signal's number.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Terminate => 143,
            Self::Interrupt => 130,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        }
    }
}

/// For how long after the first request to end the same signal counts as its echo.
const ECHO: std::time::Duration = std::time::Duration::from_millis(500);

impl Signals {
    /// Starts to catch SIGTERM, SIGINT and SIGHUP. Needs a tokio runtime.
    ///
    /// # Errors
    /// The operating system's, if it refuses a handler.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Cancels `drain` at the first request to end, and returns at the second, which is an order: the caller exits at
    /// once with [`Stop::exit_code`]. Run it beside the broker and drop it when the broker has ended.
    pub async fn second_stop(mut self, drain: &CancellationToken) -> Stop {
        let first = self.next_stop().await;
        tracing::info!(signal = first.name(), "draining; the same again aborts");
        drain.cancel();
        let since = tokio::time::Instant::now();
        let second = loop {
            let stop = self.next_stop().await;
            // `timeout` of coreutils signals the process and its group: one wish, told twice.
            if stop != first || since.elapsed() >= ECHO {
                break stop;
            }
        };
        tracing::warn!(signal = second.name(), "aborted while draining");
        second
    }

    async fn next_stop(&mut self) -> Stop {
        loop {
            tokio::select! {
                biased;
                Some(()) = self.terminate.recv() => return Stop::Terminate,
                Some(()) = self.interrupt.recv() => return Stop::Interrupt,
                Some(()) = self.hang_up.recv() => {
                    tracing::warn!(signal = "SIGHUP", "the configuration cannot be reloaded yet; restart to change it");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Resource, Signal as Number, getpid, getrlimit, kill_process};

    use super::*;

    #[test]
    fn a_hardened_process_leaves_no_core_and_cannot_be_read() {
        let hardening = harden();
        assert!(hardening.is_complete(), "{hardening:?}");
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
        #[cfg(target_os = "linux")]
        assert_eq!(rustix::process::dumpable_behavior(), Ok(rustix::process::DumpableBehavior::NotDumpable));
    }

    // The only test of the library that sends signals to its own process; every one is caught.
    #[tokio::test]
    async fn the_first_stop_drains_its_echo_is_ignored_the_second_aborts_and_a_hang_up_does_neither() {
        let (signals, drain) = (Signals::catch().unwrap(), CancellationToken::new());
        let raise = |number| kill_process(getpid(), number).unwrap();
        let (stopped, ()) = tokio::join!(signals.second_stop(&drain), async {
            raise(Number::HUP);
            raise(Number::TERM);
            drain.cancelled().await;
            // An echo, which is looked at before the signal after it.
            raise(Number::TERM);
            raise(Number::INT);
        });
        assert_eq!(stopped, Stop::Interrupt);
        assert_eq!((stopped.exit_code(), Stop::Terminate.exit_code()), (130, 143));
    }
}
