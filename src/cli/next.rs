//! Every command that any output prints, in one place. One of each stands in `tests/it/cli/next.txt`, whose lines are
//! run beside a real broker, so that no `next:` line can rot. Invariant: what is printed after `next:` runs as printed,
//! and asks the same broker.

use std::fmt;
use std::path::{Path, PathBuf};

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

/// The words of a command of ours. Whatever a name, a path or a value begins with, it is not taken for an option.
#[derive(Default)]
struct Words {
    fixed: Vec<String>,
    positional: Vec<String>,
    options: Vec<String>,
}

impl Words {
    fn of(fixed: &[&str]) -> Self {
        Self { fixed: fixed.iter().map(|word| (*word).to_owned()).collect(), ..Self::default() }
    }

    fn with(mut self, positional: impl Into<String>) -> Self {
        self.positional.push(positional.into());
        self
    }

    fn path(self, path: &Path) -> Self {
        self.with(path.to_string_lossy())
    }

    fn named(self, name: &Name) -> Self {
        let tenant = (!name.tenant.is_empty()).then(|| option("--tenant", &name.tenant));
        self.with(&name.provider).with(&name.connection).options(tenant.into_iter().flatten())
    }

    fn options(mut self, words: impl IntoIterator<Item = String>) -> Self {
        self.options.extend(words);
        self
    }

    fn flag(self, flag: &str, is_set: bool) -> Self {
        self.options(is_set.then(|| flag.to_owned()))
    }

    fn joined(self) -> Vec<String> {
        let Self { fixed, positional, options } = self;
        if positional.iter().any(|word| word.starts_with('-')) {
            [fixed, options, vec!["--".to_owned()], positional].concat()
        } else {
            [fixed, positional, options].concat()
        }
    }
}

/// An option and its value, which may begin with a hyphen.
pub(crate) fn option(name: &str, value: &str) -> Vec<String> {
    if value.starts_with('-') {
        vec![format!("{name}={value}")]
    } else {
        vec![name.to_owned(), value.to_owned()]
    }
}

impl Next {
    /// The command without the word that starts this program; nothing of a system's command.
    fn words(&self) -> Words {
        match self {
            Self::Dev => Words::of(&["dev"]),
            Self::Status | Self::Look | Self::System(_) => Words::default(),
            Self::ListConnections(provider) => {
                Words::of(&["connections", "list"]).options(option("--provider", provider))
            }
            Self::ShowConnection(name) => Words::of(&["connections", "show"]).named(name),
            Self::Connect { name, scopes, allow_account_change } => {
                let scopes = scopes.iter().flat_map(|scope| option("--scope", scope));
                let words = Words::of(&["connect"]).named(name).options(scopes);
                words.flag("--allow-account-change", *allow_account_change)
            }
            Self::Token { name, allow_stale, show } => {
                let words = Words::of(&["token"]).named(name);
                words.flag("--allow-stale", *allow_stale).flag("--show", *show)
            }
            Self::Disconnect(name) => Words::of(&["connections", "disconnect", "--yes"]).named(name),
            Self::ListProviders => Words::of(&["providers", "list"]),
            Self::ShowProvider(provider) => Words::of(&["providers", "show"]).with(provider),
            Self::RetryProvider(provider) => Words::of(&["providers", "retry"]).with(provider),
            Self::CheckConfig(path) => {
                Words::of(&["check-config"]).options(option("--config", &path.to_string_lossy()))
            }
            Self::GenerateKey(path) => Words::of(&["keys", "generate"]).path(path),
            Self::ListKeys(path) => Words::of(&["keys", "list"]).path(path),
            Self::HelpReason(reason) => Words::of(&["help", "reason"]).with(reason),
            Self::Help(topic) => Words::of(&["help"]).with(topic),
            Self::VerifyStore(which) => Words::of(&["store", "verify"]).options(which.clone()),
            Self::ExportStore(path, which) => {
                Words::of(&["store", "export"]).path(path).options(which.clone())
            }
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

    /// The whole command line, word by word.
    fn line(&self, caller: &Caller) -> Vec<String> {
        if let Self::System(words) = self {
            return words.clone();
        }
        let endpoint = caller.endpoint.as_ref().filter(|_| self.asks_a_broker());
        let endpoint = endpoint.map(|endpoint| option("--endpoint", &endpoint.to_string()));
        let words = self.words().options(endpoint.into_iter().flatten());
        [vec![caller.program.clone()], words.joined()].concat()
    }

    /// The whole command line, quoted for a shell.
    pub(crate) fn command(&self, caller: &Caller) -> String {
        self.line(caller).iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
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
            connect("--help", &[], false),
            Next::Token { name: name("org-7/user+1@x", ""), allow_stale: true, show: true },
            Next::Token { name: name("--help", ""), allow_stale: false, show: true },
            Next::Disconnect(name("org-7/user+1@x", "")),
            Next::Disconnect(name("--help", "")),
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
            let line = next.command(&named);
            let asks = line.contains(r" --endpoint 'unix:///run/it'\''s/broker.sock'");
            assert_eq!(asks, next.asks_a_broker(), "{line}");
            assert_is_taken(&next, &named);
        }
    }

    fn assert_is_taken(next: &Next, caller: &Caller) {
        let line = next.line(caller);
        let typed = crate::cli::parse(&line, false);
        let is_ours = !matches!(next, Next::System(_));
        assert!(!is_ours || matches!(typed, Ok(crate::cli::Typed::Command(_))), "{line:?}: {typed:?}");
    }

    #[test]
    fn what_begins_with_a_hyphen_is_not_taken_for_an_option() {
        let endpoint = Some(Endpoint::Unix("/run/broker.sock".into()));
        let named = Caller { endpoint, ..caller() };
        for word in ["-", "-1", "-x", "--", "--help", "--yes", "--show"] {
            let name = Name { provider: "acme".into(), connection: word.into(), tenant: word.into() };
            let which = option("--config", word);
            let scopes = vec![word.to_owned()];
            for next in [
                Next::ListConnections(word.into()),
                Next::ShowConnection(name.clone()),
                Next::Connect { name: name.clone(), scopes, allow_account_change: true },
                Next::Token { name: name.clone(), allow_stale: true, show: true },
                Next::Disconnect(name.clone()),
                Next::ShowProvider(word.into()),
                Next::RetryProvider(word.into()),
                Next::CheckConfig(word.into()),
                Next::GenerateKey(word.into()),
                Next::ListKeys(word.into()),
                Next::VerifyStore(which.clone()),
                Next::ExportStore(word.into(), which.clone()),
            ] {
                assert_is_taken(&next, &named);
            }
        }
        let name = Name { provider: "acme".into(), connection: "-1".into(), tenant: "-t".into() };
        let line = Next::Token { name, allow_stale: false, show: true }.command(&named);
        assert_eq!(
            line,
            "token-broker token --tenant=-t --show --endpoint unix:///run/broker.sock -- acme -1"
        );
    }

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        assert_eq!(quoted("org-7/user+1@x"), "org-7/user+1@x");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("$(x)"), "'$(x)'");
    }
}
