//! Two examples a command, shown before its flags. A test parses each one.

/// Commands by their path, with two examples each.
const EXAMPLES: &[(&str, [&str; 2])] = &[
    ("", ["token-broker dev", "token-broker token sandbox user-42"]),
    (
        "serve",
        ["token-broker serve --config config.yaml", "token-broker serve --config config.yaml --ephemeral"],
    ),
    ("dev", ["token-broker dev", "token-broker dev --keep broker-data"]),
    (
        "connect",
        [
            "token-broker connect google user-42",
            "token-broker connect google user-42 --scope email --no-browser",
        ],
    ),
    ("connections", ["token-broker connections list", "token-broker connections show google user-42"]),
    (
        "connections list",
        [
            "token-broker connections list --provider google",
            "token-broker connections list --status REAUTH_REQUIRED --json",
        ],
    ),
    (
        "connections show",
        [
            "token-broker connections show google user-42",
            "token-broker connections show google user-42 --json",
        ],
    ),
    (
        "connections import",
        [
            "token-broker connections import google user-42 --refresh-token-file token.txt",
            "token-broker connections import google user-42 --refresh-token-file -",
        ],
    ),
    (
        "connections disconnect",
        [
            "token-broker connections disconnect google user-42",
            "token-broker connections disconnect google user-42 --yes",
        ],
    ),
    (
        "connections refresh",
        [
            "token-broker connections refresh google user-42",
            "token-broker connections refresh google user-42 --if-generation 3",
        ],
    ),
    (
        "connections retry",
        [
            "token-broker connections retry google user-42",
            "token-broker connections retry google user-42 --json",
        ],
    ),
    (
        "connections history",
        [
            "token-broker connections history google user-42",
            "token-broker connections history google user-42 --json",
        ],
    ),
    (
        "connections watch",
        ["token-broker connections watch --provider google", "token-broker connections watch --once --json"],
    ),
    ("providers", ["token-broker providers list", "token-broker providers show google"]),
    ("providers list", ["token-broker providers list", "token-broker providers list --json"]),
    ("providers show", ["token-broker providers show google", "token-broker providers show github --json"]),
    (
        "providers retry",
        ["token-broker providers retry google", "token-broker providers retry google --json"],
    ),
    ("token", ["token-broker token google user-42 --show", "token-broker token google user-42 --min-ttl 5m"]),
    (
        "check-config",
        ["token-broker check-config --config config.yaml", "token-broker check-config --schema"],
    ),
    ("keys", ["token-broker keys generate keys.txt", "token-broker keys list keys.txt"]),
    ("keys generate", ["token-broker keys generate keys.txt", "token-broker keys generate keys.txt --json"]),
    ("keys list", ["token-broker keys list keys.txt", "token-broker keys list keys.txt --json"]),
    (
        "store",
        ["token-broker store verify", "token-broker store export connections.export --config config.yaml"],
    ),
    (
        "store export",
        ["token-broker store export connections.export", "token-broker store export - --config config.yaml"],
    ),
    (
        "store import",
        [
            "token-broker store import connections.export --engine redb --path broker-redb",
            "token-broker store import connections.export --merge",
        ],
    ),
    ("store verify", ["token-broker store verify", "token-broker store verify --config config.yaml --json"]),
    (
        "call",
        [
            "token-broker call sandbox user-42 GET /echo",
            "token-broker call google user-42 POST /upload/drive/v3/files -d @photo.jpg -i",
        ],
    ),
    ("completions", ["token-broker completions bash", "token-broker completions fish"]),
    ("man", ["token-broker man man1", "token-broker man share/man/man1"]),
    ("help", ["token-broker help exit-codes", "token-broker help reason REAUTH_REQUIRED"]),
];

/// `command` and all below it, with their examples in the help.
pub(crate) fn added(command: clap::Command) -> clap::Command {
    at("", command)
}

fn at(path: &str, command: clap::Command) -> clap::Command {
    const TEMPLATE: &str =
        "{about-with-newline}\n{usage-heading} {usage}\n\n{before-help}{all-args}{after-help}";
    let command = match EXAMPLES.iter().find(|(known, _)| *known == path) {
        Some((_, [one, other])) => {
            command.before_help(format!("Examples:\n  {one}\n  {other}")).help_template(TEMPLATE)
        }
        None => command,
    };
    let path = path.to_owned();
    command.mut_subcommands(move |sub| {
        let below = format!("{path} {}", sub.get_name());
        at(below.trim_start(), sub)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(at: &str, command: &clap::Command, into: &mut Vec<String>) {
        into.push(at.to_owned());
        for sub in command.get_subcommands() {
            paths(format!("{at} {}", sub.get_name()).trim_start(), sub, into);
        }
    }

    #[test]
    fn every_command_has_two_examples_that_parse_as_itself() {
        let mut commands = Vec::new();
        paths("", &crate::cli::command(), &mut commands);
        for path in &commands {
            let (_, examples) =
                EXAMPLES.iter().find(|(known, _)| known == path).unwrap_or_else(|| panic!("{path}"));
            for example in examples {
                let words: Vec<&str> = example.split(' ').collect();
                let typed = crate::cli::parse(&words, false);
                assert!(matches!(typed, Ok(crate::cli::Typed::Command(_))), "{example}: {typed:?}");
                assert!(example.starts_with(format!("token-broker {path}").trim_end()), "{example}");
            }
        }
        assert_eq!(commands.len(), EXAMPLES.len());
    }

    #[test]
    fn every_command_of_the_readme_parses() {
        let readme = include_str!("../../README.md");
        let mut found = 0;
        for line in readme.lines().map(|line| line.trim().trim_start_matches("$ ")) {
            // Typed alone, by path, or through cargo; a comment ends it.
            let Some((program, words)) =
                line.split(" #").next().and_then(|typed| typed.trim().split_once(' '))
            else {
                continue;
            };
            let words = match program.rsplit('/').next() {
                Some("token-broker") if !words.contains("development, ") => words,
                Some("cargo") => words.split_once("-- ").map_or("", |(_, words)| words),
                _ => continue,
            };
            let words: Vec<&str> = ["token-broker"].into_iter().chain(words.split_whitespace()).collect();
            let typed = crate::cli::parse(&words, false);
            assert!(matches!(typed, Ok(crate::cli::Typed::Command(_))), "{line}: {typed:?}");
            found += 1;
        }
        assert_eq!(found, 8, "a command was added or lost: does this test still see them all?");
    }
}
