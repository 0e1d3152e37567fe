use super::*;
use crate::provider::spec::restraint::{Breaker as Choice, Preset};

const SECOND: Duration = Duration::from_secs(1);
const FAILURE: Verdict = Verdict::Failure(None);

fn standard() -> Breaker {
    Breaker::new(Choice::default().figures())
}

/// Lets one request through and gives it this outcome.
fn turn(breaker: &mut Breaker, verdict: Verdict, now: Instant) {
    let pass = breaker.ask(now).unwrap();
    breaker.settle(pass, verdict, now);
}

fn opened(now: Instant) -> Breaker {
    let mut breaker = standard();
    for _ in 0..5 {
        turn(&mut breaker, FAILURE, now);
    }
    assert_eq!(breaker.state(), BreakerState::Open);
    breaker
}

#[test]
fn each_preset_opens_after_its_failures_in_a_row_and_rests_its_time() {
    let now = Instant::now();
    for (preset, failures, rest) in
        [(Preset::Standard, 5, 60), (Preset::Aggressive, 3, 30), (Preset::Tolerant, 10, 120)]
    {
        let mut breaker = Breaker::new(Choice::Preset(preset).figures());
        for _ in 1..failures {
            turn(&mut breaker, FAILURE, now);
            assert_eq!(breaker.state(), BreakerState::Closed, "{preset:?}");
        }
        turn(&mut breaker, FAILURE, now);
        assert_eq!(breaker.state(), BreakerState::Open, "{preset:?}");
        let rest = SECOND * rest;
        assert_eq!(breaker.ask(now), Err(Resting { retry_after: rest }));
        assert_eq!(breaker.ask(now + rest - SECOND), Err(Resting { retry_after: SECOND }));
        assert!(breaker.ask(now + rest).is_ok());
    }
}

#[test]
fn a_success_between_failures_begins_the_count_anew() {
    let now = Instant::now();
    let mut breaker = standard();
    for _ in 0..10 {
        for _ in 0..4 {
            turn(&mut breaker, FAILURE, now);
        }
        assert_eq!(breaker.streak(), 4);
        turn(&mut breaker, Verdict::Success, now);
        assert_eq!((breaker.state(), breaker.streak()), (BreakerState::Closed, 0));
    }
}

#[test]
fn half_open_lets_one_through_at_a_time_and_closes_after_three_successes() {
    let now = Instant::now();
    let mut breaker = opened(now);
    let later = now + SECOND * 60;
    for success in 1..=3 {
        let probe = breaker.ask(later).unwrap();
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        for _ in 0..100 {
            assert!(breaker.ask(later).is_err(), "a second probe beside the first, after {success}");
        }
        breaker.settle(probe, Verdict::Success, later);
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
    let both = [breaker.ask(later).unwrap(), breaker.ask(later).unwrap()];
    assert_eq!(both[0], both[1], "everything flows");
}

#[test]
fn a_probe_that_fails_rests_again_and_forgets_the_successes_before() {
    let now = Instant::now();
    let mut breaker = opened(now);
    let later = now + SECOND * 60;
    turn(&mut breaker, Verdict::Success, later);
    turn(&mut breaker, Verdict::Success, later);
    turn(&mut breaker, FAILURE, later);
    assert_eq!(breaker.ask(later), Err(Resting { retry_after: SECOND * 60 }));
    let again = later + SECOND * 60;
    for _ in 0..2 {
        turn(&mut breaker, Verdict::Success, again);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
    }
    turn(&mut breaker, Verdict::Success, again);
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn a_probe_given_back_is_there_for_the_next() {
    let now = Instant::now();
    let mut breaker = opened(now);
    let later = now + SECOND * 60;
    let probe = breaker.ask(later).unwrap();
    breaker.give_back(probe);
    assert!(breaker.ask(later).is_ok());
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
}

#[test]
fn an_outcome_of_an_earlier_state_changes_nothing() {
    let now = Instant::now();
    let mut breaker = standard();
    let slow: Vec<Pass> = (0..10).map(|_| breaker.ask(now).unwrap()).collect();
    for _ in 0..5 {
        turn(&mut breaker, FAILURE, now);
    }
    breaker.settle(slow[0], Verdict::Success, now);
    assert_eq!(breaker.state(), BreakerState::Open, "a late success does not end the rest");
    let later = now + SECOND * 60;
    let probe = breaker.ask(later).unwrap();
    breaker.settle(slow[1], FAILURE, later);
    breaker.settle(slow[2], Verdict::Success, later);
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    assert!(breaker.ask(later).is_err(), "the probe is still out");
    breaker.settle(probe, Verdict::Success, later);
    for _ in 0..2 {
        turn(&mut breaker, Verdict::Success, later);
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
    for late in &slow[3..] {
        breaker.settle(*late, FAILURE, later);
    }
    assert_eq!((breaker.state(), breaker.streak()), (BreakerState::Closed, 0));
}

#[test]
fn a_refused_client_opens_it_at_once() {
    let now = Instant::now();
    let mut breaker = standard();
    turn(&mut breaker, Verdict::Trip, now);
    assert_eq!((breaker.state(), breaker.streak()), (BreakerState::Open, 1));
    assert_eq!(breaker.ask(now), Err(Resting { retry_after: SECOND * 60 }));
}

#[test]
fn a_longer_retry_after_makes_the_rest_longer_within_reason() {
    for (said, rests) in [(5, 60), (300, 300), (86_400, 900)] {
        let now = Instant::now();
        let mut breaker = standard();
        for _ in 0..5 {
            turn(&mut breaker, Verdict::Failure(Some(SECOND * said)), now);
        }
        assert_eq!(breaker.ask(now), Err(Resting { retry_after: SECOND * rests }));
    }
}

#[test]
fn who_is_waved_through_ends_the_rest_by_success_and_never_makes_it_longer() {
    let now = Instant::now();
    let mut breaker = opened(now);
    let later = now + SECOND;
    let pass = breaker.wave_through();
    breaker.settle(pass, FAILURE, later);
    assert_eq!(breaker.next_try(later), Some(SECOND * 59));
    let pass = breaker.wave_through();
    breaker.settle(pass, Verdict::Success, later);
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    turn(&mut breaker, Verdict::Success, later);
    turn(&mut breaker, Verdict::Success, later);
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn what_its_sender_may_hold_up_is_no_probe_and_keeps_none_back() {
    let now = Instant::now();
    let mut breaker = opened(now);
    let rested = now + SECOND * 60;
    assert_eq!(breaker.ask_beside(now), Err(Resting { retry_after: SECOND * 60 }));
    let held_up = breaker.ask_beside(rested).unwrap();
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    let probe = breaker.ask(rested).unwrap();
    assert!(breaker.ask(rested).is_err(), "one probe at a time");
    assert_eq!(breaker.ask_beside(rested), Err(Resting { retry_after: SECOND * 60 }), "one in a rest");
    breaker.settle(held_up, FAILURE, rested);
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    assert!(breaker.ask(rested).is_err(), "it is not the probe's place that it gave back");
    breaker.settle(probe, FAILURE, rested);
    assert_eq!(breaker.state(), BreakerState::Open);
}

#[test]
fn where_only_such_requests_come_they_close_it_and_wait_for_one_that_hangs_no_longer_than_a_rest() {
    let now = Instant::now();
    let mut breaker = opened(now);
    let rested = now + SECOND * 60;
    let _hangs = breaker.ask_beside(rested).unwrap();
    assert!(breaker.ask_beside(rested + SECOND * 59).is_err());
    let later = rested + SECOND * 60;
    for success in 1..=3 {
        let pass = breaker.ask_beside(later).unwrap_or_else(|_| panic!("after {success}"));
        breaker.settle(pass, Verdict::Success, later);
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
    for _ in 0..2 {
        breaker.ask_beside(later).unwrap();
    }
}

#[test]
fn a_hand_closes_it() {
    let now = Instant::now();
    let mut breaker = opened(now);
    let before = breaker.wave_through();
    breaker.close();
    assert_eq!((breaker.state(), breaker.streak()), (BreakerState::Closed, 0));
    breaker.settle(before, Verdict::Success, now);
    for _ in 0..4 {
        turn(&mut breaker, FAILURE, now);
    }
    assert_eq!(breaker.state(), BreakerState::Closed, "the count began anew");
}

#[test]
fn failures_are_told_with_their_time() {
    let now = Instant::now();
    let mut breaker = standard();
    for n in 0..3 {
        turn(&mut breaker, FAILURE, now + SECOND * 25 * n);
    }
    assert_eq!(breaker.streak_took(), SECOND * 50);
    assert_eq!(breaker.recent_failures(now + SECOND * 50), 3);
    assert_eq!(breaker.recent_failures(now + SECOND * 70), 2);
}
