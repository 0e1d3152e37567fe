//! A wall clock that is set while a request is under way.

use std::time::Duration;

use token_broker::broker::{ImportConnection, Source};
use token_broker::clock::Clock as _;
use token_broker::connection::reuse::Reuse;
use token_broker::connection::{ConnectionId, Status};
use token_broker::error::Reason;
use token_broker::secret::Secret;

use super::{grace, lost, stage};
use crate::kit::{LIFE, Stage};

const DAY: Duration = Duration::from_secs(86_400);

/// A connection with an access token and nothing to get another with.
async fn unrefreshable(stage: &Stage) -> ConnectionId {
    let import = ImportConnection {
        access_token: Some(Secret::new("at-only".into())),
        expires_at: Some(stage.clock.now() + LIFE),
        ..crate::kit::import("user-42")
    };
    stage.broker.import_connection(import).await.unwrap().id
}

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

#[tokio::test(start_paused = true)]
async fn set_ahead_for_a_moment_it_ends_no_connection_that_nothing_can_refresh() {
    let stage = stage(Reuse::Strict);
    let id = unrefreshable(&stage).await;
    assert_eq!(stage.token(&id).await.unwrap(), "at-only");
    let before = stage.clock.now();
    stage.clock.advance(DAY);
    assert_eq!(stage.token(&id).await.unwrap_err().reason(), Reason::ReauthRequired);
    assert_eq!(
        stage.broker.connection(&id).await.unwrap().status,
        Status::Active,
        "it may be put right again"
    );
    stage.clock.set(before);
    assert_eq!(stage.token(&id).await.unwrap(), "at-only");
    // Over by the clock that nobody sets.
    stage.clock.advance(LIFE);
    tokio::time::sleep(LIFE).await;
    assert_eq!(stage.token(&id).await.unwrap_err().reason(), Reason::ReauthRequired);
    assert_eq!(stage.broker.connection(&id).await.unwrap().status, Status::ReauthRequired);
}

#[tokio::test]
async fn set_ahead_over_a_restart_it_ends_no_connection_for_good_that_nothing_can_refresh() {
    let stage = stage(Reuse::Strict);
    let id = unrefreshable(&stage).await;
    let stage = stage.restarted();
    let before = stage.clock.now();
    stage.clock.advance(DAY);
    assert_eq!(stage.token(&id).await.unwrap_err().reason(), Reason::ReauthRequired);
    assert_eq!(stage.broker.connection(&id).await.unwrap().status, Status::ReauthRequired);
    // The clock was all that spoke against it.
    stage.clock.set(before);
    for stage in [stage.restarted(), stage] {
        assert_eq!(stage.token(&id).await.unwrap(), "at-only");
        assert_eq!(stage.broker.connection(&id).await.unwrap().status, Status::Active);
    }
}

#[tokio::test(start_paused = true)]
async fn set_back_after_the_end_it_gives_nothing_back_that_this_run_knew_to_be_over() {
    let stage = stage(Reuse::Strict);
    let id = unrefreshable(&stage).await;
    assert_eq!(stage.token(&id).await.unwrap(), "at-only");
    stage.clock.advance(LIFE);
    tokio::time::sleep(LIFE).await;
    assert_eq!(stage.token(&id).await.unwrap_err().reason(), Reason::ReauthRequired);
    stage.clock.set(stage.clock.now() - LIFE / 2);
    assert_eq!(stage.token(&id).await.unwrap_err().reason(), Reason::ReauthRequired);
    assert_eq!(stage.broker.connection(&id).await.unwrap().status, Status::ReauthRequired);
    // Another token is another matter.
    let import = ImportConnection {
        access_token: Some(Secret::new("at-next".into())),
        expires_at: Some(stage.clock.now() + LIFE),
        replace: true,
        ..crate::kit::import("user-42")
    };
    stage.broker.import_connection(import).await.unwrap();
    assert_eq!(stage.token(&id).await.unwrap(), "at-next");
}
