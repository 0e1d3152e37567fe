mod ending;

use super::*;
use crate::connection::reuse::ReuseProfile;
use crate::connection::{
    AccessToken, Connection, Holder, Moment, Others, RefreshToken, Scopes, Status, TokenSet,
};
use crate::secret::Secret;

const T0: Timestamp = Timestamp::from_millis(1_790_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

fn id(provider: &str, name: &str) -> ConnectionId {
    ConnectionId::parse(String::new(), provider.into(), name.into()).unwrap()
}

fn tokens(issued_at: Timestamp, life: Duration) -> TokenSet {
    TokenSet {
        access: Some(AccessToken {
            value: Secret::new("at".into()),
            token_type: "Bearer".into(),
            issued_at,
            expires_at: Some(issued_at + life),
        }),
        refresh: Some(RefreshToken { value: Secret::new("rt".into()), expires_at: None }),
        previous: None,
        surplus: Vec::new(),
    }
}

fn profile_of(id: ConnectionId, at: Timestamp) -> Profile {
    Connection::pending(id, at).imported(tokens(at, HOUR), Scopes::default(), at).profile
}

fn refreshed(profile: &Profile, at: Timestamp) -> Profile {
    Profile {
        generation: profile.generation + 1,
        expires_at: Some(at + HOUR),
        refreshed_at: Some(at),
        updated_at: at,
        ..profile.clone()
    }
}

/// A schedule, its clock, and what it told to do.
struct Table {
    schedule: Schedule,
    now: Timestamp,
}

impl Table {
    fn of(profiles: impl IntoIterator<Item = Profile>) -> Self {
        let mut table = Self { schedule: Schedule::new(Ahead::default()), now: T0 };
        for profile in profiles {
            table.note(&profile);
        }
        table
    }

    fn of_crowd(count: usize) -> Self {
        Self::of((0..count).map(|n| profile_of(id("sandbox", &format!("user-{n}")), T0)))
    }

    fn note(&mut self, profile: &Profile) {
        self.note_with(profile, &Lifetimes::default());
    }

    fn note_with(&mut self, profile: &Profile, lifetimes: &Lifetimes) {
        self.schedule.note(profile, lifetimes, Some(T0), None, self.now);
    }

    fn jobs(&mut self) -> Vec<Job> {
        std::iter::from_fn(|| self.schedule.take(self.now, |_| None)).collect()
    }

    fn refreshes(&mut self) -> Vec<Arc<ConnectionId>> {
        let refreshes = self.jobs().into_iter().filter_map(|job| match job {
            Job::Refresh { id, .. } => Some(id),
            Job::Warn { .. } => None,
        });
        refreshes.collect()
    }

    fn land(&mut self, id: &Arc<ConnectionId>, verdict: Verdict) {
        self.schedule.land(id, verdict == Verdict::Served, verdict, self.now);
    }

    fn succeed(&mut self, id: &Arc<ConnectionId>) {
        let before = Profile {
            generation: self.now.as_millis().unsigned_abs(),
            ..profile_of(ConnectionId::clone(id), T0)
        };
        let profile = refreshed(&before, self.now);
        self.note(&profile);
        self.land(id, Verdict::Served);
    }
}

#[test]
fn nothing_is_done_before_its_time_and_then_once() {
    let mut table = Table::of_crowd(1);
    let due = table.schedule.next_due().unwrap();
    table.now = due - Duration::from_millis(1);
    assert_eq!(table.refreshes().len(), 0);
    table.now = due;
    assert_eq!(table.refreshes().len(), 1);
    table.now = due + HOUR;
    assert_eq!(table.refreshes().len(), 0, "it is in flight");
    assert_eq!(table.schedule.next_due(), None);
}

#[test]
fn every_connection_is_refreshed_once_in_its_life_and_in_the_order_of_deadlines() {
    let mut table = Table::of_crowd(1000);
    let mut done = Vec::new();
    while table.now < T0 + HOUR {
        for id in table.refreshes() {
            table.succeed(&id);
            done.push(id);
        }
        table.now = table.schedule.next_due().unwrap();
    }
    assert_eq!(done.len(), 1000);
    let distinct: std::collections::BTreeSet<_> = done.iter().collect();
    assert_eq!(distinct.len(), 1000);
}

#[test]
fn no_more_are_in_flight_than_a_lane_has_room_for_and_one_lane_does_not_hold_up_another() {
    let crowd = |provider: &str| {
        (0..100).map(|n| profile_of(id(provider, &format!("user-{n}")), T0)).collect::<Vec<_>>()
    };
    let mut table = Table::of(crowd("stuck"));
    table.now = T0 + HOUR;
    assert_eq!(table.refreshes().len(), lane::IN_FLIGHT);
    table.now = T0;
    crowd("brisk").iter().for_each(|profile| table.note(profile));
    table.now = T0 + HOUR;
    let mut brisk = 0;
    loop {
        let ids = table.refreshes();
        if ids.is_empty() {
            break;
        }
        for id in ids {
            assert_eq!(id.provider.as_str(), "brisk");
            table.succeed(&id);
            brisk += 1;
        }
    }
    assert_eq!(brisk, 100);
}

#[test]
fn what_became_dead_or_was_removed_is_left_alone() {
    for status in [Status::ReauthRequired, Status::Revoking, Status::Pending, Status::Disabled] {
        let profile = profile_of(id("sandbox", "user-42"), T0);
        let mut table = Table::of([profile.clone()]);
        table.note(&Profile { status, ..profile });
        table.now = T0 + DAY;
        assert_eq!(table.jobs(), [], "{status:?}");
        assert_eq!(table.schedule.len(), 0);
    }
    let mut table = Table::of_crowd(10);
    (0..10).for_each(|n| table.schedule.forget(&id("sandbox", &format!("user-{n}"))));
    table.now = T0 + DAY;
    assert_eq!((table.jobs().len(), table.schedule.len(), table.schedule.next_due()), (0, 0, None));
}

#[test]
fn one_that_was_removed_while_in_flight_gives_its_room_back() {
    let mut table = Table::of_crowd(lane::IN_FLIGHT + 1);
    table.now = T0 + HOUR;
    let taken = table.refreshes();
    assert_eq!(taken.len(), lane::IN_FLIGHT);
    table.schedule.forget(&taken[0]);
    table.land(&taken[0], Verdict::Unknown);
    assert_eq!(table.refreshes().len(), 1, "the one that waited");
    assert_eq!(table.schedule.len(), lane::IN_FLIGHT);
}

#[test]
fn what_our_own_line_sends_away_comes_again_when_it_was_told_to_and_counts_against_nobody() {
    let mut table = Table::of_crowd(lane::IN_FLIGHT * 2);
    table.now = T0 + HOUR;
    let after = Duration::from_secs(15);
    let sent_away = table.refreshes();
    for id in &sent_away {
        table.land(id, Verdict::NoTurn { after });
    }
    let others = table.refreshes();
    assert_eq!(others.len(), lane::IN_FLIGHT, "nobody takes the provider for gone");
    for id in &others {
        table.schedule.forget(id);
        table.land(id, Verdict::Served);
    }
    table.now = table.now + after;
    assert_eq!(table.refreshes(), sent_away);
    // Its first failure is its first.
    table.land(&sent_away[0], Verdict::Unknown);
    let wait = table.now.until(table.schedule.next_due().unwrap());
    assert!((FIRST_WAIT / 2..=FIRST_WAIT).contains(&wait), "{wait:?}");
}

#[test]
fn a_failure_is_tried_again_later_and_later_and_not_by_everybody() {
    let mut table = Table::of_crowd(1);
    table.now = T0 + HOUR;
    let mut waits = Vec::new();
    for _ in 0..8 {
        let [id] = &table.refreshes()[..] else { panic!("one is due") };
        table.land(id, Verdict::Unknown);
        let next = table.schedule.next_due().unwrap();
        waits.push(table.now.until(next));
        table.now = next;
    }
    assert!(waits.is_sorted(), "{waits:?}");
    assert!((FIRST_WAIT / 2..=FIRST_WAIT).contains(&waits[0]), "{waits:?}");
    assert!(waits[7] <= LONGEST_WAIT && waits[7] >= LONGEST_WAIT / 2, "{waits:?}");
}

#[test]
fn an_outage_is_met_by_probes_and_its_end_by_no_herd() {
    let mut table = Table::of_crowd(10_000);
    table.now = T0 + HOUR;
    let (back_at, mut probes, mut first_after, mut per_second) =
        (table.now + 30 * MINUTE, 0, None, BTreeMap::new());
    let mut done = 0;
    while done < 10_000 {
        for id in table.refreshes() {
            if table.now < back_at {
                probes += 1;
                table.land(&id, Verdict::Refused { rest: None });
            } else {
                first_after.get_or_insert(table.now);
                *per_second.entry(back_at.until(table.now).as_secs()).or_insert(0_u32) += 1;
                table.succeed(&id);
                done += 1;
            }
        }
        table.now = table.schedule.next_due().unwrap().max(table.now + Duration::from_millis(1));
    }
    let busiest = per_second.values().max().copied().unwrap();
    let took = first_after.unwrap().until(table.now);
    println!("probes {probes}, back to done {took:?}, busiest second {busiest}");
    assert!(probes <= 16 + 40, "{probes} probes in 30 minutes");
    assert!(took >= Duration::from_secs(59), "{took:?}");
    assert!(busiest <= 200, "{busiest} in one second");
}

#[test]
fn a_rest_of_a_day_lasts_a_quarter_of_an_hour_and_ends_when_a_caller_is_answered() {
    for is_caller_answered in [false, true] {
        let mut table = Table::of_crowd(50);
        let bystander = refreshed(&profile_of(id("sandbox", "user-50"), T0), T0 + HOUR / 2);
        table.note(&bystander);
        table.now = T0 + HOUR;
        let taken = table.refreshes();
        table.land(&taken[0], Verdict::Refused { rest: Some(DAY) });
        for id in &taken[1..] {
            table.land(id, Verdict::Unknown);
        }
        let told_at = table.now;
        table.now = table.now + MINUTE;
        if is_caller_answered {
            table.note(&refreshed(&bystander, table.now));
        }
        let next = table.schedule.next_due().unwrap();
        let expected = if is_caller_answered { table.now } else { told_at + 15 * MINUTE };
        assert_eq!(next.max(table.now), expected, "answered: {is_caller_answered}");
        table.now = next.max(table.now);
        assert!(!table.refreshes().is_empty());
    }
}

#[test]
fn one_connection_in_trouble_does_not_keep_its_provider_from_the_others() {
    let mut table = Table::of_crowd(50);
    table.now = T0 + HOUR;
    let poisoned = Arc::new(id("sandbox", "user-7"));
    let mut done = 0;
    while done < 49 {
        let ids = table.refreshes();
        for id in ids {
            if id == poisoned {
                table.land(&id, Verdict::Failed);
            } else {
                table.succeed(&id);
                done += 1;
            }
        }
        table.now = table.schedule.next_due().unwrap().max(table.now);
        assert!(table.now < T0 + 2 * HOUR, "{done} done");
    }
}

#[test]
fn a_connection_that_nobody_asks_for_is_only_kept_alive() {
    let lifetimes = Lifetimes { refresh_idle: Some(90 * DAY), ..Lifetimes::default() };
    let profile = Profile { created_at: T0, ..profile_of(id("sandbox", "user-42"), T0) };
    let mut table = Table::of([]);
    table.note_with(&profile, &lifetimes);
    let (mut refreshes, mut generation) = (Vec::new(), profile.clone());
    while table.now < T0 + 365 * DAY {
        for id in table.refreshes() {
            refreshes.push(T0.until(table.now).as_secs() / DAY.as_secs());
            generation = refreshed(&generation, table.now);
            table.note_with(&generation, &lifetimes);
            table.land(&id, Verdict::Served);
        }
        table.now = table.schedule.next_due().unwrap().max(table.now + MINUTE);
    }
    let while_asked = refreshes.iter().filter(|day| **day <= 30).count();
    let afterwards: Vec<_> = refreshes.iter().filter(|day| **day > 30).collect();
    assert!(while_asked >= 30 * 24, "{while_asked}");
    assert!((5..=7).contains(&afterwards.len()), "{afterwards:?}");
}

#[test]
fn an_unknown_outcome_is_found_out_before_the_refresh_token_dies_though_nobody_asks() {
    let reuse = ReuseProfile { refresh_idle: Some(HOUR / 2), ..ReuseProfile::default() };
    let lifetimes = Lifetimes { refresh_idle: reuse.refresh_idle, ..Lifetimes::default() };
    let mut table = Table::of([]);
    let lost = profile_of(id("sandbox", "user-42"), T0);
    let lost = Profile { status: Status::Ambiguous, updated_at: T0 + 20 * MINUTE, ..lost };
    table.now = T0 + 21 * MINUTE;
    let moment = Moment { now: table.now, holder: Holder(1), others: Others::Gone, reuse: &reuse };
    table.schedule.note(&lost, &lifetimes, lost.next_attempt_at(&moment), None, table.now);
    assert_eq!(table.schedule.next_due(), Some(T0 + 27 * MINUTE));
    table.now = T0 + 27 * MINUTE;
    assert_eq!(table.refreshes().len(), 1);
}

#[test]
fn one_that_nothing_keeps_alive_costs_nothing_once_nobody_asks_for_it() {
    let mut table = Table::of_crowd(1);
    table.now = T0 + 40 * DAY;
    assert_eq!((table.jobs().len(), table.schedule.len()), (0, 0));
}

#[test]
fn whoever_asks_keeps_the_refreshes_coming() {
    let mut table = Table::of_crowd(1);
    table.now = T0 + 40 * DAY;
    let asked = table.now - DAY;
    assert!(matches!(table.schedule.take(table.now, |_| Some(asked)), Some(Job::Refresh { .. })));
}

#[test]
fn a_clock_that_jumps_an_hour_or_a_day_ahead_causes_one_refresh_each_and_no_storm() {
    for jump in [HOUR, DAY] {
        let mut table = Table::of_crowd(3000);
        table.now = T0 + MINUTE + jump;
        table.schedule.spread_all(table.now);
        let (mut per_second, mut done, jumped_at) = (BTreeMap::new(), 0, table.now);
        while table.now < jumped_at + 2 * MINUTE {
            for id in table.refreshes() {
                *per_second.entry(jumped_at.until(table.now).as_secs()).or_insert(0_u32) += 1;
                table.succeed(&id);
                done += 1;
            }
            table.now = table.schedule.next_due().unwrap().max(table.now + Duration::from_millis(1));
        }
        assert_eq!(done, 3000);
        assert!(per_second.values().max().copied().unwrap() <= 60, "{per_second:?}");
    }
}

#[test]
fn a_clock_that_is_set_back_makes_no_refresh_late() {
    for jump in [HOUR, DAY] {
        let mut table = Table::of_crowd(1);
        let due = table.schedule.next_due().unwrap();
        table.now = T0 + MINUTE - jump;
        table.schedule.shift(jump);
        assert_eq!(table.schedule.next_due(), Some(due - jump));
        table.now = due - jump;
        assert_eq!(table.refreshes().len(), 1);
    }
}

#[test]
fn a_note_while_in_flight_waits_for_the_landing() {
    let profile = profile_of(id("sandbox", "user-42"), T0);
    let mut table = Table::of([profile.clone()]);
    table.now = T0 + HOUR;
    let [id] = &table.refreshes()[..] else { panic!("one is due") };
    table.note(&profile);
    assert_eq!(table.refreshes().len(), 0);
    table.land(id, Verdict::Unknown);
    assert!(table.schedule.next_due().unwrap() > table.now);
}

#[test]
fn what_is_told_again_of_the_same_tokens_after_the_clock_was_set_back_is_not_late_by_the_jump() {
    let tokens = profile_of(id("sandbox", "user-42"), T0);
    let lifetimes = Lifetimes { refresh_idle: Some(90 * DAY), ..Lifetimes::default() };
    let mut table = Table::of([]);
    table.note_with(&tokens, &lifetimes);
    let due = table.schedule.next_due().unwrap();
    for times in 1..=2 {
        table.schedule.shift(DAY);
        table.now = table.now - DAY;
        let shifted = due - DAY * times;
        assert_eq!(table.schedule.next_due(), Some(shifted));
        // As when a refresh of a caller's is begun, and when it has failed.
        table.schedule.note(&tokens, &lifetimes, Some(table.now), None, table.now);
        assert_eq!(table.schedule.next_due(), Some(shifted));
    }
    // What the new tokens say is by the clock as it goes now.
    let successor = refreshed(&tokens, table.now);
    table.schedule.note(&successor, &lifetimes, Some(table.now), None, table.now);
    let fresh = table.schedule.next_due().unwrap();
    assert!((table.now + HOUR / 2..table.now + HOUR).contains(&fresh), "{fresh}");
}

#[test]
fn a_pause_that_is_told_after_the_clock_was_set_back_is_kept_as_it_is() {
    let tokens = profile_of(id("sandbox", "user-42"), T0);
    let mut table = Table::of([tokens.clone()]);
    table.schedule.shift(DAY);
    table.now = T0 - DAY;
    let until = table.now + 5 * HOUR;
    table.schedule.note(&tokens, &Lifetimes::default(), Some(until), None, table.now);
    assert_eq!(table.schedule.next_due(), Some(until));
}

#[test]
fn what_was_forgotten_since_a_page_was_read_is_not_planned_by_it() {
    let gone = profile_of(id("sandbox", "user-1"), T0);
    let dead = profile_of(id("sandbox", "user-2"), T0);
    let mut table = Table::of([]);
    table.schedule.begin_page();
    table.schedule.forget(&gone.id);
    table.note(&Profile { status: Status::ReauthRequired, ..dead.clone() });
    assert!(table.schedule.knows(&gone.id) && table.schedule.knows(&dead.id));
    assert_eq!(table.schedule.len(), 0);
    table.schedule.begin_page();
    assert!(!table.schedule.knows(&gone.id), "one that is made anew is on a later page");
}
