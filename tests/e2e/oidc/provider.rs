//! node-oidc-provider as a child process, and what only the authorization server knows.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::broker::Client;
use crate::browser::{Browser, Page, send};
use crate::process::{Running, place};

const CLIENT_ID: &str = "token-broker-e2e";
pub(crate) const CLIENT_SECRET: &str = "correct-horse-battery-staple-e2e";

/// Where the app receives the browser on the route through its own callback. Nothing listens there.
pub(crate) const APP_CALLBACK: &str = "http://127.0.0.1:9/app/callback";

/// A running node-oidc-provider.
pub(crate) struct Provider {
    _running: Running,
    issuer: String,
    admin: String,
}

/// One request that the token endpoint has answered.
#[derive(Debug, Deserialize)]
pub(crate) struct TokenRequest {
    grant_type: String,
    status: u16,
    pub(crate) client_authentication: Option<String>,
}

impl Provider {
    /// Starts one whose access tokens live `access_token_ttl` seconds.
    pub(crate) fn start(access_token_ttl: u32) -> Self {
        let settings = serde_json::json!({
            "clientId": CLIENT_ID,
            "clientSecret": CLIENT_SECRET,
            "redirectUris": [APP_CALLBACK, "http://127.0.0.1/callback/local"],
            "accessTokenTtl": access_token_ttl,
        });
        let mut command = Command::new("node");
        command
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/oidc-provider/server.mjs"))
            .env("PACKAGES", place("OIDC_PROVIDER_PACKAGES"))
            .env("SETTINGS", settings.to_string());
        let (running, (issuer, admin)) = Running::start(command, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            Some((line["issuer"].as_str()?.to_owned(), line["admin"].as_str()?.to_owned()))
        });
        Self { _running: running, issuer, admin }
    }

    pub(crate) fn client(&self) -> Client<'_> {
        Client { issuer: &self.issuer, id: CLIENT_ID, secret: CLIENT_SECRET }
    }

    /// Signs in as `login` and consents, on the provider's own pages, until the browser is sent to `leaving`.
    pub(crate) async fn consent(&self, authorization_url: &str, login: &str, leaving: &str) -> Page {
        let authorization_url: Url = authorization_url.parse().unwrap();
        assert!(authorization_url.as_str().starts_with(&self.issuer), "{authorization_url}");
        let mut browser = Browser::default();
        let sign_in = browser.open(&authorization_url, leaving).await;
        assert!(sign_in.body.contains("Sign-in"), "{sign_in:?}");
        let consent = browser.submit(&sign_in, &[("login", login), ("password", "any")], leaving).await;
        assert!(consent.body.contains("Continue"), "{consent:?}");
        browser.submit(&consent, &[], leaving).await
    }

    /// Uses an access token at the userinfo endpoint: the HTTP status, and whose account it is.
    pub(crate) async fn userinfo(&self, access_token: &str) -> (u16, Option<String>) {
        let request = http::Request::get(format!("{}/me", self.issuer))
            .header(AUTHORIZATION, format!("Bearer {access_token}"))
            .body(String::new())
            .unwrap();
        let answer = send(request).await;
        let claims: Value = serde_json::from_str(answer.body()).unwrap_or_default();
        (answer.status().as_u16(), claims["sub"].as_str().map(str::to_owned))
    }

    /// Every request that the token endpoint has answered.
    pub(crate) async fn token_requests(&self) -> Vec<TokenRequest> {
        let url = format!("{}/token-requests", self.admin);
        let answer = send(http::Request::get(url).body(String::new()).unwrap()).await;
        serde_json::from_str(answer.body()).unwrap()
    }

    /// Asks the token endpoint by hand.
    async fn token(&self, form: &[(&str, &str)]) -> (u16, Value) {
        let request = http::Request::post(format!("{}/token", self.issuer))
            .header(
                AUTHORIZATION,
                format!("Basic {}", STANDARD.encode(format!("{CLIENT_ID}:{CLIENT_SECRET}"))),
            )
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish());
        let answer = send(request.unwrap()).await;
        (answer.status().as_u16(), serde_json::from_str(answer.body()).unwrap())
    }

    /// How many refreshes it has been asked for, and how many of them it granted.
    pub(crate) async fn refreshes(&self) -> (usize, usize) {
        let requests = self.token_requests().await;
        let refreshes: Vec<_> =
            requests.iter().filter(|request| request.grant_type == "refresh_token").collect();
        (refreshes.len(), refreshes.iter().filter(|request| request.status == 200).count())
    }

    /// Every secret that client and token endpoint have told each other, with its name.
    pub(crate) async fn secrets(&self) -> Vec<(String, String)> {
        let url = format!("{}/secrets", self.admin);
        let answer = send(http::Request::get(url).body(String::new()).unwrap()).await;
        serde_json::from_str(answer.body()).unwrap()
    }

    /// Access tokens issued from now on live `seconds`.
    pub(crate) async fn issue_for(&self, seconds: u32) {
        let url = format!("{}/access-token-ttl?seconds={seconds}", self.admin);
        let answer = send(http::Request::post(url).body(String::new()).unwrap()).await;
        assert_eq!(answer.status(), 200);
    }

    /// The owner takes back every consent; returns how many there were.
    pub(crate) async fn end_grants(&self) -> u64 {
        let url = format!("{}/end-grants", self.admin);
        let answer = send(http::Request::post(url).body(String::new()).unwrap()).await;
        serde_json::from_str::<Value>(answer.body()).unwrap()["ended"].as_u64().unwrap()
    }
}

/// The control: at this peer a broker that refreshes twice with one token is found out.
#[tokio::test]
async fn a_refresh_token_used_twice_ends_the_grant() {
    let provider = Provider::start(600);
    let verifier = "a-code-verifier-of-at-least-forty-three-characters";
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
    let url = Url::parse_with_params(
        &format!("{}/auth", provider.issuer),
        [
            ("client_id", CLIENT_ID),
            ("response_type", "code"),
            ("redirect_uri", APP_CALLBACK),
            ("scope", "openid offline_access"),
            ("prompt", "consent"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ],
    );
    let callback = provider.consent(url.unwrap().as_str(), "alice", APP_CALLBACK).await;
    let code = callback.query("code").unwrap();

    let exchange = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", APP_CALLBACK),
        ("code_verifier", verifier),
    ];
    let (_, first) = provider.token(&exchange).await;
    let spent = first["refresh_token"].as_str().unwrap();
    let (status, second) = provider.token(&[("grant_type", "refresh_token"), ("refresh_token", spent)]).await;
    assert_eq!(status, 200);
    let access_token = second["access_token"].as_str().unwrap();
    assert_eq!(provider.userinfo(access_token).await, (200, Some("alice".to_owned())));

    let (status, refused) =
        provider.token(&[("grant_type", "refresh_token"), ("refresh_token", spent)]).await;

    assert_eq!((status, refused["error"].as_str()), (400, Some("invalid_grant")));
    assert_eq!(provider.userinfo(access_token).await.0, 401);
    assert_eq!(provider.refreshes().await, (2, 1));
}
