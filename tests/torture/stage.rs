//! One provider, one broker, and the hands that hold both: what a round of torture happens on.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use token_broker::entropy::OsEntropy;
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::ConnectionStatus;
use token_broker::grpc::proto::v1::connection_service_client::ConnectionServiceClient;
use token_broker::grpc::proto::v1::token_broker_service_client::TokenBrokerServiceClient;
use token_broker::sandbox::{
    Behavior, Effect, Exchange, Fault, Generation, GrantId, Hold, Lifetimes, On, Sandbox, SandboxOptions,
};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt as _;

use super::hand::Hand;
use super::home::{Home, PROVIDER};
use super::process::{PATIENCE, Process};
use super::profile::{Habit, Profile};
use super::tally::Row;

/// How long access tokens live, unless a fault wants another life.
pub(crate) const LIFE: Duration = Duration::from_secs(300);

/// How long the kit waits for an answer, as an app does.
const PATIENCE_OF_A_CALLER: Duration = Duration::from_secs(15);

/// A grace period that is longer than anything the kit does while it holds an answer.
const LONG_GRACE: Duration = Duration::from_secs(60);

pub(crate) type Token = v1::GetAccessTokenResponse;

pub(crate) struct Stage {
    pub(crate) profile: Profile,
    pub(crate) home: Home,
    pub(crate) hand: Arc<Hand>,
    pub(crate) sandbox: Sandbox,
    running: Option<(Process, Channel)>,
    /// How many exchanges there were at each moment at which a broker died.
    pub(crate) deaths: Vec<u64>,
    /// How many commits there were then.
    pub(crate) commits: Vec<usize>,
    /// Tokens that were served although the same broker's successor of them had been, in words.
    pub(crate) stepped_back: Mutex<Vec<String>>,
    grants: u64,
}

/// A connection, and what the kit knows of it.
pub(crate) struct Grant {
    pub(crate) name: String,
    pub(crate) id: GrantId,
    /// The access token served last.
    pub(crate) current: String,
    /// The refresh token whose companion was served, and how many exchanges there had been by then: from there on no
    /// older one may be presented.
    pub(crate) served: Option<(u64, Generation)>,
}

impl Stage {
    /// A stage for this row's provider and engine.
    pub(crate) async fn new(row: &Row) -> Self {
        Self::with(row, LIFE, &json!({})).await
    }

    /// The same with no refreshes but those that are asked for.
    pub(crate) async fn on_demand(row: &Row) -> Self {
        let home = Home::new(row.engine).refreshing_on_demand();
        Self::at(home, row.profile, LIFE, &json!({})).await
    }

    /// A stage whose access tokens live `life`, and of whose provider the broker is told `more`. The broker serves.
    pub(crate) async fn with(row: &Row, life: Duration, more: &Value) -> Self {
        Self::at(Home::new(row.engine), row.profile, life, more).await
    }

    /// The same, in a home that was made.
    pub(crate) async fn at(home: Home, profile: Profile, life: Duration, more: &Value) -> Self {
        let hand = Arc::new(Hand::new(home.folder()));
        let sandbox = sandbox(profile, life, &hand);
        home.configure(&sandbox, profile, more);
        let mut stage = Self {
            profile,
            home,
            hand,
            sandbox,
            running: None,
            deaths: Vec::new(),
            commits: Vec::new(),
            stepped_back: Mutex::default(),
            grants: 0,
        };
        stage.start().await;
        stage
    }

    /// A stage on which answers may be held for a while: neither the broker's time nor a grace period runs out meanwhile.
    pub(crate) async fn patient(home: Home, profile: Profile) -> Self {
        let stage = Self::at(home, profile, LIFE, &patience(profile)).await;
        if profile.habit == Habit::Grace {
            stage.sandbox.change(|behavior| behavior.reuse = profile.with_grace(LONG_GRACE));
        }
        stage
    }

    /// A stage for what takes two starts, which is longer than some graces: about what survives, and not about how soon.
    /// Nothing is refreshed but what is asked for.
    pub(crate) async fn of_restarts(row: &Row) -> Self {
        let Habit::Grace = row.profile.habit else { return Self::on_demand(row).await };
        let more = json!({"reuse": {"grace": {"seconds": LONG_GRACE.as_secs(), "max_uses": 8}}});
        let home = Home::new(row.engine).refreshing_on_demand();
        let stage = Self::at(home, row.profile, LIFE, &more).await;
        stage.sandbox.change(|behavior| behavior.reuse = row.profile.with_grace(LONG_GRACE));
        stage
    }

    /// Starts the broker, unless it runs, and waits until it serves.
    pub(crate) async fn start(&mut self) {
        if self.running.is_none() {
            let process = self.launch(&[]);
            let door = process.door().await.unwrap_or_else(|| panic!("it ended:\n{}", process.said()));
            self.serve(process, &door);
        }
    }

    /// Starts a broker that may not become ready, and waits until it answers; where it ends instead, `Err` is how, and
    /// what it said.
    pub(crate) async fn start_unready(&mut self) -> Result<(), (ExitStatus, String)> {
        let process = self.launch(&[]);
        let socket = self.home.socket();
        let answers = async {
            while UnixStream::connect(&socket).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = answers => {}
            _ = process.ends_within(PATIENCE) => {
                let said = process.said();
                let status = process.ended().await;
                self.note_death();
                return Err((status, said));
            }
        }
        self.serve_at(process, format!("unix:{}", socket.display()));
        Ok(())
    }

    /// A broker that nobody waits for yet.
    pub(crate) fn launch(&self, wrapper: &[&str]) -> Process {
        self.home.start(self.hand.file(), wrapper)
    }

    /// From now on `process` is the broker.
    pub(crate) fn serve(&mut self, process: Process, door: &str) {
        self.serve_at(process, format!("http://{door}"));
    }

    fn serve_at(&mut self, process: Process, address: String) {
        let endpoint = Endpoint::from_shared(address).unwrap();
        let channel = endpoint.timeout(PATIENCE_OF_A_CALLER).connect_lazy();
        self.running = Some((process, channel));
    }

    pub(crate) fn process(&self) -> &Process {
        &self.running.as_ref().expect("a broker runs").0
    }

    /// Kills the broker.
    pub(crate) async fn kill(&mut self) {
        if let Some((process, _)) = self.running.take() {
            process.kill().await;
            self.note_death();
        }
    }

    /// Whether the broker has died, or does so within a moment.
    pub(crate) async fn has_died(&self) -> bool {
        self.process().ends_within(Duration::from_millis(50)).await
    }

    /// Waits for the broker to die by a failpoint.
    pub(crate) async fn died(&mut self) {
        let (process, _) = self.running.take().expect("a broker runs");
        let status = process.ended().await;
        assert_eq!(status.signal(), Some(9), "it should have been killed: {status}");
        self.note_death();
    }

    pub(crate) fn note_death(&mut self) {
        self.deaths.push(self.exchanges());
        self.commits.push(self.committed());
    }

    /// Kills and starts the broker.
    pub(crate) async fn restart(&mut self) {
        self.kill().await;
        self.start().await;
    }

    /// Takes the process out: it is the caller's now.
    pub(crate) fn take(&mut self) -> Process {
        self.running.take().expect("a broker runs").0
    }

    /// Requests that the provider has seen.
    pub(crate) fn exchanges(&self) -> u64 {
        self.sandbox.log().exchanges().last().map_or(0, |exchange| exchange.id + 1)
    }

    /// Refreshes of this grant that the provider has seen.
    pub(crate) fn refreshes(&self, grant: &Grant) -> Vec<Exchange> {
        let is_its = |exchange: &Exchange| exchange.subject.grant == Some(grant.id);
        self.sandbox.log().refreshes().into_iter().filter(is_its).collect()
    }

    /// Whether the provider takes this access token.
    pub(crate) fn is_live(&self, token: &Token) -> bool {
        self.sandbox.grants().is_live(&token.access_token)
    }

    pub(crate) fn tokens(&self) -> TokenBrokerServiceClient<Channel> {
        TokenBrokerServiceClient::new(self.running.as_ref().expect("a broker runs").1.clone())
    }

    pub(crate) fn connections(&self) -> ConnectionServiceClient<Channel> {
        ConnectionServiceClient::new(self.running.as_ref().expect("a broker runs").1.clone())
    }

    /// A connection of a grant just given, its first access token served.
    pub(crate) async fn connected(&mut self) -> Grant {
        let (grant, importing) = self.connecting();
        importing.await.unwrap();
        grant
    }

    /// The same, while it is imported; the store may say no.
    pub(crate) fn connecting(
        &mut self,
    ) -> (Grant, impl Future<Output = Result<(), Status>> + 'static + use<>) {
        self.grants += 1;
        let name = format!("user-{}", self.grants);
        self.importing(PROVIDER, &self.sandbox, name)
    }

    /// The same at another provider.
    pub(crate) fn importing(
        &self,
        provider: &str,
        sandbox: &Sandbox,
        name: String,
    ) -> (Grant, impl Future<Output = Result<(), Status>> + 'static + use<>) {
        let issued = sandbox.grants().issue(&name, &["openid"]);
        let expires = self.broker_now() + i64::try_from(issued.expires_in.as_millis()).unwrap();
        let request = v1::ImportConnectionRequest {
            provider: provider.to_owned(),
            connection: name.clone(),
            refresh_token: issued.refresh_token.unwrap().expose().clone(),
            access_token: issued.access_token.expose().clone(),
            expire_time: Some(prost_types::Timestamp {
                seconds: expires / 1000,
                nanos: i32::try_from(expires % 1000).unwrap() * 1_000_000,
            }),
            ..Default::default()
        };
        let mut connections = self.connections();
        let importing = async move { connections.import_connection(request).await.map(drop) };
        let grant =
            Grant { name, id: issued.id, current: issued.access_token.expose().clone(), served: None };
        (grant, importing)
    }

    /// What the broker says of a connection.
    pub(crate) async fn status(&self, grant: &Grant) -> Result<ConnectionStatus, Status> {
        let request = v1::GetConnectionRequest {
            provider: PROVIDER.to_owned(),
            connection: grant.name.clone(),
            ..Default::default()
        };
        let found = self.connections().get_connection(request).await?.into_inner().connection;
        Ok(found.unwrap_or_default().status())
    }

    /// Stops the broker in order.
    pub(crate) async fn stop(&mut self) {
        let process = self.take();
        process.signal(Signal::TERM);
        let status = process.ended().await;
        assert!(status.success(), "it ended with {status}");
        self.note_death();
    }

    /// Whether the provider issued this token to this grant, and if so beside which refresh token.
    pub(crate) fn issued_to(&self, grant: &Grant, access_token: &str) -> Option<Generation> {
        let (owner, generation) = self.sandbox.grants().issued_beside(access_token)?;
        (owner == grant.id).then_some(generation)
    }

    /// Waits until the provider has carried out a refresh of this grant.
    pub(crate) async fn rotated(&self, grant: &Grant) {
        let id = grant.id;
        let log = self.sandbox.log();
        let rotated = log.wait_for(move |exchange| {
            exchange.subject.grant == Some(id) && matches!(exchange.effect, Some(Effect::Rotated { .. }))
        });
        soon("a rotation", rotated).await;
    }

    /// Refreshes in a task of its own.
    pub(crate) fn renewing(&self, grant: &Grant) -> JoinHandle<Result<Token, Status>> {
        let (mut tokens, renewal) = (self.tokens(), renewal(grant));
        tokio::spawn(async move { Ok(tokens.get_access_token(renewal).await?.into_inner()) })
    }

    /// Whether the successor of this grant's access token is served as durable. Costs no refresh once there is one. What
    /// the log of points says is less: a commit whose sync failed may be found done when the store is open again.
    pub(crate) async fn has_durable_successor(&self, grant: &Grant) -> bool {
        let answer = self.tokens().get_access_token(renewal(grant)).await.map(tonic::Response::into_inner);
        answer.is_ok_and(|token| {
            token.access_token != grant.current && token.durability() == v1::Durability::Durable
        })
    }

    /// How many refreshes were committed.
    pub(crate) fn committed(&self) -> usize {
        self.home.passed().iter().filter(|passed| passed.point == "refresh.commit.after").count()
    }

    fn broker_now(&self) -> i64 {
        use token_broker::clock::Clock as _;
        self.hand.now().as_millis()
    }

    /// Asks for any living token.
    pub(crate) async fn ask(&self, grant: &mut Grant) -> Result<Token, Status> {
        self.told(grant, self.tokens().get_access_token(request(grant)).await)
    }

    /// Says that the current token got a 401, so that a refresh must be made.
    pub(crate) async fn renew(&self, grant: &mut Grant) -> Result<Token, Status> {
        self.told(grant, self.tokens().get_access_token(renewal(grant)).await)
    }

    fn told(
        &self,
        grant: &mut Grant,
        answer: Result<tonic::Response<Token>, Status>,
    ) -> Result<Token, Status> {
        let token = answer?.into_inner();
        grant.current.clone_from(&token.access_token);
        // What is not durable yet may be forgotten with the process.
        if token.durability() != v1::Durability::Degraded
            && let Some((_, generation)) = self.sandbox.grants().issued_beside(&token.access_token)
        {
            match grant.served {
                Some((_, known)) if generation < known => {
                    let name = &grant.name;
                    let told = format!("{name}: {generation:?} is served, and {known:?} had been as durable");
                    self.stepped_back.lock().unwrap().push(told);
                }
                Some((_, known)) if generation == known => {}
                _ => grant.served = Some((self.exchanges(), generation)),
            }
        }
        Ok(token)
    }

    /// The next refresh of this grant meets `fault`.
    pub(crate) fn meet(&self, grant: &Grant, fault: Fault) {
        self.sandbox.script().next(On::refresh().account(&grant.name), fault);
    }

    /// The next refresh of this grant takes effect, and its answer waits.
    pub(crate) fn hold_answer(&self, grant: &Grant) -> Hold {
        self.sandbox.script().hold_answer(On::refresh().account(&grant.name))
    }
}

/// What the broker is told of a provider whose answers may be held.
pub(crate) fn patience(profile: Profile) -> Value {
    let mut more = json!({"token_timeout": "20s"});
    if profile.habit == Habit::Grace {
        more["reuse"] = json!({"grace": {"seconds": LONG_GRACE.as_secs()}});
    }
    more
}

/// A provider of this profile whose access tokens live `life`.
pub(crate) fn sandbox(profile: Profile, life: Duration, hand: &Arc<Hand>) -> Sandbox {
    let behavior = Behavior {
        reuse: profile.sandbox(),
        lifetimes: Lifetimes { access_token_ttl: life, refresh_token_ttl: None },
        ..Behavior::default()
    };
    let options = SandboxOptions { behavior, ..SandboxOptions::default() };
    let any_port = ([127, 0, 0, 1], 0).into();
    Sandbox::start(any_port, options, hand.clone(), Arc::new(OsEntropy)).unwrap()
}

pub(crate) fn request(grant: &Grant) -> v1::GetAccessTokenRequest {
    v1::GetAccessTokenRequest {
        provider: PROVIDER.to_owned(),
        connection: grant.name.clone(),
        ..Default::default()
    }
}

pub(crate) fn renewal(grant: &Grant) -> v1::GetAccessTokenRequest {
    v1::GetAccessTokenRequest { if_not_equal_to: Sha256::digest(&grant.current).to_vec(), ..request(grant) }
}

/// The word for a refusal.
pub(crate) fn reason(status: &Status) -> String {
    status.get_details_error_info().map_or_else(|| format!("{:?}", status.code()), |info| info.reason)
}

/// Waits for `event`, which must come.
pub(crate) async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, event).await.unwrap_or_else(|_| panic!("{what}: never happened"))
}
