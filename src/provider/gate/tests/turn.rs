//! Who waits for no place.

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
