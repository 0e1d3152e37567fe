//! F2: the process is killed at each step of a refresh, of a recovery by the next start, and of a disconnect.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::ConnectionStatus;
use token_broker::sandbox::End;
use tonic::Code;

use crate::home::PROVIDER;
use crate::profile::Habit;
use crate::stage::{Grant, Stage, request, soon};
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

/// The steps of a disconnect: REVOKING is durable; the provider has revoked.
const ENDING: [&str; 2] = ["disconnect.revoking.after", "disconnect.revoked.after"];

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
        let promise = match row.profile.habit {
            Habit::Strict if on_the_wire => Promise::MayBeLost,
            _ => Promise::Survives,
        };
        row.judge(&mut stage, &mut grant, promise, step).await;
    }
    recovering(row).await;
    for step in ENDING {
        end(row, &mut stage, step).await;
    }
    row.measure(&stage);
}

/// A process that dies with an answer under way, and the next one in the midst of finding out about it, at each step that
/// it takes. A strict provider is not asked by a start, so there it takes none.
async fn recovering(row: &mut Row) {
    if row.profile.habit == Habit::Strict {
        return;
    }
    let mut stage = Stage::of_restarts(row).await;
    let mut killed = 0;
    for (step, _) in STEPS {
        let what = format!("{step} of a recovery");
        stage.start().await;
        let mut grant = stage.connected().await;
        stage.home.order("refresh.send.after=kill");
        let asked = stage.renew(&mut grant).await;
        row.expect(asked.is_err(), || format!("{what}: nothing was left to find out"));
        stage.died().await;
        stage.home.order(&format!("{step}=kill"));
        let ended = stage.launch(&[]).ended().await;
        stage.note_death();
        row.expect(ended.signal() == Some(9), || format!("{what}: it ended with {ended}"));
        killed += 1;
        row.judge(&mut stage, &mut grant, Promise::Survives, &what).await;
    }
    row.figures.push(("killed while recovering", f64::from(killed)));
}

/// A disconnect that is killed at `step` goes on at the next start: from its first moment nothing is served and nothing
/// refreshed, and in the end the grant is revoked and the connection gone.
async fn end(row: &mut Row, stage: &mut Stage, step: &str) {
    row.rounds += 1;
    stage.start().await;
    let grant = stage.connected().await;
    let refreshes = stage.refreshes(&grant).len();
    stage.home.order(&format!("{step}=kill"));
    let disconnect = v1::DisconnectRequest {
        provider: PROVIDER.to_owned(),
        connection: grant.name.clone(),
        ..Default::default()
    };
    let told = stage.connections().disconnect(disconnect).await;
    if told.is_ok() {
        row.breach(format!("{step} is never passed"));
        stage.home.order("");
        return;
    }
    stage.died().await;
    // What was begun goes no further before it was looked at.
    let go = stage.home.folder().join(format!("{step}.go"));
    stage.home.order(&format!("disconnect.revoking.after=pause:{}", go.display()));
    stage.start().await;
    let status = stage.status(&grant).await;
    row.expect(matches!(status, Ok(ConnectionStatus::Revoking)), || {
        format!("{step}: after the restart it is {status:?}")
    });
    expect_nothing_served(row, stage, &grant, step).await;
    std::fs::write(&go, "").unwrap();
    soon("the end of a disconnect", async {
        while stage.status(&grant).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    stage.home.order("");
    expect_nothing_served(row, stage, &grant, step).await;
    let ended = stage.sandbox.grants().list().into_iter().find(|state| state.id == grant.id).unwrap().ended;
    row.expect(ended == Some(End::Revoked), || {
        format!("{step}: at the provider {} is {ended:?}", grant.name)
    });
    row.expect(stage.refreshes(&grant).len() == refreshes, || {
        format!("{step}: it was refreshed all the same")
    });
}

async fn expect_nothing_served(row: &mut Row, stage: &Stage, grant: &Grant, step: &str) {
    let asked = stage.tokens().get_access_token(request(grant)).await;
    let is_gone = asked.as_ref().is_err_and(|status| status.code() == Code::NotFound);
    row.expect(is_gone, || format!("{step}: {} after its disconnect: {asked:?}", grant.name));
}
