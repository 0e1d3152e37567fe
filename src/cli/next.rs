//! Every command that any output prints, in one place. One of each stands in `tests/it/cli/next.txt`, whose lines are
//! run beside a real broker, so that no `next:` line can rot. Invariant: what is printed after `next:` runs as printed,
//! and asks the same broker.

use std::fmt;
use std::path::PathBuf;

use super::endpoint::Endpoint;

/// How this program is called once more, so that it asks the same broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The word or path that starts it again in the same directory.
    pub(crate) program: String,
    /// The broker that `--endpoint` named.
    pub(crate) endpoint: Option<Endpoint>,
}

/// A command of ours to run next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Start a development broker.
    Dev,
    /// Look whether the broker answers.
    Status,
    /// Look whether a broker answers in the usual places.
    Look,
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
    /// Make a key file.
    GenerateKey(PathBuf),
    /// See what a key file holds.
    ListKeys(PathBuf),
    /// Read what a reason means.
    HelpReason(String),
    /// Read help on a topic or command.
    Help(String),
    /// Look at a whole store; the flags say which.
    VerifyStore(Vec<String>),
    /// Write the store to a file; the flags say which.
    ExportStore(PathBuf, Vec<String>),
    /// A command of the system, word by word.
    System(Vec<String>),
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
    /// The command without the word that starts this program, or all of a system's command.
    pub(crate) fn words(&self) -> Vec<String> {
        let fixed = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let named = |words: &[&str], name: &Name| [fixed(words), name.words()].concat();
        let file = |words: &[&str], path: &PathBuf| {
            [fixed(words), vec![path.to_string_lossy().into_owned()]].concat()
        };
        match self {
            Self::Dev => fixed(&["dev"]),
            Self::Status | Self::Look => Vec::new(),
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
            Self::GenerateKey(path) => file(&["keys", "generate"], path),
            Self::ListKeys(path) => file(&["keys", "list"], path),
            Self::HelpReason(reason) => fixed(&["help", "reason", reason]),
            Self::Help(topic) => fixed(&["help", topic]),
            Self::VerifyStore(which) => [fixed(&["store", "verify"]), which.clone()].concat(),
            Self::ExportStore(path, which) => [file(&["store", "export"], path), which.clone()].concat(),
            Self::System(words) => words.clone(),
        }
    }

    /// Whether it asks a broker.
    const fn asks_a_broker(&self) -> bool {
        match self {
            Self::Status
            | Self::ListConnections(_)
            | Self::ShowConnection(_)
            | Self::Connect { .. }
            | Self::Token { .. }
            | Self::Disconnect(_)
            | Self::ListProviders
            | Self::ShowProvider(_)
            | Self::RetryProvider(_) => true,
            Self::Dev
            | Self::Look
            | Self::CheckConfig(_)
            | Self::GenerateKey(_)
            | Self::ListKeys(_)
            | Self::HelpReason(_)
            | Self::Help(_)
            | Self::VerifyStore(_)
            | Self::ExportStore(..)
            | Self::System(_) => false,
        }
    }

    /// The whole command line, quoted for a shell.
    pub(crate) fn command(&self, caller: &Caller) -> String {
        let program = (!matches!(self, Self::System(_))).then(|| caller.program.clone());
        let endpoint = caller.endpoint.as_ref().filter(|_| self.asks_a_broker());
        let named = endpoint.map(|endpoint| ["--endpoint".to_owned(), endpoint.to_string()]);
        let words = program.into_iter().chain(self.words()).chain(named.into_iter().flatten());
        words.map(|word| quoted(&word)).collect::<Vec<_>>().join(" ")
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
pub(crate) mod tests {
    use super::*;

    /// Somebody who named no broker.
    pub(crate) fn caller() -> Caller {
        Caller { program: "token-broker".to_owned(), endpoint: None }
    }

    /// One of each, in an order in which they can be run beside a development broker with `sandbox user-42`.
    fn one_of_each() -> Vec<Next> {
        let name = |connection: &str, tenant: &str| Name {
            provider: "sandbox".into(),
            connection: connection.into(),
            tenant: tenant.into(),
        };
        let connect = |connection: &str, scopes: &[&str], allow_account_change| Next::Connect {
            name: name(connection, ""),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            allow_account_change,
        };
        let which = ["--config", "config.yaml"].map(str::to_owned).to_vec();
        vec![
            Next::Dev,
            Next::Status,
            Next::Look,
            Next::ListConnections("sandbox".into()),
            Next::ShowConnection(name("user-42", "")),
            connect("org-7/user+1@x", &[], false),
            connect("org-7/user+1@x", &["openid", "email"], true),
            Next::Token { name: name("org-7/user+1@x", ""), allow_stale: true, show: true },
            Next::Disconnect(name("org-7/user+1@x", "")),
            Next::ListProviders,
            Next::ShowProvider("google".into()),
            Next::RetryProvider("sandbox".into()),
            Next::GenerateKey("it's a key.txt".into()),
            Next::ListKeys("it's a key.txt".into()),
            Next::CheckConfig("config.yaml".into()),
            Next::VerifyStore(which.clone()),
            Next::ExportStore("connections.export".into(), which),
            Next::HelpReason("REAUTH_REQUIRED".into()),
            Next::Help("exit-codes".into()),
            Next::Help("environment".into()),
            Next::Help("serve".into()),
            Next::System(["ls", "-ld", "it's a key.txt"].map(str::to_owned).to_vec()),
        ]
    }

    #[test]
    fn every_kind_of_next_command_is_among_those_that_are_run() {
        let mut kinds: Vec<_> = one_of_each().iter().map(std::mem::discriminant).collect();
        kinds.dedup();
        // `asks_a_broker` names them all, or does not compile: a new one there is a new one here.
        assert_eq!(kinds.len(), 19, "add the new command to one_of_each, and count it");
        let lines: String = one_of_each().iter().map(|next| next.command(&caller()) + "\n").collect();
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/cli/next.txt");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(file, &lines).unwrap();
        }
        assert_eq!(lines, std::fs::read_to_string(file).unwrap(), "BLESS=1 writes it anew");
    }

    #[test]
    fn what_asks_a_broker_asks_the_one_that_was_named() {
        let endpoint = Some(Endpoint::Unix("/run/it's/broker.sock".into()));
        let named = Caller { endpoint, ..caller() };
        for next in one_of_each() {
            let (words, line) = (next.words(), next.command(&named));
            let asks = line.ends_with(r" --endpoint 'unix:///run/it'\''s/broker.sock'");
            assert_eq!(asks, next.asks_a_broker(), "{line}");
            if matches!(next, Next::System(_)) {
                continue;
            }
            let typed = [vec!["token-broker".to_owned()], words].concat();
            let typed = crate::cli::parse(&typed, false);
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
