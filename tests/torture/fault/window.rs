//! The window that the promise names: how long tokens that a provider has issued are in memory only. Printed, not judged;
//! that each refresh succeeds is.

use crate::stage::Stage;
use crate::tally::{Promise, Row, percentile};

/// Of a round: with 16 rounds the 99th percentile is not the longest.
const REFRESHES: u64 = 64;

pub(super) async fn inflict(row: &mut Row, rounds: u64) {
    let mut stage = Stage::on_demand(row).await;
    let mut grant = stage.connected().await;
    for refresh in 0..rounds * REFRESHES {
        let before = grant.current.clone();
        let token = stage.renew(&mut grant).await;
        row.expect(token.as_ref().is_ok_and(|token| token.access_token != before), || {
            format!("refresh {refresh}: {token:?}")
        });
    }
    row.measure(&stage);
    row.judge(&mut stage, &mut grant, Promise::Survives, "after all of them").await;
    row.figures.push(("refreshes", row.windows.len() as f64));
    for (name, part) in [("p50 µs", 0.5), ("p99 µs", 0.99), ("longest µs", 1.0)] {
        row.figures.push((name, percentile(&row.windows, part).unwrap_or_default() as f64));
    }
}
