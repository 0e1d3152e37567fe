//! A provider made from data, against a real authorization server on loopback and against peers that misbehave.

mod address;
mod fault;
mod flow;
mod metadata;
mod peer;
mod restraint;
mod tls;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use token_broker::clock::SystemClock;
use token_broker::connection::{AccessToken, IssuedTokens, RefreshToken, TokenSet};
use token_broker::entropy::OsEntropy;
use token_broker::error::ProviderError;
use token_broker::provider::catalogue::ProviderEntry;
use token_broker::provider::http::{HttpClient, HttpSettings};
use token_broker::provider::oauth::OAuthProvider;
use token_broker::provider::{ProviderClient, Urgency};
use token_broker::sandbox::{Approval, Behavior, ClientRegistration, IssuedGrant, Sandbox, SandboxOptions};
use token_broker::secret::Secret;
use token_broker::telemetry::Metrics;

/// A refresh as the broker makes it: leave first, then the request.
trait Renew {
    async fn renewed(&self, refresh: &RefreshToken) -> Result<IssuedTokens, ProviderError>;
}

impl<P: ProviderClient> Renew for P {
    async fn renewed(&self, refresh: &RefreshToken) -> Result<IssuedTokens, ProviderError> {
        let admission = self.admit(Urgency::Waiting).await?;
        self.refresh(admission, refresh, self.reuse_profile().token_timeout).await
    }
}

/// Where the sandbox's client returns to.
const REDIRECT_URI: &str = "http://127.0.0.1:8800/callback/sandbox";

/// Planted in secrets; it must come out nowhere.
const CANARY: &str = "canary";

/// A sandbox that approves at once, and a client with a secret that must not show.
fn sandbox() -> Sandbox {
    let client = ClientRegistration {
        secret: Some(Secret::new(format!("{CANARY}-client-secret"))),
        ..ClientRegistration::confidential("app").redirect_uri(REDIRECT_URI)
    };
    let approval = Approval::Automatic { account: "user-42".to_owned() };
    let options = SandboxOptions { client, behavior: Behavior { approval, ..Behavior::default() } };
    Sandbox::start(([127, 0, 0, 1], 0).into(), options, Arc::new(SystemClock), Arc::new(OsEntropy)).unwrap()
}

/// The catalogue's `sandbox` provider for it, with changes.
fn provider_of(sandbox: &Sandbox, changes: Value) -> OAuthProvider {
    let mut entry = json!({"kind": "sandbox", "vars": {"port": sandbox.address().port().to_string()}});
    entry.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    provider(entry)
}

/// A provider of the sandbox's client, described by an entry.
fn provider(entry: Value) -> OAuthProvider {
    let settings = HttpSettings { connect_timeout: Duration::from_secs(1), ..HttpSettings::default() };
    provider_with(entry, &settings)
}

fn provider_with(mut entry: Value, settings: &HttpSettings) -> OAuthProvider {
    let fields = entry.as_object_mut().unwrap();
    fields.entry("key").or_insert(json!("sandbox"));
    fields.entry("client_id").or_insert(json!("app"));
    // Most tests fail on purpose, more often than a breaker would let them.
    fields.entry("breaker").or_insert(json!({"failures": 1000}));
    fields.entry("client_secret").or_insert(json!(format!("{CANARY}-client-secret")));
    let entry: ProviderEntry = serde_json::from_value(entry).unwrap();
    let config = entry.resolve(None).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    let metrics = Arc::new(Metrics::default());
    OAuthProvider::new(config, HttpClient::new(settings).unwrap(), Arc::new(SystemClock), metrics)
}

fn refresh_token(value: &str) -> RefreshToken {
    RefreshToken { value: Secret::new(value.to_owned()), expires_at: None }
}

fn refresh_token_of(grant: &IssuedGrant) -> RefreshToken {
    refresh_token(grant.refresh_token.as_ref().unwrap().expose())
}

fn access_token(value: &str) -> AccessToken {
    let issued_at = token_broker::clock::Timestamp::from_millis(0);
    AccessToken {
        value: Secret::new(value.to_owned()),
        token_type: "Bearer".to_owned(),
        issued_at,
        expires_at: None,
    }
}

fn token_set(grant: &IssuedGrant) -> TokenSet {
    TokenSet {
        access: Some(access_token(grant.access_token.expose())),
        refresh: Some(refresh_token_of(grant)),
        previous: None,
        surplus: Vec::new(),
    }
}
