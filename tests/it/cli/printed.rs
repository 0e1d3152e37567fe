//! Whatever is printed as a command runs as it is printed: each line that can stand after `next:`, and each example of
//! the help, typed in a shell beside a development broker.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::Signal;

use super::browser;
use super::desk::{Desk, PROGRAM, send, text};
use crate::readme;

/// A folder with what the commands name, on whose `PATH` the program is.
struct Room {
    desk: Desk,
    folder: tempfile::TempDir,
}

impl Room {
    fn new() -> Self {
        let room = Self { desk: Desk::dev(), folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(room.path("bin")).unwrap();
        std::os::unix::fs::symlink(PROGRAM, room.path("bin/token-broker")).unwrap();
        let config = serde_json::json!({
            "server": {
                "grpc": {"socket": room.path("run/broker.sock"), "tcp": "off"},
                "public": {"listen": "127.0.0.1:0"},
                "ops": {"listen": "off"},
            },
            "store": {"path": room.path("data"), "ephemeral": true},
            "seal": {"key_file": room.path("seal.key")},
        });
        std::fs::write(room.path("config.yaml"), config.to_string()).unwrap();
        std::fs::write(room.path("token.txt"), "rt-of-old\n").unwrap();
        std::fs::write(room.path("photo.jpg"), [0xff; 100]).unwrap();
        assert!(room.shell("token-broker keys generate seal.key").output().unwrap().status.success());
        room
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A shell that becomes the command that `line` is.
    fn shell(&self, line: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec {line}")]).current_dir(self.folder.path()).env_clear();
        shell.env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()));
        // A broker that is started here leaves word where the development broker beside it does not.
        let starts = line.starts_with("token-broker dev") || line.starts_with("token-broker serve");
        let own = self.path("own");
        std::fs::create_dir_all(&own).unwrap();
        shell.env("XDG_RUNTIME_DIR", if starts { &own } else { self.desk.runtime.path() });
        shell.env("TOKEN_BROKER_CONFIG", self.path("config.yaml")).stdin(Stdio::null());
        shell
    }

    /// Runs one line as a person would who means it to succeed.
    async fn run(&self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[1..] {
            ["dev", ..] => self.until(line, "Ctrl-C", Signal::INT, 0),
            ["serve", ..] => self.until(line, "\"serving\"", Signal::TERM, 0),
            ["connections", "watch", ..] if !words.contains(&"--once") => {
                self.until(line, "user-42", Signal::INT, 130);
            }
            ["connect", ..] => self.consent(line).await,
            ["connections", "disconnect", _, name] => self.typed_at_a_terminal(line, name),
            // The provider, which is asked at once, never gave out the token that is imported here.
            ["connections", "import", ..] => {
                let output = self.output(line);
                let said = text(&output.stderr);
                assert!(output.status.code() == Some(79) && said.contains("invalid_grant"), "{line}: {said}");
            }
            _ => self.ends_well(line),
        }
    }

    fn ends_well(&self, line: &str) {
        if let Some((_, made)) = line.split_once("export ").or(line.split_once("keys generate ")) {
            let _ = std::fs::remove_file(self.path(made.split(' ').next().unwrap()));
        }
        let output = self.output(line);
        let (out, err) = (output.stdout.escape_ascii(), text(&output.stderr));
        assert!(output.status.success(), "{line}\n{out}\n{err}");
    }

    fn output(&self, line: &str) -> Output {
        let mut shell = self.shell(line);
        if line.ends_with(" -") {
            shell.stdin(std::fs::File::open(self.path("token.txt")).unwrap());
        }
        shell.output().unwrap()
    }

    /// Starts it, waits until it has said `word`, and ends it as a person does.
    fn until(&self, line: &str, word: &str, signal: Signal, code: i32) {
        let mut child = self.shell(&format!("{line} 2>&1")).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        heard(&mut stdout, word, line);
        send(&child, signal);
        std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{line}");
    }

    async fn consent(&self, line: &str) {
        let mut child: Child = self.shell(line).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let said = heard(&mut stderr, "Waiting", line);
        let url = said.lines().map(str::trim).find(|line| line.starts_with("http://")).unwrap();
        let page = browser::consent(url, "user-42", "approve").await;
        assert!(page.body.contains("is connected"), "{line}: {}", page.body);
        assert!(child.wait().unwrap().success(), "{line}");
    }

    /// A command that asks, with a terminal before it.
    fn typed_at_a_terminal(&self, line: &str, answer: &str) {
        let mut script = self.shell(&format!("script -qec '{line}' /dev/null"));
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = Vec::new();
        while !String::from_utf8_lossy(&said).contains("to go on: ") {
            assert_ne!(stdout.read_until(b' ', &mut said).unwrap(), 0, "{line}: {}", said.escape_ascii());
        }
        writeln!(child.stdin.as_mut().unwrap(), "{answer}").unwrap();
        std::io::Read::read_to_end(&mut stdout, &mut said).unwrap();
        assert!(child.wait().unwrap().success(), "{line}: {}", said.escape_ascii());
    }
}

/// All that is said up to the line with `word`.
fn heard(from: &mut impl std::io::BufRead, word: &str, line: &str) -> String {
    let mut said = String::new();
    while !said.contains(word) {
        assert_ne!(from.read_line(&mut said).unwrap(), 0, "{line} ended: {said}");
    }
    said
}

#[tokio::test]
async fn every_command_that_stands_after_next_runs() {
    let room = Room::new();
    // A store, for those that look at one.
    room.run("token-broker serve --config config.yaml").await;
    let lines = include_str!("next.txt");
    assert!(lines.lines().count() > 15);
    for line in lines.lines() {
        room.run(line).await;
    }
}

/// Its provider is one that is there; all else is as the help shows it.
#[tokio::test]
#[ignore = "slow: tests/run.sh --only slow"]
async fn every_example_of_the_help_runs() {
    let source = include_str!("../../../src/cli/examples.rs").split("#[cfg(test)]").next().unwrap();
    let examples: Vec<&str> = source.split('"').filter(|part| part.starts_with("token-broker ")).collect();
    assert!(examples.len() > 50, "{}", examples.len());
    let room = Room::new();
    for example in examples {
        let here = match example.contains("providers show") {
            true => example.to_owned(),
            false => example.replace(" google", " sandbox").replace("/upload/drive/v3/files", "/file"),
        };
        // What ends or takes over a connection finds one, or none, and leaves one.
        let (is_import, is_end) =
            (here.contains("connections import"), here.contains("connections disconnect"));
        if is_import {
            room.run("token-broker connections disconnect --yes sandbox user-42").await;
        }
        room.run(&here).await;
        if is_import || is_end {
            room.run("token-broker connect sandbox user-42").await;
        }
    }
}

#[test]
#[ignore = "slow: tests/run.sh --only slow"]
fn bash_takes_the_completions_as_the_help_says() {
    let room = Room::new();
    let help = text(&room.shell("token-broker completions --help").output().unwrap().stdout);
    let line = help.split("source ").nth(1).unwrap().split(')').next().unwrap();
    assert_eq!(line, "<(token-broker completions bash");
    let script = format!("source {line}) && complete -p token-broker");
    let output = room.shell(&format!("bash --norc -c '{script}'")).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("token-broker"), "{}", text(&output.stdout));
}

/// From the README's heading on how to set up a real provider: its files and its broker are this test's.
#[test]
#[ignore = "slow: tests/run.sh --only slow"]
fn the_readmes_way_to_a_real_provider_leads_to_its_consent_page() {
    let room = Room::new();
    std::fs::remove_file(room.path("seal.key")).unwrap();
    let entry = readme::blocks_of(&readme::readme(), "yaml").remove(0);
    let entry = entry.replace("/etc/token-broker", &room.folder.path().display().to_string());
    std::fs::write(room.path("google.secret"), "a-secret-of-no-account").unwrap();
    let at = |name: &str| room.path(name).display().to_string();
    let rest = format!(
        "server:\n  grpc: {{socket: {}, tcp: off}}\n  public: {{listen: 127.0.0.1:0, url: http://127.0.0.1:1}}\n  ops: {{listen: off}}\nstore: {{path: {}, ephemeral: true}}\nseal: {{key_file: {}}}\n",
        at("run/broker.sock"),
        at("data"),
        at("seal.key"),
    );
    std::fs::write(room.path("config.yaml"), format!("{entry}\n{rest}")).unwrap();
    let typed = |start: &str| {
        let mut sessions = readme::sessions().into_iter().map(|session| session.command);
        let line = sessions.find(|command| command.starts_with(start));
        let line = line.unwrap_or_else(|| panic!("the README types no {start}"));
        let line = line.split(" #").next().unwrap().trim().to_owned();
        line.replace("/etc/token-broker", &room.folder.path().display().to_string())
    };
    for start in ["token-broker keys generate", "token-broker providers show", "token-broker check-config"] {
        room.ends_well(&typed(start));
    }
    let mut serve = room.shell(&format!("{} 2>&1", typed("token-broker serve")));
    let mut serve = serve.stdout(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(serve.stdout.take().unwrap());
    heard(&mut log, "\"serving\"", "serve");
    // Where a broker of the system listens is this machine's affair; the variable leads to ours.
    let mut connect = room.shell(&typed("token-broker connect google"));
    connect.env("TOKEN_BROKER_ENDPOINT", format!("unix://{}", at("run/broker.sock")));
    let mut connect = connect.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut stderr = BufReader::new(connect.stderr.take().unwrap());
    let said = heard(&mut stderr, "Waiting", "connect");
    assert!(said.contains("https://accounts.google.com/"), "{said}");
    for child in [&mut connect, &mut serve] {
        send(child, Signal::INT);
        child.wait().unwrap();
    }
}

#[test]
fn what_is_printed_next_asks_the_broker_that_was_named() {
    let (one, other) = (Room::new(), Desk::dev());
    let endpoint = other.said("gRPC").split(' ').next().unwrap().to_owned();
    let output =
        one.shell(&format!("token-broker token sandbox user-24 --endpoint {endpoint}")).output().unwrap();
    let said = text(&output.stderr);
    let next = said.lines().find_map(|line| line.trim().strip_prefix("next: "));
    let next = next.unwrap_or_else(|| panic!("{said}")).split("      (").next().unwrap();
    assert!(next.ends_with(&format!(" --endpoint {endpoint}")), "{said}");
    // Only the other one answers.
    let other = other.end(Signal::INT);
    assert_eq!(other.0, Some(0));
    let output = one.shell(next).output().unwrap();
    assert_eq!(output.status.code(), Some(69), "{next}: {}", text(&output.stderr));
}

#[test]
fn a_path_is_no_word_of_a_shell() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("it's data");
    std::fs::create_dir_all(data.join("store")).unwrap();
    std::fs::write(data.join("store/rest"), "of a store").unwrap();
    let moved = moved_by_what_is_printed(folder.path(), &data);
    assert!(moved.join("store.aside").exists());
}

/// Starts a broker on a store that does not open, and runs what it says.
fn moved_by_what_is_printed(folder: &Path, data: &Path) -> PathBuf {
    let at = |name: &str| folder.join(name);
    let config = serde_json::json!({
        "server": {"grpc": {"socket": at("run/broker.sock"), "tcp": "off"}, "public": {"listen": "off"}, "ops": {"listen": "off"}},
        "store": {"path": data, "ephemeral": true},
        "seal": {"key_file": at("seal.key")},
    });
    std::fs::write(at("config.yaml"), config.to_string()).unwrap();
    let run =
        |words: &[&str]| Command::new(PROGRAM).args(words).env_clear().current_dir(folder).output().unwrap();
    assert!(run(&["keys", "generate", "seal.key"]).status.success());
    let refused = run(&["serve", "--config", "config.yaml"]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(78), "{said}");
    let next =
        said.lines().find_map(|line| line.trim().strip_prefix("next: ")).unwrap_or_else(|| panic!("{said}"));
    let next = next.split("      (").next().unwrap();
    assert!(next.starts_with("mv "), "{said}");
    assert!(Command::new("sh").args(["-c", next]).status().unwrap().success(), "{next}");
    data.to_owned()
}
