//! What is left to be revoked when a connection is on its way out.

use super::*;
use crate::connection::TokenSet;

#[test]
fn the_token_before_is_revoked_too_where_the_provider_may_still_take_it() {
    for (what, reuse, after, expected) in [
        ("spent", ReuseProfile::default(), 0, &["rt-1"][..]),
        ("good for ever", profile(Reuse::Reusable), 3600, &["rt-1", "rt-0"][..]),
        ("good for a while", grace(60), 59, &["rt-1", "rt-0"][..]),
        ("no longer", grace(60), 60, &["rt-1"][..]),
        ("good for a further use, however late", count(2), 3600, &["rt-1", "rt-0"][..]),
    ] {
        let rotated = || tried(active(), Ok(issued("at-1", Some("rt-1"))), &at(T0, &reuse)).connection;
        let revoking = rotated().revoking(&reuse, T0 + secs(after));
        let values: Vec<_> = revoking.revocable().iter().map(refresh_value).collect();
        assert_eq!(values, expected, "{what}");
        let (connection, attempt) = begun(rotated(), &at(T0, &reuse));
        let revoking = connection.revoking(&reuse, T0 + secs(after));
        let came = Ok(issued("at-2", Some("rt-2")));
        let landed = revoking.landed(&attempt, &came, &at(T0 + secs(after), &reuse), 0).connection;
        let values: Vec<_> = landed.revocable().iter().map(refresh_value).collect();
        assert_eq!(values, [&["rt-2"][..], expected].concat(), "{what}, and tokens came meanwhile");
    }
}

fn refresh_value(set: &TokenSet) -> String {
    set.refresh.as_ref().unwrap().value.expose().clone()
}

#[test]
fn what_is_revoked_after_a_lost_answer_is_in_doubt_until_the_provider_has_spoken_of_it() {
    for (what, reuse, answer, is_in_doubt) in [
        ("tokens came", ReuseProfile::default(), Ok(issued("at-1", Some("rt-1"))), false),
        ("spent, by whomever", ReuseProfile::default(), Err(denied()), true),
        ("lost once more", ReuseProfile::default(), Err(ambiguous()), true),
        ("nobody was reached", ReuseProfile::default(), Err(unreachable()), true),
        ("it would have been taken", profile(Reuse::Reusable), Err(denied()), false),
        ("it would still have been taken", grace(60), Err(denied()), false),
        ("it would no longer have been taken", grace(5), Err(denied()), true),
        ("it would have been taken a second time", count(2), Err(denied()), false),
    ] {
        let (connection, lost) = begun(active(), &at(T0, &reuse));
        let connection = connection.landed(&lost, &Err(ambiguous()), &at(T0, &reuse), 0).connection;
        let revoking = connection.revoking(&reuse, T0);
        assert!(revoking.profile.is_in_doubt(&reuse), "{what}");
        let later = T0 + secs(20);
        assert_eq!(revoking.profile.asks_at(&at(later, &reuse)), Some(later), "{what}");
        let asking = revoking.asking(7, &at(later, &reuse));
        let attempt = asking.profile.intent.clone().unwrap();
        assert_eq!((attempt.tries, attempt.first_sent_at), (2, T0), "{what}");
        let landed = asking.landed(&attempt, &answer, &at(later, &reuse), 0).connection;
        assert_eq!(landed.profile.is_in_doubt(&reuse), is_in_doubt, "{what}");
        assert_eq!(landed.profile.status, Status::Revoking, "{what}");
    }
}

#[test]
fn where_refresh_tokens_never_change_a_lost_answer_leaves_no_doubt() {
    let reuse = ReuseProfile { rotation: Rotation::Never, ..profile(Reuse::Reusable) };
    let (connection, lost) = begun(active(), &at(T0, &reuse));
    let connection = connection.landed(&lost, &Err(ambiguous()), &at(T0, &reuse), 0).connection;
    let revoking = connection.revoking(&reuse, T0);
    assert!(!revoking.profile.is_in_doubt(&reuse));
    assert_eq!(revoking.profile.asks_at(&at(T0 + secs(60), &reuse)), None);
}

#[test]
fn a_provider_is_asked_after_a_lost_answer_a_few_times_and_never_beside_a_request_that_may_still_arrive() {
    let reuse = ReuseProfile::default();
    let (connection, lost) = begun(active(), &at(T0, &reuse));
    let mut connection = connection.revoking(&reuse, T0);
    assert_eq!(connection.profile.asks_at(&at(T0, &reuse)), Some(lost.until()));
    let mut now = lost.until();
    for id in 0..u64::from(crate::connection::doubt::QUESTIONS) {
        assert_eq!(connection.profile.asks_at(&at(now, &reuse)), Some(now));
        connection = connection.asking(id, &at(now, &reuse));
        let attempt = connection.profile.intent.clone().unwrap();
        connection = connection.landed(&attempt, &Err(ambiguous()), &at(now, &reuse), 0).connection;
        now = attempt.until();
    }
    assert_eq!(connection.profile.asks_at(&at(now, &reuse)), None);
    assert!(connection.profile.is_in_doubt(&reuse));
}
