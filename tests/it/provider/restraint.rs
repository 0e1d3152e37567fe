//! How a provider is spared: what opens its breaker and what does not, who gets through, and how many requests arrive.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use token_broker::broker::{AllowedUrls, Broker, Deps, ImportConnection, Settings, TokenRequest};
use token_broker::clock::{Clock as _, SystemClock};
use token_broker::connection::{ConnectionId, Status};
use token_broker::entropy::SeededEntropy;
use token_broker::error::{Error, ProviderError, Reason};
use token_broker::provider::health::{BreakerState, Contradiction};
use token_broker::provider::oauth::OAuthProvider;
use token_broker::provider::{ProviderClient as _, Revocation, Urgency};
use token_broker::sandbox::{Endpoint, Fault, On, ReuseProfile, Sandbox};
use token_broker::secret::Secret;
use token_broker::store::memory::MemoryStore;
use token_broker::telemetry::Metrics;

use super::flow::{VERIFIER, code_grant, consent, value};
use super::{Renew as _, provider_of, refresh_token_of, sandbox, token_set};

/// Rests for a moment, so that a test need not wait a minute.
fn quick() -> serde_json::Value {
    json!({"breaker": {"failures": 5, "open": "200ms"}, "max_parallel_refresh": 100})
}

fn state(provider: &OAuthProvider) -> BreakerState {
    provider.info().health.unwrap().breaker
}

async fn renewed(provider: &OAuthProvider, sandbox: &Sandbox) -> Result<(), ProviderError> {
    let grant = sandbox.grants().issue("user-42", &["openid"]);
    provider.renewed(&refresh_token_of(&grant)).await.map(drop)
}

/// Fails until the breaker opens; gives how many requests that took.
async fn opened(provider: &OAuthProvider, sandbox: &Sandbox) -> u64 {
    sandbox.script().always(On::refresh(), Fault::status(500));
    let before = sandbox.log().token_requests();
    while state(provider) == BreakerState::Closed {
        renewed(provider, sandbox).await.unwrap_err();
    }
    sandbox.log().token_requests() - before
}

fn wait(error: &ProviderError) -> Duration {
    assert!(matches!(error, ProviderError::CircuitOpen { .. }), "{error:?}");
    error.retry_after().unwrap()
}

#[tokio::test]
async fn a_storm_of_server_errors_opens_it_and_three_probes_close_it() {
    let sandbox = sandbox();
    let provider = provider_of(&sandbox, quick());
    assert_eq!(opened(&provider, &sandbox).await, 5);
    let during = sandbox.log().token_requests();
    let mut refusal = None;
    for _ in 0..100 {
        refusal = Some(provider.admit(Urgency::Waiting).await.unwrap_err());
    }
    assert_eq!(sandbox.log().token_requests(), during, "nothing is sent while it is open");

    sandbox.script().clear();
    tokio::time::sleep(wait(&refusal.unwrap())).await;
    let grants: Vec<_> = (0..100).map(|_| sandbox.grants().issue("user-42", &["openid"])).collect();
    let tokens: Vec<_> = grants.iter().map(refresh_token_of).collect();
    let hold = sandbox.script().hold_every_request(On::refresh());
    let all = async {
        let renewals = futures_util::future::join_all(tokens.iter().map(|token| provider.renewed(token)));
        renewals.await.into_iter().filter(Result::is_ok).count()
    };
    let release = async {
        sandbox.log().wait_for(|exchange| exchange.is_refresh() && exchange.is_in_flight()).await;
        hold.release();
    };
    let (through, ()) = tokio::join!(all, release);
    assert_eq!(through, 1, "exactly one probe of a hundred who waited");
    assert_eq!(sandbox.log().token_requests(), during + 1);
    assert_eq!(state(&provider), BreakerState::HalfOpen);
    for _ in 0..2 {
        renewed(&provider, &sandbox).await.unwrap();
    }
    assert_eq!(state(&provider), BreakerState::Closed);
}

#[tokio::test]
async fn while_the_provider_is_down_it_gets_no_more_than_probes_and_no_herd_when_it_is_back() {
    let sandbox = sandbox();
    let provider = provider_of(&sandbox, quick());
    opened(&provider, &sandbox).await;
    let before = sandbox.log().token_requests();
    // Ten rests long, fifty callers at a time ask again as soon as they are told to.
    for rest in 1..=10 {
        let asked = futures_util::future::join_all((0..50).map(|_| provider.admit(Urgency::Waiting))).await;
        let longest = asked.iter().filter_map(|asked| asked.as_ref().err()).map(wait).max();
        drop(asked);
        tokio::time::sleep(longest.unwrap()).await;
        let _ = renewed(&provider, &sandbox).await;
        assert!(sandbox.log().token_requests() <= before + rest, "{rest} rests");
    }
}

#[tokio::test]
async fn a_dead_grant_is_no_failure_of_the_endpoint() {
    let sandbox = sandbox();
    let provider = provider_of(&sandbox, quick());
    for _ in 0..20 {
        sandbox.script().next(On::refresh(), Fault::oauth_error("invalid_grant"));
        assert!(matches!(renewed(&provider, &sandbox).await, Err(ProviderError::Denied(_))));
    }
    assert_eq!(state(&provider), BreakerState::Closed);
}

#[tokio::test]
async fn each_kind_of_failure_opens_it_and_none_but_a_refused_client_at_once() {
    for (fault, requests) in [
        (Fault::status(503), 5),
        (Fault::status(429), 5),
        (Fault::drop_answer(), 5),
        (Fault::html(200), 5),
        (Fault::redirect(302, "http://127.0.0.1:1/"), 5),
        (Fault::oauth_error("invalid_scope"), 5),
        (Fault::oauth_error("invalid_client"), 1),
        (Fault::oauth_error("unauthorized_client"), 1),
    ] {
        let sandbox = sandbox();
        let provider = provider_of(&sandbox, json!({"breaker": "standard"}));
        let shown = format!("{fault:?}");
        sandbox.script().always(On::refresh(), fault);
        for _ in 0..10 {
            renewed(&provider, &sandbox).await.unwrap_err();
        }
        assert_eq!(sandbox.log().token_requests(), requests, "{shown}");
    }
}

#[tokio::test]
async fn a_provider_that_is_away_is_not_called_either() {
    let mut sandbox = sandbox();
    let provider = provider_of(&sandbox, quick());
    renewed(&provider, &sandbox).await.unwrap();
    sandbox.unplug().await;
    for _ in 0..5 {
        assert!(matches!(renewed(&provider, &sandbox).await, Err(ProviderError::Unavailable { .. })));
    }
    let error = renewed(&provider, &sandbox).await.unwrap_err();
    assert!(error.to_string().ends_with("last: the provider cannot be reached (no connection)"), "{error}");
}

#[tokio::test]
async fn a_consent_passes_an_open_breaker_and_ends_the_rest_when_it_works() {
    let sandbox = sandbox();
    let provider = provider_of(&sandbox, json!({"breaker": "standard"}));
    opened(&provider, &sandbox).await;
    let code = |back: &[(String, String)]| code_grant(value(back, "code"), VERIFIER);
    let back = consent(&provider).await;
    sandbox.script().next(On::code_exchange(), Fault::status(500));
    provider.exchange(&code(&back)).await.unwrap_err();
    assert_eq!(state(&provider), BreakerState::Open);
    let back = consent(&provider).await;
    provider.exchange(&code(&back)).await.unwrap();
    assert_eq!(state(&provider), BreakerState::HalfOpen);
    sandbox.script().clear();
    renewed(&provider, &sandbox).await.unwrap();
}

#[tokio::test]
async fn what_an_app_asks_for_in_a_consent_closes_nobodys_way() {
    let sandbox = sandbox();
    let provider = provider_of(&sandbox, quick());
    for _ in 0..20 {
        let back = consent(&provider).await;
        sandbox.script().next(On::code_exchange(), Fault::oauth_error("invalid_scope"));
        provider.exchange(&code_grant(value(&back, "code"), VERIFIER)).await.unwrap_err();
    }
    assert_eq!(state(&provider), BreakerState::Closed);
}

#[tokio::test]
async fn a_revocation_passes_an_open_breaker_and_counts_for_nothing() {
    let sandbox = sandbox();
    let provider = provider_of(&sandbox, quick());
    sandbox.script().next_n(10, Endpoint::Revoke, Fault::status(503));
    let grant = sandbox.grants().issue("user-42", &["openid"]);
    for _ in 0..10 {
        provider.revoke(&token_set(&grant)).await.unwrap_err();
    }
    assert_eq!(state(&provider), BreakerState::Closed);
    opened(&provider, &sandbox).await;
    assert_eq!(provider.revoke(&token_set(&grant)).await, Ok(Revocation::Revoked));
    assert_eq!(state(&provider), BreakerState::Open);
}

#[tokio::test]
async fn a_provider_gets_no_more_than_its_budget_in_any_span() {
    let sandbox = sandbox();
    let entry = json!({"token_budget": {"count": 10, "per": "500ms"}, "max_parallel_refresh": 8});
    let provider = provider_of(&sandbox, entry);
    let grants: Vec<_> = (0..40).map(|_| sandbox.grants().issue("user-42", &["openid"])).collect();
    let tokens: Vec<_> = grants.iter().map(refresh_token_of).collect();
    let renewals = futures_util::future::join_all(tokens.iter().map(|token| provider.renewed(token)));
    assert!(renewals.await.iter().all(Result::is_ok));
    let arrived: Vec<_> = sandbox.log().refreshes().iter().map(|exchange| exchange.received_at).collect();
    let span = Duration::from_millis(500);
    for from in &arrived {
        let within = arrived.iter().filter(|at| **at >= *from && **at < *from + span).count();
        assert!(within <= 10, "{within} within {span:?}");
    }
}

#[tokio::test]
async fn what_a_provider_does_is_learned_from_what_it_does() {
    let sandbox = sandbox();
    sandbox.change(|behavior| behavior.reuse = ReuseProfile::grace(Duration::from_secs(60)));
    let provider = provider_of(&sandbox, json!({}));
    let learned = || provider.info().learned.unwrap();
    let first = refresh_token_of(&sandbox.grants().issue("user-42", &["openid"]));
    provider.renewed(&first).await.unwrap();
    let lost = provider.renewed(&first).await.unwrap();
    let seen = learned();
    assert_eq!((seen.rotated, seen.kept, seen.reuse_taken, seen.reuse_refused), (2, 0, 1, 0));
    assert!(seen.longest_grace.is_some());
    assert_eq!(seen.contradictions, [Contradiction::TakesReuse], "the sandbox is configured as strict");
    assert_eq!(seen.access_life.unwrap().median.as_secs(), lost.expires_in.unwrap().as_secs());

    sandbox.change(|behavior| behavior.reuse = ReuseProfile::strict());
    let second = refresh_token_of(&sandbox.grants().issue("user-42", &["openid"]));
    provider.renewed(&second).await.unwrap();
    provider.renewed(&second).await.unwrap_err();
    assert_eq!(learned().reuse_refused, 1);
    sandbox.change(|behavior| behavior.reuse = ReuseProfile::reusable());
    let third = refresh_token_of(&sandbox.grants().issue("user-42", &["openid"]));
    for _ in 0..2 {
        provider.renewed(&third).await.unwrap();
    }
    let seen = learned();
    assert_eq!((seen.kept, seen.early_new), (2, 1));
    assert_eq!(seen.contradictions, [Contradiction::TakesReuse, Contradiction::DoesNotRotate]);
}

/// A broker in memory in front of the sandbox.
fn broker(provider: impl Into<Arc<OAuthProvider>>) -> Arc<Broker> {
    let store = Arc::new(MemoryStore::default());
    let none = || AllowedUrls { exact: Vec::new(), is_loopback_allowed: false };
    let deps = Deps {
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SeededEntropy::new(1)),
        tokens: store.clone(),
        sessions: store,
        escrow: None,
        providers: vec![provider.into()],
        metrics: Arc::new(Metrics::default()),
    };
    let public_url = url::Url::parse("http://127.0.0.1:7451").unwrap();
    Broker::new(deps, Settings { public_url, return_urls: none(), redirect_uris: none(), ended_histories: 0 })
}

fn id(name: &str) -> ConnectionId {
    ConnectionId::parse(String::new(), "sandbox".into(), name.into()).unwrap()
}

async fn imported(broker: &Arc<Broker>, sandbox: &Sandbox, name: &str) {
    let grant = sandbox.grants().issue(name, &["openid"]);
    let import = ImportConnection {
        id: id(name),
        refresh_token: Some(Secret::new(grant.refresh_token.as_ref().unwrap().expose().clone())),
        access_token: Some(Secret::new(grant.access_token.expose().clone())),
        expires_at: Some(SystemClock.now() + Duration::from_secs(3600)),
        scopes: Vec::new(),
        replace: false,
        variables: Default::default(),
    };
    broker.import_connection(import).await.unwrap();
}

async fn token(broker: &Arc<Broker>, name: &str) -> Result<(), Error> {
    let request = TokenRequest {
        id: id(name),
        scopes: Vec::new(),
        min_ttl: None,
        if_not_equal_to: None,
        allow_stale: false,
    };
    broker.access_token(request).await.map(drop)
}

#[tokio::test]
async fn a_wrong_secret_trips_the_provider_and_touches_no_connection() {
    let sandbox = sandbox();
    let broker = broker(provider_of(&sandbox, json!({"breaker": "standard"})));
    let names = ["a", "b", "c", "d"];
    for name in names {
        imported(&broker, &sandbox, name).await;
    }
    sandbox.rotate_client_secret("app");
    let before = sandbox.log().token_requests();
    let refusal = broker.refresh_connection(id("a"), None).await.unwrap_err();
    assert_eq!(refusal.reason(), Reason::ProviderRejectedClient);
    for name in names {
        let error = broker.refresh_connection(id(name), None).await.unwrap_err();
        // The first remembers its own failure.
        let is_first = name == names[0] && error.reason() == Reason::ProviderRejectedClient;
        assert!(is_first || error.reason() == Reason::ProviderCircuitOpen, "{name}: {error}");
        token(&broker, name).await.expect("what lives is served");
    }
    assert_eq!(sandbox.log().token_requests(), before + 1, "one refusal is enough");
    for name in names {
        assert_eq!(broker.connection(&id(name)).await.unwrap().status, Status::Active, "{name}");
    }
}

#[tokio::test]
async fn a_provider_that_hangs_opens_it_and_a_probe_that_hangs_opens_it_again() {
    let sandbox = sandbox();
    let entry = json!({"breaker": {"failures": 5, "open": "200ms"}, "token_timeout": "300ms"});
    let provider = Arc::new(provider_of(&sandbox, entry));
    let broker = broker(provider.clone());
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in names {
        imported(&broker, &sandbox, name).await;
    }
    let _hold = sandbox.script().hold_every_request(On::refresh());
    let before = sandbox.log().token_requests();
    for name in &names[..5] {
        let error = broker.refresh_connection(id(name), None).await.unwrap_err();
        assert_ne!(error.reason(), Reason::ProviderCircuitOpen, "{name}: {error}");
    }
    assert_eq!(state(&provider), BreakerState::Open);
    let rest = wait(&provider.admit(Urgency::Waiting).await.unwrap_err());
    assert_eq!(sandbox.log().token_requests(), before + 5);
    tokio::time::sleep(rest).await;
    broker.refresh_connection(id("f"), None).await.unwrap_err();
    assert_eq!(sandbox.log().token_requests(), before + 6, "the probe went");
    assert_eq!(state(&provider), BreakerState::Open);
    assert_eq!(provider.info().health.unwrap().consecutive_failures, 6);
}
