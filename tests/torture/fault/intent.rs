//! I2: when the provider receives a refresh, the intent for it is on disk.

use std::collections::BTreeMap;

use tokio::task::JoinSet;

use crate::image::Camera;
use crate::stage::{Stage, renewal};
use crate::tally::{Promise, Row};

const CONNECTIONS: usize = 3;

pub(super) async fn inflict(row: &mut Row, rounds: u64) {
    let mut stage = Stage::new(row).await;
    let mut images = 0;
    for round in 0..rounds {
        let mut grants = Vec::new();
        for _ in 0..CONNECTIONS {
            grants.push(stage.connected().await);
        }
        let names: BTreeMap<u64, String> =
            grants.iter().map(|grant| (grant.id.0, grant.name.clone())).collect();
        let camera = Camera::on(&stage.sandbox, stage.process().pid(), &stage.home);
        let mut callers = JoinSet::new();
        for grant in &grants {
            let (mut tokens, renewal) = (stage.tokens(), renewal(grant));
            callers.spawn(async move { tokens.get_access_token(renewal).await });
        }
        callers.join_all().await;
        stage.sandbox.witness(|_| {});
        let (taken, wrong) = camera.developed(&stage.home, &names).await;
        images += taken;
        row.expect(taken >= CONNECTIONS, || format!("round {round}: only {taken} requests were seen"));
        wrong.into_iter().for_each(|why| row.breach(format!("round {round}: {why}")));
        for mut grant in grants {
            row.judge(&mut stage, &mut grant, Promise::Survives, &format!("round {round}")).await;
        }
        row.rounds -= CONNECTIONS as u64 - 1;
    }
    row.figures.push(("crash images opened", images as f64));
}
