//! A provider that has no successor yet and gives the same access token again: how often it is asked.

use std::time::Duration;

use token_broker::broker::{Source, TokenRequest};
use token_broker::secret::Secret;

use crate::kit::{LIFE, Stage, request};

#[tokio::test(start_paused = true)]
async fn a_provider_that_repeats_its_access_token_is_not_asked_at_every_call() {
    // Who insists on a life that it has no more has it asked for about once a minute.
    for (min_ttl, most) in [(None, 12), (Some(Duration::from_secs(900)), 24)] {
        let stage = Stage::new();
        let id = stage.imported("user-42").await;
        let asked = || TokenRequest { min_ttl, ..request(&id) };
        *stage.provider.repeats.lock().unwrap() = Some("at-0".into());
        stage.clock.advance(LIFE - Duration::from_secs(1000));
        for _ in 0..999 {
            for _ in 0..3 {
                let answer = stage.broker.access_token(asked()).await.unwrap();
                assert_eq!(answer.token.access.value.expose(), "at-0");
            }
            stage.clock.advance(Duration::from_secs(1));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let presented = stage.provider.presented().len();
        assert!((5..=most).contains(&presented), "{presented} requests, with {min_ttl:?}");
        stage.clock.advance(Duration::from_secs(1));
        *stage.provider.repeats.lock().unwrap() = None;
        let answer = stage.broker.access_token(asked()).await.unwrap();
        assert_eq!(answer.source, Source::Refreshed);
        assert_ne!(answer.token.access.value.expose(), "at-0", "dead, it has a successor");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_repeated_access_token_puts_off_is_over_with_that_token() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    stage.clock.advance(LIFE - Duration::from_secs(300));
    *stage.provider.repeats.lock().unwrap() = Some("at-0".into());
    assert_eq!(stage.token(&id).await.unwrap(), "at-0");
    *stage.provider.repeats.lock().unwrap() = None;
    stage.broker.refresh_connection(id.clone(), None).await.unwrap();
    assert_eq!(stage.token(&id).await.unwrap(), "at-2");
    stage.clock.advance(LIFE - Duration::from_secs(30));
    assert_eq!(stage.token(&id).await.unwrap(), "at-3", "asked for when it is due");
}

#[tokio::test(start_paused = true)]
async fn a_reported_401_is_heeded_although_the_provider_repeated_that_token_before() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    stage.clock.advance(LIFE - Duration::from_secs(300));
    *stage.provider.repeats.lock().unwrap() = Some("at-0".into());
    assert_eq!(stage.token(&id).await.unwrap(), "at-0");
    *stage.provider.repeats.lock().unwrap() = None;
    let not = Some(Secret::new("at-0".to_owned()).digest());
    let answer =
        stage.broker.access_token(TokenRequest { if_not_equal_to: not, ..request(&id) }).await.unwrap();
    assert_eq!(answer.token.access.value.expose(), "at-2");
}

#[tokio::test(start_paused = true)]
async fn who_insists_on_a_life_is_put_off_with_a_repeated_token_for_a_minute_at_most() {
    let stage = Stage::new();
    let id = stage.imported("user-42").await;
    let insisting = || TokenRequest { min_ttl: Some(Duration::from_secs(900)), ..request(&id) };
    *stage.provider.repeats.lock().unwrap() = Some("at-0".into());
    stage.clock.advance(LIFE - Duration::from_secs(800));
    assert_eq!(stage.broker.access_token(insisting()).await.unwrap().token.access.value.expose(), "at-0");
    *stage.provider.repeats.lock().unwrap() = None;
    let minute = Duration::from_secs(60);
    stage.clock.advance(minute);
    tokio::time::advance(minute).await;
    let easy = stage.broker.access_token(request(&id)).await.unwrap();
    assert_eq!(easy.token.access.value.expose(), "at-0", "who does not insist is content for longer");
    let answer = stage.broker.access_token(insisting()).await.unwrap();
    assert_eq!((answer.source, answer.token.access.value.expose().as_str()), (Source::Refreshed, "at-2"));
}
