//! Child processes: ready by a line they say, ended with the test, whatever way it ends.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longer than anything here may take; only a hang waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running child that is killed when dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    said: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
    lines: Receiver<String>,
}

impl Running {
    /// Starts `command`, whose ready line is the first, on either stream, that `ready` makes something of.
    pub(crate) fn start<T>(mut command: Command, ready: impl Fn(&str) -> Option<T>) -> (Self, T) {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let said = Arc::default();
        let (sender, lines) = channel();
        let readers = vec![
            read(child.stdout.take().unwrap(), &said, sender.clone()),
            read(child.stderr.take().unwrap(), &said, sender),
        ];
        let mut running = Self { child, said, readers, lines };
        loop {
            match running.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    if let Some(found) = ready(&line) {
                        return (running, found);
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("{command:?} is not ready"),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = running.child.wait().unwrap();
                    panic!("{command:?} ended with {status} before it was ready");
                }
            }
        }
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }

    /// Waits for the child's end and returns all it has said. One that does not end fails the test: both its streams
    /// stay open longer than anything here takes.
    pub(crate) fn ended(&mut self) -> (ExitStatus, String) {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("process {} does not end", self.child.id()),
            }
        }
        let status = self.child.wait().unwrap();
        for reader in self.readers.drain(..) {
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

/// Keeps every line of `stream`, and passes it on for as long as somebody waits for one.
fn read(
    stream: impl Read + Send + 'static,
    said: &Arc<Mutex<Vec<String>>>,
    lines: Sender<String>,
) -> JoinHandle<()> {
    let said = Arc::clone(said);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            said.lock().unwrap().push(line.clone());
            let _ = lines.send(line);
        }
    })
}

/// Runs `command` to its end.
pub(crate) fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// The environment variable by which `tests/run.sh` says where a peer is.
pub(crate) fn place(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set; run this by tests/run.sh"))
}
