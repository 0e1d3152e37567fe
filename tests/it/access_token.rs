//! GetAccessToken, as its callers see it.

mod repeated;

use std::time::Duration;

use token_broker::broker::{Source, TokenRequest};
use token_broker::clock::Clock as _;
use token_broker::connection::Status;
use token_broker::error::{AmbiguousCause, Error, OAuthCode, ProviderError, Reason, Unsent};
use token_broker::secret::Secret;

use crate::kit::{LIFE, Stage, id, issued, request};

fn unreachable() -> ProviderError {
    ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None }
}

fn dead() -> ProviderError {
    ProviderError::Denied(OAuthCode::new("invalid_grant"))
}

#[tokio::test]
async fn the_first_call_reads_the_store_and_the_second_is_a_hit() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    let first = stage.broker.access_token(request(&id)).await.unwrap();
    let second = stage.broker.access_token(request(&id)).await.unwrap();
    assert_eq!((first.source, second.source), (Source::Store, Source::Cache));
    assert_eq!(second.token.access.value.expose(), "at-0");
    assert!(stage.provider.presented().is_empty());
}

#[tokio::test]
async fn waiters_share_one_refresh() {
    let stage = Stage::new();
    let id = stage.expired("user-42").await;
    stage.provider.hold();
    let callers: Vec<_> = (0..1000)
        .map(|_| {
            let (broker, request) = (stage.broker.clone(), request(&id));
            tokio::spawn(async move { broker.access_token(request).await })
        })
        .collect();
    stage.provider.requests_reach(1).await;
    stage.provider.release();
    let mut started = 0;
    for caller in callers {
        let answer = caller.await.unwrap().unwrap();
        assert_eq!(answer.token.access.value.expose(), "at-1");
        started += usize::from(answer.source == Source::Refreshed);
    }
    assert_eq!(started, 1, "one call starts the refresh, the others share it or come later");
    assert_eq!(stage.provider.presented(), ["rt-0"]);
}

#[tokio::test]
async fn hanging_up_ends_the_waiting_and_not_the_refresh() {
    let stage = Stage::new();
    let id = stage.expired("user-42").await;
    let caller = stage.refreshing(&id).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    stage.provider.release();
    stage.broker.drain().await;
    let profile = stage.broker.connection(&id).await.unwrap();
    assert_eq!(profile.generation, 2);
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
    assert_eq!(stage.provider.presented(), ["rt-0"]);
}

#[tokio::test]
async fn the_successor_is_refreshed_with_the_rotated_token_and_never_with_a_spent_one() {
    let stage = Stage::new();
    let id = stage.expired("user-42").await;
    for n in 1..=5 {
        assert_eq!(stage.token(&id).await.unwrap(), format!("at-{n}"));
        stage.clock.advance(LIFE);
    }
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-1", "rt-2", "rt-3", "rt-4"]);
}

#[tokio::test]
async fn a_restart_keeps_everything() {
    let stage = Stage::new();
    let id = stage.expired("user-42").await;
    stage.token(&id).await.unwrap();
    let stage = stage.restarted();
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
    assert_eq!(stage.provider.presented(), ["rt-0"], "the stored token was served, not refreshed again");
}

#[tokio::test]
async fn a_living_token_is_served_while_the_provider_is_down() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    stage.token(&id).await.unwrap();
    stage.clock.advance(LIFE - Duration::from_secs(30));
    stage.provider.next(Err(unreachable()));
    let answer = stage.broker.access_token(request(&id)).await.unwrap();
    assert_eq!((answer.source, answer.token.access.value.expose().as_str()), (Source::Stale, "at-0"));
}

#[tokio::test(start_paused = true)]
async fn a_living_token_is_served_when_the_provider_does_not_answer_in_time() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    stage.token(&id).await.unwrap();
    stage.clock.advance(LIFE - Duration::from_secs(30));
    stage.provider.hold();
    let answer = stage.broker.access_token(request(&id)).await.unwrap();
    assert_eq!((answer.source, answer.token.access.value.expose().as_str()), (Source::Stale, "at-0"));
    stage.provider.release();
    stage.broker.drain().await;
    assert_eq!(stage.token(&id).await.unwrap(), "at-1", "the refresh went on without the caller");
}

#[tokio::test]
async fn a_demanded_min_ttl_is_met_or_refused_but_not_ignored() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    stage.token(&id).await.unwrap();
    stage.clock.advance(LIFE - Duration::from_secs(600));
    let demanding =
        |allow_stale| TokenRequest { min_ttl: Some(Duration::from_secs(900)), allow_stale, ..request(&id) };
    stage.provider.next(Err(unreachable()));
    let refused = stage.broker.access_token(demanding(false)).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::ProviderUnavailable);
    let stale = stage.broker.access_token(demanding(true)).await.unwrap();
    assert_eq!(stale.source, Source::Stale);
    stage.clock.advance(Duration::from_secs(1));
    let met = stage.broker.access_token(demanding(false)).await.unwrap();
    assert_eq!((met.source, met.token.access.value.expose().as_str()), (Source::Refreshed, "at-1"));
}

#[tokio::test]
async fn an_expired_token_is_never_served() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    stage.token(&id).await.unwrap();
    stage.clock.advance(LIFE);
    stage.provider.next(Err(unreachable()));
    let tolerant = TokenRequest { allow_stale: true, ..request(&id) };
    let error = stage.broker.access_token(tolerant).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ProviderUnavailable);
    assert!(error.retry_after().is_some());
}

#[tokio::test]
async fn a_dead_network_never_asks_the_owner_to_consent() {
    let stage = Stage::new();
    let id = stage.expired("user-42").await;
    let failures = [
        unreachable(),
        ProviderError::Ambiguous { cause: AmbiguousCause::Timeout },
        ProviderError::Ambiguous { cause: AmbiguousCause::Status { status: 502, retry_after: None } },
        ProviderError::RateLimited { retry_after: Some(Duration::from_secs(9)) },
        ProviderError::Misconfigured(OAuthCode::new("invalid_client")),
        ProviderError::Malformed,
    ];
    for failure in failures {
        stage.provider.next(Err(failure.clone()));
        let error = stage.broker.access_token(request(&id)).await.unwrap_err();
        assert_ne!(error.reason(), Reason::ReauthRequired, "{failure:?}");
        let status = stage.broker.connection(&id).await.unwrap().status;
        assert!(matches!(status, Status::Active | Status::Ambiguous), "{failure:?}: {status:?}");
        // Longer than any pause after so few failures.
        stage.clock.advance(Duration::from_secs(90));
    }
    assert_eq!(stage.token(&id).await.unwrap(), "at-1", "the grant was alive all the time");
}

#[tokio::test]
async fn a_dead_grant_is_said_once_by_the_provider_and_then_remembered() {
    let stage = Stage::new();
    let id = stage.expired("user-42").await;
    stage.provider.next(Err(dead()));
    for stage in [&stage, &stage.restarted()] {
        for _ in 0..3 {
            let error = stage.broker.access_token(request(&id)).await.unwrap_err();
            let Error::ReauthRequired { connection, oauth_error, .. } = error else { panic!("{error:?}") };
            assert_eq!(connection, id);
            assert_eq!(oauth_error.unwrap().as_str(), "invalid_grant");
        }
    }
    assert_eq!(stage.provider.presented().len(), 1, "no automatic attempt after the provider's word");
}

#[tokio::test]
async fn a_reported_401_refreshes_once_for_a_whole_stampede() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    let refused = stage.broker.access_token(request(&id)).await.unwrap().token.access.value.digest();
    let callers: Vec<_> = (0..200)
        .map(|_| {
            let broker = stage.broker.clone();
            let asked = TokenRequest { if_not_equal_to: Some(refused), ..request(&id) };
            tokio::spawn(async move { broker.access_token(asked).await })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap().token.access.value.expose(), "at-1");
    }
    assert_eq!(stage.provider.presented(), ["rt-0"]);
}

#[tokio::test]
async fn a_report_about_an_older_token_refreshes_nothing() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    let older = Secret::new("some older token".to_owned()).digest();
    let asked = TokenRequest { if_not_equal_to: Some(older), ..request(&id) };
    assert_eq!(stage.broker.access_token(asked).await.unwrap().token.access.value.expose(), "at-0");
    assert!(stage.provider.presented().is_empty());
}

#[tokio::test]
async fn a_refused_token_is_never_given_back_as_stale() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    let refused = stage.broker.access_token(request(&id)).await.unwrap().token.access.value.digest();
    stage.provider.next(Err(unreachable()));
    let asked = TokenRequest { if_not_equal_to: Some(refused), allow_stale: true, ..request(&id) };
    let error = stage.broker.access_token(asked).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ProviderUnavailable);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_comes_back_within_seconds_loses_no_rotation() {
    let stage = Stage::new();
    let id = stage.expired("user-42").await;
    stage.store.fail_writes_after(1, 4);
    assert_eq!(stage.token(&id).await.unwrap(), "at-1");
    let stage = stage.restarted();
    stage.clock.advance(LIFE);
    assert_eq!(stage.token(&id).await.unwrap(), "at-2");
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-1"]);
}

#[tokio::test]
async fn a_reply_without_a_refresh_token_keeps_the_stored_one() {
    let stage = Stage::new();
    let id = stage.expired("user-42").await;
    stage.provider.next(Ok(issued("at-a", None)));
    assert_eq!(stage.token(&id).await.unwrap(), "at-a");
    stage.clock.advance(LIFE);
    stage.token(&id).await.unwrap();
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-0"]);
}

#[tokio::test]
async fn a_wanted_scope_the_grant_lacks_is_named() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    let asked = TokenRequest { scopes: vec!["read".into(), "write".into()], ..request(&id) };
    let error = stage.broker.access_token(asked).await.unwrap_err();
    assert_eq!(error, Error::ScopeNotGranted { connection: id, missing: vec!["write".into()] });
}

#[tokio::test]
async fn unknown_names_say_what_exists() {
    let stage = Stage::new();
    let error = stage.broker.access_token(request(&id("nobody"))).await.unwrap_err();
    assert_eq!(error, Error::ConnectionNotFound(id("nobody")));
    let mut elsewhere = id("nobody");
    elsewhere.provider = token_broker::connection::ProviderKey::parse("gogle").unwrap();
    let error = stage.broker.access_token(request(&elsewhere)).await.unwrap_err();
    assert_eq!(error.to_string(), "no provider named \"gogle\" is configured; configured: sandbox");
}

#[tokio::test]
async fn a_draining_broker_serves_what_it_has_and_starts_no_refresh() {
    let stage = Stage::new();
    let living = stage.imported("living").await;
    stage.token(&living).await.unwrap();
    stage.broker.drain().await;
    assert_eq!(stage.token(&living).await.unwrap(), "at-0");
    stage.clock.advance(LIFE);
    let error = stage.broker.access_token(request(&living)).await.unwrap_err();
    assert_eq!(error, Error::ShuttingDown);
    assert!(stage.provider.presented().is_empty());
}

#[tokio::test]
async fn a_forced_refresh_is_shared_by_all_who_ask_while_it_runs() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    stage.provider.hold();
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let (broker, id) = (stage.broker.clone(), id.clone());
            tokio::spawn(async move { broker.refresh_connection(id, None).await })
        })
        .collect();
    stage.provider.requests_reach(1).await;
    stage.provider.release();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap().generation, 2);
    }
    assert_eq!(stage.provider.presented(), ["rt-0"]);
    assert!(stage.broker.connection(&id).await.unwrap().refreshed_at.unwrap() <= stage.clock.now());
}

#[tokio::test]
async fn who_reported_a_401_shares_one_refresh_even_where_the_provider_repeats_its_token() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    let refused = stage.broker.access_token(request(&id)).await.unwrap().token.access.value.digest();
    stage.provider.next(Ok(issued("at-0", Some("rt-1"))));
    stage.provider.hold();
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let broker = stage.broker.clone();
            let asked = TokenRequest { if_not_equal_to: Some(refused), ..request(&id) };
            tokio::spawn(async move { broker.access_token(asked).await })
        })
        .collect();
    stage.provider.requests_reach(1).await;
    stage.provider.release();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap().token.access.value.expose(), "at-0");
    }
    assert_eq!(stage.provider.presented(), ["rt-0"]);
}

#[tokio::test]
async fn a_refused_token_that_cannot_be_renewed_is_not_given_back() {
    let stage = Stage::new();
    let imported = token_broker::broker::ImportConnection {
        access_token: Some(Secret::new("at-static".into())),
        ..crate::kit::import("user-42")
    };
    stage.broker.import_connection(imported).await.unwrap();
    let id = id("user-42");
    let refused =
        TokenRequest { if_not_equal_to: Some(Secret::new("at-static".to_owned()).digest()), ..request(&id) };
    let error = stage.broker.access_token(refused).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ReauthRequired);
    assert_eq!(stage.token(&id).await.unwrap(), "at-static", "a caller's word is not the provider's");
    let forced = stage.broker.refresh_connection(id, None).await.unwrap_err();
    assert_eq!(forced.reason(), Reason::ReauthRequired);
}

#[tokio::test]
async fn an_import_tries_its_refresh_token_unless_its_access_token_is_known_to_live() {
    for (life, sent) in [(None, 1), (Some(Duration::ZERO), 1), (Some(LIFE), 0)] {
        let stage = Stage::new();
        let import = token_broker::broker::ImportConnection {
            refresh_token: Some(Secret::new("rt-0".into())),
            access_token: Some(Secret::new("at-0".into())),
            expires_at: life.map(|life| stage.clock.now() + life),
            ..crate::kit::import("user-42")
        };
        stage.broker.import_connection(import).await.unwrap();
        assert_eq!(stage.provider.presented().len(), sent, "{life:?}");
    }
}

#[tokio::test]
async fn a_refused_token_that_cannot_be_renewed_is_not_shared_with_who_refused_it() {
    let stage = Stage::new();
    let imported = token_broker::broker::ImportConnection {
        access_token: Some(Secret::new("at-static".into())),
        expires_at: Some(stage.clock.now() + LIFE),
        ..crate::kit::import("user-42")
    };
    stage.broker.import_connection(imported).await.unwrap();
    let id = id("user-42");
    stage.clock.advance(LIFE - Duration::from_secs(30));
    let refused =
        TokenRequest { if_not_equal_to: Some(Secret::new("at-static".to_owned()).digest()), ..request(&id) };
    let (pilot, sharer) =
        tokio::join!(stage.broker.access_token(request(&id)), stage.broker.access_token(refused));
    assert_eq!(pilot.unwrap().token.access.value.expose(), "at-static");
    assert_eq!(sharer.unwrap_err().reason(), Reason::ReauthRequired);
}

#[tokio::test]
async fn a_living_token_is_served_after_a_restart_while_the_provider_is_down() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    stage.clock.advance(LIFE - Duration::from_secs(30));
    let stage = stage.restarted();
    stage.provider.next(Err(unreachable()));
    let answer = stage.broker.access_token(request(&id)).await.unwrap();
    assert_eq!((answer.source, answer.token.access.value.expose().as_str()), (Source::Stale, "at-0"));
}

#[tokio::test(start_paused = true)]
async fn only_the_first_caller_waits_for_a_provider_that_hangs() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    stage.clock.advance(LIFE - Duration::from_secs(30));
    stage.provider.hold();
    assert_eq!(stage.token(&id).await.unwrap(), "at-0");
    let since = tokio::time::Instant::now();
    for _ in 0..100 {
        assert_eq!(stage.token(&id).await.unwrap(), "at-0");
    }
    assert_eq!(since.elapsed(), Duration::ZERO);
    assert_eq!(stage.provider.presented(), ["rt-0"]);
}

#[tokio::test]
async fn made_up_names_cost_no_memory_while_the_store_fails() {
    let stage = Stage::new();
    let known = stage.imported("user-42").await;
    stage.token(&known).await.unwrap();
    stage.store.is_deaf.store(true, std::sync::atomic::Ordering::SeqCst);
    for n in 0..100 {
        let id = id(&format!("made-up-{n}"));
        assert_eq!(stage.token(&id).await.unwrap_err().reason(), Reason::StoreUnavailable);
        stage.broker.disconnect(id.clone()).await.unwrap_err();
        stage.broker.retry_refused(id).await.unwrap_err();
    }
    // The flight that answered may still be letting go of its place.
    stage.broker.drain().await;
    assert_eq!(stage.broker.places_in_memory(), 1);
    assert_eq!(stage.token(&known).await.unwrap(), "at-0");
}

#[tokio::test]
async fn a_token_that_is_refused_before_its_end_tells_how_long_such_tokens_live() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    let refused = async |token: &str| {
        let not = Some(Secret::new(token.to_owned()).digest());
        stage.broker.access_token(TokenRequest { if_not_equal_to: not, ..request(&id) }).await
    };
    refused("at-0").await.unwrap();
    assert!(stage.provider.refused.lock().unwrap().is_empty(), "how old an imported one is nobody knows");
    let age = Duration::from_secs(600);
    stage.clock.advance(age);
    refused("at-1").await.unwrap();
    assert_eq!(*stage.provider.refused.lock().unwrap(), [age]);
    stage.clock.advance(LIFE);
    refused("at-2").await.unwrap();
    stage.clock.advance(age);
    stage.provider.next(Err(ProviderError::Denied(OAuthCode::new("invalid_grant"))));
    refused("at-3").await.unwrap_err();
    assert_eq!(*stage.provider.refused.lock().unwrap(), [age], "at its end, or with its grant, is not early");

    let id = stage.imported("user-43").await;
    stage.token(&id).await.unwrap();
    stage.clock.advance(LIFE);
    let token = stage.token(&id).await.unwrap();
    stage.clock.set(stage.clock.now() - age);
    let not = Some(Secret::new(token).digest());
    stage.broker.access_token(TokenRequest { if_not_equal_to: not, ..request(&id) }).await.unwrap();
    assert_eq!(*stage.provider.refused.lock().unwrap(), [age], "a clock that was set back tells no age");
}
