//! I3: what a refresh brought is on disk before anybody is given it. The broker stands still where it is about to publish
//! new tokens, and where it is about to answer; a kill at that moment leaves what is then answered.

use crate::home::Home;
use crate::image::record_now;
use crate::stage::{Grant, Stage, Token, soon};
use crate::tally::{Promise, Row};

use super::between::passed;

const STANDS: [&str; 2] = ["refresh.publish.before", "refresh.answer.before"];

pub(super) async fn inflict(row: &mut Row, rounds: u64) {
    let mut stage = Stage::patient(Home::new(row.engine).refreshing_on_demand(), row.profile).await;
    let mut images = 0;
    for round in 0..rounds {
        for stand in STANDS {
            let what = format!("round {round}, {stand}");
            let mut grant = stage.connected().await;
            let unwritten = unwritten(&mut stage, &mut grant, stand, "").await;
            images += 1;
            unwritten.into_iter().for_each(|why| row.breach(format!("{what}: {why}")));
            row.judge(&mut stage, &mut grant, Promise::Survives, &what).await;
        }
    }
    row.figures.push(("crash images opened", images as f64));
}

/// What was answered after `stand` and is not what a kill there would have left, in words. `more`: further orders for the
/// broker meanwhile.
pub(super) async fn unwritten(
    stage: &mut Stage,
    grant: &mut Grant,
    stand: &str,
    more: &str,
) -> Option<String> {
    let before = stage.home.passed().len();
    let go = stage.home.path(&format!("go-{before}"));
    stage.home.order(&format!("{stand}=pause:{};{more}", go.display()));
    let renewing = stage.renewing(grant);
    passed(stage, before, stand).await;
    let record = record_now(&stage.home, stage.process().pid(), &grant.name).await;
    std::fs::write(&go, "").unwrap();
    stage.home.order("");
    let answer: Token = match soon("an answer", renewing).await.unwrap() {
        Ok(answer) => answer,
        Err(status) => return Some(format!("it ends with {status}")),
    };
    grant.current.clone_from(&answer.access_token);
    let record = match record {
        Ok(record) => record,
        Err(why) => return Some(why),
    };
    let written = record.tokens.and_then(|tokens| tokens.access);
    let is_written = written.is_some_and(|access| *access.value.expose() == answer.access_token);
    (!is_written).then(|| format!("{:?} is answered, and another token is on disk", answer.durability()))
}
