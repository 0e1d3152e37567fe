use serde_json::json;

use super::*;
use crate::clock::SystemClock;
use crate::connection::ProviderKey;
use crate::provider::http::HttpClient;
use crate::provider::http::HttpSettings;
use crate::telemetry::Metrics;

/// An issuer at a port where nobody listens.
fn absent() -> (ProviderSpec, Sender) {
    let spec = serde_json::from_value(json!({"issuer": "http://127.0.0.1:1"})).unwrap();
    let http = HttpClient::new(&HttpSettings::default()).unwrap();
    (spec, Sender::new(http, ProviderKey::parse("x").unwrap(), Arc::new(Metrics::default())))
}

fn read_before(spec: &ProviderSpec, age: Duration) -> Discovery {
    let document = json!({"issuer": "http://127.0.0.1:1", "token_endpoint": "http://127.0.0.1:1/token"});
    let metadata = Arc::new(Metadata::check(spec, &document, None).unwrap());
    let read_at = Instant::now().checked_sub(age).unwrap();
    Discovery { known: RwLock::new(Some(Known { metadata, read_at })), turn: Mutex::default() }
}

#[tokio::test]
async fn old_metadata_goes_on_while_the_provider_is_away() {
    let (spec, sender) = absent();
    let discovery = read_before(&spec, FRESH_FOR * 2);
    let metadata = discovery.metadata(&sender, &spec, &SystemClock).await.unwrap();
    assert_eq!(metadata.token.as_ref().unwrap().as_url().path(), "/token");
    let failures = discovery.turn.lock().await;
    assert_eq!(failures.count, 1, "it did try");
    assert!(failures.rest().is_some_and(|error| error.retry_after() <= Some(LONGEST_REST)));
}

#[tokio::test]
async fn nobody_waits_while_somebody_reads_again() {
    let (spec, sender) = absent();
    let discovery = read_before(&spec, FRESH_FOR * 2);
    let reading = discovery.turn.lock().await;
    assert!(discovery.metadata(&sender, &spec, &SystemClock).await.is_ok());
    assert_eq!(reading.count, 0);
}

#[tokio::test]
async fn fresh_metadata_is_not_read_again() {
    let (spec, sender) = absent();
    let discovery = read_before(&spec, FRESH_FOR / 2);
    assert!(discovery.metadata(&sender, &spec, &SystemClock).await.is_ok());
    assert_eq!(discovery.turn.lock().await.count, 0);
}

#[test]
fn each_failure_doubles_the_rest_up_to_a_minute() {
    let mut failures = Failures::default();
    let mut rests = Vec::new();
    for _ in 0..8 {
        failures.note(&Err(ProviderError::Malformed));
        let (_, until) = failures.last.as_ref().unwrap();
        rests.push(until.duration_since(Instant::now()).as_secs_f64().ceil());
    }
    assert_eq!(rests, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]);
    let asked = ProviderError::RateLimited { retry_after: Some(Duration::from_secs(30)) };
    let mut failures = Failures::default();
    failures.note(&Err(asked));
    assert!(
        failures.rest().unwrap().retry_after() > Some(Duration::from_secs(2)),
        "the provider's wish is kept"
    );
}

#[test]
fn the_document_is_where_each_standard_puts_it() {
    let at = |spec: serde_json::Value| {
        document_url(&serde_json::from_value(spec).unwrap()).unwrap().as_url().to_string()
    };
    let issuer = "https://as.example/tenant/";
    assert_eq!(at(json!({"issuer": issuer})), "https://as.example/tenant/.well-known/openid-configuration");
    assert_eq!(
        at(json!({"issuer": issuer, "discovery": {"style": "oauth"}})),
        "https://as.example/.well-known/oauth-authorization-server/tenant"
    );
    let elsewhere = json!({"issuer": issuer, "discovery": {"url": "https://meta.example/x"}});
    assert_eq!(at(elsewhere), "https://meta.example/x");
}
