//! F10: the device does not take what is synced. Nothing that it did not take is acknowledged; the store is reopened and
//! verified by itself once the device is well, or the start is refused with a reason.

use std::time::Duration;

use crate::home::Home;
use crate::stage::{Grant, Stage, Token, reason};
use crate::stall::Failing;
use crate::tally::{Promise, Row};

pub(super) async fn inflict(row: &mut Row, rounds: u64) {
    let mut tally = Tally::default();
    for round in 0..rounds {
        // Of its own, so that every commit is of this one grant.
        let mut stage = Stage::patient(Home::new(row.engine), row.profile).await;
        let mut grant = stage.connected().await;
        let _ = stage.ask(&mut grant).await;
        match round % 3 {
            0 => before_the_request(row, &mut tally, &mut stage, &mut grant, round).await,
            1 => after_the_rotation(row, &mut tally, &mut stage, &mut grant, round).await,
            _ => at_the_start(row, &mut tally, &mut stage, &mut grant, round).await,
        }
        // What was acknowledged is there in the next life.
        stage.restart().await;
        let served = grant.served.map(|(_, generation)| generation);
        let token = stage.ask(&mut grant).await;
        let kept = token.as_ref().ok().and_then(|token| stage.issued_to(&grant, &token.access_token));
        row.expect(kept >= served, || {
            format!("round {round}: {served:?} was acknowledged, {kept:?} is there: {token:?}")
        });
        row.judge(&mut stage, &mut grant, Promise::Survives, &format!("round {round}")).await;
    }
    row.figures.push(("false acknowledgements", tally.false_acks as f64));
    row.figures.push(("starts refused", tally.refused as f64));
}

#[derive(Default)]
struct Tally {
    false_acks: u64,
    refused: u64,
}

/// No intent is durable, so nothing may be sent.
async fn before_the_request(
    row: &mut Row,
    tally: &mut Tally,
    stage: &mut Stage,
    grant: &mut Grant,
    round: u64,
) {
    let failing = Failing::on(stage).await;
    let old = grant.current.clone();
    let told = stage.renew(grant).await;
    acknowledged(row, tally, &old, told.as_ref().ok(), round);
    let reason = told.map_err(|status| reason(&status));
    row.expect(reason.as_ref().is_err_and(|reason| reason == "STORE_UNAVAILABLE"), || {
        format!("round {round}: the caller is told {reason:?}")
    });
    let living = stage.ask(grant).await;
    row.expect(living.is_ok(), || format!("round {round}: the living token is not served: {living:?}"));
    let sent = stage.refreshes(grant).len();
    row.expect(sent == 0, || format!("round {round}: {sent} requests without a durable intent"));
    failing.end(stage).await;
}

/// The tokens are there and cannot be made durable: who gets them is told so.
async fn after_the_rotation(
    row: &mut Row,
    tally: &mut Tally,
    stage: &mut Stage,
    grant: &mut Grant,
    round: u64,
) {
    let hold = stage.hold_answer(grant);
    let renewing = stage.renewing(grant);
    stage.rotated(grant).await;
    let before = stage.committed();
    let failing = Failing::on(stage).await;
    hold.release();
    let old = grant.current.clone();
    match tokio::time::timeout(Duration::from_secs(10), renewing).await {
        Ok(told) => acknowledged(row, tally, &old, told.unwrap().as_ref().ok(), round),
        Err(_) => row.breach(format!("round {round}: the caller is left waiting")),
    }
    row.expect(stage.committed() == before, || format!("round {round}: committed on a failing device"));
    failing.end(stage).await;
    let durable = async {
        while !stage.has_durable_successor(grant).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let is_durable = tokio::time::timeout(Duration::from_secs(40), durable).await.is_ok();
    row.expect(is_durable, || format!("round {round}: the tokens never became durable"));
}

/// One call fails, somewhere between the start and the end of a refresh.
async fn at_the_start(row: &mut Row, tally: &mut Tally, stage: &mut Stage, grant: &mut Grant, round: u64) {
    let call = ["fsync", "fdatasync", "pwrite64"][usize::try_from(round / 3 % 3).unwrap()];
    let n = 1 + round / 9 * 3;
    let what = format!("round {round}, {call} {n}");
    stage.kill().await;
    let known = stage.exchanges();
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:error=EIO:when={n}"));
    let wrapper = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    let process = stage.launch(&wrapper);
    let Some(door) = process.door().await else {
        tally.refused += 1;
        let said = process.said();
        let status = process.ended().await;
        stage.note_death();
        let is_clear = ["error: ", "why:", "next:"].iter().all(|word| said.contains(word));
        row.expect(status.code() == Some(78) && is_clear, || format!("{what}: {status}, {said}"));
        let sent = stage.exchanges() - known;
        row.expect(sent == 0, || format!("{what}: refused, and {sent} requests"));
        return;
    };
    stage.serve(process, &door);
    // It may meet the error or not: what is acknowledged is held against the next life.
    let _ = stage.renew(grant).await;
    let process = stage.take();
    process.terminate_child();
    process.ended().await;
    stage.note_death();
}

/// A new token that is called durable while no sync works is a lie.
fn acknowledged(row: &mut Row, tally: &mut Tally, old: &str, token: Option<&Token>, round: u64) {
    use token_broker::grpc::proto::v1::Durability;
    let Some(token) = token else { return };
    if token.access_token != old && token.durability() != Durability::Degraded {
        tally.false_acks += 1;
        row.breach(format!("round {round}: acknowledged although no sync works"));
    }
}
