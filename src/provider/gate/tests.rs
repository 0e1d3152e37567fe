mod lost;
mod turn;

use std::future::Future;
use std::task::Poll;

use super::*;
use crate::clock::{ManualClock, Timestamp};
use crate::error::{AmbiguousCause, OAuthCode, Unsent};
use crate::provider::spec::lifecycle::Window;
use crate::provider::spec::restraint::{Breaker, BreakerFigures};
use crate::provider::spec::span::Span;

const SECOND: Duration = Duration::from_secs(1);

fn gate_with(change: impl FnOnce(&mut ProviderSpec)) -> Gate {
    let mut spec = ProviderSpec::default();
    change(&mut spec);
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(0)));
    Gate::new(ProviderKey::parse("acme").unwrap(), &spec, clock, Arc::default())
}

fn gate() -> Gate {
    gate_with(|_| {})
}

fn lost() -> ProviderError {
    ProviderError::Ambiguous { cause: AmbiguousCause::Status { status: 502, retry_after: None } }
}

/// A server error that leaves the outcome open.
fn busy(seconds: u64) -> ProviderError {
    let retry_after = Some(Duration::from_secs(seconds));
    ProviderError::Ambiguous { cause: AmbiguousCause::Status { status: 503, retry_after } }
}

fn limited(seconds: u64) -> ProviderError {
    ProviderError::RateLimited { retry_after: Some(SECOND * u32::try_from(seconds).unwrap()) }
}

/// One request that ends like this.
async fn request(gate: &Gate, urgency: Urgency, error: Option<ProviderError>) -> Result<(), ProviderError> {
    let mut place = gate.enter(urgency).await?;
    place.used();
    place.settle(error.as_ref().map_or(Ok(&()), Err));
    Ok(())
}

async fn opened() -> Gate {
    let gate = gate();
    for _ in 0..5 {
        request(&gate, Urgency::Waiting, Some(lost())).await.unwrap();
    }
    gate
}

/// Whether a future is done without waiting for anything.
fn now_or_never<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn retry_after(error: &ProviderError) -> Duration {
    error.retry_after().unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_refuses_with_its_figures_and_admits_one_of_a_hundred_afterwards() {
    let gate = opened().await;
    let error = gate.enter(Urgency::Waiting).await.err().unwrap();
    assert_eq!(retry_after(&error), SECOND * 60);
    assert_eq!(
        error.to_string(),
        "the provider is resting after 5 failures in 1 s, last: the provider's answer was lost (it answered 502)"
    );
    tokio::time::sleep(SECOND * 60).await;
    let mut places = Vec::new();
    for _ in 0..100 {
        places.extend(gate.enter(Urgency::Waiting).await.ok());
    }
    assert_eq!(places.len(), 1);
    assert_eq!(gate.health().breaker, BreakerState::HalfOpen);
}

#[tokio::test(start_paused = true)]
async fn a_server_error_that_asks_for_a_longer_wait_makes_the_rest_longer() {
    for (asked, rest) in [(5, 60), (300, 300), (86_400, 900)] {
        let gate = gate();
        for _ in 0..5 {
            request(&gate, Urgency::Waiting, Some(busy(asked))).await.unwrap();
        }
        let error = gate.enter(Urgency::Waiting).await.err().unwrap();
        assert!(matches!(error, ProviderError::CircuitOpen { .. }), "{error:?}");
        assert_eq!(retry_after(&error), SECOND * rest);
        assert!(gate.enter(Urgency::Rescue).await.is_ok(), "a repeat that saves a grant is let through");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_who_stand_in_line_hear_at_once_that_the_breaker_opened() {
    let gate = gate_with(|spec| spec.max_parallel_refresh = 5);
    let mut places = Vec::new();
    for _ in 0..5 {
        places.push(gate.enter(Urgency::Waiting).await.unwrap());
    }
    let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(gate.enter(Urgency::Waiting))).collect();
    for turn in &mut waiting {
        assert!(now_or_never(turn.as_mut()).is_none());
    }
    for mut place in places {
        place.used();
        place.settle(Err::<&(), _>(&lost()));
    }
    let refused = waiting
        .iter_mut()
        .filter_map(|turn| now_or_never(turn.as_mut()))
        .filter(|turn| matches!(turn, Err(ProviderError::CircuitOpen { .. })));
    // Each failure freed a place that one more in line took before the fifth came: 4 of the hundred went.
    assert_eq!(refused.count(), 96);
}

#[tokio::test(start_paused = true)]
async fn a_place_dropped_unused_gives_back_probe_budget_and_turn() {
    let gate = opened().await;
    tokio::time::sleep(SECOND * 60).await;
    let before = gate.budget(&ProviderSpec::default());
    let probe = gate.enter(Urgency::Waiting).await.unwrap();
    assert_eq!(gate.budget(&ProviderSpec::default()).under_way, 1);
    assert!(gate.enter(Urgency::Waiting).await.is_err());
    drop(probe);
    assert_eq!(gate.budget(&ProviderSpec::default()), before);
    assert!(gate.enter(Urgency::Waiting).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_dropped_under_way_counts_as_one_that_nobody_answered() {
    let gate = gate();
    for _ in 0..5 {
        let mut place = gate.enter(Urgency::Waiting).await.unwrap();
        place.used();
        drop(place);
    }
    let error = gate.enter(Urgency::Waiting).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        "the provider is resting after 5 failures in 1 s, last: the provider's answer was lost (no answer in time)"
    );
    tokio::time::sleep(SECOND * 60).await;
    let mut probe = gate.enter(Urgency::Waiting).await.unwrap();
    probe.used();
    drop(probe);
    assert_eq!(gate.health().breaker, BreakerState::Open);
    assert_eq!(retry_after(&gate.enter(Urgency::Waiting).await.err().unwrap()), SECOND * 60);
    assert_eq!(gate.budget(&ProviderSpec::default()).under_way, 0);
}

#[tokio::test(start_paused = true)]
async fn an_owner_who_hangs_up_during_a_consent_closes_nobodys_way() {
    let gate = gate();
    for _ in 0..20 {
        let mut place = gate.enter_uncalled();
        place.used();
        drop(place);
    }
    assert_eq!(gate.health(), Health::default());
    assert_eq!(gate.budget(&ProviderSpec::default()).under_way, 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_the_line_takes_nothing_along() {
    let gate = gate_with(|spec| spec.max_parallel_refresh = 1);
    let place = gate.enter(Urgency::Waiting).await.unwrap();
    let mut gone = Box::pin(gate.enter(Urgency::Waiting));
    let mut next = Box::pin(gate.enter(Urgency::Ahead));
    assert!(now_or_never(gone.as_mut()).is_none() && now_or_never(next.as_mut()).is_none());
    drop(gone);
    drop(place);
    assert!(next.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_place_that_was_given_to_somebody_who_left_goes_to_the_next() {
    let gate = gate_with(|spec| spec.max_parallel_refresh = 1);
    let place = gate.enter(Urgency::Waiting).await.unwrap();
    let mut first = Box::pin(gate.enter(Urgency::Waiting));
    let mut second = Box::pin(gate.enter(Urgency::Waiting));
    assert!(now_or_never(first.as_mut()).is_none() && now_or_never(second.as_mut()).is_none());
    drop(place);
    // The first has its place by now and never looks at it.
    drop(first);
    assert!(second.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn callers_overtake_work_that_nobody_waits_for_and_do_not_starve_it() {
    let gate = gate_with(|spec| spec.max_parallel_refresh = 1);
    // A rescue may go beyond the places, by as many as there are.
    let held = [gate.enter(Urgency::Waiting).await.unwrap(), gate.enter(Urgency::Rescue).await.unwrap()];
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    // Ahead stands in line first.
    for urgency in [vec![Urgency::Ahead; 2], vec![Urgency::Waiting; 20], vec![Urgency::Rescue]].concat() {
        let (gate, order) = (gate.clone(), Arc::clone(&order));
        let length = gate.line().length();
        let arrived = gate.clone();
        tasks.push(tokio::spawn(async move {
            let place = gate.enter(urgency).await.unwrap();
            order.lock().unwrap().push(urgency);
            drop(place);
        }));
        while arrived.line().length() == length {
            tokio::task::yield_now().await;
        }
    }
    drop(held);
    for task in tasks {
        task.await.unwrap();
    }
    let order = order.lock().unwrap().clone();
    let at: Vec<usize> =
        order.iter().enumerate().filter(|(_, u)| **u == Urgency::Ahead).map(|(n, _)| n).collect();
    assert_eq!(order[0], Urgency::Rescue);
    assert_eq!(at, [9, 19], "after nine who overtook it, each: {order:?}");
}

#[tokio::test(start_paused = true)]
async fn the_last_place_and_the_last_of_the_budget_are_kept_for_callers() {
    let gate = gate_with(|spec| {
        spec.max_parallel_refresh = 3;
        spec.token_budget = Window { count: 5, per: Span::from_secs(2) };
    });
    let first = gate.enter(Urgency::Ahead).await.unwrap();
    let second = gate.enter(Urgency::Ahead).await.unwrap();
    let mut third = Box::pin(gate.enter(Urgency::Ahead));
    assert!(now_or_never(third.as_mut()).is_none(), "a place is kept");
    let caller = gate.enter(Urgency::Waiting).await.unwrap();
    for mut place in [first, second, caller] {
        place.used();
        place.settle(Ok(&()));
    }
    // One of what is left went to the third, and the last is a caller's.
    let third = now_or_never(third.as_mut()).unwrap().unwrap();
    let mut fourth = Box::pin(gate.enter(Urgency::Ahead));
    assert!(now_or_never(fourth.as_mut()).is_none(), "the last of the budget is kept");
    let started = Instant::now();
    request(&gate, Urgency::Waiting, None).await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO);
    drop(third);
    assert!(fourth.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_budget_is_ever_sent_and_nobody_stands_in_line_for_long() {
    let gate = gate_with(|spec| {
        spec.max_parallel_refresh = 100;
        spec.token_budget = Window { count: 10, per: Span::from_secs(2) };
    });
    let started = Instant::now();
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let gate = gate.clone();
            tokio::spawn(async move {
                let mut place = gate.enter(Urgency::Waiting).await?;
                let at = started.elapsed();
                place.used();
                tokio::time::sleep(SECOND / 10).await;
                place.settle(Ok(&()));
                Ok::<_, ProviderError>(at)
            })
        })
        .collect();
    let mut sent = Vec::new();
    let mut refused = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(at) => sent.push(at),
            Err(error) => {
                assert!(
                    matches!(error, ProviderError::RateLimited { .. }) && retry_after(&error) > LONGEST_TURN
                );
                refused += 1;
            }
        }
    }
    for from in &sent {
        let within = sent.iter().filter(|at| (*from..*from + SECOND * 2).contains(*at)).count();
        assert!(within <= 10, "{within} from {from:?}");
    }
    assert_eq!((sent.len(), refused), (30, 70), "three windows begin within five seconds");
}

#[tokio::test(start_paused = true)]
async fn a_rescue_goes_beyond_the_budget_and_what_it_took_is_missing_afterwards() {
    let gate = gate_with(|spec| spec.token_budget = Window { count: 2, per: Span::from_secs(60) });
    for _ in 0..2 {
        request(&gate, Urgency::Waiting, None).await.unwrap();
    }
    for urgency in [Urgency::Waiting, Urgency::Ahead] {
        let error = gate.enter(urgency).await.err().unwrap();
        assert_eq!(retry_after(&error), SECOND * 60, "{urgency:?}");
    }
    tokio::time::sleep(SECOND * 20).await;
    let rescued = Instant::now();
    request(&gate, Urgency::Rescue, None).await.unwrap();
    assert_eq!(rescued.elapsed(), Duration::ZERO);
    // Three of two: when the first two are forgotten, one is left.
    let error = gate.enter(Urgency::Waiting).await.err().unwrap();
    assert_eq!(retry_after(&error), SECOND * 40);
    tokio::time::sleep(SECOND * 40).await;
    request(&gate, Urgency::Waiting, None).await.unwrap();
    let error = gate.enter(Urgency::Waiting).await.err().unwrap();
    assert_eq!(retry_after(&error), SECOND * 20, "what was overdrawn");
}

#[tokio::test(start_paused = true)]
async fn a_rescue_that_comes_while_others_stand_in_line_for_the_budget_overtakes_them() {
    let gate = gate_with(|spec| spec.token_budget = Window { count: 1, per: Span::from_secs(3) });
    request(&gate, Urgency::Waiting, None).await.unwrap();
    let mut caller = Box::pin(gate.enter(Urgency::Waiting));
    assert!(now_or_never(caller.as_mut()).is_none());
    let before = Instant::now();
    request(&gate, Urgency::Rescue, None).await.unwrap();
    assert_eq!(before.elapsed(), Duration::ZERO);
    let mut place = caller.await.unwrap();
    assert_eq!(before.elapsed(), SECOND * 3);
    place.used();
    place.settle(Ok(&()));
}

#[tokio::test(start_paused = true)]
async fn slower_is_heeded_by_work_that_nobody_waits_for_and_by_callers_only_where_it_is_about_the_client() {
    for throttles_client in [false, true] {
        let gate = gate_with(|spec| spec.throttles_client = throttles_client);
        request(&gate, Urgency::Ahead, Some(limited(40))).await.unwrap();
        let error = gate.enter(Urgency::Ahead).await.err().unwrap();
        assert_eq!(error, limited(40));
        assert_eq!(gate.enter(Urgency::Waiting).await.is_ok(), !throttles_client);
        assert!(gate.enter(Urgency::Rescue).await.is_ok());
        tokio::time::sleep(SECOND * 40).await;
        assert!(gate.enter(Urgency::Ahead).await.is_ok());
        assert!(gate.enter(Urgency::Waiting).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_rest_of_a_day_lasts_a_quarter_of_an_hour_for_whomever_it_binds() {
    for error in [
        limited(86_400),
        ProviderError::Unavailable { cause: Unsent::Refused(503), retry_after: Some(SECOND * 86_400) },
        busy(86_400),
    ] {
        let gate = gate_with(|spec| spec.throttles_client = true);
        request(&gate, Urgency::Ahead, Some(error.clone())).await.unwrap();
        assert_eq!(gate.enter(Urgency::Ahead).await.err(), Some(limited(900)));
        let is_about_client = matches!(error, ProviderError::RateLimited { .. });
        assert_eq!(gate.enter(Urgency::Waiting).await.is_err(), is_about_client);
        tokio::time::sleep(SECOND * 900).await;
        assert!(gate.enter(Urgency::Ahead).await.is_ok());
        assert!(gate.enter(Urgency::Waiting).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_works_ends_the_rest_of_the_background_if_it_was_sent_after_it_began() {
    let gate = gate();
    let mut before = gate.enter(Urgency::Waiting).await.unwrap();
    before.used();
    tokio::time::sleep(SECOND).await;
    request(&gate, Urgency::Ahead, Some(limited(600))).await.unwrap();
    tokio::time::sleep(SECOND).await;
    before.settle(Ok(&()));
    assert_eq!(gate.enter(Urgency::Ahead).await.err(), Some(limited(599)));
    request(&gate, Urgency::Waiting, None).await.unwrap();
    assert!(gate.enter(Urgency::Ahead).await.is_ok());
    assert_eq!(gate.health().background_rests_until, None);
}

#[tokio::test(start_paused = true)]
async fn who_stands_in_line_when_the_provider_asks_for_a_long_rest_is_sent_away() {
    let gate = gate_with(|spec| spec.max_parallel_refresh = 1);
    let mut place = gate.enter(Urgency::Ahead).await.unwrap();
    let mut next = Box::pin(gate.enter(Urgency::Ahead));
    assert!(now_or_never(next.as_mut()).is_none());
    place.used();
    place.settle(Err::<&(), _>(&limited(40)));
    assert_eq!(next.await.err(), Some(limited(40)));
}

#[tokio::test(start_paused = true)]
async fn a_rescue_passes_an_open_breaker_and_its_failure_does_not_prolong_the_rest() {
    let gate = opened().await;
    tokio::time::sleep(SECOND).await;
    request(&gate, Urgency::Rescue, Some(lost())).await.unwrap();
    assert_eq!(retry_after(&gate.enter(Urgency::Waiting).await.err().unwrap()), SECOND * 59);
}

#[tokio::test(start_paused = true)]
async fn no_rescue_passes_where_the_client_is_refused_and_one_at_a_time_tries_afterwards() {
    let refused = || ProviderError::Misconfigured(OAuthCode::new("invalid_client"));
    // At once, and while it was open for another reason.
    for is_open in [false, true] {
        let gate = if is_open { opened().await } else { gate() };
        request(&gate, Urgency::Rescue, Some(refused())).await.unwrap();
        assert_eq!(gate.health().breaker, BreakerState::Open);
        for _ in 0..100 {
            let error = gate.enter(Urgency::Rescue).await.err().unwrap();
            assert_eq!(retry_after(&error), SECOND * 60);
        }
        for _ in 0..2 {
            tokio::time::sleep(SECOND * 60).await;
            let mut probe = gate.enter(Urgency::Rescue).await.unwrap();
            assert!(gate.enter(Urgency::Rescue).await.is_err(), "one at a time");
            probe.used();
            probe.settle(Err::<&(), _>(&refused()));
            assert!(gate.enter(Urgency::Rescue).await.is_err());
        }
        tokio::time::sleep(SECOND * 60).await;
        request(&gate, Urgency::Rescue, None).await.unwrap();
        let places = [gate.enter(Urgency::Rescue).await, gate.enter(Urgency::Rescue).await];
        assert!(places.iter().all(Result::is_ok), "the client is taken again");
    }
}

#[tokio::test(start_paused = true)]
async fn rescues_that_stand_in_line_when_the_client_is_refused_are_sent_away() {
    let gate = gate_with(|spec| spec.max_parallel_refresh = 1);
    let mut place = gate.enter(Urgency::Rescue).await.unwrap();
    let _beyond = gate.enter(Urgency::Rescue).await.unwrap();
    let mut waiting: Vec<_> = (0..10).map(|_| Box::pin(gate.enter(Urgency::Rescue))).collect();
    assert!(waiting.iter_mut().all(|turn| now_or_never(turn.as_mut()).is_none()));
    place.used();
    place.settle(Err::<&(), _>(&ProviderError::Misconfigured(OAuthCode::new("invalid_client"))));
    for turn in waiting {
        assert!(matches!(turn.await, Err(ProviderError::CircuitOpen { .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_grant_is_a_success_of_the_endpoint() {
    let gate = gate();
    let dead = ProviderError::Denied(OAuthCode::new("invalid_grant"));
    for _ in 0..100 {
        request(&gate, Urgency::Waiting, Some(dead.clone())).await.unwrap();
    }
    let health = gate.health();
    assert_eq!((health.breaker, health.consecutive_failures), (BreakerState::Closed, 0));
    assert_eq!(health.last_failure, None);
}

#[tokio::test(start_paused = true)]
async fn what_is_shown_is_what_is() {
    let gate = gate_with(|spec| {
        spec.breaker = Breaker::Own(BreakerFigures { failures: 2, ..BreakerFigures::default() });
    });
    assert_eq!(gate.health(), Health::default());
    request(&gate, Urgency::Waiting, None).await.unwrap();
    let unreachable = ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None };
    request(&gate, Urgency::Waiting, Some(unreachable.clone())).await.unwrap();
    request(&gate, Urgency::Waiting, Some(unreachable)).await.unwrap();
    let epoch = Timestamp::from_millis(0);
    let expected = Health {
        breaker: BreakerState::Open,
        consecutive_failures: 2,
        recent_failures: 2,
        last_failure: Some((crate::error::Reason::ProviderUnavailable, epoch)),
        last_success_at: Some(epoch),
        next_attempt_at: Some(epoch + SECOND * 60),
        background_rests_until: None,
    };
    assert_eq!(gate.health(), expected);
    gate.close();
    assert_eq!(gate.health().breaker, BreakerState::Closed);
    let budget = gate.budget(&ProviderSpec::default());
    assert_eq!((budget.limit, budget.remaining, budget.reserved), (50, 47, 10));
    assert_eq!(budget.full_at, Some(epoch + SECOND));
}
