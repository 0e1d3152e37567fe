//! What helps when a store or an export cannot be used. Owns the form; which one helps is the error's own affair.

use std::path::Path;

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// A command of the system that runs as it is.
    Run {
        /// Its words.
        words: Vec<String>,
        /// What it is for.
        remark: String,
    },
    /// Something to change, as a sentence.
    Change(String),
}

impl Remedy {
    /// A command of `words`.
    pub(super) fn run<const N: usize>(words: [&str; N], remark: &str) -> Self {
        Self::Run { words: words.map(str::to_owned).to_vec(), remark: remark.to_owned() }
    }
}

/// The command that shows whose `path` is, and who may use it.
pub fn look_at(path: &Path) -> Vec<String> {
    vec!["ls".to_owned(), "-ld".to_owned(), path.to_string_lossy().into_owned()]
}
