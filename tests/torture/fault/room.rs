//! F8, F9 on a real disk: the store lies on a small volume that somebody else fills to the last byte, before a request or
//! after the rotation; the process is killed while it is full.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::home::Home;
use crate::process::PATIENCE;
use crate::stage::{Grant, Stage, Token, reason};
use crate::tally::{Promise, Row};

/// How long what must happen while the disk is full may take.
const SOON: Duration = Duration::from_secs(30);

/// Connections that are imported at once, so that the store's own files fill up soon.
const CROWD: usize = 32;

/// A stage on a small volume; `None`, said so, where none may be mounted.
async fn stage(row: &Row, has_second_place: bool) -> Option<Stage> {
    let Some(home) = Home::on_a_small_volume(row.engine) else {
        println!("{}: NOT RUN: no small disk can be mounted here", row.fault.name());
        return None;
    };
    let home = if has_second_place { home.with_a_second_place() } else { home };
    Some(Stage::patient(home, row.profile).await)
}

/// F8: no request leaves, what lives is served, also by the next process; and it ends by itself.
pub(super) async fn full_before(row: &mut Row, rounds: u64) {
    for round in 0..rounds {
        let what = format!("round {round}");
        let Some(mut stage) = stage(row, round % 2 == 1).await else { return };
        let mut grant = stage.connected().await;
        fill(&mut stage).await;
        let refused = stage.renew(&mut grant).await.map_err(|status| reason(&status));
        row.expect(refused.as_ref().is_err_and(|reason| reason == "STORE_UNAVAILABLE"), || {
            format!("{what}: the caller is told {refused:?}")
        });
        let living = stage.ask(&mut grant).await;
        row.expect(living.is_ok(), || format!("{what}: the living token is not served: {living:?}"));
        restart(row, &mut stage, &what).await;
        let living = stage.ask(&mut grant).await;
        row.expect(living.is_ok(), || format!("{what}: nor by the next process: {living:?}"));
        let refused = stage.renew(&mut grant).await;
        row.expect(refused.is_err(), || format!("{what}: refreshed on a full disk: {refused:?}"));
        let sent = stage.refreshes(&grant).len();
        row.expect(sent == 0, || format!("{what}: {sent} requests without a durable intent"));
        stage.home.volume().free();
        row.judge(&mut stage, &mut grant, Promise::Survives, &what).await;
    }
}

/// F9 with the ballast: what the provider has just issued is durable although the disk is full.
pub(super) async fn full_after(row: &mut Row, rounds: u64) {
    let mut rescues = Vec::new();
    for round in 0..rounds {
        let what = format!("round {round}");
        let Some(mut stage) = stage(row, false).await else { return };
        let (mut grant, answer) = rotated_and_full(&mut stage).await;
        let full = Instant::now();
        let told = answer.await;
        row.expect(!is_reauth(&told), || format!("{what}: the caller is told {told:?}"));
        let is_rescued = until(async || stage.has_durable_successor(&grant).await).await;
        row.expect(is_rescued, || format!("{what}: not durable in the room that was kept"));
        rescues.push(u64::try_from(full.elapsed().as_millis()).unwrap());
        restart(row, &mut stage, &what).await;
        let token = stage.ask(&mut grant).await;
        let newest = newest(&stage, &grant);
        row.expect(
            token.as_ref().is_ok_and(|token| stage.issued_to(&grant, &token.access_token) == newest),
            || format!("{what}: the next process has not the newest token: {token:?}"),
        );
        stage.home.volume().free();
        row.judge(&mut stage, &mut grant, Promise::Survives, &what).await;
    }
    let median = crate::tally::percentile(&rescues, 0.5).unwrap_or_default();
    row.figures.push(("durable while it is full, p50 ms", median as f64));
}

/// F9 with a second place: the ballast is gone too, the store takes nothing at all, and the process is killed. Every third
/// round the disk fails instead. Nothing may be lost, whatever the provider does with a spent token.
pub(super) async fn second_place(row: &mut Row, rounds: u64) {
    let mut aside = 0_u64;
    for round in 0..rounds {
        let is_failing = round % 3 == 2;
        let what = format!("round {round}, {}", if is_failing { "EIO" } else { "full" });
        let staged = if is_failing { None } else { stage(row, true).await };
        let is_full = staged.is_some();
        let mut stage = match staged {
            Some(stage) => stage,
            None => Stage::patient(Home::new(row.engine).with_a_second_place(), row.profile).await,
        };
        if is_full {
            // Somebody needed that room before.
            std::fs::remove_file(stage.home.store().join("ballast")).unwrap();
        }
        let (mut grant, answer) = if is_full {
            rotated_and_full(&mut stage).await
        } else {
            rotated_and_failing(&mut stage, if is_failing { "EIO" } else { "ENOSPC" }).await
        };
        let is_safe = async || stage.home.set_aside() > 0 || stage.has_durable_successor(&grant).await;
        let is_somewhere = until(is_safe).await;
        row.expect(is_somewhere, || format!("{what}: in neither place"));
        aside += u64::from(stage.home.set_aside() > 0);
        stage.kill().await;
        let told = answer.await;
        row.expect(!is_reauth(&told), || format!("{what}: the caller is told {told:?}"));
        if is_full && round % 2 == 0 {
            start_on_a_full_disk(row, &mut stage, &what).await;
        }
        if is_full {
            stage.home.volume().free();
        }
        stage.home.order("");
        stage.start().await;
        row.judge(&mut stage, &mut grant, Promise::Survives, &what).await;
        let left = stage.home.set_aside();
        row.expect(left == 0, || format!("{what}: {left} files are left in the second place"));
    }
    row.figures.push(("killed with tokens in the second place alone", aside as f64));
}

/// Kills the broker and starts it on the full disk: there is room to serve from, so it must.
async fn restart(row: &mut Row, stage: &mut Stage, what: &str) {
    stage.kill().await;
    if let Err((status, said)) = stage.start_unready().await {
        row.breach(format!("{what}: does not start on a full disk: {status}, {said}"));
        stage.home.volume().free();
        stage.start().await;
    }
}

/// A start without a free byte and without ballast: it serves, or says why it does not.
async fn start_on_a_full_disk(row: &mut Row, stage: &mut Stage, what: &str) {
    let known = stage.exchanges();
    match stage.start_unready().await {
        Ok(()) => stage.kill().await,
        Err((status, said)) => {
            let is_clear = ["error: ", "why:", "next:"].iter().all(|word| said.contains(word));
            row.expect(status.code() == Some(78) && is_clear, || format!("{what}: {status}, {said}"));
        }
    }
    let sent = stage.exchanges() - known;
    row.expect(sent == 0, || format!("{what}: {sent} requests by a start on a full disk"));
}

type Answer = tokio::task::JoinHandle<Result<Token, tonic::Status>>;

/// A grant that the provider has rotated; its answer comes when no byte is free any more.
async fn rotated_and_full(stage: &mut Stage) -> (Grant, Answer) {
    let mut grant = stage.connected().await;
    let _ = stage.ask(&mut grant).await;
    let hold = stage.hold_answer(&grant);
    let answer = stage.renewing(&grant);
    stage.rotated(&grant).await;
    fill(stage).await;
    hold.release();
    (grant, answer)
}

/// The same with a disk that says no by a failpoint.
async fn rotated_and_failing(stage: &mut Stage, error: &str) -> (Grant, Answer) {
    let mut grant = stage.connected().await;
    let _ = stage.ask(&mut grant).await;
    let hold = stage.hold_answer(&grant);
    let answer = stage.renewing(&grant);
    stage.rotated(&grant).await;
    stage.home.order(&format!("store.commit.before=error:{error}"));
    hold.release();
    (grant, answer)
}

/// Fills the disk, and then what room the store still has in its own files.
async fn fill(stage: &mut Stage) {
    stage.home.volume().fill();
    let filling = async {
        loop {
            let crowd: JoinSet<_> = (0..CROWD).map(|_| stage.connecting().1).collect();
            if crowd.join_all().await.iter().any(Result::is_err) {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, filling).await.expect("the disk fills");
}

/// Waits for what must be so soon; answers whether it was.
async fn until(is_so: impl AsyncFn() -> bool) -> bool {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.is_ok()
}

fn newest(stage: &Stage, grant: &Grant) -> Option<token_broker::sandbox::Generation> {
    stage.sandbox.grants().list().into_iter().find(|state| state.id == grant.id)?.newest
}

fn is_reauth(told: &Result<Result<Token, tonic::Status>, tokio::task::JoinError>) -> bool {
    matches!(told, Ok(Err(status)) if reason(status) == "REAUTH_REQUIRED")
}
