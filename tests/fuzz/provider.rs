//! One provider for every target.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::json;
use token_broker::clock::Timestamp;
use token_broker::connection::{AccessToken, ConnectionId, ProviderKey};
use token_broker::provider::spec::ProviderSpec;
use token_broker::provider::target::Api;
use token_broker::secret::Secret;

pub const TOKEN: &str = "canary/token+1";

pub static CONNECTION: LazyLock<ConnectionId> =
    LazyLock::new(|| ConnectionId::parse(String::new(), "acme".into(), "user-42".into()).unwrap());

/// Its patterns let everything through, so that the places they fill stand alone.
pub static API: LazyLock<Api> = LazyLock::new(|| {
    let anything = json!({"from": "token", "pattern": "(?s).*"});
    let spec: ProviderSpec = serde_json::from_value(json!({
        "variables": {"shop": anything, "account": anything},
        "api": {
            "hosts": [
                "https://api.acme.example:8443/v1",
                "*.files.acme.example",
                "https://{shop}.shops.acme.example/{account}/v2",
            ],
            "auth_header": "X-Acme-Key",
            "auth_value": "{access_token}",
            "headers": {"X-Acme-Account": "{account}", "X-Acme-Version": "2026-01"},
        },
    }))
    .unwrap();
    Api::compile(&ProviderKey::parse("acme").unwrap(), &spec).unwrap()
});

pub fn values(shop: &str, account: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("shop".to_owned(), shop.to_owned()), ("account".to_owned(), account.to_owned())])
}

pub fn token() -> AccessToken {
    AccessToken {
        value: Secret::new(TOKEN.to_owned()),
        token_type: "Bearer".to_owned(),
        issued_at: Timestamp::from_millis(0),
        expires_at: None,
    }
}

/// The pieces of an input, divided by a byte that no text holds.
pub fn pieces(data: &[u8]) -> Option<Vec<&str>> {
    data.split(|byte| *byte == 0xff).map(|piece| std::str::from_utf8(piece).ok()).collect()
}
