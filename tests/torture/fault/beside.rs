//! One provider is down, and everything that may be under way there is. Another one's connections do not notice: each of
//! their refreshes is the provider's own answer, and nobody is told of an error. Counted, not timed: the first provider
//! stays down until they were answered.

use serde_json::json;
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::TokenSource;
use token_broker::sandbox::{Fault, On, Sandbox};
use tonic::Status;

use crate::home::{Home, PROVIDER, described};
use crate::stage::{LIFE, Stage, Token, patience, reason, renewal, request, sandbox, soon};
use crate::tally::{Promise, Row};

/// The other provider's key.
const OTHER: &str = "other";

/// Connections at the provider that is down: twice as many as may be under way there at a time.
const DOWN: usize = 8;

/// Connections at the other: more than a process-wide limit of that size would let through.
const BESIDE: usize = 12;

/// How a provider is down.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// It takes requests and does not answer.
    Stuck,
    /// It answers that it is down.
    Refusing,
    /// It is not there.
    Unplugged,
}

pub(super) async fn inflict(row: &mut Row, rounds: u64) {
    // Who is stuck is so for longer than anybody at the other provider is patient.
    let mut stage = Stage::patient(Home::new(row.engine).refreshing_on_demand(), row.profile).await;
    let other = sandbox(row.profile, LIFE, &stage.hand);
    stage.home.configure_all(&[
        described(PROVIDER, &stage.sandbox, row.profile, &patience(row.profile)),
        described(OTHER, &other, row.profile, &json!({})),
    ]);
    let mut answers = 0;
    let ways = [Way::Stuck, Way::Refusing, Way::Unplugged];
    for (way, round) in ways.into_iter().cycle().zip(0..rounds.max(3)) {
        stage.restart().await;
        answers += beside(row, &mut stage, &other, way, round).await;
    }
    row.figures.push(("refreshed beside it", answers as f64));
}

/// One round; answers how many connections of the other provider were refreshed.
async fn beside(row: &mut Row, stage: &mut Stage, other: &Sandbox, way: Way, round: u64) -> usize {
    let what = format!("round {round}, {way:?}");
    let mut down = Vec::new();
    for _ in 0..DOWN {
        down.push(stage.connected().await);
    }
    let mut well = Vec::new();
    for at in 0..BESIDE {
        let (grant, importing) = stage.importing(OTHER, other, format!("beside-{round}-{at}"));
        importing.await.unwrap();
        well.push(grant);
    }
    let known = other.log().refreshes().len();
    let mut hold = None;
    match way {
        Way::Stuck => hold = Some(stage.sandbox.script().hold_every_request(On::refresh())),
        Way::Refusing => stage.sandbox.script().always(On::refresh(), Fault::status(503)),
        Way::Unplugged => stage.sandbox.unplug().await,
    }
    let waiting: Vec<_> = down.iter().map(|grant| stage.renewing(grant)).collect();
    let mut told = Vec::new();
    match &mut hold {
        // As many as may be under way at a time.
        Some(hold) => soon("refreshes under way", hold.reached(4)).await,
        None => {
            for asking in waiting {
                told.push(soon("the end of a refresh at a provider that is down", asking).await.unwrap());
            }
        }
    }
    row.expect(!told.iter().any(Result::is_ok), || format!("{what}: it is not down: {told:?}"));
    let mut refreshed = 0;
    for grant in &well {
        let answer = asked(stage, renewal(grant)).await;
        let is_its_own = answer.as_ref().is_ok_and(|token| {
            token.source() == TokenSource::Refreshed
                && token.access_token != grant.current
                && other.grants().is_live(&token.access_token)
        });
        refreshed += usize::from(is_its_own);
        let told = answer.map(|token| token.source()).map_err(|status| reason(&status));
        row.expect(is_its_own, || format!("{what}: {} at the other provider is told {told:?}", grant.name));
    }
    let sent = other.log().refreshes().len() - known;
    row.expect(sent == BESIDE, || format!("{what}: {sent} requests at the other provider, not {BESIDE}"));
    for grant in &down {
        let living = stage.tokens().get_access_token(request(grant)).await;
        let told = living.map(drop).map_err(|status| reason(&status));
        row.expect(told.is_ok(), || format!("{what}: {} lives and is told {told:?}", grant.name));
    }
    drop(hold);
    stage.sandbox.script().clear();
    stage.sandbox.plug().unwrap();
    row.judge(stage, &mut down[0], Promise::Survives, &what).await;
    refreshed
}

/// What the other provider's connection of that name is answered.
async fn asked(stage: &Stage, request: v1::GetAccessTokenRequest) -> Result<Token, Status> {
    let request = v1::GetAccessTokenRequest { provider: OTHER.to_owned(), ..request };
    stage.tokens().get_access_token(request).await.map(tonic::Response::into_inner)
}
