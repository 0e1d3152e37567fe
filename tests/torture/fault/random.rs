//! Faults and kills at random, all from one seed, while several connections are refreshed.

use std::time::Duration;

use token_broker::sandbox::{Effect, Exchange, Fault};
use tokio::task::JoinSet;

use super::draw;
use crate::profile::Habit;
use crate::stage::{Grant, Stage, renewal, soon};
use crate::tally::{Promise, Row};

const CONNECTIONS: usize = 3;

pub(super) async fn inflict(row: &mut Row, rounds: u64) {
    let mut stage = Stage::new(row).await;
    let mut seed = row.seed;
    for round in 0..rounds {
        let state = seed;
        stage.restart().await;
        let mut grants = Vec::new();
        for _ in 0..CONNECTIONS {
            grants.push(stage.connected().await);
        }
        let mut faults = Vec::new();
        for grant in &grants {
            let (name, fault) = wire(draw(&mut seed));
            faults.push(name);
            if let Some(fault) = fault {
                stage.meet(grant, fault);
            }
        }
        let (before, known) = (stage.home.passed().len(), stage.exchanges());
        let plan = plan(draw(&mut seed));
        stage.home.order(plan);
        let mut callers = JoinSet::new();
        for grant in &grants {
            let (mut tokens, renewal) = (stage.tokens(), renewal(grant));
            callers.spawn(async move { tokens.get_access_token(renewal).await });
        }
        tokio::time::sleep(Duration::from_micros(draw(&mut seed) % 120_000)).await;
        if plan.contains("kill") && stage.has_died().await {
            stage.died().await;
        } else {
            stage.kill().await;
        }
        callers.join_all().await;
        // A request that was sent and is late takes effect all the same.
        let log = stage.sandbox.log();
        let is_open = |exchange: &Exchange| exchange.id >= known && exchange.is_in_flight();
        let over = log.wait_until(|exchanges| (!exchanges.iter().any(is_open)).then_some(()));
        soon("the end of every request", over).await;
        // The log of points names no connection, and older ones are refreshed as well. As many commits as rotations, and
        // every successor was durable.
        let passed = stage.home.passed();
        let commits = passed[before..].iter().filter(|passed| passed.point == "refresh.commit.after").count();
        let rotations: Vec<usize> = grants.iter().map(|grant| rotations(&stage, grant)).collect();
        let of_all = stage.sandbox.log().refreshes();
        let are_all_durable =
            commits >= of_all.iter().filter(|exchange| exchange.id >= known && is_rotation(exchange)).count();
        for ((mut grant, name), rotations) in grants.into_iter().zip(faults).zip(rotations) {
            let promise = match row.profile.habit {
                Habit::Strict if rotations > 0 && !are_all_durable => Promise::MayBeLost,
                _ => Promise::Survives,
            };
            let what = format!("round {round} (state {state}), {name}, {plan}");
            row.judge(&mut stage, &mut grant, promise, &what).await;
        }
        row.rounds -= CONNECTIONS as u64 - 1;
    }
}

/// How often a grant's refresh token was spent.
fn rotations(stage: &Stage, grant: &Grant) -> usize {
    stage.refreshes(grant).iter().filter(|exchange| is_rotation(exchange)).count()
}

fn is_rotation(exchange: &Exchange) -> bool {
    matches!(exchange.effect, Some(Effect::Rotated { .. }))
}

/// A fault of the wire and its name.
fn wire(draw: u64) -> (&'static str, Option<Fault>) {
    let short = Duration::from_millis(draw / 16 % 150);
    match draw % 8 {
        0 => ("answer lost", Some(Fault::drop_answer())),
        1 => ("request lost", Some(Fault::drop_request())),
        2 => ("answer late", Some(Fault::delay_answer(short))),
        3 => ("request late", Some(Fault::delay_request(short))),
        4 => ("502 after the rotation", Some(Fault::html(502).after_processing())),
        5 => ("503", Some(Fault::status(503))),
        _ => ("nothing", None),
    }
}

/// A fault of the process or the disk.
fn plan(draw: u64) -> &'static str {
    match draw % 10 {
        0 => "refresh.intent.after=kill",
        1 => "refresh.send.before=kill",
        2 => "refresh.send.after=kill",
        3 => "refresh.commit.before=kill",
        4 => "refresh.commit.after=kill",
        5 => "refresh.answer.before=kill",
        6 => "store.commit.before=error:ENOSPC",
        7 => "store.sync.before=error:EIO",
        8 => "store.sync.before=delay:200ms",
        _ => "",
    }
}
