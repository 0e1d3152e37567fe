//! A connection that is disconnected while nobody knows what became of its last refresh: what was lost is asked for and
//! revoked too, and where that cannot be, the answer says so.

use std::sync::atomic::Ordering;
use std::time::Duration;

use token_broker::broker::{RevocationState, Trust};
use token_broker::clock::Clock as _;
use token_broker::connection::history::Happening;
use token_broker::connection::reuse::{Reuse, ReuseProfile, Rotation};
use token_broker::connection::{Connection, ConnectionId, Status, TokenSet};
use token_broker::error::{ProviderError, Reason, Unsent};
use token_broker::store::TokenStore as _;

use super::{denied, lost, stage};
use crate::kit::{Stage, request};

/// Longer than any request of the last refresh can still be under way.
const SETTLED: Duration = Duration::from_secs(60);

/// A connection whose last refresh was never answered.
async fn in_doubt(stage: &Stage) -> ConnectionId {
    let id = stage.expired("user-42").await;
    stage.provider.next(Err(lost()));
    stage.token(&id).await.unwrap_err();
    assert_eq!(stage.broker.connection(&id).await.unwrap().status, Status::Ambiguous);
    id
}

async fn disconnected(stage: &Stage, id: &ConnectionId) -> RevocationState {
    stage.broker.disconnect(id.clone()).await.unwrap().revocation
}

fn ended(stage: &Stage) -> Vec<String> {
    stage.provider.ended.lock().unwrap().clone()
}

#[tokio::test]
async fn what_was_lost_is_asked_for_and_revoked_too() {
    for reuse in [Reuse::Strict, Reuse::Reusable] {
        let stage = stage(reuse);
        let id = in_doubt(&stage).await;
        stage.clock.advance(SETTLED);
        assert_eq!(disconnected(&stage, &id).await, RevocationState::Revoked);
        assert_eq!(stage.provider.presented(), ["rt-0", "rt-0"]);
        assert_eq!(ended(&stage), ["rt-1", "rt-0"]);
        assert!(stage.store.get(&id).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_disconnect_that_cannot_find_out_says_that_nobody_knows() {
    let stage = stage(Reuse::Strict);
    let id = in_doubt(&stage).await;
    stage.clock.advance(SETTLED);
    stage.provider.next(Err(denied()));
    let answer = stage.broker.disconnect(id.clone()).await.unwrap();
    assert_eq!(answer.revocation, RevocationState::Unconfirmed);
    assert_eq!(answer.profile.status, Status::Revoked);
    assert_eq!(ended(&stage), ["rt-0"], "what is held is revoked all the same");
    assert!(stage.store.get(&id).await.unwrap().is_none());
    let history = stage.broker.history(&id).await.unwrap();
    assert_eq!(history.events().last().unwrap().what, Happening::RevocationUnconfirmed);
}

#[tokio::test]
async fn a_denial_of_a_token_that_is_always_taken_again_is_the_end_of_the_grant() {
    let stage = stage(Reuse::Reusable);
    let id = in_doubt(&stage).await;
    stage.clock.advance(SETTLED);
    stage.provider.next(Err(denied()));
    assert_eq!(disconnected(&stage, &id).await, RevocationState::Revoked);
}

#[tokio::test]
async fn it_is_pending_while_the_lost_request_may_still_arrive_also_over_a_restart() {
    let stage = stage(Reuse::Strict);
    let id = in_doubt(&stage).await;
    let now = stage.clock.now();
    let RevocationState::Pending { error, next_attempt_at } = disconnected(&stage, &id).await else {
        panic!("not pending")
    };
    assert_eq!(error.reason(), Reason::ConnectionAmbiguous);
    assert!(next_attempt_at.unwrap() > now);
    let history = stage.broker.history(&id).await.unwrap();
    let why = history.events().iter().find(|event| event.what == Happening::Revoking).unwrap();
    assert_eq!(why.why.as_deref(), Some("CONNECTION_AMBIGUOUS"));
    assert_eq!(stage.token(&id).await.unwrap_err().reason(), Reason::ConnectionNotFound);
    assert_eq!(stage.provider.presented(), ["rt-0"]);
    let stage = stage.restarted();
    stage.clock.advance(SETTLED);
    assert_eq!(stage.broker.resume_revocations().await.unwrap(), 1);
    stage.provider.revocations_reach(2).await;
    stage.broker.drain().await;
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-0"]);
    assert_eq!(ended(&stage), ["rt-1", "rt-0"]);
}

#[tokio::test]
async fn a_drain_does_not_cut_off_a_lost_answer_that_is_being_asked_for() {
    let stage = stage(Reuse::Strict);
    let id = in_doubt(&stage).await;
    assert!(matches!(disconnected(&stage, &id).await, RevocationState::Pending { .. }));
    let stage = stage.restarted();
    stage.clock.advance(SETTLED);
    stage.provider.hold();
    assert_eq!(stage.broker.resume_revocations().await.unwrap(), 1);
    stage.provider.requests_reach(2).await;
    let broker = stage.broker.clone();
    let drained = tokio::spawn(async move { broker.drain().await });
    // Whatever ends with the drain has ended when nothing else is left to run.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    stage.provider.release();
    drained.await.unwrap();
    let kept = stage.store.get(&id).await.unwrap().map(|stored| stored.value);
    let refresh = |set: &TokenSet| Some(set.refresh.as_ref()?.value.expose().clone());
    let held: Vec<_> = kept.iter().flat_map(Connection::revocable).filter_map(|set| refresh(&set)).collect();
    assert_eq!(held, ["rt-1", "rt-0"], "the next run revokes what came");
}

#[tokio::test]
async fn a_provider_that_is_away_for_long_uses_up_no_question() {
    let stage = stage(Reuse::Strict);
    let id = in_doubt(&stage).await;
    stage.clock.advance(SETTLED);
    for _ in 0..6 {
        stage.provider.next(Err(ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None }));
        let answer = disconnected(&stage, &id).await;
        assert!(matches!(answer, RevocationState::Pending { .. }), "{answer:?}");
        stage.clock.advance(SETTLED);
    }
    assert_eq!(disconnected(&stage, &id).await, RevocationState::Revoked);
    assert_eq!(ended(&stage), ["rt-1", "rt-0"]);
}

#[tokio::test]
async fn a_provider_that_cannot_be_asked_is_asked_again_before_anything_is_revoked() {
    let stage = stage(Reuse::Strict);
    let id = in_doubt(&stage).await;
    stage.clock.advance(SETTLED);
    let wait = Duration::from_secs(600);
    stage.provider.next(Err(ProviderError::Unavailable { cause: Unsent::Connect, retry_after: Some(wait) }));
    let answer = disconnected(&stage, &id).await;
    let RevocationState::Pending { error, next_attempt_at } = answer else { panic!("{answer:?}") };
    assert_eq!(error.reason(), Reason::ProviderUnavailable);
    let next = next_attempt_at.unwrap();
    let now = stage.clock.now();
    assert!((wait..=wait + wait / 10).contains(&now.until(next)), "as long as it asks for, and a little");
    assert!(ended(&stage).is_empty(), "or nobody could tell a spent token from a revoked one");
    stage.clock.advance(now.until(next));
    assert_eq!(disconnected(&stage, &id).await, RevocationState::Revoked);
    assert_eq!(ended(&stage), ["rt-1", "rt-0"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_provider_asks_to_wait_is_waited_also_after_a_restart() {
    let stage = stage(Reuse::Strict);
    let id = in_doubt(&stage).await;
    stage.clock.advance(SETTLED);
    stage.provider.next(Err(ProviderError::RateLimited { retry_after: Some(Duration::from_secs(600)) }));
    let RevocationState::Pending { next_attempt_at, .. } = disconnected(&stage, &id).await else {
        panic!("not pending")
    };
    let next = next_attempt_at.unwrap();
    let stage = stage.restarted();
    assert_eq!(stage.broker.resume_revocations().await.unwrap(), 1);
    // On the test's clock not a moment goes by, however often the broker looks.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let RevocationState::Pending { error, next_attempt_at } = disconnected(&stage, &id).await else {
        panic!("not pending")
    };
    assert_eq!((error.reason(), next_attempt_at), (Reason::ProviderRateLimited, Some(next)));
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-0"], "the lost one, and the one that was put off");
    stage.clock.advance(stage.clock.now().until(next));
    stage.provider.revocations_reach(2).await;
    stage.broker.drain().await;
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-0", "rt-0"]);
    assert_eq!(ended(&stage), ["rt-1", "rt-0"]);
}

#[tokio::test]
async fn a_grant_of_a_store_put_back_is_in_doubt_too() {
    for (answer, expected) in
        [(Ok(()), RevocationState::Revoked), (Err(denied()), RevocationState::Unconfirmed)]
    {
        let stage = stage(Reuse::Strict);
        let id = stage.imported("user-42").await;
        stage.broker.recover(Trust::RolledBack).await.unwrap();
        if let Err(error) = answer {
            stage.provider.next(Err(error));
        }
        assert_eq!(disconnected(&stage, &id).await, expected);
    }
}

#[tokio::test]
async fn nothing_is_asked_where_nothing_can_have_been_lost() {
    let stage = stage(Reuse::Reusable);
    *stage.provider.reuse.lock().unwrap() =
        ReuseProfile { rotation: Rotation::Never, reuse: Reuse::Reusable, ..ReuseProfile::default() };
    let id = in_doubt(&stage).await;
    assert_eq!(disconnected(&stage, &id).await, RevocationState::Revoked);
    assert_eq!(stage.provider.presented(), ["rt-0"]);
}

#[tokio::test]
async fn a_refresh_under_way_that_certainly_failed_leaves_no_doubt() {
    let stage = stage(Reuse::Strict);
    let id = stage.expired("user-42").await;
    stage.provider.hold();
    stage.provider.next(Err(ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None }));
    let (broker, asked) = (stage.broker.clone(), request(&id));
    let caller = tokio::spawn(async move { broker.access_token(asked).await });
    stage.provider.requests_reach(1).await;
    let (broker, gone) = (stage.broker.clone(), id.clone());
    let disconnect = tokio::spawn(async move { broker.disconnect(gone).await });
    while stage.broker.connection(&id).await.unwrap().status != Status::Revoking {
        tokio::task::yield_now().await;
    }
    stage.provider.release();
    assert_eq!(caller.await.unwrap().unwrap_err().reason(), Reason::ConnectionNotFound);
    assert_eq!(disconnect.await.unwrap().unwrap().revocation, RevocationState::Revoked);
    assert_eq!(stage.provider.presented(), ["rt-0"]);
    assert_eq!(ended(&stage), ["rt-0"]);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_takes_its_time_takes_it_from_the_question() {
    let stage = stage(Reuse::Strict);
    let id = in_doubt(&stage).await;
    stage.clock.advance(SETTLED);
    // Of the 10 s that a request may take, too little is left.
    stage.store.write_ms.store(8_000, Ordering::SeqCst);
    let RevocationState::Pending { error, .. } = disconnected(&stage, &id).await else {
        panic!("not pending")
    };
    assert_eq!(error.reason(), Reason::ProviderUnavailable);
    assert_eq!(stage.provider.presented(), ["rt-0"], "nothing leaves when its time is nearly over");
    let kept = stage.broker.connection(&id).await.unwrap();
    assert_eq!((kept.doubt, kept.intent.map(|intent| intent.tries)), (Some(0), Some(1)), "as before");
}

#[tokio::test]
async fn a_refresh_that_was_written_down_and_never_sent_leaves_no_doubt() {
    let stage = stage(Reuse::Strict);
    let id = stage.expired("user-42").await;
    stage.store.keeps_what_fails.store(true, Ordering::SeqCst);
    stage.store.fail_writes_after(0, 1);
    assert_eq!(stage.token(&id).await.unwrap_err().reason(), Reason::StoreUnavailable);
    let stored = stage.store.get(&id).await.unwrap().unwrap().value;
    assert!(stored.profile.intent.is_some(), "found durable after all");
    assert_eq!(disconnected(&stage, &id).await, RevocationState::Revoked);
    assert!(stage.provider.presented().is_empty());
    assert_eq!(ended(&stage), ["rt-0"]);
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_that_comes_while_a_refresh_is_written_down_too_late_to_be_sent_leaves_no_doubt() {
    let stage = stage(Reuse::Strict);
    let id = stage.expired("user-42").await;
    // Of the 10 s that a request may take, too little is left.
    stage.store.write_ms.store(8_000, Ordering::SeqCst);
    let caller = stage.asking(&id);
    // The intent is being written.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(disconnected(&stage, &id).await, RevocationState::Revoked);
    assert_eq!(caller.await.unwrap().unwrap_err().reason(), Reason::ProviderUnavailable);
    assert!(stage.provider.presented().is_empty());
    assert_eq!(ended(&stage), ["rt-0"]);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_cannot_be_written_down_is_none() {
    let stage = stage(Reuse::Strict);
    let id = in_doubt(&stage).await;
    stage.store.keeps_what_fails.store(true, Ordering::SeqCst);
    for attempt in 0..4 {
        stage.clock.advance(SETTLED);
        // At first that it is being revoked is written down.
        stage.store.fail_writes_after(usize::from(attempt == 0), 1);
        let answer = disconnected(&stage, &id).await;
        assert!(matches!(answer, RevocationState::Pending { .. }), "{answer:?}");
    }
    stage.clock.advance(SETTLED);
    assert_eq!(disconnected(&stage, &id).await, RevocationState::Revoked);
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-0"]);
    assert_eq!(ended(&stage), ["rt-1", "rt-0"]);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_is_not_let_out_for_long_keeps_no_token_alive() {
    let stage = stage(Reuse::Strict);
    let id = in_doubt(&stage).await;
    stage.clock.advance(SETTLED);
    let barred = ProviderError::CircuitOpen { retry_after: Duration::from_secs(30), outage: Box::default() };
    *stage.provider.bar.lock().unwrap() = Some(barred);
    let answer = disconnected(&stage, &id).await;
    assert!(matches!(answer, RevocationState::Pending { .. }), "{answer:?}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(ended(&stage).is_empty(), "what was lost may come yet");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(stage.provider.presented(), ["rt-0"]);
    assert_eq!(ended(&stage), ["rt-0"], "what is held is revoked all the same");
    let history = stage.broker.history(&id).await.unwrap();
    assert_eq!(history.events().last().map(|event| event.what), Some(Happening::RevocationUnconfirmed));
}
