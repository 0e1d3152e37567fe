//! One provider, one broker, and the hands that hold both: what a round of torture happens on.

use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use token_broker::entropy::OsEntropy;
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::connection_service_client::ConnectionServiceClient;
use token_broker::grpc::proto::v1::token_broker_service_client::TokenBrokerServiceClient;
use token_broker::sandbox::{
    Behavior, Exchange, Fault, Generation, GrantId, Hold, Lifetimes, On, Sandbox, SandboxOptions,
};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt as _;

use super::hand::Hand;
use super::home::{Home, PROVIDER};
use super::process::{PATIENCE, Process};
use super::profile::Profile;

/// How long access tokens live, unless a fault wants another life.
pub(crate) const LIFE: Duration = Duration::from_secs(300);

/// How long the kit waits for an answer, as an app does.
const PATIENCE_OF_A_CALLER: Duration = Duration::from_secs(15);

pub(crate) type Token = v1::GetAccessTokenResponse;

pub(crate) struct Stage {
    pub(crate) profile: Profile,
    pub(crate) home: Home,
    pub(crate) hand: Arc<Hand>,
    pub(crate) sandbox: Sandbox,
    running: Option<(Process, Channel)>,
    /// How many exchanges there were at each moment at which a broker died.
    pub(crate) deaths: Vec<u64>,
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
    pub(crate) async fn new(profile: Profile) -> Self {
        Self::with(profile, LIFE, &json!({})).await
    }

    /// A stage whose access tokens live `life`, and of whose provider the broker is told `more`. The broker serves.
    pub(crate) async fn with(profile: Profile, life: Duration, more: &Value) -> Self {
        let home = Home::new();
        let hand = Arc::new(Hand::new(home.folder()));
        let behavior = Behavior {
            reuse: profile.sandbox(),
            lifetimes: Lifetimes { access_token_ttl: life, refresh_token_ttl: None },
            ..Behavior::default()
        };
        let options = SandboxOptions { behavior, ..SandboxOptions::default() };
        let any_port = ([127, 0, 0, 1], 0).into();
        let sandbox = Sandbox::start(any_port, options, hand.clone(), Arc::new(OsEntropy)).unwrap();
        home.configure(&sandbox, profile, more);
        let mut stage = Self { profile, home, hand, sandbox, running: None, deaths: Vec::new(), grants: 0 };
        stage.start().await;
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

    /// A broker that nobody waits for yet.
    pub(crate) fn launch(&self, wrapper: &[&str]) -> Process {
        self.home.start(self.hand.file(), wrapper)
    }

    /// From now on `process` is the broker.
    pub(crate) fn serve(&mut self, process: Process, door: &str) {
        let endpoint = Endpoint::from_shared(format!("http://{door}")).unwrap();
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
        self.grants += 1;
        let name = format!("user-{}", self.grants);
        let issued = self.sandbox.grants().issue(&name, &["openid"]);
        let expires = self.broker_now() + i64::try_from(issued.expires_in.as_millis()).unwrap();
        let request = v1::ImportConnectionRequest {
            provider: PROVIDER.to_owned(),
            connection: name.clone(),
            refresh_token: issued.refresh_token.unwrap().expose().clone(),
            access_token: issued.access_token.expose().clone(),
            expire_time: Some(prost_types::Timestamp {
                seconds: expires / 1000,
                nanos: i32::try_from(expires % 1000).unwrap() * 1_000_000,
            }),
            ..Default::default()
        };
        self.connections().import_connection(request).await.unwrap();
        Grant { name, id: issued.id, current: issued.access_token.expose().clone(), served: None }
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
            && grant.served.is_none_or(|(_, before)| before < generation)
        {
            grant.served = Some((self.exchanges(), generation));
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
