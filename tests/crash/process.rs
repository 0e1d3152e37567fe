//! Starting, watching and killing child processes.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use token_broker::clock::Timestamp;
use token_broker::entropy::OsEntropy;
use token_broker::store::keyring;

use super::child::{Role, Task};
use super::engine::Engine;

/// Longer than any healthy child needs: reached only by one that hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A child and what it says.
pub(crate) struct Running {
    pub(crate) child: Child,
    /// A word for each line of its standard output; disconnected when it has ended.
    pub(crate) lines: Receiver<String>,
}

/// Starts this binary as a child, under `wrapper` if there is one.
pub(crate) fn start(task: &Task, wrapper: &[String]) -> Running {
    let own = std::env::current_exe().unwrap();
    let mut command = match wrapper {
        [] => Command::new(own),
        [tracer, rest @ ..] => {
            let mut command = Command::new(tracer);
            command.args(rest).arg(own);
            command
        }
    };
    command.args(["--exact", "child::child", "--ignored", "--nocapture", "--test-threads=1"]);
    command.envs(task.environment()).env("RUST_BACKTRACE", "0");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (tell, lines) = channel();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || {
        // A line that cannot be told has nobody who waits for it.
        stdout.lines().map_while(Result::ok).for_each(|line| drop(tell.send(line)));
    });
    Running { child, lines }
}

impl Running {
    /// Waits until the child says that it begins with the store. (The test harness begins that line.)
    pub(crate) fn await_begin(&self) {
        let mut said = Vec::new();
        while !said.last().is_some_and(|line: &String| line.ends_with("BEGIN")) {
            let line = self.lines.recv_timeout(PATIENCE);
            said.push(line.unwrap_or_else(|why| panic!("the writer does not begin ({why}): {said:?}")));
        }
    }

    /// Waits for the child to end by itself; one that hangs is killed and reported.
    pub(crate) fn finish(mut self) -> Result<ExitStatus, String> {
        let stderr = self.child.stderr.take().unwrap();
        let said = std::thread::spawn(move || std::io::read_to_string(stderr).unwrap_or_default());
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(_) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    self.child.kill().unwrap();
                    self.child.wait().unwrap();
                    return Err(format!("hung for {PATIENCE:?}"));
                }
            }
        }
        let status = self.child.wait().unwrap();
        let said = said.join().unwrap();
        if status.success() || std::os::unix::process::ExitStatusExt::signal(&status) == Some(9) {
            Ok(status)
        } else {
            Err(format!("{status}\n{said}"))
        }
    }
}

/// Opens and verifies twice, in a process of its own.
pub(crate) fn verify(task: &Task) -> Result<(), String> {
    start(&Task { role: Role::Verify, ..task.clone() }, &[])
        .finish()
        .and_then(|status| if status.success() { Ok(()) } else { Err(format!("verifying: {status}")) })
}

/// Starts a writer; `steps` of `u64::MAX` never end by themselves.
pub(crate) fn writer(engine: Engine, folder: &Path, seed: u64, threads: usize, steps: u64) -> Task {
    Task { role: Role::Write, engine, folder: folder.to_owned(), seed, threads, steps }
}

/// The last line of a child's own output, once it has ended: what an inspection says.
pub(crate) fn last_word(task: &Task) -> Result<String, String> {
    let running = start(task, &[]);
    let mut said = String::new();
    loop {
        match running.lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                let words = ["WHOLE", "TOLD", "SILENT"];
                if let Some(at) = words.iter().find_map(|word| line.find(word)) {
                    said = line[at..].to_owned();
                }
            }
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => break,
        }
    }
    running.finish().and_then(|_| if said.is_empty() { Err("said nothing".to_owned()) } else { Ok(said) })
}

/// An empty folder for a store, with a key.
pub(crate) fn furnish(folder: &Path) {
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder).unwrap();
    keyring::generate(&folder.join("keys"), Timestamp::from_millis(0), &OsEntropy).unwrap();
}

/// The run's seed: given, or drawn from nothing but the day's build so that a failure repeats.
pub(crate) fn seed() -> u64 {
    std::env::var("CRASH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_121)
}

/// So many times the usual rounds: nightly runs ask for more (`CRASH_TIMES=10`).
pub(crate) fn times() -> u64 {
    std::env::var("CRASH_TIMES").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Tests of a fact, on each engine.
macro_rules! on_both_engines {
    ($($fact:ident),* $(,)?) => {
        mod sled {
            $(#[test]
            fn $fact() {
                super::$fact($crate::engine::Engine::Sled);
            })*
        }
        mod redb {
            $(#[test]
            fn $fact() {
                super::$fact($crate::engine::Engine::Redb);
            })*
        }
    };
}
pub(crate) use on_both_engines;
