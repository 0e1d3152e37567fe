//! The README holds what it promises: its configuration is accepted, what it points to is there, and its commands are
//! ones that a reader can type. Its command lines are parsed where the parser is, in `cli::examples`; those of the first
//! minute run beside a development broker in `cli`.

use std::path::Path;

use token_broker::config::{self, Environment};

/// A command as the README has it typed, and what it says is printed.
pub(crate) struct Session {
    pub(crate) command: String,
    pub(crate) printed: String,
}

pub(crate) fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The contents of every fenced block of `language` in the README.
fn blocks(language: &str) -> Vec<String> {
    blocks_of(&readme(), language)
}

/// The same in any page.
pub(crate) fn blocks_of(text: &str, language: &str) -> Vec<String> {
    let fence = format!("\n```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("\n```").next().unwrap().to_owned()).collect()
}

/// Every command of the README's consoles, in order.
pub(crate) fn sessions() -> Vec<Session> {
    sessions_of(&readme())
}

/// The same of any page.
pub(crate) fn sessions_of(text: &str) -> Vec<Session> {
    let mut sessions: Vec<Session> = Vec::new();
    for line in blocks_of(text, "console").iter().flat_map(|block| block.lines()) {
        match (line.strip_prefix("$ "), sessions.last_mut()) {
            (Some(command), _) => {
                sessions.push(Session { command: command.to_owned(), printed: String::new() })
            }
            (None, Some(last)) if last.command.ends_with('\\') => last.command += &format!("\n{line}"),
            (None, Some(last)) => last.printed += &format!("{line}\n"),
            (None, None) => panic!("the page prints {line} before anything is typed"),
        }
    }
    sessions
}

#[test]
fn the_configuration_is_accepted() {
    let blocks = blocks("yaml");
    assert_eq!(blocks.len(), 1);
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("google.secret");
    std::fs::write(&secret, "a-secret-of-no-account").unwrap();
    // Only what depends on the machine is another.
    let named = "/etc/token-broker/google.secret";
    assert!(blocks[0].contains(named));
    let text = blocks[0].replace(named, secret.to_str().unwrap());
    let parsed = config::parse(&text, None, &Environment::of::<&str, &str>([]), &[]);
    parsed.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn every_file_it_points_to_is_there() {
    let text = readme();
    let links: Vec<&str> =
        text.split("](").skip(1).map(|rest| rest.split([')', '#']).next().unwrap()).collect();
    assert!(links.len() >= 10, "{links:?}");
    for link in links {
        assert!(link.starts_with("https://") || root().join(link).exists(), "{link}");
    }
}

#[test]
fn the_test_command_takes_what_it_says() {
    let script = std::fs::read_to_string(root().join("tests/run.sh")).unwrap();
    let sessions = sessions();
    let tests = sessions.iter().filter_map(|session| session.command.strip_prefix("tests/run.sh"));
    let flags: Vec<&str> =
        tests.filter_map(|rest| rest.split('#').next().unwrap().split_whitespace().next()).collect();
    assert_eq!(flags.len(), 3, "{flags:?}");
    for flag in flags {
        assert!(script.contains(&format!("        {flag})")), "{flag}");
    }
}
