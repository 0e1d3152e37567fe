//! What is remembered of a connection once it was disconnected: how it went, and nothing else.

use std::time::Duration;

use token_broker::broker::{Broker, ConnectionEvent, RevocationState};
use token_broker::connection::history::Happening;
use token_broker::connection::{ConnectionId, REMEMBERED, Status};
use token_broker::error::{Error, OAuthCode, ProviderError, Reason, Unsent};
use token_broker::provider::Revocation;
use token_broker::store::{Selection, TokenStore as _};

use crate::kit::{Stage, id};

async fn happened(broker: &Broker, id: &ConnectionId) -> Vec<Happening> {
    broker.history(id).await.unwrap().events().iter().map(|event| event.what).collect()
}

/// How many the broker of the kit remembers.
const MOST: usize = 3;

#[tokio::test]
async fn the_end_of_a_connection_is_told_by_its_history_and_by_nothing_else_also_after_a_restart() {
    for (answer, told, end) in [
        (Revocation::Revoked, RevocationState::Revoked, Happening::Revoked),
        (Revocation::Unsupported, RevocationState::Unsupported, Happening::RevocationNotSupported),
        (Revocation::Unconfirmed, RevocationState::Unconfirmed, Happening::RevocationUnconfirmed),
    ] {
        let stage = Stage::new();
        *stage.provider.revocation.lock().unwrap() = Ok(answer);
        let id = stage.imported("user-42").await;
        assert_eq!(stage.broker.disconnect(id.clone()).await.unwrap().revocation, told);
        let life = [Happening::Begun, Happening::Imported, Happening::Revoking, end];
        assert_eq!(happened(&stage.broker, &id).await, life);
        let stage = stage.restarted();
        stage.broker.sweep().await.unwrap();
        assert_eq!(happened(&stage.broker, &id).await, life);
        let gone = Error::ConnectionNotFound(id.clone());
        assert_eq!(stage.broker.connection(&id).await.unwrap_err(), gone);
        assert_eq!(stage.token(&id).await.unwrap_err(), gone);
        assert_eq!(stage.broker.disconnect(id.clone()).await.unwrap_err(), gone);
        let left = stage.broker.connections(&Selection::default(), 0, "").await.unwrap();
        assert!(left.profiles.is_empty());
        let past = stage.store.get(&id.ended()).await.unwrap().unwrap().value;
        assert_eq!((past.tokens, past.profile.account), (None, None));
        assert!(!stage.metrics.encode().unwrap().contains("status=\"REVOKED\"} 1"), "it is no connection");
    }
}

#[tokio::test]
async fn a_grant_that_the_provider_has_called_dead_is_not_said_to_live_on() {
    let stage = Stage::new();
    let id = stage.expired("user-42").await;
    stage.provider.next(Err(ProviderError::Denied(OAuthCode::new("invalid_grant"))));
    assert_eq!(stage.token(&id).await.unwrap_err().reason(), Reason::ReauthRequired);
    *stage.provider.revocation.lock().unwrap() = Ok(Revocation::Unconfirmed);
    assert_eq!(stage.broker.disconnect(id).await.unwrap().revocation, RevocationState::Revoked);
}

#[tokio::test]
async fn a_connection_that_held_nothing_says_so_at_its_end() {
    let stage = Stage::new();
    stage.begun("user-42").await;
    let id = id("user-42");
    assert_eq!(stage.broker.disconnect(id.clone()).await.unwrap().revocation, RevocationState::NotNeeded);
    let life = [Happening::Begun, Happening::Revoking, Happening::RevocationNotNeeded];
    assert_eq!(happened(&stage.broker, &id).await, life);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_was_pending_and_turns_out_to_be_impossible_is_told() {
    let stage = Stage::new();
    *stage.provider.revocation.lock().unwrap() =
        Err(ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None });
    let id = stage.imported("user-42").await;
    let answer = stage.broker.disconnect(id.clone()).await.unwrap().revocation;
    assert!(matches!(answer, RevocationState::Pending { .. }), "{answer:?}");
    *stage.provider.revocation.lock().unwrap() = Ok(Revocation::Unsupported);
    while stage.broker.connection(&id).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let life = happened(&stage.broker, &id).await;
    assert_eq!(life[3..], [Happening::RevocationFailed, Happening::RevocationNotSupported]);
}

#[tokio::test(start_paused = true)]
async fn what_is_revoked_and_cannot_be_forgotten_is_forgotten_by_itself_once_the_store_is_well() {
    // Its end cannot be written down, or its record not be removed.
    for (failing_writes, failing_removals) in [(8, 0), (0, 8)] {
        let stage = Stage::new();
        let id = stage.imported("user-42").await;
        let mut watch = stage.broker.watch_connections(Selection::default());
        // The first write is that it is being revoked.
        stage.store.fail_writes_after(1, failing_writes);
        stage.store.fail_removals(failing_removals);
        let error = stage.broker.disconnect(id.clone()).await.unwrap_err();
        assert_eq!(error.reason(), Reason::StoreUnavailable);
        assert_eq!(stage.broker.connection(&id).await.unwrap().status, Status::Revoking);
        while !matches!(watch.next().await.unwrap(), ConnectionEvent::Removed(gone) if gone == id) {}
        stage.broker.drain().await;
        assert_eq!(happened(&stage.broker, &id).await.last(), Some(&Happening::Revoked));
        assert_eq!(stage.provider.revocations(), 1, "what it has answered it is not asked again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_that_was_not_written_down_is_not_carried_on() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    stage.store.fail_writes_after(0, 1);
    let error = stage.broker.disconnect(id.clone()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::StoreUnavailable);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    stage.broker.drain().await;
    assert_eq!(stage.broker.connection(&id).await.unwrap().status, Status::Active);
    assert_eq!(stage.provider.revocations(), 0);
}

#[tokio::test]
async fn a_new_connection_under_the_name_begins_its_own_history_after_the_end_of_the_one_before() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    stage.broker.disconnect(id.clone()).await.unwrap();
    stage.begun("user-42").await;
    assert_eq!(happened(&stage.broker, &id).await, [Happening::Revoked, Happening::Begun]);
    // Nobody consents: what is remembered outlives that.
    stage.clock.advance(Duration::from_secs(3600));
    stage.broker.sweep().await.unwrap();
    assert_eq!(happened(&stage.broker, &id).await.last(), Some(&Happening::Revoked));
    stage.imported("user-42").await;
    stage.broker.disconnect(id.clone()).await.unwrap();
    let second = [Happening::Begun, Happening::Imported, Happening::Revoking, Happening::Revoked];
    assert_eq!(happened(&stage.broker, &id).await, second, "the last life is remembered");
}

#[tokio::test]
async fn histories_go_when_they_are_too_many_and_when_they_are_old() {
    let stage = Stage::new();
    let mut ids = Vec::new();
    for at in 0..MOST + 2 {
        let id = stage.imported(&format!("user-{at}")).await;
        stage.broker.disconnect(id.clone()).await.unwrap();
        stage.clock.advance(Duration::from_secs(1));
        ids.push(id);
    }
    let (older, newer) = ids.split_at(2);
    // Once by what this run has written, once by what another finds.
    let stage = stage.restarted();
    assert_eq!(stage.broker.sweep().await.unwrap(), 2);
    for id in older {
        assert_eq!(stage.broker.history(id).await.unwrap_err().reason(), Reason::ConnectionNotFound);
    }
    for id in newer {
        assert_eq!(happened(&stage.broker, id).await.last(), Some(&Happening::Revoked));
    }
    stage.imported("user-4").await;
    stage.broker.disconnect(newer[2].clone()).await.unwrap();
    stage.clock.advance(REMEMBERED - Duration::from_secs(1));
    assert_eq!(stage.broker.sweep().await.unwrap(), 2, "the one that ended anew stays");
    assert_eq!(happened(&stage.broker, &newer[2]).await.last(), Some(&Happening::Revoked));
    stage.clock.advance(Duration::from_secs(1));
    assert_eq!(stage.broker.sweep().await.unwrap(), 1);
    assert_eq!(stage.broker.history(&newer[2]).await.unwrap_err().reason(), Reason::ConnectionNotFound);
}
