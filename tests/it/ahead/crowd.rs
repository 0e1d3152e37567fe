//! Many connections at once, for minutes and hours: what refreshing ahead does to a provider. Time is tokio's paused
//! time, with the wall clock tied to it, so that every wait is the one that would be waited; the provider is a ledger
//! that sees every request, behind the provider's own line, budget and breaker. Slow; prints its figures, and its requests over time go to `target/bench/`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderMap, StatusCode};
use serde_json::json;
use token_broker::broker::{Ahead, AllowedUrls, Broker, Deps, Settings, Source, TokenRequest};
use token_broker::clock::{Clock, Timestamp};
use token_broker::connection::{
    AccessToken, Connection, ConnectionId, RefreshToken, Scopes, Status, TokenSet,
};
use token_broker::entropy::SeededEntropy;
use token_broker::provider::oauth::{LocalPeer, OAuthProvider};
use token_broker::secret::Secret;
use token_broker::store::memory::MemoryStore;
use token_broker::store::{Expected, Selection, TokenStore};
use token_broker::telemetry::Metrics;
use tokio::time::Instant;
use url::Url;

use crate::kit::{entry, id, request};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// The wall clock that goes with tokio's.
struct Tied(Instant);

impl Clock for Tied {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_790_000_000_000) + self.0.elapsed()
    }
}

/// A strict authorization server that takes 50 ms for each refresh and writes everything down.
struct Ledger {
    began: Instant,
    is_down: AtomicBool,
    /// What there is instead of an answer while it is down; `None`: no connection.
    instead: Option<StatusCode>,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
    /// What each refresh token in the world is good for: its generation, once.
    current: Mutex<HashMap<String, u64>>,
    /// When each request came, and whether it was refused because the provider was down.
    requests: Mutex<Vec<(Duration, bool)>>,
    /// The refresh tokens that were presented while it was down, and how often each.
    presented_in_vain: Mutex<HashMap<String, usize>>,
    duplicates: AtomicUsize,
}

impl Ledger {
    fn new(instead: Option<StatusCode>) -> Self {
        Self {
            began: Instant::now(),
            is_down: AtomicBool::new(false),
            instead,
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
            current: Mutex::default(),
            requests: Mutex::default(),
            presented_in_vain: Mutex::default(),
            duplicates: AtomicUsize::new(0),
        }
    }

    fn requests(&self) -> Vec<(Duration, bool)> {
        self.requests.lock().unwrap().clone()
    }
}

#[async_trait]
impl LocalPeer for Ledger {
    async fn post(&self, body: &[u8]) -> Option<(StatusCode, HeaderMap, Vec<u8>)> {
        let is_down = self.is_down.load(Ordering::SeqCst);
        self.requests.lock().unwrap().push((self.began.elapsed(), is_down));
        let in_flight = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_in_flight.fetch_max(in_flight, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        let presented = url::form_urlencoded::parse(body).find(|(key, _)| key == "refresh_token").unwrap().1;
        if is_down {
            *self.presented_in_vain.lock().unwrap().entry(presented.into_owned()).or_default() += 1;
            return self.instead.map(|status| (status, HeaderMap::new(), Vec::new()));
        }
        let (name, generation) = presented.rsplit_once('#').unwrap();
        let generation: u64 = generation.parse().unwrap();
        let mut current = self.current.lock().unwrap();
        let known = current.entry(name.to_owned()).or_insert(0);
        if *known != generation {
            self.duplicates.fetch_add(1, Ordering::SeqCst);
            let denied = json!({"error": "invalid_grant"});
            return Some((StatusCode::BAD_REQUEST, HeaderMap::new(), denied.to_string().into_bytes()));
        }
        *known += 1;
        let issued = json!({
            "access_token": format!("at-{name}#{known}"),
            "token_type": "Bearer",
            "expires_in": HOUR.as_secs(),
            "refresh_token": format!("{name}#{known}"),
        });
        Some((StatusCode::OK, HeaderMap::new(), issued.to_string().into_bytes()))
    }
}

/// What a provider is held to unless its entry says otherwise: at most so many at a time, and in any span of a second.
const PLACES: usize = 4;
const BUDGET: usize = 50;

/// The provider itself, gate, budget and breaker as they come, with the ledger in the place of the network.
fn provider(ledger: Arc<Ledger>, clock: Arc<Tied>, metrics: Arc<Metrics>) -> OAuthProvider {
    let config = entry::local("sandbox", &json!({}));
    let (places, budget) = (config.spec.max_parallel_refresh, &config.spec.token_budget);
    assert_eq!((places, budget.count, budget.per.duration()), (PLACES as u32, BUDGET as u32, SECOND));
    OAuthProvider::local(config, ledger, clock, metrics)
}

/// The most requests that arrived in any span of a second.
fn most_in_a_second(requests: &[(Duration, bool)]) -> usize {
    let mut until = 0;
    let within = |from: usize| {
        while until < requests.len() && requests[until].0 < requests[from].0 + SECOND {
            until += 1;
        }
        until - from
    };
    (0..requests.len()).map(within).max().unwrap_or(0)
}

struct Crowd {
    broker: Arc<Broker>,
    provider: Arc<Ledger>,
    store: Arc<MemoryStore>,
    clock: Arc<Tied>,
    count: usize,
}

impl Crowd {
    /// `count` connections whose hour ends, spread evenly, between `from` and `to` from now.
    async fn new(count: usize, from: Duration, to: Duration, instead: Option<StatusCode>) -> Self {
        let clock = Arc::new(Tied(Instant::now()));
        let store = Arc::new(MemoryStore::default());
        let provider = Arc::new(Ledger::new(instead));
        for n in 0..count {
            let ends_in = from + (to - from) * u32::try_from(n).unwrap() / u32::try_from(count).unwrap();
            let expires_at = clock.now() + ends_in;
            let tokens = TokenSet {
                access: Some(AccessToken {
                    value: Secret::new(format!("at-user-{n}#0")),
                    token_type: "Bearer".into(),
                    issued_at: expires_at - HOUR,
                    expires_at: Some(expires_at),
                }),
                refresh: Some(RefreshToken { value: Secret::new(format!("user-{n}#0")), expires_at: None }),
                previous: None,
                surplus: Vec::new(),
            };
            let id = id(&format!("user-{n}"));
            let mut connection = Connection::pending(id, expires_at - HOUR).imported(
                tokens,
                Scopes::default(),
                expires_at - HOUR,
            );
            connection.profile.asked_at = Some(clock.now());
            TokenStore::put(&*store, &connection, Expected::Absent).await.unwrap();
        }
        let metrics = Arc::new(Metrics::default());
        let client = self::provider(provider.clone(), clock.clone(), metrics.clone());
        let deps = Deps {
            clock: clock.clone(),
            entropy: Arc::new(SeededEntropy::new(42)),
            tokens: store.clone(),
            sessions: store.clone(),
            escrow: None,
            providers: vec![Arc::new(client)],
            metrics,
        };
        let settings = Settings {
            public_url: Url::parse("http://127.0.0.1:7451").unwrap(),
            return_urls: AllowedUrls { exact: Vec::new(), is_loopback_allowed: false },
            redirect_uris: AllowedUrls { exact: Vec::new(), is_loopback_allowed: false },
            ended_histories: 0,
        };
        Self { broker: Broker::new(deps, settings), provider, store, clock, count }
    }

    /// Asks for tokens of the crowd in turns, `per_second` a second, until `until` from the start; counts what came.
    async fn ask(&self, per_second: u32, until: Duration) -> Asked {
        let mut asked = Asked::default();
        let mut n = 0;
        while self.clock.0.elapsed() < until {
            tokio::time::sleep(SECOND / per_second).await;
            // A stride that is prime to the count comes by everybody.
            n = (n + 7919) % self.count;
            let id: ConnectionId = id(&format!("user-{n}"));
            let request = TokenRequest { allow_stale: true, ..request(&id) };
            match self.broker.access_token(request).await {
                Ok(answer) => {
                    asked.answers += 1;
                    asked.expired += usize::from(!answer.token.access.is_alive(self.clock.now()));
                    asked.waited += usize::from(matches!(answer.source, Source::Refreshed));
                }
                Err(_) => asked.errors += 1,
            }
        }
        asked
    }
}

#[derive(Debug, Default)]
struct Asked {
    answers: usize,
    expired: usize,
    waited: usize,
    errors: usize,
}

/// Requests in each `step`, as lines of `seconds count`.
fn written(name: &str, requests: &[(Duration, bool)], step: Duration) -> Vec<usize> {
    let mut counts = Vec::new();
    for (at, _) in requests {
        let at = usize::try_from(at.as_secs() / step.as_secs()).unwrap();
        counts.resize(counts.len().max(at + 1), 0);
        counts[at] += 1;
    }
    let mut text = String::new();
    for (n, count) in counts.iter().enumerate() {
        writeln!(text, "{} {count}", n as u64 * step.as_secs()).unwrap();
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench");
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(format!("{folder}/{name}.txt"), text).unwrap();
    counts
}

#[tokio::test(start_paused = true)]
#[ignore = "slow: tests/run.sh --only slow"]
async fn ten_thousand_that_expire_within_five_minutes_are_done_before_and_not_at_once() {
    let crowd = Crowd::new(10_000, 15 * MINUTE, 20 * MINUTE, None).await;
    crowd.broker.start_ahead(Ahead::default());
    let asked = crowd.ask(50, 21 * MINUTE).await;
    crowd.broker.drain().await;
    let requests = crowd.provider.requests();
    let per_second = written("ahead-crowd", &requests, SECOND);
    let (first, last) = (requests.first().unwrap().0, requests.last().unwrap().0);
    let busiest = per_second.iter().max().unwrap();
    let in_a_second = most_in_a_second(&requests);
    let most = crowd.provider.most_in_flight.load(Ordering::SeqCst);
    let duplicates = crowd.provider.duplicates.load(Ordering::SeqCst);
    println!(
        "10,000 connections whose tokens expire from 15:00 to 20:00: {} refreshes from {:.0} s to {:.0} s, busiest second \
         {busiest}, at most {most} in flight and {in_a_second} in any second; {duplicates} duplicates; callers: {asked:?}",
        requests.len(),
        first.as_secs_f64(),
        last.as_secs_f64()
    );
    assert_eq!((requests.len(), duplicates), (10_000, 0));
    assert_eq!((asked.expired, asked.waited, asked.errors), (0, 0, 0));
    assert!(most <= PLACES && in_a_second <= BUDGET, "{most} at a time, {in_a_second} in a second");
    assert!(last < 20 * MINUTE, "{last:?}");
}

/// What an outage of thirty minutes was met by.
struct Outage {
    crowd: Crowd,
    /// Requests while it lasted.
    probes: usize,
    /// Connections whose refresh token was presented while it lasted, and how often one was presented again.
    risked: usize,
    again: usize,
}

/// Ten thousand connections whose tokens end at any time of the hour, as those of a grown crowd do, and their callers.
async fn outage(name: &str, instead: Option<StatusCode>) -> Outage {
    let crowd = Crowd::new(10_000, MINUTE, HOUR, instead).await;
    crowd.broker.start_ahead(Ahead::default());
    let (down_at, back_at, end) = (20 * MINUTE, 50 * MINUTE, 80 * MINUTE);
    let before = crowd.ask(5, down_at).await;
    crowd.provider.is_down.store(true, Ordering::SeqCst);
    let during = crowd.ask(5, back_at).await;
    crowd.provider.is_down.store(false, Ordering::SeqCst);
    let asked = crowd.ask(20, end).await;
    crowd.broker.drain().await;
    let requests = crowd.provider.requests();
    let per_second = written(name, &requests, 10 * SECOND);
    let probes = requests.iter().filter(|(_, is_down)| *is_down).count();
    let after: Vec<_> =
        requests.iter().filter(|(at, _)| *at >= back_at).map(|(at, _)| *at - back_at).collect();
    let mut seconds = vec![0_u32; 1 + usize::try_from(after.last().unwrap().as_secs()).unwrap()];
    after.iter().for_each(|at| seconds[usize::try_from(at.as_secs()).unwrap()] += 1);
    // The backlog is made up for when the requests are back at what they were.
    let busy = seconds.iter().take_while(|count| **count < 20).count();
    let calm = seconds.iter().skip(busy).position(|count| *count < 20).unwrap_or(seconds.len());
    let (risked, again) = {
        let presented = crowd.provider.presented_in_vain.lock().unwrap();
        (presented.len(), presented.values().sum::<usize>() - presented.len())
    };
    println!(
        "outage of 30 minutes: {probes} probes with {risked} refresh tokens; backlog made up for over {calm} s, beginning \
         {busy} s after the provider was back, busiest second {}, busiest 10 s of the whole run {}; duplicates {}; callers \
         before: {before:?}, during: {during:?}, afterwards: {asked:?}",
        seconds.iter().max().unwrap(),
        per_second.iter().max().unwrap(),
        crowd.provider.duplicates.load(Ordering::SeqCst),
    );
    assert!(calm >= 59, "{calm}");
    let (most, in_a_second) =
        (crowd.provider.most_in_flight.load(Ordering::SeqCst), most_in_a_second(&requests));
    assert!(most <= PLACES && in_a_second <= BUDGET, "{most} at a time, {in_a_second} in a second");
    assert_eq!(crowd.provider.duplicates.load(Ordering::SeqCst), 0);
    assert_eq!((before.expired, during.expired, asked.expired), (0, 0, 0));
    assert_eq!(before.errors, 0, "{before:?}");
    Outage { crowd, probes, risked, again }
}

#[tokio::test(start_paused = true)]
#[ignore = "slow: tests/run.sh --only slow"]
async fn an_outage_of_thirty_minutes_is_met_by_probes_and_its_end_by_no_herd() {
    let outage = outage("ahead-outage", None).await;
    assert!(outage.probes <= 60, "{}", outage.probes);
}

#[tokio::test(start_paused = true)]
#[ignore = "slow: tests/run.sh --only slow"]
async fn an_outage_that_leaves_every_outcome_open_costs_few_grants_their_certainty() {
    let outage = outage("ahead-lost", Some(StatusCode::BAD_GATEWAY)).await;
    println!("AMBIGUOUS: {} of 10,000, asked again meanwhile: {}", outage.risked, outage.again);
    // Those that open the breaker, and its probes: one a minute.
    assert!(outage.risked <= 40 && outage.probes <= 60, "{} of {}", outage.risked, outage.probes);
    let left = Selection { status: Some(Status::Ambiguous), ..Selection::default() };
    let left = outage.crowd.store.list(&left, None, 1000).await.unwrap().profiles.len();
    assert_eq!(left, 0, "each is found out");
}

#[tokio::test]
#[ignore = "slow: tests/run.sh --only slow"]
async fn a_hundred_thousand_connections_cost_little_to_keep_in_order() {
    const COUNT: usize = 100_000;
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let cpu_ticks = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<u64> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse().unwrap())
            .collect();
        fields.iter().sum::<u64>()
    };
    let crowd = Crowd::new(COUNT, 10 * HOUR, 20 * HOUR, None).await;
    let (before, began) = (resident(), Instant::now());
    crowd.broker.start_ahead(Ahead::default());
    while crowd.broker.scheduled_connections() < COUNT {
        tokio::task::yield_now().await;
    }
    let (took, after, ticks) = (began.elapsed(), resident(), cpu_ticks());
    let watched = Duration::from_secs(10);
    tokio::time::sleep(watched).await;
    println!(
        "100,000 connections in order after {:.2} s, {} bytes of memory each; {} ms of CPU in {watched:?} with nothing due",
        took.as_secs_f64(),
        after.saturating_sub(before) / COUNT,
        (cpu_ticks() - ticks) * 10,
    );
    assert!(after.saturating_sub(before) / COUNT < 1024);
    drop(crowd.store);
}
