//! How a whole broker ends.

use std::time::Duration;

use token_broker::broker::ImportConnection;
use token_broker::connection::{ConnectionId, Status};
use token_broker::sandbox::On;
use token_broker::secret::Secret;
use tokio::net::TcpStream;

use crate::whole::Whole;

#[tokio::test]
async fn a_refresh_under_way_at_the_stop_is_stored_whatever_peers_do() {
    let whole = Whole::new();
    let bound = whole.build().await;
    let (broker, mut ready) = (bound.broker.clone(), bound.readiness.subscribe());
    let _silent = TcpStream::connect(bound.addresses.grpc_tcp.unwrap()).await.unwrap();
    let _half = TcpStream::connect(bound.addresses.public.unwrap()).await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(bound.run(async { drop(stopped.await) }));
    ready.wait_for(|is_ready| *is_ready).await.unwrap();

    let id = ConnectionId::parse(String::new(), "sandbox".into(), "user-42".into()).unwrap();
    let grant = whole.sandbox.grants().issue("user-42", &["openid"]);
    let import = ImportConnection {
        id: id.clone(),
        refresh_token: Some(Secret::new(grant.refresh_token.unwrap().expose().clone())),
        access_token: None,
        expires_at: None,
        scopes: Vec::new(),
        replace: false,
        variables: Default::default(),
    };
    let mut hold = whole.sandbox.script().hold_request(On::refresh());
    let importing = tokio::spawn(async move { broker.import_connection(import).await });
    hold.reached(1).await;
    stop.send(()).unwrap();
    ready.wait_for(|is_ready| !*is_ready).await.unwrap();
    hold.release();
    importing.await.unwrap().unwrap();
    tokio::time::timeout(Duration::from_secs(60), running).await.unwrap().unwrap().unwrap();

    let again = whole.build().await;
    let profile = again.broker.connection(&id).await.unwrap();
    assert_eq!((profile.status, profile.generation), (Status::Active, 2));
    assert_eq!(whole.sandbox.log().rotations(), 1);
}
