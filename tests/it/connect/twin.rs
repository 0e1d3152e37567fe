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
        stage.broker.drain().await;
        assert_eq!(twins(&stage, &first).await, [Some("user-3".to_owned())]);
        assert_eq!(twins(&stage, &second).await, [Some("user-1".to_owned())]);
        assert!(twins(&stage, &other).await.is_empty());

        let stage = stage.restarted();
        let elsewhere = imported_as(&stage, "acme", "user-4", "bob").await;
        stage.broker.drain().await;
        assert_eq!(twins(&stage, &other).await, [None]);
        assert_eq!(twins(&stage, &elsewhere).await, [None]);
        assert_eq!(stage.broker.connection(&other).await.unwrap().status, Status::Active);
    }
}
