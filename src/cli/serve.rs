//! `serve`: a broker until a signal ends it. Everything on standard error is its log.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

use super::check_config;
use super::console::Console;
use super::failure::{Cause, Failure};
use super::next::Next;
use crate::app::{self, Ports, StartError};
use crate::clock::Clock;
use crate::config::{Config, LogFormat, Override};
use crate::process::{self, Hardening, Signals};
use crate::store::remedy::{Remedy, look_at};
use crate::telemetry::{self, Filter, Format, Logging};

/// Run a broker
#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// The configuration file. Default: $TOKEN_BROKER_CONFIG, else /etc/token-broker/config.yaml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Losing the store with the process or the pod is meant: every owner then has to consent again
    #[arg(long)]
    ephemeral: bool,
}

impl Serve {
    /// Runs the command, on a runtime of as many threads as are configured.
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        let hardening = process::harden();
        let ephemeral = self.ephemeral.then(|| Override::new("--ephemeral", "store.ephemeral", "true"));
        let config = check_config::read(console, self.config, ephemeral.as_slice())?;
        log(config.log.level.as_str(), config.log.format, console.clock.clone(), &hardening)?;
        for warning in &config.warnings {
            tracing::warn!(place = warning.place(), key = warning.path, "{}", warning.message);
        }
        let mut runtime = match config.server.threads.get() {
            1 => Builder::new_current_thread(),
            threads => {
                let mut runtime = Builder::new_multi_thread();
                runtime.worker_threads(threads.into());
                runtime
            }
        };
        runtime.enable_all().build()?.block_on(until_signalled(config))
    }
}

/// Makes standard error the log of this process.
pub(super) fn log(
    level: &str,
    format: LogFormat,
    clock: Arc<dyn Clock>,
    hardening: &Hardening,
) -> Result<(), Failure> {
    let of_stderr = Format::of_stderr();
    let format = match (format, of_stderr) {
        (LogFormat::Auto, format) => format,
        (LogFormat::Json, _) => Format::Json,
        (LogFormat::Pretty, Format::Json) => Format::Pretty { is_coloured: false },
        (LogFormat::Pretty, pretty) => pretty,
    };
    let filter = Filter::parse(level).map_err(|mistake| Failure::new(Cause::Config, mistake.message))?;
    telemetry::init(&Logging { filter, format }, clock);
    telemetry::install_panic_hook();
    hardening.report();
    Ok(())
}

/// Serves until the first signal, drains, and gives up at the second.
async fn until_signalled(config: Config) -> Result<(), Failure> {
    let signals = Signals::catch()?;
    let drain = CancellationToken::new();
    let key_file = config.seal.key_file.clone();
    let lives = async {
        let bound = app::build(config, Ports::default()).await?;
        bound.run(drain.cancelled()).await
    };
    tokio::select! {
        ended = lives => ended.map_err(|error| not_started(error, key_file)),
        stop = signals.second_stop(&drain) => {
            Err(Failure::new(Cause::Stopped(stop), "aborted while draining, at a second signal"))
        }
    }
}

/// Why a broker did not start, in the form of every other failure.
pub(super) fn not_started(error: StartError, key_file: PathBuf) -> Failure {
    let what = error.to_string();
    match error {
        StartError::Key(_) if !key_file.exists() => {
            Failure::new(Cause::Key, what).then(Next::GenerateKey(key_file))
        }
        StartError::Key(_) => Failure::new(Cause::Key, what)
            .fixed_by("mend the file, or name another in seal.key_file; only the broker's user may read it"),
        StartError::Store(error) => {
            let failure = Failure::new(Cause::Key, what).because(error.why());
            if error.is_wrong_key() {
                let holds = Next::ListKeys(key_file).with("shows what it holds");
                return remedied(failure, error.remedy()).then(holds);
            }
            remedied(failure, error.remedy())
        }
        StartError::Listen { key, source, .. } => Failure::new(Cause::Machine, what)
            .because(source.to_string())
            .fixed_by(format!("end what listens there, or set {key} to another address")),
        StartError::Bind(_) => Failure::new(Cause::Machine, what).fixed_by(
            "mend what stands in the way, or set server.grpc.socket or server.grpc.tcp to another place",
        ),
        StartError::SecondPlace { path, why } => Failure::new(Cause::Machine, what)
            .because(why)
            .then(Next::System(look_at(&path)).with("as the user that runs the broker")),
        StartError::Tls(_) | StartError::Serve(_) => {
            Failure::new(Cause::Bug, what).then(Next::HelpReason("INTERNAL".to_owned()))
        }
    }
}

/// A failure of the store with what helps against it.
pub(super) fn remedied(failure: Failure, remedy: Remedy) -> Failure {
    match remedy {
        Remedy::Run { words, remark } => failure.then(Next::System(words).with(remark)),
        Remedy::Change(fix) => failure.fixed_by(fix),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::super::exit::Exit;
    use super::super::next::tests::caller;
    use super::*;
    use crate::grpc::BindError;
    use crate::store::keyring;

    #[test]
    fn a_second_place_that_cannot_be_read_is_the_operators_move() {
        let (path, why) = (PathBuf::from("/mnt/second"), "/mnt/second: Input/output error".to_owned());
        let failure = not_started(StartError::SecondPlace { path, why }, PathBuf::new());
        assert_eq!(failure.cause.exit(), Exit::Operator);
        assert_eq!(
            failure.text(&caller(), false),
            "error: the tokens in /mnt/second cannot be taken up\n  why:  /mnt/second: Input/output error\n  \
             next: ls -ld /mnt/second      (as the user that runs the broker)\n"
        );
    }

    #[test]
    fn whatever_keeps_a_broker_from_starting_says_what_helps() {
        let existing = tempfile::NamedTempFile::new().unwrap();
        let refused = || io::Error::from(io::ErrorKind::AddrInUse);
        let address = ([127, 0, 0, 1], 7452).into();
        let at = "127.0.0.1:7450".to_owned();
        for error in [
            StartError::Key(keyring::KeyRing::load(existing.path()).unwrap_err()),
            StartError::Bind(BindError::System { at, source: refused() }),
            StartError::Listen { key: "server.ops.listen", address, source: refused() },
            StartError::Serve("a door".to_owned()),
        ] {
            let failure = not_started(error, existing.path().to_owned());
            assert!(!failure.fix.is_empty() || !failure.next.is_empty(), "{}", failure.what);
        }
    }
}
