//! Access tokens that their provider ended when it issued their successors: which of them a broker may still serve. It may
//! where it cannot know: the answer that brought the successor was lost, or the process that had it died before it was
//! durable. The broker is told of such a provider that the old tokens do not survive.

use std::time::Duration;

use token_broker::grpc::proto::v1::Durability;
use token_broker::sandbox::{Delivery, Effect, Exchange};
use tokio::time::Instant;

use super::stage::{Grant, Stage, Token};

/// How long it may take until an answer that was sent is heard and on disk.
const SOON: Duration = Duration::from_secs(10);

/// What is served of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// Nothing, or what the provider has not ended.
    Living,
    /// A token that the provider has ended, which the broker cannot know.
    InDoubt,
    /// A token that the provider has ended, which the broker was told.
    Ended,
}

/// What a broker that nothing ails serves to whoever is content with whatever lives.
pub(crate) async fn served(stage: &Stage, grant: &mut Grant) -> Served {
    let began = Instant::now();
    loop {
        let Ok(token) = stage.ask(grant).await else { return Served::Living };
        if !is_ended(stage, grant, &token) {
            return Served::Living;
        }
        if is_in_doubt(stage, grant) {
            return Served::InDoubt;
        }
        // An answer that has left the provider is still to be read, and written down.
        if began.elapsed() > SOON {
            return Served::Ended;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether the provider ended this access token by issuing a later one, and it is called durable.
pub(crate) fn is_ended(stage: &Stage, grant: &Grant, token: &Token) -> bool {
    let state = stage.sandbox.grants().list().into_iter().find(|state| state.id == grant.id).unwrap();
    stage.profile.ends_old
        && token.durability() != Durability::Degraded
        && state.ended.is_none()
        && stage.issued_to(grant, &token.access_token) < state.newest
}

/// Whether what the provider did last with this grant is known to nobody: its answer was lost, or was with a process that
/// died and left fewer commits than such answers.
fn is_in_doubt(stage: &Stage, grant: &Grant) -> bool {
    let all = stage.sandbox.log().refreshes();
    let is_its = |exchange: &&Exchange| exchange.subject.grant == Some(grant.id);
    let Some(last) = all.iter().filter(is_its).rfind(|exchange| is_rotation(exchange)) else { return false };
    let life = |exchange: &Exchange| stage.deaths.iter().filter(|death| **death <= exchange.id).count();
    let of = life(last);
    if of == stage.deaths.len() {
        return !is_whole(last);
    }
    let since = if of == 0 { 0 } else { stage.commits[of - 1] };
    let told = all.iter().filter(|exchange| life(exchange) == of && is_rotation(exchange)).count();
    stage.commits[of] - since < told
}

fn is_rotation(exchange: &Exchange) -> bool {
    matches!(exchange.effect, Some(Effect::Rotated { .. }))
}

/// Whether the whole answer went out. One that was only late is whole.
fn is_whole(exchange: &Exchange) -> bool {
    let is_late = |fault| matches!(fault, "delay_request" | "delay_answer" | "hold_request" | "hold_answer");
    matches!(exchange.delivery, Some(Delivery::Sent { status: 200 })) && exchange.fault.is_none_or(is_late)
}
