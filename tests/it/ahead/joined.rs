//! A refresh that was begun for nobody, and a caller who joins it: from then on it is the caller's.

use token_broker::connection::reuse::ReuseProfile;
use token_broker::provider::Urgency;

use super::*;

fn limited() -> ProviderError {
    ProviderError::RateLimited { retry_after: Some(MINUTE) }
}

/// A broker that finds a connection to refresh ahead whose token is over.
async fn behind() -> (Stage, ConnectionId) {
    let stage = Stage::new();
    let id = stage.expired("user-42").await;
    (stage, id)
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_joins_before_there_is_leave_is_not_told_that_the_background_rests() {
    // To wait for both at once is to take either of those that are ready.
    for _ in 0..12 {
        let (stage, id) = behind().await;
        *stage.provider.puts_off.lock().unwrap() = Some(limited());
        stage.store.read_ms.store(1000, Ordering::SeqCst);
        stage.broker.start_ahead(Ahead::default());
        while stage.store.gets.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // What was begun for nobody reads the record.
        let caller = stage.asking(&id);
        assert_eq!(caller.await.unwrap().unwrap().token.access.value.expose(), "at-1");
        assert_eq!(*stage.provider.urgencies.lock().unwrap(), [Urgency::Waiting]);
        stage.broker.drain().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_a_caller_has_joined_stays_the_callers_when_it_asks_again() {
    let (stage, id) = behind().await;
    *stage.provider.reuse.lock().unwrap() =
        ReuseProfile { invalid_grant_confirmations: 2, ..ReuseProfile::default() };
    stage.provider.hold();
    stage.broker.start_ahead(Ahead::default());
    stage.provider.requests_reach(1).await;
    let caller = stage.asking(&id);
    tokio::time::sleep(Duration::from_millis(1)).await;
    // By the time the answer is to be confirmed, the background rests.
    *stage.provider.puts_off.lock().unwrap() = Some(limited());
    stage.provider.next(Err(ProviderError::Denied(OAuthCode::new("invalid_grant"))));
    stage.provider.release();
    assert_eq!(caller.await.unwrap().unwrap().token.access.value.expose(), "at-1");
    assert_eq!(*stage.provider.urgencies.lock().unwrap(), [Urgency::Ahead, Urgency::Waiting]);
    assert_eq!(stage.provider.presented(), ["rt-0", "rt-0"]);
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_was_put_forward_in_line_stays_the_callers_when_it_asks_again() {
    let (stage, id) = behind().await;
    *stage.provider.reuse.lock().unwrap() =
        ReuseProfile { invalid_grant_confirmations: 2, ..ReuseProfile::default() };
    let other = stage.imported("user-1").await;
    stage.clock.advance(LIFE);
    stage.provider.narrow();
    let first = stage.refreshing(&other).await;
    stage.broker.start_ahead(Ahead::default());
    stage.provider.line_reaches(2).await;
    let caller = stage.asking(&id);
    stage.provider.line_reaches(3).await;
    *stage.provider.puts_off.lock().unwrap() = Some(limited());
    stage.provider.next(Ok(crate::kit::issued("at-other", Some("rt-other"))));
    stage.provider.next(Err(ProviderError::Denied(OAuthCode::new("invalid_grant"))));
    stage.provider.release();
    first.await.unwrap().unwrap();
    assert_eq!(caller.await.unwrap().unwrap().token.access.value.expose(), "at-1");
    let urgencies = stage.provider.urgencies.lock().unwrap().clone();
    assert_eq!(urgencies[1..], [Urgency::Ahead, Urgency::Waiting, Urgency::Waiting]);
}
