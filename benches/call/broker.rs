//! The real binary, with a provider for each door of the upstream.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::connection_service_client::ConnectionServiceClient;
use tonic::transport::Channel;

use crate::Outcome;
use crate::child::{Kept, SERVER_CORE, pinned, ready_line};
use crate::upstream::Upstream;

/// The one connection of each provider.
pub(crate) const CONNECTION: &str = "user-42";

/// Config, key and store of a broker.
pub(crate) struct Home(TempDir);

/// A broker that serves.
pub(crate) struct Broker {
    _child: Kept,
    tcp: String,
}

impl Home {
    pub(crate) fn new(upstream: &Upstream) -> Outcome<Self> {
        let home = Self(tempfile::tempdir()?);
        let path = |name: &str| home.0.path().join(name);
        let providers: Vec<Value> = upstream
            .bases
            .iter()
            .map(|(name, base)| {
                json!({
                    "key": name,
                    "kind": "oidc",
                    "issuer": "http://127.0.0.1:9",
                    "client_id": "bench",
                    "client_auth": "none",
                    "api": { "hosts": [base] },
                })
            })
            .collect();
        let config = json!({
            "server": {
                "grpc": { "socket": "off", "tcp": "127.0.0.1:0" },
                "public": { "listen": "off" },
                "ops": { "listen": "off" },
            },
            "store": { "path": path("store"), "ephemeral": true },
            "seal": { "key_file": path("seal.key") },
            "http": { "ca_file": upstream.certificate },
            "providers": providers,
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

    pub(crate) fn start(&self) -> Outcome<Broker> {
        let mut child = Kept(
            pinned(SERVER_CORE, Path::new(env!("CARGO_BIN_EXE_token-broker")))
                .arg("serve")
                .arg("--config")
                .arg(self.0.path().join("config.yaml"))
                .env_remove("TOKEN_BROKER_LOG")
                .stderr(Stdio::piped())
                .spawn()?,
        );
        let tcp = ready_line(child.0.stderr.take().ok_or("no stderr")?, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["message"] == "serving").then(|| Some(line["grpc_tcp"].as_str()?.to_owned()))?
        })?;
        Ok(Broker { _child: child, tcp })
    }
}

impl Broker {
    pub(crate) async fn channel(&self) -> Outcome<Channel> {
        crate::channel(&self.tcp).await
    }

    /// Takes over an access token that needs no refresh.
    pub(crate) async fn import(&self, provider: &str) -> Outcome<()> {
        let request = v1::ImportConnectionRequest {
            provider: provider.to_owned(),
            connection: CONNECTION.to_owned(),
            access_token: "a-token-for-the-bench".to_owned(),
            ..Default::default()
        };
        ConnectionServiceClient::new(self.channel().await?).import_connection(request).await?;
        Ok(())
    }
}
