//! What reading the configuration has to say: mistakes, warnings, and where each value came from.

use std::fmt;
use std::path::{Path, PathBuf};

use super::key_path::KeyPath;
use super::tree::Node;

/// Where an effective value came from. A flag beats the environment, the environment beats the file, the file beats
/// the catalogue, and the catalogue beats the default.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Written in the file.
    File {
        /// Counted from 1.
        line: u64,
        /// Counted from 1, in characters.
        column: u64,
    },
    /// Set by the environment variable of this name.
    Environment(String),
    /// Set by this command-line flag.
    Flag(String),
    /// Comes with the provider's entry of this name in the catalogue.
    Catalogue(String),
    /// Not written anywhere.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { line, column } => write!(f, "{line}:{column}"),
            Self::Environment(name) | Self::Flag(name) => f.write_str(name),
            Self::Catalogue(name) => write!(f, "catalogue {name}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One mistake or warning: where it is, and what is accepted instead. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Who said it; `None` where nobody wrote anything.
    pub origin: Option<Origin>,
    /// Which key; empty for the whole file.
    pub path: String,
    /// What is wrong and what is accepted.
    pub message: String,
}

impl Finding {
    /// `18:5`, the variable's or the flag's name, or nothing.
    pub fn place(&self) -> String {
        self.origin.as_ref().map_or_else(String::new, Origin::to_string)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [self.place(), self.path.clone(), self.message.clone()];
        f.write_str(&parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  "))
    }
}

/// The configuration cannot be used: every mistake in it, in the order in which they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    /// Never empty.
    pub mistakes: Vec<Finding>,
}

impl ConfigError {
    /// One line that says how many mistakes are where.
    pub fn headline(&self) -> String {
        let count = match self.mistakes.len() {
            1 => "1 mistake".to_owned(),
            many => format!("{many} mistakes"),
        };
        match &self.file {
            Some(file) => format!("{count} in {}, nothing was started", file.display()),
            None => format!("{count} in the configuration, nothing was started"),
        }
    }
}

/// The headline, then a line for each mistake: place, key and sentence in columns.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.headline())?;
        let width =
            |column: fn(&Finding) -> usize| self.mistakes.iter().map(column).max().unwrap_or_default();
        let (place, path) = (width(|m| m.place().chars().count()), width(|m| m.path.chars().count()));
        for mistake in &self.mistakes {
            let row = format!("{:place$}  {:path$}  {}", mistake.place(), mistake.path, mistake.message);
            write!(f, "\n  {}", row.trim_end())?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Collects findings while the configuration is read; nothing stops at the first.
#[derive(Debug, Default)]
pub(super) struct Found {
    mistakes: Vec<(KeyPath, Option<Origin>, String)>,
    warnings: Vec<(KeyPath, Option<Origin>, String)>,
    meant: Vec<KeyPath>,
}

impl Found {
    /// A mistake at `path`; where that is written is looked up at the end.
    pub(super) fn mistake(&mut self, path: impl Into<KeyPath>, message: impl Into<String>) {
        self.mistakes.push((path.into(), None, message.into()));
    }

    /// A mistake whose place is known, such as an unknown key's.
    pub(super) fn mistake_at(&mut self, origin: Origin, path: KeyPath, message: impl Into<String>) {
        self.mistakes.push((path, Some(origin), message.into()));
    }

    /// As [`Found::warning`], of a value that is no longer in the document.
    pub(super) fn warning_at(&mut self, origin: Origin, path: KeyPath, message: impl Into<String>) {
        self.warnings.push((path, Some(origin), message.into()));
    }

    /// Something that works and is probably not meant.
    pub(super) fn warning(&mut self, path: impl Into<KeyPath>, message: impl Into<String>) {
        self.warnings.push((path.into(), None, message.into()));
    }

    /// The key at `path` was probably meant where another was written: that it is missing need not be said.
    pub(super) fn meant(&mut self, path: KeyPath) {
        self.meant.push(path);
    }

    /// Whether something was said about the value at `path` or about what holds it: then a later check of the same
    /// value has nothing to add.
    pub(super) fn is_spoken_for(&self, path: &KeyPath) -> bool {
        let said = self.mistakes.iter().map(|(said, ..)| said).chain(&self.meant);
        said.filter(|said| !said.steps().is_empty()).any(|said| path.is_within(said))
    }

    /// Whether something was said about a part of the value at `path`, which is incomplete then.
    pub(super) fn is_broken_inside(&self, path: &KeyPath) -> bool {
        self.mistakes.iter().any(|(said, ..)| said.is_within(path))
    }

    /// Adds what a later check found, but for what was said already.
    pub(super) fn add_unsaid(&mut self, later: Self) {
        let (warnings, mistakes) = (later.warnings, later.mistakes);
        let unsaid: Vec<_> = mistakes.into_iter().filter(|(path, ..)| !self.is_spoken_for(path)).collect();
        self.mistakes.extend(unsaid);
        self.warnings.extend(warnings);
    }

    /// Mistakes if there are any, else warnings; placed in `document` and in the order of the file.
    pub(super) fn finish(self, document: &Node, file: Option<&Path>) -> Result<Vec<Finding>, ConfigError> {
        if self.mistakes.is_empty() {
            return Ok(placed(self.warnings, document));
        }
        let mistakes = placed(self.mistakes, document);
        Err(ConfigError { file: file.map(Path::to_owned), mistakes })
    }
}

fn placed(raw: Vec<(KeyPath, Option<Origin>, String)>, document: &Node) -> Vec<Finding> {
    let mut findings: Vec<Finding> = raw
        .into_iter()
        .map(|(path, origin, message)| {
            let origin = origin.or_else(|| document.nearest(&path).cloned());
            Finding { origin, path: path.to_string(), message }
        })
        .collect();
    // Stable, so that mistakes at one place stay in the order in which they were found.
    findings.sort_by(|a, b| {
        (a.origin.is_none(), &a.origin, &a.path).cmp(&(b.origin.is_none(), &b.origin, &b.path))
    });
    findings
}
