//! Logs and metrics. Owns the subscriber set-up, the shape of a log line, the panic hook and every metric name. Does
//! not know what is measured or logged. Invariants: no label ever holds a connection, an account or a secret; no
//! crate but ours can write below INFO, whatever the filter asks for; no character of a logged value reaches a
//! terminal unescaped.

mod capture;
mod escape;
mod field;
mod filter;
mod lines;
mod metrics;
mod panic;
mod sink;

use std::io::IsTerminal as _;
use std::sync::Arc;

use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt as _;

pub use capture::Capture;
pub use filter::{Filter, LOG_VARIABLE};
pub use lines::Format;
pub use metrics::{Count, Metrics};
pub use panic::install_panic_hook;
pub use sink::{Sink, Stderr};

use crate::clock::Clock;

/// How this process logs.
#[derive(Clone, Debug)]
pub struct Logging {
    /// What is worth a line.
    pub filter: Filter,
    /// What a line looks like.
    pub format: Format,
}

impl Format {
    /// Pretty where standard error is a terminal, with colour unless `NO_COLOR` is set or the terminal is dumb; else
    /// JSON.
    pub fn of_stderr() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Json;
        }
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self::Pretty { is_coloured: !is_set("NO_COLOR") && !is_dumb }
    }
}

/// A subscriber that writes one line an event into `sink`.
pub fn subscriber(
    logging: &Logging,
    clock: Arc<dyn Clock>,
    sink: Arc<dyn Sink>,
) -> impl Subscriber + Send + Sync + use<> {
    tracing_subscriber::registry().with(logging.filter.targets()).with(lines::Lines::new(
        logging.format,
        clock,
        sink,
    ))
}

/// Makes standard error the log of this process. Returns `false` if the process has a log already, which then stays.
pub fn init(logging: &Logging, clock: Arc<dyn Clock>) -> bool {
    tracing::subscriber::set_global_default(subscriber(logging, clock, Arc::new(Stderr))).is_ok()
}
