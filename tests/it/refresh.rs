//! The refresh protocol through the broker: what is durable when, what each outcome does, what a restart does first.

mod clock;
mod doubt;
mod ending;
mod held;
mod left;
mod order;
mod patience;
mod put_back;
mod second_place;
mod wait;

use std::sync::atomic::Ordering;
use std::time::Duration;

use token_broker::broker::{
    Ahead, ConnectionEvent, Recovery, Source, TokenEvent, TokenRequest, Trust, WatchRequest,
};
use token_broker::clock::Clock as _;
use token_broker::connection::history::Happening;
use token_broker::connection::reuse::{Reuse, ReuseProfile};
use token_broker::connection::{ConnectionId, LATE_PROBE, Status};
use token_broker::error::{AmbiguousCause, Error, OAuthCode, ProviderError, Reason, Unsent};
use token_broker::provider::Revocation;
use token_broker::store::{Expected, Selection, TokenStore as _};

use crate::ahead::Hand;
use crate::kit::{LIFE, Stage, issued, request};

fn lost() -> ProviderError {
    ProviderError::Ambiguous { cause: AmbiguousCause::Timeout }
}

fn denied() -> ProviderError {
    ProviderError::Denied(OAuthCode::new("invalid_grant"))
}

fn grace(seconds: u64) -> Reuse {
    Reuse::Grace { window: Duration::from_secs(seconds), max_uses: 2 }
}

fn stage(reuse: Reuse) -> Stage {
    let stage = Stage::new();
    *stage.provider.reuse.lock().unwrap() = ReuseProfile { reuse, ..ReuseProfile::default() };
    stage
}

async fn happened(stage: &Stage, id: &ConnectionId) -> Vec<Happening> {
    let history = stage.broker.history(id).await.unwrap();
    history.events().iter().map(|event| event.what).collect()
}

#[tokio::test]
async fn a_refresh_is_written_down_before_it_is_sent() {
    let stage = stage(Reuse::Strict);
    let id = stage.expired("user-42").await;
    let caller = stage.refreshing(&id).await;
    let stored = stage.store.get(&id).await.unwrap().unwrap().value;
    let intent = stored.profile.intent.expect("the intent is durable when the request arrives");
    let presented = stored.tokens.unwrap().refresh.unwrap();
    assert_eq!(intent.fingerprint, presented.fingerprint());
    assert_eq!((intent.generation, intent.tries), (1, 1));
    stage.provider.release();
    caller.await.unwrap().unwrap();
    let after = stage.broker.connection(&id).await.unwrap();
    assert_eq!((after.intent, after.generation), (None, 2));
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_sent() {
    let stage = stage(Reuse::Strict);
    let id = stage.imported("user-42").await;
    stage.token(&id).await.unwrap();
    stage.store.fail_writes_after(0, usize::MAX);
    stage.clock.advance(LIFE - Duration::from_secs(30));
    let answer = stage.broker.access_token(request(&id)).await.unwrap();
    assert_eq!(answer.source, Source::Stale, "the living token is served");
    stage.clock.advance(LIFE);
    let error = stage.broker.access_token(request(&id)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::StoreUnavailable);
    assert!(stage.provider.presented().is_empty());
}

#[tokio::test]
async fn what_was_written_down_all_the_same_and_not_sent_leaves_nothing_unknown() {
    for reuse in [Reuse::Strict, Reuse::Count { max_uses: 2, is_last_only: true, is_same_pair: false }] {
        let stage = stage(reuse);
        let id = stage.expired("user-42").await;
        stage.store.keeps_what_fails.store(true, Ordering::SeqCst);
        stage.store.fail_writes_after(0, 2);
        for _ in 0..2 {
            assert_eq!(stage.token(&id).await.unwrap_err().reason(), Reason::StoreUnavailable);
            let stored = stage.store.get(&id).await.unwrap().unwrap().value;
            assert!(stored.profile.intent.is_some(), "found durable after all");
        }
        assert!(stage.provider.presented().is_empty());
        stage.provider.next(Err(lost()));
        stage.token(&id).await.unwrap_err();
        let intent = stage.broker.connection(&id).await.unwrap().intent.unwrap();
        assert_eq!(intent.tries, 1, "the clock stands still, and this was the first to be sent");
        assert_eq!(stage.provider.presented(), ["rt-0"]);
        // What was sent is not taken for unsent.
        assert_eq!(stage.token(&id).await.unwrap_err().reason(), Reason::ConnectionAmbiguous);
    }
}

#[tokio::test]
async fn an_unanswered_refresh_is_repeated_at_once_inside_a_grace_period() {
    let stage = stage(grace(5));
    let id = stage.expired("user-42").await;
    stage.provider.next(Err(lost()));
    assert_eq!(stage.token(&id).await.unwrap(), "at-1", "the caller notices nothing");
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-0"]);
    assert_eq!(
        happened(&stage, &id).await.split_off(2),
        [Happening::Ambiguous, Happening::Resumed, Happening::Recovered]
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_hangs_is_given_up_while_a_grace_period_leaves_time_to_ask_again() {
    let stage = stage(grace(5));
    let id = stage.expired("user-42").await;
    stage.provider.hold();
    let began = tokio::time::Instant::now();
    let caller = stage.asking(&id);
    stage.provider.requests_reach(2).await;
    // On the clock that the test drives: the default token_timeout is 10 s.
    assert_eq!(began.elapsed(), Duration::from_secs(3));
    // No other is given up early: a provider that is slow, not silent, must be waited for in the end.
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(!caller.is_finished());
    stage.provider.release();
    assert_eq!(caller.await.unwrap().unwrap().token.access.value.expose(), "at-1");
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-0"]);
}

#[tokio::test]
async fn a_full_disk_keeps_no_lost_answer_from_being_saved() {
    let stage = stage(grace(5));
    let id = stage.expired("user-42").await;
    // The intent is the last thing that finds room.
    stage.store.fill_after(1);
    stage.provider.next(Err(lost()));
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-0"]);
    let stored = stage.store.get(&id).await.unwrap().unwrap().value;
    assert_eq!(stored.tokens.unwrap().refresh.unwrap().value.expose(), "rt-1");
}

#[tokio::test]
async fn a_store_that_takes_nothing_ends_the_repeats_of_a_lost_answer() {
    let stage = stage(grace(5));
    let id = stage.expired("user-42").await;
    stage.store.fail_writes_after(1, usize::MAX);
    stage.provider.next(Err(lost()));
    assert_eq!(stage.token(&id).await.unwrap_err().reason(), Reason::StoreUnavailable);
    assert_eq!(stage.provider.presented(), ["rt-0"], "nothing is sent that was not written down");
}

#[tokio::test]
async fn a_strict_provider_is_asked_exactly_once_more_and_late() {
    let stage = stage(Reuse::Strict);
    let id = stage.imported("user-42").await;
    stage.token(&id).await.unwrap();
    stage.clock.advance(LIFE - Duration::from_secs(300));
    stage.provider.next(Err(lost()));
    let served = stage.broker.access_token(request(&id)).await.unwrap();
    assert_eq!((served.source, served.token.access.value.expose().as_str()), (Source::Stale, "at-0"));
    assert_eq!(stage.broker.connection(&id).await.unwrap().status, Status::Ambiguous);
    let demanding = TokenRequest { min_ttl: Some(Duration::from_secs(600)), ..request(&id) };
    for _ in 0..20 {
        assert_eq!(stage.token(&id).await.unwrap(), "at-0");
    }
    let error = stage.broker.access_token(demanding).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ConnectionAmbiguous);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(300) - LATE_PROBE));
    assert_eq!(stage.provider.presented().len(), 1);
    // After a restart it is as late.
    let stage = stage.restarted();
    assert_eq!(stage.broker.recover(Trust::Sound).await.unwrap(), Recovery { unfinished: 1, marked: 0 });
    assert_eq!(stage.token(&id).await.unwrap(), "at-0");
    stage.clock.advance(Duration::from_secs(300) - LATE_PROBE);
    let demanding = TokenRequest { min_ttl: Some(Duration::from_secs(600)), ..request(&id) };
    let answer = stage.broker.access_token(demanding).await.unwrap();
    assert_eq!(answer.token.access.value.expose(), "at-1");
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-0"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_left_unfinished_is_tried_before_anything_is_refreshed_ahead() {
    let stage = stage(Reuse::Reusable);
    let (left, due) = (stage.expired("user-42").await, stage.expired("user-43").await);
    let lost = stage.refreshing(&left).await;
    let stage = stage.restarted();
    lost.abort();
    let _hand = Hand::of(&stage.clock);
    let found = stage.broker.recover(Trust::Sound).await.unwrap();
    assert_eq!(found, Recovery { unfinished: 1, marked: 0 });
    stage.broker.start_ahead(Ahead::default());
    stage.provider.requests_reach(2).await;
    // Time moves on only when nobody has anything else to do.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.provider.presented().len(), 2);
    assert_eq!(stage.broker.connection(&due).await.unwrap().generation, 1);
    stage.provider.release();
    stage.provider.requests_reach(3).await;
}

#[tokio::test]
async fn a_reported_401_brings_the_late_probe_forward() {
    let stage = stage(Reuse::Strict);
    let id = stage.imported("user-42").await;
    let refused = stage.broker.access_token(request(&id)).await.unwrap().token.access.value.digest();
    let report = || TokenRequest { if_not_equal_to: Some(refused), ..request(&id) };
    stage.provider.next(Err(lost()));
    let error = stage.broker.access_token(report()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ConnectionAmbiguous);
    // What is under way must settle first.
    stage.clock.advance(error.retry_after().unwrap());
    let answer = stage.broker.access_token(report()).await.unwrap();
    assert_eq!(answer.token.access.value.expose(), "at-1");
}

#[tokio::test]
async fn a_pause_after_failures_survives_a_restart() {
    let stage = stage(Reuse::Strict);
    let id = stage.expired("user-42").await;
    let limited = ProviderError::RateLimited { retry_after: Some(Duration::from_secs(120)) };
    stage.provider.next(Err(limited));
    stage.token(&id).await.unwrap_err();
    let stage = stage.restarted();
    let error = stage.token(&id).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ProviderRateLimited);
    assert!(error.retry_after().unwrap() >= Duration::from_secs(120));
    assert_eq!(stage.provider.presented().len(), 1);
    stage.clock.advance(Duration::from_secs(140));
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
}

#[tokio::test(start_paused = true)]
async fn a_flaky_denial_is_confirmed_before_it_is_believed() {
    let stage = stage(Reuse::Strict);
    stage.provider.reuse.lock().unwrap().invalid_grant_confirmations = 2;
    let id = stage.expired("user-42").await;
    stage.provider.next(Err(denied()));
    // The wall clock stands still all the time: the pause is kept by another one.
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-0"]);
    assert!(happened(&stage, &id).await.contains(&Happening::Denied));
}

#[tokio::test(start_paused = true)]
async fn a_stop_leaves_the_confirmation_of_a_denial_to_the_next_start() {
    let stage = stage(Reuse::Strict);
    stage.provider.reuse.lock().unwrap().invalid_grant_confirmations = 2;
    let id = stage.expired("user-42").await;
    stage.provider.next(Err(denied()));
    let caller = stage.refreshing(&id).await;
    let broker = stage.broker.clone();
    let drained = tokio::spawn(async move { broker.drain().await });
    tokio::task::yield_now().await;
    stage.provider.release();
    assert_eq!(caller.await.unwrap().unwrap_err().reason(), Reason::ShuttingDown);
    drained.await.unwrap();
    assert_eq!(stage.provider.presented(), ["rt-0"]);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_gives_no_token_a_longer_life() {
    let stage = stage(Reuse::Strict);
    let id = stage.imported("user-42").await;
    stage.token(&id).await.unwrap();
    stage.clock.set(stage.clock.now() - Duration::from_secs(86_400));
    assert_eq!(stage.token(&id).await.unwrap(), "at-0");
    // The hour passes on every clock but that one.
    tokio::time::sleep(LIFE).await;
    assert!(stage.broker.cached(&request(&id)).is_none());
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
}

#[tokio::test]
async fn a_token_that_a_grace_answer_repeats_dead_is_replaced_before_anybody_gets_it() {
    let stage = stage(grace(60));
    let id = stage.expired("user-42").await;
    let mut dead = issued("at-dead", Some("rt-1"));
    dead.expires_in = Some(Duration::ZERO);
    stage.provider.next(Ok(dead));
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-1"]);
}

#[tokio::test]
async fn a_wrong_client_secret_leaves_connections_as_they_are() {
    let stage = stage(Reuse::Strict);
    let id = stage.expired("user-42").await;
    stage.provider.next(Err(ProviderError::Misconfigured(OAuthCode::new("invalid_client"))));
    let error = stage.token(&id).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ProviderRejectedClient);
    let profile = stage.broker.connection(&id).await.unwrap();
    assert_eq!((profile.status, profile.intent, profile.backoff), (Status::Active, None, None));
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
}

#[tokio::test]
async fn an_operator_may_have_a_dead_grant_tried_once_more() {
    let stage = stage(Reuse::Strict);
    let id = stage.expired("user-42").await;
    stage.provider.next(Err(denied()));
    assert_eq!(stage.token(&id).await.unwrap_err().reason(), Reason::ReauthRequired);
    stage.provider.next(Err(denied()));
    let error = stage.broker.retry_refused(id.clone()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ReauthRequired);
    assert_eq!(stage.token(&id).await.unwrap_err().reason(), Reason::ReauthRequired);
    assert_eq!(stage.provider.presented().len(), 2, "once each time it is told to");
    // The user was switched on again.
    let profile = stage.broker.retry_refused(id.clone()).await.unwrap();
    assert_eq!((profile.status, profile.generation), (Status::Active, 2));
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
}

#[tokio::test]
async fn a_disconnect_does_not_wait_for_a_hanging_refresh_to_say_no() {
    let stage = stage(Reuse::Strict);
    let id = stage.imported("user-42").await;
    stage.token(&id).await.unwrap();
    stage.clock.advance(LIFE);
    let caller = stage.refreshing(&id).await;
    let disconnect = stage.disconnecting(&id).await;
    assert!(stage.broker.cached(&request(&id)).is_none());
    assert!(stage.provider.ended.lock().unwrap().is_empty(), "nothing is revoked before what comes is known");
    stage.provider.release();
    assert_eq!(caller.await.unwrap().unwrap_err().reason(), Reason::ConnectionNotFound);
    disconnect.await.unwrap().unwrap();
    assert_eq!(*stage.provider.ended.lock().unwrap(), ["rt-1", "rt-0"], "what came too late is revoked too");
    assert!(stage.store.get(&id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_consent_that_comes_during_a_refresh_stands_and_nothing_is_revoked() {
    let stage = stage(Reuse::Strict);
    let id = stage.expired("user-42").await;
    let caller = stage.refreshing(&id).await;
    let import = token_broker::broker::ImportConnection {
        access_token: Some(token_broker::secret::Secret::new("at-new".into())),
        expires_at: Some(stage.clock.now() + LIFE),
        replace: true,
        ..crate::kit::import("user-42")
    };
    stage.broker.import_connection(import).await.unwrap();
    stage.provider.release();
    let answer = caller.await.unwrap().unwrap();
    assert_eq!(answer.token.access.value.expose(), "at-new");
    assert!(stage.provider.ended.lock().unwrap().is_empty(), "to revoke the surplus may end the new grant");
}

#[tokio::test]
async fn an_unfinished_refresh_is_taken_up_at_start_where_there_is_a_grace_period() {
    let stage = stage(grace(5));
    let id = stage.expired("user-42").await;
    let mut profile = stage.store.get(&id).await.unwrap().unwrap();
    let reuse = stage.provider.reuse.lock().unwrap().clone();
    let theirs = token_broker::connection::Moment {
        now: stage.clock.now(),
        holder: token_broker::connection::Holder(7),
        others: token_broker::connection::Others::Gone,
        reuse: &reuse,
    };
    profile.value = profile.value.begun(1, &theirs);
    stage.store.put(&profile.value, Expected::At(profile.revision)).await.unwrap();
    let stage = stage.restarted();
    let found = stage.broker.recover(Trust::Sound).await.unwrap();
    assert_eq!(found, Recovery { unfinished: 1, marked: 0 });
    stage.provider.requests_reach(1).await;
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
    assert_eq!(stage.provider.presented(), ["rt-0"]);
    assert!(happened(&stage, &id).await.contains(&Happening::Recovered));
}

#[tokio::test]
async fn a_failed_revocation_says_when_it_is_tried_again_also_after_a_restart() {
    let stage = stage(Reuse::Strict);
    let id = stage.imported("user-42").await;
    let refused = ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None };
    *stage.provider.revocation.lock().unwrap() = Err(refused);
    let answer = stage.broker.disconnect(id.clone()).await.unwrap();
    let token_broker::broker::RevocationState::Pending { error, next_attempt_at } = answer.revocation else {
        panic!("not pending")
    };
    assert!(matches!(error, Error::Provider { .. }));
    let stage = stage.restarted();
    let backoff = stage.broker.connection(&id).await.unwrap().backoff.unwrap();
    assert_eq!(next_attempt_at, Some(backoff.until));
    *stage.provider.revocation.lock().unwrap() = Ok(Revocation::Revoked);
    assert_eq!(stage.broker.resume_revocations().await.unwrap(), 1);
    stage.provider.revocations_reach(2).await;
    stage.broker.drain().await;
    assert!(stage.store.get(&id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_grant_with_fewer_scopes_is_kept_and_says_so() {
    let stage = stage(Reuse::Strict);
    let id = stage.expired("user-42").await;
    let mut narrower = issued("at-n", Some("rt-n"));
    narrower.scopes = Some(["none"].into_iter().collect());
    stage.provider.next(Ok(narrower));
    let asked = TokenRequest { scopes: vec!["read".into()], ..request(&id) };
    let error = stage.broker.access_token(asked).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ScopeNotGranted);
    assert_eq!(stage.token(&id).await.unwrap(), "at-n");
}

#[tokio::test]
async fn scopes_that_a_refresh_loses_are_told_to_all_who_want_to_know() {
    let stage = stage(Reuse::Strict);
    let id = stage.imported("user-42").await;
    let mut connections = stage.broker.watch_connections(Selection::default());
    while !matches!(connections.next().await.unwrap(), ConnectionEvent::SnapshotEnd) {}
    let wanted = WatchRequest { id: id.clone(), scopes: vec!["read".into()], min_ttl: None };
    let mut tokens = stage.broker.watch_access_token(wanted).await.unwrap();
    assert!(matches!(tokens.next().await.unwrap(), TokenEvent::Token(_)));
    let mut narrower = issued("at-n", Some("rt-n"));
    narrower.scopes = Some(["list"].into_iter().collect());
    stage.provider.next(Ok(narrower));
    stage.broker.refresh_connection(id.clone(), None).await.unwrap();

    let ConnectionEvent::Connection(profile) = connections.next().await.unwrap() else { panic!("changed") };
    assert_eq!(profile.scopes.as_slice(), ["list"]);
    let TokenEvent::ConsentNeeded { reason, .. } = tokens.next().await.unwrap() else { panic!("consent") };
    assert_eq!(reason, Reason::ScopeNotGranted);
    let history = stage.broker.history(&id).await.unwrap();
    let last = history.events().last().unwrap();
    assert_eq!((last.what, last.why.as_deref()), (Happening::Narrowed, Some("read")));
    let metrics = stage.metrics.encode().unwrap();
    assert!(metrics.contains("token_broker_grants_narrowed_total{provider=\"sandbox\"} 1"), "{metrics}");

    stage.broker.refresh_connection(id.clone(), None).await.unwrap();
    assert_eq!(happened(&stage, &id).await.last(), Some(&Happening::Refreshed), "told once");
}

#[tokio::test]
async fn a_provider_that_gives_tokens_seldom_is_not_asked_in_between_whoever_asks() {
    let gap = LIFE * 2;
    let stage = stage(Reuse::Strict);
    stage.provider.reuse.lock().unwrap().min_gap = gap;
    // How old an import is nobody knows.
    let id = stage.expired("user-42").await;
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
    stage.clock.advance(LIFE - Duration::from_secs(30));
    let answer = stage.broker.access_token(request(&id)).await.unwrap();
    assert_eq!((answer.source, answer.token.access.value.expose().as_str()), (Source::Stale, "at-1"));
    stage.clock.advance(Duration::from_secs(30));
    let stage = stage.restarted();
    let error = stage.token(&id).await.unwrap_err();
    assert_eq!((error.reason(), error.retry_after()), (Reason::ProviderRateLimited, Some(gap - LIFE)));
    stage.broker.refresh_connection(id.clone(), None).await.unwrap_err();
    assert_eq!(stage.provider.presented(), ["rt-0"]);
    stage.clock.advance(gap - LIFE);
    assert_eq!(stage.token(&id).await.unwrap(), "at-2");
}

#[tokio::test]
async fn a_lost_answer_is_found_out_whatever_the_gap() {
    let stage = stage(grace(5));
    stage.provider.reuse.lock().unwrap().min_gap = LIFE * 2;
    let id = stage.expired("user-42").await;
    stage.provider.next(Err(lost()));
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-0"]);
}
