//! `help`: of a command, or on a topic that flags cannot tell. Owns the texts; docs/cli.md holds the same ones, and a
//! test keeps them equal.

pub(crate) mod reason;

use clap::Args;

use super::console::Console;
use super::endpoint;
use super::exit::Exit;
use super::failure::{Cause, Failure};
use super::next::Next;
use crate::config;
use crate::error::Reason;

/// Show help on a command or a topic
#[derive(Args, Debug)]
pub(crate) struct Help {
    /// A command, or a topic: exit-codes, environment, reason NAME
    #[arg(value_name = "COMMAND|TOPIC")]
    words: Vec<String>,
}

/// What `help` knows besides commands.
pub(crate) const TOPICS: [&str; 3] = ["exit-codes", "environment", "reason"];

/// The variables that the command line reads, and what for.
pub(crate) const VARIABLES: [(&str, &str); 9] = [
    (endpoint::VARIABLE, "the broker's gRPC door: unix:///path or tcp://127.0.0.1:PORT"),
    ("TOKEN_BROKER_CONFIG", "the configuration file of serve and check-config, where --config is not given"),
    ("TOKEN_BROKER_LOG", "what serve and dev log, e.g. info or debug"),
    (
        "TOKEN_BROKER_SECTION__KEY",
        "overrides a key of the configuration, e.g. TOKEN_BROKER_SERVER__THREADS=4",
    ),
    ("NO_COLOR", "no colour"),
    ("CLICOLOR_FORCE", "colour also off a terminal"),
    ("ACCESSIBLE", "progress as lines of text, for screen readers"),
    ("XDG_RUNTIME_DIR", "where dev keeps its data and leaves word of where it listens"),
    ("DISPLAY, WAYLAND_DISPLAY", "where set, and outside SSH, connect opens a browser"),
];

impl Help {
    /// Runs the command.
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let text = match words.as_slice() {
            ["exit-codes"] => exit_codes(),
            ["environment"] => environment(),
            ["reason"] => Reason::ALL.iter().map(|reason| format!("{reason}\n")).collect(),
            ["reason", word] => reason::text(parse_reason(word)?),
            path => of_command(path, console.output.stdout.has_colour)?,
        };
        Ok(console.output.stdout.write(&text)?)
    }
}

fn parse_reason(word: &str) -> Result<Reason, Failure> {
    let word = word.to_uppercase();
    Reason::parse(&word).ok_or_else(|| {
        let failure = Failure::new(Cause::Usage, format!("no reason is called {word}"));
        match config::nearest(&word, Reason::ALL.map(Reason::as_str)) {
            Some(near) => {
                failure.because(format!("did you mean {near}?")).then(Next::HelpReason(near.to_owned()))
            }
            None => failure.then(Next::Help("reason".to_owned()).with("lists them")),
        }
    })
}

fn of_command(path: &[&str], has_colour: bool) -> Result<String, Failure> {
    let mut command = super::command();
    command.build();
    for word in path {
        let Some(found) = command.find_subcommand(word).cloned() else {
            let known: Vec<&str> =
                command.get_subcommands().map(clap::Command::get_name).chain(TOPICS).collect();
            let failure = Failure::new(Cause::Usage, format!("no command or topic is called {word}"));
            return Err(match config::nearest(word, known) {
                Some(near) => failure.because(format!("did you mean {near}?")),
                None => failure,
            });
        };
        command = found;
    }
    let help = command.render_long_help();
    Ok(if has_colour { help.ansi().to_string() } else { help.to_string() })
}

/// The table of exit codes.
pub(crate) fn exit_codes() -> String {
    let own = |exit: Exit| match exit {
        Exit::Wrong => "USAGE, CONFIG",
        Exit::NoBroker => "NO_BROKER",
        Exit::TryLater => "NO_ANSWER",
        Exit::Operator => "MACHINE, KEY, UNIMPLEMENTED",
        Exit::Interrupted | Exit::Terminated => "INTERRUPTED",
        Exit::Done | Exit::NoSuchName | Exit::OurFault | Exit::Stuck | Exit::NotAllowed | Exit::Owner => "",
    };
    let mut text = "The exit code says whose move it is.\n\n".to_owned();
    for exit in Exit::ALL {
        text.push_str(&format!("{:4}  {}\n", exit.code(), exit.meaning()));
        let mut line = String::new();
        let words =
            exit.reasons().map(Reason::as_str).chain(own(exit).split(", ").filter(|word| !word.is_empty()));
        for word in words {
            if line.len() + word.len() > 70 {
                text.push_str(&format!("      {}\n", line.trim_end()));
                line.clear();
            }
            line.push_str(word);
            line.push(' ');
        }
        if !line.is_empty() {
            text.push_str(&format!("      {}\n", line.trim_end()));
        }
    }
    text
}

/// The environment variables, and how a broker is found.
pub(crate) fn environment() -> String {
    let widest = VARIABLES.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: String = VARIABLES.iter().map(|(name, what)| format!("  {name:widest$}  {what}\n")).collect();
    format!(
        "Variables\n\n{lines}\nA broker is looked for, in this order, at\n\n  1. --endpoint\n  2. {}\n  3. a dev broker \
         of this user that runs\n  4. unix://{}, if it exists\n  5. tcp://{}\n",
        endpoint::VARIABLE,
        endpoint::SYSTEM_SOCKET,
        endpoint::DEFAULT_TCP
    )
}

#[cfg(test)]
mod tests {
    use super::super::console::tests::Desk;
    use super::*;

    fn shown(words: &[&str]) -> Result<String, Failure> {
        let mut desk = Desk::piped();
        Help { words: words.iter().map(|word| (*word).to_owned()).collect() }.run(&mut desk.console)?;
        Ok(desk.stdout.text())
    }

    #[test]
    fn every_topic_and_reason_has_a_text() {
        for topic in TOPICS {
            assert!(!shown(&[topic]).unwrap().is_empty());
        }
        for reason in Reason::ALL {
            assert!(shown(&["reason", &reason.as_str().to_lowercase()]).unwrap().contains(reason.as_str()));
        }
        let codes = shown(&["exit-codes"]).unwrap();
        assert!(Reason::ALL.iter().all(|reason| codes.contains(reason.as_str())), "{codes}");
    }

    #[test]
    fn a_command_is_explained_with_its_examples_and_a_stranger_gets_the_nearest() {
        let text = shown(&["connections", "import"]).unwrap();
        assert!(text.contains("Examples") && text.contains("--refresh-token-file"), "{text}");
        assert_eq!(shown(&["conections"]).unwrap_err().why, "did you mean connections?");
        assert_eq!(shown(&["reason", "REAUTH_REQIRED"]).unwrap_err().why, "did you mean REAUTH_REQUIRED?");
    }
}
