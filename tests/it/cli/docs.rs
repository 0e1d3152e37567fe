//! docs/cli.md says what the program says.

use super::desk::{bare, text};

fn shown(words: &[&str]) -> String {
    let runtime = tempfile::tempdir().unwrap();
    text(&bare(runtime.path()).args(words).output().unwrap().stdout)
}

#[test]
fn the_page_holds_the_texts_of_help_word_for_word() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md")).unwrap();
    for topic in [vec!["help", "exit-codes"], vec!["help", "environment"]] {
        let text = shown(&topic);
        assert!(page.contains(text.trim_end()), "docs/cli.md lacks this text of {topic:?}:\n{text}");
    }
    for reason in shown(&["help", "reason"]).lines() {
        let text = shown(&["help", "reason", reason]);
        assert!(page.contains(text.trim_end()), "docs/cli.md lacks:\n{text}");
    }
}

#[test]
fn every_command_is_on_the_page() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md")).unwrap();
    let help = shown(&["--help"]);
    let commands = help.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    for command in commands.lines().filter_map(|line| line.split_whitespace().next()) {
        assert!(page.contains(&format!("`{command}")), "{command}");
    }
}
