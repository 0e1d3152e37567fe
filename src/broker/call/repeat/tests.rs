use bytes::Bytes;
use http::HeaderMap;

use super::super::super::Source;
use super::*;
use crate::provider::call::Origin;

fn key_of(connection: &str, request_id: &str) -> Key {
    let id = ConnectionId::parse(String::new(), "p".into(), connection.into()).unwrap();
    (id, request_id.to_owned())
}

fn key(request_id: &str) -> Key {
    key_of("c", request_id)
}

fn answer(bytes: usize) -> Outcome {
    Ok(Arc::new(WholeAnswer {
        status: 200,
        headers: HeaderMap::new(),
        body: Bytes::from(vec![0; bytes]),
        attempts: 1,
        source: Source::Cache,
        origin: Origin::Provider,
        is_declined: false,
    }))
}

fn begun(repeats: &Repeats, request_id: &str) -> (Ticket, Caller) {
    match repeats.join(key(request_id), [0; 32], 1) {
        Joined::First(ticket, caller) => (ticket, caller),
        Joined::Again(_) | Joined::Taken | Joined::Full(_) => panic!("{request_id} is in use"),
    }
}

/// A call whose caller does not wait for it.
fn first(repeats: &Repeats, request_id: &str) -> Ticket {
    begun(repeats, request_id).0
}

fn is_kept(repeats: &Repeats, request_id: &str) -> bool {
    matches!(repeats.join(key(request_id), [0; 32], 1), Joined::Again(_))
}

#[test]
fn what_an_id_stands_for_is_not_told_to_who_has_the_connection_next() {
    let repeats = Repeats::default();
    first(&repeats, "done").settle(answer(1), true);
    let under_way = first(&repeats, "under way");
    repeats.forget(&key("").0);
    under_way.settle(answer(1), true);
    for id in ["done", "under way"] {
        assert!(matches!(repeats.join(key(id), [0; 32], 1), Joined::Taken), "{id}");
    }
    first(&repeats, "new").settle(answer(1), true);
    assert!(is_kept(&repeats, "new"));
}

#[test]
fn whatever_says_what_is_done_makes_another_call() {
    let wanted = |method: &str, host: &str, path: &str, query: &[(&str, &str)]| Wanted {
        method: method.to_owned(),
        host: host.to_owned(),
        path: path.to_owned(),
        query: query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..Wanted::default()
    };
    let calls = [
        (wanted("POST", "", "/a", &[]), "b"),
        (wanted("PUT", "", "/a", &[]), "b"),
        (wanted("POST", "eu.acme.example", "/a", &[]), "b"),
        (wanted("POST", "", "/ab", &[]), ""),
        (wanted("POST", "", "/a", &[("q", "1")]), "b"),
        (wanted("POST", "", "/a", &[("q1", "")]), "b"),
    ];
    let prints: HashSet<Print> = calls.iter().map(|(wanted, body)| print(wanted, body.as_bytes())).collect();
    assert_eq!(prints.len(), calls.len());
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_kept_for_its_window() {
    let repeats = Repeats::default();
    first(&repeats, "a").settle(answer(1), true);
    assert!(is_kept(&repeats, "a"));
    assert!(matches!(repeats.join(key("a"), [1; 32], 1), Joined::Taken), "another call");
    tokio::time::sleep(WINDOW).await;
    assert!(!is_kept(&repeats, "a"));
}

#[tokio::test]
async fn whoever_asks_meanwhile_gets_the_same_answer() {
    let repeats = Repeats::default();
    let ticket = first(&repeats, "a");
    let Joined::Again(waiting) = repeats.join(key("a"), [0; 32], 1) else { panic!("not joined") };
    ticket.settle(Err(Error::ShuttingDown), false);
    assert_eq!(waiting.outcome().await.unwrap().unwrap_err(), Error::ShuttingDown);
    first(&repeats, "a").settle(Err(Error::ShuttingDown), false);
    drop(first(&repeats, "a"));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_ends_without_a_word_may_have_been_made_and_is_not_made_again() {
    let repeats = Repeats::default();
    let ticket = first(&repeats, "a");
    let Joined::Again(waiting) = repeats.join(key("a"), [0; 32], 1) else { panic!("not joined") };
    drop(ticket);
    assert!(waiting.outcome().await.is_none(), "nobody waits for ever");
    let is_taken = || matches!(repeats.join(key("a"), [0; 32], 1), Joined::Taken);
    assert!(is_taken());
    tokio::time::sleep(WINDOW).await;
    assert!(!is_taken());
}

#[tokio::test]
async fn calls_without_a_caller_are_counted_until_they_are_over_or_somebody_asks_again() {
    let repeats = Repeats::default();
    let unattended = || lock(&repeats.0).unattended.count();
    let (ticket, caller) = begun(&repeats, "a");
    let Joined::Again(another) = repeats.join(key("a"), [0; 32], 1) else { panic!("not joined") };
    drop(caller);
    assert_eq!(unattended(), 0, "one is left");
    drop(another);
    assert_eq!(unattended(), 1);
    let Joined::Again(caller) = repeats.join(key("a"), [0; 32], 1) else { panic!("not joined") };
    assert_eq!(unattended(), 0);
    drop(caller);
    ticket.settle(answer(1), true);
    assert_eq!(unattended(), 0, "it is over");
    let Joined::Again(caller) = repeats.join(key("a"), [0; 32], 1) else { panic!("not kept") };
    drop(caller);
    assert_eq!(unattended(), 0, "nothing is under way");

    drop(first(&repeats, "without a word"));
    let (ticket, late) = begun(&repeats, "b");
    ticket.settle(Err(Error::ShuttingDown), false);
    let (_ticket, _caller) = begun(&repeats, "b");
    drop(late);
    assert_eq!(unattended(), 0, "the new call has its own caller");
}

#[tokio::test]
async fn no_call_is_begun_while_too_many_have_no_caller_but_theirs_may_come_back() {
    let repeats = Repeats::default();
    let join = |id: &str| repeats.join(key(id), [0; 32], usize::MAX / 4);
    let Joined::First(ticket, caller) = join("a") else { panic!("no first") };
    assert!(matches!(join("b"), Joined::First(..)), "whatever it holds, its caller is there");
    drop(caller);
    assert!(matches!(join("c"), Joined::Full(Full { limit: "unattended_bytes_of_connection", .. })));
    let Joined::Again(caller) = join("a") else { panic!("not joined") };
    assert!(matches!(join("c"), Joined::First(..)));
    drop(caller);
    assert!(matches!(join("c"), Joined::Taken), "dropped without a word");
    assert!(matches!(join("d"), Joined::Full(_)));
    ticket.settle(answer(1), true);
    assert!(matches!(join("d"), Joined::First(..)));
}

#[tokio::test]
async fn memory_is_bounded_by_bytes_and_by_number() {
    let repeats = Repeats::default();
    for n in 0..5 {
        first(&repeats, &n.to_string()).settle(answer(MOST_BYTES / 4), true);
    }
    let is_taken = |id: &str| matches!(repeats.join(key(id), [0; 32], 1), Joined::Taken);
    assert!(is_taken("0"), "the oldest answer goes, and the call is not made twice");
    assert!(is_kept(&repeats, "4"));
    let small = |n: usize| format!("small {n}");
    for n in 0..=MOST {
        first(&repeats, &small(n)).settle(answer(0), true);
    }
    assert!(is_taken("4") && is_taken(&small(0)) && is_kept(&repeats, &small(1)));
    assert_eq!(lock(&repeats.0).answered.weight(), MOST_BYTES);
    for n in 0..MOST_IDS {
        first(&repeats, &format!("more {n}")).settle(answer(1), true);
    }
    let state = lock(&repeats.0);
    assert_eq!((state.entries.len(), state.answered.count()), (MOST, MOST));
    assert_eq!((state.spent.len(), state.spent_of.count()), (MOST_IDS - MOST, MOST_IDS - MOST));
}

#[tokio::test]
async fn a_busy_neighbour_takes_nobody_elses_answer_and_frees_nobody_elses_id() {
    let repeats = Repeats::default();
    let of = |connection: &str, id: &str| repeats.join(key_of(connection, id), [0; 32], 1);
    let begun = |connection: &str, id: &str| match of(connection, id) {
        Joined::First(ticket, _) => ticket,
        Joined::Again(_) | Joined::Taken | Joined::Full(_) => panic!("{connection} {id} is in use"),
    };
    begun("quiet", "answer").settle(answer(MOST_BYTES / 8), true);
    drop(begun("quiet", "id"));
    for n in 0..5 {
        begun("busy", &n.to_string()).settle(answer(MOST_BYTES / 4), true);
    }
    for n in 0..=MOST_IDS {
        drop(begun("busy", &format!("id {n}")));
    }
    assert!(matches!(of("quiet", "answer"), Joined::Again(_)));
    assert!(matches!(of("quiet", "id"), Joined::Taken));
    assert!(matches!(of("busy", "0"), Joined::First(..)), "its own went");
    assert!(matches!(of("busy", "4"), Joined::Again(_)));
}

#[tokio::test]
async fn the_newest_answer_and_the_newest_id_stay_however_many_connections_there_are() {
    let repeats = Repeats::default();
    let of = |connection: &str| repeats.join(key_of(connection, "charge"), [0; 32], 1);
    let begun = |connection: &str| match of(connection) {
        Joined::First(ticket, _) => ticket,
        Joined::Again(_) | Joined::Taken | Joined::Full(_) => panic!("{connection} is in use"),
    };
    for n in 0..100 {
        let (name, size) = (format!("c{n}"), if n % 40 == 39 { 600 } else { 500 });
        begun(&name).settle(answer(size * 1024), true);
        assert!(matches!(of(&name), Joined::Again(_)), "{name} is answered again");
    }
    for n in 0..MOST_IDS + 100 {
        let name = format!("spent-{n}");
        drop(begun(&name));
        if n + 100 >= MOST_IDS {
            assert!(matches!(of(&name), Joined::Taken), "{name} is not made twice");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_old_goes_with_its_answer_and_without() {
    let repeats = Repeats::default();
    for n in 0..=MOST {
        first(&repeats, &n.to_string()).settle(answer(1), true);
    }
    tokio::time::sleep(WINDOW).await;
    first(&repeats, "new").settle(answer(1), true);
    let state = lock(&repeats.0);
    assert_eq!((state.entries.len(), state.answered.count(), state.answered.weight()), (1, 1, LEAST));
    assert!(state.spent.is_empty() && state.spent_of.count() == 0);
}
