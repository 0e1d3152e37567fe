//! Metadata: lazily read, once for many, kept through the provider's absence.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use token_broker::error::ProviderError;
use token_broker::provider::ProviderClient as _;
use token_broker::sandbox::{Endpoint, Fault};

use super::peer::Peer;
use super::{Renew as _, provider, provider_of, refresh_token, refresh_token_of, sandbox};

fn readings(sandbox: &token_broker::sandbox::Sandbox) -> usize {
    sandbox.log().exchanges().iter().filter(|exchange| exchange.endpoint == Endpoint::Discovery).count()
}

#[tokio::test]
async fn many_callers_read_it_once() {
    let sandbox = sandbox();
    let provider = provider_of(&sandbox, json!({}));
    assert!(provider.info().token_endpoint.is_none());
    assert_eq!(readings(&sandbox), 0, "nothing is read before it is needed");
    let all = join_all((0..100).map(|_| provider.accepts_issuer(Some(sandbox.issuer())))).await;
    assert!(all.into_iter().all(|accepted| accepted.unwrap()));
    assert_eq!(readings(&sandbox), 1);
    assert_eq!(provider.info().token_endpoint.unwrap(), format!("{}/token", sandbox.issuer()));
}

#[tokio::test]
async fn after_a_failure_nobody_asks_again_before_the_rest_is_over() {
    let sandbox = sandbox();
    sandbox.script().always(Endpoint::Discovery, Fault::status(500));
    let provider = provider_of(&sandbox, json!({}));
    for _ in 0..10 {
        let error = provider.renewed(&refresh_token("rt")).await.unwrap_err();
        assert!(matches!(error, ProviderError::Unavailable { .. }), "a token was never sent: {error:?}");
    }
    assert_eq!(readings(&sandbox), 1);
    sandbox.script().clear();
    let grant = sandbox.grants().issue("user-42", &["openid"]);
    let patient = async {
        while let Err(error) = provider.renewed(&refresh_token_of(&grant)).await {
            tokio::time::sleep(error.retry_after().unwrap()).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), patient).await.unwrap();
    assert_eq!(readings(&sandbox), 2, "whoever waits as told succeeds at the first try");
}

/// The word that a provider with this metadata document refuses with.
async fn refusal(document: impl Fn(&str) -> Value) -> String {
    let stand_in = Peer::json(200, "{}").await;
    // The document must name an issuer whose port is only known once the peer listens, so the issuer is another peer's.
    let issuer = stand_in.url("");
    let peer = Peer::json(200, &document(&issuer).to_string()).await;
    let provider = provider(json!({"issuer": issuer, "discovery": {"url": peer.url("/metadata")}}));
    match provider.renewed(&refresh_token("rt")).await.unwrap_err() {
        ProviderError::Misconfigured(code) => code.to_string(),
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn a_document_that_names_another_issuer_is_refused() {
    let word = refusal(|issuer| json!({"issuer": format!("{issuer}/"), "token_endpoint": issuer})).await;
    assert_eq!(word, "metadata_issuer_mismatch");
}

#[tokio::test]
async fn a_document_with_an_endpoint_in_plain_http_is_refused() {
    let word = refusal(|issuer| json!({"issuer": issuer, "token_endpoint": "http://as.example/token"})).await;
    assert_eq!(word, "metadata_endpoint_refused");
}

#[tokio::test]
async fn a_document_without_a_token_endpoint_is_refused() {
    assert_eq!(refusal(|issuer| json!({"issuer": issuer})).await, "metadata_without_token_endpoint");
}

#[tokio::test]
async fn what_is_no_document_is_malformed() {
    let sandbox = sandbox();
    sandbox.script().always(Endpoint::Discovery, Fault::html(200));
    let error = provider_of(&sandbox, json!({})).renewed(&refresh_token("rt")).await.unwrap_err();
    assert_eq!(error, ProviderError::Malformed);
}
