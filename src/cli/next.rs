//! Every command that any output prints, in one place: a test parses each with the real parser, so that no `next:`
//! line can rot. Invariant: what is printed after `next:` runs as printed.

use std::fmt;
use std::path::PathBuf;

/// A command of ours to run next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Start a development broker.
    Dev,
    /// Look whether a broker answers.
    Status,
    /// See the connections of a provider.
    ListConnections(String),
    /// See one connection.
    ShowConnection(Name),
    /// Let the owner consent, for the first time or again.
    Connect {
        /// The connection.
        name: Name,
        /// Also ask for these scopes.
        scopes: Vec<String>,
        /// Accept another account than before.
        allow_account_change: bool,
    },
    /// Get a token.
    Token {
        /// The connection.
        name: Name,
        /// Accept one that lives shorter than asked.
        allow_stale: bool,
        /// Print it on a terminal too.
        show: bool,
    },
    /// End a connection without being asked.
    Disconnect(Name),
    /// See every provider.
    ListProviders,
    /// See how to set up one provider.
    ShowProvider(String),
    /// Send requests to a provider that rests.
    RetryProvider(String),
    /// Check a configuration file.
    CheckConfig(PathBuf),
    /// Start a broker.
    Serve(PathBuf),
    /// Make a key file.
    GenerateKey(PathBuf),
    /// See what a key file holds.
    ListKeys(PathBuf),
    /// Read what a reason means.
    HelpReason(String),
    /// Read help on a topic or command.
    Help(String),
    /// A command of the system, or a sentence, as another room worded it.
    Other(String),
}

/// A connection as commands name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// Key of the provider.
    pub(crate) provider: String,
    /// The app's own id.
    pub(crate) connection: String,
    /// Namespace; empty for the default one.
    pub(crate) tenant: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.provider, self.connection)?;
        if self.tenant.is_empty() { Ok(()) } else { write!(f, " [{}]", self.tenant) }
    }
}

impl Name {
    fn words(&self) -> Vec<String> {
        let mut words = vec![self.provider.clone(), self.connection.clone()];
        if !self.tenant.is_empty() {
            words.extend(["--tenant".to_owned(), self.tenant.clone()]);
        }
        words
    }
}

impl Next {
    /// The command without the word that starts this program.
    pub(crate) fn words(&self) -> Vec<String> {
        let fixed = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let named = |words: &[&str], name: &Name| [fixed(words), name.words()].concat();
        let file = |words: &[&str], path: &PathBuf| {
            [fixed(words), vec![path.to_string_lossy().into_owned()]].concat()
        };
        match self {
            Self::Dev => fixed(&["dev"]),
            Self::Status => Vec::new(),
            Self::ListConnections(provider) => fixed(&["connections", "list", "--provider", provider]),
            Self::ShowConnection(name) => named(&["connections", "show"], name),
            Self::Connect { name, scopes, allow_account_change } => {
                let mut words = named(&["connect"], name);
                words.extend(scopes.iter().flat_map(|scope| ["--scope".to_owned(), scope.clone()]));
                words.extend(allow_account_change.then(|| "--allow-account-change".to_owned()));
                words
            }
            Self::Token { name, allow_stale, show } => {
                let mut words = named(&["token"], name);
                words.extend(allow_stale.then(|| "--allow-stale".to_owned()));
                words.extend(show.then(|| "--show".to_owned()));
                words
            }
            Self::Disconnect(name) => named(&["connections", "disconnect", "--yes"], name),
            Self::ListProviders => fixed(&["providers", "list"]),
            Self::ShowProvider(provider) => fixed(&["providers", "show", provider]),
            Self::RetryProvider(provider) => fixed(&["providers", "retry", provider]),
            Self::CheckConfig(path) => file(&["check-config", "--config"], path),
            Self::Serve(path) => file(&["serve", "--config"], path),
            Self::GenerateKey(path) => file(&["keys", "generate"], path),
            Self::ListKeys(path) => file(&["keys", "list"], path),
            Self::HelpReason(reason) => fixed(&["help", "reason", reason]),
            Self::Help(topic) => fixed(&["help", topic]),
            Self::Other(_) => Vec::new(),
        }
    }

    /// The whole command line, quoted for a shell.
    pub(crate) fn command(&self, program: &str) -> String {
        if let Self::Other(line) = self {
            return line.clone();
        }
        let words = self.words();
        let line = std::iter::once(program).chain(words.iter().map(String::as_str)).map(quoted);
        line.collect::<Vec<_>>().join(" ")
    }
}

/// A command and what to know beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// What to run.
    pub(crate) command: Next,
    /// What it is for; empty where that is plain.
    pub(crate) remark: String,
}

impl From<Next> for Step {
    fn from(command: Next) -> Self {
        Self { command, remark: String::new() }
    }
}

impl Next {
    /// The command with a remark beside it.
    pub(crate) fn with(self, remark: impl Into<String>) -> Step {
        Step { command: self, remark: remark.into() }
    }
}

/// `word` as a POSIX shell reads it back.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._:@/+-=,%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each; a new command belongs here, too.
    fn one_of_each() -> Vec<Next> {
        let name =
            Name { provider: "sandbox".into(), connection: "org-7/user+1@x".into(), tenant: String::new() };
        let in_tenant = Name { tenant: "acme".into(), ..name.clone() };
        vec![
            Next::Dev,
            Next::Status,
            Next::ListConnections("sandbox".into()),
            Next::ShowConnection(in_tenant),
            Next::Connect { name: name.clone(), scopes: vec![], allow_account_change: false },
            Next::Connect { name: name.clone(), scopes: vec!["a b".into()], allow_account_change: true },
            Next::Token { name: name.clone(), allow_stale: true, show: true },
            Next::Disconnect(name),
            Next::ListProviders,
            Next::ShowProvider("google".into()),
            Next::RetryProvider("google".into()),
            Next::CheckConfig("it's here.yaml".into()),
            Next::Serve("config.yaml".into()),
            Next::GenerateKey("keys.txt".into()),
            Next::ListKeys("keys.txt".into()),
            Next::HelpReason("REAUTH_REQUIRED".into()),
            Next::Help("exit-codes".into()),
        ]
    }

    #[test]
    fn every_next_command_parses() {
        for next in one_of_each() {
            let words = [vec!["token-broker".to_owned()], next.words()].concat();
            let typed = crate::cli::parse(&words, false);
            assert!(matches!(typed, Ok(crate::cli::Typed::Command(_))), "{next:?}: {typed:?}");
        }
    }

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        assert_eq!(quoted("org-7/user+1@x"), "org-7/user+1@x");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("$(x)"), "'$(x)'");
    }
}
