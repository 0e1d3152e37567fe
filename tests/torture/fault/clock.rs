//! F23: the wall clock of the broker's machine jumps, or the machine stands still.

use std::time::Duration;

use rustix::process::Signal;

use crate::stage::Stage;
use crate::tally::{Promise, Row};

const HOUR: i64 = 3_600_000;

/// Long enough to be served and short enough to see it die.
const SHORT: Duration = Duration::from_secs(3);

pub(super) async fn inflict(row: &mut Row, rounds: u64) {
    let jumps = [
        ("an hour ahead", HOUR),
        ("an hour back", -HOUR),
        ("a day ahead", 24 * HOUR),
        ("a day back", -24 * HOUR),
    ];
    let mut dead_served = 0_u64;
    let mut requests = 0_u64;
    for (what, millis) in jumps.into_iter().cycle().take(usize::try_from(rounds).unwrap().clamp(4, 8)) {
        let mut stage = Stage::with(row, SHORT, &serde_json::json!({})).await;
        let mut grant = stage.connected().await;
        let _ = stage.renew(&mut grant).await;
        let before = stage.refreshes(&grant).len();
        stage.hand.shift_broker(millis);
        for _ in 0..20 {
            let _ = stage.ask(&mut grant).await;
        }
        let storm = stage.refreshes(&grant).len() - before;
        requests += storm as u64;
        row.expect(storm <= 1, || format!("{what}: {storm} requests at once"));
        // By the provider's clock the token dies now.
        tokio::time::sleep(SHORT).await;
        let served = stage.ask(&mut grant).await;
        if served.as_ref().is_ok_and(|token| !stage.is_live(token)) {
            dead_served += 1;
            row.breach(format!("{what}: a dead token is served as fresh"));
        }
        row.judge(&mut stage, &mut grant, Promise::Survives, what).await;
    }
    let mut stage = Stage::with(row, SHORT, &serde_json::json!({})).await;
    let mut grant = stage.connected().await;
    let _ = stage.renew(&mut grant).await;
    stage.process().signal(Signal::STOP);
    tokio::time::sleep(SHORT).await;
    stage.process().signal(Signal::CONT);
    let served = stage.ask(&mut grant).await;
    if served.as_ref().is_ok_and(|token| !stage.is_live(token)) {
        dead_served += 1;
        row.breach("the machine stood still: a dead token is served as fresh".to_owned());
    }
    row.judge(&mut stage, &mut grant, Promise::Survives, "the machine stood still").await;
    row.figures.push(("dead tokens served", dead_served as f64));
    row.figures.push(("requests after jumps", requests as f64));
}
