//! What was remembered of a connection's calls is forgotten when its owner consents again.

use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::AnswerSource::{Cache, Provider};
use token_broker::grpc::proto::v1::connection_service_client::ConnectionServiceClient;
use token_broker::sandbox::Endpoint;
use url::Url;

use super::cache::{ENTRY, asked, fresh};
use super::{Desk, get, post, reason};
use crate::secrecy::{get as browsed, location, parameter};

/// The owner consents once more; the sandbox asks nobody.
async fn consent_again(desk: &Desk) {
    const CALLBACK: &str = "http://127.0.0.1:9/callback";
    let sandbox = &desk.whole.sandbox;
    sandbox.register_redirect_uri(sandbox.client_id(), CALLBACK);
    let mut connections = ConnectionServiceClient::new(desk.channel.clone());
    let begin = v1::BeginConnectRequest {
        provider: "sandbox".into(),
        connection: "user-42".into(),
        redirect_uri: CALLBACK.into(),
        ..Default::default()
    };
    let begun = connections.begin_connect(begin).await.unwrap().into_inner();
    let callback = location(&browsed(&Url::parse(&begun.authorization_url).unwrap()).await);
    let complete = v1::CompleteConnectRequest {
        state: parameter(&callback, "state"),
        code: parameter(&callback, "code"),
        iss: parameter(&callback, "iss"),
        ..Default::default()
    };
    connections.complete_connect(complete).await.unwrap();
}

#[tokio::test]
async fn a_new_consent_leaves_no_answer_of_before() {
    let desk = Desk::with(ENTRY).await;
    desk.whole.sandbox.script().next(Endpoint::Echo, fresh("of before"));
    asked(&desk, get("/x")).await;
    let order = v1::CallProviderRequest { request_id: "order-7".into(), ..post("/orders", b"one") };
    let first = desk.call(order.clone()).await.unwrap();
    assert_eq!(desk.call(order.clone()).await.unwrap(), first);
    assert_eq!(asked(&desk, get("/x")).await, (Cache, 0, "of before".into()));
    assert_eq!(desk.calls().len(), 2, "both are remembered");

    consent_again(&desk).await;
    assert_eq!(asked(&desk, get("/x")).await.0, Provider);
    let status = desk.call(order).await.unwrap_err();
    assert_eq!(reason(&status), "INVALID_REQUEST", "what it came to is not told, and it is not made twice");
    assert_eq!(desk.calls().len(), 3);
    desk.stop().await;
}
