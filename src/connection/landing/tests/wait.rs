//! What a provider asks to wait (`Retry-After`) in an answer that leaves open whether the refresh was carried out.

use super::*;

fn busy(seconds: u64) -> ProviderError {
    let cause = AmbiguousCause::Status { status: 503, retry_after: Some(secs(seconds)) };
    ProviderError::Ambiguous { cause }
}

/// When the token may be presented again after one request at `T0` that was answered with that wait.
fn next(seconds: u64, reuse: &ReuseProfile) -> Timestamp {
    let after = tried(active(), Err(busy(seconds)), &at(T0, reuse)).connection;
    assert_eq!(after.profile.status, Status::Ambiguous);
    assert_eq!(after.profile.intent.as_ref().unwrap().tries, 1, "it may have been carried out");
    match after.profile.step(&at(T0, reuse), false) {
        Step::Wait { until, why: Waiting::Outcome } => until,
        Step::Send => T0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_wait_is_kept_in_full_where_it_can_cost_nothing() {
    // The longest of chance: a tenth is added.
    let asked = T0 + secs(600 + 60);
    assert_eq!(next(600, &profile(Reuse::Reusable)), asked);
    assert_eq!(next(600, &count(9)), asked);
}

#[test]
fn a_late_probe_is_no_earlier_than_the_provider_asks() {
    let reuse = ReuseProfile::default();
    assert_eq!(next(600, &reuse), T0 + LIFE - LATE_PROBE, "as late as ever");
    assert_eq!(next(7200, &reuse), T0 + secs(7200 + 720), "although the access token is dead by then");
    let after = tried(active(), Err(busy(600)), &at(T0, &reuse)).connection;
    let reported = after.profile.step(&at(T0 + secs(60), &reuse), true);
    assert_eq!(reported, Step::Wait { until: T0 + secs(660), why: Waiting::Outcome }, "nor after a 401");
}

#[test]
fn a_wait_that_ends_within_a_grace_period_is_kept() {
    assert_eq!(next(10, &grace(60)), T0 + secs(11));
    assert_eq!(next(0, &grace(60)), T0, "no wait at all");
}

#[test]
fn a_wait_that_outlasts_a_grace_period_does_not_cost_the_grant() {
    let reuse = grace(5);
    // Of the 4 s in which a request arrives in time.
    assert_eq!(next(3600, &reuse), T0 + secs(2));
    let first = tried(active(), Err(busy(3600)), &at(T0, &reuse)).connection;
    let second = tried(first, Err(busy(3600)), &at(T0 + secs(2), &reuse)).connection;
    let step = second.profile.step(&at(T0 + secs(2), &reuse), false);
    assert_eq!(step, Step::Wait { until: T0 + secs(3), why: Waiting::Outcome });
    // When it is over nothing is saved by haste.
    let third = tried(second, Err(busy(7200)), &at(T0 + secs(3), &reuse)).connection;
    let step = third.profile.step(&at(T0 + secs(3), &reuse), false);
    assert_eq!(step, Step::Wait { until: T0 + secs(3 + 7200 + 720), why: Waiting::Outcome });
}

#[test]
fn a_lost_answer_that_says_nothing_of_time_is_asked_for_as_before() {
    let silent =
        ProviderError::Ambiguous { cause: AmbiguousCause::Status { status: 503, retry_after: None } };
    let reuse = grace(5);
    let after = tried(active(), Err(silent), &at(T0, &reuse)).connection;
    assert_eq!(after.profile.backoff, None);
    assert_eq!(after.profile.step(&at(T0, &reuse), false), Step::Send);
}

#[test]
fn a_connection_that_is_revoked_is_asked_after_no_earlier_than_the_provider_asks() {
    let reuse = ReuseProfile::default();
    let (connection, lost) = begun(active(), &at(T0, &reuse));
    let connection = connection.landed(&lost, &Err(ambiguous()), &at(T0, &reuse), 0).connection;
    let now = lost.until();
    let asking = connection.revoking(&reuse, T0).asking(7, &at(now, &reuse));
    let attempt = asking.profile.intent.clone().unwrap();
    let landed = asking.landed(&attempt, &Err(busy(600)), &at(now, &reuse), 1000).connection;
    assert!(landed.profile.is_in_doubt(&reuse));
    assert_eq!(landed.profile.asks_at(&at(now, &reuse)), Some(now + secs(660)));
}
