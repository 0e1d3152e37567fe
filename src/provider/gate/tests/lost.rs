//! What a lost answer does to work that nobody waits for.

use super::*;
use crate::provider::spec::lifecycle::Reuse;

/// How long work that nobody waits for is put off; `None`: it is not.
async fn put_off(gate: &Gate) -> Option<Duration> {
    gate.enter(Urgency::Ahead).await.err().map(|error| retry_after(&error))
}

#[tokio::test(start_paused = true)]
async fn after_a_lost_answer_nobody_but_those_who_wait_puts_another_grant_at_risk() {
    let gate = gate();
    let mut rests = Vec::new();
    for _ in 0..4 {
        request(&gate, Urgency::Ahead, Some(lost())).await.unwrap();
        let rest = put_off(&gate).await.unwrap();
        assert!(gate.enter(Urgency::Waiting).await.is_ok());
        rests.push(rest.as_secs());
        tokio::time::sleep(rest).await;
    }
    assert_eq!(rests, [10, 20, 40, 80]);
    request(&gate, Urgency::Waiting, None).await.unwrap();
    request(&gate, Urgency::Waiting, Some(lost())).await.unwrap();
    assert_eq!(put_off(&gate).await, Some(SECOND * 10), "anew after an answer");
    tokio::time::sleep(SECOND).await;
    request(&gate, Urgency::Waiting, None).await.unwrap();
    assert_eq!(put_off(&gate).await, None, "an answer ends it");
}

#[tokio::test(start_paused = true)]
async fn who_stands_in_line_when_an_answer_is_lost_is_sent_away_unless_a_caller_waits() {
    let gate = gate_with(|spec| spec.max_parallel_refresh = 1);
    let mut place = gate.enter(Urgency::Ahead).await.unwrap();
    let mut ahead: Vec<_> = (0..15).map(|_| Box::pin(gate.enter(Urgency::Ahead))).collect();
    let mut caller = Box::pin(gate.enter(Urgency::Waiting));
    for turn in &mut ahead {
        assert!(now_or_never(turn.as_mut()).is_none());
    }
    assert!(now_or_never(caller.as_mut()).is_none());
    place.used();
    place.settle(Err::<&(), _>(&lost()));
    for turn in &mut ahead {
        let error = now_or_never(turn.as_mut()).unwrap().err().unwrap();
        assert_eq!(retry_after(&error), SECOND * 10);
    }
    assert!(now_or_never(caller.as_mut()).unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_longest_rest_after_lost_answers_is_five_minutes_and_a_longer_wait_that_is_asked_for_is_kept() {
    let gate = gate_with(|spec| {
        spec.breaker = Breaker::Own(BreakerFigures { failures: 100, ..spec.breaker.figures() })
    });
    for _ in 0..20 {
        request(&gate, Urgency::Waiting, Some(lost())).await.unwrap();
        tokio::time::sleep(SECOND).await;
    }
    assert_eq!(put_off(&gate).await, Some(SECOND * 299));
    request(&gate, Urgency::Waiting, Some(busy(600))).await.unwrap();
    assert_eq!(put_off(&gate).await, Some(SECOND * 600));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_that_leaves_no_doubt_puts_nobody_off() {
    let gate = gate_with(|spec| spec.reuse = Reuse::Reusable);
    request(&gate, Urgency::Ahead, Some(lost())).await.unwrap();
    assert_eq!(put_off(&gate).await, None);
    let gate = super::gate();
    let refused = ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None };
    request(&gate, Urgency::Ahead, Some(refused)).await.unwrap();
    assert_eq!(put_off(&gate).await, None, "nothing was sent");
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_lost_together_are_one_loss() {
    let gate = gate();
    let mut places = Vec::new();
    for _ in 0..3 {
        let mut place = gate.enter(Urgency::Ahead).await.unwrap();
        place.used();
        places.push(place);
    }
    for place in places {
        tokio::time::sleep(SECOND).await;
        place.settle(Err::<&(), _>(&lost()));
    }
    assert_eq!(put_off(&gate).await, Some(SECOND * 8), "ten, from the first of them");
}
