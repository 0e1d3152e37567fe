//! The command line as people use it: the real binary, a development broker, a second shell with an empty environment.

mod browser;
mod connect;
mod desk;
mod docs;
mod printed;
mod secrecy;
mod store;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use desk::{Desk, PROGRAM, bare, text};
use rustix::process::Signal;
use serde_json::Value;

use crate::readme;

#[test]
fn dev_says_what_to_try_in_22_lines_of_80_columns() {
    let desk = Desk::dev();
    let lines: Vec<&str> = desk.banner.lines().collect();
    assert!(lines.len() <= 22, "{}", desk.banner);
    // What is longer than a column count allows is only what has this machine's own paths in it.
    let paths = [desk.runtime.path().to_str().unwrap(), "token-broker token"];
    for line in &lines {
        assert!(line.chars().count() <= 80 || paths.iter().any(|path| line.contains(path)), "{line}");
    }
    let order = [
        "development, loopback only",
        "gRPC",
        "ACTIVE",
        "Try it",
        "grpcurl",
        " token sandbox user-42",
        "/connect",
        "Ctrl-C",
    ];
    let places: Vec<usize> = order.iter().map(|part| desk.banner.find(part).unwrap()).collect();
    assert!(places.is_sorted(), "{places:?}\n{}", desk.banner);
}

#[test]
fn the_printed_command_gets_a_token_in_a_shell_with_nothing_exported() {
    let desk = Desk::dev();
    let line = desk.banner.lines().find(|line| line.contains(" token sandbox user-42")).unwrap();
    let output = desk.shell(line.trim());
    assert!(output.status.success(), "{line}: {}", text(&output.stderr));
    let token = text(&output.stdout);
    assert!(token.trim().len() >= 20 && token.lines().count() == 1, "{token}");
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_call_prints_the_answers_body_byte_for_byte() {
    let desk = Desk::dev();
    let call = "token-broker call sandbox user-42";
    let shell = |words: &str| desk.shell(&format!("{PROGRAM} call sandbox user-42 {words}"));
    let output = shell("POST '/echo?q=a%20b' -H 'X-One: 1' -d hello");
    assert!(output.status.success(), "{call}: {}", text(&output.stderr));
    let echo: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&echo["target"], &echo["body"]), (&"/api/echo?q=a%20b".into(), &"hello".into()));
    assert!(echo["headers"].as_array().unwrap().contains(&serde_json::json!(["x-one", "1"])));
    assert_eq!(text(&output.stderr), "");

    let file = desk.runtime.path().join("body");
    std::fs::write(&file, vec![b'x'; 50_000]).unwrap();
    for data in [format!("-d @{}", file.display()), format!("-d - < {}", file.display())] {
        let output = shell(&format!("PUT /file {data}"));
        let echo: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(echo["body_bytes"], 50_000, "{data}");
    }

    for (words, why) in [
        // What opens and cannot be read.
        ("PUT /file -d @/", "/: Is a directory"),
        ("GET '/echo?q=%FF'", "not UTF-8"),
        ("GET '/echo?acl'", "write NAME="),
    ] {
        let output = shell(words);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(64) && said.contains(why), "{words}: {said}");
    }

    let shown = text(&shell("GET /echo -i").stdout);
    assert!(
        shown.starts_with("HTTP 200\n") && shown.contains("\ncontent-type: application/json\n"),
        "{shown}"
    );
    let view = desk.json(&["call", "sandbox", "user-42", "GET", "/echo"]);
    assert_eq!((&view["status"], &view["attempts"]), (&200.into(), &1.into()));
    let refused = shell("GET /../token");
    assert_eq!(refused.status.code(), Some(64));
    let said = text(&refused.stderr);
    assert!(said.contains("next: ") && said.contains("REQUEST_REFUSED"), "{said}");
}

#[test]
fn the_printed_command_finds_a_broker_whose_runtime_directory_no_shell_knows() {
    // Ours or somebody else's: the usual port is taken.
    let _held = std::net::TcpListener::bind("127.0.0.1:7450");
    let desk = Desk::dev();
    let line = desk.banner.lines().find(|line| line.contains(" token sandbox user-42")).unwrap();
    let mut shell = Command::new("env");
    let output = shell.args(["-i", "sh", "-c", line.trim()]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", text(&output.stderr));
    let own = desk.json(&["token", "sandbox", "user-42"]);
    assert_eq!(text(&output.stdout).trim(), own["access_token"]);
}

#[test]
#[ignore = "slow: tests/run.sh --only slow"]
fn the_printed_grpcurl_call_gets_the_same_token() {
    let desk = Desk::dev();
    let start = desk.banner.find("  grpcurl").unwrap();
    let call: Vec<&str> = desk.banner[start..].lines().take(2).collect();
    let grpcurl = std::env::var("GRPCURL").unwrap_or_else(|_| "grpcurl".to_owned());
    let output = desk.shell(&call.join("\n").replacen("grpcurl", &grpcurl, 1));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let own = desk.json(&["token", "sandbox", "user-42"]);
    assert_eq!(answer["accessToken"], own["access_token"]);
}

/// What the README says of the first minute, typed as it stands there but for this machine's paths and ports.
#[test]
#[ignore = "slow: tests/run.sh --only slow"]
fn the_readmes_commands_print_what_it_says() {
    let desk = Desk::dev();
    let grpcurl = std::env::var("GRPCURL").unwrap_or_else(|_| "grpcurl".to_owned());
    let typed = |start: &str| {
        let sessions = readme::sessions().into_iter();
        let mut found = sessions.filter(|session| session.command.starts_with(start));
        let session = found.next().unwrap_or_else(|| panic!("the README types no {start}"));
        let command = session
            .command
            .replace("127.0.0.1:7450", desk.said("gRPC").trim_start_matches("tcp://"))
            .replace("/run/token-broker/broker.sock", desk.said("socket").trim_start_matches("unix://"))
            .replace("target/release/token-broker", PROGRAM)
            .replacen("grpcurl", &grpcurl, 1);
        (desk.shell(&command), session.printed)
    };

    let (output, printed) = typed("grpcurl -plaintext -d");
    let printed: Value = serde_json::from_str(&printed).unwrap();
    let answer: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    assert!(answer.as_object().unwrap().keys().eq(printed.as_object().unwrap().keys()), "{answer}");
    for same in ["tokenType", "scopes", "generation", "source", "durability"] {
        assert_eq!(answer[same], printed[same], "{same}");
    }

    // Columns are as wide as what is in them, and a token's life is another every minute.
    let (output, printed) = typed("target/release/token-broker connections list");
    let said = text(&output.stdout);
    let lines = |text: &str| -> Vec<String> {
        let told = text.lines().map(|line| line.split(" in ").next().unwrap());
        told.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    assert_eq!(lines(&said), lines(&printed));

    let (output, printed) = typed("grpcurl -plaintext -unix");
    let said = text(&output.stderr);
    for line in ["Code: NotFound", "no provider named \"gogle\" is configured", "PROVIDER_NOT_CONFIGURED"] {
        assert!(said.contains(line) && printed.contains(line), "{line}: {said}");
    }
}

#[tokio::test]
async fn the_printed_url_walks_through_a_consent_and_names_the_account() {
    let desk = Desk::dev();
    let url = desk.said("http://127.0.0.1:").split_whitespace().next().unwrap().to_owned();
    let url = format!("http://127.0.0.1:{url}");
    let page = browser::consent(&url, "user-43", "approve").await;
    assert_eq!(page.status, 200, "{}", page.body);
    assert!(page.body.contains("Connected") && page.body.contains("user-43"), "{}", page.body);
    assert_eq!(page.headers["cache-control"], "no-store");
    let shown = desk.json(&["connections", "show", "sandbox", "user-43"]);
    assert_eq!(shown["status"], "ACTIVE");
    // It works again, and a refusal says so and changes nothing.
    let page = browser::consent(&url, "user-43", "deny").await;
    assert!(page.body.contains("Not connected") && page.body.contains("access_denied"), "{}", page.body);
    assert_eq!(desk.json(&["connections", "show", "sandbox", "user-43"])["status"], "ACTIVE");
}

#[test]
fn an_interrupted_dev_leaves_nothing_behind() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let desk = Desk::dev();
        let data = desk.said("data").split(" (").next().unwrap().to_owned();
        assert!(std::fs::exists(&data).unwrap());
        let (code, _, runtime) = desk.end(signal);
        assert_eq!(code, Some(0), "{signal:?}");
        let left: Vec<_> = std::fs::read_dir(runtime.path()).unwrap().collect();
        assert!(left.is_empty(), "{signal:?}: {left:?}");
    }
}

#[test]
fn data_that_is_to_be_kept_stays_and_is_taken_up_again() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("data");
    for _ in 0..2 {
        let desk = Desk::dev_with(&["--keep", dir.to_str().unwrap()]);
        assert!(desk.banner.contains("(kept)"), "{}", desk.banner);
        assert!(desk.json(&["token", "sandbox", "user-42"])["access_token"].is_string());
        assert_eq!(desk.end(Signal::INT).0, Some(0));
        assert!(dir.join("seal.key").exists());
    }
}

#[test]
fn results_are_one_document_with_json_and_say_the_same_without() {
    let desk = Desk::dev();
    for words in [
        vec!["connections", "list"],
        vec!["connections", "show", "sandbox", "user-42"],
        vec!["connections", "refresh", "sandbox", "user-42"],
        vec!["providers", "list"],
        vec!["providers", "show", "sandbox"],
        vec!["providers", "show", "google"],
        vec!["providers", "retry", "sandbox"],
        vec![],
    ] {
        assert!(desk.json(&words).is_object(), "{words:?}");
        let output = desk.run(&words);
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        assert!(!output.stdout.is_empty() && !text(&output.stdout).contains('\x1b'), "{words:?}");
    }
    let list = desk.run(&["connections", "list"]);
    assert!(text(&list.stdout).contains("user-42"), "{}", text(&list.stdout));
    let status = text(&desk.run(&[]).stdout);
    assert!(status.contains("serving") && status.contains("1 ACTIVE"), "{status}");
}

#[test]
fn an_error_says_whose_move_it_is_by_code_and_names_a_command_that_runs() {
    let desk = Desk::dev();
    let output = desk.run(&["token", "sandbox", "user-24"]);
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(66), true), "{said}");
    assert!(said.contains("did you mean user-42?"), "{said}");
    let next = said.lines().find_map(|line| line.trim().strip_prefix("next: ")).unwrap();
    let next = next.split("      (").next().unwrap();
    let shown = desk.shell(next);
    assert!(shown.status.success(), "{next}: {}", text(&shown.stderr));

    let output = desk.run(&["token", "snadbox", "user-42", "--json"]);
    assert_eq!(output.status.code(), Some(66));
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((&error["reason"], &error["fault"]), (&"PROVIDER_NOT_CONFIGURED".into(), &"caller".into()));
    assert!(error["request_id"].is_string() && error["next"][0].is_string(), "{error}");

    for (words, code) in [
        (vec!["tokn"], 64),
        (vec!["token", "sandbox", "white space"], 64),
        (vec!["token", "sandbox", "user-42", "--endpoint", "tcp://127.0.0.1:1"], 69),
        (vec!["connections", "disconnect", "sandbox", "user-42"], 64),
        (vec!["check-config", "--config", "/nowhere/config.yaml"], 64),
    ] {
        assert_eq!(desk.run(&words).status.code(), Some(code), "{words:?}");
    }
}

#[test]
fn import_and_disconnect_end_to_end_without_a_secret_in_argv() {
    let desk = Desk::dev();
    let token = desk.json(&["token", "sandbox", "user-42"])["access_token"].as_str().unwrap().to_owned();
    let file = desk.runtime.path().join("token.txt");
    std::fs::write(&file, format!("{token}\n")).unwrap();
    let words = [
        "connections",
        "import",
        "sandbox",
        "user-9",
        "--access-token-file",
        file.to_str().unwrap(),
        "--expires-in",
        "4m",
    ];
    assert_eq!(desk.json(&words)["status"], "ACTIVE");
    assert_eq!(desk.json(&["token", "sandbox", "user-9"])["access_token"], token.as_str());
    let ended = desk.json(&["connections", "disconnect", "sandbox", "user-9", "--yes"]);
    assert!(["DONE", "NOT_SUPPORTED"].contains(&ended["revocation"].as_str().unwrap()), "{ended}");
    assert_eq!(desk.run(&["token", "sandbox", "user-9"]).status.code(), Some(66));
}

#[test]
fn completion_knows_the_names_of_the_running_broker() {
    let desk = Desk::dev();
    let complete = |words: &[&str], at: &str| {
        let output = bare(desk.runtime.path())
            .env("COMPLETE", "bash")
            .env("_CLAP_COMPLETE_INDEX", at)
            .env("_CLAP_IFS", "\n")
            .arg("--")
            .args(words)
            .output()
            .unwrap();
        text(&output.stdout)
    };
    assert!(complete(&["token-broker", "token", "sand"], "2").contains("sandbox"));
    assert!(complete(&["token-broker", "token", "sandbox", "us"], "3").contains("user-42"));
    assert!(complete(&["token-broker", "conn"], "1").contains("connections"));
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&desk.run(&["completions", shell]).stdout);
        assert!(script.contains("COMPLETE") && script.contains("token-broker"), "{shell}: {script}");
    }
}

#[test]
fn manual_pages_are_written_one_a_command() {
    let dir = tempfile::tempdir().unwrap();
    let output = bare(dir.path()).args(["man", dir.path().to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    for page in ["token-broker.1", "token-broker-token.1", "token-broker-connections-import.1"] {
        let page = std::fs::read_to_string(dir.path().join(page)).unwrap();
        assert!(page.contains(".SH") && page.contains("Examples"), "{page}");
    }
}

#[test]
fn keys_are_generated_and_listed_without_showing_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("seal.key");
    let run = |verb: &str| bare(dir.path()).args(["keys", verb, file.to_str().unwrap()]).output().unwrap();
    assert_eq!(run("generate").status.code(), Some(0));
    let key = std::fs::read_to_string(&file).unwrap();
    let value = key.split("base64:").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let listed = text(&run("list").stdout);
    assert!(listed.contains("k1") && !listed.contains(&value), "{listed}");
    assert_eq!(run("generate").status.code(), Some(78));
}

#[test]
fn a_key_that_is_missing_or_wrong_is_told_with_a_command_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let config = serde_json::json!({
        "server": {
            "grpc": {"socket": at("run/broker.sock"), "tcp": "off"},
            "public": {"listen": "127.0.0.1:0"},
            "ops": {"listen": "off"},
        },
        "store": {"path": at("data"), "ephemeral": true},
        "seal": {"key_file": at("seal.key")},
    });
    std::fs::write(at("config.yaml"), config.to_string()).unwrap();
    let serve = || {
        let mut command = bare(dir.path());
        command.args(["serve", "--config"]).arg(at("config.yaml")).stdin(Stdio::null());
        command
    };
    let refused_then_mended = || {
        let output = serve().output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{said}");
        let next = said.lines().find_map(|line| line.trim().strip_prefix("next: ")).unwrap();
        let next = next.split("      (").next().unwrap().to_owned();
        let shell = Command::new("sh").args(["-c", &next]).env_clear().output().unwrap();
        assert!(shell.status.success(), "{next}: {}", text(&shell.stderr));
        said
    };
    assert!(refused_then_mended().contains("does not exist"));

    let mut running = serve().stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(running.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("\"serving\"") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "serve ended");
    }
    desk::send(&running, Signal::TERM);
    assert_eq!(running.wait().unwrap().code(), Some(0));

    std::fs::rename(at("seal.key"), at("old.key")).unwrap();
    let made = bare(dir.path()).args(["keys", "generate"]).arg(at("seal.key")).output().unwrap();
    assert!(made.status.success());
    let said = refused_then_mended();
    assert!(
        said.contains("this key does not open the store") && said.contains("Nothing was changed"),
        "{said}"
    );
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let mut child = Command::new(PROGRAM)
        .args(["help", "reason"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(!text(&output.stderr).contains("panicked"), "{}", text(&output.stderr));
}
