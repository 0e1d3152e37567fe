//! Each habit with refresh tokens that was measured at servers people run, and each way in which an answer goes missing,
//! through a whole broker that is told of the habit. One clock for both, held by the test.

mod saved;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use token_broker::app::{self, Bound, Ports};
use token_broker::broker::{ImportConnection, TokenRequest};
use token_broker::clock::{Clock as _, ManualClock, Timestamp};
use token_broker::config::{self, Environment};
use token_broker::connection::{CLOCK_MARGIN, ConnectionId, Status};
use token_broker::entropy::OsEntropy;
use token_broker::error::{Error, Reason};
use token_broker::sandbox::{Behavior, Effect, Fault, Lifetimes, On, ReuseProfile, Sandbox, SandboxOptions};
use token_broker::secret::Secret;
use token_broker::store::keyring;

use crate::kit;

/// Longer than anything here may take; only a hang meets it.
const PATIENCE: Duration = Duration::from_secs(60);

const LIFE: Duration = Duration::from_secs(300);

/// A broker, a provider with a habit, and one connection between them.
struct Case {
    sandbox: Sandbox,
    clock: Arc<ManualClock>,
    bound: Bound,
    id: ConnectionId,
    current: String,
    _directory: tempfile::TempDir,
}

impl Case {
    /// `told` is what the broker's configuration says of the provider, over the catalogue's strict sandbox.
    async fn new(habit: ReuseProfile, life: Duration, told: Value) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_790_000_000_000)));
        let behavior = Behavior {
            reuse: habit,
            lifetimes: Lifetimes { access_token_ttl: life, refresh_token_ttl: None },
            ..Behavior::default()
        };
        let options = SandboxOptions { behavior, ..SandboxOptions::default() };
        let any_port = ([127, 0, 0, 1], 0).into();
        let sandbox = Sandbox::start(any_port, options, clock.clone(), Arc::new(OsEntropy)).unwrap();
        let directory = tempfile::tempdir().unwrap();
        keyring::generate(&directory.path().join("seal.key"), clock.now(), &OsEntropy).unwrap();
        let mut provider = json!({
            "key": "sandbox",
            "kind": "sandbox",
            "vars": {"port": sandbox.address().port().to_string()},
            "client_id": sandbox.client_id(),
            "client_secret": sandbox.client_secret().unwrap().expose().clone(),
            "token_timeout": "1s",
        });
        for (key, value) in told.as_object().unwrap() {
            provider[key] = value.clone();
        }
        let text = json!({
            "server": {
                "grpc": {"socket": "off", "tcp": "127.0.0.1:0"},
                "public": {"listen": "off"},
                "ops": {"listen": "off"},
            },
            "store": {"path": directory.path().join("store"), "ephemeral": true},
            "seal": {"key_file": directory.path().join("seal.key")},
            "providers": [provider],
        });
        let config = config::parse(&text.to_string(), None, &Environment::of::<&str, &str>([]), &[]).unwrap();
        let bound =
            app::build(config, Ports { clock: clock.clone(), entropy: Arc::new(OsEntropy) }).await.unwrap();
        let issued = sandbox.grants().issue("user-42", &["openid"]);
        let import = ImportConnection {
            refresh_token: issued.refresh_token.map(|token| Secret::new(token.expose().clone())),
            access_token: Some(Secret::new(issued.access_token.expose().clone())),
            expires_at: Some(clock.now() + life),
            ..kit::import("user-42")
        };
        bound.broker.import_connection(import).await.unwrap();
        let current = issued.access_token.expose().clone();
        Self { sandbox, clock, bound, id: kit::id("user-42"), current, _directory: directory }
    }

    /// A token: any that lives, or, `renewed`, another than the current one.
    async fn token(&mut self, renewed: bool) -> Result<String, Error> {
        let not = renewed.then(|| Sha256::digest(&self.current).into());
        let request = TokenRequest { if_not_equal_to: not, ..kit::request(&self.id) };
        let asking = self.bound.broker.access_token(request);
        let answer = tokio::time::timeout(PATIENCE, asking).await.expect("an answer in time")?;
        self.current.clone_from(answer.token.access.value.expose());
        Ok(self.current.clone())
    }

    /// Asks for another token until there is one; time goes by meanwhile, as it does between two calls of an app.
    async fn renewed(&mut self) -> String {
        let mut last = None;
        for _ in 0..40 {
            match self.token(true).await {
                Ok(token) => return token,
                Err(error) => last = Some(error),
            }
            self.clock.advance(Duration::from_secs(10));
        }
        panic!("the connection does not come back: {last:?}");
    }

    fn is_live(&self, token: &str) -> bool {
        self.sandbox.grants().is_live(token)
    }

    fn meet(&self, fault: Fault) {
        self.sandbox.script().next(On::refresh(), fault);
    }

    /// Refreshes that the provider has seen, and how many of them presented a spent token.
    fn refreshes(&self) -> (u64, u64) {
        let counts = self.sandbox.log().counts();
        (counts.refresh_requests, counts.spent_tokens_presented)
    }

    /// The grant lives, and the broker holds what refreshes it: twice more, for the first may have been luck.
    async fn is_whole(&mut self) {
        for _ in 0..2 {
            let token = self.token(true).await.unwrap();
            assert!(self.is_live(&token));
        }
        assert_eq!(self.sandbox.grants().list()[0].ended, None);
    }
}

/// What a request that certainly never left is told as, at a token endpoint whose TLS handshake hangs.
async fn never_sent(mut told: Value) {
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    told["endpoints"] = json!({"token": format!("https://{}/token", silent.local_addr().unwrap())});
    let mut case = Case::new(ReuseProfile::strict(), LIFE, told.clone()).await;
    let error = case.token(true).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ProviderUnavailable, "{told}: {error:?}");
    let profile = case.bound.broker.connection(&case.id).await.unwrap();
    assert_eq!((profile.status, profile.intent), (Status::Active, None), "{told}");
    let health = case.bound.broker.provider("sandbox").unwrap().health.unwrap();
    assert_eq!(health.last_failure.unwrap().0, Reason::ProviderUnavailable, "{told}");
}

#[tokio::test]
async fn a_handshake_that_hangs_leaves_nothing_unknown_though_connecting_may_take_longer_than_the_request() {
    never_sent(json!({"token_timeout": "200ms"})).await;
    // The first try is given up in time for another.
    never_sent(grace(1, "new")).await;
    never_sent(json!({"reuse": {"count": {"n": 1}}, "token_timeout": "200ms"})).await;
}

fn grace(seconds: u64, result: &str) -> Value {
    json!({"reuse": {"grace": {"seconds": seconds, "scope": "chain", "result": result, "max_uses": 8}}})
}

#[tokio::test]
async fn a_lost_answer_costs_nothing_where_spent_tokens_stay_good() {
    let told = json!({"reuse": "reusable", "spent": null});
    let mut case = Case::new(ReuseProfile::reusable_rotating(), LIFE, told).await;
    case.meet(Fault::drop_answer());
    let token = case.renewed().await;
    assert!(case.is_live(&token));
    case.is_whole().await;
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_within_the_grace() {
    let mut case = Case::new(ReuseProfile::grace(Duration::from_secs(5)), LIFE, grace(5, "new")).await;
    case.meet(Fault::drop_answer());
    let token = case.token(true).await.unwrap();
    assert!(case.is_live(&token));
    assert_eq!(case.refreshes(), (2, 1));
    case.is_whole().await;
}

#[tokio::test]
async fn after_the_grace_a_spent_token_is_not_presented_while_the_old_access_token_lives() {
    let mut case = Case::new(ReuseProfile::grace(Duration::from_secs(5)), LIFE, grace(5, "new")).await;
    case.sandbox.script().next_n(8, On::refresh(), Fault::drop_answer());
    let old = case.current.clone();
    let _ = case.token(true).await;
    case.clock.advance(Duration::from_secs(6));
    case.sandbox.script().clear();
    let presented = case.refreshes();
    case.current = old.clone();
    assert_eq!(case.token(false).await.unwrap(), old);
    assert_eq!(case.refreshes(), presented);
}

#[tokio::test]
async fn of_a_count_only_the_last_answer_is_kept() {
    let told = json!({"reuse": {"count": {"n": 1, "result": "new", "last_only": true}}});
    let mut case = Case::new(ReuseProfile::keycloak_one_reuse(), LIFE, told).await;
    case.meet(Fault::drop_answer());
    let token = case.renewed().await;
    assert!(case.is_live(&token));
    assert_eq!(case.refreshes(), (2, 1), "one repeat is allowed, and one was made");
    case.is_whole().await;
}

#[tokio::test]
async fn the_old_access_token_is_replaced_at_once_where_a_rotation_kills_it() {
    let told = json!({
        "reuse": {"grace": {"seconds": 6, "scope": "chain", "result": "new", "max_uses": 8}},
        "old_at_survives": false,
    });
    let mut case = Case::new(ReuseProfile::hydra(Duration::from_secs(6)), LIFE, told).await;
    let old = case.current.clone();
    let token = case.token(true).await.unwrap();
    assert!(!case.is_live(&old) && case.is_live(&token));
    assert_eq!(case.token(false).await.unwrap(), token);
    case.is_whole().await;
}

#[tokio::test]
async fn death_may_be_said_as_invalid_request() {
    let told = json!({"dead_when": ["invalid_request"], "spent": "refused"});
    let mut case = Case::new(ReuseProfile::dex(Duration::ZERO), LIFE, told).await;
    case.is_whole().await;
    case.sandbox.grants().revoke_account("user-42");
    let error = case.token(true).await.unwrap_err();
    assert!(matches!(error, Error::ReauthRequired { .. }), "{error:?}");
    // I9: a dead grant is not asked about.
    let asked = case.refreshes().0;
    assert!(case.token(false).await.is_err());
    assert_eq!(case.refreshes().0, asked);
}

#[tokio::test]
async fn a_server_that_does_not_rotate_within_an_interval_is_no_trouble() {
    let told = json!({
        "reuse": {"grace": {"seconds": 30, "result": "same", "max_uses": 100}},
        "dead_when": ["invalid_request"],
        "spent": "refused",
    });
    let mut case = Case::new(ReuseProfile::dex(Duration::from_secs(30)), LIFE, told).await;
    for _ in 0..3 {
        let token = case.token(true).await.unwrap();
        assert!(case.is_live(&token));
    }
    case.clock.advance(Duration::from_secs(31));
    case.is_whole().await;
    let effects: Vec<_> = case.sandbox.log().refreshes().into_iter().filter_map(|e| e.effect).collect();
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Repeated { .. })), "{effects:?}");
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Rotated { .. })), "{effects:?}");
}

#[tokio::test]
async fn a_death_said_once_by_mistake_is_asked_about_again_where_it_is_known() {
    let mut case = Case::new(ReuseProfile::strict(), LIFE, json!({"invalid_grant_confirmations": 2})).await;
    case.meet(Fault::oauth_error("invalid_grant"));
    // The second opinion is asked for a while later.
    let clock = case.clock.clone();
    let hand = async move {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            clock.advance(Duration::from_millis(100));
        }
    };
    let token = tokio::select! {
        token = case.renewed() => token,
        () = hand => unreachable!(),
    };
    assert!(case.is_live(&token));
    case.is_whole().await;
}

#[tokio::test]
async fn a_lost_request_costs_nothing_even_where_tokens_are_used_once() {
    let mut case = Case::new(ReuseProfile::strict(), LIFE, json!({})).await;
    case.meet(Fault::drop_request());
    let old = case.current.clone();
    let _ = case.token(true).await;
    // Nobody knows that it was the request: the old token is served while it lives, and only then is it tried.
    case.current = old.clone();
    assert_eq!(case.token(false).await.unwrap(), old);
    assert_eq!(case.refreshes().0, 1);
    case.clock.advance(LIFE);
    let token = case.renewed().await;
    assert!(case.is_live(&token));
    case.is_whole().await;
}

#[tokio::test]
async fn a_lost_request_costs_nothing_where_the_refresh_token_dies_before_the_access_token() {
    let minute = Duration::from_secs(60);
    let told = json!({"lifetimes": {"refresh_idle": "30m"}});
    let mut case = Case::new(ReuseProfile::strict(), 60 * minute, told).await;
    case.sandbox.change(|behavior| behavior.lifetimes.refresh_token_ttl = Some(30 * minute));
    case.token(true).await.unwrap();
    case.clock.advance(20 * minute);
    case.meet(Fault::drop_request());
    let error = case.bound.broker.refresh_connection(case.id.clone(), None).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ConnectionAmbiguous);
    // The access token lives for another 33 minutes then, the refresh token for 3.
    case.clock.advance(7 * minute);
    case.bound.broker.refresh_connection(case.id.clone(), None).await.unwrap();
    case.token(false).await.unwrap();
    assert!(case.is_live(&case.current));
    case.is_whole().await;
}

#[tokio::test]
async fn a_lost_answer_of_a_strict_provider_is_probed_once_when_the_old_access_token_is_dead() {
    let mut case = Case::new(ReuseProfile::strict(), LIFE, json!({})).await;
    case.meet(Fault::drop_answer());
    let _ = case.token(true).await;
    case.clock.advance(LIFE);
    for _ in 0..6 {
        if let Err(Error::ReauthRequired { .. }) = case.token(false).await {
            break;
        }
        case.clock.advance(Duration::from_secs(60));
    }
    let error = case.token(false).await.unwrap_err();
    assert!(matches!(error, Error::ReauthRequired { .. }), "{error:?}");
    assert_eq!(case.refreshes(), (2, 1), "one late probe");
}

#[tokio::test]
async fn a_stuck_or_trickling_provider_holds_nobody_longer_than_its_time() {
    for fault in [
        Fault::delay_answer(Duration::from_secs(3600)),
        Fault::delay_request(Duration::from_secs(3600)),
        Fault::trickle(Duration::from_secs(1)),
    ] {
        let told = json!({"reuse": "reusable", "spent": null});
        let mut case = Case::new(ReuseProfile::reusable_rotating(), LIFE, told).await;
        case.meet(fault);
        // The token of its own limit, or of the try after it: either comes, which is what `token` waits for.
        let _ = case.token(true).await;
        let token = case.renewed().await;
        assert!(case.is_live(&token));
    }
}

#[tokio::test]
async fn a_pair_that_is_repeated_with_a_dead_access_token_is_not_served_as_fresh() {
    for reuse in [
        json!({"grace": {"seconds": 3600, "scope": "chain", "result": "same", "max_uses": 8}}),
        json!({"count": {"n": 8, "result": "same", "last_only": false}}),
    ] {
        a_repeated_pair_counts_from_its_first_request(reuse).await;
    }
}

async fn a_repeated_pair_counts_from_its_first_request(reuse: Value) {
    let life = Duration::from_secs(20);
    let told = json!({"reuse": reuse, "old_at_survives": false});
    let mut case = Case::new(ReuseProfile::django(Duration::from_secs(3600)), life, told).await;
    // Every try is lost, and then the access token of the pair dies.
    case.sandbox.script().next_n(8, On::refresh(), Fault::drop_answer());
    let _ = case.token(true).await;
    case.sandbox.script().clear();
    case.clock.advance(life + Duration::from_secs(1));
    let token = case.renewed().await;
    assert!(case.is_live(&token), "the pair says that it lives in full, and it is dead");
    case.is_whole().await;
}

#[tokio::test]
async fn an_access_token_that_died_with_a_lost_answer_is_not_served_once_its_401_is_reported() {
    let mut case =
        Case::new(ReuseProfile::strict_old_at_dies(), LIFE, json!({"old_at_survives": false})).await;
    case.meet(Fault::drop_answer());
    let old = case.current.clone();
    for _ in 0..3 {
        let error = case.token(true).await.unwrap_err();
        assert!(matches!(error, Error::ConnectionAmbiguous { .. }), "{error:?}");
    }
    assert!(!case.is_live(&old), "it died when its successor was issued, which was lost");
    assert_eq!(case.refreshes().0, 1, "what was sent may still arrive");
    // As long as the request may be under way, and far from the end of the access token by its own word.
    case.clock.advance(Duration::from_secs(1) + CLOCK_MARGIN);
    let error = case.token(true).await.unwrap_err();
    assert!(matches!(error, Error::ReauthRequired { .. }), "{error:?}");
    assert_eq!(case.refreshes(), (2, 1), "there was nothing left to protect");
}
