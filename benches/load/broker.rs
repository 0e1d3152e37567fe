//! The real binary. Its connections are imported; unless it is about refreshes its provider is never asked.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use token_broker::clock::{Clock as _, SystemClock};
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::connection_service_client::ConnectionServiceClient;
use token_broker::grpc::proto::v1::token_broker_service_client::TokenBrokerServiceClient;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::child::{Kept, furnish, said, serving};
use crate::drive::Door;
use crate::provider::Told;
use crate::{Outcome, Side, child};

const PROVIDER: &str = "local";

/// Imports and gets under way at a time.
const AT_ONCE: usize = 128;

/// How long the tokens of a crowd live: longer than any run.
const CROWD_TTL: Duration = Duration::from_secs(86_400);

/// Config, key and store of a broker.
pub(crate) struct Home(TempDir);

/// A broker that serves.
pub(crate) struct Broker {
    child: Kept,
    socket: String,
    tcp: String,
    took: Duration,
}

impl Home {
    /// With a store of `engine` and a provider that is never asked.
    pub(crate) fn new(engine: &str) -> Outcome<Self> {
        let provider = json!({
            "key": PROVIDER,
            "kind": "oidc",
            "issuer": "http://127.0.0.1:9",
            "client_id": "load",
            "client_secret": "never-sent",
        });
        Self::make(engine, &provider)
    }

    /// With a provider that runs.
    pub(crate) fn with_provider(engine: &str, told: &Told) -> Outcome<Self> {
        let provider = json!({
            "key": PROVIDER,
            "kind": "sandbox",
            "vars": { "port": told.port.to_string() },
            "client_id": told.client_id,
            "client_secret": told.client_secret,
        });
        Self::make(engine, &provider)
    }

    fn make(engine: &str, provider: &Value) -> Outcome<Self> {
        let home = Self(tempfile::tempdir()?);
        let path = |name: &str| home.0.path().join(name);
        let config = json!({
            "server": {
                "grpc": { "socket": path("run/broker.sock"), "tcp": "127.0.0.1:0" },
                "public": { "listen": "127.0.0.1:0" },
                "ops": { "listen": "127.0.0.1:0" },
            },
            "store": { "path": path("store"), "engine": engine },
            "seal": { "key_file": path("seal.key") },
            "providers": [provider],
        });
        furnish(home.0.path(), &config)?;
        Ok(home)
    }

    /// Starts a broker with the settings that an operator who sets nothing gets.
    pub(crate) fn start(&self) -> Outcome<Broker> {
        self.started(&[])
    }

    /// Starts one that does nothing ahead of time.
    pub(crate) fn start_without_schedule(&self) -> Outcome<Broker> {
        self.started(&[("TOKEN_BROKER_REFRESH__AHEAD", "false")])
    }

    fn started(&self, variables: &[(&str, &str)]) -> Outcome<Broker> {
        let started = Instant::now();
        let (child, line) = serving(self.0.path(), variables)?;
        let (socket, tcp) = (said(&line, "grpc")?, said(&line, "grpc_tcp")?);
        Ok(Broker { child, socket, tcp, took: started.elapsed() })
    }
}

impl Broker {
    pub(crate) fn process(&self) -> u32 {
        self.child.0.id()
    }

    /// From the start of the process to its word that it serves.
    pub(crate) fn took(&self) -> Duration {
        self.took
    }

    /// Resident memory, once it has done what a start leaves to be done: when it uses next to no processor time any more.
    pub(crate) async fn settled_bytes(&self) -> Outcome<u64> {
        for _ in 0..30 {
            let before = child::cpu_seconds(self.process())?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            if child::cpu_seconds(self.process())? - before <= 0.05 {
                return child::resident_bytes(self.process());
            }
        }
        Err("the broker is still busy 30 s after its start".into())
    }

    pub(crate) fn side(&self) -> Side {
        let socket = self.socket.trim_start_matches("unix://").to_owned();
        Side { tcp: Door::Tcp(self.tcp.clone()), socket: Door::Socket(socket), process: self.process() }
    }

    /// Ends it as an orchestrator does.
    pub(crate) fn stop(mut self) -> Outcome<()> {
        let process = rustix::process::Pid::from_child(&self.child.0);
        rustix::process::kill_process(process, rustix::process::Signal::TERM)?;
        let status = self.child.0.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the broker ended with {status}").into()) }
    }

    pub(crate) async fn channel(&self) -> Outcome<Channel> {
        Ok(Endpoint::from_shared(self.socket.clone())?.connect().await?)
    }

    /// Takes over an access token that needs no refresh.
    pub(crate) async fn import(&self, connection: &str, access_token: &str) -> Outcome<()> {
        let request = v1::ImportConnectionRequest {
            provider: PROVIDER.to_owned(),
            connection: connection.to_owned(),
            access_token: access_token.to_owned(),
            ..Default::default()
        };
        import(self.channel().await?, request).await
    }

    /// Takes over grants that can be refreshed by [`refresh`].
    pub(crate) async fn import_grants(&self, refresh_tokens: &[String]) -> Outcome<()> {
        let channel = self.channel().await?;
        for (number, refresh_token) in refresh_tokens.iter().enumerate() {
            let request = v1::ImportConnectionRequest {
                provider: PROVIDER.to_owned(),
                connection: grant(number),
                refresh_token: refresh_token.clone(),
                ..Default::default()
            };
            import(channel.clone(), request).await?;
        }
        Ok(())
    }

    /// Takes over `count` connections with tokens as long as `like`, to be refreshed when they end.
    pub(crate) async fn import_crowd(&self, count: usize, like: &str) -> Outcome<()> {
        let channel = self.channel().await?;
        let since_epoch = Duration::from_millis(u64::try_from(SystemClock.now().as_millis())?);
        let expire_time = UNIX_EPOCH + since_epoch + CROWD_TTL;
        let all = (0..count).map(|number| {
            let request = v1::ImportConnectionRequest {
                provider: PROVIDER.to_owned(),
                connection: format!("crowd-{number}"),
                access_token: format!("{number:08}{}", like.get(8..).unwrap_or_default()),
                refresh_token: format!("never-sent-{number}"),
                expire_time: Some(expire_time.into()),
                ..Default::default()
            };
            Ok(import(channel.clone(), request))
        });
        stream::iter(all).try_buffer_unordered(AT_ONCE).try_for_each(async |()| Ok(())).await
    }

    /// Asks once for each of them.
    pub(crate) async fn get_crowd(&self, count: usize) -> Outcome<()> {
        let channel = self.channel().await?;
        let all = (0..count).map(|number| get(channel.clone(), format!("crowd-{number}")));
        let answers = stream::iter(all).buffer_unordered(AT_ONCE);
        answers.try_for_each(|_answer| async { Ok(()) }).await
    }

    /// The encoded reply of a hit.
    pub(crate) async fn reply(&self, connection: &str) -> Outcome<Bytes> {
        let channel = self.channel().await?;
        let _first_may_come_from_the_store = get(channel.clone(), connection.to_owned()).await?;
        Ok(get(channel, connection.to_owned()).await?.encode_to_vec().into())
    }
}

/// The encoded request for a token of `connection`.
pub(crate) fn request(connection: &str) -> Bytes {
    asking(connection.to_owned()).encode_to_vec().into()
}

/// An encoded reply as the broker would give it.
pub(crate) fn a_reply(access_token: &str) -> Bytes {
    let reply = v1::GetAccessTokenResponse {
        access_token: access_token.to_owned(),
        token_type: "Bearer".to_owned(),
        scopes: vec!["openid".to_owned()],
        generation: 1,
        source: v1::TokenSource::Cache.into(),
        durability: v1::Durability::Durable.into(),
        ..Default::default()
    };
    reply.encode_to_vec().into()
}

fn asking(connection: String) -> v1::GetAccessTokenRequest {
    v1::GetAccessTokenRequest { provider: PROVIDER.to_owned(), connection, ..Default::default() }
}

/// Has a grant that was imported refreshed.
pub(crate) async fn refresh(channel: Channel, number: usize) -> Result<(), tonic::Status> {
    let request = v1::RefreshConnectionRequest {
        provider: PROVIDER.to_owned(),
        connection: grant(number),
        ..Default::default()
    };
    ConnectionServiceClient::new(channel).refresh_connection(request).await.map(drop)
}

fn grant(number: usize) -> String {
    format!("grant-{number}")
}

async fn import(channel: Channel, request: v1::ImportConnectionRequest) -> Outcome<()> {
    ConnectionServiceClient::new(channel).import_connection(request).await?;
    Ok(())
}

async fn get(channel: Channel, connection: String) -> Outcome<v1::GetAccessTokenResponse> {
    Ok(TokenBrokerServiceClient::new(channel).get_access_token(asking(connection)).await?.into_inner())
}
