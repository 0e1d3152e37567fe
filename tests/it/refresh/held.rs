//! New tokens that the store does not take, and what is served of the old ones meanwhile.

use std::sync::atomic::Ordering;
use std::time::Duration;

use token_broker::broker::{Durability, Source, TokenEvent, TokenRequest, TokenWatch, WatchRequest};
use token_broker::connection::ConnectionId;
use token_broker::connection::reuse::Reuse;
use token_broker::secret::Secret;
use tokio::task::JoinHandle;

use super::stage;
use crate::kit::{LIFE, Stage, consented, request};

/// A living token in memory, a provider that ends it with the next refresh, and a disk that takes the intent alone.
async fn about_to_be_held(old_at_survives: bool) -> (Stage, ConnectionId) {
    let stage = stage(Reuse::Strict);
    stage.provider.reuse.lock().unwrap().old_at_survives = old_at_survives;
    let id = stage.imported("user-42").await;
    assert_eq!(stage.token(&id).await.unwrap(), "at-0");
    stage.store.fail_writes_after(1, usize::MAX);
    (stage, id)
}

async fn served(stage: &Stage, id: &ConnectionId) -> (String, Durability) {
    let answer = stage.broker.access_token(request(id)).await.unwrap();
    (answer.token.access.value.expose().clone(), answer.durability)
}

async fn next(watch: &mut TokenWatch) -> (String, Durability) {
    match watch.next().await.unwrap() {
        TokenEvent::Token(answer) => (answer.token.access.value.expose().clone(), answer.durability),
        event @ TokenEvent::ConsentNeeded { .. } => panic!("{event:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_living_token_that_the_provider_ended_is_served_to_nobody_while_its_successor_is_held() {
    let (stage, id) = about_to_be_held(false).await;
    stage.broker.refresh_connection(id.clone(), None).await.unwrap();
    assert_eq!(stage.broker.escrowed_count(), 1);
    for _ in 0..2 {
        assert_eq!(served(&stage, &id).await, ("at-1".into(), Durability::Degraded));
    }
    assert!(stage.broker.cached(&request(&id)).is_none(), "nothing is published that is not durable");
    stage.store.fail_writes_after(0, 0);
    stage.broker.drain().await;
    assert_eq!(served(&stage, &id).await, ("at-1".into(), Durability::Durable));
    assert_eq!(stage.provider.presented(), ["rt-0"]);
}

#[tokio::test(start_paused = true)]
async fn where_it_survives_it_is_served_from_memory() {
    let (stage, id) = about_to_be_held(true).await;
    stage.broker.refresh_connection(id.clone(), None).await.unwrap();
    assert!(stage.broker.cached(&request(&id)).is_some());
    assert_eq!(served(&stage, &id).await, ("at-0".into(), Durability::Durable));
    stage.store.fail_writes_after(0, 0);
    stage.broker.drain().await;
}

/// A refresh whose answer has come, and whose successor is on its way to the disk, which takes its time.
async fn being_written(old_at_survives: bool) -> (Stage, ConnectionId, JoinHandle<()>) {
    let stage = stage(Reuse::Strict);
    stage.provider.reuse.lock().unwrap().old_at_survives = old_at_survives;
    let id = stage.imported("user-42").await;
    stage.token(&id).await.unwrap();
    stage.provider.hold();
    let (broker, refreshed) = (stage.broker.clone(), id.clone());
    let refresh =
        tokio::spawn(async move { drop(broker.refresh_connection(refreshed, None).await.unwrap()) });
    stage.provider.requests_reach(1).await;
    assert!(stage.broker.cached(&request(&id)).is_some(), "whether it was carried out nobody knows yet");
    stage.store.write_ms.store(1000, Ordering::SeqCst);
    let gets = stage.store.gets.load(Ordering::SeqCst);
    stage.provider.release();
    // The record is read once more to be changed: the answer is here.
    while stage.store.gets.load(Ordering::SeqCst) == gets {
        tokio::task::yield_now().await;
    }
    (stage, id, refresh)
}

#[tokio::test(start_paused = true)]
async fn an_ended_token_is_served_to_nobody_from_its_successors_arrival_on() {
    let (stage, id, refresh) = being_written(false).await;
    assert!(stage.broker.cached(&request(&id)).is_none(), "it is known to be ended");
    let puts = stage.store.puts.load(Ordering::SeqCst);
    assert_eq!(served(&stage, &id).await, ("at-1".into(), Durability::Durable));
    assert_eq!(stage.store.puts.load(Ordering::SeqCst), puts + 1, "whoever asks waits for that one write");
    refresh.await.unwrap();
    assert_eq!(stage.provider.presented(), ["rt-0"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_survives_is_served_while_its_successor_is_being_written() {
    let (stage, id, refresh) = being_written(true).await;
    assert_eq!(served(&stage, &id).await, ("at-0".into(), Durability::Durable));
    refresh.await.unwrap();
    assert_eq!(served(&stage, &id).await, ("at-1".into(), Durability::Durable));
}

#[tokio::test(start_paused = true)]
async fn a_watch_hears_once_of_a_successor_where_the_old_one_is_ended() {
    let (stage, id) = about_to_be_held(false).await;
    stage.store.fail_writes_after(0, 0);
    let wanted = WatchRequest { id: id.clone(), scopes: Vec::new(), min_ttl: None };
    let mut watch = stage.broker.watch_access_token(wanted).await.unwrap();
    assert_eq!(next(&mut watch).await, ("at-0".into(), Durability::Durable));
    stage.broker.refresh_connection(id.clone(), None).await.unwrap();
    assert_eq!(next(&mut watch).await, ("at-1".into(), Durability::Durable));
    let more = tokio::time::timeout(Duration::from_secs(60), next(&mut watch)).await;
    assert!(more.is_err(), "it is the same token: {more:?}");
}

#[tokio::test(start_paused = true)]
async fn who_shares_a_flight_is_not_given_the_old_token_that_only_its_pilot_is_content_with() {
    let old = Secret::new("at-0".to_owned()).digest();
    for (if_not_equal_to, min_ttl) in [(Some(old), None), (None, Some(Duration::from_secs(600)))] {
        let (stage, id) = about_to_be_held(true).await;
        stage.clock.advance(LIFE - Duration::from_secs(30));
        stage.broker.refresh_connection(id.clone(), None).await.unwrap();
        let other = TokenRequest { if_not_equal_to, min_ttl, ..request(&id) };
        let (pilot, sharer) =
            tokio::join!(stage.broker.access_token(request(&id)), stage.broker.access_token(other));
        let pilot = pilot.unwrap();
        assert_eq!((pilot.token.access.value.expose().as_str(), pilot.source), ("at-0", Source::Stale));
        let sharer = sharer.unwrap();
        let got = (sharer.token.access.value.expose().as_str(), sharer.durability);
        assert_eq!(got, ("at-1", Durability::Degraded));
        stage.store.fail_writes_after(0, 0);
        stage.broker.drain().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_hears_of_tokens_that_are_held_where_the_old_one_is_ended() {
    let (stage, id) = about_to_be_held(false).await;
    let wanted = WatchRequest { id: id.clone(), scopes: Vec::new(), min_ttl: None };
    let mut watch = stage.broker.watch_access_token(wanted).await.unwrap();
    assert_eq!(next(&mut watch).await, ("at-0".into(), Durability::Durable));
    stage.broker.refresh_connection(id.clone(), None).await.unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(5), next(&mut watch)).await;
    assert_eq!(heard.unwrap(), ("at-1".into(), Durability::Degraded));
    stage.store.fail_writes_after(0, 0);
    stage.broker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_token_that_came_by_consent_meanwhile_stays_in_memory() {
    let (stage, id) = about_to_be_held(false).await;
    let (_, state) = stage.begun_by_app("user-42").await;
    let (broker, refreshed) = (stage.broker.clone(), id.clone());
    let refresh = tokio::spawn(async move { broker.refresh_connection(refreshed, None).await });
    stage.provider.requests_reach(1).await;
    stage.store.fail_writes_after(0, 0);
    stage.broker.complete_connect(consented(&state)).await.unwrap();
    stage.store.is_deaf.store(true, Ordering::SeqCst);
    refresh.await.unwrap().unwrap_err();
    assert_eq!(stage.broker.escrowed_count(), 1);
    let answer = stage.broker.cached(&request(&id)).unwrap();
    assert_eq!(answer.token.access.value.expose(), "at-2");
    stage.store.is_deaf.store(false, Ordering::SeqCst);
    stage.broker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn tokens_that_cannot_be_stored_are_answered_as_degraded_and_never_dropped() {
    let stage = stage(Reuse::Strict);
    let id = stage.expired("user-42").await;
    stage.store.fail_writes_after(1, usize::MAX);
    for _ in 0..3 {
        let answer = stage.broker.access_token(request(&id)).await.unwrap();
        assert_eq!(answer.token.access.value.expose(), "at-1");
        assert_eq!(answer.durability, Durability::Degraded);
    }
    assert_eq!(stage.broker.escrowed_count(), 1);
    assert!(stage.broker.cached(&request(&id)).is_none(), "nothing is published that is not durable");
    stage.store.fail_writes_after(0, 0);
    // Draining sees to what is held before anything else.
    stage.broker.drain().await;
    assert_eq!(stage.broker.escrowed_count(), 0);
    let answer = stage.broker.access_token(request(&id)).await.unwrap();
    assert_eq!(answer.durability, Durability::Durable);
    assert_eq!(stage.provider.presented(), ["rt-0"]);
    let stage = stage.restarted();
    stage.clock.advance(LIFE);
    assert_eq!(stage.token(&id).await.unwrap(), "at-2");
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-1"]);
}

#[tokio::test(start_paused = true)]
async fn while_tokens_are_held_an_old_one_that_survives_is_served_first() {
    let stage = stage(Reuse::Strict);
    stage.provider.reuse.lock().unwrap().old_at_survives = true;
    let id = stage.imported("user-42").await;
    stage.token(&id).await.unwrap();
    stage.clock.advance(LIFE - Duration::from_secs(30));
    stage.store.fail_writes_after(1, usize::MAX);
    stage.token(&id).await.unwrap();
    let answer = stage.broker.access_token(request(&id)).await.unwrap();
    assert_eq!((answer.source, answer.durability), (Source::Stale, Durability::Durable));
    assert_eq!(answer.token.access.value.expose(), "at-0");
    stage.clock.advance(Duration::from_secs(30));
    let answer = stage.broker.access_token(request(&id)).await.unwrap();
    assert_eq!(
        (answer.token.access.value.expose().as_str(), answer.durability),
        ("at-1", Durability::Degraded)
    );
    stage.store.fail_writes_after(0, 0);
    stage.broker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_waits_for_refreshes_waits_for_what_the_store_has_not_taken_yet() {
    let stage = stage(Reuse::Strict);
    let id = stage.expired("user-42").await;
    stage.store.fail_writes_after(1, usize::MAX);
    let _ = stage.token(&id).await;
    assert_eq!(stage.broker.escrowed_count(), 1);
    let broker = stage.broker.clone();
    let mut ending = tokio::spawn(async move { tokio::join!(broker.drain(), broker.refreshes_end()) });
    let broker = stage.broker.clone();
    let refreshes = tokio::spawn(async move { broker.refreshes_end().await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!refreshes.is_finished(), "what came is nowhere else");
    assert!(tokio::time::timeout(Duration::ZERO, &mut ending).await.is_err());
    stage.store.fail_writes_after(0, 0);
    refreshes.await.unwrap();
    assert_eq!(stage.broker.escrowed_count(), 0);
    ending.await.unwrap();
}
