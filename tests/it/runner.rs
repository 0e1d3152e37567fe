//! `tests/run.sh` as somebody meets it whose machine lacks what a part needs. It runs nothing then, so that it can be
//! tried from a test.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output};

/// Runs it where `PATH` holds what a script needs and nothing else but `tools`, which are programs of these names
/// that print these lines.
fn run(arguments: &[&str], tools: &[(&str, &str)]) -> Output {
    let path = tempfile::tempdir().unwrap();
    for program in ["bash", "cat", "dirname", "grep", "head", "id"] {
        let found = ["/bin", "/usr/bin"].map(|dir| Path::new(dir).join(program));
        let found = found.iter().find(|file| file.exists()).unwrap_or_else(|| panic!("no {program}"));
        symlink(found, path.path().join(program)).unwrap();
    }
    for (name, says) in tools {
        let file = path.path().join(name);
        std::fs::write(&file, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run.sh");
    let mut command = Command::new("bash");
    command.arg(script).args(arguments).env_clear().env("PATH", path.path()).env("HOME", path.path());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn what_is_missing_is_said_with_what_to_install_and_nothing_runs() {
    let output = run(&["--all"], &[]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for tool in ["cargo", "node", "npm", "python3", "go", "cc"] {
        assert!(said.contains(&format!("{tool} is missing or too old: install ")), "{tool}: {said}");
    }
    assert!(said.contains("cannot run without it: oidc") && said.ends_with("nothing was run\n"), "{said}");
}

#[test]
fn a_tool_that_is_too_old_is_missing() {
    for (says, is_enough) in
        [("v9.11.2", false), ("v18.20.4", false), ("v20.0.0", true), ("v20.20.2", true), ("v100.1.0", true)]
    {
        let said = text(&run(&["--only", "oidc"], &[("node", says)]).stdout);
        assert_eq!(!said.contains("node is missing"), is_enough, "{says}: {said}");
    }
    for (says, is_enough) in [("cargo 1.94.9 (x)", false), ("cargo 1.95.0 (x)", true), ("cargo 2.0.0", true)]
    {
        let said = text(&run(&["--only", "test"], &[("cargo", says), ("node", "v20.0.0")]).stdout);
        assert_eq!(!said.contains("cargo is missing"), is_enough, "{says}: {said}");
    }
}

#[test]
fn parts_are_listed_and_others_refused() {
    let listed = text(&run(&["--help"], &[]).stdout);
    for part in ["fmt", "clippy", "test", "crash", "torture", "oidc", "grpcurl", "clients", "release"] {
        assert!(listed.lines().any(|line| line.trim_start().starts_with(&format!("{part} "))), "{listed}");
    }
    for (arguments, said) in
        [(&["--only", "oidk"][..], "--only wants one of: fmt "), (&["--al"], "unknown argument: --al")]
    {
        let output = run(arguments, &[]);
        assert_eq!(output.status.code(), Some(64));
        assert!(text(&output.stderr).contains(said), "{}", text(&output.stderr));
    }
}

#[test]
fn what_was_not_run_is_the_last_word_of_its_part_and_of_the_summary() {
    let script = r#"
        set -euo pipefail
        . tests/lib/report.sh
        declare -A ABOUT=([crash]=x [binary]=y)
        part_crash() { echo "F3: NOT RUN: no loop device"; echo "test result: ok"; echo "F3: NOT RUN: no loop device"; }
        part_binary() { false; }
        run_part crash
        run_part binary
        summary
    "#;
    let mut command = Command::new("bash");
    let output = command.args(["-c", script]).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();

    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "a part that fails is not hidden by what repeats it: {said}");
    let (crash, rest) = said.split_once("=== binary: y").unwrap();
    assert!(crash.trim_end().ends_with(" s\n!!! F3: NOT RUN: no loop device"), "{said}");
    assert!(
        rest.contains("FAILED (exit 1)") && rest.contains("1 passed, 1 failed\n!!! crash: F3: "),
        "{said}"
    );
    assert!(rest.trim_end().ends_with("!!! crash: F3: NOT RUN: no loop device"), "{said}");
}
