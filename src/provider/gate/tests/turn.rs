//! How long anybody stands in line, and who waits for no place.

use super::*;

/// Somebody who is let through at once, and whose request leaves.
fn under_way(gate: &Gate, urgency: Urgency) -> Place {
    let mut place = now_or_never(Box::pin(gate.enter(urgency)).as_mut()).expect("a place").unwrap();
    place.used();
    place
}

#[tokio::test(start_paused = true)]
async fn a_rescue_waits_for_no_place_that_others_took_and_twice_as_many_are_the_most() {
    let gate = gate_with(|spec| spec.max_parallel_refresh = 2);
    let tries = [under_way(&gate, Urgency::Waiting), under_way(&gate, Urgency::Waiting)];
    let mut callers: Vec<_> = (0..3).map(|_| Box::pin(gate.enter(Urgency::Waiting))).collect();
    assert!(callers.iter_mut().all(|turn| now_or_never(turn.as_mut()).is_none()));
    // Both answers are lost, and their places are taken before anybody can ask again.
    for place in tries {
        place.settle(Err::<&(), _>(&lost()));
    }
    let mut others: Vec<_> = callers[..2].iter_mut().map(|turn| now_or_never(turn.as_mut())).collect();
    assert!(others.iter().all(|turn| matches!(turn, Some(Ok(_)))));
    let mut rescues = vec![under_way(&gate, Urgency::Rescue), under_way(&gate, Urgency::Rescue)];
    assert_eq!(gate.budget(&ProviderSpec::default()).under_way, 4);
    let mut fifth = Box::pin(gate.enter(Urgency::Rescue));
    assert!(now_or_never(fifth.as_mut()).is_none(), "twice the places are the most");
    rescues.pop().unwrap().settle(Ok(&()));
    rescues.push(now_or_never(fifth.as_mut()).unwrap().unwrap());
    // Whoever else waits is let in only where there are fewer under way than places.
    drop(rescues);
    assert!(now_or_never(callers[2].as_mut()).is_none());
    drop(others.pop());
    assert!(matches!(now_or_never(callers[2].as_mut()), Some(Ok(_))));
}

#[tokio::test(start_paused = true)]
async fn consents_that_take_their_time_keep_no_rescue_waiting() {
    let gate = gate_with(|spec| spec.max_parallel_refresh = 1);
    let consents: Vec<_> = (0..5).map(|_| gate.enter_uncalled()).collect();
    let rescue = under_way(&gate, Urgency::Rescue);
    assert!(now_or_never(Box::pin(gate.enter(Urgency::Waiting)).as_mut()).is_none());
    drop((consents, rescue));
    assert_eq!(gate.budget(&ProviderSpec::default()).under_way, 0);
    under_way(&gate, Urgency::Waiting);
}

/// So many who come at once to a provider that takes `answers` for each: how long those stood who were sent away, and
/// when they were told to come back, in the order in which they stood.
async fn sent_away(gate: &Gate, urgency: Urgency, count: usize, answers: Duration) -> Vec<(Duration, u64)> {
    let began = Instant::now();
    let tasks: Vec<_> = (0..count)
        .map(|_| {
            let gate = gate.clone();
            tokio::spawn(async move {
                match gate.enter(urgency).await {
                    Ok(mut place) => {
                        place.used();
                        tokio::time::sleep(answers).await;
                        place.settle(Ok(&()));
                        None
                    }
                    Err(error) => {
                        // Of our own limit, not of the provider, which said nothing.
                        let limit = "max_parallel_refresh";
                        assert!(
                            matches!(error, ProviderError::NoTurn { limit: l, .. } if l == limit),
                            "{error:?}"
                        );
                        Some((began.elapsed(), retry_after(&error).as_secs()))
                    }
                }
            })
        })
        .collect();
    let mut told = Vec::new();
    for task in tasks {
        told.extend(task.await.unwrap());
    }
    told
}

#[tokio::test(start_paused = true)]
async fn nobody_stands_in_line_for_longer_than_five_seconds_however_long_the_provider_takes() {
    for (urgency, let_in) in [(Urgency::Waiting, 4), (Urgency::Ahead, 3)] {
        let gate = gate_with(|spec| spec.token_budget = Window { count: 500, per: Span::from_secs(1) });
        let told = sent_away(&gate, urgency, 250, SECOND * 9).await;
        assert_eq!(told.len(), 250 - let_in, "{urgency:?}");
        assert!(told.iter().all(|(stood, _)| *stood == LONGEST_TURN), "{urgency:?}: {told:?}");
        // Each four have their turn when the four before them have had theirs, and nobody stays away for long.
        let waits: Vec<_> = told.iter().map(|(_, wait)| *wait).collect();
        assert_eq!(waits[..12], [5, 5, 5, 5, 10, 10, 10, 10, 15, 15, 15, 15], "{urgency:?}");
        assert_eq!(waits.last(), Some(&60), "{urgency:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_is_sent_away_is_told_when_its_turn_would_come_at_the_pace_that_was_seen() {
    let gate = gate_with(|spec| spec.token_budget = Window { count: 500, per: Span::from_secs(1) });
    let told = sent_away(&gate, Urgency::Waiting, 100, SECOND * 3 / 2).await;
    // Four at once, and twelve within the five seconds.
    assert_eq!(told.len(), 84);
    assert!(told.iter().enumerate().all(|(n, (_, wait))| *wait == 5 + n as u64 / 12 * 5), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn who_may_go_when_the_five_seconds_are_over_goes() {
    let gate = gate_with(|spec| spec.throttles_client = true);
    request(&gate, Urgency::Waiting, Some(limited(5))).await.unwrap();
    let began = Instant::now();
    assert!(gate.enter(Urgency::Waiting).await.is_ok());
    assert_eq!(began.elapsed(), LONGEST_TURN);
}

#[tokio::test(start_paused = true)]
async fn a_rescue_stands_as_long_as_it_must() {
    let gate = gate_with(|spec| spec.max_parallel_refresh = 1);
    let places = [under_way(&gate, Urgency::Waiting), under_way(&gate, Urgency::Rescue)];
    let mut rescue = Box::pin(gate.enter(Urgency::Rescue));
    assert!(now_or_never(rescue.as_mut()).is_none());
    tokio::time::sleep(SECOND * 60).await;
    assert!(now_or_never(rescue.as_mut()).is_none());
    drop(places);
    assert!(rescue.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn work_that_nobody_waits_for_has_its_turn_after_nine_though_it_was_sent_away_meanwhile() {
    let gate = gate_with(|spec| spec.max_parallel_refresh = 1);
    let mut held = under_way(&gate, Urgency::Waiting);
    let mut ahead = Box::pin(gate.enter(Urgency::Ahead));
    for n in 0..9 {
        if n == 5 {
            assert!(ahead.await.is_err(), "it is sent away");
            ahead = Box::pin(gate.enter(Urgency::Ahead));
        }
        assert!(now_or_never(ahead.as_mut()).is_none());
        let mut caller = Box::pin(gate.enter(Urgency::Waiting));
        assert!(now_or_never(caller.as_mut()).is_none());
        held.settle(Ok(&()));
        held = now_or_never(caller.as_mut()).unwrap().unwrap();
    }
    let mut tenth = Box::pin(gate.enter(Urgency::Waiting));
    assert!(now_or_never(tenth.as_mut()).is_none());
    drop(held);
    assert!(matches!(now_or_never(ahead.as_mut()), Some(Ok(_))));
}
