//! What becomes of refreshes when the broker ends, or when what they belong to does.

use std::future::ready;
use std::pin::pin;

use token_broker::connection::reuse::Reuse;
use token_broker::connection::Status;
use token_broker::error::Reason;

use super::stage;
use crate::kit::{LIFE, request};

#[tokio::test]
async fn what_waits_in_line_when_the_broker_drains_is_not_sent() {
    let stage = stage(Reuse::Strict);
    let mut ids = Vec::new();
    for name in ["user-1", "user-2", "user-3", "user-4"] {
        ids.push(stage.imported(name).await);
    }
    stage.clock.advance(LIFE);
    stage.provider.narrow();
    stage.provider.hold();
    let callers: Vec<_> = ids
        .iter()
        .map(|id| {
            let (broker, asked) = (stage.broker.clone(), request(id));
            tokio::spawn(async move { broker.access_token(asked).await })
        })
        .collect();
    stage.provider.requests_reach(1).await;
    stage.provider.line_reaches(4).await;
    let mut drain = pin!(stage.broker.drain());
    tokio::select! {
        biased;
        () = &mut drain => panic!("a refresh is under way"),
        () = ready(()) => {}
    }
    stage.provider.release();
    drain.await;
    let (mut served, mut refused) = (0, 0);
    for caller in callers {
        match caller.await.unwrap() {
            Ok(_) => served += 1,
            Err(error) => {
                assert_eq!(error.reason(), Reason::ShuttingDown);
                refused += 1;
            }
        }
    }
    assert_eq!((served, refused, stage.provider.presented().len()), (1, 3, 1));
    for id in &ids {
        let profile = stage.broker.connection(id).await.unwrap();
        assert_eq!((profile.status, profile.intent), (Status::Active, None), "nothing is in doubt");
    }
}
