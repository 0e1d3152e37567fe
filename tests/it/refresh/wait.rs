//! A provider that answers a refresh with a server error and asks to wait (`Retry-After`), so that it is open whether the
//! refresh was carried out, or that slows down its repeat or a revocation: the wait is kept as far as it cannot cost the grant.

use std::sync::atomic::Ordering;
use std::time::Duration;

use token_broker::broker::{RevocationState, Source, TokenRequest};
use token_broker::clock::{Clock as _, Timestamp};
use token_broker::connection::reuse::Reuse;
use token_broker::connection::{ConnectionId, LATE_PROBE, Status};
use token_broker::error::{AmbiguousCause, Error, ProviderError, Reason, Unsent};
use token_broker::provider::Revocation;

use super::{grace, lost, stage};
use crate::ahead::Hand;
use crate::kit::{LIFE, Stage, request};

const WAIT: Duration = Duration::from_secs(600);

fn busy(wait: Duration) -> ProviderError {
    ProviderError::Ambiguous { cause: AmbiguousCause::Status { status: 503, retry_after: Some(wait) } }
}

/// How long the wait is that was told, which is what was asked for and some chance.
fn told(error: &Error, wait: Duration) -> Duration {
    assert_eq!(error.reason(), Reason::ConnectionAmbiguous, "{error:?}");
    let told = error.retry_after().unwrap();
    assert!((wait..=wait + wait / 10).contains(&told), "{told:?}");
    told
}

/// Somebody asks and is told to come back later, and nothing is sent.
async fn turned_away(stage: &Stage, id: &ConnectionId, left: Duration) {
    let presented = stage.provider.presented().len();
    let error = stage.token(id).await.unwrap_err();
    assert_eq!((error.reason(), error.retry_after()), (Reason::ConnectionAmbiguous, Some(left)));
    assert_eq!(stage.provider.presented().len(), presented);
}

#[tokio::test]
async fn a_reusable_token_is_not_presented_again_before_the_wait_is_over() {
    let stage = stage(Reuse::Reusable);
    let id = stage.expired("user-42").await;
    stage.provider.next(Err(busy(WAIT)));
    let wait = told(&stage.token(&id).await.unwrap_err(), WAIT);
    let second = Duration::from_secs(1);
    stage.clock.advance(wait - second);
    turned_away(&stage, &id, second).await;
    let stage = stage.restarted();
    turned_away(&stage, &id, second).await;
    stage.clock.advance(second);
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-0"]);
}

#[tokio::test]
async fn a_strict_provider_is_probed_no_earlier_than_it_asks() {
    let stage = stage(Reuse::Strict);
    let id = stage.imported("user-42").await;
    stage.token(&id).await.unwrap();
    let left = Duration::from_secs(300);
    stage.clock.advance(LIFE - left);
    stage.provider.next(Err(busy(WAIT)));
    let demanding = TokenRequest { min_ttl: Some(WAIT), ..request(&id) };
    let wait = told(&stage.broker.access_token(demanding).await.unwrap_err(), WAIT);
    assert_eq!(stage.broker.connection(&id).await.unwrap().status, Status::Ambiguous);
    stage.clock.advance(left - LATE_PROBE);
    let served = stage.broker.access_token(request(&id)).await.unwrap();
    assert_eq!(served.source, Source::Stale, "what lives is served");
    stage.clock.advance(LATE_PROBE);
    turned_away(&stage, &id, wait - left).await;
    stage.clock.advance(wait - left);
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-0"]);
}

/// An expired connection at a provider with so many seconds of grace, and the hand that moves the wall clock along.
async fn expired_within(seconds: u64) -> (Stage, ConnectionId, Hand) {
    let stage = stage(grace(seconds));
    let id = stage.expired("user-42").await;
    let hand = Hand::of(&stage.clock);
    (stage, id, hand)
}

#[tokio::test(start_paused = true)]
async fn within_a_grace_period_the_wait_is_kept_and_the_repeat_made_though_nobody_asks() {
    let (stage, id, _hand) = expired_within(60).await;
    let (wait, began) = (Duration::from_secs(10), tokio::time::Instant::now());
    stage.provider.next(Err(busy(wait)));
    told(&stage.token(&id).await.unwrap_err(), wait);
    stage.provider.requests_reach(2).await;
    // On the clock that the test drives, which the wall clock follows by whole seconds.
    assert!((wait..=wait + wait / 5).contains(&began.elapsed()), "{:?}", began.elapsed());
    stage.broker.drain().await;
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-0"]);
    assert_eq!(stage.broker.connection(&id).await.unwrap().generation, 2);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_outlasts_a_grace_period_costs_no_grant_though_nobody_asks_and_the_broker_drains() {
    let (stage, id, _hand) = expired_within(5).await;
    stage.provider.next(Err(busy(WAIT)));
    let error = stage.token(&id).await.unwrap_err();
    // Half of the 4 s in which a repeat arrives in time.
    assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
    stage.broker.drain().await;
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-0"]);
    let profile = stage.broker.connection(&id).await.unwrap();
    assert_eq!((profile.status, profile.generation, profile.backoff), (Status::Active, 2, None));
}

fn limited(wait: Duration) -> ProviderError {
    ProviderError::RateLimited { retry_after: Some(wait) }
}

#[tokio::test(start_paused = true)]
async fn a_repeat_that_is_told_to_slow_down_within_a_grace_period_is_made_when_that_is_over_though_nobody_asks()
 {
    let (stage, id, _hand) = expired_within(60).await;
    let (wait, began) = (Duration::from_secs(10), tokio::time::Instant::now());
    stage.provider.next(Err(lost()));
    stage.provider.next(Err(limited(wait)));
    assert_eq!(stage.token(&id).await.unwrap_err().reason(), Reason::ProviderRateLimited);
    tokio::time::timeout(LIFE, stage.provider.requests_reach(3)).await.unwrap();
    assert!((wait..=wait + wait / 5).contains(&began.elapsed()), "{:?}", began.elapsed());
    stage.broker.drain().await;
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-0", "rt-0"]);
    assert_eq!(stage.broker.connection(&id).await.unwrap().generation, 2);
}

#[tokio::test(start_paused = true)]
async fn a_repeat_that_is_told_to_slow_down_for_longer_than_a_grace_period_costs_no_grant() {
    let (stage, id, _hand) = expired_within(5).await;
    stage.provider.next(Err(lost()));
    stage.provider.next(Err(limited(WAIT)));
    stage.token(&id).await.unwrap_err();
    tokio::time::timeout(LIFE, stage.provider.requests_reach(3)).await.unwrap();
    stage.broker.drain().await;
    let profile = stage.broker.connection(&id).await.unwrap();
    assert_eq!((profile.status, profile.generation, profile.backoff), (Status::Active, 2, None));
}

#[tokio::test(start_paused = true)]
async fn a_repeat_that_is_due_later_keeps_no_broker_from_draining() {
    let stage = stage(grace(60));
    let id = stage.expired("user-42").await;
    stage.provider.next(Err(busy(Duration::from_secs(10))));
    stage.token(&id).await.unwrap_err();
    let began = tokio::time::Instant::now();
    stage.broker.drain().await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(stage.provider.presented(), ["rt-0"]);
    assert_eq!(stage.broker.connection(&id).await.unwrap().status, Status::Ambiguous, "for the next start");
}

#[tokio::test]
async fn a_disconnect_asks_after_what_was_lost_no_earlier_than_the_provider_asks() {
    let stage = stage(Reuse::Strict);
    let id = stage.expired("user-42").await;
    stage.provider.next(Err(busy(Duration::ZERO)));
    stage.token(&id).await.unwrap_err();
    // Longer than any request of the refresh can still be under way.
    stage.clock.advance(Duration::from_secs(60));
    stage.provider.next(Err(busy(WAIT)));
    let answer = stage.broker.disconnect(id.clone()).await.unwrap().revocation;
    let RevocationState::Pending { error, next_attempt_at } = answer else { panic!("{answer:?}") };
    assert_eq!(error.reason(), Reason::ProviderUnavailable);
    let wait = stage.clock.now().until(next_attempt_at.unwrap());
    assert!((WAIT..=WAIT + WAIT / 10).contains(&wait), "{wait:?}");
    assert_eq!(error.retry_after(), Some(wait));
    stage.clock.advance(wait);
    assert_eq!(stage.broker.disconnect(id.clone()).await.unwrap().revocation, RevocationState::Revoked);
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-0", "rt-0"]);
    assert_eq!(*stage.provider.ended.lock().unwrap(), ["rt-1", "rt-0"]);
}

/// A revocation that is told to wait, and when it is tried again.
async fn slowed_down(wait: Duration) -> (Stage, ConnectionId, Timestamp) {
    let stage = stage(Reuse::Strict);
    let id = stage.imported("user-42").await;
    *stage.provider.revocation.lock().unwrap() = Err(limited(wait));
    let answer = stage.broker.disconnect(id.clone()).await.unwrap().revocation;
    let RevocationState::Pending { next_attempt_at: Some(at), .. } = answer else { panic!("{answer:?}") };
    let told = stage.clock.now().until(at);
    assert!((wait..=wait + wait / 10).contains(&told), "{told:?}");
    *stage.provider.revocation.lock().unwrap() = Ok(Revocation::Revoked);
    (stage, id, at)
}

#[tokio::test(start_paused = true)]
async fn a_revocation_is_tried_again_no_earlier_than_the_provider_asks_also_after_a_restart() {
    for is_restarted in [false, true] {
        let (mut stage, id, at) = slowed_down(LIFE).await;
        let _hand = Hand::of(&stage.clock);
        if is_restarted {
            stage.broker.drain().await;
            stage = stage.restarted();
            assert_eq!(stage.broker.resume_revocations().await.unwrap(), 1);
        }
        stage.provider.revocations_reach(2).await;
        // By the wall clock, which follows by whole seconds.
        let early = stage.clock.now().until(at);
        assert!(early <= Duration::from_secs(1), "{early:?}");
        stage.broker.drain().await;
        let gone = Error::ConnectionNotFound(id.clone());
        assert_eq!(stage.broker.connection(&id).await.unwrap_err(), gone);
    }
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_that_is_repeated_while_the_provider_asks_to_wait_sends_nothing() {
    let (stage, id, at) = slowed_down(WAIT).await;
    let answer = stage.broker.disconnect(id.clone()).await.unwrap().revocation;
    let left = stage.clock.now().until(at);
    let RevocationState::Pending { error, next_attempt_at } = answer else { panic!("{answer:?}") };
    assert_eq!((error.reason(), error.retry_after()), (Reason::ProviderRateLimited, Some(left)));
    assert_eq!((next_attempt_at, stage.provider.revocations()), (Some(at), 1));
    stage.clock.advance(left);
    assert_eq!(stage.broker.disconnect(id.clone()).await.unwrap().revocation, RevocationState::Revoked);
}

#[tokio::test(start_paused = true)]
async fn what_a_repeated_disconnect_is_told_moves_the_try_that_was_due_before() {
    let stage = stage(Reuse::Strict);
    let id = stage.imported("user-42").await;
    let answers = |answer| *stage.provider.revocation.lock().unwrap() = answer;
    let pending = async || match stage.broker.disconnect(id.clone()).await.unwrap().revocation {
        RevocationState::Pending { next_attempt_at, .. } => next_attempt_at.unwrap(),
        other => panic!("{other:?}"),
    };
    answers(Err(ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None }));
    pending().await;
    // RFC 7009 section 2.2.1. Our own pause keeps nobody from asking; the provider's does.
    let wait = Duration::from_secs(120);
    answers(Err(ProviderError::Unavailable { cause: Unsent::Refused(503), retry_after: Some(wait) }));
    let at = pending().await;
    assert_eq!((pending().await, stage.provider.revocations()), (at, 2));
    answers(Ok(Revocation::Revoked));
    let _hand = Hand::of(&stage.clock);
    stage.provider.revocations_reach(3).await;
    let early = stage.clock.now().until(at);
    assert!(early <= Duration::from_secs(1), "{early:?}");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_makes_no_revocation_wait_longer_and_is_seen_when_it_jumps_ahead() {
    let (stage, _, _) = slowed_down(LIFE).await;
    let since = tokio::time::Instant::now();
    stage.clock.set(stage.clock.now() - 10 * LIFE);
    stage.provider.revocations_reach(2).await;
    assert!(since.elapsed() <= LIFE + LIFE / 5, "{:?}", since.elapsed());

    let (stage, _, _) = slowed_down(LIFE).await;
    let since = tokio::time::Instant::now();
    stage.clock.set(stage.clock.now() - 10 * LIFE);
    stage.broker.drain().await;
    let stage = stage.restarted();
    assert_eq!(stage.broker.resume_revocations().await.unwrap(), 1);
    stage.provider.revocations_reach(2).await;
    assert!(since.elapsed() <= LIFE + LIFE / 5, "after a restart: {:?}", since.elapsed());

    let (stage, _, at) = slowed_down(24 * LIFE).await;
    let since = tokio::time::Instant::now();
    stage.clock.set(at);
    stage.provider.revocations_reach(2).await;
    assert!(since.elapsed() <= LIFE, "{:?}", since.elapsed());
}

/// A revocation that is pending, and when it is tried again.
async fn pending(stage: &Stage, id: &ConnectionId) -> Timestamp {
    let answer = stage.broker.disconnect(id.clone()).await.unwrap().revocation;
    let RevocationState::Pending { error, next_attempt_at: Some(at) } = answer else { panic!("{answer:?}") };
    assert_eq!(error.reason(), Reason::ProviderRateLimited);
    at
}

/// Returns when the record says that the provider has asked to wait.
async fn written(stage: &Stage, id: &ConnectionId) {
    let is_written = async {
        while !stage.broker.connection(id).await.unwrap().backoff.is_some_and(|backoff| backoff.is_asked) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(LIFE, is_written).await.expect("it was never written down");
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_revocation_that_the_store_does_not_take_at_once_is_kept_and_written_down_later() {
    let stage = stage(Reuse::Strict);
    let id = stage.imported("user-42").await;
    *stage.provider.revocation.lock().unwrap() = Err(limited(24 * LIFE));
    // That it is being revoked is written down; what comes of it is not.
    stage.store.fail_writes_after(1, 4);
    let at = pending(&stage, &id).await;
    assert_eq!((pending(&stage, &id).await, stage.provider.revocations()), (at, 1));
    written(&stage, &id).await;
    stage.broker.drain().await;
    let stage = stage.restarted();
    assert_eq!(stage.broker.resume_revocations().await.unwrap(), 1);
    assert_eq!((pending(&stage, &id).await, stage.provider.revocations()), (at, 1));
    *stage.provider.revocation.lock().unwrap() = Ok(Revocation::Revoked);
    stage.clock.advance(stage.clock.now().until(at));
    assert_eq!(stage.broker.disconnect(id).await.unwrap().revocation, RevocationState::Revoked);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_revocation_is_kept_though_the_store_cannot_be_read_when_it_comes() {
    let stage = stage(Reuse::Strict);
    let id = stage.imported("user-42").await;
    *stage.provider.revocation.lock().unwrap() = Err(limited(24 * LIFE));
    stage.provider.hold();
    let (broker, asked) = (stage.broker.clone(), id.clone());
    let disconnecting = tokio::spawn(async move { broker.disconnect(asked).await });
    stage.provider.revocations_reach(1).await;
    stage.store.is_deaf.store(true, Ordering::SeqCst);
    stage.provider.release();
    let error = disconnecting.await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Reason::StoreUnavailable);
    stage.store.is_deaf.store(false, Ordering::SeqCst);
    let at = pending(&stage, &id).await;
    let wait = stage.clock.now().until(at);
    assert!((24 * LIFE..=27 * LIFE).contains(&wait), "{wait:?}");
    written(&stage, &id).await;
    assert_eq!(stage.provider.revocations(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_answer_is_asked_after_waits_though_the_store_does_not_take_it_at_once() {
    let stage = stage(Reuse::Reusable);
    let id = stage.expired("user-42").await;
    stage.provider.next(Err(lost()));
    stage.token(&id).await.unwrap_err();
    stage.clock.advance(Duration::from_secs(60));
    stage.provider.next(Err(limited(24 * LIFE)));
    // That it is being revoked and that it is asked after are written down; what comes of it is not.
    stage.store.fail_writes_after(2, 3);
    let answer = stage.broker.disconnect(id.clone()).await.unwrap().revocation;
    assert!(matches!(answer, RevocationState::Pending { .. }), "{answer:?}");
    let presented = stage.provider.presented().len();
    let wait = stage.clock.now().until(pending(&stage, &id).await);
    assert!((24 * LIFE..=27 * LIFE).contains(&wait), "{wait:?}");
    written(&stage, &id).await;
    assert_eq!(stage.provider.presented().len(), presented);
}

#[tokio::test]
async fn a_wait_for_a_refresh_that_the_store_does_not_take_is_kept_all_the_same() {
    for (reuse, answer) in [
        (Reuse::Strict, limited(WAIT)),
        (Reuse::Reusable, limited(WAIT)),
        (grace(60), limited(WAIT)),
        (Reuse::Strict, busy(WAIT)),
        (Reuse::Reusable, busy(WAIT)),
    ] {
        let stage = stage(reuse);
        let id = stage.expired("user-42").await;
        stage.provider.next(Err(answer.clone()));
        // The intent is written down; what comes of it is not.
        stage.store.fail_writes_after(1, 1);
        stage.token(&id).await.unwrap_err();
        // Longer than anything of it can be under way.
        let gone = Duration::from_secs(60);
        stage.clock.advance(gone);
        let error = stage.token(&id).await.unwrap_err();
        assert_eq!(stage.provider.presented(), ["rt-0"], "{reuse:?}, {answer:?}");
        let left = error.retry_after().unwrap();
        assert!((WAIT..=WAIT + WAIT / 10).contains(&(gone + left)), "{left:?}");
        let is_lost = matches!(answer, ProviderError::Ambiguous { .. });
        let told = if is_lost { Reason::ConnectionAmbiguous } else { Reason::ProviderRateLimited };
        assert_eq!(error.reason(), told, "{reuse:?}");
        stage.clock.advance(left);
        assert_eq!(stage.token(&id).await.unwrap(), "at-1");
        assert_eq!(stage.provider.presented(), ["rt-0", "rt-0"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_the_store_does_not_take_costs_no_grant_within_a_grace_period_though_nobody_asks() {
    let (stage, id, _hand) = expired_within(60).await;
    stage.provider.next(Err(lost()));
    stage.provider.next(Err(limited(WAIT)));
    // The intent, the loss and the repeat are written down; what comes of the repeat is not.
    stage.store.fail_writes_after(3, 1);
    assert_eq!(stage.token(&id).await.unwrap_err().reason(), Reason::ProviderRateLimited);
    tokio::time::timeout(LIFE, stage.provider.requests_reach(3)).await.unwrap();
    stage.broker.drain().await;
    let profile = stage.broker.connection(&id).await.unwrap();
    assert_eq!((profile.status, profile.generation), (Status::Active, 2));
}
