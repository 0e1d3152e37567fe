use std::sync::Arc;

use super::*;
use crate::clock::ManualClock;
use crate::error::Unsent;
use crate::provider::health::BreakerState;
use crate::provider::spec::lifecycle::Window;
use crate::provider::spec::restraint::BreakerFigures;
use crate::provider::spec::span::Span;

const PATIENT: Allowance = within(Duration::from_secs(3600));
const SECOND: Duration = Duration::from_secs(1);

/// Patience of that length, and dice that never fall otherwise.
const fn within(turn: Duration) -> Allowance {
    Allowance { turn, left: None, dice: 0 }
}

fn turns(limits: CallLimits) -> Turns {
    let key = ProviderKey::parse("p").unwrap();
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_790_000_000_000)));
    Turns::new(&key, &limits, clock, Arc::new(Metrics::default()))
}

fn id(name: &str) -> ConnectionId {
    ConnectionId::parse(String::new(), "p".into(), name.into()).unwrap()
}

fn host() -> Arc<str> {
    "api.example:443".into()
}

fn failed() -> Verdict {
    let error = ProviderError::Unavailable { cause: Unsent::Refused(503), retry_after: None };
    Verdict::Failed(error, None)
}

/// A breaker that opens at the third failure.
fn fragile() -> CallLimits {
    let figures = BreakerFigures { failures: 3, open: Span::from_secs(30), successes: 1 };
    CallLimits { breaker: crate::provider::spec::restraint::Breaker::Own(figures), ..CallLimits::default() }
}

async fn broken(turns: &Turns) {
    for _ in 0..3 {
        turns.enter(&id("a"), &host(), PATIENT).await.unwrap().settle(failed());
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_that_fails_is_left_alone_and_then_tried_by_one_call_at_a_time() {
    let turns = turns(fragile());
    broken(&turns).await;
    let refused = turns.enter(&id("b"), &host(), PATIENT).await.err().unwrap();
    assert!(matches!(refused, ProviderError::CircuitOpen { retry_after, .. } if retry_after == 30 * SECOND));
    tokio::time::sleep(30 * SECOND).await;

    let mut probe = turns.enter(&id("a"), &host(), PATIENT).await.unwrap();
    assert_eq!(turns.health().breaker, BreakerState::HalfOpen);
    for name in ["a", "b"] {
        let refused = turns.enter(&id(name), &host(), PATIENT).await.err();
        assert!(matches!(refused, Some(ProviderError::CircuitOpen { .. })), "one at a time");
    }
    probe.settle(Verdict::Works);
    turns.enter(&id("b"), &host(), PATIENT).await.unwrap();
    assert_eq!(turns.health().breaker, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_given_up_lets_the_next_one_try() {
    let turns = turns(fragile());
    broken(&turns).await;
    tokio::time::sleep(30 * SECOND).await;
    drop(turns.enter(&id("a"), &host(), PATIENT).await.unwrap());
    turns.enter(&id("a"), &host(), PATIENT).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_upload_is_no_probe_however_long_its_sender_takes() {
    let turns = turns(fragile());
    broken(&turns).await;
    tokio::time::sleep(30 * SECOND).await;
    let _upload = turns.enter_beside(&id("a"), &host(), PATIENT).await.unwrap();
    assert_eq!(turns.health().breaker, BreakerState::HalfOpen);
    let refused = turns.enter_beside(&id("b"), &host(), PATIENT).await.err();
    assert!(matches!(refused, Some(ProviderError::CircuitOpen { .. })), "one in a rest");
    let mut probe = turns.enter(&id("b"), &host(), PATIENT).await.unwrap();
    let refused = turns.enter(&id("b"), &host(), PATIENT).await.err();
    assert!(matches!(refused, Some(ProviderError::CircuitOpen { .. })), "one at a time");
    probe.settle(Verdict::Works);
    assert_eq!(turns.health().breaker, BreakerState::Closed);
    turns.enter_beside(&id("b"), &host(), PATIENT).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn so_many_calls_of_a_connection_are_under_way_and_others_are_not_held_up() {
    let turns = turns(CallLimits { max_parallel: 2, ..CallLimits::default() });
    let first = turns.enter(&id("a"), &host(), PATIENT).await.unwrap();
    let _second = turns.enter(&id("a"), &host(), PATIENT).await.unwrap();
    let refused = turns.enter(&id("a"), &host(), within(SECOND)).await.err();
    assert!(matches!(refused, Some(ProviderError::NoTurn { limit: "api.limits.max_parallel", .. })));
    turns.enter(&id("b"), &host(), within(SECOND)).await.unwrap();
    let (a, host) = (id("a"), host());
    let mut third = std::pin::pin!(turns.enter(&a, &host, PATIENT));
    assert!(futures_util::poll!(&mut third).is_pending());
    drop(first);
    third.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_kept_for_each_connection() {
    let budget = Some(Window { count: 2, per: Span::from_secs(10) });
    let turns = turns(CallLimits { budget, ..CallLimits::default() });
    let began = Instant::now();
    for _ in 0..4 {
        drop(turns.enter(&id("a"), &host(), PATIENT).await.unwrap());
    }
    assert_eq!(began.elapsed(), 10 * SECOND);
    drop(turns.enter(&id("b"), &host(), within(Duration::ZERO)).await.unwrap());
    let refused = turns.enter(&id("a"), &host(), within(SECOND)).await.err();
    let limit = "api.limits.budget";
    assert_eq!(refused, Some(ProviderError::NoTurn { limit, retry_after: 10 * SECOND }));
}

#[tokio::test(start_paused = true)]
async fn each_request_of_a_call_is_counted_and_waits_for_its_turn() {
    let budget = Some(Window { count: 2, per: Span::from_secs(10) });
    let turns = turns(CallLimits { budget, ..CallLimits::default() });
    let began = Instant::now();
    let mut leave = turns.enter(&id("a"), &host(), within(11 * SECOND)).await.unwrap();
    leave.again().await.unwrap();
    leave.again().await.unwrap();
    assert_eq!(began.elapsed(), 10 * SECOND);
    leave.again().await.unwrap();
    let refused = leave.again().await.unwrap_err();
    assert_eq!(refused.retry_after(), Some(10 * SECOND));
    drop(leave);
    tokio::time::sleep(10 * SECOND).await;
    // What was refused was not counted.
    for _ in 0..2 {
        drop(turns.enter(&id("a"), &host(), within(Duration::ZERO)).await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_the_api_asks_for_holds_one_connection() {
    let turns = turns(CallLimits::default());
    turns.enter(&id("a"), &host(), PATIENT).await.unwrap().settle(Verdict::Throttled(Some(60 * SECOND)));
    let refused = turns.enter(&id("a"), &host(), within(59 * SECOND)).await.err().unwrap();
    assert_eq!(refused.retry_after(), Some(60 * SECOND));
    turns.enter(&id("b"), &host(), within(Duration::ZERO)).await.unwrap();
    let began = Instant::now();
    turns.enter(&id("a"), &host(), PATIENT).await.unwrap();
    assert_eq!(began.elapsed(), 60 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn whoever_cannot_wait_for_the_end_of_a_pause_is_told_it_at_once_though_others_have_all_the_places() {
    let turns = turns(CallLimits { max_parallel: 1, ..CallLimits::default() });
    turns.enter(&id("a"), &host(), PATIENT).await.unwrap().throttled(60 * SECOND);
    let (a, host, began) = (id("a"), host(), Instant::now());
    let mut patient = std::pin::pin!(turns.enter(&a, &host, PATIENT));
    assert!(futures_util::poll!(&mut patient).is_pending());
    let refused = turns.enter(&a, &host, within(5 * SECOND)).await.err().unwrap();
    assert_eq!((refused.retry_after(), began.elapsed()), (Some(60 * SECOND), Duration::ZERO));
    patient.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn whoever_stands_in_line_while_a_pause_begins_is_told_its_end() {
    let turns = turns(CallLimits { max_parallel: 1, ..CallLimits::default() });
    let mut first = turns.enter(&id("a"), &host(), PATIENT).await.unwrap();
    let (a, host) = (id("a"), host());
    let mut waiting = std::pin::pin!(turns.enter(&a, &host, within(5 * SECOND)));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    // Its body is still coming, so that its place stays taken.
    first.settle(Verdict::Throttled(Some(60 * SECOND)));
    assert_eq!(waiting.await.err().unwrap().retry_after(), Some(55 * SECOND));
}

/// So many calls of one connection that wait for the end of a pause of 60 s, each with other dice: after how long each has
/// its turn. The first one to have it is told to pause again if `again`.
async fn waited(calls: u64, patience: Duration, again: Option<Duration>) -> Vec<Duration> {
    let turns = turns(CallLimits::default());
    let first = turns.enter(&id("a"), &host(), PATIENT).await.unwrap();
    first.throttled(60 * SECOND);
    let (began, again) = (Instant::now(), Mutex::new(again));
    let calls = (0..calls).map(|n| {
        let (turns, again) = (&turns, &again);
        async move {
            let time = Allowance { dice: n * 997, ..within(patience) };
            let leave = turns.enter(&id("a"), &host(), time).await.unwrap();
            let waited = began.elapsed();
            if let Some(wait) = again.lock().unwrap().take() {
                leave.throttled(wait);
            }
            waited
        }
    });
    let mut waited = futures_util::future::join_all(calls).await;
    waited.sort();
    waited
}

impl Leave {
    fn throttled(mut self, wait: Duration) {
        self.settle(Verdict::Throttled(Some(wait)));
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_waited_for_the_end_of_a_pause_do_not_go_on_as_one() {
    let waited = waited(20, Duration::from_secs(3600), None).await;
    assert!(waited[0] >= 60 * SECOND && waited[19] <= 66 * SECOND, "{waited:?}");
    let moments: std::collections::BTreeSet<_> = waited.iter().collect();
    assert_eq!(moments.len(), 20, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_the_end_of_a_pause_go_on_when_an_operator_ends_it() {
    let turns = turns(CallLimits::default());
    turns.enter(&id("a"), &host(), PATIENT).await.unwrap().throttled(600 * SECOND);
    let (a, host, began) = (id("a"), host(), Instant::now());
    let mut waiting = std::pin::pin!(turns.enter(&a, &host, PATIENT));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    turns.close();
    waiting.await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn whoever_has_little_time_after_a_pause_goes_on_in_the_first_half_of_it() {
    let waited = waited(20, 62 * SECOND, None).await;
    assert!(waited[0] >= 60 * SECOND && waited[19] <= 61 * SECOND, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn the_first_to_go_on_who_is_told_to_pause_again_keeps_the_others_back() {
    let waited = waited(20, Duration::from_secs(3600), Some(30 * SECOND)).await;
    assert!(waited[0] < 66 * SECOND, "{waited:?}");
    assert!(waited[1] >= 90 * SECOND, "{waited:?}");
}

#[tokio::test]
async fn the_scarcest_quota_is_shown() {
    let turns = turns(CallLimits::default());
    for (name, remaining) in [("a", 40), ("b", 3), ("c", 70)] {
        let quota = Quota { remaining: Some(remaining), limit: Some(100) };
        turns.enter(&id(name), &host(), PATIENT).await.unwrap().learn(quota);
    }
    let shown = turns.health().quota.unwrap();
    assert_eq!((shown.remaining, shown.limit), (3, Some(100)));
}

#[tokio::test]
async fn lanes_of_connections_that_call_nothing_are_let_go() {
    let turns = turns(CallLimits::default());
    let _kept = turns.enter(&id("kept"), &host(), PATIENT).await.unwrap();
    for n in 0..=MOST_LANES {
        drop(turns.enter(&id(&n.to_string()), &host(), PATIENT).await.unwrap());
    }
    let state = turns.0.state();
    assert!(state.lanes.len() <= MOST_LANES, "{}", state.lanes.len());
    assert!(state.lanes.contains_key(&id("kept")));
}
