//! `connect`: the terminal and the browser say the same.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Child;

use rustix::process::Signal;
use serde_json::Value;

use super::browser;
use super::desk::{Desk, send, text};

/// The URL that a waiting `connect` printed; the pipe goes on.
fn url_of(child: &mut Child) -> (String, BufReader<std::process::ChildStderr>) {
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("Waiting") {
        assert_ne!(stderr.read_line(&mut said).unwrap(), 0, "connect ended: {said}");
    }
    let url = said.lines().map(str::trim).find(|line| line.starts_with("http://")).unwrap();
    (url.to_owned(), stderr)
}

#[tokio::test]
async fn connect_shows_the_account_in_both_places_after_the_commit() {
    let desk = Desk::dev();
    let mut child = desk.start(&["connect", "sandbox", "user-7", "--json"]);
    let (url, _stderr) = url_of(&mut child);
    let page = browser::consent(&url, "user-7", "approve").await;
    assert!(page.status == 200 && page.body.contains("user-7 is connected"), "{}", page.body);
    assert!(!page.body.contains("<script") && !page.body.contains("<button"), "{}", page.body);
    // The page was there, so the connection is.
    assert!(desk.json(&["token", "sandbox", "user-7"])["access_token"].is_string());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let connected: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&connected["status"], &connected["connection"]), (&"ACTIVE".into(), &"user-7".into()));
    assert!(page.body.contains(connected["email"].as_str().unwrap()), "{}", page.body);
}

#[tokio::test]
async fn a_refusal_is_told_in_both_places_and_is_the_owners_move() {
    let desk = Desk::dev();
    let mut child = desk.start(&["connect", "sandbox", "user-8"]);
    let (url, mut stderr) = url_of(&mut child);
    let page = browser::consent(&url, "user-8", "deny").await;
    assert!(page.body.contains("Not connected") && page.body.contains("access_denied"), "{}", page.body);
    let mut said = String::new();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(79), "{said}");
    assert!(said.contains("access_denied") && said.contains("next: "), "{said}");
}

#[tokio::test]
async fn an_interrupt_ends_the_waiting_and_leaves_the_connection_pending() {
    let desk = Desk::dev();
    let mut child = desk.start(&["connect", "sandbox", "user-8"]);
    let (url, _stderr) = url_of(&mut child);
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    send(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let shown = desk.run(&["connections", "show", "sandbox", "user-8"]);
    assert!(text(&shown.stdout).contains("PENDING"), "{}", text(&shown.stdout));
}

#[tokio::test]
async fn another_account_is_refused_unless_asked_for() {
    let desk = Desk::dev();
    for (flags, code, word) in [
        (&[][..], 0, "is connected"),
        (&[][..], 79, "Not connected"),
        (&["--allow-account-change"][..], 0, "is connected"),
    ] {
        let account = if code == 0 && flags.is_empty() { "user-7" } else { "user-5" };
        let mut child = desk.start(&[&["connect", "sandbox", "shared"], flags].concat());
        let (url, _stderr) = url_of(&mut child);
        let page = browser::consent(&url, account, "approve").await;
        assert!(page.body.contains(word), "{}", page.body);
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
}
