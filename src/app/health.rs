//! Readiness follows the store: while it cannot be used as it should, nobody is sent here. Tokens that it does not hold
//! yet hold nobody back, but are told.

use tokio::sync::watch;

use crate::broker::Escrowed;
use crate::readiness::Readiness;
use crate::store::guard::Health;

/// Takes a guard whenever the store is not well, and drops it when it is again. Ends with the store.
pub(super) async fn follow(mut store: watch::Receiver<Health>, readiness: Readiness) {
    let mut held = None;
    loop {
        let health = *store.borrow_and_update();
        let awaited = match health {
            Health::Well => None,
            Health::Full => Some("store (the disk is full: only tokens that exist nowhere else are written)"),
            Health::Failed => Some("store (it failed and is being reopened)"),
        };
        // The new guard is taken before the old one goes: ready must not flash in between.
        let before = std::mem::replace(&mut held, awaited.map(|name| readiness.guard(name)));
        drop(before);
        if store.changed().await.is_err() {
            return;
        }
    }
}

/// Says whose new tokens are not in the store, and where they are. Ends with the broker.
pub(super) async fn follow_escrow(mut escrowed: watch::Receiver<Escrowed>, readiness: Readiness) {
    loop {
        let counts = *escrowed.borrow_and_update();
        let Escrowed { in_memory, in_second_place } = counts;
        let told = format!(
            "escrow: the store does not take new tokens; connections that have theirs in memory only: {in_memory}, \
             in the second place too: {in_second_place}"
        );
        readiness.set_degraded((counts != Escrowed::default()).then_some(told));
        if escrowed.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_is_taken_back_while_the_store_is_not_well_and_the_reason_is_listed() {
        let readiness = Readiness::default();
        drop(readiness.guard("start-up"));
        let store = watch::Sender::new(Health::Well);
        let mut ready = readiness.subscribe();
        let following = tokio::spawn(follow(store.subscribe(), readiness.clone()));
        let mut became = async |wanted: bool| {
            let became = ready.wait_for(|is_ready| *is_ready == wanted);
            tokio::time::timeout(std::time::Duration::from_secs(60), became).await.unwrap().unwrap();
        };
        became(true).await;
        for (health, word) in [(Health::Failed, "reopened"), (Health::Full, "disk is full")] {
            store.send_replace(health);
            became(false).await;
            assert!(readiness.awaited().iter().any(|awaited| awaited.contains(word)));
            store.send_replace(Health::Well);
            became(true).await;
        }
        drop(store);
        following.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn held_tokens_are_told_and_hold_nobody_back() {
        let readiness = Readiness::default();
        drop(readiness.guard("start-up"));
        let escrowed = watch::Sender::new(Escrowed { in_memory: 2, in_second_place: 1 });
        let following = tokio::spawn(follow_escrow(escrowed.subscribe(), readiness.clone()));
        tokio::task::yield_now().await;
        let told = readiness.degraded().unwrap();
        assert!(told.contains("in memory only: 2, in the second place too: 1"), "{told}");
        assert!(readiness.is_ready());
        escrowed.send_replace(Escrowed::default());
        drop(escrowed);
        following.await.unwrap();
        assert_eq!(readiness.degraded(), None);
    }
}
