//! The broker's process: started, stopped, killed, held still.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// Longer than anything healthy takes; only a hang meets it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running broker. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    /// The TCP door; closed when the process has ended.
    door: watch::Receiver<Option<String>>,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let (tell, door) = watch::channel(None);
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let kept = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let address = said_in(&line, "grpc_tcp");
                // Who is told where it is finds the line.
                kept.lock().unwrap().push(line);
                if address.is_some() {
                    tell.send_replace(address);
                }
            }
        });
        Self { child, said, door }
    }

    /// Where its TCP door is, once it serves; `None` when it ends instead.
    pub(crate) async fn door(&self) -> Option<String> {
        let mut door = self.door.clone();
        let served = tokio::time::timeout(PATIENCE, door.wait_for(Option::is_some)).await;
        let served = served.unwrap_or_else(|_| panic!("the broker does not serve:\n{}", self.said()));
        served.ok().and_then(|address| address.clone())
    }

    /// Returns when it has ended, by whatever cause.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        let mut door = self.door.clone();
        let closed = async { while door.changed().await.is_ok() {} };
        if tokio::time::timeout(PATIENCE, closed).await.is_err() {
            let said = self.said();
            panic!("the broker does not end:\n{said}");
        }
        self.child.wait().unwrap()
    }

    /// Whether it ends by itself within `span`.
    pub(crate) async fn ends_within(&self, span: Duration) -> bool {
        let mut door = self.door.clone();
        let closed = async { while door.changed().await.is_ok() {} };
        tokio::time::timeout(span, closed).await.is_ok()
    }

    /// Kills what a tracer runs, and with it the tracer.
    pub(crate) fn terminate_child(&self) {
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        for child in children {
            let _ = kill_process(child, Signal::KILL);
        }
    }

    /// Ends it without a word.
    pub(crate) async fn kill(self) {
        self.signal(Signal::KILL);
        assert_eq!(self.ended().await.signal(), Some(9));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Its log so far.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }

    /// A series of its ops door, once it serves.
    pub(crate) async fn metric(&self, name: &str) -> Option<u64> {
        let said = self.said.lock().unwrap().clone();
        let ops = said.iter().find_map(|line| said_in(line, "ops"))?;
        let door = TcpStream::connect(ops.strip_prefix("http://")?).await.unwrap();
        let mut page = String::new();
        let mut door = tokio::io::BufReader::new(door);
        door.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
        door.read_to_string(&mut page).await.unwrap();
        page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// Memory it holds, in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the broker said:\n{}", self.said());
        }
    }
}

/// A door, if `line` is the one that says that the broker serves.
fn said_in(line: &str, door: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    let field = |name: &str| {
        let value = line.get(name).or_else(|| line.get("fields")?.get(name));
        value.and_then(Value::as_str).map(str::to_owned)
    };
    if field("message")? == "serving" { field(door) } else { None }
}
