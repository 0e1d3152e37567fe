//! F8, F9, F11: a disk that is full, that fails, or that is slow.

use std::time::Duration;

use serde_json::json;
use token_broker::grpc::proto::v1::{Durability, TokenSource};
use tokio::time::Instant;
use tonic::Status;

use crate::home::Home;
use crate::stage::{Grant, LIFE, Stage, Token, reason, renewal, request, soon};
use crate::tally::{Promise, Row, percentile};

/// F8: without its intent on disk no request leaves, and what lives is served.
pub(super) async fn full_before(row: &mut Row, rounds: u64) {
    let mut stage = Stage::new(row).await;
    for round in 0..rounds {
        stage.restart().await;
        let mut grant = stage.connected().await;
        let first = stage.ask(&mut grant).await;
        row.expect(first.is_ok(), || format!("round {round}: there is nothing to serve"));
        stage.home.order("store.commit.before=error:ENOSPC");
        let refused = stage.renew(&mut grant).await.map_err(|status| reason(&status));
        row.expect(refused.as_ref().is_err_and(|reason| reason == "STORE_UNAVAILABLE"), || {
            format!("round {round}: the caller is told {refused:?}")
        });
        let sent = stage.refreshes(&grant).len();
        row.expect(sent == 0, || format!("round {round}: {sent} requests without a durable intent"));
        let living = stage.tokens().get_access_token(request(&grant)).await;
        row.expect(living.is_ok(), || format!("round {round}: the living token is not served"));
        row.judge(&mut stage, &mut grant, Promise::Survives, &format!("round {round}")).await;
    }
}

/// How often a caller asks once more while the disk says no.
const ASKED_AGAIN: usize = 3;

/// F9: the provider has rotated, and the disk says no: nothing is dropped, whoever is given the new token meanwhile is told
/// that it is DEGRADED, and after the disk is well again the same token is durable.
pub(super) async fn failing_after(row: &mut Row, rounds: u64) {
    let mut stage = Stage::patient(Home::new(row.engine).refreshing_on_demand(), row.profile).await;
    let (mut recoveries, mut degraded) = (Vec::new(), 0);
    // Each of the two errors.
    for round in 0..rounds.max(2) {
        let error = ["ENOSPC", "EIO"][usize::from(round % 2 == 1)];
        let what = format!("round {round}, {error}");
        stage.restart().await;
        let mut grant = stage.connected().await;
        let _ = stage.ask(&mut grant).await;
        let hold = stage.hold_answer(&grant);
        let asking = stage.renewing(&grant);
        stage.rotated(&grant).await;
        stage.home.order(&format!("store.commit.before=error:{error}"));
        hold.release();
        // Nobody is told that it is over, nobody is left without an answer, and none is called durable that is not.
        let mut answers = vec![soon("an answer while the disk says no", asking).await.unwrap()];
        for _ in 0..ASKED_AGAIN {
            let answer = stage.tokens().get_access_token(renewal(&grant)).await;
            answers.push(answer.map(tonic::Response::into_inner));
        }
        for answer in &answers {
            degraded += u64::from(is_new(&stage, &grant, answer, Durability::Degraded));
            row.expect(is_new(&stage, &grant, answer, Durability::Degraded), || {
                format!("{what}: while the disk says no the answer is {}", told(answer))
            });
        }
        let living = stage.tokens().get_access_token(request(&grant)).await.map(tonic::Response::into_inner);
        let is_old = living.as_ref().is_ok_and(|token| token.access_token == grant.current);
        // Where it was ended it is content with nobody's.
        row.expect(
            is_old && !row.profile.ends_old || is_new(&stage, &grant, &living, Durability::Degraded),
            || format!("{what}: who is content with the living token is answered {}", told(&living)),
        );
        stage.home.order("");
        let well = Instant::now();
        while !stage.has_durable_successor(&grant).await && well.elapsed() < Duration::from_secs(40) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        recoveries.push(u64::try_from(well.elapsed().as_millis()).unwrap());
        let durable = stage.tokens().get_access_token(renewal(&grant)).await.map(tonic::Response::into_inner);
        row.expect(is_new(&stage, &grant, &durable, Durability::Durable), || {
            format!("{what}: the tokens never became durable: {}", told(&durable))
        });
        let sent = stage.refreshes(&grant).len();
        row.expect(sent == 1, || format!("{what}: {sent} requests for one token"));
        stage.kill().await;
        row.judge(&mut stage, &mut grant, Promise::Survives, &what).await;
    }
    row.figures.push(("answers while the disk says no, all DEGRADED", degraded as f64));
    for (name, part) in [("durable after the disk is well, p50 ms", 0.5), ("p99 ms", 0.99)] {
        row.figures.push((name, percentile(&recoveries, part).unwrap_or_default() as f64));
    }
}

/// Whether this is the newest token of a grant that was refreshed once, called what it is.
fn is_new(stage: &Stage, grant: &Grant, answer: &Result<Token, Status>, durability: Durability) -> bool {
    answer.as_ref().is_ok_and(|token| {
        token.access_token != grant.current && stage.is_live(token) && token.durability() == durability
    })
}

/// An answer in words, without its token.
fn told(answer: &Result<Token, Status>) -> String {
    match answer {
        Ok(token) => format!("a token of {:?}, {:?}", token.source(), token.durability()),
        Err(status) => reason(status),
    }
}

/// Hits while a sync stands still.
const STANDING: usize = 300;

/// F11: the hot path does not touch the disk: while a sync stands still every hit is answered from memory, and those who
/// wait for the disk get their tokens in the end. How long a hit takes beside slow syncs is printed only.
pub(super) async fn slow(row: &mut Row, rounds: u64) {
    // The default; a request is not sent once its time is over, and the intent alone takes 5 s of it.
    let mut stage = Stage::with(row, LIFE, &json!({"token_timeout": "10s"})).await;
    let (mut quick, mut slow, mut judged) = (Vec::new(), Vec::new(), 0);
    for round in 0..rounds.min(4) {
        let mut idle = stage.connected().await;
        let mut busy = stage.connected().await;
        let mut held = stage.connected().await;
        let _ = stage.ask(&mut idle).await;
        quick.extend(hits(&stage, &idle, HITS).await.took);
        judged += beside_a_standing_sync(row, &stage, &idle, &held, round).await;
        stage.home.order("store.sync.before=delay:5s");
        let renewing = stage.renewing(&busy);
        let beside = hits(&stage, &idle, HITS).await;
        row.expect(beside.elsewhere.is_empty(), || {
            format!("round {round}: with slow syncs not from memory: {:?}", beside.elsewhere)
        });
        slow.extend(beside.took);
        let token = soon("a refresh on a slow disk", renewing).await.unwrap();
        row.expect(token.is_ok(), || format!("round {round}: {token:?}"));
        stage.home.order("");
        row.judge(&mut stage, &mut busy, Promise::Survives, &format!("round {round}")).await;
        let what = format!("round {round}, its sync stood still");
        row.judge(&mut stage, &mut held, Promise::Survives, &what).await;
        row.rounds -= 1;
    }
    row.figures.push(("hits beside a sync that stands still, all from memory", judged as f64));
    for (name, values) in [("hit p99 µs", &quick), ("with each sync 5 s, µs", &slow)] {
        row.figures.push((name, percentile(values, 0.99).unwrap_or_default() as f64));
    }
}

/// Hits of `idle` while the sync of a refresh of `held` does not come back; answers how many were from memory.
async fn beside_a_standing_sync(
    row: &mut Row,
    stage: &Stage,
    idle: &Grant,
    held: &Grant,
    round: u64,
) -> usize {
    let go = stage.home.path(&format!("go-{round}"));
    let before = stage.home.passed().len();
    stage.home.order(&format!("store.sync.before=pause:{}", go.display()));
    let renewing = stage.renewing(held);
    let is_standing =
        || stage.home.passed()[before..].iter().any(|passed| passed.point == "store.sync.before");
    soon("a sync", async {
        while !is_standing() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let beside = hits(stage, idle, STANDING).await;
    row.expect(beside.elsewhere.is_empty(), || {
        format!("round {round}: with a sync that stands still not from memory: {:?}", beside.elsewhere)
    });
    // Nothing is acknowledged that the sync has not taken.
    row.expect(!renewing.is_finished(), || format!("round {round}: refreshed without a sync"));
    std::fs::write(&go, "").unwrap();
    stage.home.order("");
    // Its intent may have taken all the time that it has.
    let _ = soon("the refresh whose sync stood still", renewing).await.unwrap();
    beside.took.len() - beside.elsewhere.len()
}

/// Hits whose time is taken.
const HITS: usize = 1500;

/// What became of many hits.
struct Hits {
    /// How long each took, in microseconds.
    took: Vec<u64>,
    /// Those that were not answered from memory, in words.
    elsewhere: Vec<String>,
}

async fn hits(stage: &Stage, grant: &Grant, count: usize) -> Hits {
    let mut hits = Hits { took: Vec::new(), elsewhere: Vec::new() };
    let mut tokens = stage.tokens();
    for _ in 0..count {
        let asked = Instant::now();
        let answer = tokens.get_access_token(request(grant)).await.map(tonic::Response::into_inner);
        hits.took.push(u64::try_from(asked.elapsed().as_micros()).unwrap());
        if !answer.as_ref().is_ok_and(|token| token.source() == TokenSource::Cache) {
            hits.elsewhere.push(told(&answer));
        }
    }
    hits
}
