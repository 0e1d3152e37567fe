//! A provider that ends the old access token when it rotates, and callers who are content with any living token, from the
//! moment at which the answer is here until it is durable and after: none of them is given the old one as if it lived.
//! Before that moment nobody can know.

use std::time::Duration;

use token_broker::grpc::proto::v1::{Durability, GetAccessTokenRequest};
use token_broker::sandbox::Hold;
use tokio::task::JoinHandle;
use tonic::Status;

use crate::ended::is_ended;
use crate::home::Home;
use crate::stage::{Grant, Stage, Token, reason, request, soon};
use crate::tally::{Promise, Row};

/// Where a refresh stands still with its answer in hand: on its way to the disk, and on its way to those who wait.
const STANDS: [&str; 4] =
    ["refresh.commit.before", "store.sync.before", "refresh.commit.after", "refresh.publish.before"];

/// How long somebody who may be answered at once is waited for. Nothing is judged by it: who is not, waits on.
const AT_ONCE: Duration = Duration::from_millis(200);

/// How often it is asked while the disk says no.
const ASKED: usize = 20;

pub(super) async fn inflict(row: &mut Row, rounds: u64) {
    let mut stage = Stage::patient(Home::new(row.engine).refreshing_on_demand(), row.profile).await;
    let mut asked = 0;
    for round in 0..rounds {
        for stand in STANDS {
            let what = format!("round {round}, {stand}");
            let (mut grant, answers) = standing(&mut stage, stand, round).await;
            asked += answers.len();
            for answer in &answers {
                row.expect(answer.is_ok(), || format!("{what}: a caller is told {}", told(answer)));
            }
            ended(&stage, &grant, &answers).into_iter().for_each(|why| row.breach(format!("{what}: {why}")));
            row.judge(&mut stage, &mut grant, Promise::Survives, &what).await;
        }
        asked += refused(row, &mut stage, round).await;
    }
    row.figures.push(("asked between", asked as f64));
}

/// A refresh that the provider has carried out and whose answer is held back, in a new life.
async fn rotated(stage: &mut Stage) -> (Grant, Hold, JoinHandle<Result<Token, Status>>) {
    stage.restart().await;
    let mut grant = stage.connected().await;
    // From here on it is in memory.
    stage.ask(&mut grant).await.unwrap();
    let hold = stage.hold_answer(&grant);
    let renewing = stage.renewing(&grant);
    stage.rotated(&grant).await;
    (grant, hold, renewing)
}

/// A refresh that stands still at `stand`, its answer here, and what callers are answered meanwhile and when it goes on.
pub(super) async fn standing(
    stage: &mut Stage,
    stand: &str,
    round: u64,
) -> (Grant, Vec<Result<Token, Status>>) {
    let (grant, hold, renewing) = rotated(stage).await;
    let before = stage.home.passed().len();
    let go = stage.home.path(&format!("go-{round}-{stand}"));
    stage.home.order(&format!("{stand}=pause:{}", go.display()));
    hold.release();
    passed(stage, before, stand).await;
    let any = request(&grant);
    let stale = GetAccessTokenRequest { allow_stale: true, ..request(&grant) };
    let mut callers: Vec<_> = [any, stale].into_iter().map(|request| asking(stage, request)).collect();
    let at_once = async {
        while callers.iter().any(|caller| !caller.is_finished()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = tokio::time::timeout(AT_ONCE, at_once).await;
    std::fs::write(&go, "").unwrap();
    stage.home.order("");
    callers.push(renewing);
    let mut answers = Vec::new();
    for caller in callers {
        answers.push(soon("an answer", caller).await.unwrap());
    }
    (grant, answers)
}

/// The same while the disk says no: what is answered is the successor, degraded.
async fn refused(row: &mut Row, stage: &mut Stage, round: u64) -> usize {
    let what = format!("round {round}, ENOSPC");
    let (mut grant, hold, renewing) = rotated(stage).await;
    let before = stage.home.passed().len();
    stage.home.order("store.commit.before=error:ENOSPC");
    hold.release();
    passed(stage, before, "store.commit.before").await;
    let mut answers = Vec::new();
    for _ in 0..ASKED {
        answers.push(soon("an answer while the disk says no", asking(stage, request(&grant))).await.unwrap());
    }
    answers.push(soon("the refresh", renewing).await.unwrap());
    for answer in &answers {
        let is_degraded = answer.as_ref().is_ok_and(|token| token.durability() == Durability::Degraded);
        row.expect(is_degraded, || format!("{what}: while the disk says no the answer is {}", told(answer)));
    }
    ended(stage, &grant, &answers).into_iter().for_each(|why| row.breach(format!("{what}: {why}")));
    stage.home.order("");
    row.judge(stage, &mut grant, Promise::Survives, &what).await;
    answers.len()
}

/// Which of these answers are an ended token that is called durable, in words.
pub(super) fn ended(stage: &Stage, grant: &Grant, answers: &[Result<Token, Status>]) -> Vec<String> {
    let ended = answers.iter().flatten().filter(|token| is_ended(stage, grant, token));
    ended.map(|token| format!("an ended token is served, from {:?}", token.source())).collect()
}

fn asking(stage: &Stage, request: GetAccessTokenRequest) -> JoinHandle<Result<Token, Status>> {
    let mut tokens = stage.tokens();
    tokio::spawn(async move { Ok(tokens.get_access_token(request).await?.into_inner()) })
}

/// Waits until this point was passed once more.
pub(super) async fn passed(stage: &Stage, before: usize, point: &str) {
    soon(point, async {
        while !stage.home.passed()[before..].iter().any(|passed| passed.point == point) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// An answer in words, without its token.
fn told(answer: &Result<Token, Status>) -> String {
    match answer {
        Ok(token) => format!("a token of {:?}, {:?}", token.source(), token.durability()),
        Err(status) => reason(status),
    }
}
