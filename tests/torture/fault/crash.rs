//! F2: the process is killed at each step of a refresh.

use crate::profile::Profile;
use crate::stage::Stage;
use crate::tally::{Promise, Row};

/// The steps, and whether a strict provider has the request or its answer is not durable yet.
const STEPS: [(&str, bool); 8] = [
    ("refresh.intent.before", false),
    ("refresh.intent.after", false),
    ("refresh.send.before", false),
    ("refresh.send.after", true),
    ("refresh.commit.before", true),
    ("refresh.commit.after", false),
    ("refresh.publish.before", false),
    ("refresh.answer.before", false),
];

pub(super) async fn inflict(row: &mut Row, rounds: u64) {
    let mut stage = Stage::on_demand(row).await;
    for (step, on_the_wire) in
        STEPS.into_iter().cycle().take(usize::try_from(rounds).unwrap().max(STEPS.len()))
    {
        stage.start().await;
        let mut grant = stage.connected().await;
        // What the plan counts begins with the process: the import may have passed points.
        stage.home.order(&format!("{step}=kill"));
        let asked = stage.renew(&mut grant).await;
        if asked.is_ok() {
            row.rounds += 1;
            row.breach(format!("{step} is never passed"));
            stage.home.order("");
            continue;
        }
        stage.died().await;
        let promise = match row.profile {
            Profile::Strict if on_the_wire => Promise::MayBeLost,
            _ => Promise::Survives,
        };
        row.judge(&mut stage, &mut grant, promise, step).await;
    }
    row.measure(&stage);
}
