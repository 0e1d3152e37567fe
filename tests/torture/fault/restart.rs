//! F30: a crash loop with intents pending: the first thing a new process does is to recover them. How soon is printed
//! only, for it is the machine's affair; that nothing goes before them is judged. At a strict provider to recover is to
//! wait: there it is judged that the loop sends nothing while a token lives, and asks once when none does.

use std::time::Duration;

use serde_json::json;
use token_broker::grpc::proto::v1::ConnectionStatus;
use token_broker::sandbox::{Exchange, Fault, On};
use tokio::time::Instant;

use crate::profile::Habit;
use crate::stage::{LIFE, Stage, soon};
use crate::tally::{Promise, Row, percentile};

const CONNECTIONS: usize = 5;

/// Connections that are due as well, and of which nothing is at stake.
const DUE: usize = 3;

/// The life of their tokens: over before the loop is.
const SHORT: Duration = Duration::from_secs(6);

pub(super) async fn inflict(row: &mut Row, rounds: u64) {
    let restarts = (rounds * 6).clamp(12, 100);
    let more = match row.profile.habit {
        Habit::Reusable => json!({"token_timeout": "5s"}),
        // The loop takes longer than any real grace: here it is about how soon, not about whether.
        _ => json!({"token_timeout": "5s", "reuse": {"grace": {"seconds": 3600, "max_uses": 100_000}}}),
    };
    let mut stage = Stage::with(row, LIFE, &more).await;
    if row.profile.habit != Habit::Reusable {
        let grace = row.profile.with_grace(Duration::from_secs(3600));
        stage.sandbox.change(|behavior| behavior.reuse = grace);
    }
    let mut grants = Vec::new();
    for _ in 0..CONNECTIONS {
        grants.push(stage.connected().await);
    }
    let mut hold = stage.sandbox.script().hold_every_request(On::refresh());
    for grant in &grants {
        stage.renewing(grant);
    }
    // As many as may be under way at a time.
    soon("refreshes under way", hold.reached(4)).await;
    stage.sandbox.change(|behavior| behavior.lifetimes.access_token_ttl = SHORT);
    for _ in 0..DUE {
        stage.connected().await;
    }
    stage.kill().await;
    let pending: Vec<_> = grants.iter().map(|grant| grant.id).collect();
    let mut recovered = 0_u64;
    let (mut first, mut serving) = (Vec::new(), Vec::new());
    for round in 0..restarts {
        let known = stage.exchanges();
        let began = Instant::now();
        let process = stage.launch(&[]);
        let retried = stage.sandbox.log();
        let retried = retried.wait_for(|exchange| exchange.id >= known && exchange.is_refresh());
        match tokio::time::timeout(Duration::from_secs(10), retried).await {
            Ok(_) => first.push(u64::try_from(began.elapsed().as_millis()).unwrap()),
            Err(_) => row.breach(format!("restart {round}: nothing was recovered within 10 s")),
        }
        let Some(_) = process.door().await else { panic!("it ended:\n{}", process.said()) };
        serving.push(u64::try_from(began.elapsed().as_millis()).unwrap());
        process.kill().await;
        stage.note_death();
        let order: Vec<_> = stage
            .sandbox
            .log()
            .refreshes()
            .into_iter()
            .filter(|exchange| exchange.id >= known)
            .map(|exchange| exchange.subject.grant.is_some_and(|grant| pending.contains(&grant)))
            .collect();
        // All places at the provider are theirs, and none is given back: nothing else may have had one.
        row.expect(order.iter().all(|is_pending| *is_pending), || {
            format!("restart {round}: refreshed ahead before what was unfinished was recovered: {order:?}")
        });
        recovered += order.len() as u64;
        if first.is_empty() && round >= 2 {
            break;
        }
    }
    hold.release();
    for mut grant in grants {
        row.judge(&mut stage, &mut grant, Promise::Survives, "after the crash loop").await;
    }
    row.rounds = restarts;
    row.figures.push(("recoveries, none after a refresh ahead", recovered as f64));
    for (name, values, part) in
        [("first recovery p50 ms", &first, 0.5), ("p99 ms", &first, 0.99), ("serving p50 ms", &serving, 0.5)]
    {
        row.figures.push((name, percentile(values, part).unwrap_or_default() as f64));
    }
}

/// Requests that no provider answers before the end of the loop.
const NEVER: Duration = Duration::from_secs(3600);

pub(super) async fn patient(row: &mut Row, rounds: u64) {
    let restarts = (rounds * 4).clamp(8, 100);
    let mut stage = Stage::with(row, LIFE, &json!({"token_timeout": "5s"})).await;
    let faults = [
        ("request lost", Fault::delay_request(NEVER).without_processing(), Promise::Survives),
        ("answer lost", Fault::delay_answer(NEVER), Promise::MayBeLost),
    ];
    let mut pending = Vec::new();
    // As many as may be under way at a time.
    for (what, fault, promise) in faults.iter().cycle().take(4) {
        let grant = stage.connected().await;
        stage.meet(&grant, fault.clone());
        stage.renewing(&grant);
        let (log, id) = (stage.sandbox.log(), grant.id);
        let is_its = |exchange: &Exchange| exchange.is_refresh() && exchange.subject.grant == Some(id);
        soon("a refresh under way", log.wait_for(is_its)).await;
        if *promise == Promise::MayBeLost {
            stage.rotated(&grant).await;
        }
        pending.push((grant, *what, *promise));
    }
    stage.kill().await;
    for restart in 0..restarts {
        stage.start().await;
        for (grant, what, _) in &mut pending {
            let living = stage.ask(grant).await;
            row.expect(living.is_ok(), || format!("restart {restart}, {what}: it lives, and {living:?}"));
            soon("its owner to be told that nobody knows", async {
                while !matches!(stage.status(grant).await, Ok(ConnectionStatus::Ambiguous)) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
            .await;
        }
        stage.kill().await;
    }
    let mut early = 0;
    for (grant, what, _) in &pending {
        let sent = stage.refreshes(grant).len() as u64 - 1;
        early += sent;
        row.expect(sent == 0, || format!("{what}: {sent} requests by a crash loop while its token lives"));
    }
    for (mut grant, what, promise) in pending {
        let unknown = stage.refreshes(&grant)[0].subject.generation;
        row.judge(&mut stage, &mut grant, promise, what).await;
        let is_unknown = |exchange: &&Exchange| exchange.subject.generation == unknown;
        let asked = stage.refreshes(&grant).iter().filter(is_unknown).count();
        row.expect(asked == 2, || {
            format!("{what}: presented {asked} times, and once more than before is right")
        });
    }
    row.rounds = restarts;
    row.figures.push(("requests while a token lived", early as f64));
}
