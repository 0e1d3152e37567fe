//! Hours of a broker's life in milliseconds: many callers that hang up, a provider that breaks off, restarts, kills, a
//! full disk, waits that are asked for, a clock that is set while requests are under way, disconnects, new consents; in half of them the provider is
//! behind its own line, budget and breaker, in half of them tokens are refreshed ahead, and in half of them the provider ends
//! the old access token when it rotates. Each seed is one life and always the same one; the invariants of refresh.md section
//! 2.8 are looked at all along. A seed that fails is printed: put it into `REGRESSIONS`.

mod calm;
mod crowd;
mod ended;
mod gate;
mod provider;
mod race;
mod truth;
mod weather;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gate::Gate;
use provider::{Peer, SimProvider, issued};
use token_broker::broker::{Ahead, AllowedUrls, Broker, Deps, Durability, Settings, TokenRequest, Trust};
use token_broker::clock::Clock as _;
use token_broker::connection::{Connection, ProviderKey, Scopes};
use token_broker::entropy::SeededEntropy;
use token_broker::error::Reason;
use token_broker::store::memory::MemoryStore;
use token_broker::store::{Expected, TokenStore as _};
use token_broker::telemetry::Metrics;
use truth::{Kind, Met, Truth, id};
use world::{Dice, Power, SimClock, SimStore};

/// Seeds that failed once.
const REGRESSIONS: &[u64] = &[1071, 1081, 1177, 1181, 1207, 1333, 1421];

/// Seeds of an everyday run.
const EVERYDAY: std::ops::Range<u64> = 1..13;
const CONNECTIONS: u64 = 4;
const CALLERS: u64 = 6;
/// How long a life lasts.
const SPAN: Duration = Duration::from_secs(3600);

/// What a life has besides callers and a provider.
#[derive(Clone, Copy)]
struct World {
    /// The provider's own line, budget and breaker are before it.
    is_gated: bool,
    /// Tokens are refreshed before anybody asks.
    is_ahead: bool,
    /// A 429 of the provider is about all of its requests.
    throttles_client: bool,
    /// An access token is dead at the provider from the moment at which its successor is issued.
    ends_old: bool,
}

impl World {
    const PLAIN: Self = Self { is_gated: false, is_ahead: false, throttles_client: false, ends_old: false };

    /// That of a seed: half of them have each. The last changes three seeds at a time, for the kinds of providers take turns.
    fn of(seed: u64) -> Self {
        Self {
            is_gated: seed & 2 != 0,
            is_ahead: seed & 4 != 0,
            throttles_client: seed & 8 != 0,
            ends_old: (seed / 3) & 1 != 0,
        }
    }
}

/// One life.
struct Life {
    seed: u64,
    world: World,
    dice: Arc<Dice>,
    truth: Arc<Truth>,
    clock: Arc<SimClock>,
    disk: Arc<MemoryStore>,
    is_full: Arc<AtomicBool>,
    run: Mutex<(Arc<Broker>, Power, u64)>,
    /// Connections whose Disconnect has returned.
    ended: Mutex<BTreeSet<String>>,
    generations: Mutex<BTreeMap<String, u64>>,
    /// How many callers wait for a token of each connection.
    waiting: Mutex<BTreeMap<String, u64>>,
}

impl Life {
    async fn begin(seed: u64) -> Arc<Self> {
        Self::begin_in(World::of(seed), seed).await
    }

    async fn begin_in(world: World, seed: u64) -> Arc<Self> {
        let dice = Arc::new(Dice::new(seed));
        let disk = Arc::new(MemoryStore::new(Arc::new(SeededEntropy::new(seed))));
        let kind = [Kind::Reusable, Kind::Grace, Kind::Strict][usize::try_from(seed % 3).unwrap()];
        let clock = Arc::new(SimClock::new());
        let truth = Arc::new(Truth::new((kind, world.ends_old), dice.clone(), clock.clone(), disk.clone()));
        let is_full = Arc::new(AtomicBool::new(false));
        for at in 0..CONNECTIONS {
            let name = format!("c{at}");
            // Stored, and in no run's memory until somebody asks.
            truth.consent(&name, u64::MAX);
            let tokens = issued(&name, 0).into_set(None, clock.now());
            let connection =
                Connection::pending(id(&name), clock.now()).imported(tokens, Scopes::default(), clock.now());
            disk.put(&connection, Expected::Absent).await.unwrap();
            truth.check_write(None, &connection);
        }
        let (broker, power) = start(seed, world, 0, &truth, &clock, &disk, &is_full);
        broker.recover(Trust::Sound).await.unwrap();
        if world.is_ahead {
            broker.start_ahead(Ahead::default());
        }
        let life = Arc::new(Self {
            seed,
            world,
            dice,
            truth,
            clock,
            disk,
            is_full,
            run: Mutex::new((broker, power, 0)),
            ended: Mutex::default(),
            generations: Mutex::default(),
            waiting: Mutex::default(),
        });
        life.look_between();
        life
    }

    /// The broker that runs, its switch and its number.
    fn running(&self) -> (Arc<Broker>, Power, u64) {
        self.run.lock().unwrap().clone()
    }

    /// The next run over the same disk.
    async fn restart(&self) {
        self.truth.forget_unwritten_waits().await;
        let number = self.run.lock().unwrap().2 + 1;
        let (seed, world) = (self.seed, self.world);
        let (broker, power) = start(seed, world, number, &self.truth, &self.clock, &self.disk, &self.is_full);
        *self.run.lock().unwrap() = (broker.clone(), power, number);
        broker.recover(Trust::Sound).await.unwrap();
        broker.resume_revocations().await.unwrap();
        if self.world.is_ahead {
            broker.start_ahead(Ahead::default());
        }
    }

    async fn call(&self) {
        let name = format!("c{}", self.dice.below(CONNECTIONS));
        let was_ended = self.ended.lock().unwrap().contains(&name);
        let request = TokenRequest {
            id: id(&name),
            scopes: Vec::new(),
            min_ttl: self.dice.one_in(4).then(|| Duration::from_secs(self.dice.below(400))),
            if_not_equal_to: None,
            allow_stale: self.dice.one_in(2),
        };
        let (broker, power, run) = self.running();
        // Some hang up before any provider has answered.
        let patience = self.dice.millis(if self.dice.one_in(2) { 20_000 } else { 1500 });
        let was_dead = self.truth.is_dead(&name);
        *self.waiting.lock().unwrap().entry(name.clone()).or_default() += 1;
        let asking = tokio::time::timeout(patience, broker.access_token(request)).await;
        let still_waiting = {
            let mut waiting = self.waiting.lock().unwrap();
            let waiting = waiting.get_mut(&name).unwrap();
            *waiting -= 1;
            *waiting
        };
        if power.is_cut() {
            return;
        }
        let Ok(answer) = asking else {
            let is_abandoned = still_waiting == 0 && self.truth.is_asked_for(&name);
            self.truth.met.lock().unwrap().abandoned += u64::from(is_abandoned);
            return;
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let is_dead = was_dead || self.truth.is_dead(&name);
                if error.reason() == Reason::ReauthRequired && !is_dead {
                    self.truth.breach(format!("false death of {name}: {error}"));
                }
                return;
            }
        };
        let token = &answer.token;
        if was_ended && self.ended.lock().unwrap().contains(&name) {
            self.truth.breach(format!("I8: {name} was served after its disconnect"));
        }
        if !token.access.is_alive(self.clock.now()) {
            self.truth.breach(format!("an expired token of {name} was served"));
        }
        self.truth.check_served(token.access.value.expose(), run);
        if answer.durability == Durability::Durable {
            self.truth.check_ended(token.access.value.expose(), run).await;
        }
        let stored = self.disk.get(&id(&name)).await.unwrap().map(|stored| stored.value.profile.generation);
        let is_durable = stored.is_none_or(|stored| stored >= token.generation);
        if !is_durable && answer.durability == Durability::Durable {
            self.truth.breach(format!("I3: generation {} of {name} is not durable", token.generation));
        }
        self.watch(&name, stored.unwrap_or(u64::MAX));
    }

    fn watch(&self, name: &str, generation: u64) {
        let mut generations = self.generations.lock().unwrap();
        let highest = generations.entry(name.to_owned()).or_default();
        if generation < *highest {
            self.truth.breach(format!("I4: {name} went from {highest} to {generation}"));
        }
        *highest = generation.max(*highest);
    }
}

fn start(
    seed: u64,
    world: World,
    number: u64,
    truth: &Arc<Truth>,
    clock: &Arc<SimClock>,
    disk: &Arc<MemoryStore>,
    is_full: &Arc<AtomicBool>,
) -> (Arc<Broker>, Power) {
    let power = Power::default();
    let peer = Arc::new(Peer { truth: truth.clone(), power: power.clone(), run: number });
    let provider = SimProvider {
        key: ProviderKey::parse("sim").unwrap(),
        scopes: Scopes::default(),
        gate: world.is_gated.then(|| Gate::new(peer.clone(), world.throttles_client)),
        peer,
    };
    let tokens =
        SimStore { disk: disk.clone(), truth: truth.clone(), power: power.clone(), is_full: is_full.clone() };
    let deps = Deps {
        clock: clock.clone(),
        entropy: Arc::new(SeededEntropy::new(seed.wrapping_mul(1000) + number + 1)),
        tokens: Arc::new(tokens),
        sessions: disk.clone(),
        escrow: None,
        providers: vec![Arc::new(provider)],
        metrics: Arc::new(Metrics::default()),
    };
    let settings = Settings {
        public_url: url::Url::parse("http://127.0.0.1:7451").unwrap(),
        return_urls: AllowedUrls::default(),
        redirect_uris: AllowedUrls::default(),
        ended_histories: 10,
    };
    (Broker::new(deps, settings), power)
}

/// Lives one life; answers every breach, the number of token requests, and what was met.
fn live(seed: u64) -> (Vec<String>, u64, Met) {
    in_paused_time(async {
        let life = Life::begin(seed).await;
        let until = tokio::time::Instant::now() + SPAN;
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let life = life.clone();
                tokio::spawn(async move {
                    while tokio::time::Instant::now() < until {
                        tokio::time::sleep(life.dice.millis(60_000)).await;
                        life.call().await;
                    }
                })
            })
            .collect();
        while tokio::time::Instant::now() < until {
            tokio::time::sleep(life.dice.millis(60_000)).await;
            life.befall().await;
        }
        for caller in callers {
            caller.await.unwrap();
        }
        life.end().await;
        let broken = life.truth.broken.lock().unwrap().clone();
        let requests = *life.truth.requests.lock().unwrap();
        let met = *life.truth.met.lock().unwrap();
        (broken, requests, met)
    })
}

fn live_all(seeds: impl Iterator<Item = u64>) -> Met {
    let (mut lives, mut requests, mut failed) = (0, 0, Vec::new());
    let mut met = Met::default();
    for seed in seeds {
        let (broken, count, met_now) = live(seed);
        lives += 1;
        requests += count;
        met.add(met_now);
        if !broken.is_empty() {
            println!("seed {seed}: {broken:#?}");
            failed.push(seed);
        }
    }
    println!(
        "simulation: {lives} lives of {SPAN:?}, {requests} token requests, {met}, {} breached",
        failed.len()
    );
    assert!(failed.is_empty(), "seeds that broke an invariant: {failed:?}");
    met
}

#[test]
fn no_life_breaks_an_invariant() {
    let met = live_all(REGRESSIONS.iter().copied().chain(EVERYDAY));
    let is_all = met.ahead > 0
        && met.abandoned > 0
        && met.jumps_under_way > 0
        && met.stale > 0
        && met.crowds > 0
        && met.full > 0
        && met.probes > 0
        && met.waits > 0
        && met.between > 0
        && met.in_doubt > 0;
    assert!(is_all, "not everything was met: {met}");
}

#[test]
#[ignore = "slow: tests/run.sh --only slow"]
fn no_life_of_many_breaks_an_invariant() {
    let seed = std::env::var("TOKEN_BROKER_SIMULATION_SEED").ok().and_then(|seed| seed.parse().ok());
    match seed {
        Some(seed) => live_all(std::iter::once(seed)),
        None => live_all(1000..1500),
    };
}

fn in_paused_time<T>(work: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(work)
}

/// The check can fail: a provider that forgets its grants is found out.
#[test]
fn a_lost_grant_is_noticed() {
    in_paused_time(async {
        let life = Life::begin(4).await;
        life.truth.grants.lock().unwrap().get_mut("c1").unwrap().is_dead = true;
        life.end().await;
        let broken = life.truth.broken.lock().unwrap().clone();
        assert_eq!(broken, ["I5/I6: the grant of c1 is lost"]);
    });
}

/// So is a request that does not wait as long as its provider asked.
#[test]
fn a_request_before_the_end_of_a_wait_is_noticed() {
    in_paused_time(async {
        let life = Life::begin(4).await;
        life.truth.is_calm.store(true, Ordering::SeqCst);
        life.truth.tell("c1", Some(Duration::from_secs(30)));
        let (broker, _, _) = life.running();
        broker.refresh_connection(id("c1"), None).await.unwrap();
        let broken = life.truth.broken.lock().unwrap().clone();
        assert_eq!(broken.len(), 1, "{broken:?}");
        assert!(broken[0].starts_with("wait: c1 is asked for"), "{broken:?}");
    });
}

/// Whatever pauses an outage of an hour has left.
#[test]
fn an_hour_in_which_no_request_arrives_keeps_nobody_from_a_fresh_token_for_long_afterwards() {
    in_paused_time(async {
        let life = Life::begin_in(World::PLAIN, 4).await;
        life.clock.jump(i64::try_from(truth::LIFE.as_millis()).unwrap());
        life.truth.is_down.store(true, Ordering::SeqCst);
        let (broker, _, _) = life.running();
        let until = tokio::time::Instant::now() + SPAN;
        while tokio::time::Instant::now() < until {
            for at in 0..CONNECTIONS {
                broker.refresh_connection(id(&format!("c{at}")), None).await.unwrap_err();
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        life.truth.is_down.store(false, Ordering::SeqCst);
        life.end().await;
        assert_eq!(life.truth.broken.lock().unwrap().clone(), Vec::<String>::new());
    });
}

/// So is a grant that lives and cannot be refreshed.
#[test]
fn a_grant_without_a_fresh_token_is_noticed() {
    in_paused_time(async {
        let life = Life::begin(4).await;
        life.clock.jump(i64::try_from(truth::LIFE.as_millis()).unwrap());
        life.is_full.store(true, Ordering::SeqCst);
        life.end().await;
        let broken = life.truth.broken.lock().unwrap().clone();
        for name in ["c0", "c1", "c2", "c3"] {
            let its = |what: &&String| what.starts_with(&format!("I12: {name} lives and got no fresh token"));
            let found = broken.iter().filter(its).count();
            assert_eq!(found, 2, "as the weather left it, and with nothing to wait for: {broken:#?}");
        }
        assert_eq!(broken.len(), 8);
    });
}
