//! Access tokens that their provider ended when it issued their successors: looked for in memory from the moment at which
//! the answer is here, while it is on its way to the disk.

use std::sync::Arc;
use std::time::Duration;

use token_broker::broker::TokenRequest;
use token_broker::store::TokenStore as _;
use tokio::sync::mpsc;

use super::truth::{held, id, owner};
use super::{Life, World, in_paused_time};

/// When it is looked, after an answer: while it is written, and while a disk that says no is tried again.
const LOOKS: [Duration; 3] =
    [Duration::from_millis(1), Duration::from_millis(99), Duration::from_millis(200)];

/// An answer that a run of the broker has.
pub(super) struct Arrival {
    pub(super) grant: String,
    pub(super) number: u32,
    pub(super) run: u64,
}

impl Life {
    /// From now on looks after each answer. Takes none of the dice, so a life is the same with it.
    pub(super) fn look_between(self: &Arc<Self>) {
        let (sender, mut arrivals) = mpsc::unbounded_channel();
        *self.truth.arrivals.lock().unwrap() = Some(sender);
        let life = self.clone();
        tokio::spawn(async move {
            while let Some(arrival) = arrivals.recv().await {
                let life = life.clone();
                tokio::spawn(async move { life.look_after(&arrival).await });
            }
        });
    }

    async fn look_after(&self, arrival: &Arrival) {
        let name = owner(&arrival.grant);
        for pause in LOOKS {
            tokio::time::sleep(pause).await;
            let (broker, power, run) = self.running();
            if run != arrival.run || power.is_cut() {
                return;
            }
            let stored = self.disk.get(&id(name)).await.unwrap();
            let is_durable = stored
                .and_then(|stored| held(&stored.value))
                .is_none_or(|(grant, number)| grant != arrival.grant || number >= arrival.number);
            self.truth.met.lock().unwrap().between += u64::from(self.world.ends_old && !is_durable);
            if let Some(hit) = broker.cached(&whatever_lives(name)) {
                self.truth.check_ended(hit.token.access.value.expose(), run).await;
            }
        }
    }
}

fn whatever_lives(name: &str) -> TokenRequest {
    TokenRequest {
        id: id(name),
        scopes: Vec::new(),
        min_ttl: Some(Duration::ZERO),
        if_not_equal_to: None,
        allow_stale: true,
    }
}

/// The check can fail: a token that is served after the run has had its successor is found out, and not before.
#[test]
fn an_ended_token_is_noticed_once_its_successor_has_come() {
    in_paused_time(async {
        let life = Life::begin_in(World { ends_old: true, ..World::PLAIN }, 4).await;
        let (_, _, run) = life.running();
        assert_eq!(life.truth.spend("c1", 0, run).unwrap(), 1);
        life.truth.check_ended("at-c1-0", run).await;
        assert_eq!(life.truth.met.lock().unwrap().in_doubt, 1, "nobody was told of it");
        life.truth.has_arrived("c1", 1, run);
        tokio::time::sleep(Duration::from_millis(1)).await;
        life.truth.check_ended("at-c1-1", run).await;
        life.truth.check_ended("at-c1-0", run + 1).await;
        assert_eq!(life.truth.broken.lock().unwrap().len(), 0);
        life.truth.check_ended("at-c1-0", run).await;
        let broken = life.truth.broken.lock().unwrap().clone();
        assert_eq!(broken, ["ended: at-c1-0 was served although 1 is known to have ended it"]);
    });
}
