//! Refreshing before anybody has to wait for it, in a whole broker whose time is driven by the test.

mod crowd;
mod joined;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use token_broker::broker::{Ahead, Source};
use token_broker::clock::{Clock as _, ManualClock, Timestamp};
use token_broker::connection::{ConnectionId, Status};
use token_broker::error::{OAuthCode, ProviderError};
use tokio::task::AbortHandle;

use crate::kit::{LIFE, Stage, id, request};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// Moves the wall clock along with tokio's paused time, which jumps to the next timer as soon as all wait.
pub(crate) struct Hand(AbortHandle);

impl Hand {
    pub(crate) fn of(clock: &Arc<ManualClock>) -> Self {
        let clock = clock.clone();
        let moving = tokio::spawn(async move {
            loop {
                tokio::time::sleep(SECOND).await;
                clock.advance(SECOND);
            }
        });
        Self(moving.abort_handle())
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A broker that refreshes ahead, with one connection that was asked for.
async fn running(ahead: Ahead) -> (Stage, ConnectionId, Hand) {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    let hand = Hand::of(&stage.clock);
    stage.broker.start_ahead(ahead);
    stage.token(&id).await.unwrap();
    (stage, id, hand)
}

async fn reach(stage: &Stage, instant: Timestamp) {
    while stage.clock.now() < instant {
        tokio::time::sleep(SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_caller_waits_for_a_refresh_and_none_gets_an_expired_token() {
    let (stage, id, _hand) = running(Ahead::default()).await;
    let start = stage.clock.now();
    let mut sources = Vec::new();
    while stage.clock.now() < start + 10 * LIFE {
        tokio::time::sleep(MINUTE).await;
        let answer = stage.broker.access_token(request(&id)).await.unwrap();
        assert!(answer.token.access.is_alive(stage.clock.now()));
        sources.push(answer.source);
    }
    assert!(sources.iter().all(|source| *source == Source::Cache), "{sources:?}");
    let refreshes = stage.provider.presented().len();
    assert!((11..=13).contains(&refreshes), "{refreshes} in ten lives of a token");
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_run_left_is_refreshed_without_being_asked_for() {
    let stage = Stage::new();
    stage.expired("user-42").await;
    let stage = stage.restarted();
    let _hand = Hand::of(&stage.clock);
    stage.broker.start_ahead(Ahead::default());
    stage.provider.requests_reach(1).await;
    stage.broker.drain().await;
    assert_eq!(stage.broker.connection(&id("user-42")).await.unwrap().generation, 2);
}

#[tokio::test(start_paused = true)]
async fn a_dead_grant_is_never_asked_for_again() {
    let (stage, id, _hand) = running(Ahead::default()).await;
    stage.provider.next(Err(ProviderError::Denied(OAuthCode::new("invalid_grant"))));
    stage.provider.requests_reach(1).await;
    reach(&stage, stage.clock.now() + DAY).await;
    assert_eq!(stage.broker.connection(&id).await.unwrap().status, Status::ReauthRequired);
    assert_eq!(stage.provider.presented(), ["rt-0"]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_disconnected_is_not_refreshed_any_more() {
    let (stage, id, _hand) = running(Ahead::default()).await;
    stage.broker.disconnect(id).await.unwrap();
    reach(&stage, stage.clock.now() + DAY).await;
    assert!(stage.provider.presented().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_goes_while_all_are_looked_at_is_not_planned() {
    let stage = Stage::new();
    let gone = stage.expired("user-1").await;
    stage.imported("user-2").await;
    stage.store.reads_before_the_gate.store(true, Ordering::SeqCst);
    stage.store.lets_listings_through(false);
    let mut listings = stage.store.listings();
    stage.broker.start_ahead(Ahead::default());
    listings.wait_for(|count| *count == 1).await.unwrap();
    stage.broker.disconnect(gone).await.unwrap();
    stage.store.lets_listings_through(true);
    let _hand = Hand::of(&stage.clock);
    tokio::time::sleep(MINUTE).await;
    assert_eq!(stage.broker.scheduled_connections(), 1, "the other one");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_nobody_asks_for_is_left_to_rest() {
    let ahead = Ahead { idle_after: 2 * LIFE, ..Ahead::default() };
    let (stage, id, _hand) = running(ahead).await;
    reach(&stage, stage.clock.now() + DAY).await;
    let rested = stage.provider.presented().len();
    assert!((2..=3).contains(&rested), "{rested} while it was still asked for");
    stage.token(&id).await.unwrap();
    reach(&stage, stage.clock.now() + LIFE).await;
    let awake = stage.provider.presented().len() - rested;
    assert_eq!(awake, 2, "one for the caller, one ahead");
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_the_refreshing() {
    let (stage, _, _hand) = running(Ahead::default()).await;
    stage.broker.drain().await;
    reach(&stage, stage.clock.now() + DAY).await;
    assert!(stage.provider.presented().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_caller_shares_the_refresh_that_was_begun_ahead() {
    let (stage, id, _hand) = running(Ahead::default()).await;
    stage.provider.hold();
    stage.provider.requests_reach(1).await;
    let demanding = token_broker::broker::TokenRequest { min_ttl: Some(LIFE / 2), ..request(&id) };
    let (broker, asked) = (stage.broker.clone(), demanding);
    let caller = tokio::spawn(async move { broker.access_token(asked).await });
    stage.provider.release();
    assert_eq!(caller.await.unwrap().unwrap().source, Source::SharedRefresh);
    assert_eq!(stage.provider.presented(), ["rt-0"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_answered_from_memory_is_not_counted_as_refreshed_ahead() {
    let (stage, _id, _hand) = running(Ahead::default()).await;
    // The intent is written, and what comes is not: from then on nothing is asked of the provider.
    stage.store.fail_writes_after(1, usize::MAX);
    stage.provider.requests_reach(1).await;
    tokio::time::sleep(LIFE / 2).await;
    assert_eq!(stage.broker.escrowed_count(), 1);
    assert_eq!(stage.provider.presented(), ["rt-0"]);
    let told = stage.metrics.encode().unwrap();
    let counted = told.lines().find(|line| line.starts_with("token_broker_refreshes_ahead_total{"));
    assert!(counted.is_some_and(|line| line.ends_with(" 1")), "{counted:?}");
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_and_forth_makes_no_storm() {
    let (stage, id, _hand) = running(Ahead::default()).await;
    let hour = Duration::from_secs(3600);
    for jump in [hour, DAY] {
        let before = stage.provider.presented().len();
        stage.clock.advance(jump);
        tokio::time::sleep(10 * MINUTE).await;
        stage.clock.set(stage.clock.now() - jump);
        tokio::time::sleep(10 * MINUTE).await;
        stage.token(&id).await.unwrap();
        let sent = stage.provider.presented().len() - before;
        assert!(sent <= 2, "{sent} refreshes of one connection by a jump of {jump:?} and back");
    }
}
