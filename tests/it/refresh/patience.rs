//! A store that takes its time while a grace period runs out: a repeat that would leave too late is not sent, a first
//! request is.

use std::sync::atomic::Ordering;
use std::time::Duration;

use token_broker::connection::Status;
use token_broker::error::Reason;

use super::{grace, lost, stage};
use crate::ahead::Hand;

#[tokio::test(start_paused = true)]
async fn a_first_request_leaves_however_long_it_took_to_write_down_and_is_waited_for() {
    for write_ms in [3_500, 4_500] {
        let stage = stage(grace(5));
        let id = stage.expired("user-42").await;
        let _hand = Hand::of(&stage.clock);
        // Of the 4 s in which a repeat arrives in time little is left, or nothing.
        stage.store.write_ms.store(write_ms, Ordering::SeqCst);
        let caller = stage.refreshing(&id).await;
        tokio::time::advance(Duration::from_secs(2)).await;
        stage.provider.release();
        let token = caller.await.unwrap().unwrap().token;
        assert_eq!(token.access.value.expose(), "at-1", "{write_ms}");
        assert_eq!(stage.provider.presented(), ["rt-0"]);
    }
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
