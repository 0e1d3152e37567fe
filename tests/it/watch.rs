//! Those who watch: over one token, and over all connections.

use std::sync::atomic::Ordering;
use std::time::Duration;

use token_broker::broker::{
    Ahead, ConnectionEvent, ConnectionWatch, ImportConnection, Source, TokenEvent, TokenWatch, WatchRequest,
};
use token_broker::clock::{Clock as _, Timestamp};
use token_broker::connection::lifetimes::Lifetimes;
use token_broker::connection::{ConnectionId, ProviderKey, Status};
use token_broker::error::{AmbiguousCause, Error, OAuthCode, ProviderError, Reason, Unsent};
use token_broker::secret::Secret;
use token_broker::store::Selection;

use crate::ahead::Hand;
use crate::kit::{LIFE, Stage, consented, id, import, issued};

const SECOND: Duration = Duration::from_secs(1);

fn asked(id: &ConnectionId) -> WatchRequest {
    WatchRequest { id: id.clone(), scopes: Vec::new(), min_ttl: None }
}

async fn watching(stage: &Stage, id: &ConnectionId) -> TokenWatch {
    stage.broker.watch_access_token(asked(id)).await.unwrap()
}

async fn token(watch: &mut TokenWatch) -> String {
    match watch.next().await.unwrap() {
        TokenEvent::Token(answer) => answer.token.access.value.expose().clone(),
        event @ TokenEvent::ConsentNeeded { .. } => panic!("{event:?}"),
    }
}

fn dead() -> ProviderError {
    ProviderError::Denied(OAuthCode::new("invalid_grant"))
}

#[tokio::test(start_paused = true)]
async fn each_successor_comes_before_the_token_before_it_dies() {
    for is_ahead in [true, false] {
        let stage = Stage::new();
        let id = stage.imported("user-42").await;
        let _hand = Hand::of(&stage.clock);
        if is_ahead {
            stage.broker.start_ahead(Ahead { idle_after: SECOND, ..Ahead::default() });
        }
        let mut watch = watching(&stage, &id).await;
        let mut dies_at = None;
        for n in 0..5 {
            let TokenEvent::Token(answer) = watch.next().await.unwrap() else { panic!("a token") };
            let now = stage.clock.now();
            assert_eq!(*answer.token.access.value.expose(), format!("at-{n}"));
            assert!(dies_at.is_none_or(|dies_at| now + 50 * SECOND < dies_at), "ahead: {is_ahead}");
            dies_at = answer.token.access.expires_at;
        }
        assert_eq!(stage.provider.presented().len(), 4, "as many as were told, ahead: {is_ahead}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_repeated_is_no_event_and_its_successor_is() {
    for is_ahead in [true, false] {
        let stage = Stage::new();
        let id = stage.imported("user-42").await;
        *stage.provider.repeats.lock().unwrap() = Some("at-0".into());
        let _hand = Hand::of(&stage.clock);
        let dies_at = stage.clock.now() + LIFE;
        let mut watch = watching(&stage, &id).await;
        assert_eq!(token(&mut watch).await, "at-0");
        if is_ahead {
            stage.broker.start_ahead(Ahead::default());
        }
        let next = tokio::spawn(async move { token(&mut watch).await });
        tokio::time::sleep(LIFE - 5 * SECOND).await;
        let presented = stage.provider.presented().len();
        assert!((3..=20).contains(&presented), "{presented} requests, ahead: {is_ahead}");
        *stage.provider.repeats.lock().unwrap() = None;
        assert_ne!(next.await.unwrap(), "at-0", "ahead: {is_ahead}");
        assert!(stage.clock.now() <= dies_at + 2 * SECOND, "at its death at the latest");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_grant_is_told_once_and_the_token_after_consent() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    let hand = Hand::of(&stage.clock);
    let mut watch = watching(&stage, &id).await;
    assert_eq!(token(&mut watch).await, "at-0");
    stage.provider.next(Err(dead()));
    let TokenEvent::ConsentNeeded { reason, oauth_error, .. } = watch.next().await.unwrap() else {
        panic!("consent is needed")
    };
    assert_eq!(reason, Reason::ReauthRequired);
    assert_eq!(oauth_error, Some(OAuthCode::new("invalid_grant")));
    drop(hand);
    let broker = stage.broker.clone();
    let again = stage.begun_by_app("user-42").await.1;
    let waiting = tokio::spawn(async move { (token(&mut watch).await, watch) });
    broker.complete_connect(consented(&again)).await.unwrap();
    assert_eq!(waiting.await.unwrap().0, "at-1");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_finds_the_latest_token_and_no_queue() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    let mut watch = watching(&stage, &id).await;
    assert_eq!(token(&mut watch).await, "at-0");
    for _ in 0..10 {
        stage.broker.refresh_connection(id.clone(), None).await.unwrap();
        stage.clock.advance(SECOND);
    }
    assert_eq!(token(&mut watch).await, "at-10");
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_cannot_be_reached_is_no_event() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    let _hand = Hand::of(&stage.clock);
    let mut watch = watching(&stage, &id).await;
    assert_eq!(token(&mut watch).await, "at-0");
    for _ in 0..3 {
        stage.provider.next(Err(ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None }));
    }
    assert_eq!(token(&mut watch).await, "at-1");
    assert!(stage.provider.presented().len() >= 4);
}

fn unreachable() -> ProviderError {
    ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None }
}

/// How often memory or the store is asked while a watch has nothing to do but wait: its turns, if it makes any.
async fn idle_turns(stage: &Stage) -> u64 {
    let hits = stage.metrics.tokens_served("sandbox", Source::Cache.as_str());
    let turns = || hits.get() + u64::try_from(stage.store.gets.load(Ordering::SeqCst)).unwrap();
    // Time stands still unless it is told to go, so a watch that never rests cannot hang this.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let before = turns();
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    turns() - before
}

/// Lets tokio's time go by, and everybody act.
async fn pass(span: Duration) {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    tokio::time::advance(span).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_whose_owner_is_needed_rests_until_there_is_news() {
    let stage = Stage::new();
    let id = stage.expired("user-42").await;
    stage.provider.next(Err(dead()));
    let mut watch = watching(&stage, &id).await;
    assert!(matches!(watch.next().await.unwrap(), TokenEvent::ConsentNeeded { .. }));
    let waiting = tokio::spawn(async move { token(&mut watch).await });
    assert_eq!(idle_turns(&stage).await, 0);
    // Somebody brings new tokens while the provider is down; when it is back, it says what it said before.
    for answer in [Err(unreachable()), Err(unreachable()), Err(dead())] {
        stage.provider.next(answer);
    }
    let again = ImportConnection {
        replace: true,
        refresh_token: Some(Secret::new("rt-new".into())),
        ..import("user-42")
    };
    assert_eq!(
        stage.broker.import_connection(again).await.unwrap_err().reason(),
        Reason::ProviderUnavailable
    );
    while stage.broker.connection(&id).await.unwrap().status != Status::ReauthRequired {
        stage.clock.advance(SECOND);
        pass(SECOND).await;
    }
    pass(60 * SECOND).await;
    assert_eq!(idle_turns(&stage).await, 0);
    assert_eq!(stage.broker.retry_refused(id).await.unwrap().status, Status::Active);
    assert_eq!(waiting.await.unwrap(), "at-1");
}

#[tokio::test(start_paused = true)]
async fn a_watch_for_scopes_that_were_not_granted_rests_until_there_is_news() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    let scopes = vec!["never".to_owned()];
    let wanted = WatchRequest { scopes, ..asked(&id) };
    let mut watch = stage.broker.watch_access_token(wanted).await.unwrap();
    let TokenEvent::ConsentNeeded { reason, .. } = watch.next().await.unwrap() else { panic!("consent") };
    assert_eq!(reason, Reason::ScopeNotGranted);
    let waiting = tokio::spawn(async move { watch.next().await });
    assert_eq!(idle_turns(&stage).await, 0);
    waiting.abort();
}

#[tokio::test(start_paused = true)]
async fn a_watch_rests_when_the_clock_is_set_back_while_it_is_to_try_again() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    let mut watch = watching(&stage, &id).await;
    assert_eq!(token(&mut watch).await, "at-0");
    stage.provider.next(Err(unreachable()));
    let waiting = tokio::spawn(async move { token(&mut watch).await });
    let began = stage.clock.now();
    while stage.provider.presented().is_empty() {
        stage.clock.advance(60 * SECOND);
        pass(60 * SECOND).await;
    }
    stage.clock.set(began);
    pass(60 * SECOND).await;
    assert_eq!(idle_turns(&stage).await, 0);
    let _hand = Hand::of(&stage.clock);
    assert_eq!(waiting.await.unwrap(), "at-1");
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_when_its_connection_does_and_when_the_broker_drains() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    let other = stage.imported("user-43").await;
    let (mut gone, mut drained) = (watching(&stage, &id).await, watching(&stage, &other).await);
    let mut all = stage.broker.watch_connections(Selection::default());
    token(&mut gone).await;
    token(&mut drained).await;
    stage.broker.disconnect(id.clone()).await.unwrap();
    assert!(matches!(gone.next().await, Err(Error::ConnectionNotFound(_))));
    stage.broker.drain().await;
    assert!(matches!(drained.next().await, Err(Error::ShuttingDown)));
    while let Ok(event) = all.next().await {
        assert!(!matches!(event, ConnectionEvent::SnapshotStart));
    }
    assert!(matches!(stage.broker.watch_access_token(asked(&id)).await, Err(Error::ConnectionNotFound(_))));
}

#[tokio::test(start_paused = true)]
async fn whoever_watches_a_name_that_does_not_exist_is_told_so() {
    let stage = Stage::new();
    let error = stage.broker.watch_access_token(asked(&id("nobody"))).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ConnectionNotFound);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_refused_leaves_nothing_in_memory() {
    let stage = Stage::new();
    for n in 0..100 {
        let name = id(&format!("nobody-{n}"));
        let elsewhere = ConnectionId { provider: ProviderKey::parse("elsewhere").unwrap(), ..name.clone() };
        for (made_up, reason) in
            [(name, Reason::ConnectionNotFound), (elsewhere, Reason::ProviderNotConfigured)]
        {
            let error = stage.broker.watch_access_token(asked(&made_up)).await.unwrap_err();
            assert_eq!(error.reason(), reason);
        }
    }
    assert_eq!(stage.broker.places_in_memory(), 0);
    let unavailable = stage.expired("user-42").await;
    stage.provider.next(Err(unreachable()));
    let error = stage.broker.watch_access_token(asked(&unavailable)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ProviderUnavailable);
    assert_eq!(stage.broker.places_in_memory(), 0, "nor does one whose first token cannot be had");
}

#[tokio::test(start_paused = true)]
async fn a_watch_does_not_print_its_token() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    let watch = watching(&stage, &id).await;
    let printed = format!("{watch:?} {:?}", stage.broker.watch_connections(Selection::default()));
    assert!(!printed.contains("at-0") && !printed.contains("rt-0"), "{printed}");
}

/// What a reader that applies every event has in the end.
async fn applied(
    watch: &mut ConnectionWatch,
    until: impl Fn(&ConnectionEvent) -> bool,
) -> Vec<(String, Status)> {
    let mut known = std::collections::BTreeMap::new();
    loop {
        let event = watch.next().await.unwrap();
        let is_last = until(&event);
        match event {
            ConnectionEvent::Connection(profile) => {
                known.insert(profile.id.name.to_string(), profile.status);
            }
            ConnectionEvent::Removed(id) => {
                known.remove(id.name.as_str());
            }
            ConnectionEvent::SnapshotStart => known.clear(),
            ConnectionEvent::SnapshotEnd | ConnectionEvent::Ending { .. } => {}
        }
        if is_last {
            return known.into_iter().collect();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn connections_are_told_as_they_are_and_then_as_they_change() {
    let stage = Stage::new();
    for name in ["user-1", "user-2", "org-7/user-3"] {
        stage.imported(name).await;
    }
    let selection = Selection { name_prefix: Some("user-".into()), ..Selection::default() };
    let mut watch = stage.broker.watch_connections(selection);
    let first = applied(&mut watch, |event| matches!(event, ConnectionEvent::SnapshotEnd)).await;
    assert_eq!(first, [("user-1".to_owned(), Status::Active), ("user-2".to_owned(), Status::Active)]);

    stage.provider.next(Err(dead()));
    let _ = stage.broker.refresh_connection(id("user-1"), None).await.unwrap_err();
    let ConnectionEvent::Connection(profile) = watch.next().await.unwrap() else { panic!("a connection") };
    assert_eq!((profile.id, profile.status), (id("user-1"), Status::ReauthRequired));

    stage.broker.disconnect(id("org-7/user-3")).await.unwrap();
    stage.broker.disconnect(id("user-2")).await.unwrap();
    let ConnectionEvent::Connection(profile) = watch.next().await.unwrap() else { panic!("a connection") };
    assert_eq!((&profile.id, profile.status), (&id("user-2"), Status::Revoking));
    let ConnectionEvent::Removed(gone) = watch.next().await.unwrap() else { panic!("gone") };
    assert_eq!(gone, id("user-2"));
}

#[tokio::test(start_paused = true)]
async fn a_consent_that_leaves_an_unanswered_refresh_behind_is_told() {
    let stage = Stage::new();
    let id = stage.expired("user-42").await;
    let lost = || Err(ProviderError::Ambiguous { cause: AmbiguousCause::Timeout });
    stage.provider.next(lost());
    stage.token(&id).await.unwrap_err();
    // When the lost one cannot arrive any more it is asked again, and denied.
    stage.clock.advance(60 * SECOND);
    stage.provider.next(Err(dead()));
    stage.token(&id).await.unwrap_err();
    let mut watch = stage.broker.watch_connections(Selection::default());
    let first = applied(&mut watch, |event| matches!(event, ConnectionEvent::SnapshotEnd)).await;
    assert_eq!(first, [("user-42".to_owned(), Status::ReauthRequired)]);

    let again = stage.begun_by_app("user-42").await.1;
    stage.provider.next(Ok(issued("at-c", None)));
    let consented = stage.broker.complete_connect(consented(&again)).await.unwrap();
    assert_eq!(consented.status, Status::Active);
    assert!(consented.intent.is_some(), "of the refresh token that is kept one use was never answered");
    let told = tokio::time::timeout(60 * SECOND, watch.next()).await.expect("an event");
    let ConnectionEvent::Connection(profile) = told.unwrap() else { panic!("a connection") };
    assert_eq!((profile.status, profile.generation), (Status::Active, consented.generation));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_fell_behind_is_told_everything_anew() {
    let stage = Stage::new();
    stage.imported("user-1").await;
    stage.imported("user-2").await;
    let mut watch = stage.broker.watch_connections(Selection::default());
    applied(&mut watch, |event| matches!(event, ConnectionEvent::SnapshotEnd)).await;
    stage.broker.disconnect(id("user-2")).await.unwrap();
    for _ in 0..1024 {
        stage.broker.refresh_connection(id("user-1"), None).await.unwrap();
    }
    assert!(matches!(watch.next().await.unwrap(), ConnectionEvent::SnapshotStart));
    let known = applied(&mut watch, |event| matches!(event, ConnectionEvent::SnapshotEnd)).await;
    assert_eq!(known, [("user-1".to_owned(), Status::Active)], "also what was removed meanwhile is gone");
}

/// More changes than a reader may be behind.
async fn many_changes(stage: &Stage, name: &str) {
    for _ in 0..600 {
        stage.broker.refresh_connection(id(name), None).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_ends_however_much_changes_while_it_is_listed() {
    let stage = Stage::new();
    // More than the store is asked for at once.
    for n in 0..501 {
        stage.imported(&format!("user-{n}")).await;
    }
    stage.store.lets_listings_through(false);
    let mut listings = stage.store.listings();
    let mut watch = stage.broker.watch_connections(Selection::default());
    let reader = tokio::spawn(async move {
        let is_end = |event: &ConnectionEvent| {
            assert!(!matches!(event, ConnectionEvent::SnapshotStart));
            matches!(event, ConnectionEvent::SnapshotEnd)
        };
        (applied(&mut watch, is_end).await, watch)
    });
    listings.wait_for(|count| *count == 1).await.unwrap();
    many_changes(&stage, "user-1").await;
    stage.broker.disconnect(id("user-2")).await.unwrap();
    stage.store.lets_listings_through(true);
    let (known, mut watch) = reader.await.unwrap();
    assert_eq!(known.len(), 500);
    assert!(known.iter().all(|(name, status)| name != "user-2" && *status == Status::Active));
    // What changed is told once more, as it is by then.
    let ConnectionEvent::Connection(profile) = watch.next().await.unwrap() else { panic!("a connection") };
    assert_eq!((profile.id, profile.generation), (id("user-1"), 601));
    stage.broker.drain().await;
    assert!(matches!(watch.next().await, Err(Error::ShuttingDown)));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_of_a_snapshot_is_told_of_what_went_and_not_that_it_is_there() {
    let stage = Stage::new();
    for name in ["user-1", "user-2", "user-3"] {
        stage.imported(name).await;
    }
    let mut watch = stage.broker.watch_connections(Selection::default());
    let ConnectionEvent::Connection(first) = watch.next().await.unwrap() else { panic!("a connection") };
    let gone = if first.id == id("user-2") { "user-3" } else { "user-2" };
    stage.broker.disconnect(id(gone)).await.unwrap();
    let mut told = vec![first.id];
    loop {
        match watch.next().await.unwrap() {
            ConnectionEvent::Connection(profile) => told.push(profile.id),
            ConnectionEvent::Removed(removed) => assert_eq!(removed, id(gone)),
            ConnectionEvent::SnapshotEnd => break,
            event => panic!("{event:?}"),
        }
    }
    assert!(told.len() == 2 && !told.contains(&id(gone)), "{told:?}");
}

/// The ends that a snapshot tells, each after its connection.
async fn ends_told(watch: &mut ConnectionWatch) -> Vec<(ConnectionId, Timestamp)> {
    let (mut told, mut last) = (Vec::new(), None);
    loop {
        match watch.next().await.unwrap() {
            ConnectionEvent::Connection(profile) => last = Some(profile.id),
            ConnectionEvent::Ending { id, ends_at } => {
                assert_eq!(last.as_ref(), Some(&id));
                told.push((id, ends_at));
            }
            ConnectionEvent::SnapshotEnd => return told,
            ConnectionEvent::Removed(_) | ConnectionEvent::SnapshotStart => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_that_was_announced_is_told_in_every_snapshot_until_it_comes_or_the_owner_consents() {
    let stage = Stage::new();
    *stage.provider.lifetimes.lock().unwrap() =
        Lifetimes { refresh_absolute: Some(24 * LIFE), ..Lifetimes::default() };
    let state = stage.begun_by_app("user-42").await.1;
    let consented_at = stage.broker.complete_connect(consented(&state)).await.unwrap().consented_at.unwrap();
    stage.imported("user-43").await;
    let _hand = Hand::of(&stage.clock);
    stage.broker.start_ahead(Ahead::default());
    let mut early = stage.broker.watch_connections(Selection::default());
    assert_eq!(ends_told(&mut early).await, []);
    drop(early);
    let announced = "token_broker_grants_ending_total{provider=\"sandbox\"} 1";
    while !stage.metrics.encode().unwrap().contains(announced) {
        tokio::time::sleep(60 * SECOND).await;
    }
    let mut watch = stage.broker.watch_connections(Selection::default());
    let ending = [(id("user-42"), consented_at + 24 * LIFE)];
    assert_eq!(ends_told(&mut watch).await, ending, "nobody was there when it was announced");
    many_changes(&stage, "user-43").await;
    assert!(matches!(watch.next().await.unwrap(), ConnectionEvent::SnapshotStart));
    assert_eq!(ends_told(&mut watch).await, ending, "changes were lost");
    let again = stage.begun_by_app("user-42").await.1;
    stage.broker.complete_connect(consented(&again)).await.unwrap();
    let mut after = stage.broker.watch_connections(Selection::default());
    assert_eq!(ends_told(&mut after).await, []);
    assert!(stage.metrics.encode().unwrap().contains(announced), "announced once");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_grant_is_told_to_those_who_watch_connections() {
    let stage = Stage::new();
    *stage.provider.lifetimes.lock().unwrap() =
        Lifetimes { refresh_absolute: Some(240 * LIFE), ..Lifetimes::default() };
    let state = stage.begun_by_app("user-42").await.1;
    stage.broker.complete_connect(consented(&state)).await.unwrap();
    let _hand = Hand::of(&stage.clock);
    let mut watch = stage.broker.watch_connections(Selection::default());
    stage.broker.start_ahead(Ahead::default());
    loop {
        if let ConnectionEvent::Ending { id: whose, ends_at } = watch.next().await.unwrap() {
            assert_eq!(whose, id("user-42"));
            assert!(stage.clock.now() < ends_at);
            return;
        }
    }
}
