//! The real binary, with a provider for each door of the upstream.

use serde_json::{Value, json};
use tempfile::TempDir;
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::connection_service_client::ConnectionServiceClient;
use tonic::transport::Channel;

use crate::Outcome;
use crate::child::{Kept, furnish, said, serving};
use crate::upstream::{PLAIN_HTTP2, Upstream};

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
                    "api": { "hosts": [base], "http2_prior_knowledge": name == PLAIN_HTTP2 },
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
        furnish(home.0.path(), &config)?;
        Ok(home)
    }

    pub(crate) fn start(&self) -> Outcome<Broker> {
        let (child, line) = serving(self.0.path(), &[])?;
        Ok(Broker { _child: child, tcp: said(&line, "grpc_tcp")? })
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
