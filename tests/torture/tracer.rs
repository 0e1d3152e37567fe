//! A tracer that is attached to a running broker: from now on some of its calls fail, or are its last.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::process::Process;
use super::stage::Stage;

/// A tracer, as long as what it traces lives or until it is let go.
pub(crate) struct Tracer(Child);

impl Tracer {
    /// Attaches to every thread of the broker; `fate` is what befalls the calls named, as strace spells it, and is counted
    /// for each thread apart. `None` where that is not allowed.
    pub(crate) async fn on(stage: &Stage, calls: &str, fate: &str) -> Option<Self> {
        let broker = stage.process().pid().as_raw_nonzero().to_string();
        let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{fate}"));
        let attached = move || attach(&["-e", &trace, "-e", &inject, "-p", &broker]);
        tokio::task::spawn_blocking(attached).await.unwrap().map(Self)
    }

    /// Lets the broker go on as it would by itself.
    pub(crate) async fn detach(self) {
        kill_process(Pid::from_child(&self.0), Signal::INT).unwrap();
        self.ended().await;
    }

    /// Returns when it has ended, as it does when the broker has.
    pub(crate) async fn ended(mut self) {
        tokio::task::spawn_blocking(move || self.0.wait().unwrap()).await.unwrap();
    }
}

/// A start that is killed at the `n`-th such call of a thread.
pub(crate) fn killed_at(stage: &Stage, call: &str, n: u64) -> Process {
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:signal=KILL:when={n}"));
    stage.launch(&["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject])
}

fn attach(how: &[&str]) -> Option<Child> {
    let mut command = Command::new("strace");
    command.args(["-f", "-o", "/dev/null"]).args(how);
    let mut tracer = command.stderr(Stdio::piped()).spawn().ok()?;
    let mut said = BufReader::new(tracer.stderr.take()?).lines().map_while(Result::ok);
    // One line for the process when all of its threads are held, or a refusal and the end.
    if said.any(|line| line.contains(" attached")) {
        // It says so of every thread to come, and must not find the door shut.
        std::thread::spawn(move || said.for_each(drop));
        return Some(tracer);
    }
    let _ = tracer.wait();
    None
}
