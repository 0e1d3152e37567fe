//! A provider that is switched off: nothing of it is served or begun, nothing of it is lost.

use token_broker::broker::ImportConnection;
use token_broker::connection::Status;
use token_broker::error::{Error, Reason};
use token_broker::secret::Secret;

use crate::kit::{RETURN_URL, begin, id, request};
use crate::whole::Whole;

#[tokio::test]
async fn a_provider_that_is_switched_off_gives_nothing_out_and_keeps_what_it_has() {
    let whole = Whole::new();
    let grant = whole.sandbox.grants().issue("user-42", &["openid"]);
    let refresh_token = grant.refresh_token.unwrap().expose().clone();
    let import = || ImportConnection {
        id: id("user-42"),
        refresh_token: Some(Secret::new(refresh_token.clone())),
        access_token: None,
        expires_at: None,
        scopes: Vec::new(),
        replace: true,
        variables: Default::default(),
    };
    let bound = whole.build().await;
    bound.broker.import_connection(import()).await.unwrap();
    bound.run(async {}).await.unwrap();
    let asked = whole.sandbox.log().token_requests();

    let off = whole.build_with(", enabled: false").await;
    let broker = &off.broker;
    let switched_off = |outcome: Result<(), Error>| {
        let error = outcome.unwrap_err();
        assert_eq!(error.reason(), Reason::ProviderDisabled, "{error}");
    };
    switched_off(broker.access_token(request(&id("user-42"))).await.map(drop));
    switched_off(broker.import_connection(import()).await.map(drop));
    let consent =
        token_broker::broker::BeginConnect { return_url: Some(RETURN_URL.into()), ..begin("user-7") };
    switched_off(broker.begin_connect(consent).await.map(drop));
    assert!(!broker.provider("sandbox").unwrap().is_enabled);
    assert_eq!(broker.providers().len(), 1);
    assert_eq!(broker.connection(&id("user-42")).await.unwrap().status, Status::Active);
    off.run(async {}).await.unwrap();
    assert_eq!(whole.sandbox.log().token_requests(), asked, "it is asked nothing");

    let on = whole.build().await;
    let answer = on.broker.access_token(request(&id("user-42"))).await.unwrap();
    assert!(!answer.token.access.value.expose().is_empty());
}
