//! `check-config`: every mistake of the configuration in one run, or what holds and why. Binds nothing, opens nothing.

use std::path::PathBuf;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::console::Console;
use super::failure::{Cause, Failure, Flaw};
use super::next::Next;
use super::page::{Page, Report, Tone};
use crate::config::{self, Config, ConfigError, EffectiveValue, Finding, Override};

/// Check the configuration and show what holds
#[derive(Args, Debug)]
pub(crate) struct CheckConfig {
    /// The configuration file. Default: $TOKEN_BROKER_CONFIG, else /etc/token-broker/config.yaml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the JSON Schema of the file instead
    #[arg(long)]
    schema: bool,
}

/// What holds.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Effective {
    /// The file that was read.
    file: Option<String>,
    /// What works and is probably not meant.
    warnings: Vec<Warning>,
    /// Every value with its origin; a secret is `(secret)`.
    values: Vec<Holding>,
}

/// Something that works and is probably not meant.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Warning {
    place: String,
    path: String,
    message: String,
}

/// One value that holds.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Holding {
    /// Which key.
    path: String,
    /// Its value.
    value: Value,
    /// Where it came from: line:column of the file, a variable, a flag, the catalogue, default.
    origin: String,
    #[serde(skip)]
    shown: String,
}

impl CheckConfig {
    /// Runs the command.
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        if self.schema {
            let schema =
                serde_json::to_string_pretty(&config::json_schema()).map_err(std::io::Error::other)?;
            return Ok(console.output.stdout.write(&(schema + "\n"))?);
        }
        let config = read(console, self.config, &[])?;
        warn(console, &config)?;
        Ok(console.report(&Effective::new(&config))?)
    }
}

/// The configuration that `flag`, the environment and the usual place lead to, with `overrides` laid over it.
pub(crate) fn read(
    console: &Console,
    flag: Option<PathBuf>,
    overrides: &[Override],
) -> Result<Config, Failure> {
    let environment = config::Environment::of(console.environment.iter());
    let file = config::find_file(flag.as_deref(), &environment);
    config::load(file.as_deref(), &environment, overrides).map_err(refused)
}

/// Says what works and is probably not meant.
pub(crate) fn warn(console: &mut Console, config: &Config) -> std::io::Result<()> {
    let has_colour = console.output.stderr.has_colour;
    for warning in &config.warnings {
        let word = super::page::toned("warning:", Tone::Warning, has_colour);
        console.note(&format!("{word} {}", super::escape::escaped(&warning.to_string())))?;
    }
    Ok(())
}

/// Every mistake, as a failure of the command that needed the configuration.
fn refused(error: ConfigError) -> Failure {
    let mut failure = Failure::new(Cause::Config, error.headline());
    let flaw = |m: Finding| Flaw { place: m.place(), field: m.path, message: m.message };
    failure.mistakes = error.mistakes.into_iter().map(flaw).collect();
    match error.file {
        Some(file) => failure.then(Next::CheckConfig(file)),
        None => failure,
    }
}

impl Effective {
    fn new(config: &Config) -> Self {
        let warning =
            |w: &Finding| Warning { place: w.place(), path: w.path.clone(), message: w.message.clone() };
        let holding = |value: EffectiveValue| Holding {
            shown: value.shown(),
            path: value.path,
            value: value.value,
            origin: value.origin.to_string(),
        };
        Self {
            file: config.file.as_ref().map(|file| file.display().to_string()),
            warnings: config.warnings.iter().map(warning).collect(),
            values: config::effective(config).into_iter().map(holding).collect(),
        }
    }
}

impl Report for Effective {
    fn text(&self, page: &Page<'_>) -> String {
        let row = |h: &Holding| vec![h.path.clone(), h.shown.clone(), h.origin.clone()];
        let rows: Vec<Vec<String>> = self.values.iter().map(row).collect();
        let head = match &self.file {
            Some(file) => format!("{} is right. What holds:\n\n", super::escape::escaped(file)),
            None => "No file was read. What holds:\n\n".to_owned(),
        };
        head + &page.table(&["KEY", "VALUE", "FROM"], &rows)
    }
}

#[cfg(test)]
mod tests {
    use super::super::console::tests::Desk;
    use super::super::exit::Exit;
    use super::super::next::tests::caller;
    use super::*;

    fn checked(text: &str, is_json: bool) -> (Result<(), Failure>, String) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, text).unwrap();
        let mut desk = Desk::piped();
        desk.console.output.is_json = is_json;
        let outcome = CheckConfig { config: Some(file), schema: false }.run(&mut desk.console);
        (outcome, desk.stdout.text())
    }

    #[test]
    fn every_mistake_is_told_in_one_run_with_its_place() {
        let (outcome, stdout) = checked("server:\n  drain: soon\nprovders: []\n", false);
        let failure = outcome.unwrap_err();
        assert_eq!((failure.cause.exit(), stdout.as_str()), (Exit::Wrong, ""));
        let places: Vec<_> = failure.mistakes.iter().map(|flaw| (&*flaw.place, &*flaw.field)).collect();
        assert!(places.contains(&("2:10", "server.drain")), "{places:?}");
        assert!(failure.mistakes.iter().any(|flaw| flaw.message.contains("providers")), "{places:?}");
        assert!(failure.text(&caller(), false).contains("next: token-broker check-config --config "));
    }

    #[test]
    fn what_holds_is_shown_with_its_origin() {
        for is_json in [false, true] {
            let (outcome, stdout) = checked("server:\n  drain: 30s\n", is_json);
            outcome.unwrap();
            for fact in ["server.drain", "30s", "2:10", "server.threads", "default"] {
                assert!(stdout.contains(fact), "{fact}: {stdout}");
            }
        }
    }
}
