//! A refresh that an earlier run left unanswered, and that cannot be found out at once: everybody is told so.

use std::time::Duration;

use token_broker::broker::{Ahead, ConnectionEvent, Recovery, Trust};
use token_broker::clock::Clock as _;
use token_broker::connection::history::Happening;
use token_broker::connection::reuse::Reuse;
use token_broker::connection::{ConnectionId, LATE_PROBE, Profile, Status};
use token_broker::store::{Selection, TokenStore as _};

use super::order::left_unfinished;
use super::{happened, stage};
use crate::ahead::Hand;
use crate::kit::{LIFE, Stage, id};

/// Longer than anything here may take; only a hang meets it. Time is driven.
const PATIENCE: Duration = Duration::from_secs(120);

/// The connection once its status is another than ACTIVE, by what is told to those who watch.
async fn told(stage: &Stage, id: &ConnectionId) -> Profile {
    let mut watch = stage.broker.watch_connections(Selection::default());
    let changed = async {
        loop {
            match watch.next().await.unwrap() {
                ConnectionEvent::Connection(profile)
                    if profile.id == *id && profile.status != Status::Active =>
                {
                    return *profile;
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, changed).await.expect("nobody is told")
}

fn unanswered(stage: &Stage) -> String {
    let metrics = stage.metrics.encode().unwrap();
    let line = metrics.lines().find(|line| line.contains("connections{") && line.contains("AMBIGUOUS"));
    line.unwrap_or("no connection is AMBIGUOUS").to_owned()
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_run_left_unanswered_and_must_wait_is_ambiguous_for_everybody() {
    for reuse in [Reuse::Strict, Reuse::Grace { window: Duration::from_secs(5), max_uses: 2 }] {
        let stage = stage(reuse);
        // A grace period is long over.
        left_unfinished(&stage, "user-42", Duration::from_secs(60)).await;
        let before = stage.store.get(&id("user-42")).await.unwrap().unwrap().value.profile;
        let stage = stage.restarted();
        let found = stage.broker.recover(Trust::Sound).await.unwrap();
        assert_eq!(found, Recovery { unfinished: 1, ..Recovery::default() });
        let profile = told(&stage, &before.id).await;
        assert_eq!(profile.status, Status::Ambiguous);
        assert_eq!((profile.fence, &profile.intent), (before.fence, &before.intent), "nothing else changed");
        assert_eq!(profile.generation, before.generation);
        let stored = stage.store.get(&before.id).await.unwrap().unwrap().value;
        assert_eq!(stored.profile.status, Status::Ambiguous, "durably");
        let history = stage.broker.history(&before.id).await.unwrap();
        let last = history.events().last().unwrap();
        assert_eq!((last.what, last.why.as_deref()), (Happening::Ambiguous, Some("process_ended")));
        let selected = Selection { status: Some(Status::Ambiguous), ..Selection::default() };
        assert_eq!(stage.store.list(&selected, None, 10).await.unwrap().profiles.len(), 1);
        stage.broker.sweep().await.unwrap();
        assert!(unanswered(&stage).ends_with(" 1"), "{}", unanswered(&stage));
        // The old access token is served, and the provider is left alone.
        assert_eq!(stage.token(&before.id).await.unwrap(), "at-user-42");
        assert!(stage.provider.presented().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn what_can_be_tried_at_once_is_tried_and_nothing_is_written_before() {
    for reuse in [
        Reuse::Reusable,
        super::grace(60),
        Reuse::Count { max_uses: 3, is_last_only: true, is_same_pair: false },
    ] {
        let stage = stage(reuse);
        left_unfinished(&stage, "user-42", Duration::from_secs(30)).await;
        let stage = stage.restarted();
        stage.broker.recover(Trust::Sound).await.unwrap();
        stage.provider.requests_reach(1).await;
        stage.token(&id("user-42")).await.unwrap();
        let happened = happened(&stage, &id("user-42")).await.split_off(2);
        assert_eq!(happened, [Happening::Resumed, Happening::Recovered], "{reuse:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_left_unanswered_is_found_out_though_nobody_asks_for_it() {
    let stage = stage(Reuse::Strict);
    left_unfinished(&stage, "user-42", Duration::from_secs(60)).await;
    let ends_at = stage.clock.now() + LIFE;
    let stage = stage.restarted();
    let _hand = Hand::of(&stage.clock);
    stage.broker.recover(Trust::Sound).await.unwrap();
    stage.broker.start_ahead(Ahead { idle_after: Duration::from_secs(1), ..Ahead::default() });
    while stage.clock.now() < ends_at {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(stage.provider.presented(), ["rt-user-42"]);
    let found = stage.broker.connection(&id("user-42")).await.unwrap();
    assert_eq!((found.status, found.generation), (Status::Active, 2));
    assert!(found.refreshed_at.unwrap() >= ends_at - LATE_PROBE, "and not before");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_at_first_is_told_of_what_was_left_unanswered_later() {
    let stage = stage(Reuse::Strict);
    left_unfinished(&stage, "user-42", Duration::from_secs(60)).await;
    let stage = stage.restarted();
    stage.store.fail_writes_after(0, 3);
    stage.broker.recover(Trust::Sound).await.unwrap();
    assert_eq!(told(&stage, &id("user-42")).await.status, Status::Ambiguous);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_of_this_run_that_is_under_way_is_not_taken_for_one_that_was_left() {
    let stage = stage(Reuse::Strict);
    let id = stage.imported("user-42").await;
    stage.token(&id).await.unwrap();
    stage.clock.advance(LIFE - Duration::from_secs(120));
    let caller = stage.refreshing(&id).await;
    // As after an escrow that was put back.
    stage.broker.recover(Trust::Sound).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(stage.broker.connection(&id).await.unwrap().status, Status::Active);
    stage.provider.release();
    caller.await.unwrap().unwrap();
}
