//! Child processes: ready by a line they say, ended with the test, whatever way it ends.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longer than anything here may take; only a hang waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running child that is killed when dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    output: Lines,
}

/// What a child says, line by line, as it says it.
struct Lines {
    said: Arc<Mutex<Vec<String>>>,
    fresh: Receiver<String>,
    reader: Option<JoinHandle<()>>,
}

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let said = Arc::new(Mutex::new(Vec::new()));
        let (sender, fresh) = channel();
        let keep = Arc::clone(&said);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                keep.lock().unwrap().push(line.clone());
                // Nobody waits for lines any more once the child is ready.
                let _ = sender.send(line);
            }
        });
        Self { said, fresh, reader: Some(reader) }
    }
}

/// Which of its streams a child says its ready line on.
pub(crate) enum Says {
    Out,
    Err,
}

impl Running {
    /// Starts `command`, whose ready line is the first that `ready` makes something of.
    pub(crate) fn start<T>(mut command: Command, says: Says, ready: impl Fn(&str) -> Option<T>) -> (Self, T) {
        match says {
            Says::Out => command.stdout(Stdio::piped()),
            Says::Err => command.stderr(Stdio::piped()),
        };
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = match says {
            Says::Out => Lines::of(child.stdout.take().unwrap()),
            Says::Err => Lines::of(child.stderr.take().unwrap()),
        };
        let mut running = Self { child, output };
        loop {
            match running.output.fresh.recv_timeout(PATIENCE) {
                Ok(line) => {
                    if let Some(found) = ready(&line) {
                        return (running, found);
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("{command:?} is not ready:\n{}", running.said()),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = running.child.wait().unwrap();
                    panic!("{command:?} ended with {status} before it was ready:\n{}", running.said());
                }
            }
        }
    }

    /// Everything the child has said on the watched stream so far.
    pub(crate) fn said(&self) -> String {
        self.output.said.lock().unwrap().join("\n")
    }

    /// Waits for the child's end and returns all it has said.
    pub(crate) fn ended(&mut self) -> (std::process::ExitStatus, String) {
        let status = self.child.wait().unwrap();
        if let Some(reader) = self.output.reader.take() {
            reader.join().unwrap();
        }
        (status, self.said())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the child said:\n{}", self.said());
        }
    }
}

/// Runs `command` to its end.
pub(crate) fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// The environment variable by which `tests/run.sh` says where a peer is.
pub(crate) fn place(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set; run this by tests/run.sh"))
}
