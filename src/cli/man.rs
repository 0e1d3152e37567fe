//! `man`: manual pages, one a command, from the same source as the help.

use std::path::PathBuf;

use clap::Args;

use super::console::Console;
use super::escape::escaped;
use super::failure::{Cause, Failure};

/// Write the manual pages into a directory
#[derive(Args, Debug)]
pub(crate) struct Man {
    /// The directory; it is made if need be
    dir: PathBuf,
}

impl Man {
    /// Runs the command.
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        let written = std::fs::create_dir_all(&self.dir)
            .and_then(|()| clap_mangen::generate_to(with_examples_last(super::command()), &self.dir));
        written.map_err(|error| {
            Failure::new(Cause::Machine, format!("{} cannot be written", self.dir.display()))
                .because(error.to_string())
        })?;
        Ok(console.note(&format!("manual pages written to {}", escaped(&self.dir.to_string_lossy())))?)
    }
}

/// The examples, which help shows before the flags, stand at the end of a manual page.
fn with_examples_last(command: clap::Command) -> clap::Command {
    let examples = command.get_before_help().cloned();
    let command = match examples {
        Some(examples) => command.after_help(examples),
        None => command,
    };
    command.mut_subcommands(with_examples_last)
}
