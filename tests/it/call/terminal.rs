//! `token-broker call` before a person: the real binary beside a broker.

use std::process::{Command, Output, Stdio};

use super::http2::Api;

/// Runs a line in a shell, in a folder.
async fn run(line: String, folder: &tempfile::TempDir) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-c", &line]).current_dir(folder.path()).env_clear().env("PATH", "/usr/bin:/bin");
    shell.stdin(Stdio::null());
    tokio::task::spawn_blocking(move || shell.output().unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_large_body_is_sent_with_a_bar_on_a_terminal() {
    let api = Api::start().await;
    let desk = api.desk().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("large"), vec![b'x'; 3 * 1024 * 1024]).unwrap();
    let (program, socket) = (env!("CARGO_BIN_EXE_token-broker"), desk.whole.path("broker.sock"));
    let line = format!("{program} call sandbox user-42 PUT /file -d @large -i --endpoint unix://{socket}");

    let output = run(format!("exec script -qec '{line} > answer' /dev/null"), &folder).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains(" of 3.0 MiB sent"), "{said}");
    let answer = std::fs::read_to_string(folder.path().join("answer")).unwrap();
    assert!(answer.contains("x-received: 3145728"), "{answer}");

    let output = run(line, &folder).await;
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "nobody reads along");
    desk.stop().await;
}
