//! Consent, import and disconnect, as apps and owners see them.

mod ended;
mod twin;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use token_broker::broker::{AuthorizationResponse, BeginConnect, RevocationState};
use token_broker::clock::Clock as _;
use token_broker::connection::{Account, SESSION_TTL, Status};
use token_broker::error::{Error, OAuthCode, ProviderError, Reason, SessionFlaw, Unsent};
use token_broker::provider::Revocation;
use token_broker::secret::Secret;
use token_broker::store::Selection;
use url::Url;

use crate::kit::{LIFE, Stage, begin, consented, id, import, issued, request};

fn query(url: &str, key: &str) -> Option<String> {
    Url::parse(url).unwrap().query_pairs().find(|(k, _)| k == key).map(|(_, v)| v.into_owned())
}

async fn returned(stage: &Stage, state: &Secret<String>) -> String {
    stage.broker.callback("sandbox", consented(state)).await.unwrap().expose().clone()
}

fn flaw(error: Error) -> SessionFlaw {
    let Error::ConnectSessionInvalid { why, .. } = error else { panic!("{error:?}") };
    why
}

#[tokio::test]
async fn the_apps_callback_completes_and_the_next_call_is_a_hit() {
    let stage = Stage::new();
    let (begun, state) = stage.begun_by_app("user-42").await;
    assert_eq!(begun.redirect_uri, crate::kit::APP_CALLBACK);
    assert_eq!(stage.broker.connection(&id("user-42")).await.unwrap().status, Status::Pending);
    let profile = stage.broker.complete_connect(consented(&state)).await.unwrap();
    assert_eq!(profile.status, Status::Active);
    assert_eq!(profile.account.unwrap().id, "alice");
    assert_eq!(profile.scopes.as_slice(), ["read"], "what was asked, as the provider did not say otherwise");
    assert!(stage.broker.cached(&request(&id("user-42"))).is_some());
}

#[tokio::test]
async fn a_pending_connection_serves_nothing() {
    let stage = Stage::new();
    let (_, state) = stage.begun("user-42").await;
    let refused = |error: Error| assert_eq!(error.reason(), Reason::ReauthRequired);
    refused(stage.broker.access_token(request(&id("user-42"))).await.unwrap_err());
    returned(&stage, &state).await;
    refused(stage.broker.access_token(request(&id("user-42"))).await.unwrap_err());
}

#[tokio::test]
async fn the_public_door_returns_a_one_time_code_that_the_backend_finishes_with() {
    let stage = Stage::new();
    let (begun, state) = stage.begun("user-42").await;
    let url = returned(&stage, &state).await;
    assert!(url.starts_with("https://app.example/connected?code="), "{url}");
    assert!(!url.contains(&begun.session), "the session must come from the app's own memory of its user");
    assert!(!url.contains("at-1") && !url.contains("code-1"));
    let code = || Secret::new(query(&url, "code").unwrap());
    let stranger = stage.broker.finish_connect("another-session", code()).await.unwrap_err();
    assert_eq!(flaw(stranger), SessionFlaw::Unknown);
    let profile = stage.broker.finish_connect(&begun.session, code()).await.unwrap();
    assert_eq!(profile.status, Status::Active);
    let replayed = stage.broker.finish_connect(&begun.session, code()).await.unwrap_err();
    assert_eq!(flaw(replayed), SessionFlaw::Unknown);
    assert_eq!(stage.token(&id("user-42")).await.unwrap(), "at-1");
}

#[tokio::test]
async fn the_verifier_matches_the_challenge_and_is_fresh_for_every_attempt() {
    let stage = Stage::new();
    let mut challenges = Vec::new();
    for _ in 0..2 {
        let (begun, state) = stage.begun_by_app("user-42").await;
        challenges.push(query(begun.authorization_url.expose(), "code_challenge").unwrap());
        stage.broker.complete_connect(consented(&state)).await.unwrap();
    }
    let computed: Vec<_> =
        stage.provider.verifiers().iter().map(|v| URL_SAFE_NO_PAD.encode(Sha256::digest(v))).collect();
    assert_eq!(challenges, computed);
    assert_ne!(challenges[0], challenges[1]);
}

#[tokio::test]
async fn of_a_hundred_submissions_of_one_answer_one_is_exchanged() {
    let stage = Stage::new();
    let (_, state) = stage.begun_by_app("user-42").await;
    let submissions: Vec<_> = (0..100)
        .map(|_| {
            let (broker, response) = (stage.broker.clone(), consented(&state));
            tokio::spawn(async move { broker.complete_connect(response).await })
        })
        .collect();
    let mut accepted = 0;
    for submission in submissions {
        accepted += usize::from(submission.await.unwrap().is_ok());
    }
    assert_eq!((accepted, stage.provider.verifiers().len()), (1, 1));
}

#[tokio::test]
async fn an_answer_is_worth_nothing_after_ten_minutes_or_when_nobody_asked() {
    let stage = Stage::new();
    let unknown = consented(&Secret::new("made-up".into()));
    assert_eq!(flaw(stage.broker.complete_connect(unknown).await.unwrap_err()), SessionFlaw::Unknown);
    let (begun, state) = stage.begun_by_app("user-42").await;
    assert_eq!(begun.expires_at, stage.clock.now() + SESSION_TTL);
    stage.clock.advance(SESSION_TTL);
    assert_eq!(
        flaw(stage.broker.complete_connect(consented(&state)).await.unwrap_err()),
        SessionFlaw::Unknown
    );
    assert!(stage.provider.verifiers().is_empty());
}

#[tokio::test]
async fn an_answer_at_another_callback_is_a_mix_up() {
    let stage = Stage::new();
    let (_, state) = stage.begun_by_app("user-42").await;
    let at_the_door = stage.broker.callback("sandbox", consented(&state)).await.unwrap_err();
    assert_eq!(flaw(at_the_door), SessionFlaw::WrongCallback);
    let (_, state) = stage.begun("user-42").await;
    let at_the_app = stage.broker.complete_connect(consented(&state)).await.unwrap_err();
    assert_eq!(flaw(at_the_app), SessionFlaw::WrongCallback);
    assert!(stage.provider.verifiers().is_empty());
}

#[tokio::test]
async fn an_answer_of_another_issuer_is_not_exchanged() {
    for iss in [None, Some("https://evil.example".to_owned())] {
        let stage = Stage::new();
        let (_, state) = stage.begun_by_app("user-42").await;
        let response = AuthorizationResponse { iss, ..consented(&state) };
        assert_eq!(
            flaw(stage.broker.complete_connect(response).await.unwrap_err()),
            SessionFlaw::WrongIssuer
        );
        assert!(stage.provider.verifiers().is_empty());
    }
}

#[tokio::test]
async fn a_refusal_goes_back_to_the_return_url_as_a_code_and_never_as_text() {
    let stage = Stage::new();
    let (_, state) = stage.begun("user-42").await;
    let response =
        AuthorizationResponse { code: None, error: Some("access_denied".into()), ..consented(&state) };
    let url = stage.broker.callback("sandbox", response).await.unwrap();
    assert_eq!(query(url.expose(), "error").unwrap(), "CONNECT_SESSION_INVALID");
    assert_eq!(query(url.expose(), "oauth_error").unwrap(), "access_denied");
}

#[tokio::test]
async fn a_code_the_provider_rejects_leaves_the_connection_as_it_was() {
    let stage = Stage::new();
    stage.imported("user-42").await;
    let (_, state) = stage.begun_by_app("user-42").await;
    stage.provider.next(Err(ProviderError::Denied(OAuthCode::new("invalid_grant"))));
    let error = stage.broker.complete_connect(consented(&state)).await.unwrap_err();
    assert_eq!(flaw(error), SessionFlaw::CodeRejected(OAuthCode::new("invalid_grant")));
    assert_eq!(stage.token(&id("user-42")).await.unwrap(), "at-0");
}

#[tokio::test]
async fn re_consent_keeps_the_connection_and_its_refresh_token() {
    let stage = Stage::new();
    stage.imported("user-42").await;
    let (_, state) = stage.begun_by_app("user-42").await;
    assert_eq!(stage.token(&id("user-42")).await.unwrap(), "at-0", "serves while its owner consents again");
    stage.provider.next(Ok(issued("at-new", None)));
    let profile = stage.broker.complete_connect(consented(&state)).await.unwrap();
    assert_eq!(profile.generation, 2);
    assert_eq!(stage.token(&id("user-42")).await.unwrap(), "at-new");
    stage.clock.advance(LIFE);
    stage.token(&id("user-42")).await.unwrap();
    assert_eq!(stage.provider.presented(), ["rt-0"]);
}

#[tokio::test]
async fn consent_revives_a_dead_connection() {
    let stage = Stage::new();
    let id = stage.expired("user-42").await;
    stage.provider.next(Err(ProviderError::Denied(OAuthCode::new("invalid_grant"))));
    stage.token(&id).await.unwrap_err();
    let (_, state) = stage.begun_by_app("user-42").await;
    stage.broker.complete_connect(consented(&state)).await.unwrap();
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
}

#[tokio::test]
async fn another_account_is_refused_unless_asked_for() {
    let stage = Stage::new();
    let (_, state) = stage.begun_by_app("user-42").await;
    stage.broker.complete_connect(consented(&state)).await.unwrap();
    *stage.provider.account.lock().unwrap() = Ok(Some(Account { id: "mallory".into(), email: None }));
    let (_, state) = stage.begun_by_app("user-42").await;
    let error = stage.broker.complete_connect(consented(&state)).await.unwrap_err();
    assert_eq!(flaw(error), SessionFlaw::AccountChanged);
    assert_eq!(stage.token(&id("user-42")).await.unwrap(), "at-1");
    let (_, state) = stage
        .begin(BeginConnect {
            redirect_uri: Some(crate::kit::APP_CALLBACK.into()),
            allow_account_change: true,
            ..begin("user-42")
        })
        .await;
    let profile = stage.broker.complete_connect(consented(&state)).await.unwrap();
    assert_eq!(profile.account.unwrap().id, "mallory");
}

#[tokio::test]
async fn every_mistake_of_a_begin_is_reported_together_and_nothing_is_kept() {
    let stage = Stage::new();
    let wrong = BeginConnect {
        scopes: vec!["two scopes".into()],
        return_url: Some("https://evil.example/".into()),
        login_hint: Some("a\nb".into()),
        extra: vec![("state".into(), "mine".into())],
        ..begin("user-42")
    };
    let Error::InvalidRequest(mistakes) = stage.broker.begin_connect(wrong).await.unwrap_err() else {
        panic!()
    };
    let fields: Vec<_> = mistakes.iter().map(|m| m.field.as_str()).collect();
    assert_eq!(fields, ["return_url", "scopes", "login_hint", "extra"]);
    assert!(stage.broker.connection(&id("user-42")).await.is_err());
}

#[tokio::test]
async fn a_consent_nobody_came_back_for_is_swept_away() {
    let stage = Stage::new();
    stage.begun("forgotten").await;
    stage.imported("living").await;
    stage.clock.advance(SESSION_TTL + std::time::Duration::from_millis(1));
    assert_eq!(stage.broker.sweep().await.unwrap(), 2, "the session and the PENDING connection");
    let left = stage.broker.connections(&Selection::default(), 0, "").await.unwrap();
    let names: Vec<_> = left.profiles.iter().map(|p| p.id.name.as_str()).collect();
    assert_eq!(names, ["living"]);
}

#[tokio::test]
async fn an_imported_refresh_token_is_stored_first_and_then_tried() {
    let stage = Stage::new();
    let imported = token_broker::broker::ImportConnection {
        refresh_token: Some(Secret::new("rt-old".into())),
        ..import("user-42")
    };
    let profile = stage.broker.import_connection(imported).await.unwrap();
    assert_eq!((profile.status, profile.generation), (Status::Active, 2));
    assert_eq!(profile.account.unwrap().id, "alice");
    assert_eq!(stage.provider.presented(), ["rt-old"]);
    assert_eq!(stage.token(&id("user-42")).await.unwrap(), "at-1");
}

#[tokio::test]
async fn an_imported_refresh_token_that_is_dead_is_said_at_once() {
    let stage = Stage::new();
    stage.provider.next(Err(ProviderError::Denied(OAuthCode::new("invalid_grant"))));
    let imported = token_broker::broker::ImportConnection {
        refresh_token: Some(Secret::new("rt-old".into())),
        ..import("user-42")
    };
    let error = stage.broker.import_connection(imported).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ReauthRequired);
}

#[tokio::test]
async fn an_import_does_not_overwrite_a_living_connection_unless_told_to() {
    let stage = Stage::new();
    stage.imported("user-42").await;
    let again = |replace| token_broker::broker::ImportConnection {
        access_token: Some(Secret::new("at-static".into())),
        replace,
        ..import("user-42")
    };
    let error = stage.broker.import_connection(again(false)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::InvalidRequest);
    assert_eq!(stage.token(&id("user-42")).await.unwrap(), "at-0");
    stage.broker.import_connection(again(true)).await.unwrap();
    assert_eq!(stage.token(&id("user-42")).await.unwrap(), "at-static");
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_is_served_until_it_dies() {
    let stage = Stage::new();
    let imported = token_broker::broker::ImportConnection {
        access_token: Some(Secret::new("at-static".into())),
        expires_at: Some(stage.clock.now() + LIFE),
        ..import("user-42")
    };
    stage.broker.import_connection(imported).await.unwrap();
    stage.clock.advance(LIFE - std::time::Duration::from_millis(1));
    assert_eq!(stage.token(&id("user-42")).await.unwrap(), "at-static");
    stage.clock.advance(std::time::Duration::from_millis(1));
    let error = stage.broker.access_token(request(&id("user-42"))).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ReauthRequired);
}

#[tokio::test]
async fn disconnect_revokes_and_then_forgets() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    stage.token(&id).await.unwrap();
    let done = stage.broker.disconnect(id.clone()).await.unwrap();
    assert_eq!((done.revocation, done.profile.status), (RevocationState::Revoked, Status::Revoked));
    assert_eq!(
        stage.broker.access_token(request(&id)).await.unwrap_err(),
        Error::ConnectionNotFound(id.clone())
    );
    assert_eq!(stage.broker.disconnect(id.clone()).await.unwrap_err(), Error::ConnectionNotFound(id));
}

#[tokio::test]
async fn who_asks_while_a_revocation_hangs_is_told_that_the_connection_is_gone() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    stage.token(&id).await.unwrap();
    stage.provider.hold();
    let tries = [(); 2].map(|()| {
        let (broker, id) = (stage.broker.clone(), id.clone());
        tokio::spawn(async move { broker.disconnect(id).await })
    });
    stage.provider.revocations_reach(2).await;
    assert_eq!(
        stage.broker.access_token(request(&id)).await.unwrap_err(),
        Error::ConnectionNotFound(id.clone())
    );
    stage.provider.release();
    for done in tries {
        assert_eq!(done.await.unwrap().unwrap().revocation, RevocationState::Revoked);
    }
    assert_eq!(stage.broker.connection(&id).await.unwrap_err(), Error::ConnectionNotFound(id));
}

#[tokio::test]
async fn a_provider_without_revocation_is_said_so() {
    let stage = Stage::new();
    *stage.provider.revocation.lock().unwrap() = Ok(Revocation::Unsupported);
    let id = stage.imported("user-42").await;
    assert_eq!(stage.broker.disconnect(id).await.unwrap().revocation, RevocationState::Unsupported);
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_provider_is_asked_again_until_it_revokes_and_nothing_is_served_meanwhile() {
    let stage = Stage::new();
    *stage.provider.revocation.lock().unwrap() =
        Err(ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None });
    let id = stage.imported("user-42").await;
    stage.token(&id).await.unwrap();
    let done = stage.broker.disconnect(id.clone()).await.unwrap();
    assert!(matches!(done.revocation, RevocationState::Pending { .. }));
    assert_eq!(done.profile.status, Status::Revoking);
    let refused = stage.broker.access_token(request(&id)).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::ConnectionNotFound);
    stage.provider.revocations_reach(3).await;
    *stage.provider.revocation.lock().unwrap() = Ok(Revocation::Revoked);
    stage.provider.revocations_reach(4).await;
    stage.broker.drain().await;
    assert!(stage.broker.connection(&id).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_restart_takes_up_the_revocations_that_were_left() {
    let stage = Stage::new();
    *stage.provider.revocation.lock().unwrap() =
        Err(ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None });
    let id = stage.imported("user-42").await;
    stage.broker.disconnect(id.clone()).await.unwrap();
    stage.broker.drain().await;
    *stage.provider.revocation.lock().unwrap() = Ok(Revocation::Revoked);
    let asked = stage.provider.revocations();
    let stage = stage.restarted();
    assert_eq!(stage.broker.resume_revocations().await.unwrap(), 1);
    stage.provider.revocations_reach(asked + 1).await;
    stage.broker.drain().await;
    assert!(stage.broker.connection(&id).await.is_err());
}

#[tokio::test]
async fn a_disconnect_waits_for_the_refresh_under_way_and_revokes_what_it_brought() {
    let stage = Stage::new();
    let id = stage.expired("user-42").await;
    let caller = stage.refreshing(&id).await;
    let (broker, named) = (stage.broker.clone(), id.clone());
    let disconnect = tokio::spawn(async move { broker.disconnect(named).await });
    stage.provider.release();
    caller.await.unwrap().unwrap();
    assert_eq!(disconnect.await.unwrap().unwrap().revocation, RevocationState::Revoked);
    assert_eq!(stage.provider.ended.lock().unwrap().first().map(String::as_str), Some("rt-1"));
    assert!(stage.broker.cached(&request(&id)).is_none());
}

#[tokio::test]
async fn listings_are_paged_and_a_strange_page_token_is_refused() {
    let stage = Stage::new();
    for n in 0..5 {
        stage.imported(&format!("user-{n}")).await;
    }
    let (mut names, mut token) = (Vec::new(), String::new());
    loop {
        let page = stage.broker.connections(&Selection::default(), 2, &token).await.unwrap();
        assert!(page.profiles.len() <= 2);
        names.extend(page.profiles.into_iter().map(|p| p.id.name.to_string()));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    names.sort();
    assert_eq!(names, ["user-0", "user-1", "user-2", "user-3", "user-4"]);
    let error = stage.broker.connections(&Selection::default(), 2, "not base64!").await.unwrap_err();
    assert_eq!(error.reason(), Reason::InvalidRequest);
}

#[tokio::test(start_paused = true)]
async fn however_often_a_disconnect_is_asked_for_one_task_tries_again() {
    let stage = Stage::new();
    *stage.provider.revocation.lock().unwrap() =
        Err(ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None });
    let id = stage.imported("user-42").await;
    for _ in 0..5 {
        stage.broker.disconnect(id.clone()).await.unwrap();
    }
    // The one task was set off by the first failure, and goes by what is stored from its own first try on.
    stage.provider.revocations_reach(6).await;
    for tries in 7..12 {
        // The clock stands still, so what is left of the pause is all of it.
        let backoff = stage.broker.connection(&id).await.unwrap().backoff.unwrap();
        let since = tokio::time::Instant::now();
        stage.provider.revocations_reach(tries).await;
        assert!(since.elapsed() >= stage.clock.now().until(backoff.until), "nobody else tried before");
    }
}

#[tokio::test]
async fn what_is_being_disconnected_is_not_begun_anew_and_says_why() {
    let stage = Stage::new();
    *stage.provider.revocation.lock().unwrap() =
        Err(ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None });
    let id = stage.imported("user-42").await;
    stage.broker.disconnect(id.clone()).await.unwrap();
    let begin = BeginConnect { return_url: Some(crate::kit::RETURN_URL.into()), ..begin("user-42") };
    assert_eq!(flaw(stage.broker.begin_connect(begin).await.unwrap_err()), SessionFlaw::Disconnecting);
    let import = token_broker::broker::ImportConnection {
        refresh_token: Some(Secret::new("rt-x".into())),
        replace: true,
        ..import("user-42")
    };
    assert_eq!(flaw(stage.broker.import_connection(import).await.unwrap_err()), SessionFlaw::Disconnecting);
}
