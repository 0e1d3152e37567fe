//! Outcomes that come when somebody else has written meanwhile, or when the connection is on its way out.

use super::*;
use crate::connection::{Account, Consent, TokenSet};

#[test]
fn tokens_of_one_who_was_fenced_are_saved_while_nobody_else_stored_any() {
    let reuse = ReuseProfile::default();
    let (connection, paused) = begun(active(), &at(T0, &reuse));
    let (connection, taken_over) = begun(connection, &Moment { holder: OTHER, ..at(T0 + LIFE, &reuse) });
    let landed =
        connection.copy().landed(&paused, &Ok(issued("at-1", Some("rt-1"))), &at(T0 + LIFE, &reuse), 0);
    assert_eq!((landed.verdict, last_event(&landed.connection)), (Verdict::Refreshed, Happening::Salvaged));
    // And the one who took over finds that out, whatever it was told.
    for outcome in [Err(denied()), Ok(issued("at-2", Some("rt-2")))] {
        let late = landed.connection.copy().landed(&taken_over, &outcome, &at(T0 + LIFE, &reuse), 0);
        assert_eq!(late.verdict, Verdict::Superseded);
    }
    let failed = connection.landed(&paused, &Err(denied()), &at(T0 + LIFE, &reuse), 0);
    assert_eq!(failed.verdict, Verdict::Superseded, "a fenced failure decides nothing");
}

#[test]
fn where_only_the_last_answer_counts_a_late_first_answer_is_thrown_away() {
    let reuse = count(9);
    let (connection, first) = begun(active(), &at(T0, &reuse));
    let settled = first.until();
    let (connection, last) = begun(connection, &at(settled, &reuse));
    let late = connection.landed(&first, &Ok(issued("at-1", Some("rt-1"))), &at(settled, &reuse), 0);
    assert_eq!(late.verdict, Verdict::Superseded);
    let landed = late.connection.landed(&last, &Ok(issued("at-2", Some("rt-2"))), &at(settled, &reuse), 0);
    assert_eq!(landed.verdict, Verdict::Refreshed);
    assert_eq!(values(&landed.connection).1, Some("rt-2"));
}

#[test]
fn tokens_that_come_while_it_is_revoked_are_revoked_with_it() {
    let reuse = ReuseProfile::default();
    let (connection, attempt) = begun(active(), &at(T0, &reuse));
    let revoking = connection.revoking(&reuse, T0);
    let failed = revoking.copy().landed(&attempt, &Err(denied()), &at(T0, &reuse), 0);
    assert_eq!(failed.verdict, Verdict::Failed);
    assert!(!failed.connection.profile.is_in_doubt(&reuse), "the provider has answered");
    let landed = revoking.landed(&attempt, &Ok(issued("at-1", Some("rt-1"))), &at(T0, &reuse), 0);
    assert_eq!(landed.verdict, Verdict::Surplus);
    assert_eq!(landed.connection.profile.status, Status::Revoking);
    assert!(landed.connection.serving().is_none());
    let to_revoke: Vec<_> = landed
        .connection
        .revocable()
        .iter()
        .map(|set| set.refresh.as_ref().unwrap().value.expose().clone())
        .collect();
    assert_eq!(to_revoke, ["rt-1", "rt-0"]);
}

#[test]
fn tokens_of_a_grant_that_was_ended_are_not_given_to_its_successor() {
    let reuse = ReuseProfile::default();
    let (old, attempt) = begun(active(), &at(T0, &reuse));
    let tokens = issued("at-new", Some("rt-new")).into_set(None, T0);
    let anew = Connection::pending(old.profile.id, T0).imported(tokens, Scopes::default(), T0);
    assert_eq!(anew.profile.generation, attempt.generation, "generations begin anew");
    let landed = anew.landed(&attempt, &Ok(issued("at-1", Some("rt-1"))), &at(T0, &reuse), 0);
    assert_eq!(landed.verdict, Verdict::Superseded);
    assert_eq!(values(&landed.connection), ("at-new", Some("rt-new"), None));
}

#[test]
fn a_connection_being_revoked_holds_all_tokens_that_come_and_says_when_it_cannot() {
    let reuse = ReuseProfile::default();
    let (connection, attempt) = begun(active(), &at(T0, &reuse));
    let mut connection = connection.revoking(&reuse, T0);
    for n in 1..=SURPLUS {
        let came = Ok(issued(&format!("at-{n}"), Some(&format!("rt-{n}"))));
        let landed = connection.landed(&attempt, &came, &at(T0, &reuse), 0);
        assert_eq!(landed.verdict, Verdict::Surplus);
        connection = landed.connection;
    }
    let beyond = connection.landed(&attempt, &Ok(issued("at-x", Some("rt-x"))), &at(T0, &reuse), 0);
    assert_eq!(beyond.verdict, Verdict::Excess);
    assert!(!beyond.verdict.is_change());
    let held: Vec<_> = beyond
        .connection
        .revocable()
        .iter()
        .map(|set| {
            let (access, refresh) = (set.access.as_ref().unwrap(), set.refresh.as_ref().unwrap());
            (access.value.expose().clone(), refresh.value.expose().clone())
        })
        .collect();
    let all: Vec<_> = (0..=SURPLUS).rev().map(|n| (format!("at-{n}"), format!("rt-{n}"))).collect();
    assert_eq!(held, all, "the newest first, and none forgotten");
}

#[test]
fn a_late_answer_of_an_older_grant_ends_no_doubt_about_the_one_that_is_revoked() {
    let reuse = ReuseProfile::default();
    let (connection, late) = begun(active(), &at(T0, &reuse));
    let anew = consented(connection, Some("rt-c"), T0 + secs(1));
    let doubtful = tried(anew, Err(ambiguous()), &at(T0 + secs(2), &reuse)).connection;
    let revoking = doubtful.revoking(&reuse, T0 + secs(3));
    let (intent, doubt) = (revoking.profile.intent.clone(), revoking.profile.doubt);
    let landed = revoking.landed(&late, &Ok(issued("at-1", Some("rt-1"))), &at(T0 + secs(4), &reuse), 0);
    assert_eq!(landed.verdict, Verdict::Surplus);
    assert!(intent.is_some() && doubt.is_some());
    let profile = &landed.connection.profile;
    assert_eq!((&profile.intent, profile.doubt), (&intent, doubt), "what became of rt-c nobody has said");
    assert_eq!(landed.connection.revocable().len(), 2, "and what came is revoked all the same");
}

#[test]
fn who_lost_a_race_changes_nothing_and_calls_nobody_dead() {
    let reuse = ReuseProfile::default();
    let (connection, slow) = begun(active(), &at(T0, &reuse));
    let won = connection.landed(&slow, &Ok(issued("at-1", Some("rt-1"))), &at(T0, &reuse), 0).connection;
    for outcome in [Ok(issued("at-x", Some("rt-x"))), Err(denied()), Err(ambiguous()), Err(unreachable())] {
        let landed = won.copy().landed(&slow, &outcome, &at(T0, &reuse), 0);
        assert_eq!(landed.verdict, Verdict::Superseded);
        assert_eq!(landed.connection.profile, won.profile);
        assert_eq!(landed.connection.tokens, won.tokens);
    }
}

#[test]
fn tokens_of_another_account_are_not_given_to_a_record_of_old() {
    let reuse = ReuseProfile::default();
    let account = |id: &str| Some(Account { id: id.to_owned(), email: None });
    let (mut of_old, attempt) = begun(active(), &at(T0, &reuse));
    of_old.profile.account = account("alice");
    let later = Intent { generation: attempt.generation + 4, ..attempt };
    for (whose, is_taken) in [("alice", true), ("bob", false)] {
        let came = IssuedTokens { account: account(whose), ..issued("at-5", Some("rt-5")) };
        assert_eq!(of_old.copy().restored(&later, &came, &at(T0, &reuse)).is_some(), is_taken, "{whose}");
    }
}

fn consented(connection: Connection, refresh: Option<&str>, now: Timestamp) -> Connection {
    let consent = Consent {
        tokens: issued("at-c", refresh).into_set(None, now),
        scopes: Scopes::default(),
        account: None,
        variables: Default::default(),
        allow_account_change: false,
    };
    connection.connected(consent, now).unwrap()
}

#[test]
fn a_consent_without_a_refresh_token_drops_no_successor_that_is_on_its_way() {
    let reuse = ReuseProfile::default();
    let (connection, attempt) = begun(active(), &at(T0, &reuse));
    let later = at(T0 + secs(2), &reuse);
    let again = consented(connection.copy(), None, T0 + secs(1));
    let landed = again.copy().landed(&attempt, &Ok(issued("at-1", Some("rt-2"))), &later, 0);
    assert_eq!(landed.verdict, Verdict::Refreshed);
    assert_eq!(values(&landed.connection), ("at-c", Some("rt-2"), Some("rt-0")));
    assert!(landed.connection.profile.generation > again.profile.generation);
    assert_eq!(
        (landed.connection.profile.status, &landed.connection.profile.intent),
        (Status::Active, &None)
    );
    let unrotated = again.landed(&attempt, &Ok(issued("at-1", None)), &later, 0).connection;
    assert_eq!(values(&unrotated), ("at-c", Some("rt-0"), None));
    assert_eq!(unrotated.profile.intent, None);
    // Of a consent that brought its own, nothing is on its way.
    let anew = consented(connection, Some("rt-c"), T0 + secs(1));
    assert_eq!(anew.profile.intent, None);
    let landed = anew.landed(&attempt, &Ok(issued("at-1", Some("rt-2"))), &later, 0);
    assert_eq!((landed.verdict, values(&landed.connection).1), (Verdict::Superseded, Some("rt-c")));
}

#[test]
fn a_consent_without_a_refresh_token_leaves_the_one_held_as_doubtful_as_it_was() {
    let reuse = ReuseProfile::default();
    let lost = tried(active(), Err(ambiguous()), &at(T0, &reuse)).connection;
    let undone = active().rolled_back(&reuse, T0).unwrap();
    let later = T0 + secs(60);
    let probe = Step::Wait { until: later + LIFE - LATE_PROBE, why: Waiting::Outcome };
    for doubtful in [lost, undone] {
        let again = consented(doubtful.copy(), None, later);
        assert_eq!((again.profile.status, values(&again).0), (Status::Ambiguous, "at-c"));
        assert_eq!(again.profile.step(&at(later, &reuse), false), probe);
        let (again, attempt) = begun(again, &at(later + LIFE, &reuse));
        assert_eq!(attempt.tries, 1 + u32::from(doubtful.profile.intent.is_some()));
        let found = again.landed(&attempt, &Ok(issued("at-1", Some("rt-1"))), &at(later + LIFE, &reuse), 0);
        assert_eq!(found.connection.profile.status, Status::Active);
        let anew = consented(doubtful, Some("rt-c"), later);
        assert_eq!((anew.profile.status, anew.profile.intent), (Status::Active, None));
    }
}

#[test]
fn what_a_refresh_is_told_beside_a_consent_counts_for_the_token_that_was_kept() {
    let reuse = ReuseProfile::default();
    let (connection, attempt) = begun(active(), &at(T0, &reuse));
    let again = consented(connection, None, T0 + secs(1));
    let told = |error| again.copy().landed(&attempt, &Err(error), &at(T0 + secs(2), &reuse), 0);
    let lost = told(ambiguous());
    assert_eq!((lost.verdict, lost.connection.profile.status), (Verdict::Failed, Status::Ambiguous));
    let unsent = told(unreachable()).connection.profile;
    assert_eq!((unsent.status, unsent.intent), (Status::Active, None));
    let denied = told(denied());
    assert_eq!((denied.verdict, denied.connection.profile.status), (Verdict::Superseded, Status::Active));
}

#[test]
fn tokens_of_one_who_was_fenced_are_saved_though_a_consent_came_between_that_kept_what_they_succeed() {
    let succeeded = |reuse: &ReuseProfile, refresh| {
        let (connection, paused) = begun(active(), &at(T0, reuse));
        let later = at(T0 + secs(60), reuse);
        let again = consented(connection, refresh, T0 + secs(1));
        let (connection, taken_over) = begun(again, &Moment { holder: OTHER, ..later });
        let landed = connection.landed(&paused, &Ok(issued("at-1", Some("rt-1"))), &later, 0);
        (landed, taken_over)
    };
    let reuse = ReuseProfile::default();
    let (landed, taken_over) = succeeded(&reuse, None);
    assert_eq!((landed.verdict, last_event(&landed.connection)), (Verdict::Refreshed, Happening::Salvaged));
    assert_eq!(values(&landed.connection), ("at-c", Some("rt-1"), Some("rt-0")));
    assert_eq!(
        (landed.connection.profile.status, &landed.connection.profile.intent),
        (Status::Active, &None)
    );
    // And the one who took over finds that out, whatever it was told.
    for outcome in [Err(denied()), Err(ambiguous()), Ok(issued("at-2", Some("rt-2")))] {
        let late = landed.connection.copy().landed(&taken_over, &outcome, &at(T0 + secs(61), &reuse), 0);
        assert_eq!(late.verdict, Verdict::Superseded);
    }
    assert_eq!(succeeded(&count(9), None).0.verdict, Verdict::Superseded, "only the last answer counts");
    let (anew, _) = succeeded(&reuse, Some("rt-c"));
    assert_eq!((anew.verdict, values(&anew.connection).1), (Verdict::Superseded, Some("rt-c")));
}

#[test]
fn an_access_token_is_kept_that_comes_beside_an_import_of_the_same_refresh_token_without_one() {
    let reuse = ReuseProfile::default();
    let (connection, attempt) = begun(active(), &at(T0, &reuse));
    let refresh = connection.tokens.as_ref().unwrap().refresh.as_ref().unwrap().copy();
    let tokens = TokenSet { access: None, refresh: Some(refresh), previous: None, surplus: Vec::new() };
    let imported = connection.imported(tokens, Scopes::default(), T0 + secs(1));
    let came = Ok(issued("at-1", Some("rt-1")));
    let landed = imported.landed(&attempt, &came, &at(T0 + secs(2), &reuse), 0);
    assert_eq!(landed.verdict, Verdict::Refreshed);
    assert_eq!(values(&landed.connection), ("at-1", Some("rt-1"), Some("rt-0")));
}

#[test]
fn what_was_fenced_and_brought_no_other_refresh_token_changes_nothing_that_another_stored() {
    let reuse = ReuseProfile::default();
    let (connection, paused) = begun(active(), &at(T0, &reuse));
    let later = at(T0 + secs(60), &reuse);
    let (connection, taken_over) = begun(connection, &Moment { holder: OTHER, ..later });
    let stored = connection.landed(&taken_over, &Ok(issued("at-2", None)), &later, 0).connection;
    let late = stored.landed(&paused, &Ok(issued("at-1", None)), &at(T0 + secs(61), &reuse), 0);
    assert_eq!((late.verdict, values(&late.connection).0), (Verdict::Superseded, "at-2"));
}
