//! A wall clock that is set while a request is under way.

use std::time::Duration;

use token_broker::broker::Source;
use token_broker::clock::Clock as _;
use token_broker::connection::reuse::Reuse;

use super::{grace, lost, stage};
use crate::kit::LIFE;

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test(start_paused = true)]
async fn set_back_it_gives_what_the_request_brings_no_longer_life() {
    let stage = stage(Reuse::Strict);
    let id = stage.expired("user-42").await;
    let caller = stage.refreshing(&id).await;
    stage.clock.set(stage.clock.now() - DAY);
    stage.provider.release();
    assert_eq!(caller.await.unwrap().unwrap().token.access.expires_at, Some(stage.clock.now() + LIFE));
    // The hour passes on every clock but that one.
    tokio::time::sleep(LIFE).await;
    assert_eq!(stage.token(&id).await.unwrap(), "at-2");
}

#[tokio::test]
async fn set_ahead_it_takes_a_machine_that_stood_still_for_nothing_else() {
    let stage = stage(Reuse::Strict);
    let id = stage.expired("user-42").await;
    let caller = stage.refreshing(&id).await;
    let asked_at = stage.clock.now();
    stage.clock.advance(LIFE / 2);
    stage.provider.release();
    assert_eq!(caller.await.unwrap().unwrap().token.access.expires_at, Some(asked_at + LIFE));
}

#[tokio::test]
async fn set_either_way_it_ends_no_grace_period() {
    for is_back in [true, false] {
        let stage = stage(grace(5));
        let id = stage.imported("user-42").await;
        stage.clock.advance(LIFE - Duration::from_secs(300));
        stage.provider.next(Err(lost()));
        let caller = stage.refreshing(&id).await;
        // The old token lives on by either time: nothing but the grace period presses.
        let (now, by) = (stage.clock.now(), Duration::from_secs(30));
        stage.clock.set(if is_back { now - by } else { now + by });
        stage.provider.release();
        let answer = caller.await.unwrap().unwrap();
        assert_eq!(
            (answer.source, stage.provider.presented().len()),
            (Source::Refreshed, 2),
            "back: {is_back}"
        );
    }
}
