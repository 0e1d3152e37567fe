//! The command line's own errors, with a secret in each place where one is read: files, standard input, headers, queries,
//! variables. What is said repeats none of them, at whatever level is logged.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use super::desk::{Desk, bare, text};

const CANARY: &str = "cli-canary-4711";

/// One way to get something wrong.
#[derive(Default)]
struct Slip {
    words: Vec<String>,
    stdin: &'static str,
    variable: Option<(&'static str, &'static str)>,
}

impl Slip {
    /// Exit code and everything that was said.
    fn said(&self, runtime: &Path, more: &[&str]) -> (Option<i32>, String) {
        let mut command = bare(runtime);
        command.env("TOKEN_BROKER_LOG", "trace").envs(self.variable).args(&self.words).args(more);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Whoever refuses before it reads has closed the pipe.
        let _ = child.stdin.take().unwrap().write_all(self.stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    }
}

/// `line` cut at its blanks, and then what may hold blanks itself.
fn typed(line: &str, last: &[&str]) -> Slip {
    let words = line.split_whitespace().chain(last.iter().copied()).map(str::to_owned).collect();
    Slip { words, ..Slip::default() }
}

#[test]
fn no_error_of_a_command_repeats_a_secret() {
    let desk = Desk::dev();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = file("good", CANARY.as_bytes());
    let keys = file("keys", format!("k1 base64:{CANARY}\n").as_bytes());
    let config = file("config.yaml", format!("seal: {{key_file: {keys}}}\n").as_bytes());
    let broken =
        file("broken.yaml", format!("providers: [{{key: a, client_secret: \"{CANARY}}}]\n").as_bytes());

    let mut slips = Vec::new();
    let import = "connections import sandbox user-42 --refresh-token-file";
    for (name, content) in [
        ("taken", CANARY.as_bytes()),
        ("lines", format!("{CANARY}\n{CANARY}\n").as_bytes()),
        ("bytes", &[CANARY.as_bytes(), &[0xff]].concat()),
        ("long", CANARY.repeat(20_000).as_bytes()),
    ] {
        slips.push(typed(import, &[&file(name, content)]));
    }
    for header in [
        format!("authorization: Bearer {CANARY}"),
        format!("x-key {CANARY}"),
        format!("x-key: {CANARY}\u{1}"),
    ] {
        slips.push(typed("call sandbox user-42 POST /x -H", &[&header]));
    }
    slips.push(typed("call sandbox user-42 GET", &[&format!("/../x?key={CANARY}")]));
    slips.push(typed("connections import nope user-9 --refresh-token-file", &[&good]));
    slips.push(typed(import, &[&good, "--endpoint", "tcp://127.0.0.1:1"]));
    slips.push(typed("connections import sandbox a", &[&format!("--refresh-token={CANARY}")]));
    slips.push(typed("keys list", &[&keys]));
    slips.push(typed("check-config --config", &[&broken]));
    for command in ["serve", "store verify"] {
        slips.push(typed(command, &["--config", &config]));
    }
    slips.push(typed("store import", &[&good, "--config", &config]));
    for command in ["connections import nope a --refresh-token-file -", "call nope user-42 POST /x -d @-"] {
        slips.push(Slip { stdin: CANARY, ..typed(command, &[]) });
    }
    slips.push(Slip {
        variable: Some(("TOKEN_BROKER_PROVIDERS__0__CLIENT_SECERT", CANARY)),
        ..typed("check-config", &[])
    });
    for slip in &slips {
        for more in [&[][..], &["--json"]] {
            let (code, said) = slip.said(desk.runtime.path(), more);
            assert!(!said.contains(CANARY), "{:?}: {said}", slip.words);
            let fails = code.is_some_and(|code| code != 0) && !said.is_empty();
            assert!(fails, "{:?} fails: {code:?} {said}", slip.words);
        }
    }
}
