use std::time::Duration;

use http::header::{DATE, HeaderName};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};

use super::*;
use crate::provider::call::AnswerStream;

const URL: &str = "https://api.acme.example/v1/notes?q=1";

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_790_000_000_000) + Duration::from_secs(seconds)
}

fn connection(name: &str) -> ConnectionId {
    ConnectionId::parse(String::new(), "acme".into(), name.into()).unwrap()
}

fn fields(lines: &[(&str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    let mut headers = HeaderMap::new();
    for (name, value) in lines.iter().map(field) {
        headers.append(name, value);
    }
    headers
}

fn memory(limits: AnswerCache) -> Answers {
    Answers::new(&ProviderKey::parse("acme").unwrap(), &limits, Arc::default())
}

fn token(value: &str) -> HeaderMap {
    fields(&[("authorization", value)])
}

/// One call of `user`, and what it asks for.
fn ask(answers: &Answers, user: &str, asked: &[(&str, &str)]) -> Option<Arc<Ticket>> {
    answers.visit(&connection(user)).ticket(URL, false, &fields(asked))
}

fn head(headers: &HeaderMap, now: Timestamp) -> Head<'_> {
    Head { status: StatusCode::OK, headers, sent_at: now, came_at: now }
}

fn stream(pieces: &[&[u8]], trailers: Option<HeaderMap>) -> AnswerStream {
    let data = pieces.iter().map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))));
    let frames: Vec<_> = data.chain(trailers.map(|trailers| Ok(Frame::trailers(trailers)))).collect();
    AnswerStream::new(StreamBody::new(futures_util::stream::iter(frames)))
}

/// An answer with `body` comes at `now`, and is read to its end.
async fn answered(ticket: &Arc<Ticket>, told: &[(&str, &str)], body: &[u8], now: Timestamp) {
    let headers = fields(told);
    let Some(fill) = ticket.fill(None) else { return };
    let watched = fill.watch(stream(&[body], None));
    fill.keep(&head(&headers, now), &token("Bearer a"));
    assert_eq!(watched.collect().await.unwrap().to_bytes(), body);
}

/// What the memory says: the age of a fresh one, `stale`, or `nothing`.
fn look(answers: &Answers, user: &str, asked: &[(&str, &str)], now: Timestamp) -> String {
    let Some(ticket) = ask(answers, user, asked) else { return "no ticket".into() };
    found(&ticket, now)
}

fn found(ticket: &Ticket, now: Timestamp) -> String {
    match ticket.look(&token("Bearer a"), now) {
        Found::Fresh(_, headers) => headers[AGE].to_str().unwrap().to_owned(),
        Found::Stale(_) => "stale".into(),
        Found::Nothing => "nothing".into(),
    }
}

async fn after(told: &[(&str, &str)], seconds: u64) -> String {
    let answers = memory(AnswerCache::default());
    answered(&ask(&answers, "user-42", &[]).unwrap(), told, b"body", at(0)).await;
    look(&answers, "user-42", &[], at(seconds))
}

#[tokio::test]
async fn an_answer_is_good_for_as_long_as_it_says() {
    let date = httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(1_790_000_000 - 40));
    let soon = httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(1_790_000_030));
    let tag = ("etag", "\"1\"");
    for (told, seconds, expected) in [
        (vec![("cache-control", "max-age=60"), tag], 59, "59"),
        (vec![("cache-control", "max-age=60"), tag], 60, "stale"),
        (vec![("cache-control", "max-age=60")], 60, "nothing"),
        (vec![("cache-control", "private, MAX-AGE=60")], 5, "5"),
        (vec![("cache-control", "max-age=60"), ("age", "50"), tag], 9, "59"),
        (vec![("cache-control", "max-age=60"), ("age", "50"), tag], 10, "stale"),
        (vec![("cache-control", "max-age=60"), ("age", "18446744073709551615"), tag], 1, "stale"),
        (vec![("cache-control", "max-age=60"), ("date", &date), tag], 19, "59"),
        (vec![("cache-control", "max-age=60"), ("date", &date), tag], 20, "stale"),
        (vec![("expires", &soon)], 29, "29"),
        (vec![("expires", "0"), tag], 0, "stale"),
        (vec![tag], 0, "stale"),
        (vec![("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT")], 0, "stale"),
        (vec![("cache-control", "s-maxage=60"), tag], 0, "stale"),
        (vec![("cache-control", "max-age=60, No-Cache"), tag], 0, "stale"),
        (vec![("cache-control", "max-age=60"), ("cache-control", "No-Store"), tag], 0, "nothing"),
        (vec![("cache-control", "max-age=60"), ("set-cookie", "a=b")], 0, "nothing"),
        (vec![], 0, "nothing"),
    ] {
        assert_eq!(after(&told, seconds).await, expected, "{told:?} after {seconds} s");
    }
}

#[tokio::test]
async fn a_clock_that_is_set_back_makes_nothing_good_for_longer() {
    let answers = memory(AnswerCache::default());
    let told = [("cache-control", "max-age=60"), ("etag", "\"1\"")];
    answered(&ask(&answers, "user-42", &[]).unwrap(), &told, b"", at(3600)).await;
    assert_eq!(look(&answers, "user-42", &[], at(0)), "stale");
}

#[tokio::test]
async fn what_the_caller_says_goes_before() {
    let answers = memory(AnswerCache::default());
    let told = [("cache-control", "max-age=60"), ("etag", "\"1\"")];
    answered(&ask(&answers, "user-42", &[]).unwrap(), &told, b"", at(0)).await;
    for (asked, expected) in [
        (("cache-control", "max-stale=10"), "10"),
        (("cache-control", "Max-Age=5"), "stale"),
        (("cache-control", "min-fresh=18446744073709551615"), "stale"),
        (("cache-control", "No-Cache"), "stale"),
        (("pragma", "no-cache"), "stale"),
        (("cache-control", "max-age=60, NO-STORE"), "no ticket"),
        (("if-none-match", "\"1\""), "no ticket"),
        (("range", "bytes=0-1"), "no ticket"),
    ] {
        assert_eq!(look(&answers, "user-42", &[asked], at(10)), expected, "{asked:?}");
    }
}

#[tokio::test]
async fn an_answer_is_given_to_requests_like_its_own() {
    let answers = memory(AnswerCache::default());
    let asked = [("accept", "a"), ("accept", "b"), ("x-other", "1")];
    let told = [("cache-control", "max-age=60"), ("vary", "Accept"), ("vary", "authorization")];
    answered(&ask(&answers, "user-42", &asked).unwrap(), &told, b"", at(0)).await;
    assert_eq!(look(&answers, "user-42", &asked, at(1)), "1");
    assert_eq!(look(&answers, "user-42", &[("accept", "a"), ("accept", "c")], at(1)), "nothing");
    assert_eq!(look(&answers, "user-42", &[], at(1)), "nothing");
    let ticket = ask(&answers, "user-42", &asked).unwrap();
    assert!(matches!(ticket.look(&token("Bearer b"), at(1)), Found::Nothing), "another token");
    assert_eq!(after(&[("cache-control", "max-age=60"), ("vary", "*")], 0).await, "nothing");
}

#[tokio::test]
async fn a_field_that_selects_an_account_selects_its_answers_though_no_vary_names_it() {
    let answers = memory(AnswerCache::default());
    let of = |account: &'static str| [("x-account", account)];
    answered(&ask(&answers, "user-42", &of("1")).unwrap(), &[("cache-control", "max-age=60")], b"1", at(0))
        .await;
    assert_eq!(look(&answers, "user-42", &of("1"), at(1)), "1");
    assert_eq!(look(&answers, "user-42", &of("2"), at(1)), "nothing");
    assert_eq!(look(&answers, "user-42", &[], at(1)), "nothing");
    let traced = [("x-account", "1"), ("x-request-id", "7")];
    assert_eq!(
        look(&answers, "user-42", &traced, at(1)),
        "1",
        "what differs from try to try selects nothing"
    );
}

#[tokio::test]
async fn fields_of_thousands_of_directives_are_not_kept() {
    let many: String = (0..2000).map(|n| format!("d{n},")).collect();
    assert_eq!(after(&[("cache-control", &format!("{many}max-age=60"))], 1).await, "nothing");
    assert_eq!(after(&[("vary", &many), ("cache-control", "max-age=60")], 1).await, "nothing");
    let answers = memory(AnswerCache::default());
    assert!(ask(&answers, "user-42", &[("cache-control", &many)]).is_none());
}

#[tokio::test]
async fn nobody_gets_what_came_for_another() {
    let answers = memory(AnswerCache::default());
    let told = [("cache-control", "max-age=60")];
    answered(&ask(&answers, "user-42", &[]).unwrap(), &told, b"", at(0)).await;
    assert_eq!(look(&answers, "user-43", &[], at(0)), "nothing");
    let decoded = answers.visit(&connection("user-42")).ticket(URL, true, &HeaderMap::new()).unwrap();
    assert_eq!(found(&decoded, at(0)), "nothing", "nor what was asked for in another coding");
}

#[tokio::test]
async fn what_was_asked_for_before_a_connection_changed_hands_is_neither_given_nor_kept() {
    let answers = memory(AnswerCache::default());
    let told = [("cache-control", "max-age=60")];
    for user in ["user-42", "user-43"] {
        answered(&ask(&answers, user, &[]).unwrap(), &told, b"", at(0)).await;
    }
    let before = ask(&answers, "user-42", &[]).unwrap();
    let begun = answers.visit(&connection("user-42"));
    answers.forget(&connection("user-42"));
    assert_eq!(look(&answers, "user-42", &[], at(0)), "nothing");
    assert_eq!(look(&answers, "user-43", &[], at(0)), "0", "others keep theirs");
    assert!(begun.ticket(URL, false, &HeaderMap::new()).is_none(), "its token may be the earlier grant's");
    answered(&before, &told, b"", at(0)).await;
    assert_eq!(look(&answers, "user-42", &[], at(0)), "nothing");
    answered(&ask(&answers, "user-42", &[]).unwrap(), &told, b"", at(0)).await;
    assert_eq!(look(&answers, "user-42", &[], at(0)), "0");
    assert_eq!(found(&before, at(0)), "nothing", "the earlier call finds nothing of the later grant's");
}

#[tokio::test]
async fn what_is_written_makes_what_was_read_old() {
    let answers = memory(AnswerCache::default());
    let told = [("cache-control", "max-age=60")];
    answered(&ask(&answers, "user-42", &[]).unwrap(), &told, b"", at(0)).await;
    let meanwhile = ask(&answers, "user-42", &[]).unwrap();
    answers.written(&connection("user-42"), "https://api.acme.example/v1/notes?q=2");
    assert_eq!(look(&answers, "user-42", &[], at(0)), "0", "another address");
    answers.written(&connection("user-42"), URL);
    assert_eq!(look(&answers, "user-42", &[], at(0)), "nothing");
    answered(&meanwhile, &told, b"", at(0)).await;
    assert_eq!(look(&answers, "user-42", &[], at(0)), "nothing");
}

#[tokio::test]
async fn only_a_whole_body_is_kept() {
    let answers = memory(AnswerCache { max_body_bytes: 10, ..AnswerCache::default() });
    let headers = fields(&[("cache-control", "max-age=60")]);
    let whole: &[&[u8]] = &[b"01234", b"56789"];
    let trailers = fields(&[("x-sum", "1")]);
    for (how, pieces, trailers, reads, expected) in [
        ("too large", &[b"01234", b"567890" as &[u8]][..], None, 2, "nothing"),
        ("broken off", whole, None, 1, "nothing"),
        ("with trailers", whole, Some(trailers), 3, "nothing"),
        ("whole", whole, None, 3, "0"),
    ] {
        let ticket = ask(&answers, "user-42", &[]).unwrap();
        let fill = ticket.fill(None).unwrap();
        let mut watched = fill.watch(stream(pieces, trailers));
        fill.keep(&head(&headers, at(0)), &token("Bearer a"));
        for _ in 0..reads {
            drop(watched.frame().await);
        }
        drop((watched, fill));
        assert_eq!(found(&ticket, at(0)), expected, "{how}");
    }
    assert!(ask(&answers, "user-42", &[]).unwrap().fill(Some(11)).is_none(), "it says that it is too large");
}

#[tokio::test]
async fn memory_is_bounded_by_bytes_and_by_number_and_the_one_used_longest_ago_goes() {
    let answers = memory(AnswerCache { max_entries: 3, max_bytes: 10_000, max_body_bytes: 5000 });
    let told = [("cache-control", "max-age=60")];
    for user in ["a", "b", "c"] {
        answered(&ask(&answers, user, &[]).unwrap(), &told, b"x", at(0)).await;
    }
    assert_eq!(look(&answers, "a", &[], at(0)), "0");
    answered(&ask(&answers, "d", &[]).unwrap(), &told, b"x", at(0)).await;
    let kept: Vec<_> = ["a", "b", "c", "d"].map(|user| look(&answers, user, &[], at(0))).into();
    assert_eq!(kept, ["0", "nothing", "0", "0"]);

    // Bodies that are still coming count as well.
    let coming = ask(&answers, "e", &[]).unwrap();
    let fill = coming.fill(None).unwrap();
    let mut watched = fill.watch(stream(&[&[0; 4000], &[0; 1]], None));
    drop(watched.frame().await);
    assert!(answers.state().bytes >= 4000);
    for user in ["f", "g", "h"] {
        answered(&ask(&answers, user, &[]).unwrap(), &told, &[0; 4500], at(0)).await;
        assert!(answers.state().bytes <= 10_000, "{}", answers.state().bytes);
    }
    drop((watched, fill));
    answers.forget(&connection("h"));
    answers.forget(&connection("g"));
    answers.forget(&connection("f"));
    drop(coming);
    let state = answers.state();
    assert_eq!((state.bytes, state.entries.len()), (0, 0), "nothing is lost count of");
    assert!(state.tickets.is_empty() && state.visits.is_empty() && state.by_use.is_empty());
}

#[tokio::test]
async fn a_304_renews_what_it_is_about() {
    let told =
        [("etag", "W/\"1\""), ("x-many", "1"), ("x-many", "2"), ("x-old", "1"), ("content-length", "4")];
    for (said, is_renewed) in [
        (vec![("etag", "\"1\""), ("cache-control", "max-age=60"), ("x-many", "3"), ("x-many", "4")], true),
        (vec![("cache-control", "max-age=60"), ("content-length", "0")], true),
        (vec![("etag", "\"2\""), ("cache-control", "max-age=60")], false),
        (vec![("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT")], false),
    ] {
        let answers = memory(AnswerCache::default());
        let ticket = ask(&answers, "user-42", &[]).unwrap();
        answered(&ticket, &told, b"body", at(0)).await;
        let Found::Stale(stored) = ticket.look(&token("Bearer a"), at(100)) else { panic!("not there") };
        let asked: HeaderMap = stored.conditions().collect();
        assert_eq!(asked, fields(&[("if-none-match", "W/\"1\"")]));
        let headers = fields(&said);
        let head = Head { status: StatusCode::NOT_MODIFIED, ..head(&headers, at(100)) };
        let renewed = ticket.renew(&stored, &head, &token("Bearer a"), true);
        assert_eq!(renewed.is_some(), is_renewed, "{said:?}");
        assert_eq!(look(&answers, "user-42", &[], at(130)), if is_renewed { "30" } else { "nothing" });
        let Some(renewed) = renewed else { continue };
        let many: Vec<_> = renewed.get_all("x-many").iter().collect();
        assert_eq!(many, if said.len() > 2 { ["3", "4"] } else { ["1", "2"] });
        assert_eq!(
            (&renewed["x-old"], &renewed["content-length"]),
            (&"1".parse().unwrap(), &"4".parse().unwrap())
        );
        assert!(!renewed.contains_key(DATE));
        ticket.renew(&stored, &head, &token("Bearer a"), false);
        assert_eq!(look(&answers, "user-42", &[], at(130)), "nothing", "it came with a cookie");
    }
}

#[tokio::test]
async fn what_is_counted_of_a_body_is_what_it_takes() {
    let answers = memory(AnswerCache { max_entries: 9, max_bytes: 10_000, max_body_bytes: 5000 });
    let ticket = ask(&answers, "a", &[]).unwrap();
    let fill = ticket.fill(None).unwrap();
    let headers = fields(&[("cache-control", "max-age=60")]);
    let mut watched = fill.watch(stream(&[&[0; 1001], &[0; 10], &[0; 1001], &[0; 990]], None));
    for _ in 0..3 {
        drop(watched.frame().await);
    }
    assert_eq!(answers.state().bytes, 4004, "room that is left is held as well");
    fill.keep(&head(&headers, at(0)), &token("Bearer a"));
    drop(watched.collect().await.unwrap());
    let Found::Fresh(stored, _) = ticket.look(&token("Bearer a"), at(0)) else { panic!("not kept") };
    drop((ticket, fill));
    answers.forget(&connection("a"));
    assert_eq!(answers.state().bytes, 0);
    let Ok(stored) = Arc::try_unwrap(stored) else { panic!("held elsewhere") };
    let body = stored.body.try_into_mut().unwrap();
    assert_eq!((body.len(), body.capacity()), (3002, 3002));
}
