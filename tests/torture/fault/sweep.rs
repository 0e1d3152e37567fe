//! F1: the process is killed at its calls on files, one after the other: while it starts, while it starts with a refresh
//! left unanswered, and while it refreshes. The tracer counts the calls of each thread apart, so each of them begins to
//! count anew.

use crate::profile::Habit;
use crate::stage::Stage;
use crate::tally::{Promise, Row};
use crate::tracer::{Tracer, killed_at};

mod unanswered;

/// A question mark: machines that lack the call are fine.
const CALLS: [&str; 12] = [
    "openat",
    "read",
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "?sync_file_range",
    "?rename,?renameat,?renameat2",
    "?unlink,?unlinkat",
    "?mkdir,?mkdirat",
    "ftruncate",
    "flock",
];

/// From so many rounds on, one call after the other is taken, and not every third.
const LONG: u64 = 16;

/// More calls than there are: this one is let live.
const NONE: u64 = 60_000;

/// The points of a start with nothing pending and of a refresh that such a run has died at, at the least (faults.md).
const ENOUGH: u64 = 150;

pub(super) async fn inflict(row: &mut Row, rounds: u64) {
    let is_long = rounds >= LONG;
    let (stride, most) = if is_long { (1, rounds * 2) } else { (3, rounds.div_ceil(3)) };
    let which = || (1..).step_by(stride).take(usize::try_from(most).unwrap());
    let mut stage = Stage::on_demand(row).await;
    let mut unfinished = Stage::of_restarts(row).await;
    let (mut of_a_start, mut of_a_refresh) = (0_u64, 0_u64);
    let (mut with_an_intent, mut of_a_recovery) = (0_u64, 0_u64);
    for call in CALLS {
        for n in which() {
            if !dies_starting(row, &mut stage, call, n).await {
                break;
            }
            of_a_start += 1;
        }
        for n in which() {
            if !unanswered::dies_starting(row, &mut unfinished, call, n).await {
                break;
            }
            with_an_intent += 1;
        }
        for n in which() {
            if !unanswered::dies_finding_out(row, &mut unfinished, call, n).await {
                break;
            }
            of_a_recovery += 1;
        }
        for n in which() {
            if !dies_refreshing(row, &mut stage, call, n).await {
                break;
            }
            of_a_refresh += 1;
        }
    }
    let dies_of_nothing = unanswered::dies_starting(row, &mut unfinished, CALLS[0], NONE).await;
    row.expect(!dies_of_nothing, || "a start with an intent pending ends by itself".to_owned());
    let points = of_a_start + of_a_refresh;
    row.expect(!is_long || points >= ENOUGH, || format!("it died at {points} points, not at {ENOUGH}"));
    row.figures.push(("points of the start at which it died", of_a_start as f64));
    row.figures.push(("of a start with an intent pending", with_an_intent as f64));
    row.figures.push(("of its recovery", of_a_recovery as f64));
    row.figures.push(("of the refresh", of_a_refresh as f64));
}

/// Kills at the `n`-th such call of a start; whether there is one.
async fn dies_starting(row: &mut Row, stage: &mut Stage, call: &str, n: u64) -> bool {
    stage.start().await;
    let mut grant = stage.connected().await;
    stage.kill().await;
    let process = killed_at(stage, call, n);
    let is_through = process.door().await.is_some();
    process.terminate_child();
    process.ended().await;
    stage.note_death();
    row.judge(stage, &mut grant, Promise::Survives, &format!("{call} {n} of a start")).await;
    !is_through
}

/// Kills at the `n`-th such call of a thread since a refresh was asked for; whether there is one.
async fn dies_refreshing(row: &mut Row, stage: &mut Stage, call: &str, n: u64) -> bool {
    stage.start().await;
    let mut grant = stage.connected().await;
    let before = stage.home.passed().len();
    let fate = format!("signal=KILL:when={n}");
    let Some(tracer) = Tracer::on(stage, call, &fate).await else {
        println!("F1, a refresh: NOT RUN: no tracer can attach here");
        return false;
    };
    let is_through = stage.renew(&mut grant).await.is_ok() && !stage.has_died().await;
    stage.kill().await;
    tracer.ended().await;
    let passed = stage.home.passed();
    let reached = |point: &str| passed[before..].iter().any(|passed| passed.point == point);
    let on_the_wire = reached("refresh.send.before") && !reached("refresh.commit.after");
    let promise = match row.profile.habit {
        Habit::Strict if on_the_wire => Promise::MayBeLost,
        _ => Promise::Survives,
    };
    row.judge(stage, &mut grant, promise, &format!("{call} {n} of a refresh")).await;
    !is_through
}
