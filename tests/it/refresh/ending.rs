//! What becomes of refreshes when the broker ends, or when what they belong to does.

use std::future::ready;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use token_broker::broker::{ImportConnection, Recovery, RevocationState, TokenRequest, Trust};
use token_broker::clock::Clock;
use token_broker::connection::reuse::Reuse;
use token_broker::connection::{Connection, ConnectionId, Status};
use token_broker::error::{ProviderError, Reason, Unsent};
use token_broker::provider::Revocation;
use token_broker::secret::Secret;
use token_broker::store::{Expected, TokenStore as _};

use super::stage;
use crate::kit::{LIFE, Stage, issued, request};

#[tokio::test]
async fn what_waits_in_line_when_the_broker_drains_is_not_sent() {
    let stage = stage(Reuse::Strict);
    let mut ids = Vec::new();
    for name in ["user-1", "user-2", "user-3", "user-4"] {
        ids.push(stage.imported(name).await);
    }
    stage.clock.advance(LIFE);
    stage.provider.narrow();
    stage.provider.hold();
    let callers: Vec<_> = ids
        .iter()
        .map(|id| {
            let (broker, asked) = (stage.broker.clone(), request(id));
            tokio::spawn(async move { broker.access_token(asked).await })
        })
        .collect();
    stage.provider.requests_reach(1).await;
    stage.provider.line_reaches(4).await;
    let mut drain = pin!(stage.broker.drain());
    tokio::select! {
        biased;
        () = &mut drain => panic!("a refresh is under way"),
        () = ready(()) => {}
    }
    stage.provider.release();
    drain.await;
    let (mut served, mut refused) = (0, 0);
    for caller in callers {
        match caller.await.unwrap() {
            Ok(_) => served += 1,
            Err(error) => {
                assert_eq!(error.reason(), Reason::ShuttingDown);
                refused += 1;
            }
        }
    }
    assert_eq!((served, refused, stage.provider.presented().len()), (1, 3, 1));
    for id in &ids {
        let profile = stage.broker.connection(id).await.unwrap();
        assert_eq!((profile.status, profile.intent), (Status::Active, None), "nothing is in doubt");
    }
}

#[tokio::test]
async fn a_store_put_back_marks_grants_of_providers_that_are_not_configured_too() {
    let stage = stage(Reuse::Reusable);
    stage.imported("user-42").await;
    let id = ConnectionId::parse(String::new(), "elsewhere".into(), "user-42".into()).unwrap();
    let now = Clock::now(&*stage.clock);
    let tokens = issued("at-0", Some("rt-0")).into_set(None, now);
    let connection =
        Connection::pending(id.clone(), now).imported(tokens, ["read"].into_iter().collect(), now);
    stage.store.put(&connection, Expected::Absent).await.unwrap();
    let found = stage.broker.recover(Trust::RolledBack).await.unwrap();
    assert_eq!(found, Recovery { unfinished: 0, marked: 1 });
    let stored = stage.store.get(&id).await.unwrap().unwrap().value;
    assert_eq!(stored.profile.status, Status::Ambiguous);
}

/// New tokens of `user-42` are held, for the store takes nothing any more, and then its record is gone.
async fn left_alone(stage: &Stage) {
    let id = stage.expired("user-42").await;
    stage.store.fail_writes_after(1, usize::MAX);
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
    assert_eq!(stage.broker.escrowed_count(), 1);
    let revision = stage.store.get(&id).await.unwrap().unwrap().revision;
    stage.store.remove(&id, Expected::At(revision)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn held_tokens_of_a_connection_that_is_gone_are_revoked() {
    let stage = stage(Reuse::Strict);
    left_alone(&stage).await;
    stage.broker.drain().await;
    assert_eq!(stage.broker.escrowed_count(), 0);
    assert_eq!(*stage.provider.ended.lock().unwrap(), ["rt-1"]);
}

#[tokio::test(start_paused = true)]
async fn tokens_that_no_record_holds_are_revoked_as_soon_as_the_provider_can_be_asked() {
    let stage = stage(Reuse::Strict);
    *stage.provider.revocation.lock().unwrap() =
        Err(ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None });
    left_alone(&stage).await;
    stage.provider.revocations_reach(5).await;
    *stage.provider.revocation.lock().unwrap() = Ok(Revocation::Revoked);
    stage.provider.revocations_reach(6).await;
    tokio::time::sleep(Duration::from_secs(86_400)).await;
    assert_eq!(*stage.provider.ended.lock().unwrap(), ["rt-1"; 6], "and then it is asked no more");
}

#[tokio::test(start_paused = true)]
async fn what_no_record_holds_is_not_revoked_beside_a_grant_that_was_given_meanwhile() {
    let stage = stage(Reuse::Strict);
    *stage.provider.revocation.lock().unwrap() =
        Err(ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None });
    left_alone(&stage).await;
    stage.provider.revocations_reach(1).await;
    stage.store.fail_writes_after(0, 0);
    stage.imported("user-42").await;
    *stage.provider.revocation.lock().unwrap() = Ok(Revocation::Revoked);
    tokio::time::sleep(Duration::from_secs(86_400)).await;
    assert_eq!(stage.provider.revocations(), 1, "at some providers it would end both");
}

#[tokio::test(start_paused = true)]
async fn held_tokens_of_a_connection_that_was_disconnected_are_served_no_more() {
    let stage = stage(Reuse::Strict);
    let id = stage.expired("user-42").await;
    stage.store.fail_writes_after(1, usize::MAX);
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
    // The next try to store them is seconds away.
    tokio::time::sleep(Duration::from_secs(20)).await;
    stage.store.fail_writes_after(0, 0);
    let answer = stage.broker.disconnect(id.clone()).await.unwrap();
    assert!(matches!(answer.revocation, RevocationState::Pending { .. }));
    assert_eq!(stage.broker.escrowed_count(), 1, "they are to be revoked");
    assert_eq!(stage.token(&id).await.unwrap_err().reason(), Reason::ConnectionNotFound);
    stage.provider.revocations_reach(2).await;
    assert_eq!(*stage.provider.ended.lock().unwrap(), ["rt-1", "rt-0"]);
}

#[tokio::test(start_paused = true)]
async fn tokens_that_come_after_a_disconnect_and_cannot_be_stored_are_served_to_nobody() {
    for (is_deaf, told) in [(false, Reason::ConnectionNotFound), (true, Reason::StoreUnavailable)] {
        let stage = stage(Reuse::Strict);
        let id = stage.expired("user-42").await;
        let caller = stage.refreshing(&id).await;
        let disconnect = stage.disconnecting(&id).await;
        stage.store.fail_writes_after(0, usize::MAX);
        stage.store.is_deaf.store(is_deaf, Ordering::SeqCst);
        stage.provider.release();
        assert_eq!(caller.await.unwrap().unwrap_err().reason(), told);
        let answer = disconnect.await.unwrap().unwrap();
        assert!(matches!(answer.revocation, RevocationState::Pending { .. }));
        assert_eq!(stage.token(&id).await.unwrap_err().reason(), told);
        assert_eq!(stage.broker.escrowed_count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn held_tokens_of_the_grant_before_a_new_one_are_served_no_more() {
    let stage = stage(Reuse::Strict);
    let id = stage.expired("user-42").await;
    stage.store.fail_writes_after(1, usize::MAX);
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
    tokio::time::sleep(Duration::from_secs(20)).await;
    stage.store.fail_writes_after(0, 0);
    let import = ImportConnection {
        access_token: Some(Secret::new("at-new".into())),
        refresh_token: Some(Secret::new("rt-new".into())),
        expires_at: Some(Clock::now(&*stage.clock) + LIFE),
        replace: true,
        ..crate::kit::import("user-42")
    };
    stage.broker.import_connection(import).await.unwrap();
    let new = stage.broker.access_token(request(&id)).await.unwrap().token.access.value.digest();
    let refused = TokenRequest { if_not_equal_to: Some(new), ..request(&id) };
    let error = stage.broker.access_token(refused).await.unwrap_err();
    assert_eq!(error.reason(), Reason::StoreUnavailable, "not before what is held is settled");
    assert_eq!(stage.token(&id).await.unwrap(), "at-new");
    stage.broker.drain().await;
    assert_eq!(stage.broker.escrowed_count(), 0);
    assert_eq!(stage.token(&id).await.unwrap(), "at-new");
}

#[tokio::test(start_paused = true)]
async fn of_a_connection_that_is_gone_when_its_refresh_is_too_late_to_be_sent_nothing_is_remembered() {
    let stage = stage(Reuse::Strict);
    let id = stage.expired("user-42").await;
    stage.store.write_ms.store(8_000, Ordering::SeqCst);
    let caller = stage.asking(&id);
    // While its intent is being written somebody else begins to wait for it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (broker, ended) = (stage.broker.clone(), id.clone());
    let disconnect = tokio::spawn(async move { broker.disconnect(ended).await });
    tokio::time::sleep(Duration::from_secs(9)).await;
    let revision = stage.store.get(&id).await.unwrap().unwrap().revision;
    stage.store.remove(&id, Expected::At(revision)).await.unwrap();
    disconnect.await.unwrap().unwrap_err();
    assert_eq!(caller.await.unwrap().unwrap_err().reason(), Reason::ProviderUnavailable);
    assert!(stage.provider.presented().is_empty());
    stage.broker.drain().await;
    assert_eq!(stage.broker.places_in_memory(), 0);
}
