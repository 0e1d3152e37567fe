//! A refresh token that dies of age before the access token beside it does, while nobody knows what became of a refresh.

use super::*;

/// What the refresh token lives unused; the access token lives an hour.
const IDLE: Duration = Duration::from_secs(1800);

fn idle(reuse: Reuse) -> ReuseProfile {
    ReuseProfile { refresh_idle: Some(IDLE), ..profile(reuse) }
}

/// Lost at two thirds of that life.
fn lost(connection: Connection, reuse: &ReuseProfile) -> Connection {
    tried(connection, Err(ambiguous()), &at(T0 + secs(1200), reuse)).connection
}

fn waits_until(connection: &Connection, moment: &Moment<'_>) -> Timestamp {
    let Step::Wait { until, why: Waiting::Outcome } = connection.profile.step(moment, false) else {
        panic!("{:?}", connection.profile.step(moment, false))
    };
    assert_eq!(connection.profile.next_attempt_at(moment), Some(until), "for a schedule");
    until
}

#[test]
fn a_lost_answer_is_asked_about_before_the_refresh_token_dies_unused() {
    let once = |reuse| match reuse {
        Reuse::Grace { window, .. } => Reuse::Grace { window, max_uses: 1 },
        Reuse::Count { is_last_only, is_same_pair, .. } => {
            Reuse::Count { max_uses: 1, is_last_only, is_same_pair }
        }
        other => other,
    };
    for reuse in [Reuse::Strict, once(grace(60).reuse), once(count(1).reuse)] {
        let reuse = idle(reuse);
        let doubt = lost(active(), &reuse);
        let probe_at = T0 + IDLE - IDLE / 10;
        assert_eq!(waits_until(&doubt, &at(T0 + secs(1220), &reuse)), probe_at, "{reuse:?}");
        assert_eq!(doubt.profile.step(&at(probe_at, &reuse), false), Step::Send);
        assert_eq!(doubt.profile.step(&at(T0 + IDLE - secs(1), &reuse), false), Step::Send);
        // Too late for it: then the living access token is all there is to lose.
        assert_eq!(waits_until(&doubt, &at(T0 + IDLE, &reuse)), T0 + LIFE - LATE_PROBE, "{reuse:?}");
    }
    let undone = active().rolled_back(&idle(Reuse::Strict), T0).unwrap();
    assert_eq!(waits_until(&undone, &at(T0, &idle(Reuse::Strict))), T0 + IDLE - IDLE / 10);
}

/// Each time may end the grant and the access token that lives, so there are few.
#[test]
fn an_answer_that_is_lost_again_is_asked_about_when_half_of_what_is_left_has_passed() {
    let reuse = idle(Reuse::Strict);
    let mut doubt = lost(active(), &reuse);
    for (asked_at, next) in [(1620, 1710), (1710, 1755)] {
        doubt = tried(doubt, Err(ambiguous()), &at(T0 + secs(asked_at), &reuse)).connection;
        assert_eq!(waits_until(&doubt, &at(T0 + secs(asked_at + 5), &reuse)), T0 + secs(next));
    }
}

#[test]
fn the_end_that_a_provider_states_for_a_refresh_token_counts_as_well() {
    let reuse = ReuseProfile::default();
    let mut stated = active();
    stated.profile.refresh_expires_at = Some(T0 + IDLE);
    assert_eq!(waits_until(&lost(stated, &reuse), &at(T0 + secs(1220), &reuse)), T0 + IDLE - IDLE / 10);
    // The earlier of the two.
    let mut both = active();
    both.profile.refresh_expires_at = Some(T0 + secs(1500));
    let reuse = idle(Reuse::Strict);
    assert_eq!(waits_until(&lost(both, &reuse), &at(T0 + secs(1220), &reuse)), T0 + secs(1350));
    // One that it has outlived is none.
    let reuse = ReuseProfile::default();
    let mut outlived = active();
    outlived.profile.refreshed_at = Some(T0 + secs(600));
    outlived.profile.refresh_expires_at = Some(T0 + secs(600));
    let doubt = tried(outlived, Err(ambiguous()), &at(T0 + secs(601), &reuse)).connection;
    assert_eq!(waits_until(&doubt, &at(T0 + secs(620), &reuse)), T0 + LIFE - LATE_PROBE);
}

#[test]
fn a_refresh_token_that_outlives_the_access_token_makes_nobody_ask_sooner() {
    let reuse = ReuseProfile { refresh_idle: Some(LIFE * 24), ..ReuseProfile::default() };
    let doubt = lost(active(), &reuse);
    assert_eq!(waits_until(&doubt, &at(T0 + secs(1220), &reuse)), T0 + LIFE - LATE_PROBE);
}

#[test]
fn beside_an_access_token_that_never_ends_a_lost_answer_is_asked_about_before_the_refresh_token_dies() {
    let reuse = ReuseProfile { refresh_idle: Some(LIFE * 24 * 90), ..ReuseProfile::default() };
    let endless = IssuedTokens { expires_in: None, ..issued("at-1", Some("rt-1")) };
    let held = tried(active(), Ok(endless), &at(T0, &reuse)).connection;
    let doubt = tried(held, Err(ambiguous()), &at(T0 + LIFE * 24 * 60, &reuse)).connection;
    let now = at(T0 + LIFE * 24 * 61, &reuse);
    assert_eq!(waits_until(&doubt, &now), T0 + LIFE * 24 * 81);
    assert_eq!(
        doubt.profile.next_attempt_at(&at(T0 + LIFE * 24 * 91, &reuse)),
        None,
        "there is nothing to save"
    );
}

#[test]
fn a_short_refresh_token_leaves_time_for_an_answer_and_is_not_asked_about_at_once() {
    for (life, before) in [(200, 30), (40, 20), (1800, 180)] {
        let reuse = ReuseProfile { refresh_idle: Some(secs(life)), ..ReuseProfile::default() };
        let ends = active().profile.refresh_ends_at(reuse.refresh_idle).unwrap();
        let doubt = active().rolled_back(&reuse, T0).unwrap();
        assert_eq!(waits_until(&doubt, &at(T0, &reuse)), ends - secs(before), "{life} s");
    }
}

#[test]
fn whose_refresh_token_dies_first_is_seen_to_first() {
    let reuse = idle(Reuse::Strict);
    assert_eq!(lost(active(), &reuse).profile.recovery_deadline(&reuse), T0 + IDLE);
    let reuse = ReuseProfile::default();
    assert_eq!(lost(active(), &reuse).profile.recovery_deadline(&reuse), T0 + LIFE);
}
