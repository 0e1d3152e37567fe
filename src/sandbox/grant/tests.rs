use std::time::Duration;

use proptest::prelude::*;

use crate::clock::Timestamp;
use crate::sandbox::profile::{GraceResult, GraceScope, Reuse, ReuseProfile, Rotation};

use super::*;

const TTL: Lifetimes = Lifetimes { access_token_ttl: Duration::from_secs(60), refresh_token_ttl: None };

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000) + Duration::from_secs(seconds)
}

/// A family begun at second 0, and the hand that refreshes it.
struct Case {
    family: Family,
    profile: ReuseProfile,
}

impl Case {
    fn new(profile: ReuseProfile) -> Self {
        Self { family: Family::begun(at(0), TTL, true).0, profile }
    }

    fn refresh(&mut self, generation: u64, second: u64) -> Result<Issued, Refused> {
        let terms = Terms { now: at(second), profile: &self.profile, ttl: TTL };
        self.family.refresh(Generation(generation), &terms)
    }

    fn is_live(&self, serial: u64, second: u64) -> bool {
        self.family.is_access_live(AccessSerial(serial), at(second))
    }
}

fn pair(generation: u64, serial: u64) -> Result<Issued, Refused> {
    Ok(Issued {
        refresh: RefreshIssued::New(Generation(generation)),
        access: AccessIssued::New(AccessSerial(serial)),
    })
}

#[test]
fn strict_reuse_ends_the_family_and_the_winners_access_token() {
    let mut case = Case::new(ReuseProfile::strict());
    assert_eq!(case.refresh(1, 1), pair(2, 2));
    assert!(case.is_live(1, 2) && case.is_live(2, 2), "a normal refresh leaves the old access token alive");

    assert_eq!(case.refresh(1, 2), Err(Refused::Reused { ended: true }));
    assert!(!case.is_live(1, 2) && !case.is_live(2, 2));
    assert_eq!(case.refresh(2, 3), Err(Refused::Ended(End::Reused)));
}

#[test]
fn a_refresh_kills_the_old_access_token_where_the_profile_says_so() {
    let mut case = Case::new(ReuseProfile::strict_old_at_dies());
    assert_eq!(case.refresh(1, 1), pair(2, 2));
    assert!(!case.is_live(1, 1));
    assert!(case.is_live(2, 1));
}

#[test]
fn a_server_that_never_rotates_omits_the_refresh_token() {
    let mut case = Case::new(ReuseProfile::reusable());
    for serial in 2..5 {
        assert_eq!(
            case.refresh(1, 1),
            Ok(Issued { refresh: RefreshIssued::Omitted, access: AccessIssued::New(AccessSerial(serial)) })
        );
    }
    assert!(!case.family.is_spent(Generation(1)));
}

#[test]
fn every_third_use_rotates() {
    let mut case = Case::new(ReuseProfile { rotation: Rotation::EveryNth(3), ..ReuseProfile::strict() });
    let rotated = |issued: Result<Issued, Refused>| matches!(issued.unwrap().refresh, RefreshIssued::New(_));
    assert!(!rotated(case.refresh(1, 1)));
    assert!(!rotated(case.refresh(1, 2)));
    assert!(rotated(case.refresh(1, 3)));
    assert_eq!(case.refresh(1, 4), Err(Refused::Reused { ended: true }));
}

#[test]
fn grace_answers_the_previous_generation_inside_the_window_only() {
    let mut case = Case::new(ReuseProfile::grace(Duration::from_secs(5)));
    assert_eq!(case.refresh(1, 10), pair(2, 2));
    assert_eq!(case.refresh(1, 14), pair(3, 3), "the window counts from the first use");
    assert_eq!(case.refresh(1, 15), Err(Refused::Reused { ended: true }));
}

#[test]
fn grace_for_the_previous_generation_does_not_cover_the_one_before() {
    let mut case = Case::new(ReuseProfile::grace(Duration::from_secs(60)));
    assert_eq!(case.refresh(1, 1), pair(2, 2));
    assert_eq!(case.refresh(2, 2), pair(3, 3));
    assert_eq!(case.refresh(1, 3), Err(Refused::Reused { ended: true }));
}

#[test]
fn grace_for_the_chain_covers_every_generation_in_its_own_window() {
    let mut case = Case::new(ReuseProfile::hydra(Duration::from_secs(6)));
    assert_eq!(case.refresh(1, 1), pair(2, 2));
    assert_eq!(case.refresh(2, 2), pair(3, 3));
    assert_eq!(case.refresh(1, 3), pair(4, 4));
    assert_eq!(case.refresh(1, 7), Err(Refused::Reused { ended: true }));
}

#[test]
fn grace_ends_after_its_last_use() {
    let reuse = Reuse::Grace {
        window: Duration::from_secs(60),
        scope: GraceScope::PreviousOnly,
        result: GraceResult::NewPair,
        max_uses: Some(1),
    };
    let mut case = Case::new(ReuseProfile { reuse, ..ReuseProfile::strict() });
    assert_eq!(case.refresh(1, 1), pair(2, 2));
    assert_eq!(case.refresh(1, 1), pair(3, 3));
    assert_eq!(case.refresh(1, 1), Err(Refused::Reused { ended: true }));
}

#[test]
fn keycloak_accepts_one_repeat_and_then_only_the_newest_answer() {
    let mut case = Case::new(ReuseProfile::keycloak_one_reuse());
    assert_eq!(case.refresh(1, 1), pair(2, 2));
    assert_eq!(case.refresh(1, 9_999), pair(3, 3), "there is no time limit");
    let mut late = Case { family: case.family.clone(), profile: case.profile.clone() };

    assert_eq!(case.refresh(3, 9_999), pair(4, 4));
    assert_eq!(late.refresh(2, 9_999), Err(Refused::Reused { ended: true }), "the older sibling kills all");
}

#[test]
fn keycloak_refuses_the_second_repeat() {
    let mut case = Case::new(ReuseProfile::keycloak_one_reuse());
    assert_eq!(case.refresh(1, 1), pair(2, 2));
    assert_eq!(case.refresh(1, 2), pair(3, 3));
    assert_eq!(case.refresh(1, 3), Err(Refused::Reused { ended: true }));
}

#[test]
fn keycloak_does_not_accept_a_token_whose_successor_was_used() {
    let mut case = Case::new(ReuseProfile::keycloak_one_reuse());
    assert_eq!(case.refresh(1, 1), pair(2, 2));
    assert_eq!(case.refresh(2, 2), pair(3, 3));
    assert_eq!(case.refresh(1, 3), Err(Refused::Reused { ended: true }));
}

#[test]
fn dex_repeats_the_successor_and_does_not_rotate_inside_the_interval() {
    let mut case = Case::new(ReuseProfile::dex(Duration::from_secs(3)));
    let same = |generation, serial| {
        Ok(Issued {
            refresh: RefreshIssued::Same(Generation(generation)),
            access: AccessIssued::New(AccessSerial(serial)),
        })
    };
    assert_eq!(case.refresh(1, 10), pair(2, 2));
    assert_eq!(case.refresh(1, 11), same(2, 3), "the same successor, a new access token");
    assert_eq!(case.refresh(2, 12), same(2, 4), "the successor is too young to rotate");
    assert_eq!(case.refresh(2, 13), pair(3, 5));
    assert_eq!(case.refresh(1, 13), Err(Refused::Reused { ended: false }));
    assert_eq!(case.refresh(3, 16), pair(4, 6), "the family outlives refused reuse");
}

#[test]
fn django_repeats_the_same_pair_even_when_its_access_token_has_died() {
    let mut case = Case::new(ReuseProfile::django(Duration::from_secs(3600)));
    assert_eq!(case.refresh(1, 1), pair(2, 2));
    let repeated = Ok(Issued {
        refresh: RefreshIssued::Same(Generation(2)),
        access: AccessIssued::Repeated(AccessSerial(2)),
    });
    assert_eq!(case.refresh(1, 2), repeated);
    assert!(!case.is_live(2, 100));
    assert_eq!(case.refresh(1, 100), repeated);
}

#[test]
fn a_repeated_pair_holds_the_newest_access_token() {
    let interval = Duration::from_secs(60);
    let profile = ReuseProfile { min_rotation_interval: interval, ..ReuseProfile::django(interval) };
    let mut case = Case::new(profile);
    assert_eq!(case.refresh(1, 100), pair(2, 2));
    let same = RefreshIssued::Same(Generation(2));
    let renewed = Issued { refresh: same, access: AccessIssued::New(AccessSerial(3)) };
    assert_eq!(case.refresh(2, 101), Ok(renewed), "too young to rotate");
    let repeated = Issued { refresh: same, access: AccessIssued::Repeated(AccessSerial(3)) };
    assert_eq!(case.refresh(1, 102), Ok(repeated));
}

#[test]
fn a_rotating_server_may_leave_every_spent_token_good() {
    let mut case = Case::new(ReuseProfile::reusable_rotating());
    assert_eq!(case.refresh(1, 1), pair(2, 2));
    assert_eq!(case.refresh(1, 9_999), pair(3, 3));
    assert_eq!(case.refresh(2, 9_999), pair(4, 4));
}

#[test]
fn a_refresh_token_past_its_lifetime_is_refused_and_ends_nothing() {
    let ttl = Lifetimes { refresh_token_ttl: Some(Duration::from_secs(10)), ..TTL };
    let (mut family, _) = Family::begun(at(0), ttl, true);
    let terms = Terms { now: at(10), profile: &ReuseProfile::strict(), ttl };
    assert_eq!(family.refresh(Generation(1), &terms), Err(Refused::Expired));
    assert_eq!(family.ended(), None);
}

#[test]
fn a_family_without_a_refresh_token_knows_none() {
    let (mut family, issued) = Family::begun(at(0), TTL, false);
    assert_eq!(issued.refresh, RefreshIssued::Omitted);
    let terms = Terms { now: at(1), profile: &ReuseProfile::strict(), ttl: TTL };
    for generation in [0, 1, u64::MAX] {
        assert_eq!(family.refresh(Generation(generation), &terms), Err(Refused::Unknown));
    }
}

#[test]
fn killing_one_access_token_leaves_the_others() {
    let mut case = Case::new(ReuseProfile::strict());
    assert_eq!(case.refresh(1, 1), pair(2, 2));
    case.family.end_access(AccessSerial(2));
    assert!(case.is_live(1, 1) && !case.is_live(2, 1));
    case.family.expire_access(at(1));
    assert!(!case.is_live(1, 1));
    assert_eq!(case.refresh(2, 1), pair(3, 3));
}

#[test]
fn a_clock_that_steps_back_does_not_stop_rotation() {
    let mut case = Case::new(ReuseProfile::strict());
    assert_eq!(case.refresh(1, 2), pair(2, 2));
    assert_eq!(case.refresh(2, 0), pair(3, 3));
}

/// One step of a random history: who is presented (as a share of what exists) and how much time passes before.
fn steps() -> impl Strategy<Value = Vec<(u8, u8)>> {
    prop::collection::vec((any::<u8>(), 0..5u8), 1..40)
}

fn profiles() -> impl Strategy<Value = ReuseProfile> {
    let window = Duration::from_secs(4);
    prop_oneof![
        Just(ReuseProfile::strict()),
        Just(ReuseProfile::strict_old_at_dies()),
        Just(ReuseProfile::reusable()),
        Just(ReuseProfile::reusable_rotating()),
        Just(ReuseProfile::grace(window)),
        Just(ReuseProfile::keycloak_one_reuse()),
        Just(ReuseProfile::dex(window)),
        Just(ReuseProfile::hydra(window)),
        Just(ReuseProfile::django(window)),
    ]
}

proptest! {
    #[test]
    fn an_ended_family_never_issues_and_nothing_of_it_is_live(profile in profiles(), steps in steps()) {
        let mut case = Case::new(profile);
        let mut second = 0;
        for (pick, pause) in steps {
            second += u64::from(pause);
            let newest = case.family.newest().unwrap().0;
            let had_ended = case.family.ended().is_some();
            let answer = case.refresh(1 + u64::from(pick) % newest, second);
            prop_assert!(!(had_ended && answer.is_ok()));
            if case.family.ended().is_some() {
                prop_assert!((1..200).all(|serial| !case.is_live(serial, second)));
            }
        }
    }

    #[test]
    fn strict_exchanges_each_refresh_token_at_most_once(steps in steps()) {
        let mut case = Case::new(ReuseProfile::strict());
        let mut exchanged = std::collections::HashSet::new();
        for (pick, pause) in steps {
            let presented = 1 + u64::from(pick) % case.family.newest().unwrap().0;
            if case.refresh(presented, u64::from(pause)).is_ok() {
                prop_assert!(exchanged.insert(presented));
            }
        }
    }

    #[test]
    fn the_newest_refresh_token_of_a_living_family_always_works(profile in profiles(), steps in steps()) {
        let mut case = Case::new(profile);
        let mut second = 0;
        for (pick, pause) in steps {
            second += u64::from(pause);
            let newest = case.family.newest().unwrap().0;
            let presented = 1 + u64::from(pick) % newest;
            if case.refresh(presented, second).is_err() && case.family.ended().is_some() {
                return Ok(());
            }
            let newest = case.family.newest().unwrap().0;
            let mut fork = Case { family: case.family.clone(), profile: case.profile.clone() };
            prop_assert!(fork.refresh(newest, second).is_ok());
        }
    }

    #[test]
    fn a_lost_answer_is_recovered_inside_the_grace_window(retry_after in 0..4u64, profile in profiles()) {
        prop_assume!(profile.reuse != Reuse::Strict);
        let mut case = Case::new(profile);
        prop_assert!(case.refresh(1, 100).is_ok());
        let Ok(Issued { refresh, .. }) = case.refresh(1, 100 + retry_after) else {
            return Err(TestCaseError::fail("the repeat was refused"));
        };
        let held = match refresh {
            RefreshIssued::New(generation) | RefreshIssued::Same(generation) => generation.0,
            RefreshIssued::Omitted => 1,
        };
        prop_assert!(case.refresh(held, 200).is_ok());
    }
}
