//! The real binary, with a provider that is never asked: its connections are imported.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::connection_service_client::ConnectionServiceClient;
use token_broker::grpc::proto::v1::token_broker_service_client::TokenBrokerServiceClient;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::child::{Kept, SERVER_CORE, pinned, ready_line};
use crate::drive::Door;
use crate::{Outcome, Side};

const PROVIDER: &str = "local";

/// Imports and gets under way at a time.
const AT_ONCE: usize = 32;

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
    pub(crate) fn new() -> Outcome<Self> {
        let home = Self(tempfile::tempdir()?);
        let path = |name: &str| home.0.path().join(name);
        std::fs::write(path("client-secret"), "never-sent")?;
        let config = json!({
            "server": {
                "grpc": { "socket": path("run/broker.sock"), "tcp": "127.0.0.1:0" },
                "public": { "listen": "127.0.0.1:0" },
                "ops": { "listen": "127.0.0.1:0" },
            },
            "store": { "path": path("store") },
            "seal": { "key_file": path("seal.key") },
            "providers": [{
                "key": PROVIDER,
                "kind": "oidc",
                "issuer": "http://127.0.0.1:9",
                "client_id": "load",
                "client_secret_file": path("client-secret"),
            }],
        });
        std::fs::write(path("config.yaml"), config.to_string())?;
        let made = Command::new(env!("CARGO_BIN_EXE_token-broker"))
            .args(["keys", "generate"])
            .arg(path("seal.key"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        if made.success() { Ok(home) } else { Err("no key was made".into()) }
    }

    /// Starts a broker with the settings that an operator who sets nothing gets.
    pub(crate) fn start(&self) -> Outcome<Broker> {
        let started = Instant::now();
        let mut child = Kept(
            pinned(SERVER_CORE, Path::new(env!("CARGO_BIN_EXE_token-broker")))
                .arg("serve")
                .arg("--config")
                .arg(self.0.path().join("config.yaml"))
                .env_remove("TOKEN_BROKER_LOG")
                .stderr(Stdio::piped())
                .spawn()?,
        );
        let (socket, tcp) = ready_line(child.0.stderr.take().ok_or("no stderr")?, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["message"] == "serving")
                .then(|| Some((line["grpc"].as_str()?.to_owned(), line["grpc_tcp"].as_str()?.to_owned())))?
        })?;
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

    async fn channel(&self) -> Outcome<Channel> {
        Ok(Endpoint::from_shared(self.socket.clone())?.connect().await?)
    }

    /// Takes over an access token that needs no refresh.
    pub(crate) async fn import(&self, connection: &str, access_token: &str) -> Outcome<()> {
        import(self.channel().await?, connection.to_owned(), access_token.to_owned()).await
    }

    /// Takes over `count` connections with tokens as long as `like`.
    pub(crate) async fn import_crowd(&self, count: usize, like: &str) -> Outcome<()> {
        let channel = self.channel().await?;
        let all = (0..count).map(|number| {
            let token = format!("{number:08}{}", like.get(8..).unwrap_or_default());
            Ok(import(channel.clone(), format!("crowd-{number}"), token))
        });
        stream::iter(all).try_buffer_unordered(AT_ONCE).try_for_each(async |()| Ok(())).await
    }

    /// Asks once for each of them.
    pub(crate) async fn get_crowd(&self, count: usize) -> Outcome<()> {
        let channel = self.channel().await?;
        let all = (0..count).map(|number| get(channel.clone(), format!("crowd-{number}")));
        let answers: Vec<_> = stream::iter(all).buffer_unordered(AT_ONCE).collect().await;
        answers.into_iter().try_for_each(|answer| answer.map(drop))
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

async fn import(channel: Channel, connection: String, access_token: String) -> Outcome<()> {
    let request = v1::ImportConnectionRequest {
        provider: PROVIDER.to_owned(),
        connection,
        access_token,
        ..Default::default()
    };
    ConnectionServiceClient::new(channel).import_connection(request).await?;
    Ok(())
}

async fn get(channel: Channel, connection: String) -> Outcome<v1::GetAccessTokenResponse> {
    Ok(TokenBrokerServiceClient::new(channel).get_access_token(asking(connection)).await?.into_inner())
}
