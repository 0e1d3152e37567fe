//! The order in which what was left unfinished is taken up: at a start, and before a provider.

use std::time::Duration;

use token_broker::broker::{Recovery, Trust};
use token_broker::clock::Clock as _;
use token_broker::connection::reuse::Reuse;
use token_broker::connection::{Connection, Holder, Moment, Others, Scopes};
use token_broker::error::{ProviderError, Unsent};
use token_broker::provider::{Revocation, Urgency};
use token_broker::store::{Expected, TokenStore as _};

use super::{grace, lost, stage};
use crate::kit::{LIFE, Stage, id, issued};

/// A connection that an earlier run asked for `ago`, and never heard of.
pub(super) async fn left_unfinished(stage: &Stage, name: &str, ago: Duration) {
    let now = stage.clock.now();
    let tokens = issued(&format!("at-{name}"), Some(&format!("rt-{name}"))).into_set(None, now);
    let reuse = stage.provider.reuse.lock().unwrap().clone();
    let then = Moment { now: now - ago, holder: Holder(7), others: Others::Gone, reuse: &reuse };
    let begun = Connection::pending(id(name), now).imported(tokens, Scopes::default(), now).begun(1, &then);
    stage.store.put(&begun, Expected::Absent).await.unwrap();
}

#[tokio::test]
async fn what_was_left_unfinished_is_taken_up_by_the_end_of_its_grace_period_one_at_a_time() {
    let stage = stage(grace(60));
    for (name, ago) in [("c", 30), ("a", 10), ("e", 50), ("b", 20), ("d", 40)] {
        left_unfinished(&stage, name, Duration::from_secs(ago)).await;
    }
    stage.provider.narrow();
    stage.provider.hold();
    let stage = stage.restarted();
    let found = stage.broker.recover(Trust::Sound).await.unwrap();
    assert_eq!(found, Recovery { unfinished: 5, marked: 0 });
    // All stand in line while the first is with the provider.
    stage.provider.line_reaches(5).await;
    assert_eq!(stage.provider.presented().len(), 1);
    stage.provider.release();
    stage.provider.requests_reach(5).await;
    assert_eq!(stage.provider.presented(), ["rt-e", "rt-d", "rt-c", "rt-b", "rt-a"]);
}

/// To read 100 000 records takes seconds, and a grace period may last as long.
#[tokio::test]
async fn what_the_opening_came_upon_is_asked_for_before_any_listing_and_once() {
    let stage = stage(grace(60));
    for (name, ago) in [("a", 10), ("b", 30), ("c", 20)] {
        left_unfinished(&stage, name, Duration::from_secs(ago)).await;
    }
    let well = stage.imported("well").await;
    stage.provider.narrow();
    stage.provider.hold();
    let stage = stage.restarted();
    let before = *stage.store.listings().borrow();
    // The opening looks at rows; what has changed or gone since is nothing to be found out.
    let told = [id("a"), id("b"), well, id("gone"), id("c")];
    assert_eq!(stage.broker.recover_first(&told).await.unwrap(), 3);
    stage.provider.line_reaches(3).await;
    assert_eq!(
        (stage.provider.presented(), *stage.store.listings().borrow()),
        (vec!["rt-b".to_owned()], before)
    );
    // The walk over all records takes up none of them once more.
    let found = stage.broker.recover(Trust::Sound).await.unwrap();
    assert_eq!(found, Recovery { unfinished: 3, marked: 0 });
    assert_eq!(stage.broker.recover_first(&told).await.unwrap(), 0);
    stage.provider.release();
    stage.provider.requests_reach(3).await;
    stage.broker.drain().await;
    assert_eq!(stage.provider.presented(), ["rt-b", "rt-c", "rt-a"]);
    assert_eq!(stage.broker.recover_first(&told).await.unwrap(), 0, "nothing is unfinished any more");
}

#[tokio::test(start_paused = true)]
async fn a_start_reads_all_records_once_for_all_that_was_left_and_for_house_keeping() {
    let stage = stage(grace(60));
    stage.imported("user-1").await;
    let ended = stage.imported("user-2").await;
    let refused = ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None };
    *stage.provider.revocation.lock().unwrap() = Err(refused);
    stage.broker.disconnect(ended.clone()).await.unwrap();
    stage.broker.drain().await;
    *stage.provider.revocation.lock().unwrap() = Ok(Revocation::Revoked);
    left_unfinished(&stage, "user-3", Duration::from_secs(10)).await;

    let stage = stage.restarted();
    let before = *stage.store.listings().borrow();
    let found = stage.broker.recover(Trust::Sound).await.unwrap();
    assert_eq!(found, Recovery { unfinished: 1, marked: 0 });
    assert_eq!(stage.broker.resume_revocations().await.unwrap(), 1);
    stage.broker.sweep().await.unwrap();
    assert_eq!(*stage.store.listings().borrow(), before + 1);
    let metrics = stage.metrics.encode().unwrap();
    assert!(metrics.contains("connections{provider=\"sandbox\",status=\"REVOKING\"} 1"), "{metrics}");
    stage.provider.requests_reach(1).await;
    while stage.broker.connection(&ended).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn nothing_but_the_repeat_that_a_running_grace_period_saves_goes_before_all_others() {
    let count = Reuse::Count { max_uses: 3, is_last_only: true, is_same_pair: false };
    for (reuse, repeat) in [
        (grace(60), Urgency::Rescue),
        (count, Urgency::Waiting),
        (Reuse::Strict, Urgency::Waiting),
        (Reuse::Reusable, Urgency::Waiting),
    ] {
        for is_ended in [false, true] {
            let stage = stage(reuse);
            let id = stage.expired("user-42").await;
            stage.provider.next(Err(lost()));
            let caller = stage.refreshing(&id).await;
            if is_ended {
                let disconnect = stage.disconnecting(&id).await;
                stage.provider.release();
                disconnect.await.unwrap().unwrap();
                // What was lost is asked after.
                stage.clock.advance(if repeat == Urgency::Rescue { Duration::ZERO } else { LIFE });
                stage.broker.disconnect(id.clone()).await.ok();
            } else {
                stage.provider.release();
                if caller.await.unwrap().is_err() {
                    stage.clock.advance(LIFE);
                    stage.token(&id).await.unwrap();
                }
            }
            let urgencies = stage.provider.urgencies.lock().unwrap().clone();
            assert_eq!(urgencies, [Urgency::Waiting, repeat], "{reuse:?}, ended: {is_ended}");
        }
    }
}
