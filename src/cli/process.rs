//! This process as a [`Console`], and its exit code. The only place of the command line that touches the real streams,
//! environment and signals.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anstream::{AutoStream, ColorChoice as StreamChoice};
use clap::ColorChoice;
use clap_complete::CompleteEnv;
use tokio_util::sync::CancellationToken;

use super::console::{Console, Environment, Input, Output, Stream};
use super::exit::Exit;
use super::failure::{Cause, Failure};
use super::next::Caller;
use super::{Cli, Command, Other, Typed, completions};
use crate::clock::SystemClock;

/// Reads the command line, runs the command and tells how it went.
pub fn main() -> ExitCode {
    CompleteEnv::with_factory(super::command).var(completions::VARIABLE).complete();
    let words: Vec<OsString> = std::env::args_os().collect();
    let mut console = of_process(&words);
    let outcome = match super::parse(&words, console.output.stdout.has_colour) {
        Ok(Typed::Command(cli)) => execute(*cli, &mut console),
        Ok(Typed::Text(text)) => console.output.stdout.write(&text).map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    let exit = match outcome {
        Ok(()) => Exit::Done,
        Err(failure) => {
            // Where even standard error is gone, the exit code still says it.
            let _ = failure.tell(&mut console.output.stderr, console.output.is_json, &console.caller);
            failure.cause.exit()
        }
    };
    ExitCode::from(exit.code())
}

fn execute(cli: Cli, console: &mut Console) -> Result<(), Failure> {
    console.caller.endpoint.clone_from(&cli.global.endpoint);
    let command = match cli.command {
        Some(Command::Serve(serve)) => return serve.run(console),
        Some(Command::Other(command)) => Some(command),
        None => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if let Some(Other::Dev(_)) = command {
            // Sees to its own end.
            return super::run(cli.global, command, console).await;
        }
        let interrupt = console.interrupt.clone();
        tokio::select! {
            outcome = super::run(cli.global, command, console) => outcome,
            () = interrupted(&interrupt) => Err(Failure::new(Cause::Interrupted, "interrupted")),
        }
    })
}

async fn interrupted(interrupt: &CancellationToken) {
    tokio::select! {
        // Without a handler for the signal the system's own way to end a process stays in force.
        Ok(()) = tokio::signal::ctrl_c() => {}
        () = interrupt.cancelled() => {}
    }
}

fn of_process(words: &[OsString]) -> Console {
    let environment = Environment::of_process();
    let flag = colour_flag(words);
    let (stdout, stderr) = (io::stdout(), io::stderr());
    let wants = |choice: StreamChoice| match flag {
        ColorChoice::Auto => choice != StreamChoice::Never,
        ColorChoice::Always => true,
        ColorChoice::Never => false,
    };
    let colours = (wants(AutoStream::choice(&stdout)), wants(AutoStream::choice(&stderr)));
    let terminals = (stdout.is_terminal(), stderr.is_terminal());
    let width = |is_terminal: bool| if is_terminal { columns() } else { None };
    Console {
        output: Output {
            stdout: Stream::new(stdout, terminals.0, colours.0, width(terminals.0)),
            stderr: Stream::new(stderr, terminals.1, colours.1, width(terminals.1)),
            is_json: words.iter().any(|word| word == "--json"),
            is_plain: environment.has("ACCESSIBLE"),
        },
        input: Input::new(io::stdin(), io::stdin().is_terminal()),
        caller: Caller { program: program(&environment), endpoint: None },
        environment,
        clock: Arc::new(SystemClock),
        interrupt: CancellationToken::new(),
        browser: |url| open::that_detached(url),
    }
}

/// `--color` before the command line is parsed, so that its own mistakes are told in the right colours too.
fn colour_flag(words: &[OsString]) -> ColorChoice {
    let mut words = words.iter().filter_map(|word| word.to_str());
    while let Some(word) = words.next() {
        let value = if word == "--color" { words.next() } else { word.strip_prefix("--color=") };
        if let Some(choice) = value.and_then(|value| value.parse().ok()) {
            return choice;
        }
    }
    ColorChoice::Auto
}

/// Columns of the terminal behind standard output or standard error.
fn columns() -> Option<u16> {
    let size =
        rustix::termios::tcgetwinsize(io::stdout()).or_else(|_| rustix::termios::tcgetwinsize(io::stderr()));
    size.ok().map(|size| size.ws_col).filter(|columns| *columns > 0)
}

/// What to type to run this program again: its bare name where `PATH` leads to it, else the path from here.
fn program(environment: &Environment) -> String {
    const NAME: &str = "token-broker";
    let Ok(own) = std::env::current_exe().and_then(|path| path.canonicalize()) else {
        return NAME.to_owned();
    };
    let path = environment.get("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(path).map(|dir| dir.join(NAME)).find(|file| file.is_file());
    if on_path.and_then(|file| file.canonicalize().ok()).is_some_and(|file| file == own) {
        return NAME.to_owned();
    }
    let here = std::env::current_dir().and_then(|dir| dir.canonicalize()).ok();
    shortest(&own, here.as_deref())
}

fn shortest(own: &Path, here: Option<&Path>) -> String {
    let below = here.and_then(|here| own.strip_prefix(here).ok());
    let path = below.map(|path| match path.parent() {
        // A bare name would be looked for on PATH.
        Some(parent) if parent == Path::new("") => Path::new(".").join(path),
        _ => PathBuf::from(path),
    });
    path.unwrap_or_else(|| own.to_owned()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_named_so_that_a_shell_here_finds_it() {
        let own = Path::new("/src/target/release/token-broker");
        assert_eq!(shortest(own, Some(Path::new("/src"))), "target/release/token-broker");
        assert_eq!(shortest(own, Some(Path::new("/src/target/release"))), "./token-broker");
        assert_eq!(shortest(own, Some(Path::new("/home"))), "/src/target/release/token-broker");
    }

    #[test]
    fn the_colour_flag_is_read_in_both_spellings() {
        let of = |words: &[&str]| colour_flag(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(of(&["x", "--color", "never"]), ColorChoice::Never);
        assert_eq!(of(&["x", "--color=always"]), ColorChoice::Always);
        assert_eq!(of(&["x", "--color", "sometimes"]), ColorChoice::Auto);
    }
}
