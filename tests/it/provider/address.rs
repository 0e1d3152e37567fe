//! Where an authorization server may be: at public addresses, at what its entry writes down, and nowhere else.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use token_broker::error::{ProviderError, Unsent};
use token_broker::provider::ProviderClient as _;
use token_broker::provider::http::HttpSettings;
use token_broker::provider::http::resolver::Lookup;
use token_broker::provider::oauth::OAuthProvider;

use super::flow::code_grant;
use super::peer::Peer;
use super::{Renew as _, access_token, provider_with, refresh_token};

const TOKEN: &str = r#"{"access_token":"a","token_type":"bearer","expires_in":60}"#;

const REFUSED: ProviderError = ProviderError::Unavailable { cause: Unsent::Address, retry_after: None };

/// A name server that answers every question with the next of these addresses, and with the last for ever.
#[derive(Debug)]
struct Leads(Mutex<VecDeque<IpAddr>>);

impl Lookup for Leads {
    fn addresses(&self, _: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        let mut left = self.0.lock().unwrap();
        let address = if left.len() > 1 { left.pop_front().unwrap() } else { left[0] };
        Box::pin(async move { Ok(vec![address]) })
    }
}

/// A provider whose names lead to these addresses.
fn provider(entry: Value, addresses: &[&str]) -> OAuthProvider {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    let settings = HttpSettings { lookup: Arc::new(Leads(Mutex::new(addresses))), ..HttpSettings::default() };
    provider_with(entry, &settings)
}

fn entry(peer: &Peer) -> Value {
    let at = |path: &str| format!("http://as.acme.example:{}/{path}", peer.address.port());
    json!({
        "allow_http": true,
        "endpoints": {
            "authorization": at("authorize"),
            "token": at("token"),
            "revocation": at("revoke"),
            "userinfo": at("userinfo"),
        },
        "identity": {"from": "userinfo"},
    })
}

#[tokio::test]
async fn a_name_that_leads_inside_is_not_called_for_anything() {
    let peer = Peer::json(200, TOKEN).await;
    let inside = [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "::1",
        "fd00::1",
        "fe80::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ];
    for address in inside {
        let provider = provider(entry(&peer), &[address]);
        let token = || access_token("a");
        assert_eq!(provider.renewed(&refresh_token("rt")).await.unwrap_err(), REFUSED, "{address}");
        let exchanged = provider.exchange(&code_grant("code", super::flow::VERIFIER)).await;
        assert_eq!(exchanged.unwrap_err(), REFUSED, "{address}");
        assert_eq!(provider.account(&token()).await.unwrap_err(), REFUSED, "{address}");
        let tokens = token_broker::connection::TokenSet {
            access: Some(token()),
            refresh: Some(refresh_token("rt")),
            previous: None,
            surplus: Vec::new(),
        };
        assert_eq!(provider.revoke(&tokens).await.unwrap_err(), REFUSED, "{address}");

        let discovered = json!({
            "allow_http": true,
            "issuer": format!("http://as.acme.example:{}", peer.address.port()),
        });
        let discovered = self::provider(discovered, &[address]).renewed(&refresh_token("rt")).await;
        assert_eq!(discovered.unwrap_err(), REFUSED, "{address}");
    }
    assert!(peer.requests().is_empty());
    let sentence = REFUSED.to_string();
    assert!(sentence.contains("allow_networks"), "{sentence}");
}

#[tokio::test]
async fn a_network_that_the_entry_writes_down_may_be_called_at_each_new_connection() {
    let peer = Peer::json(200, TOKEN).await;
    let mut entry = entry(&peer);
    entry["allow_networks"] = json!(["127.0.0.1"]);
    let provider = provider(entry, &["127.0.0.1", "127.0.0.2"]);
    assert!(provider.renewed(&refresh_token("rt")).await.is_ok());
    let rebound = provider.renewed(&refresh_token("rt")).await;
    assert_eq!(rebound.unwrap_err(), REFUSED, "the name changed its mind");
    assert_eq!(peer.requests().len(), 1);
}

#[tokio::test]
async fn metadata_may_not_point_to_an_address_that_nobody_wrote_down() {
    for host in ["10.0.0.1", "169.254.169.254", "[fd00::1]", "[fe80::1]", "[::ffff:10.0.0.1]"] {
        let document = json!({
            "issuer": "https://as.acme.example",
            "authorization_endpoint": "https://as.acme.example/authorize",
            "token_endpoint": format!("https://{host}:1/token"),
        });
        let metadata = Peer::json(200, &document.to_string()).await;
        let entry =
            json!({"issuer": "https://as.acme.example", "discovery": {"url": metadata.url("/metadata")}});
        let outcome = provider(entry, &["127.0.0.1"]).renewed(&refresh_token("rt")).await;
        assert_eq!(outcome.unwrap_err(), REFUSED, "{host}");
        assert_eq!(metadata.requests().len(), 1, "{host}");
    }
}
