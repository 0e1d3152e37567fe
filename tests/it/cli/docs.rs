//! docs/cli.md and docs/call-provider.md say what the program says.

use serde_json::Value;
use token_broker::config::{self, Environment};

use super::desk::{Desk, PROGRAM, bare, text};
use crate::readme;

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

fn guide() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/call-provider.md")).unwrap()
}

/// The guide's commands of one program, typed beside a development broker; what each printed, here and in the guide.
fn typed(desk: &Desk, program: &str, with: impl Fn(&str) -> String) -> Vec<(String, String)> {
    let sessions = readme::sessions_of(&guide()).into_iter();
    let its = sessions.filter(|session| session.command.starts_with(program));
    its.map(|session| {
        let command = format!("cd '{}' && {}", env!("CARGO_MANIFEST_DIR"), with(&session.command));
        let output = desk.shell(&command);
        assert!(output.status.success(), "{command}: {}", text(&output.stderr));
        (text(&output.stdout), session.printed)
    })
    .collect()
}

#[test]
fn the_guides_calls_print_what_it_says() {
    let desk = Desk::dev();
    let printed = typed(&desk, "token-broker call", |command| command.replacen("token-broker", PROGRAM, 1));
    assert_eq!(printed.len(), 2);
    let (echo, said) = &printed[0];
    let (echo, said): (Value, Value) =
        (serde_json::from_str(echo).unwrap(), serde_json::from_str(&said.replace("[…]", "[]")).unwrap());
    for same in ["account", "body", "body_bytes", "method", "scope", "target"] {
        assert_eq!(echo[same], said[same], "{same}");
    }
    let (shown, said) = &printed[1];
    let mut lines = said.lines().filter(|line| *line != "…");
    assert!(lines.all(|line| shown.lines().any(|shown| shown == line)), "{shown}");
}

#[test]
#[ignore = "slow: tests/run.sh --only slow"]
fn the_guides_grpcurl_call_is_answered() {
    let desk = Desk::dev();
    let grpcurl = std::env::var("GRPCURL").unwrap_or_else(|_| "grpcurl".to_owned());
    let address = desk.said("gRPC").trim_start_matches("tcp://").split(' ').next().unwrap().to_owned();
    let with =
        |command: &str| command.replacen("grpcurl", &grpcurl, 1).replacen("127.0.0.1:7450", &address, 1);
    let printed = typed(&desk, "grpcurl", with);
    assert_eq!(printed.len(), 1);
    let answer: Value = serde_json::from_str(&printed[0].0).unwrap();
    assert_eq!(answer["status"], 200);
}

#[test]
fn the_guides_entry_is_accepted() {
    let mut blocks = readme::blocks_of(&guide(), "yaml");
    blocks.retain(|block| block.starts_with("providers:"));
    assert_eq!(blocks.len(), 1);
    let parsed = config::parse(&blocks[0], None, &Environment::of::<&str, &str>([]), &[]);
    parsed.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn the_guides_limits_are_those_that_hold() {
    use token_broker::provider::spec::limit::{CallLimits, RetryPreset};
    use token_broker::provider::spec::restraint::Breaker;
    let limits = CallLimits::default();
    let guide = guide();
    let said = |key: &str| {
        let of_key =
            |line: &&str| line.split('|').nth(1).is_some_and(|keys| keys.contains(&format!("`{key}`")));
        let row = guide.lines().find(of_key).unwrap_or_else(|| panic!("{key}"));
        row.split('|').nth(2).unwrap().trim().to_owned()
    };
    let defaults = serde_json::to_value(&limits).unwrap();
    let mut held: Vec<String> = Vec::new();
    for (key, span) in [
        ("timeout", limits.timeout),
        ("stall_timeout", limits.stall_timeout),
        ("head_timeout", limits.head_timeout),
        ("idle_timeout", limits.idle_timeout),
    ] {
        assert_eq!(said(key).replace(' ', "").parse(), Ok(span), "{key}");
        held.push(key.to_owned());
    }
    for key in ["max_request_bytes", "max_response_bytes", "max_decompressed_bytes"] {
        let gibibytes: u64 = said(key).strip_suffix(" GiB").unwrap().parse().unwrap();
        assert_eq!(defaults[key], gibibytes << 30, "{key}");
        held.push(key.to_owned());
    }
    for key in ["min_bytes_per_second", "max_decompression_ratio", "max_parallel"] {
        assert_eq!(said(key), defaults[key].to_string(), "{key}");
        held.push(key.to_owned());
    }
    assert_eq!((said("stream_timeout").as_str(), limits.stream_timeout), ("none", None));
    assert_eq!((said("budget").as_str(), limits.budget), ("none", None));
    let Breaker::Own(breaker) = limits.breaker else { panic!("{:?}", limits.breaker) };
    assert_eq!(
        said("breaker"),
        format!("{} failures, {} s", breaker.failures, breaker.open.duration().as_secs())
    );
    assert_eq!(said("retry"), format!("`{}`", defaults["retry"].as_str().unwrap()));
    for preset in [RetryPreset::Network, RetryPreset::Aggressive, RetryPreset::Conservative] {
        let name = serde_json::to_value(preset).unwrap();
        let attempts = format!("`{}` {}", name.as_str().unwrap(), preset.attempts());
        assert!(
            guide.lines().any(|line| line.starts_with("| `retry`") && line.contains(&attempts)),
            "{attempts}"
        );
    }
    held.extend(["breaker", "retry"].map(str::to_owned));
    let mut all: Vec<String> = defaults.as_object().unwrap().keys().cloned().collect();
    all.sort();
    held.sort();
    assert_eq!(held, all, "a limit that this test does not look at");
}
