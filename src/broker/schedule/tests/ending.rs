//! The end of a grant: announced in time, once, and known to those who were not there.

use super::*;

#[test]
fn the_end_of_a_grant_is_announced_once_and_in_time() {
    let lifetimes = Lifetimes { refresh_absolute: Some(90 * DAY), ..Lifetimes::default() };
    let mut profile = Profile { consented_at: Some(T0), ..profile_of(id("sandbox", "user-42"), T0) };
    let mut table = Table::of([]);
    table.note_with(&profile, &lifetimes);
    let mut told = Vec::new();
    while table.now < T0 + 90 * DAY {
        let jobs: Vec<_> =
            std::iter::from_fn(|| table.schedule.take(table.now, |_| Some(table.now))).collect();
        for job in jobs {
            match job {
                Job::Warn { ends_at, .. } => told.push((T0.until(table.now), ends_at)),
                Job::Refresh { id, .. } => {
                    profile = refreshed(&profile, table.now);
                    table.note_with(&profile, &lifetimes);
                    table.land(&id, Verdict::Served);
                }
            }
        }
        table.now = table.schedule.next_due().unwrap().max(table.now + MINUTE);
    }
    let [(after, ends_at)] = told[..] else { panic!("{told:?}") };
    assert_eq!(ends_at, T0 + 90 * DAY);
    assert!((83 * DAY..83 * DAY + HOUR).contains(&after), "{after:?}");
}

#[test]
fn the_end_of_a_grant_is_announced_in_time_though_its_provider_rests() {
    let lifetimes = Lifetimes { refresh_absolute: Some(8 * DAY), ..Lifetimes::default() };
    let profile = Profile { consented_at: Some(T0), ..profile_of(id("sandbox", "user-42"), T0) };
    let mut table = Table::of_crowd(1);
    table.note_with(&profile, &lifetimes);
    table.now = T0 + 6 * DAY - MINUTE;
    for id in table.refreshes() {
        table.land(&id, Verdict::Refused { rest: Some(HOUR) });
    }
    assert_eq!(table.schedule.next_due(), Some(T0 + 6 * DAY));
    table.now = T0 + 6 * DAY;
    let [Job::Warn { ends_at, .. }] = table.jobs()[..] else { panic!("an announcement and nothing else") };
    assert_eq!(ends_at, T0 + 8 * DAY);
}

#[test]
fn an_end_that_was_announced_is_known_until_it_comes_though_nobody_asks_for_the_connection() {
    let lifetimes = Lifetimes { refresh_absolute: Some(90 * DAY), ..Lifetimes::default() };
    let profile = Profile { consented_at: Some(T0), ..profile_of(id("sandbox", "user-42"), T0) };
    let mut table = Table::of([]);
    table.note_with(&profile, &lifetimes);
    let known = |table: &Table| table.schedule.announced_end(&profile.id, table.now);
    table.now = T0 + 83 * DAY;
    assert_eq!(known(&table), None, "nobody was told yet");
    assert!(matches!(table.jobs()[..], [Job::Warn { .. }]));
    assert_eq!(known(&table), Some(T0 + 90 * DAY));
    table.now = T0 + 90 * DAY - MINUTE;
    // As when it is idle and its record is written for another reason.
    table.note_with(&profile, &lifetimes);
    assert!(table.jobs().is_empty(), "announced once");
    assert_eq!(known(&table), Some(T0 + 90 * DAY));
    table.now = T0 + 90 * DAY;
    assert!(table.jobs().is_empty());
    assert_eq!((known(&table), table.schedule.len()), (None, 0));
}

#[test]
fn ends_that_came_while_nobody_ran_are_announced_one_after_the_other() {
    let lifetimes = Lifetimes { refresh_absolute: Some(90 * DAY), ..Lifetimes::default() };
    let mut table = Table::of([]);
    table.now = T0 + 100 * DAY;
    for n in 0..50 {
        let id = id("sandbox", &format!("user-{n}"));
        table.note_with(&Profile { consented_at: Some(T0), ..profile_of(id, T0) }, &lifetimes);
    }
    table.schedule.spread_all(table.now);
    let mut told = 0;
    while let Some(due) = table.schedule.next_due() {
        table.now = table.now.max(due);
        let jobs = table.jobs();
        assert!(jobs.len() <= 1 && jobs.iter().all(|job| matches!(job, Job::Warn { .. })));
        told += jobs.len();
    }
    assert_eq!((told, table.schedule.len()), (50, 0));
}

#[test]
fn an_end_that_slides_with_every_refresh_is_none_and_one_that_stands_is() {
    for (slides, expected) in [(true, 0), (false, 1)] {
        let mut profile = profile_of(id("sandbox", "user-42"), T0);
        profile.refresh_expires_at = Some(T0 + 10 * DAY);
        let mut table = Table::of([profile.clone()]);
        let mut told = 0;
        while table.now < T0 + 9 * DAY {
            for job in table.jobs() {
                match job {
                    Job::Warn { .. } => told += 1,
                    Job::Refresh { id, .. } => {
                        profile = refreshed(&profile, table.now);
                        if slides {
                            profile.refresh_expires_at = Some(table.now + 10 * DAY);
                        }
                        table.note(&profile);
                        table.land(&id, Verdict::Served);
                    }
                }
            }
            table.now = table.schedule.next_due().unwrap().max(table.now + MINUTE);
        }
        assert_eq!(told, expected, "slides: {slides}");
    }
}
