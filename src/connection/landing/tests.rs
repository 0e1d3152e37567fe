mod dying;
mod ending;
mod late;
mod narrowed;
mod stale;
mod wait;

use std::time::Duration;

use super::*;
use crate::connection::attempt::{CLOCK_MARGIN, Holder};
use crate::connection::step::{LATE_PROBE, Others, Step, Waiting};
use crate::connection::{ConnectionId, Scopes};
use crate::error::{AmbiguousCause, OAuthCode, Unsent};

const T0: Timestamp = Timestamp::from_millis(1_000_000_000);
const LIFE: Duration = Duration::from_secs(3600);
const ME: Holder = Holder(1);
const OTHER: Holder = Holder(2);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn profile(reuse: Reuse) -> ReuseProfile {
    ReuseProfile { reuse, ..ReuseProfile::default() }
}

fn grace(seconds: u64) -> ReuseProfile {
    profile(Reuse::Grace { window: secs(seconds), max_uses: 3 })
}

fn count(max_uses: u32) -> ReuseProfile {
    profile(Reuse::Count { max_uses, is_last_only: true, is_same_pair: false })
}

fn at(now: Timestamp, reuse: &ReuseProfile) -> Moment<'_> {
    Moment { now, holder: ME, others: Others::Gone, reuse }
}

fn issued(access: &str, refresh: Option<&str>) -> IssuedTokens {
    IssuedTokens {
        access_token: Secret::new(access.to_owned()),
        token_type: "Bearer".into(),
        expires_in: Some(LIFE),
        refresh_token: refresh.map(|r| Secret::new(r.to_owned())),
        refresh_expires_in: None,
        scopes: None,
        account: None,
        variables: Default::default(),
    }
}

fn active() -> Connection {
    let id = ConnectionId::parse(String::new(), "sandbox".into(), "user-42".into()).unwrap();
    let tokens = issued("at-0", Some("rt-0")).into_set(None, T0);
    Connection::pending(id, T0).imported(tokens, Scopes::default(), T0)
}

#[test]
fn a_refresh_takes_over_what_it_tells_of_variables() {
    let (reuse, mut connection) = (profile(Reuse::Strict), active());
    for (told, known) in
        [(Some(Some("a")), Some("a")), (None, Some("a")), (Some(Some("b")), Some("b")), (Some(None), None)]
    {
        let moment = at(T0, &reuse);
        let begun = connection.begun(1, &moment);
        let attempt = begun.profile.intent.clone().unwrap();
        let variables = told.map(|value| ("org".to_owned(), value.map(str::to_owned))).into_iter().collect();
        let outcome = Ok(IssuedTokens { variables, ..issued("at-1", Some("rt-1")) });
        connection = begun.landed(&attempt, &outcome, &moment, 0).connection;
        assert_eq!(connection.profile.variables.get("org").map(String::as_str), known);
    }
}

fn ambiguous() -> ProviderError {
    ProviderError::Ambiguous { cause: AmbiguousCause::Timeout }
}

fn denied() -> ProviderError {
    ProviderError::Denied(OAuthCode::new("invalid_grant"))
}

fn unreachable() -> ProviderError {
    ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None }
}

fn begun(connection: Connection, moment: &Moment<'_>) -> (Connection, Intent) {
    let attempt_id = connection.profile.fence + 100;
    let connection = connection.begun(attempt_id, moment);
    let attempt = connection.profile.intent.clone().unwrap();
    (connection, attempt)
}

/// One attempt, nobody in between.
fn tried(
    connection: Connection,
    outcome: Result<IssuedTokens, ProviderError>,
    moment: &Moment<'_>,
) -> Landed {
    let (connection, attempt) = begun(connection, moment);
    connection.landed(&attempt, &outcome, moment, 1000)
}

fn values(connection: &Connection) -> (&str, Option<&str>, Option<&str>) {
    let tokens = connection.tokens.as_ref().unwrap();
    let value = |token: &'_ RefreshToken| -> &'static str { token.value.expose().clone().leak() };
    (
        tokens.access.as_ref().unwrap().value.expose(),
        tokens.refresh.as_ref().map(value),
        tokens.previous.as_ref().map(value),
    )
}

fn last_event(connection: &Connection) -> Happening {
    connection.history.events().last().unwrap().what
}

#[test]
fn an_intent_names_the_attempt_and_raises_the_fence() {
    let reuse = ReuseProfile::default();
    let before = active();
    let fence = before.profile.fence;
    let (connection, attempt) = begun(before, &at(T0, &reuse));
    assert_eq!(attempt.fence, fence + 1);
    assert_eq!(connection.profile.fence, fence + 1);
    assert_eq!((attempt.generation, attempt.tries, attempt.holder), (1, 1, ME));
    assert_eq!(attempt.deadline, T0 + reuse.token_timeout);
    assert_eq!(attempt.until(), attempt.deadline + CLOCK_MARGIN);
    assert_eq!(connection.profile.status, Status::Active);
}

#[test]
fn a_success_clears_all_that_was_unfinished() {
    let landed = tried(active(), Ok(issued("at-1", Some("rt-1"))), &at(T0, &ReuseProfile::default()));
    assert_eq!(landed.verdict, Verdict::Refreshed);
    let profile = &landed.connection.profile;
    assert_eq!((profile.generation, profile.status), (2, Status::Active));
    assert_eq!((&profile.intent, &profile.backoff), (&None, &None));
    assert_eq!(values(&landed.connection), ("at-1", Some("rt-1"), Some("rt-0")));
    assert_eq!(last_event(&landed.connection), Happening::Refreshed);
}

#[test]
fn a_reply_without_a_refresh_token_keeps_the_stored_one() {
    let after = tried(active(), Ok(issued("at-1", None)), &at(T0, &ReuseProfile::default())).connection;
    assert_eq!(values(&after), ("at-1", Some("rt-0"), None));
    let again = tried(after, Ok(issued("at-2", Some("rt-0"))), &at(T0, &ReuseProfile::default())).connection;
    assert_eq!(values(&again), ("at-2", Some("rt-0"), None), "the same value is no successor");
}

#[test]
fn what_was_certainly_not_processed_leaves_no_doubt_behind() {
    let failures = [
        unreachable(),
        ProviderError::RateLimited { retry_after: Some(secs(120)) },
        ProviderError::Misconfigured(OAuthCode::new("invalid_client")),
        ProviderError::Malformed,
        ProviderError::CircuitOpen { retry_after: secs(60), outage: Box::default() },
    ];
    for error in failures {
        let landed = tried(active(), Err(error.clone()), &at(T0, &ReuseProfile::default()));
        assert_eq!(landed.verdict, Verdict::Failed, "{error:?}");
        let profile = &landed.connection.profile;
        assert_eq!((profile.status, &profile.intent), (Status::Active, &None), "{error:?}");
        assert_eq!(values(&landed.connection), ("at-0", Some("rt-0"), None), "{error:?}");
        let asks_to_wait = matches!(
            error,
            ProviderError::Unavailable { .. } | ProviderError::RateLimited { .. } | ProviderError::Malformed
        );
        assert_eq!(profile.backoff.is_some(), asks_to_wait, "the provider's trouble is not the connection's");
    }
}

#[test]
fn retry_after_is_honoured_to_the_second() {
    let reuse = ReuseProfile::default();
    let limited = ProviderError::RateLimited { retry_after: Some(secs(120)) };
    let after = tried(active(), Err(limited), &at(T0, &reuse)).connection;
    let early = after.profile.step(&at(T0 + secs(119), &reuse), false);
    assert!(matches!(early, Step::Wait { why: Waiting::Pause, .. }), "{early:?}");
    assert_eq!(after.profile.step(&at(T0 + secs(133), &reuse), false), Step::Send);
}

#[test]
fn an_unanswered_refresh_of_a_reusable_token_is_tried_again_after_a_pause() {
    let reuse = profile(Reuse::Reusable);
    let after = tried(active(), Err(ambiguous()), &at(T0, &reuse)).connection;
    assert_eq!(after.profile.status, Status::Ambiguous);
    assert!(matches!(after.profile.step(&at(T0, &reuse), false), Step::Wait { .. }));
    assert_eq!(after.profile.step(&at(T0 + secs(1), &reuse), false), Step::Send);
}

#[test]
fn in_a_grace_period_the_same_token_is_sent_again_at_once_and_not_after_it() {
    let reuse = grace(5);
    let after = tried(active(), Err(ambiguous()), &at(T0, &reuse)).connection;
    assert_eq!(after.profile.step(&at(T0 + secs(3), &reuse), false), Step::Send);
    let late = after.profile.step(&at(T0 + secs(4), &reuse), false);
    assert_eq!(late, Step::Wait { until: T0 + LIFE - LATE_PROBE, why: Waiting::Outcome }, "then as strict");
}

#[test]
fn a_grace_period_allows_so_many_uses_and_no_more() {
    let reuse = grace(60);
    let mut connection = active();
    for tries in 1..=3 {
        assert_eq!(connection.profile.step(&at(T0 + secs(1), &reuse), false), Step::Send, "{tries}");
        connection = tried(connection, Err(ambiguous()), &at(T0 + secs(1), &reuse)).connection;
        assert_eq!(connection.profile.intent.as_ref().unwrap().tries, tries);
    }
    assert!(matches!(connection.profile.step(&at(T0 + secs(1), &reuse), false), Step::Wait { .. }));
}

#[test]
fn a_retry_that_reached_nobody_is_no_use_and_ends_no_doubt() {
    let reuse = grace(60);
    let doubt = tried(active(), Err(ambiguous()), &at(T0, &reuse)).connection;
    let after = tried(doubt, Err(unreachable()), &at(T0 + secs(1), &reuse)).connection;
    assert_eq!(
        after.profile.status,
        Status::Ambiguous,
        "the first request's outcome is as unknown as before"
    );
    let intent = after.profile.intent.as_ref().unwrap();
    assert_eq!((intent.tries, intent.first_sent_at), (1, T0));
}

#[test]
fn a_strict_provider_is_asked_late_and_at_once_where_nothing_lives() {
    let reuse = ReuseProfile::default();
    let doubt = tried(active(), Err(ambiguous()), &at(T0, &reuse)).connection;
    let settled = T0 + reuse.token_timeout + CLOCK_MARGIN;
    let probe = Step::Wait { until: T0 + LIFE - LATE_PROBE, why: Waiting::Outcome };
    assert_eq!(doubt.profile.step(&at(settled, &reuse), false), probe);
    assert_eq!(doubt.profile.step(&at(T0 + LIFE - LATE_PROBE, &reuse), false), Step::Send);
    // Refused with 401: there is nothing left to protect, but what is under way must settle.
    let early = doubt.profile.step(&at(T0 + secs(1), &reuse), true);
    assert_eq!(early, Step::Wait { until: settled, why: Waiting::Outcome });
    assert_eq!(doubt.profile.step(&at(settled, &reuse), true), Step::Send);
    assert!(doubt.serving().is_some(), "the old access token is served meanwhile");
}

#[test]
fn an_access_token_that_never_ends_is_not_risked_to_find_out_about_a_lost_answer() {
    let reuse = ReuseProfile::default();
    let endless = IssuedTokens { expires_in: None, ..issued("at-1", Some("rt-1")) };
    let held = tried(active(), Ok(endless), &at(T0, &reuse)).connection;
    let doubt = tried(held, Err(ambiguous()), &at(T0 + LIFE, &reuse)).connection;
    for after in [secs(60), LIFE * 24, LIFE * 24 * 365] {
        let now = T0 + LIFE + after;
        let step = doubt.profile.step(&at(now, &reuse), false);
        assert!(matches!(step, Step::Wait { until, .. } if until > now), "{step:?}");
        assert_eq!(
            doubt.profile.next_attempt_at(&at(now, &reuse)),
            None,
            "nothing that a schedule could wait for"
        );
        assert_eq!(doubt.profile.step(&at(now, &reuse), true), Step::Send, "refused: nothing is left of it");
    }
}

#[test]
fn a_late_probe_that_succeeds_says_that_the_grant_was_recovered() {
    let reuse = ReuseProfile::default();
    let doubt = tried(active(), Err(ambiguous()), &at(T0, &reuse)).connection;
    let late = T0 + LIFE;
    let landed = tried(doubt, Ok(issued("at-1", Some("rt-1"))), &at(late, &reuse));
    assert_eq!(landed.verdict, Verdict::Refreshed);
    assert_eq!(last_event(&landed.connection), Happening::Recovered);
    assert_eq!(landed.connection.profile.expires_at, Some(late + LIFE), "made for this request");
}

#[test]
fn an_intent_of_a_killed_run_is_let_settle_where_a_second_use_could_end_the_grant() {
    for reuse in [ReuseProfile::default(), count(9)] {
        let theirs = Moment { holder: OTHER, ..at(T0 + LIFE, &reuse) };
        let (found, attempt) = begun(active(), &theirs);
        let ours = at(T0 + LIFE + secs(1), &reuse);
        let step = found.profile.step(&ours, false);
        assert_eq!(step, Step::Wait { until: attempt.until(), why: Waiting::Outcome }, "{reuse:?}");
        assert_eq!(found.profile.step(&at(attempt.until(), &reuse), false), Step::Send);
    }
}

#[test]
fn an_intent_of_a_killed_run_is_taken_up_at_once_where_that_is_safe() {
    for reuse in [profile(Reuse::Reusable), grace(5)] {
        let (found, _) = begun(active(), &Moment { holder: OTHER, ..at(T0, &reuse) });
        assert_eq!(found.profile.step(&at(T0 + secs(1), &reuse), false), Step::Send);
    }
}

#[test]
fn a_replica_that_may_live_is_waited_out_unless_the_grace_would_be_over() {
    let short = grace(5);
    let (found, _) = begun(active(), &Moment { holder: OTHER, ..at(T0, &short) });
    let now = Moment { others: Others::MayLive, ..at(T0 + secs(1), &short) };
    assert_eq!(found.profile.step(&now, false), Step::Send);
    let long = grace(600);
    let (found, attempt) = begun(active(), &Moment { holder: OTHER, ..at(T0, &long) });
    let now = Moment { others: Others::MayLive, ..at(T0 + secs(1), &long) };
    let step = found.profile.step(&now, false);
    assert_eq!(step, Step::Wait { until: attempt.until(), why: Waiting::Outcome });
}

#[test]
fn a_clock_that_was_set_back_does_not_freeze_a_connection() {
    let reuse = ReuseProfile::default();
    let (found, _) = begun(active(), &Moment { holder: OTHER, ..at(T0 + secs(86_400), &reuse) });
    let step = found.profile.step(&at(T0, &reuse), true);
    assert_eq!(step, Step::Send, "the intent lies a day ahead: nothing of it is under way");
}

#[test]
fn a_clock_that_was_set_back_after_a_failure_makes_no_pause_longer() {
    let (reuse, hour) = (ReuseProfile::default(), secs(3600));
    let failed = tried(active(), Err(unreachable()), &at(T0 + hour, &reuse)).connection.profile;
    let until = T0 + hour + secs(1);
    assert_eq!(failed.step(&at(T0 + hour, &reuse), false), Step::Wait { until, why: Waiting::Pause });
    assert_eq!(failed.step(&at(T0, &reuse), false), Step::Send, "it would last an hour");
    let told = Connection::failure(&failed, T0).asked_wait();
    assert_eq!(told, Some(Duration::ZERO), "nor is anybody told to wait so long");
}

#[test]
fn the_life_of_a_token_that_a_grace_answer_repeats_counts_from_the_first_request() {
    let reuse = grace(60);
    let doubt = tried(active(), Err(ambiguous()), &at(T0 + secs(100), &reuse)).connection;
    let landed = tried(doubt, Ok(issued("at-1", Some("rt-1"))), &at(T0 + secs(150), &reuse));
    assert_eq!(landed.connection.profile.expires_at, Some(T0 + secs(100) + LIFE));
}

#[test]
fn an_access_token_already_held_keeps_its_old_expiry() {
    let late = T0 + LIFE + secs(50);
    let landed = tried(active(), Ok(issued("at-0", Some("rt-1"))), &at(late, &ReuseProfile::default()));
    assert_eq!(landed.verdict, Verdict::Refreshed);
    assert_eq!(landed.connection.profile.expires_at, Some(T0 + LIFE));
    let access = landed.connection.tokens.as_ref().unwrap().access.as_ref().unwrap();
    assert!(!access.is_alive(late), "it is dead, whatever the provider says of its life");
}

#[test]
fn a_denial_is_believed_after_as_many_as_the_provider_needs() {
    let reuse = ReuseProfile { invalid_grant_confirmations: 3, ..ReuseProfile::default() };
    let mut connection = active();
    for _ in 0..2 {
        let landed = tried(connection, Err(denied()), &at(T0, &reuse));
        assert_eq!((landed.verdict, last_event(&landed.connection)), (Verdict::Failed, Happening::Denied));
        connection = landed.connection;
        assert_eq!((connection.profile.status, &connection.profile.intent), (Status::Active, &None));
        assert!(matches!(connection.profile.step(&at(T0, &reuse), false), Step::Wait { .. }));
    }
    let flaky = tried(connection.copy(), Ok(issued("at-1", Some("rt-1"))), &at(T0, &reuse)).connection;
    assert_eq!(flaky.profile.denials, 0, "in a row, not in all");
    let landed = tried(connection, Err(denied()), &at(T0, &reuse));
    assert_eq!(landed.verdict, Verdict::Dead);
    let dead = landed.connection;
    assert_eq!((dead.profile.status, dead.profile.quarantined_at), (Status::ReauthRequired, Some(T0)));
    assert_eq!(dead.profile.step(&at(T0 + LIFE, &reuse), true), Step::NotServing, "no automatic attempt");
    assert_eq!(values(&dead).1, Some("rt-0"), "kept, for an operator's retry");
    assert!(dead.serving().is_none());
}

#[test]
fn a_dead_grant_is_tried_once_on_an_operators_word() {
    let reuse = ReuseProfile::default();
    let dead = tried(active(), Err(denied()), &at(T0, &reuse)).connection;
    assert!(active().retried(T0).is_none(), "a living one is simply refreshed");
    let again = tried(dead.copy().retried(T0).unwrap(), Err(denied()), &at(T0, &reuse));
    assert_eq!((again.verdict, again.connection.profile.status), (Verdict::Dead, Status::ReauthRequired));
    let lost = tried(dead.copy().retried(T0).unwrap(), Err(ambiguous()), &at(T0, &reuse));
    assert_eq!((lost.verdict, lost.connection.profile.status), (Verdict::Dead, Status::ReauthRequired));
    assert_eq!(
        lost.connection.profile.intent.map(|intent| intent.tries),
        Some(1),
        "a use, should it be tried again"
    );
    let alive = tried(dead.retried(T0).unwrap(), Ok(issued("at-1", None)), &at(T0, &reuse));
    assert_eq!(alive.verdict, Verdict::Refreshed);
    assert_eq!(alive.connection.profile.status, Status::Active);
}

#[test]
fn what_was_written_down_and_never_sent_leaves_no_doubt() {
    let reuse = ReuseProfile::default();
    let (connection, attempt) = begun(active(), &at(T0, &reuse));
    let landed = connection.unsent(&attempt, T0);
    assert_eq!(landed.verdict, Verdict::Failed);
    assert_eq!(landed.connection.profile.intent, None);
    assert_eq!(landed.connection.profile.step(&at(T0, &reuse), false), Step::Send);
}

#[test]
fn a_store_put_back_makes_rotating_grants_doubtful_and_no_others() {
    let strict = ReuseProfile::default();
    let doubtful = active().rolled_back(&strict, T0).unwrap();
    assert_eq!(doubtful.profile.status, Status::Ambiguous);
    let probe = Step::Wait { until: T0 + LIFE - LATE_PROBE, why: Waiting::Outcome };
    assert_eq!(doubtful.profile.step(&at(T0, &strict), false), probe);
    assert!(active().rolled_back(&profile(Reuse::Reusable), T0).is_none());
    let never = ReuseProfile { rotation: Rotation::Never, ..strict.clone() };
    assert!(active().rolled_back(&never, T0).is_none());
    let dead = tried(active(), Err(denied()), &at(T0, &strict)).connection;
    assert!(dead.rolled_back(&strict, T0).is_none());
}

#[test]
fn inside_a_grace_period_what_the_provider_asks_for_is_kept_where_there_is_time() {
    let reuse = grace(60);
    let doubt = tried(active(), Err(ambiguous()), &at(T0, &reuse)).connection;
    let limited = ProviderError::RateLimited { retry_after: Some(secs(10)) };
    let after = tried(doubt, Err(limited), &at(T0 + secs(1), &reuse)).connection;
    let early = after.profile.step(&at(T0 + secs(10), &reuse), false);
    assert!(matches!(early, Step::Wait { .. }), "{early:?}");
    assert_eq!(after.profile.step(&at(T0 + secs(12), &reuse), false), Step::Send);
}

#[test]
fn a_pause_that_outlasts_a_grace_period_is_cut_to_half_of_what_is_left() {
    let reuse = grace(60);
    let doubt = tried(active(), Err(ambiguous()), &at(T0, &reuse)).connection;
    let limited = || Err(ProviderError::RateLimited { retry_after: Some(secs(600)) });
    let after = tried(doubt, limited(), &at(T0 + secs(1), &reuse)).connection;
    let half = Step::Wait { until: T0 + secs(30), why: Waiting::Outcome };
    assert_eq!(after.profile.step(&at(T0 + secs(1), &reuse), false), half);
    let after = tried(after, limited(), &at(T0 + secs(31), &reuse)).connection;
    let half = Step::Wait { until: T0 + secs(45), why: Waiting::Outcome };
    assert_eq!(after.profile.step(&at(T0 + secs(31), &reuse), false), half);
}

#[test]
fn an_unwell_client_is_no_reason_to_ask_about_a_lost_answer_in_a_loop() {
    let reuse = grace(60);
    for error in [
        ProviderError::Misconfigured(OAuthCode::new("invalid_client")),
        ProviderError::Malformed,
        ProviderError::CircuitOpen { retry_after: secs(1), outage: Box::default() },
    ] {
        let mut connection = tried(active(), Err(ambiguous()), &at(T0, &reuse)).connection;
        let (mut now, mut requests) = (T0, 0);
        while let Some(next) = connection.profile.next_attempt_at(&at(now, &reuse)) {
            now = next.max(now + Duration::from_millis(50));
            if now >= T0 + secs(59) {
                break;
            }
            connection = tried(connection, Err(error.clone()), &at(now, &reuse)).connection;
            requests += 1;
        }
        assert!((3..40).contains(&requests), "{requests} requests after {error:?}");
    }
}

#[test]
fn an_operators_next_try_of_a_lost_answer_is_a_further_use_of_the_same_token() {
    let reuse = grace(60);
    let dead = tried(active(), Err(denied()), &at(T0, &reuse)).connection;
    let again = |connection: Connection, now| {
        let retried = connection.retried(now).unwrap();
        begun(retried, &at(now, &reuse))
    };
    let (connection, first) = again(dead, T0 + secs(1));
    let lost = connection.landed(&first, &Err(ambiguous()), &at(T0 + secs(2), &reuse), 0);
    assert_eq!(lost.verdict, Verdict::Dead);
    let (connection, second) = again(lost.connection, T0 + secs(30));
    assert_eq!((second.tries, second.first_sent_at), (2, T0 + secs(1)));
    // What a grace period repeats was issued for the first of them.
    let landed =
        connection.copy().landed(&second, &Ok(issued("at-1", Some("rt-1"))), &at(T0 + secs(31), &reuse), 0);
    assert_eq!(landed.verdict, Verdict::Refreshed);
    assert_eq!(landed.connection.profile.expires_at, Some(T0 + secs(1) + LIFE));
    // A denial is an answer; the lost one stays lost.
    let denied = connection.landed(&second, &Err(denied()), &at(T0 + secs(31), &reuse), 0);
    assert_eq!(denied.verdict, Verdict::Dead);
    let (_, third) = again(denied.connection, T0 + secs(40));
    assert_eq!((third.tries, third.first_sent_at), (2, T0 + secs(1)));
}
