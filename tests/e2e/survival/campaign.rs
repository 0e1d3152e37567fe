//! Refresh, kill, start, refresh; and at the end the books of the proxy.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use token_broker::connection::ConnectionId;
use token_broker::entropy::OsEntropy;
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::token_broker_service_client::TokenBrokerServiceClient;
use token_broker::store::TokenStore as _;
use token_broker::store::guard::Opening;
use token_broker::store::keyring::KeyRing;
use token_broker::telemetry::Metrics;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use crate::broker::{Broker, Home, PROVIDER, token_of};
use crate::proxy::{Mark, Proxy, mark};

/// Somebody else's authorization server.
pub(super) trait Peer {
    /// Makes a connection of a new account.
    async fn connect(&self, broker: &Broker, name: &str);

    /// Whether the server takes the access token.
    async fn is_live(&self, access_token: &str) -> bool;
}

/// What the server does with a spent refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    Strict,
    Grace,
}

pub(super) struct Campaign<'a, P> {
    peer: &'a P,
    proxy: &'a Proxy,
    home: Home,
    habit: Habit,
    seed: u64,
    kills: Vec<Kill>,
    /// How many refreshes there had been when an access token was first served as durable.
    served: BTreeMap<Mark, usize>,
    accounts: u64,
}

/// A kill.
struct Kill {
    /// How many refreshes there had been.
    refreshes: usize,
    /// The refresh token that was on disk then.
    held: Option<Mark>,
}

/// How often a token is refreshed. Three refreshes, and a kill during the last of them.
const PACE: Duration = Duration::from_secs(1);

/// How a round ended.
enum Outcome {
    Renewed(String),
    Dead,
}

impl<'a, P: Peer> Campaign<'a, P> {
    pub(super) fn new(peer: &'a P, proxy: &'a Proxy, home: Home, habit: Habit) -> Self {
        let seed = told("PEER_SEED").unwrap_or(20_261_121);
        Self { peer, proxy, home, habit, seed, kills: Vec::new(), served: BTreeMap::new(), accounts: 0 }
    }

    pub(super) async fn fight(mut self, whom: &str) {
        println!("{whom}: seed {}", self.seed);
        let kills = usize::try_from(told("PEER_KILLS").unwrap_or(42)).unwrap();
        let began = Instant::now();
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut broker = self.home.start();
        let (mut lost, mut rounds) = (0, 0);
        let (mut name, mut current) = self.connected(&broker).await;
        while self.kills.len() < kills {
            rounds += 1;
            pace.tick().await;
            if rounds % 3 == 0 {
                let asking = tokio::spawn(asked(broker.tokens().await, renewal(&name, &current)));
                tokio::time::sleep(Duration::from_micros(self.draw() % 60_000)).await;
                broker.kill();
                let _ = asking.await;
                let refreshes = self.proxy.len();
                self.kills.push(Kill { refreshes, held: self.held(&name).await });
                broker = self.home.start();
            }
            match self.renewed(&broker, &name, &current).await {
                Outcome::Renewed(token) => {
                    assert!(self.peer.is_live(&token).await, "round {rounds}: a dead token is served as new");
                    current = token;
                }
                Outcome::Dead => {
                    lost += 1;
                    (name, current) = self.connected(&broker).await;
                }
            }
        }
        broker.stop();
        let (inside, outside) = self.spent();
        let refreshes = self.proxy.len();
        let committed = self.kills.iter().filter(|kill| self.has_committed(kill)).count();
        println!(
            "{whom}: {} s, {refreshes} refreshes, {kills} kills ({committed} with the newest refresh on disk), spent \
             tokens presented: {inside} inside the window, {} outside; grants lost: {lost}",
            began.elapsed().as_secs(),
            outside.len()
        );
        assert!(outside.is_empty(), "{}", outside.join("\n"));
        match self.habit {
            // One spent token ends one grant, and nothing else does.
            Habit::Strict => assert_eq!(lost, inside, "grants lost, and spent tokens presented"),
            Habit::Grace => assert_eq!(lost, 0),
        }
        assert!(refreshes > kills, "the broker hardly ever refreshed");
        assert!(committed > 0, "no kill came where a spent token would be outside the window");
    }

    /// What a copy of the store holds, so that the broker finds its files as the kill has left them.
    async fn held(&self, name: &str) -> Option<Mark> {
        let image = self.home.path("image");
        let copied = Command::new("cp").arg("-a").arg(self.home.path("store")).arg(&image).status();
        assert!(copied.unwrap().success());
        let keys = KeyRing::load(&self.home.path("seal.key")).unwrap();
        let opening = Opening {
            allow_throwaway: true,
            ..Opening::new(image.clone(), keys, Arc::new(OsEntropy), Arc::new(Metrics::default()))
        };
        let store = token_broker::store::sled::open(opening).unwrap();
        let id = ConnectionId::parse(String::new(), PROVIDER.to_owned(), name.to_owned()).unwrap();
        let stored = store.get(&id).await.unwrap().expect("the connection is on disk").value;
        store.close().await;
        std::fs::remove_dir_all(image).unwrap();
        stored.tokens?.refresh.map(|refresh| mark(refresh.value.expose()))
    }

    async fn connected(&mut self, broker: &Broker) -> (String, String) {
        self.accounts += 1;
        let name = format!("user-{}", self.accounts);
        self.peer.connect(broker, &name).await;
        let token = asked(broker.tokens().await, token_of(&name)).await.unwrap();
        self.note(&token);
        (name, token.access_token)
    }

    /// Asks for another token than `current` until there is one, or the broker says that the grant is dead.
    async fn renewed(&mut self, broker: &Broker, name: &str, current: &str) -> Outcome {
        let mut last = String::new();
        // Longer than a lease and two timeouts; the token that may have to die first lives for seconds.
        for _ in 0..600 {
            match asked(broker.tokens().await, renewal(name, current)).await {
                Ok(token) if token.access_token != current => {
                    self.note(&token);
                    return Outcome::Renewed(token.access_token);
                }
                Ok(_) => {}
                Err(status) => {
                    let reason = status.get_error_details().error_info().map(|info| info.reason.clone());
                    if reason.as_deref() == Some("REAUTH_REQUIRED") {
                        return Outcome::Dead;
                    }
                    last = format!("{reason:?}: {}", status.message());
                }
            }
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        panic!("{name} does not come back: {last}");
    }

    fn note(&mut self, token: &v1::GetAccessTokenResponse) {
        if token.durability() != v1::Durability::Degraded {
            let now = self.proxy.len();
            self.served.entry(mark(&token.access_token)).or_insert(now);
        }
    }

    /// Spent refresh tokens that were presented: how many inside the window, and those outside, in words.
    fn spent(&self) -> (usize, Vec<String>) {
        let books = self.proxy.books();
        let (mut inside, mut outside) = (0, Vec::new());
        for (at, refresh) in books.iter().enumerate() {
            let is_spending = |(_, earlier): &(usize, &crate::proxy::Refresh)| {
                earlier.presented == refresh.presented
                    && earlier.status == Some(200)
                    && earlier.refresh.is_some_and(|successor| successor != refresh.presented)
            };
            let Some((spent_at, earlier)) = books[..at].iter().enumerate().rev().find(is_spending) else {
                continue;
            };
            let is_served =
                earlier.access.and_then(|access| self.served.get(&access)).is_some_and(|since| *since <= at);
            let deaths = || self.kills.iter().filter(|kill| (spent_at + 1..=at).contains(&kill.refreshes));
            let has_died = deaths().next().is_some();
            let was_durable = deaths().any(|kill| kill.held == earlier.refresh);
            if is_served || !has_died || was_durable {
                outside.push(format!(
                    "refresh {at} presents what refresh {spent_at} spent; its successor was served: {is_served}; the \
                     broker was killed since: {has_died}, with the successor on disk: {was_durable}"
                ));
            } else {
                inside += 1;
            }
        }
        (inside, outside)
    }

    /// Whether the newest answer before a kill was on disk by then.
    fn has_committed(&self, kill: &Kill) -> bool {
        let books = self.proxy.books();
        let newest = books[..kill.refreshes].iter().rev().find_map(|refresh| refresh.refresh);
        newest.is_some() && newest == kill.held
    }

    fn draw(&mut self) -> u64 {
        let digest = Sha256::digest(self.seed.to_be_bytes());
        self.seed = u64::from_be_bytes(digest[..8].try_into().unwrap());
        self.seed
    }
}

fn renewal(name: &str, current: &str) -> v1::GetAccessTokenRequest {
    v1::GetAccessTokenRequest { if_not_equal_to: Sha256::digest(current).to_vec(), ..token_of(name) }
}

async fn asked(
    mut tokens: TokenBrokerServiceClient<Channel>,
    request: v1::GetAccessTokenRequest,
) -> Result<v1::GetAccessTokenResponse, tonic::Status> {
    Ok(tokens.get_access_token(request).await?.into_inner())
}

fn told(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}
