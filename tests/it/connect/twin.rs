//! Connections that turn out to be of one account.

use token_broker::broker::ImportConnection;
use token_broker::connection::history::Happening;
use token_broker::connection::{Account, ConnectionId, Status};
use token_broker::secret::Secret;

use crate::kit::Stage;

/// The other connections that the history of `id` names as being of the same account.
async fn twins(stage: &Stage, id: &ConnectionId) -> Vec<Option<String>> {
    let history = stage.broker.history(id).await.unwrap();
    let events = history.events().iter().filter(|event| event.what == Happening::SameAccount);
    events.map(|event| event.why.clone()).collect()
}

/// The same, once there are any.
async fn told(stage: &Stage, id: &ConnectionId) -> Vec<Option<String>> {
    loop {
        match twins(stage, id).await {
            none if none.is_empty() => tokio::task::yield_now().await,
            twins => return twins,
        }
    }
}

async fn imported_as(stage: &Stage, tenant: &str, name: &str, account: &str) -> ConnectionId {
    *stage.provider.account.lock().unwrap() = Ok(Some(Account { id: account.into(), email: None }));
    let id = ConnectionId::parse(tenant.into(), "sandbox".into(), name.into()).unwrap();
    let refresh_token = Some(Secret::new(format!("rt-{tenant}-{name}")));
    let import = ImportConnection { id: id.clone(), refresh_token, ..crate::kit::import(name) };
    stage.broker.import_connection(import).await.unwrap();
    id
}

#[tokio::test]
async fn connections_of_one_account_are_told_in_both_and_never_by_name_across_tenants() {
    for is_swept_before in [false, true] {
        let stage = Stage::new();
        let first = imported_as(&stage, "", "user-1", "alice").await;
        let other = imported_as(&stage, "", "user-2", "bob").await;
        if is_swept_before {
            stage.broker.sweep().await.unwrap();
        }
        let second = imported_as(&stage, "", "user-3", "alice").await;
        assert_eq!(told(&stage, &first).await, [Some("user-3".to_owned())]);
        assert_eq!(told(&stage, &second).await, [Some("user-1".to_owned())]);
        assert!(twins(&stage, &other).await.is_empty());

        let stage = stage.restarted();
        let elsewhere = imported_as(&stage, "acme", "user-4", "bob").await;
        assert_eq!(told(&stage, &other).await, [None]);
        assert_eq!(told(&stage, &elsewhere).await, [None]);
        assert_eq!(stage.broker.connection(&other).await.unwrap().status, Status::Active);
    }
}

#[tokio::test]
async fn those_that_come_during_a_walk_share_the_next_one() {
    let stage = Stage::new();
    let mut listings = stage.store.listings();
    stage.store.lets_listings_through(false);
    let first = imported_as(&stage, "", "alice-1", "alice").await;
    listings.wait_for(|count| *count == 1).await.unwrap();
    for (name, account) in [("alice-2", "alice"), ("bob-1", "bob"), ("bob-2", "bob"), ("carol", "carol")] {
        imported_as(&stage, "", name, account).await;
    }
    stage.store.lets_listings_through(true);
    assert_eq!(told(&stage, &crate::kit::id("bob-1")).await, [Some("bob-2".to_owned())]);
    assert_eq!(told(&stage, &crate::kit::id("bob-2")).await, [Some("bob-1".to_owned())]);
    assert_eq!(told(&stage, &first).await, [Some("alice-2".to_owned())]);
    assert_eq!(*listings.borrow(), 2, "one for the first, one for all the others");
    // And a later one is looked for again.
    imported_as(&stage, "", "carol-2", "carol").await;
    assert_eq!(told(&stage, &crate::kit::id("carol")).await, [Some("carol-2".to_owned())]);
}

#[tokio::test]
async fn the_end_of_a_broker_does_not_wait_for_a_walk() {
    let stage = Stage::new();
    let mut listings = stage.store.listings();
    stage.store.lets_listings_through(false);
    imported_as(&stage, "", "user-1", "alice").await;
    listings.wait_for(|count| *count == 1).await.unwrap();
    // It hangs for ever; only a drain that waits for it meets this limit.
    tokio::time::timeout(std::time::Duration::from_secs(60), stage.broker.drain()).await.unwrap();
}
