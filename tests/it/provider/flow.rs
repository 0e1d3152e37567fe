//! The whole life of a grant at the sandbox, through the port.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use token_broker::error::ProviderError;
use token_broker::provider::oauth::OAuthProvider;
use token_broker::provider::{AuthorizationRequest, CodeGrant, ProviderClient as _, Revocation};
use token_broker::sandbox::{Endpoint, Fault, IssuerParameter, On};
use token_broker::secret::Secret;
use url::Url;

use super::peer::{Peer, location_of};
use super::{
    REDIRECT_URI, Renew as _, access_token, provider, provider_of, refresh_token_of, sandbox, token_set,
};

pub(super) const VERIFIER: &str = "a-code-verifier-of-at-least-forty-three-characters";

fn authorization_request() -> AuthorizationRequest {
    AuthorizationRequest {
        redirect_uri: REDIRECT_URI.to_owned(),
        scopes: ["openid", "email", "api.read"].into_iter().collect(),
        state: Secret::new("the-state".to_owned()),
        code_challenge: URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER)),
        login_hint: None,
        extra: Vec::new(),
    }
}

/// Consents and gives what came back to the redirect URI.
pub(super) async fn consent(provider: &OAuthProvider) -> Vec<(String, String)> {
    let url = provider.authorization_url(&authorization_request()).await.unwrap();
    let back = Url::parse(&location_of(&url).await).unwrap();
    assert!(back.as_str().starts_with(REDIRECT_URI));
    back.query_pairs().into_owned().collect()
}

pub(super) fn value<'a>(pairs: &'a [(String, String)], name: &str) -> &'a str {
    pairs.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
}

pub(super) fn code_grant(code: &str, verifier: &str) -> CodeGrant {
    CodeGrant {
        code: Secret::new(code.to_owned()),
        code_verifier: Secret::new(verifier.to_owned()),
        redirect_uri: REDIRECT_URI.to_owned(),
    }
}

#[tokio::test]
async fn a_grant_lives_from_consent_to_revocation() {
    let sandbox = sandbox();
    let provider = provider_of(&sandbox, json!({}));

    let back = consent(&provider).await;
    assert_eq!(value(&back, "state"), "the-state");
    assert!(provider.accepts_issuer(Some(value(&back, "iss"))).await.unwrap());

    let first = provider.exchange(&code_grant(value(&back, "code"), VERIFIER)).await.unwrap();
    assert_eq!(first.expires_in.unwrap().as_secs(), 300);
    let scopes = first.scopes.clone().unwrap();
    assert!(scopes.missing(&["openid".to_owned(), "email".to_owned(), "api.read".to_owned()]).is_empty());

    let token = access_token(first.access_token.expose());
    let account = provider.account(&token).await.unwrap().unwrap();
    assert_eq!((account.id.as_str(), account.email.as_deref()), ("user-42", Some("user-42@sandbox.example")));

    let first = first.into_set(None, token.issued_at);
    let second = provider.renewed(first.refresh.as_ref().unwrap()).await.unwrap();
    assert_ne!(
        second.refresh_token.as_ref(),
        first.refresh.as_ref().map(|token| &token.value),
        "it was rotated"
    );
    assert_eq!(sandbox.log().rotations(), 1);

    let second = second.into_set(first.refresh, token.issued_at);
    assert_eq!(provider.revoke(&second).await.unwrap(), Revocation::Revoked);
    assert!(sandbox.grants().list()[0].ended.is_some());
    let dead = provider.renewed(second.refresh.as_ref().unwrap()).await.unwrap_err();
    assert!(matches!(&dead, ProviderError::Denied(code) if code.as_str() == "invalid_grant"), "{dead:?}");
    assert_eq!(
        provider.account(second.access.as_ref().unwrap()).await.unwrap(),
        None,
        "a dead token tells nothing"
    );
}

#[tokio::test]
async fn each_way_of_client_authentication_is_understood() {
    for auth in ["auto", "basic", "post"] {
        let sandbox = sandbox();
        let provider = provider_of(&sandbox, json!({"client_auth": auth}));
        let grant = sandbox.grants().issue("user-42", &["openid"]);
        provider.renewed(&refresh_token_of(&grant)).await.unwrap_or_else(|error| panic!("{auth}: {error:?}"));
    }
}

#[tokio::test]
async fn a_wrong_secret_is_about_the_client_and_spends_nothing() {
    let sandbox = sandbox();
    let grant = sandbox.grants().issue("user-42", &["openid"]);
    for auth in ["basic", "post"] {
        let provider = provider_of(&sandbox, json!({"client_auth": auth, "client_secret": "wrong"}));
        let error = provider.renewed(&refresh_token_of(&grant)).await.unwrap_err();
        assert!(
            matches!(&error, ProviderError::Misconfigured(code) if code.as_str() == "invalid_client"),
            "{error:?}"
        );
    }
    assert!(provider_of(&sandbox, json!({})).renewed(&refresh_token_of(&grant)).await.is_ok());
}

#[tokio::test]
async fn a_code_without_its_verifier_is_refused() {
    let sandbox = sandbox();
    let provider = provider_of(&sandbox, json!({}));
    let back = consent(&provider).await;
    let other = "another-verifier-of-at-least-forty-three-characters";
    let error = provider.exchange(&code_grant(value(&back, "code"), other)).await.unwrap_err();
    assert!(matches!(&error, ProviderError::Denied(code) if code.as_str() == "invalid_grant"), "{error:?}");
}

#[tokio::test]
async fn the_issuer_parameter_is_demanded_where_it_is_promised() {
    let sandbox = sandbox();
    let promised = provider_of(&sandbox, json!({}));
    assert!(!promised.accepts_issuer(None).await.unwrap());
    assert!(!promised.accepts_issuer(Some("https://evil.example")).await.unwrap());
    assert!(promised.accepts_issuer(Some(sandbox.issuer())).await.unwrap());

    sandbox.change(|behavior| behavior.issuer_parameter = IssuerParameter::Omitted);
    let silent = provider_of(&sandbox, json!({}));
    assert!(silent.accepts_issuer(None).await.unwrap());
    assert!(!silent.accepts_issuer(Some("https://evil.example")).await.unwrap(), "compared where it is sent");
    let demanding = provider_of(&sandbox, json!({"callback": {"iss": "required"}}));
    assert!(!demanding.accepts_issuer(None).await.unwrap());
}

#[tokio::test]
async fn revocation_follows_rfc_7009() {
    let sandbox = sandbox();
    let provider = provider_of(&sandbox, json!({}));
    let grant = sandbox.grants().issue("user-42", &["openid"]);

    sandbox
        .script()
        .next(Endpoint::Revoke, Fault::status(503).retry_after(std::time::Duration::from_secs(7)));
    let later = provider.revoke(&token_set(&grant)).await.unwrap_err();
    assert_eq!(later.retry_after(), Some(std::time::Duration::from_secs(7)));
    sandbox.script().next(Endpoint::Revoke, Fault::drop_answer());
    let lost = provider.revoke(&token_set(&grant)).await.unwrap_err();
    assert!(matches!(lost, ProviderError::Unavailable { .. }), "revoking again does no harm: {lost:?}");

    assert_eq!(
        provider.revoke(&token_set(&grant)).await.unwrap(),
        Revocation::Revoked,
        "unknown by now, and 200"
    );
    assert!(sandbox.grants().list()[0].ended.is_some());

    sandbox.script().next(Endpoint::Revoke, Fault::oauth_error("invalid_token"));
    assert_eq!(provider.revoke(&token_set(&grant)).await.unwrap(), Revocation::Revoked, "unknown, and 400");
    sandbox.script().next(Endpoint::Revoke, Fault::oauth_error("unsupported_token_type"));
    assert_eq!(provider.revoke(&token_set(&grant)).await.unwrap(), Revocation::Unsupported);
    sandbox.script().next(Endpoint::Revoke, Fault::oauth_error("invalid_client"));
    assert!(matches!(provider.revoke(&token_set(&grant)).await, Err(ProviderError::Misconfigured(_))));
    let none = provider_of(&sandbox, json!({"revoke": {"style": "none"}}));
    assert_eq!(none.revoke(&token_set(&grant)).await.unwrap(), Revocation::Unsupported);
}

#[tokio::test]
async fn a_rest_call_revokes_as_github_wants_it() {
    let peer = Peer::json(204, "").await;
    let api = format!("http://{}", peer.address);
    let provider = provider(json!({
        "endpoints": {"authorization": "https://as.example/a", "token": "https://as.example/t"},
        "client_id": "Iv1.a/x",
        "revoke": {
            "style": "rest",
            "request": {
                "url": format!("{api}/applications/{{client_id}}/token"), "method": "DELETE", "format": "json",
                "set": {"access_token": "{access_token}"}, "headers": {"Accept": "application/vnd.github+json"},
            },
            "client_auth": "basic", "token": "access", "gone_status": [404],
        },
    }));
    let grant = super::TokenSet {
        access: Some(access_token("gho_1")),
        refresh: None,
        previous: None,
        surplus: Vec::new(),
    };
    assert_eq!(provider.revoke(&grant).await.unwrap(), Revocation::Revoked);
    let request = &peer.requests()[0];
    assert!(request.starts_with("DELETE /applications/Iv1.a%2Fx/token HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("accept: application/vnd.github+json\r\n"), "{request}");
    assert!(request.contains("authorization: Basic "), "{request}");
    assert!(request.ends_with("\r\n\r\n{\"access_token\":\"gho_1\"}"), "{request}");
}

/// A provider that takes a grant back by its access token alone, in one of the three ways there are.
fn by_access_token(style: &str, peer: &Peer) -> OAuthProvider {
    let request = |set: serde_json::Value| json!({"url": peer.url("/end"), "method": "DELETE", "set": set});
    let revoke = match style {
        "rest" => json!({
            "style": "rest", "request": request(json!({"access_token": "{access_token}"})), "client_auth": "basic",
            "token": "access", "gone_status": [404, 422],
        }),
        "self" => json!({"style": "self", "request": request(json!({}))}),
        style => json!({"style": style, "token": "access"}),
    };
    provider(json!({
        "endpoints": {
            "authorization": "https://as.example/a", "token": "https://as.example/t", "revocation": peer.url("/revoke"),
        },
        "revoke": revoke,
    }))
}

#[tokio::test]
async fn an_access_token_that_is_over_proves_no_end_of_a_grant_that_has_a_refresh_token() {
    use Revocation::{Revoked, Unconfirmed};
    let invalid = r#"{"error":"invalid_token"}"#;
    // What the provider says, and what that means where the access token is over and where it lives.
    for (style, status, body, over, living) in [
        ("rest", 404, "", Unconfirmed, Some(Revoked)),
        ("rest", 422, "", Unconfirmed, Some(Revoked)),
        ("rest", 204, "", Revoked, Some(Revoked)),
        ("custom", 200, "", Unconfirmed, Some(Revoked)),
        ("custom", 400, invalid, Unconfirmed, Some(Revoked)),
        ("self", 401, "", Unconfirmed, None),
        ("self", 400, "", Unconfirmed, None),
        ("self", 200, r#"{"error":"token_expired"}"#, Unconfirmed, None),
        ("self", 200, "", Revoked, Some(Revoked)),
    ] {
        let peer = Peer::json(status, body).await;
        let provider = by_access_token(style, &peer);
        let held = |access: Option<super::AccessToken>, refresh: Option<&str>| super::TokenSet {
            access,
            refresh: refresh.map(super::refresh_token),
            previous: None,
            surplus: Vec::new(),
        };
        let dead = || {
            let access = access_token("at");
            Some(super::AccessToken { expires_at: Some(access.issued_at), ..access })
        };
        let what = format!("{style}, {status}");
        assert_eq!(provider.revoke(&held(dead(), Some("rt"))).await, Ok(over), "{what}: over");
        assert_eq!(
            provider.revoke(&held(Some(access_token("at")), Some("rt"))).await.ok(),
            living,
            "{what}: living"
        );
        assert_eq!(peer.requests().len(), 2, "{what}: asked all the same");
        if style != "self" {
            assert_eq!(provider.revoke(&held(dead(), None)).await, Ok(Revoked), "{what}: nothing lives");
        }
        let bare = provider.revoke(&held(None, Some("rt"))).await;
        assert!(matches!(bare, Ok(Unconfirmed | Revocation::Unsupported)), "{what}: {bare:?}");
    }
}

#[tokio::test]
async fn fewer_scopes_than_asked_are_told() {
    let sandbox = sandbox();
    sandbox.change(|behavior| behavior.granted_scopes = Some(vec!["openid".to_owned()]));
    let provider = provider_of(&sandbox, json!({}));
    let back = consent(&provider).await;
    let issued = provider.exchange(&code_grant(value(&back, "code"), VERIFIER)).await.unwrap();
    assert_eq!(issued.scopes.unwrap().as_slice(), ["openid"]);
}

#[tokio::test]
async fn a_refresh_takes_the_shape_that_the_spec_gives_it() {
    let peer = Peer::json(200, r#"{"data":{"token":"a","new":"r"},"ttl":2,"token_type":"x"}"#).await;
    let provider = provider(json!({
        "endpoints": {"authorization": "https://as.example/a", "token": "https://as.example/t", "refresh": peer.url("/r")},
        "requests": {"refresh": {
            "format": "json", "rename": {"client_id": "app_id"}, "drop": ["grant_type"],
            "set": {"audience": "x-{client_id}"}, "headers": {"X-Version": "7"},
        }},
        "client_auth": "post",
        "response": {"access_token": "/data/token", "refresh_token": "/data/new", "expires": "/ttl"},
        "expiry": "minutes",
    }));
    let issued = provider.renewed(&super::refresh_token("rt")).await.unwrap();
    assert_eq!(issued.access_token.expose(), "a");
    assert_eq!(issued.refresh_token.unwrap().expose(), "r");
    assert_eq!(issued.expires_in.unwrap().as_secs(), 120);
    assert_eq!(issued.token_type, "x");
    let request = &peer.requests()[0];
    assert!(request.starts_with("POST /r HTTP/1.1\r\n") && request.contains("x-version: 7\r\n"), "{request}");
    let (_, body) = request.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let secret = format!("{}-client-secret", super::CANARY);
    assert_eq!(
        body,
        json!({"refresh_token": "rt", "app_id": "app", "client_secret": secret, "audience": "x-app"})
    );
}

#[tokio::test]
async fn no_more_refreshes_run_at_a_time_than_the_spec_allows() {
    let sandbox = sandbox();
    let provider = provider_of(&sandbox, json!({"max_parallel_refresh": 1}));
    let tokens: Vec<_> = (0..2)
        .map(|n| refresh_token_of(&sandbox.grants().issue(&format!("user-{n}"), &["openid"])))
        .collect();
    let hold = sandbox.script().hold_request(On::refresh());
    let both = async { tokio::join!(provider.renewed(&tokens[0]), provider.renewed(&tokens[1])) };
    let gate = async {
        let log = sandbox.log();
        log.wait_for(|exchange| exchange.endpoint == Endpoint::Token).await;
        // Metadata, connection, request: what the second would have sent by now had it not waited for its turn.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        let arrived = log.counts().refresh_requests;
        hold.release();
        arrived
    };
    let ((one, two), arrived) = tokio::join!(both, gate);
    assert_eq!(arrived, 1);
    assert!(one.is_ok() && two.is_ok());
}
