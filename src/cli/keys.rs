//! `keys`: the key file that seals the store. No key ever passes through here, only ids and dates.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;

use super::check_config;
use super::console::Console;
use super::failure::{Cause, Failure};
use super::next::Next;
use super::page::{Page, Report};
use crate::clock::Timestamp;
use crate::entropy::OsEntropy;
use crate::store::keyring::{self, KeyFault, KeyFileError, KeyInfo};

/// What to do with key files.
#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make a key file with one fresh key; an existing file is never touched
    Generate(File),
    /// List the keys of a key file: ids and dates, never a key
    List(List),
}

/// Names a key file.
#[derive(Args, Debug)]
pub(crate) struct File {
    /// The key file, what seal.key_file names
    file: PathBuf,
}

/// Names a key file, or the configuration that does.
#[derive(Args, Debug)]
pub(crate) struct List {
    /// The key file. Default: what the configuration's seal.key_file names
    file: Option<PathBuf>,
    /// The configuration file. Default: $TOKEN_BROKER_CONFIG, else /etc/token-broker/config.yaml
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
}

/// The keys of a file.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct KeyList {
    /// The file.
    file: String,
    /// Its keys, in the order of the file.
    keys: Vec<KeyView>,
}

/// A key as it is shown.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct KeyView {
    /// Its id.
    id: String,
    /// Whether new records are sealed with it; the others only open.
    active: bool,
    /// When it was made.
    create_time: String,
    #[serde(skip)]
    created_at: Timestamp,
}

impl Keys {
    /// Runs the command.
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        let (path, keys) = match self {
            Self::Generate(File { file }) => {
                let made = keyring::generate(&file, console.now(), &OsEntropy).map_err(unusable)?;
                console.note("Keep a copy of this file: without it nothing that it sealed can be opened.")?;
                (file, vec![made])
            }
            Self::List(List { file, config }) => {
                let file = match file {
                    Some(file) => file,
                    None => check_config::read(console, config, &[])?.seal.key_file,
                };
                let keys = keyring::list(&file).map_err(unusable)?;
                (file, keys)
            }
        };
        let keys = keys.into_iter().map(KeyView::from).collect();
        Ok(console.report(&KeyList { file: path.display().to_string(), keys })?)
    }
}

fn unusable(error: KeyFileError) -> Failure {
    let failure = Failure::new(Cause::Key, error.to_string());
    match error.fault {
        KeyFault::Exists => failure.then(Next::ListKeys(error.path)),
        KeyFault::Missing => failure.then(Next::GenerateKey(error.path)),
        _ => failure,
    }
}

impl From<KeyInfo> for KeyView {
    fn from(info: KeyInfo) -> Self {
        Self {
            id: info.id.to_string(),
            active: info.is_active,
            create_time: info.created_at.to_string(),
            created_at: info.created_at,
        }
    }
}

impl Report for KeyList {
    fn text(&self, page: &Page<'_>) -> String {
        let rows: Vec<Vec<String>> = self
            .keys
            .iter()
            .map(|key| {
                let role = if key.active { "seals and opens" } else { "opens" };
                vec![key.id.clone(), role.to_owned(), page.time(Some(key.created_at), "")]
            })
            .collect();
        page.table(&["KEY", "USE", "MADE"], &rows)
    }
}

#[cfg(test)]
mod tests {
    use super::super::console::tests::Desk;
    use super::*;

    #[test]
    fn a_generated_key_file_is_listed_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        let mut desk = Desk::piped();
        Keys::Generate(File { file: file.clone() }).run(&mut desk.console).unwrap();
        Keys::List(List { file: Some(file.clone()), config: None }).run(&mut desk.console).unwrap();
        assert_eq!(desk.stdout.text(), "KEY  USE              MADE\nk1   seals and opens  now\n".repeat(2));

        let deeper = dir.path().join("etc/token-broker/seal.key");
        Keys::Generate(File { file: deeper.clone() }).run(&mut desk.console).unwrap();
        assert!(deeper.exists());

        let failure = Keys::Generate(File { file: file.clone() }).run(&mut desk.console).unwrap_err();
        assert_eq!(failure.next[0].command, Next::ListKeys(file));
    }
}
