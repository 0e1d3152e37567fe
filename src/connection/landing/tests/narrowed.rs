//! A refresh that brings fewer scopes than before.

use super::*;

#[test]
fn of_many_scopes_that_were_lost_whole_names_are_told_and_that_there_are_more() {
    let mut connection = active();
    let names: Vec<String> =
        (0..20).map(|n| format!("https://www.googleapis.example/auth/scope-{n}")).collect();
    connection.profile.scopes = names.iter().map(String::as_str).collect();
    let narrower = IssuedTokens { scopes: Some(Scopes::default()), ..issued("at-1", None) };
    let landed = tried(connection, Ok(narrower), &at(T0, &ReuseProfile::default()));
    let events = landed.connection.history.events();
    let narrowed = events.iter().find(|event| event.what == Happening::Narrowed).unwrap();
    let why = narrowed.why.as_deref().unwrap();
    let (told, end) = why.rsplit_once(' ').unwrap();
    assert!(told.split(' ').all(|name| names.iter().any(|known| known == name)) && end == "…", "{why}");
}

#[test]
fn fewer_scopes_are_stored_as_they_come() {
    let narrower = IssuedTokens { scopes: Some(["read"].into_iter().collect()), ..issued("at-1", None) };
    let landed = tried(active(), Ok(narrower), &at(T0, &ReuseProfile::default()));
    assert_eq!(landed.verdict, Verdict::Refreshed);
    assert_eq!(landed.connection.profile.scopes.as_slice(), ["read"]);
}

#[test]
fn scopes_that_are_lost_are_an_event_that_names_them() {
    let reuse = ReuseProfile::default();
    let mut connection = active();
    for (scopes, lost) in [
        (Some(vec!["read", "send", "write"]), None),
        (Some(vec!["read", "send", "write"]), None),
        (None, None),
        (Some(vec!["list", "read"]), Some("send write")),
        (Some(vec!["list", "read"]), None),
        (Some(vec!["list", "read", "write"]), None),
        (Some(vec![]), Some("list read write")),
    ] {
        let scopes = scopes.map(|scopes| scopes.into_iter().collect());
        let outcome = Ok(IssuedTokens { scopes, ..issued("at-1", None) });
        connection = tried(connection, outcome, &at(T0, &reuse)).connection;
        let [.., before, last] = connection.history.events() else { panic!("{:?}", connection.history) };
        let expected = if lost.is_some() { Happening::Narrowed } else { Happening::Refreshed };
        assert_eq!((last.what, last.why.as_deref()), (expected, lost));
        assert!(lost.is_none() || before.what == Happening::Refreshed);
    }
}
