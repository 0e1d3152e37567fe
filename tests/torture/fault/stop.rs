//! F28: asked to stop while it refreshes: what is under way is stored, and it is gone in time.

use std::time::Duration;

use rustix::process::Signal;
use token_broker::sandbox::{Fault, On};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::draw;
use crate::stage::{Stage, renewal};
use crate::tally::{Promise, Row, percentile};

const CONNECTIONS: usize = 6;

pub(super) async fn inflict(row: &mut Row, rounds: u64) {
    let mut stage = Stage::new(row).await;
    let mut seed = row.seed;
    let mut exits = Vec::new();
    for round in 0..rounds {
        stage.start().await;
        let mut grants = Vec::new();
        for _ in 0..CONNECTIONS {
            grants.push(stage.connected().await);
        }
        stage.sandbox.script().always(On::refresh(), Fault::delay_answer(Duration::from_millis(200)));
        let mut callers = JoinSet::new();
        for grant in &grants {
            let (mut tokens, renewal) = (stage.tokens(), renewal(grant));
            callers.spawn(async move { tokens.get_access_token(renewal).await });
        }
        tokio::time::sleep(Duration::from_millis(draw(&mut seed) % 300)).await;
        let process = stage.take();
        process.signal(Signal::TERM);
        let asked = Instant::now();
        let status = process.ended().await;
        exits.push(u64::try_from(asked.elapsed().as_millis()).unwrap());
        row.expect(status.success(), || format!("round {round}: it ended with {status}"));
        callers.join_all().await;
        for mut grant in grants {
            row.judge(&mut stage, &mut grant, Promise::Survives, &format!("round {round}")).await;
        }
        row.rounds -= CONNECTIONS as u64 - 1;
    }
    let p99 = percentile(&exits, 0.99).unwrap_or_default();
    row.expect(p99 < 25_000, || format!("it took {p99} ms to stop"));
    row.figures.push(("stopped within, p99 ms", p99 as f64));
}
