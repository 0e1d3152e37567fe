//! How a whole broker ends.

use std::time::Duration;

use token_broker::broker::ImportConnection;
use token_broker::config::Override;
use token_broker::connection::{ConnectionId, Status};
use token_broker::sandbox::{Endpoint, Fault, IssuedGrant, On};
use token_broker::secret::Secret;
use tokio::net::TcpStream;

use crate::whole::Whole;

/// An import whose refresh token is tried at once.
fn import(id: &ConnectionId, grant: &IssuedGrant) -> ImportConnection {
    ImportConnection {
        id: id.clone(),
        refresh_token: Some(Secret::new(grant.refresh_token.as_ref().unwrap().expose().clone())),
        access_token: None,
        expires_at: None,
        scopes: Vec::new(),
        replace: false,
        variables: Default::default(),
    }
}

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
    let import = import(&id, &grant);
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

#[tokio::test]
async fn an_answer_that_comes_after_the_drain_is_stored_as_well() {
    let whole = Whole::new();
    let bound = whole.build_over("", &[Override::new("test", "server.drain", "1s")]).await;
    let (broker, mut ready) = (bound.broker.clone(), bound.readiness.subscribe());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(bound.run(async { drop(stopped.await) }));
    ready.wait_for(|is_ready| *is_ready).await.unwrap();

    let id = ConnectionId::parse(String::new(), "sandbox".into(), "user-42".into()).unwrap();
    let grant = whole.sandbox.grants().issue("user-42", &["openid"]);
    whole.sandbox.script().next(On::refresh(), Fault::delay_answer(Duration::from_secs(3)));
    let import = import(&id, &grant);
    let importing = tokio::spawn(async move { broker.import_connection(import).await });
    whole.sandbox.log().wait_for(|exchange| exchange.endpoint == Endpoint::Token).await;
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(60), running).await.unwrap().unwrap().unwrap();
    drop(importing);

    let again = whole.build().await;
    let profile = again.broker.connection(&id).await.unwrap();
    assert_eq!((profile.status, profile.generation), (Status::Active, 2), "its successor is stored");
    assert_eq!(whole.sandbox.log().rotations(), 1);
}
