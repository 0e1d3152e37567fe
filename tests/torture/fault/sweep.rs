//! F1: the process is killed at its calls on files, one after the other: while it starts, while it starts with a refresh
//! left unanswered, and while it refreshes. The tracer counts the calls of each thread apart, so each of them begins to
//! count anew.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use token_broker::sandbox::Fault;
use tonic_types::StatusExt as _;

use crate::process::PATIENCE;
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

/// How a broker fared under the tracer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// There was such a call, and it was its last.
    Killed,
    /// There was none: it did what it was to do.
    Through,
    /// It failed, or ended, by itself: no point of the sweep.
    Failed,
}

impl Fate {
    /// Whether the sweep goes on. What failed by itself is none of the points, and a breach.
    fn is_a_point(self, row: &mut Row, what: &str) -> bool {
        row.expect(self != Self::Failed, || format!("{what}: it failed, and nobody had killed it"));
        self == Self::Killed
    }
}

/// What a process died of that was not through.
fn of_end(status: ExitStatus) -> Fate {
    if status.signal() == Some(9) { Fate::Killed } else { Fate::Failed }
}

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
    let what = "a start that nothing ends";
    let dies_of_nothing = dies_starting(row, &mut stage, CALLS[0], NONE).await;
    row.expect(!dies_of_nothing, || format!("{what}: it ended"));
    let refused = refreshing(row, &mut stage, (CALLS[0], NONE), Some(Fault::status(429))).await;
    row.expect(refused.is_none_or(|fate| fate == Fate::Failed), || {
        "a refresh that is refused counts as a death".to_owned()
    });
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
    let what = format!("{call} {n} of a start");
    stage.start().await;
    let mut grant = stage.connected().await;
    stage.kill().await;
    let process = killed_at(stage, call, n);
    let is_through = process.door().await.is_some();
    process.terminate_child();
    // A tracer ends as what it traces has ended.
    let end = of_end(process.ended().await);
    let fate = if is_through { Fate::Through } else { end };
    stage.note_death();
    row.judge(stage, &mut grant, Promise::Survives, &what).await;
    fate.is_a_point(row, &what)
}

/// Kills at the `n`-th such call of a thread since a refresh was asked for; whether there is one.
async fn dies_refreshing(row: &mut Row, stage: &mut Stage, call: &str, n: u64) -> bool {
    let fate = refreshing(row, stage, (call, n), None).await;
    fate.is_some_and(|fate| fate.is_a_point(row, &format!("{call} {n} of a refresh")))
}

/// `None`: no tracer can attach here. `refusal`: what the provider does with the request, if anything.
async fn refreshing(
    row: &mut Row,
    stage: &mut Stage,
    (call, n): (&str, u64),
    refusal: Option<Fault>,
) -> Option<Fate> {
    stage.start().await;
    let mut grant = stage.connected().await;
    if let Some(refusal) = refusal {
        stage.meet(&grant, refusal);
    }
    let before = stage.home.passed().len();
    let fate = format!("signal=KILL:when={n}");
    let Some(tracer) = Tracer::on(stage, call, &fate).await else {
        println!("F1, a refresh: NOT RUN: no tracer can attach here");
        return None;
    };
    let fate = match stage.renew(&mut grant).await {
        Ok(_) if stage.has_died().await => Fate::Killed,
        Ok(_) => Fate::Through,
        // Its door is shut before it has ended.
        Err(status) if is_of_the_wire(&status) && stage.process().ends_within(PATIENCE).await => Fate::Killed,
        Err(_) => Fate::Failed,
    };
    // Checks that a broker which has ended was killed.
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
    Some(fate)
}

/// Whether the broker gave no answer, as one that is killed; its own answers say their reason.
fn is_of_the_wire(status: &tonic::Status) -> bool {
    status.get_details_error_info().is_none()
}
