//! End to end against node-oidc-provider, which rotates strictly: one refresh token used twice ends the whole grant,
//! so that every broker which refreshes once too often is found out.

pub(crate) mod provider;
mod secrecy;

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};
use token_broker::clock::{Clock as _, SystemClock, Timestamp};
use token_broker::grpc::proto::v1;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::broker::{Broker, Home, PROVIDER, RETURN_URL, token_of};
use crate::browser::Browser;
use provider::{APP_CALLBACK, Provider};

/// Long enough that no token dies while a test looks elsewhere.
const LONG: u32 = 600;

/// Life of a token whose death a test waits for.
const SHORT: u32 = 6;

fn begin(connection: &str) -> v1::BeginConnectRequest {
    v1::BeginConnectRequest {
        provider: PROVIDER.to_owned(),
        connection: connection.to_owned(),
        ..Default::default()
    }
}

/// Connects `connection` as `login` by the app's own callback.
pub(crate) async fn connect(
    broker: &Broker,
    provider: &Provider,
    connection: &str,
    login: &str,
) -> v1::Connection {
    let mut connections = broker.connections().await;
    let request = v1::BeginConnectRequest { redirect_uri: APP_CALLBACK.to_owned(), ..begin(connection) };
    let begun = connections.begin_connect(request).await.unwrap().into_inner();
    let callback = provider.consent(&begun.authorization_url, login, APP_CALLBACK).await;
    let request = v1::CompleteConnectRequest {
        state: callback.query("state").unwrap(),
        code: callback.query("code").unwrap(),
        iss: callback.query("iss").unwrap(),
        ..Default::default()
    };
    connections.complete_connect(request).await.unwrap().into_inner().connection.unwrap()
}

async fn token(broker: &Broker, connection: &str) -> v1::GetAccessTokenResponse {
    broker.tokens().await.get_access_token(token_of(connection)).await.unwrap().into_inner()
}

/// Waits until `token` is dead by everybody's clock: the broker counts from when it asked, the provider from when it
/// answered, and in whole seconds.
async fn death_of(token: &v1::GetAccessTokenResponse) {
    let dies = token.expire_time.unwrap();
    let dies = Timestamp::from_millis(dies.seconds * 1000 + i64::from(dies.nanos) / 1_000_000 + 1000);
    tokio::time::sleep(SystemClock.now().until(dies)).await;
}

#[tokio::test]
async fn connects_through_the_apps_own_callback() {
    let provider = Provider::start(LONG);
    let home = Home::new(&provider.client());
    let broker = home.start();

    let connected = connect(&broker, &provider, "user-1", "alice").await;

    assert_eq!(connected.status(), v1::ConnectionStatus::Active);
    assert_eq!((connected.account_id.as_str(), connected.email.as_str()), ("alice", "alice@example.com"));
    assert!(connected.renewable);
    let token = token(&broker, "user-1").await;
    assert_eq!(provider.userinfo(&token.access_token).await, (200, Some("alice".to_owned())));
    let exchange = &provider.token_requests().await[0];
    assert_eq!(exchange.client_authentication.as_deref(), Some("Basic"));
}

#[tokio::test]
async fn connects_through_the_public_door() {
    let provider = Provider::start(LONG);
    let home = Home::new(&provider.client());
    let broker = home.start();
    let mut connections = broker.connections().await;

    let request = v1::BeginConnectRequest { return_url: RETURN_URL.to_owned(), ..begin("user-2") };
    let begun = connections.begin_connect(request).await.unwrap().into_inner();
    assert_eq!(begun.redirect_uri, format!("{}/callback/{PROVIDER}", broker.doors.public));
    let returned = provider.consent(&begun.authorization_url, "bob", RETURN_URL).await;

    // The browser is on its way from the broker's own page to the app, with nothing of the provider's in the address.
    assert_eq!(returned.status, 303);
    assert_eq!(returned.headers["cache-control"], "no-store");
    assert_eq!(returned.headers["referrer-policy"], "no-referrer");
    assert_eq!((returned.query("state"), returned.query("iss")), (None, None));
    let pending = broker.tokens().await.get_access_token(token_of("user-2")).await.unwrap_err();
    assert_eq!(reason(&pending), (Code::FailedPrecondition, "REAUTH_REQUIRED".to_owned()));

    let request = v1::FinishConnectRequest { session: begun.session, code: returned.query("code").unwrap() };
    let finished =
        connections.finish_connect(request.clone()).await.unwrap().into_inner().connection.unwrap();
    assert_eq!((finished.status(), finished.account_id.as_str()), (v1::ConnectionStatus::Active, "bob"));
    let token = token(&broker, "user-2").await;
    assert_eq!(provider.userinfo(&token.access_token).await, (200, Some("bob".to_owned())));

    let again = connections.finish_connect(request).await.unwrap_err();
    assert_eq!(reason(&again), (Code::FailedPrecondition, "CONNECT_SESSION_INVALID".to_owned()));
}

#[tokio::test]
async fn a_callback_works_once() {
    let provider = Provider::start(LONG);
    let home = Home::new(&provider.client());
    let broker = home.start();
    let request = v1::BeginConnectRequest { return_url: RETURN_URL.to_owned(), ..begin("user-10") };
    let begun = broker.connections().await.begin_connect(request).await.unwrap().into_inner();
    let door = format!("{}/callback/", broker.doors.public);
    let callback = provider.consent(&begun.authorization_url, "judy", &door).await.url;

    let first = Browser::default().open(&callback, RETURN_URL).await;
    let second = Browser::default().open(&callback, RETURN_URL).await;

    assert!(first.query("code").is_some());
    assert_eq!(second.query("code").filter(|_| second.url.as_str().starts_with(RETURN_URL)), None);
    assert!((400..500).contains(&second.status), "{second:?}");
    assert_eq!(second.headers["cache-control"], "no-store");
    assert!(second.headers["content-security-policy"].to_str().unwrap().contains("frame-ancestors 'none'"));
    assert_eq!(provider.token_requests().await.len(), 1);
}

#[tokio::test]
async fn an_answer_of_another_issuer_is_refused_and_its_code_never_sent() {
    let provider = Provider::start(LONG);
    let home = Home::new(&provider.client());
    let broker = home.start();
    let mut connections = broker.connections().await;
    for iss in ["http://127.0.0.1:9", ""] {
        let request = v1::BeginConnectRequest { redirect_uri: APP_CALLBACK.to_owned(), ..begin("user-11") };
        let begun = connections.begin_connect(request).await.unwrap().into_inner();
        let callback = provider.consent(&begun.authorization_url, "kim", APP_CALLBACK).await;
        let request = v1::CompleteConnectRequest {
            state: callback.query("state").unwrap(),
            code: callback.query("code").unwrap(),
            iss: iss.to_owned(),
            ..Default::default()
        };
        let status = connections.complete_connect(request).await.unwrap_err();
        assert_eq!(reason(&status), (Code::FailedPrecondition, "CONNECT_SESSION_INVALID".to_owned()));
    }
    assert_eq!(provider.token_requests().await.len(), 0);
}

#[tokio::test]
async fn an_expired_token_is_replaced_by_one_rotation() {
    let provider = Provider::start(SHORT);
    let home = Home::new(&provider.client()).refreshing_on_demand();
    let broker = home.start();
    connect(&broker, &provider, "user-3", "carol").await;
    let first = token(&broker, "user-3").await;
    let (before, _) = provider.refreshes().await;
    provider.issue_for(LONG).await;
    death_of(&first).await;
    assert_eq!(provider.userinfo(&first.access_token).await.0, 401);

    let second = token(&broker, "user-3").await;

    assert_ne!(second.access_token, first.access_token);
    assert!(second.generation > first.generation);
    assert_eq!(second.source(), v1::TokenSource::Refreshed);
    assert_eq!(provider.userinfo(&second.access_token).await, (200, Some("carol".to_owned())));
    assert_eq!(provider.refreshes().await, (before + 1, before + 1));
}

#[tokio::test]
async fn a_thousand_callers_on_an_expired_token_cause_one_token_request() {
    let provider = Provider::start(SHORT);
    let home = Home::new(&provider.client()).refreshing_on_demand();
    let broker = home.start();
    connect(&broker, &provider, "user-4", "dave").await;
    let first = token(&broker, "user-4").await;
    let (before, _) = provider.refreshes().await;
    let doors = [
        broker.over_tcp().await,
        broker.over_socket().await,
        broker.over_tcp().await,
        broker.over_socket().await,
    ];
    // However slow the machine, what the one refresh brings must not die before the last caller is answered.
    provider.issue_for(LONG).await;
    death_of(&first).await;

    let callers: Vec<_> = (0..1000)
        .map(|caller| {
            let door = doors[caller % doors.len()].clone();
            tokio::spawn(async move {
                let mut tokens = v1::token_broker_service_client::TokenBrokerServiceClient::new(door);
                tokens.get_access_token(token_of("user-4")).await.unwrap().into_inner().access_token
            })
        })
        .collect();
    let mut answers = BTreeSet::new();
    for caller in callers {
        answers.insert(caller.await.unwrap());
    }

    assert_eq!(answers.len(), 1, "callers were given different tokens");
    assert_eq!(provider.refreshes().await, (before + 1, before + 1));
    let answer = answers.first().unwrap();
    assert_ne!(*answer, first.access_token);
    assert_eq!(provider.userinfo(answer).await, (200, Some("dave".to_owned())));
}

#[tokio::test]
async fn a_restart_keeps_everything() {
    let provider = Provider::start(SHORT);
    let home = Home::new(&provider.client()).refreshing_on_demand();
    let broker = home.start();
    let connected = connect(&broker, &provider, "user-5", "erin").await;
    // A refresh first, so that what must survive is a rotated refresh token.
    let request = v1::RefreshConnectionRequest {
        provider: PROVIDER.to_owned(),
        connection: "user-5".to_owned(),
        ..Default::default()
    };
    broker.connections().await.refresh_connection(request).await.unwrap();
    let kept = token(&broker, "user-5").await;
    broker.stop();

    let broker = home.start();
    let found = list(&broker).await;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].status(), &found[0].account_id, &found[0].scopes),
        (v1::ConnectionStatus::Active, &connected.account_id, &connected.scopes)
    );
    assert!(found[0].generation >= kept.generation);
    broker.kill();

    let broker = home.start();
    let (before, _) = provider.refreshes().await;
    provider.issue_for(LONG).await;
    death_of(&kept).await;
    let renewed = token(&broker, "user-5").await;
    assert_eq!(provider.userinfo(&renewed.access_token).await, (200, Some("erin".to_owned())));
    assert_eq!(provider.refreshes().await, (before + 1, before + 1));
}

async fn list(broker: &Broker) -> Vec<v1::Connection> {
    let request = v1::ListConnectionsRequest::default();
    broker.connections().await.list_connections(request).await.unwrap().into_inner().connections
}

#[tokio::test]
async fn a_revoked_grant_needs_its_owner_and_consent_brings_the_same_connection_back() {
    let provider = Provider::start(LONG);
    let home = Home::new(&provider.client());
    let broker = home.start();
    let mut tokens = broker.tokens().await;
    connect(&broker, &provider, "user-6", "frank").await;
    let first = token(&broker, "user-6").await;
    assert_eq!(provider.end_grants().await, 1);

    // The app has had a 401 and says which token it was.
    let refused = v1::GetAccessTokenRequest {
        if_not_equal_to: Sha256::digest(&first.access_token).to_vec(),
        ..token_of("user-6")
    };
    let status = tokens.get_access_token(refused.clone()).await.unwrap_err();

    assert_eq!(reason(&status), (Code::FailedPrecondition, "REAUTH_REQUIRED".to_owned()));
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.domain, "tokenbroker.dev");
    let told = |name: &str| info.metadata.get(name).map(String::as_str);
    assert_eq!(
        (told("provider"), told("connection"), told("oauthError")),
        (Some(PROVIDER), Some("user-6"), Some("invalid_grant"))
    );
    assert_eq!(list(&broker).await[0].status(), v1::ConnectionStatus::ReauthRequired);

    // The provider's word is remembered: it is not asked again.
    let asked = provider.refreshes().await;
    let status = tokens.get_access_token(token_of("user-6")).await.unwrap_err();
    assert_eq!(reason(&status), (Code::FailedPrecondition, "REAUTH_REQUIRED".to_owned()));
    assert_eq!(provider.refreshes().await, asked);

    let again = connect(&broker, &provider, "user-6", "frank").await;
    assert_eq!(again.status(), v1::ConnectionStatus::Active);
    assert!(again.generation > first.generation);
    let token = token(&broker, "user-6").await;
    assert_eq!(provider.userinfo(&token.access_token).await, (200, Some("frank".to_owned())));
}

#[tokio::test]
async fn another_account_is_refused_unless_asked_for() {
    let provider = Provider::start(LONG);
    let home = Home::new(&provider.client());
    let broker = home.start();
    let mut connections = broker.connections().await;
    connect(&broker, &provider, "user-7", "grace").await;

    let request = v1::BeginConnectRequest { redirect_uri: APP_CALLBACK.to_owned(), ..begin("user-7") };
    let begun = connections.begin_connect(request).await.unwrap().into_inner();
    let callback = provider.consent(&begun.authorization_url, "mallory", APP_CALLBACK).await;
    let request = v1::CompleteConnectRequest {
        state: callback.query("state").unwrap(),
        code: callback.query("code").unwrap(),
        iss: callback.query("iss").unwrap(),
        ..Default::default()
    };
    let status = connections.complete_connect(request).await.unwrap_err();

    assert_eq!(reason(&status), (Code::FailedPrecondition, "CONNECT_SESSION_INVALID".to_owned()));
    let token = token(&broker, "user-7").await;
    assert_eq!(provider.userinfo(&token.access_token).await, (200, Some("grace".to_owned())));
}

#[tokio::test]
async fn disconnecting_ends_the_grant_at_the_provider() {
    let provider = Provider::start(LONG);
    let home = Home::new(&provider.client());
    let broker = home.start();
    connect(&broker, &provider, "user-8", "heidi").await;
    let last = token(&broker, "user-8").await;

    let request = v1::DisconnectRequest {
        provider: PROVIDER.to_owned(),
        connection: "user-8".to_owned(),
        ..Default::default()
    };
    let gone = broker.connections().await.disconnect(request).await.unwrap().into_inner();

    assert_eq!(gone.revocation(), v1::Revocation::Done);
    assert_eq!(provider.userinfo(&last.access_token).await.0, 401);
    let status = broker.tokens().await.get_access_token(token_of("user-8")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
}

/// Code and reason of a refusal.
fn reason(status: &tonic::Status) -> (Code, String) {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    (status.code(), info.reason)
}
