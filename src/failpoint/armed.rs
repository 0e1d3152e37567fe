//! The points when there are some: counted, logged, and obeyed. A mistake in what they are told ends the process at once:
//! a fault that is not injected must not look like one that was survived.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::plan::{Action, Plan};
use crate::clock::{Clock, SystemClock, Timestamp};

/// How often a paused point looks whether it may go on.
const LOOK: Duration = Duration::from_millis(2);

static ARMS: OnceLock<Arms> = OnceLock::new();

struct Arms {
    orders: Orders,
    log: Option<File>,
    passed: Mutex<BTreeMap<&'static str, u64>>,
}

enum Orders {
    Fixed(Plan),
    Reread(PathBuf),
}

/// Passes a point in a task.
pub async fn hit(point: &'static str) {
    match Arms::get().pass(point) {
        None | Some(Action::Count) => {}
        Some(Action::Kill) => kill(),
        Some(Action::Delay(span)) => tokio::time::sleep(span).await,
        Some(Action::Pause(until)) => {
            while !until.exists() {
                tokio::time::sleep(LOOK).await;
            }
        }
        Some(Action::Error(_)) => refuse(&format!("{point} is only passed and cannot fail")),
    }
}

/// Passes a point in a thread that may block, and fails there if it is told to.
///
/// # Errors
/// The error that the plan names.
#[expect(clippy::disallowed_methods, reason = "no task waits here: it is the committer's own thread")]
pub fn check(point: &'static str) -> io::Result<()> {
    match Arms::get().pass(point) {
        None | Some(Action::Count) => {}
        Some(Action::Kill) => kill(),
        Some(Action::Delay(span)) => std::thread::sleep(span),
        Some(Action::Pause(until)) => {
            while !until.exists() {
                std::thread::sleep(LOOK);
            }
        }
        Some(Action::Error(number)) => return Err(io::Error::from_raw_os_error(number)),
    }
    Ok(())
}

/// The machine's clock, off by what `TOKEN_BROKER_CLOCK_OFFSET` says.
pub fn clock() -> Arc<dyn Clock> {
    // A plan that cannot be read is told at the start.
    Arms::get();
    match std::env::var_os("TOKEN_BROKER_CLOCK_OFFSET") {
        Some(file) => Arc::new(WrongClock { offset: file.into() }),
        None => Arc::new(SystemClock),
    }
}

/// A clock that somebody sets while the broker runs.
struct WrongClock {
    offset: PathBuf,
}

impl Clock for WrongClock {
    fn now(&self) -> Timestamp {
        let offset = std::fs::read_to_string(&self.offset).ok().and_then(|text| text.trim().parse().ok());
        Timestamp::from_millis(SystemClock.now().as_millis().saturating_add(offset.unwrap_or(0)))
    }
}

impl Arms {
    fn get() -> &'static Self {
        ARMS.get_or_init(|| {
            let plan = std::env::var("TOKEN_BROKER_FAILPOINTS").unwrap_or_default();
            let orders = match plan.strip_prefix('@') {
                Some(file) => Orders::Reread(file.into()),
                None => Orders::Fixed(read(&plan)),
            };
            let log = std::env::var_os("TOKEN_BROKER_FAILPOINT_LOG").map(|path| opened(Path::new(&path)));
            Self { orders, log, passed: Mutex::default() }
        })
    }

    /// Counts a passing, says so in the log, and answers what is to happen.
    fn pass(&self, point: &'static str) -> Option<Action> {
        let n = {
            let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
            let n = passed.entry(point).or_default();
            *n += 1;
            *n
        };
        if let Some(mut log) = self.log.as_ref() {
            let line = format!("{} {point} {n}\n", micros());
            if let Err(error) = log.write_all(line.as_bytes()) {
                refuse(&format!("the log cannot be written: {error}"));
            }
        }
        match &self.orders {
            Orders::Fixed(plan) => plan.action(point, n).cloned(),
            Orders::Reread(file) => {
                let text = std::fs::read_to_string(file);
                let text = text.unwrap_or_else(|error| refuse(&format!("{}: {error}", file.display())));
                read(&text).action(point, n).cloned()
            }
        }
    }
}

fn read(text: &str) -> Plan {
    Plan::parse(text).unwrap_or_else(|why| refuse(&why))
}

fn opened(path: &Path) -> File {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.unwrap_or_else(|error| refuse(&format!("{}: {error}", path.display())))
}

#[expect(clippy::disallowed_methods, reason = "the log is compared with those of other processes")]
fn micros() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()
}

/// What `kill -9` does, at this very place.
fn kill() -> ! {
    loop {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

fn refuse(why: &str) -> ! {
    tracing::error!("failpoints: {why}");
    std::process::exit(64)
}
