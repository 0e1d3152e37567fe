//! A store that takes its time while a grace period runs out: what would leave too late is not sent.

use std::sync::atomic::Ordering;

use token_broker::connection::Status;
use token_broker::error::Reason;

use super::{grace, lost, stage};
use crate::ahead::Hand;

#[tokio::test(start_paused = true)]
async fn what_took_too_long_to_write_down_to_leave_a_grace_period_its_time_is_not_sent() {
    let stage = stage(grace(5));
    let id = stage.expired("user-42").await;
    let _hand = Hand::of(&stage.clock);
    // Of the 4 s in which a repeat arrives in time nothing is left.
    stage.store.write_ms.store(4_500, Ordering::SeqCst);
    assert_eq!(stage.token(&id).await.unwrap_err().reason(), Reason::ProviderUnavailable);
    assert!(stage.provider.presented().is_empty());
    let profile = stage.broker.connection(&id).await.unwrap();
    assert_eq!((profile.status, profile.intent), (Status::Active, None));
    // A quarter of the time that is usual is enough.
    stage.store.write_ms.store(2_000, Ordering::SeqCst);
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
    assert_eq!(stage.provider.presented(), ["rt-0"]);
}

#[tokio::test(start_paused = true)]
async fn a_repeat_that_took_longer_to_write_down_than_its_grace_period_lasts_is_not_sent() {
    let stage = stage(grace(5));
    let id = stage.expired("user-42").await;
    let _hand = Hand::of(&stage.clock);
    stage.provider.next(Err(lost()));
    let caller = stage.refreshing(&id).await;
    stage.store.write_ms.store(3_000, Ordering::SeqCst);
    stage.provider.release();
    assert_eq!(caller.await.unwrap().unwrap_err().reason(), Reason::ProviderUnavailable);
    assert_eq!(stage.provider.presented(), ["rt-0"], "now it could end the grant");
    let profile = stage.broker.connection(&id).await.unwrap();
    assert_eq!((profile.status, profile.intent.map(|intent| intent.tries)), (Status::Ambiguous, Some(1)));
}
