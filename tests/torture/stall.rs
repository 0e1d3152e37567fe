//! A device that takes nothing more: from now on every sync of a running broker fails, by a tracer that is attached to
//! it, until it is well again.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Once;

use rustix::process::{Pid, Signal, kill_process};

use super::stage::Stage;

static TOLD: Once = Once::new();

/// As long as this lives, no sync works.
pub(crate) enum Failing {
    /// The calls themselves fail.
    Traced(Child),
    /// Where no tracer may attach: the failpoint before the store's sync.
    Ordered,
}

impl Failing {
    pub(crate) async fn on(stage: &Stage) -> Self {
        let broker = stage.process().pid().as_raw_nonzero().to_string();
        let attached = tokio::task::spawn_blocking(move || attach(&broker)).await.unwrap();
        if let Some(tracer) = attached {
            return Self::Traced(tracer);
        }
        TOLD.call_once(|| {
            println!("failing calls of sync: NOT RUN: no tracer can attach here; a failpoint stands in")
        });
        stage.home.order("store.sync.before=error:EIO");
        Self::Ordered
    }

    /// The device is well again.
    pub(crate) async fn end(self, stage: &Stage) {
        match self {
            Self::Traced(mut tracer) => {
                kill_process(Pid::from_child(&tracer), Signal::INT).unwrap();
                tokio::task::spawn_blocking(move || tracer.wait().unwrap()).await.unwrap();
            }
            Self::Ordered => stage.home.order(""),
        }
    }
}

/// Attaches to every thread; `None` where that is not allowed.
fn attach(broker: &str) -> Option<Child> {
    let calls = "fsync,fdatasync,?sync_file_range";
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:error=EIO"));
    let mut command = Command::new("strace");
    command.args(["-f", "-o", "/dev/null", "-e", &trace, "-e", &inject, "-p", broker]);
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
