//! `completions`: a script for the shell. The script asks this program for candidates while one types, so names of
//! providers and connections are those of the broker at that moment.

use clap::{Args, ValueEnum};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};

use super::console::Console;
use super::failure::Failure;

/// Print a completion script, to be sourced by the shell
#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// A shell that completions are made for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    /// source <(token-broker completions bash)
    Bash,
    /// source <(token-broker completions zsh)
    Zsh,
    /// token-broker completions fish | source
    Fish,
}

/// The variable by which the script asks for candidates.
pub(crate) const VARIABLE: &str = "COMPLETE";

impl Completions {
    /// Runs the command.
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        let completer: &dyn EnvCompleter = match self.shell {
            Shell::Bash => &Bash,
            Shell::Zsh => &Zsh,
            Shell::Fish => &Fish,
        };
        let (name, program) = ("token-broker", std::env::current_exe()?);
        let mut script = Vec::new();
        completer.write_registration(VARIABLE, name, name, &program.to_string_lossy(), &mut script)?;
        Ok(console.output.stdout.write(&String::from_utf8_lossy(&script))?)
    }
}
