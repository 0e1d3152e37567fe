//! What became of a grant: what the broker says of it, held against what the provider knows. It has no opinion of how
//! the broker works.

use std::time::Duration;

use token_broker::sandbox::{Delivery, Exchange, Generation};
use tokio::time::Instant;

use super::profile::Habit;
use super::stage::{Grant, LIFE, Stage, reason};

/// How long a grant may take to come back once the faults are over: well over twice the lease and the timeout that the
/// kit configures
/// (invariant I12), the clock moved on where only waiting for a token's death would be left.
const RECOVERY: Duration = Duration::from_secs(40);

/// How often a broker is asked that has nothing yet.
const ASK_AGAIN: Duration = Duration::from_millis(40);

/// What became of a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was refreshed twice more.
    Kept,
    /// The provider takes no refresh token any more that the broker has.
    Lost,
    /// The broker gave it up, and the provider did not.
    FalseDeath,
    /// Neither tokens nor an end: the last reason.
    Stuck(String),
}

/// Starts the broker if it is down, and finds out whether the grant lives: by refreshing it twice.
pub(crate) async fn fate(stage: &mut Stage, grant: &mut Grant) -> Fate {
    calm(stage).await;
    for _ in 0..2 {
        let fate = renewed(stage, grant).await;
        if fate != Fate::Kept {
            return fate;
        }
    }
    Fate::Kept
}

/// Ends every fault, and starts the broker if it is down.
pub(crate) async fn calm(stage: &mut Stage) {
    stage.sandbox.script().clear();
    stage.home.order("");
    stage.start().await;
}

async fn renewed(stage: &mut Stage, grant: &mut Grant) -> Fate {
    // A strict provider is asked again when the old token is dead; any other within its grace, by itself.
    let patience = Duration::from_millis(if stage.profile.habit == Habit::Strict { 400 } else { 6000 });
    let began = Instant::now();
    let mut has_aged = false;
    let mut last = String::new();
    while began.elapsed() < RECOVERY {
        let before = grant.current.clone();
        match stage.renew(grant).await {
            Ok(token) if token.access_token != before && stage.is_live(&token) => return Fate::Kept,
            Ok(_) => last = "it serves a token that the provider does not take".to_owned(),
            Err(status) if reason(&status) == "REAUTH_REQUIRED" => return death(stage, grant),
            Err(status) => last = format!("{}: {}", reason(&status), status.message()),
        }
        if !has_aged && began.elapsed() > patience {
            stage.hand.advance(LIFE + Duration::from_secs(1));
            has_aged = true;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
    Fate::Stuck(last)
}

/// Whether a grant that the broker gave up is really gone.
fn death(stage: &Stage, grant: &Grant) -> Fate {
    let ended = stage.sandbox.grants().list().into_iter().find(|state| state.id == grant.id).unwrap().ended;
    // A provider that refuses a spent token and lets the family live leaves nothing to refresh with all the same.
    let was_spent = stage.refreshes(grant).last().is_some_and(|exchange| exchange.subject.spent);
    if ended.is_some() || was_spent { Fate::Lost } else { Fate::FalseDeath }
}

/// Refreshes that presented a refresh token again without need, in words.
pub(crate) fn needless(stage: &Stage, grant: &Grant) -> Vec<String> {
    let refreshes = stage.refreshes(grant);
    let mut found = Vec::new();
    for (at, exchange) in refreshes.iter().enumerate() {
        let Some(generation) = exchange.subject.generation else { continue };
        let told = |why: &str| format!("request {} presents {generation:?}: {why}", exchange.id);
        // A request that the broker gave up at its deadline may be under way at a stuck provider for ever.
        let is_given_up = last_with(&refreshes[..at], generation)
            .is_some_and(|earlier| earlier.delivery == Some(Delivery::ClientLeft));
        if stage.profile.habit == Habit::Strict && exchange.overlapped && !is_given_up {
            found.push(told("while another with the same token was under way"));
        }
        if grant.served.is_some_and(|(since, known)| since <= exchange.id && generation < known) {
            found.push(told("its successor's access token had been served as durable"));
        } else if let Some(earlier) = last_with(&refreshes[..at], generation)
            && is_answered(earlier, exchange, &stage.deaths)
        {
            found.push(told("it had been answered, and the broker had not died since"));
        }
    }
    found
}

fn last_with(refreshes: &[Exchange], generation: Generation) -> Option<&Exchange> {
    refreshes.iter().rfind(|exchange| exchange.subject.generation == Some(generation))
}

/// Whether the broker knew what came of `earlier` when it sent `later`. A refresh token that stays is presented again
/// by right.
fn is_answered(earlier: &Exchange, later: &Exchange, deaths: &[u64]) -> bool {
    use token_broker::sandbox::Effect;
    let has_died = deaths.iter().any(|death| (earlier.id + 1..=later.id).contains(death));
    let is_rotated = matches!(earlier.effect, Some(Effect::Rotated { .. } | Effect::Refused { .. }));
    let is_told = matches!(earlier.delivery, Some(Delivery::Sent { .. })) && earlier.fault.is_none();
    !has_died && is_rotated && is_told
}
