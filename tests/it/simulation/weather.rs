//! What befalls a broker, one thing at a time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use token_broker::broker::ImportConnection;
use token_broker::clock::Clock as _;
use token_broker::secret::Secret;
use token_broker::store::TokenStore as _;

use super::truth::{LIFE, held, id};
use super::{CONNECTIONS, Life};

const SECOND: i64 = 1000;
const HOUR: i64 = 3600 * SECOND;
const DAY: i64 = 24 * HOUR;

impl Life {
    pub(super) async fn befall(&self) {
        // A disk that is full and a kill together can cost tokens that only memory holds: two faults.
        let has_kills = self.seed.is_multiple_of(2);
        match self.dice.below(12) {
            0..=4 if has_kills && !self.truth.is_merciful() => self.kill().await,
            5 | 6 => {
                let (broker, _, _) = self.running();
                broker.drain().await;
                self.restart().await;
            }
            0..=3 if !self.truth.is_merciful() => {
                self.truth.show_mercy();
                self.is_full.store(true, Ordering::SeqCst);
                tokio::time::sleep(self.dice.millis(30_000)).await;
                self.is_full.store(false, Ordering::SeqCst);
            }
            7 => self.set_the_clock().await,
            8 if self.dice.one_in(6) => self.disconnect().await,
            9 if self.dice.one_in(2) => self.consent_again().await,
            10 => self.crowd().await,
            11 if self.world.is_gated => self.outage().await,
            _ => {}
        }
    }

    /// Nobody reaches the provider for a while, and nothing is spent there.
    async fn outage(&self) {
        if self.truth.is_merciful() {
            return;
        }
        self.truth.show_mercy();
        self.truth.is_down.store(true, Ordering::SeqCst);
        tokio::time::sleep(self.dice.millis(90_000)).await;
        self.truth.is_down.store(false, Ordering::SeqCst);
    }

    async fn kill(&self) {
        let (_, power, _) = self.running();
        power.cut();
        self.truth.show_mercy();
        for at in 0..CONNECTIONS {
            let name = format!("c{at}");
            let stored = self.disk.get(&id(&name)).await.unwrap();
            self.truth.forget_unstored(&name, stored.and_then(|stored| held(&stored.value)));
        }
        self.restart().await;
    }

    /// A connection, and in half of all cases the moment at which a request of it is under way, if there is one soon.
    async fn moment_of_one(&self) -> String {
        let mut name = format!("c{}", self.dice.below(CONNECTIONS));
        if self.dice.one_in(2) {
            return name;
        }
        for _ in 0..600 {
            if let Some(busy) =
                (0..CONNECTIONS).map(|at| format!("c{at}")).find(|name| self.truth.is_asked_for(name))
            {
                name = busy;
                tokio::time::sleep(self.dice.millis(500)).await;
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        name
    }

    /// By seconds, by up to an hour, by a day; also while a request is under way. A fault, like the others.
    async fn set_the_clock(&self) {
        self.moment_of_one().await;
        if self.truth.is_merciful() {
            return;
        }
        let most = [20 * SECOND, HOUR, HOUR, DAY][usize::try_from(self.dice.below(4)).unwrap()];
        let by = i64::try_from(self.dice.below(u64::try_from(2 * most).unwrap())).unwrap() - most;
        self.truth.show_mercy();
        let is_under_way = (0..CONNECTIONS).any(|at| self.truth.is_asked_for(&format!("c{at}")));
        self.truth.met.lock().unwrap().jumps_under_way += u64::from(is_under_way);
        self.clock.jump(by);
        self.truth.forget_waits();
    }

    async fn disconnect(&self) {
        let name = format!("c{}", self.dice.below(CONNECTIONS));
        let (broker, power, _) = self.running();
        let outcome = broker.disconnect(id(&name)).await;
        if !power.is_cut() && outcome.is_ok() {
            self.ended.lock().unwrap().insert(name);
        }
    }

    /// The owner consents once more, perhaps while the grant before is being refreshed, perhaps after it was ended.
    async fn consent_again(&self) {
        let name = self.moment_of_one().await;
        let (broker, _, run) = self.running();
        let was_ended = self.ended.lock().unwrap().remove(&name);
        let is_new = self.disk.get(&id(&name)).await.unwrap().is_none();
        if is_new {
            self.generations.lock().unwrap().remove(&name);
        }
        let grant = self.truth.consent(&name, run);
        let import = ImportConnection {
            id: id(&name),
            refresh_token: Some(Secret::new(format!("rt-{grant}-0"))),
            access_token: Some(Secret::new(format!("at-{grant}-0"))),
            expires_at: Some(self.clock.now() + LIFE),
            scopes: Vec::new(),
            variables: Default::default(),
            replace: true,
        };
        // Refused where it is still being revoked: then it stays ended.
        if broker.import_connection(import).await.is_err() && was_ended {
            self.ended.lock().unwrap().insert(name);
        }
    }
}
