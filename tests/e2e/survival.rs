//! Whether a grant survives a broker that is killed again and again while it refreshes, at servers that other people
//! wrote. Between the two stands a proxy that counts. A spent refresh token may be presented only where the broker was
//! killed between the request and the moment its answer was durable; a strict server then ends the grant, which is the
//! loss that the promise names, and a server with a grace period answers with the same pair.
//!
//! A token is refreshed every second, and the broker killed at a random moment of every third refresh. How often each is
//! killed: `PEER_KILLS`, 42 unless it says otherwise, which takes more than two minutes.

mod campaign;
mod django;

use serde_json::json;
use token_broker::grpc::proto::v1;

use crate::broker::{Broker, Home, PROVIDER};
use crate::oidc;
use crate::oidc::provider::Provider;
use crate::proxy::Proxy;
use campaign::{Campaign, Habit, Peer};
use django::Django;

/// Short, so that a token whose successor is lost dies while the test waits.
const LIFE: u32 = 4;

impl Peer for Provider {
    async fn connect(&self, broker: &Broker, name: &str) {
        oidc::connect(broker, self, name, name).await;
    }

    async fn is_live(&self, access_token: &str) -> bool {
        self.userinfo(access_token).await.0 == 200
    }
}

impl Peer for Django {
    async fn connect(&self, broker: &Broker, name: &str) {
        let (access_token, refresh_token) = self.issue(name).await;
        let request = v1::ImportConnectionRequest {
            provider: PROVIDER.to_owned(),
            connection: name.to_owned(),
            access_token,
            refresh_token,
            ..Default::default()
        };
        broker.connections().await.import_connection(request).await.unwrap();
    }

    async fn is_live(&self, access_token: &str) -> bool {
        self.is_live(access_token).await
    }
}

#[tokio::test]
async fn node_oidc_provider_sees_a_spent_token_only_after_a_kill() {
    let provider = Provider::start(LIFE);
    let client = provider.client();
    let proxy = Proxy::before(format!("{}/token", client.issuer)).await;
    let home = Home::of(&json!({
        "key": PROVIDER,
        "kind": "oidc",
        "issuer": client.issuer,
        "client_id": client.id,
        "client_secret": client.secret,
        "endpoints": {"refresh": proxy.url},
        "reuse": "strict",
        "token_timeout": "5s",
    }));
    Campaign::new(&provider, &proxy, home, Habit::Strict).fight("node-oidc-provider").await;
}

#[tokio::test]
async fn django_oauth_toolkit_loses_no_grant() {
    const GRACE: u32 = 60;
    let provider = Django::start(LIFE, GRACE);
    let proxy = Proxy::before(provider.token_endpoint()).await;
    let home = Home::of(&json!({
        "key": PROVIDER,
        "client_id": django::CLIENT_ID,
        "client_secret": django::CLIENT_SECRET,
        "endpoints": {"authorization": format!("{}/o/authorize/", provider.url), "token": proxy.url},
        "client_auth": "basic",
        "scopes": ["read"],
        "rotation": "always",
        "reuse": {"grace": {"seconds": GRACE, "scope": "chain", "result": "same", "max_uses": 1000}},
        "old_at_survives": false,
        "token_timeout": "5s",
    }));
    Campaign::new(&provider, &proxy, home, Habit::Grace).fight("django-oauth-toolkit").await;
}
