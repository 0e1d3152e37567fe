//! A development broker and whoever types beside it: real processes with nothing in their environment but a runtime
//! directory of the test's own.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

pub(super) const PROGRAM: &str = env!("CARGO_BIN_EXE_token-broker");

/// A running `dev`. Dropping it kills it.
pub(super) struct Desk {
    child: Child,
    stdout: BufReader<ChildStdout>,
    pub(super) runtime: tempfile::TempDir,
    /// What it said when it was ready.
    pub(super) banner: String,
}

impl Desk {
    pub(super) fn dev() -> Self {
        Self::dev_with(&[])
    }

    pub(super) fn dev_with(flags: &[&str]) -> Self {
        let runtime = tempfile::tempdir().unwrap();
        Self::dev_in(runtime, flags)
    }

    fn dev_in(runtime: tempfile::TempDir, flags: &[&str]) -> Self {
        let mut child = bare(runtime.path())
            .arg("dev")
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut banner = String::new();
        while !banner.contains("Ctrl-C") {
            assert_ne!(stdout.read_line(&mut banner).unwrap(), 0, "dev ended: {banner}");
        }
        Self { child, stdout, runtime, banner }
    }

    /// The line of the banner that begins with `start`, without it.
    pub(super) fn said(&self, start: &str) -> &str {
        let line = self.banner.lines().find_map(|line| line.trim_start().strip_prefix(start));
        line.unwrap_or_else(|| panic!("no {start} in {}", self.banner)).trim()
    }

    /// Runs the program with `words`, as in a second shell.
    pub(super) fn run(&self, words: &[&str]) -> Output {
        bare(self.runtime.path()).args(words).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs it with `--json`, which must work, and reads the one document it prints.
    pub(super) fn json(&self, words: &[&str]) -> Value {
        let output = self.run(&[words, &["--json"]].concat());
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A command that a shell runs as it was printed.
    pub(super) fn shell(&self, line: &str) -> Output {
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).env_clear().env("XDG_RUNTIME_DIR", self.runtime.path());
        shell.stdin(Stdio::null()).output().unwrap()
    }

    /// Starts the program with its streams in the test's hands.
    pub(super) fn start(&self, words: &[&str]) -> Child {
        bare(self.runtime.path())
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Ends it with `signal` and returns its exit code and what else it had said.
    pub(super) fn end(mut self, signal: rustix::process::Signal) -> (Option<i32>, String, tempfile::TempDir) {
        send(&self.child, signal);
        let status = self.child.wait().unwrap();
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.stdout, &mut rest).unwrap();
        let runtime = std::mem::replace(&mut self.runtime, tempfile::tempdir().unwrap());
        (status.code(), rest, runtime)
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program with nothing in its environment but where to leave word.
pub(super) fn bare(runtime: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env_clear().env("XDG_RUNTIME_DIR", runtime).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

pub(super) fn send(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
