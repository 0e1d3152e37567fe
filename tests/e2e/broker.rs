//! The real binary, started as an operator would: a config file, a key file, a directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::connection_service_client::ConnectionServiceClient;
use token_broker::grpc::proto::v1::token_broker_service_client::TokenBrokerServiceClient;
use tonic::transport::{Channel, Endpoint};

use crate::process::{Running, output};

/// The provider's key in every config file of these tests.
pub(crate) const PROVIDER: &str = "local";

/// Where the app's backend receives the browser, on the route through the broker's public door.
pub(crate) const RETURN_URL: &str = "http://127.0.0.1:9/connected";

/// What a broker needs to start, and keeps between two starts.
pub(crate) struct Home {
    directory: TempDir,
}

/// A broker that serves.
pub(crate) struct Broker {
    running: Running,
    pub(crate) doors: Doors,
}

/// Where a broker listens.
#[derive(Clone, Debug)]
pub(crate) struct Doors {
    /// `unix:///…`
    pub(crate) socket: String,
    /// `127.0.0.1:…`
    pub(crate) tcp: String,
    /// `http://127.0.0.1:…`
    pub(crate) public: String,
}

/// A provider that is never asked: its connections are imported.
pub(crate) const NOBODY: Client<'_> =
    Client { issuer: "http://127.0.0.1:9", id: "nobody", secret: "a-client-secret-that-is-never-sent" };

/// The authorization server of a config file.
pub(crate) struct Client<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) id: &'a str,
    pub(crate) secret: &'a str,
}

impl Home {
    /// Writes a config file with one provider: an OpenID provider.
    pub(crate) fn new(client: &Client<'_>) -> Self {
        let home = Self { directory: tempfile::tempdir().unwrap() };
        std::fs::write(home.path("client-secret"), client.secret).unwrap();
        let secret = home.path("client-secret");
        home.furnished(&serde_json::json!({
            "key": PROVIDER,
            "kind": "oidc",
            "issuer": client.issuer,
            "client_id": client.id,
            "client_secret_file": secret,
        }))
    }

    /// Writes a config file with this provider.
    pub(crate) fn of(provider: &Value) -> Self {
        Self { directory: tempfile::tempdir().unwrap() }.furnished(provider)
    }

    fn furnished(self, provider: &Value) -> Self {
        let home = self;
        let config = serde_json::json!({
            "server": {
                "grpc": { "socket": home.path("run/broker.sock"), "tcp": "127.0.0.1:0" },
                "public": { "listen": "127.0.0.1:0", "return_urls": [RETURN_URL] },
                "ops": { "listen": "127.0.0.1:0" },
            },
            // Where temporary files are in memory the store is too.
            "store": { "path": home.path("store"), "ephemeral": true },
            "seal": { "key_file": home.path("seal.key") },
            "providers": [provider],
        });
        // JSON is YAML.
        std::fs::write(home.path("config.yaml"), serde_json::to_string_pretty(&config).unwrap()).unwrap();
        let made = output(home.command().args(["keys", "generate"]).arg(home.path("seal.key")));
        assert!(made.status.success(), "{made:?}");
        home
    }

    /// Leaves every refresh to a caller who asks: for tests about what such a caller gets.
    pub(crate) fn refreshing_on_demand(self) -> Self {
        self.with("refresh", serde_json::json!({ "ahead": false }))
    }

    /// Trusts whomever this file of authorities vouches for.
    pub(crate) fn trusting(self, authorities: &Path) -> Self {
        self.with("http", serde_json::json!({ "ca_file": authorities }))
    }

    /// With that part of the config file so.
    fn with(self, part: &str, value: Value) -> Self {
        let file = self.path("config.yaml");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        config[part] = value;
        std::fs::write(&file, serde_json::to_string_pretty(&config).unwrap()).unwrap();
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The binary, with nothing of this environment but where its own files are.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_token-broker"));
        command.env_clear().env("HOME", self.directory.path()).current_dir(self.directory.path());
        command
    }

    /// Starts the broker, logging all it ever logs.
    pub(crate) fn start(&self) -> Broker {
        let mut command = self.command();
        command.arg("serve").arg("--config").arg(self.path("config.yaml")).env("TOKEN_BROKER_LOG", "trace");
        let (running, doors) = Running::start(command, Doors::in_log_line);
        Broker { running, doors }
    }

    /// Starts a broker that is expected not to serve, and waits for its end.
    pub(crate) fn refused(&self) -> Output {
        output(self.command().arg("serve").arg("--config").arg(self.path("config.yaml")))
    }

    /// Every file of the store, with its bytes.
    pub(crate) fn stored(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        gather(&self.path("store"), &mut files);
        files
    }
}

fn gather(path: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            gather(&entry.unwrap().path(), into);
        }
    } else if path.exists() {
        into.insert(path.to_owned(), std::fs::read(path).unwrap());
    }
}

impl Doors {
    /// The doors, if `line` is the one that says the broker serves.
    fn in_log_line(line: &str) -> Option<Self> {
        let line: Value = serde_json::from_str(line).ok()?;
        let field = |name: &str| {
            let value = line.get(name).or_else(|| line.get("fields")?.get(name));
            value.and_then(Value::as_str).map(str::to_owned)
        };
        (field("message")? == "serving").then(|| Self {
            socket: field("grpc").unwrap(),
            tcp: field("grpc_tcp").unwrap(),
            public: field("public").unwrap(),
        })
    }
}

impl Broker {
    /// A connection to the gRPC door on TCP.
    pub(crate) async fn over_tcp(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.doors.tcp)).unwrap().connect().await.unwrap()
    }

    /// A connection to the gRPC door on the socket.
    pub(crate) async fn over_socket(&self) -> Channel {
        Endpoint::from_shared(self.doors.socket.clone()).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn tokens(&self) -> TokenBrokerServiceClient<Channel> {
        TokenBrokerServiceClient::new(self.over_socket().await)
    }

    pub(crate) async fn connections(&self) -> ConnectionServiceClient<Channel> {
        ConnectionServiceClient::new(self.over_tcp().await)
    }

    /// Takes over an access token that lives for an hour, so that there is something to serve.
    pub(crate) async fn import(&self, connection: &str, access_token: &str) {
        let request = v1::ImportConnectionRequest {
            provider: PROVIDER.to_owned(),
            connection: connection.to_owned(),
            access_token: access_token.to_owned(),
            ..Default::default()
        };
        self.connections().await.import_connection(request).await.unwrap();
    }

    /// The most memory it has had resident so far, in KiB (`VmHWM` of proc(5)).
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.running.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Asks it to stop, as an orchestrator does, and returns its whole log.
    pub(crate) fn stop(mut self) -> String {
        let process = rustix::process::Pid::from_child(&self.running.child);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
        let (status, log) = self.running.ended();
        assert!(status.success(), "{status}\n{log}");
        log
    }

    /// Ends it without a word.
    pub(crate) fn kill(mut self) {
        self.running.child.kill().unwrap();
        let _ = self.running.ended();
    }
}

/// A request for a token of `connection`.
pub(crate) fn token_of(connection: &str) -> v1::GetAccessTokenRequest {
    v1::GetAccessTokenRequest {
        provider: PROVIDER.to_owned(),
        connection: connection.to_owned(),
        ..Default::default()
    }
}
