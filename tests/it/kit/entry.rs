//! Entries of providers that are in this process: everything of a provider as it comes, but the network.

use serde_json::{Value, json};
use token_broker::provider::catalogue::{ProviderConfig, ProviderEntry};

/// The entry of a provider named `key`, with `more` of its keys.
pub(crate) fn local(key: &str, more: &Value) -> ProviderConfig {
    let mut entry = json!({
        "key": key,
        "client_id": "app",
        "client_auth": "none",
        "endpoints": {"authorization": "https://idp.example/authorize", "token": "https://idp.example/token"},
        "scopes": ["read"],
    });
    entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let entry: ProviderEntry = serde_json::from_value(entry).unwrap();
    entry.resolve(None).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"))
}
