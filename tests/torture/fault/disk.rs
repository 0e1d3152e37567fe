//! F8, F9, F11: a disk that is full, that fails, or that is slow.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::stage::{Grant, LIFE, Stage, reason, request, soon};
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

/// F9: the provider has rotated, and the disk says no: nothing is dropped, and soon after the disk is well again all is
/// durable.
pub(super) async fn failing_after(row: &mut Row, rounds: u64) {
    let mut stage = Stage::new(row).await;
    let mut recoveries = Vec::new();
    for round in 0..rounds {
        let error = ["ENOSPC", "EIO"][usize::from(round % 2 == 1)];
        let what = format!("round {round}, {error}");
        stage.restart().await;
        let mut grant = stage.connected().await;
        let _ = stage.ask(&mut grant).await;
        let hold = stage.hold_answer(&grant);
        let asking = stage.renewing(&grant);
        stage.rotated(&grant).await;
        let before = stage.committed();
        stage.home.order(&format!("store.commit.before=error:{error}"));
        hold.release();
        // While the disk says no, the token is answered and flagged, or the caller waits: nobody is told that it is over.
        if let Ok(answer) = tokio::time::timeout(Duration::from_secs(3), asking).await
            && let Err(status) = answer.unwrap()
        {
            let reason = reason(&status);
            row.expect(reason != "REAUTH_REQUIRED", || format!("{what}: the caller is told REAUTH_REQUIRED"));
        }
        stage.home.order("");
        let well = Instant::now();
        while stage.committed() == before && well.elapsed() < Duration::from_secs(40) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        row.expect(stage.committed() > before, || format!("{what}: the tokens never became durable"));
        recoveries.push(u64::try_from(well.elapsed().as_millis()).unwrap());
        stage.kill().await;
        row.judge(&mut stage, &mut grant, Promise::Survives, &what).await;
    }
    for (name, part) in [("durable after the disk is well, p50 ms", 0.5), ("p99 ms", 0.99)] {
        row.figures.push((name, percentile(&recoveries, part).unwrap_or_default() as f64));
    }
}

/// F11: the hot path does not touch the disk.
pub(super) async fn slow(row: &mut Row, rounds: u64) {
    // The default; a request is not sent once its time is over, and the intent alone takes 5 s of it.
    let mut stage = Stage::with(row, LIFE, &json!({"token_timeout": "10s"})).await;
    let (mut quick, mut slow) = (Vec::new(), Vec::new());
    for round in 0..rounds.min(4) {
        let mut idle = stage.connected().await;
        let mut busy = stage.connected().await;
        let _ = stage.ask(&mut idle).await;
        quick.extend(hits(&stage, &idle).await);
        stage.home.order("store.sync.before=delay:5s");
        let renewing = stage.renewing(&busy);
        slow.extend(hits(&stage, &idle).await);
        let token = soon("a refresh on a slow disk", renewing).await.unwrap();
        row.expect(token.is_ok(), || format!("round {round}: {token:?}"));
        stage.home.order("");
        row.judge(&mut stage, &mut busy, Promise::Survives, &format!("round {round}")).await;
    }
    for (name, values) in [("hit p99 µs", &quick), ("with each sync 5 s, µs", &slow)] {
        row.figures.push((name, percentile(values, 0.99).unwrap_or_default() as f64));
    }
}

/// How long each of many hits took, in microseconds.
async fn hits(stage: &Stage, grant: &Grant) -> Vec<u64> {
    let mut took = Vec::new();
    let mut tokens = stage.tokens();
    for _ in 0..1500 {
        let asked = Instant::now();
        tokens.get_access_token(request(grant)).await.unwrap();
        took.push(u64::try_from(asked.elapsed().as_micros()).unwrap());
    }
    took
}
