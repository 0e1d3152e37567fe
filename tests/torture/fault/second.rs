//! F31: a second broker on the same volume waits, says who has it, and goes; it has it only when the first is gone.

use std::time::Duration;

use token_broker::sandbox::{Fault, On};

use crate::home::Home;
use crate::stage::{Stage, soon};
use crate::tally::{Promise, Row};

/// What a process ends with when an operator must act.
const OPERATOR: Option<i32> = Some(78);

pub(super) async fn inflict(row: &mut Row, rounds: u64) {
    let mut stage = Stage::patient(Home::new(row.engine), row.profile).await;
    let mut idle = stage.connected().await;
    let mut busy = stage.connected().await;
    // An intent is on disk, which whoever opens the store would take up.
    let mut hold = stage.sandbox.script().hold_request(On::refresh().account(&busy.name));
    let renewing = stage.renewing(&busy);
    soon("a refresh under way", hold.reached(1)).await;
    let known = stage.exchanges();
    let holder = format!("process {} holds its lock", stage.process().pid().as_raw_nonzero());
    // All at once: each waits for seconds.
    let seconds: Vec<_> = (0..rounds.min(8)).map(|_| stage.launch(&[])).collect();
    let mut opened = 0_u64;
    for (round, second) in seconds.into_iter().enumerate() {
        row.rounds += 1;
        opened += u64::from(second.door().await.is_some());
        let said = second.said();
        if opened > 0 {
            row.breach(format!("round {round}: a second one serves"));
            second.kill().await;
            continue;
        }
        let status = second.ended().await;
        let is_clear = said.contains("is in use by another process") && said.contains(&holder);
        row.expect(status.code() == OPERATOR && is_clear, || format!("round {round}: {status}, {said}"));
    }
    let sent = stage.exchanges() - known;
    row.expect(sent == 0, || format!("a second one sent {sent} requests"));
    let living = stage.ask(&mut idle).await;
    row.expect(living.is_ok(), || format!("the first one no longer serves: {living:?}"));
    hold.release();
    let renewed = soon("a refresh", renewing).await.unwrap();
    row.expect(renewed.is_ok(), || format!("the first one no longer refreshes: {renewed:?}"));
    row.figures.push(("opened twice", opened as f64));

    // The next in line has it once the first is gone, and takes up what was left.
    let mut left = stage.connected().await;
    let never = Fault::delay_request(Duration::from_secs(3600)).without_processing();
    stage.meet(&left, never);
    let known = stage.exchanges();
    let renewing = stage.renewing(&left);
    let log = stage.sandbox.log();
    soon("a request", log.wait_for(|exchange| exchange.id >= known && exchange.is_refresh())).await;
    let next = stage.launch(&[]);
    stage.kill().await;
    let _ = renewing.await;
    let Some(door) = next.door().await else { panic!("the next in line ended:\n{}", next.said()) };
    stage.serve(next, &door);
    for grant in [&mut idle, &mut busy, &mut left] {
        row.judge(&mut stage, grant, Promise::Survives, "after the next in line has it").await;
    }
    row.rounds -= 2;
}
