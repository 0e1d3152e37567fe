//! What a start makes of a store that was put back to an older state, and of records that do not open.

use std::sync::atomic::Ordering;
use std::time::Duration;

use token_broker::broker::{Recovery, Trust};
use token_broker::clock::Clock as _;
use token_broker::connection::history::Happening;
use token_broker::connection::reuse::Reuse;
use token_broker::connection::{Connection, Status};
use token_broker::error::Reason;
use token_broker::store::{Expected, TokenStore as _};

use super::{happened, stage};
use crate::kit::{Stage, id};

#[tokio::test]
async fn a_store_put_back_marks_its_rotating_grants_and_refreshes_none() {
    let stage = stage(Reuse::Strict);
    let id = stage.imported("user-42").await;
    let stage = stage.restarted();
    let found = stage.broker.recover(Trust::RolledBack).await.unwrap();
    assert_eq!(found, Recovery { unfinished: 0, marked: 1 });
    assert_eq!(stage.broker.connection(&id).await.unwrap().status, Status::Ambiguous);
    assert_eq!(stage.token(&id).await.unwrap(), "at-0", "what lives is served");
    assert!(stage.provider.presented().is_empty());
    assert!(happened(&stage, &id).await.contains(&Happening::RolledBack));
}

#[tokio::test]
async fn a_record_that_does_not_open_keeps_no_other_from_being_marked_after_a_rollback() {
    let stage = stage(Reuse::Strict);
    let ids =
        [stage.imported("user-1").await, stage.imported("user-2").await, stage.imported("user-3").await];
    stage.store.damaged.lock().unwrap().push(ids[1].clone());
    let stage = stage.restarted();
    let found = stage.broker.recover(Trust::RolledBack).await.unwrap();
    assert_eq!(found, Recovery { unfinished: 0, marked: 2 });
    for id in [&ids[0], &ids[2]] {
        assert_eq!(stage.broker.connection(id).await.unwrap().status, Status::Ambiguous);
    }
    assert_eq!(stage.token(&ids[1]).await.unwrap_err().reason(), Reason::RecordUnreadable);
    assert!(stage.provider.presented().is_empty());
}

#[tokio::test]
async fn a_store_that_fails_ends_the_marking_after_a_rollback() {
    let stage = stage(Reuse::Strict);
    stage.imported("user-1").await;
    let stage = stage.restarted();
    stage.store.is_deaf.store(true, Ordering::SeqCst);
    stage.broker.recover(Trust::RolledBack).await.unwrap_err();
}

#[tokio::test]
async fn a_record_that_does_not_open_keeps_no_other_from_being_swept_nor_the_rest_from_being_counted() {
    let stage = Stage::new();
    let ids: Vec<_> = (0..6).map(|n| id(&format!("user-{n}"))).collect();
    for id in &ids {
        let pending = Connection::pending(id.clone(), stage.clock.now());
        stage.store.put(&pending, Expected::Absent).await.unwrap();
    }
    let living = stage.imported("user-9").await;
    stage.store.damaged.lock().unwrap().push(ids[2].clone());
    stage.clock.advance(Duration::from_secs(86_400));
    assert_eq!(stage.broker.sweep().await.unwrap(), 5);
    assert_eq!(stage.broker.sweep().await.unwrap(), 0);
    let metrics = stage.metrics.encode().unwrap();
    assert!(metrics.contains("connections{provider=\"sandbox\",status=\"ACTIVE\"} 1"), "{metrics}");
    stage.broker.connection(&living).await.unwrap();
}
