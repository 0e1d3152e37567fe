//! F1 with a refresh left unanswered: a start that finds one is killed at its calls on files, and so is the finding out by
//! itself, which is the end of it.

use std::process::ExitStatus;
use std::time::Duration;

use token_broker::sandbox::{Exchange, Fault};

use super::{Fate, of_end};
use crate::process::{PATIENCE, Process};
use crate::profile::Habit;
use crate::stage::{Grant, Stage, soon};
use crate::tally::{Promise, Row};
use crate::tracer::{Tracer, killed_at};

/// A request that nobody answers before the end of the kit.
const NEVER: Duration = Duration::from_secs(3600);

/// Kills at the `n`-th such call of a start that finds a refresh unanswered, until it has found out about it; whether there
/// is one. At a strict provider it finds out nothing: it serves the old token, and sends nothing while that lives.
pub(super) async fn dies_starting(row: &mut Row, stage: &mut Stage, call: &str, n: u64) -> bool {
    let what = format!("{call} {n} of a start with an intent pending");
    stage.start().await;
    let mut grant = stage.connected().await;
    leave_unanswered(row, stage, &grant, &what).await;
    let unknown = stage.refreshes(&grant)[0].subject.generation;
    let before = stage.home.passed().len();
    let process = killed_at(stage, call, n);
    let (is_through, end) = if let Some(door) = process.door().await {
        stage.serve(process, &door);
        let is_through = match row.profile.habit {
            Habit::Strict => is_served(row, stage, &mut grant, &what).await,
            Habit::Reusable | Habit::Grace => found_out(stage, before).await,
        };
        (is_through, end(stage.take()).await)
    } else {
        (false, end(process).await)
    };
    let fate = if is_through { Fate::Through } else { of_end(end) };
    stage.note_death();
    let sent = stage.refreshes(&grant).len();
    row.expect(row.profile.habit != Habit::Strict || sent == 1, || {
        format!("{what}: {} requests while the token lived", sent - 1)
    });
    row.judge(stage, &mut grant, Promise::Survives, &what).await;
    if row.profile.habit == Habit::Strict {
        let is_unknown = |exchange: &&Exchange| exchange.subject.generation == unknown;
        let asked = stage.refreshes(&grant).iter().filter(is_unknown).count();
        row.expect(asked == 2, || {
            format!("{what}: presented {asked} times, and once more than before is right")
        });
    }
    fate.is_a_point(row, &what)
}

/// Ends a broker that is traced. Its tracer ends as it has ended.
async fn end(process: Process) -> ExitStatus {
    process.terminate_child();
    process.ended().await
}

/// Whether the living token is served, and the broker does not die of it.
async fn is_served(row: &mut Row, stage: &Stage, grant: &mut Grant, what: &str) -> bool {
    let living = stage.ask(grant).await;
    let has_died = stage.has_died().await;
    row.expect(living.is_ok() || has_died, || format!("{what}: the living token is not served"));
    !has_died
}

/// Kills at the `n`-th such call of a thread since the broker began to find out about an unanswered refresh; whether there is
/// one. A start at a strict provider finds out nothing.
pub(super) async fn dies_finding_out(row: &mut Row, stage: &mut Stage, call: &str, n: u64) -> bool {
    if row.profile.habit == Habit::Strict {
        return false;
    }
    let what = format!("{call} {n} of a recovery");
    stage.start().await;
    let mut grant = stage.connected().await;
    leave_unanswered(row, stage, &grant, &what).await;
    let before = stage.home.passed().len();
    let go = stage.home.path(&format!("go-{}", grant.name));
    stage.home.order(&format!("refresh.intent.before=pause:{}", go.display()));
    stage.start().await;
    soon("a recovery", has_passed(stage, before, "refresh.intent.before")).await;
    let Some(tracer) = Tracer::on(stage, call, &format!("signal=KILL:when={n}")).await else {
        println!("F1, a recovery: NOT RUN: no tracer can attach here");
        return false;
    };
    std::fs::write(&go, "").unwrap();
    let is_through = found_out(stage, before).await;
    stage.kill().await;
    tracer.ended().await;
    row.judge(stage, &mut grant, Promise::Survives, &what).await;
    !is_through
}

/// Kills the broker with a refresh of this grant unanswered. The provider has carried it out, but for a strict one: there it
/// was lost on the way, which the broker cannot know either, so that the grant must survive everywhere.
async fn leave_unanswered(row: &mut Row, stage: &mut Stage, grant: &Grant, what: &str) {
    if row.profile.habit == Habit::Strict {
        stage.meet(grant, Fault::delay_request(NEVER).without_processing());
        let (asking, log, id) = (stage.renewing(grant), stage.sandbox.log(), grant.id);
        let is_its = |exchange: &Exchange| exchange.is_refresh() && exchange.subject.grant == Some(id);
        soon("a refresh under way", log.wait_for(is_its)).await;
        stage.kill().await;
        let _ = asking.await;
    } else {
        stage.home.order("refresh.send.after=kill");
        let asked = soon("the end of a broker", stage.renewing(grant)).await.unwrap();
        row.expect(asked.is_err(), || format!("{what}: nothing was left to find out"));
        stage.died().await;
        stage.home.order("");
    }
}

/// Whether the broker finds out what became of the refresh, and does not die before.
async fn found_out(stage: &Stage, before: usize) -> bool {
    let is_answered = soon("the end of a recovery", async {
        tokio::select! {
            () = has_passed(stage, before, "refresh.answer.before") => true,
            _ = stage.process().ends_within(PATIENCE) => false,
        }
    });
    is_answered.await && !stage.has_died().await
}

/// Returns when this point was passed, by what came after the first `before` of all.
async fn has_passed(stage: &Stage, before: usize, point: &str) {
    while !stage.home.passed()[before..].iter().any(|passed| passed.point == point) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
