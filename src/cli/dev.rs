//! `dev`: a broker to try things with. An in-process sandbox plays the provider, one account is connected already, and
//! a page of our own walks through a consent. Everything listens on loopback and lives in one private directory.
//!
//! Invariant: nothing is said before the broker is ready, what is said runs as printed, and at the end nothing is left
//! (unless `--keep`).

mod banner;
mod consent;
mod place;
mod port;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::client::{Client, request};
use super::connections::{ConnectionView, held};
use super::console::Console;
use super::endpoint::{self, Endpoint};
use super::failure::{Cause, Failure};
use super::next::{Caller, Name};
use super::pointer::{self, Pointer};
use super::{loopback, serve};
use crate::app::{self, Bound, Ports, StartError};
use crate::clock::SystemClock;
use crate::config::{self, Config, LogFormat};
use crate::entropy::OsEntropy;
use crate::grpc::proto::v1::ImportConnectionRequest;
use crate::process::{self, Hardening, Signals};
use crate::sandbox::{Sandbox, SandboxOptions};
use crate::store::keyring;
use crate::telemetry::LOG_VARIABLE;
pub(crate) use banner::Banner;
use banner::Door;
use consent::Pages;
use place::Place;
use port::Port;

/// The provider, the account that is connected, and the one that the consent page connects.
const PROVIDER: &str = "sandbox";
const CONNECTED: &str = "user-42";
const TO_CONNECT: &str = "user-43";

/// The longest path of a Unix socket that every system takes.
const LONGEST_SOCKET: usize = 100;

/// Run a broker with a sandbox provider and a connected account, to try things
#[derive(Args, Debug)]
pub(crate) struct Dev {
    /// Keep the data in this directory
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

impl Dev {
    /// Runs the command.
    pub(crate) async fn run(self, console: &mut Console) -> Result<(), Failure> {
        let hardening = process::harden();
        let (signals, mut hang_up) = (Signals::catch()?, signal(SignalKind::hangup())?);
        let drain = CancellationToken::new();
        let closed_terminal = async {
            hang_up.recv().await;
            drain.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = self.live(console, &hardening, &drain) => ended,
            () = closed_terminal => Ok(()),
            stop = signals.second_stop(&drain) => {
                Err(Failure::new(Cause::Stopped(stop), "aborted while stopping, at a second signal"))
            }
        }
    }

    async fn live(
        &self,
        console: &mut Console,
        hardening: &Hardening,
        drain: &CancellationToken,
    ) -> Result<(), Failure> {
        let runtime_dir = pointer::runtime_dir(&console.environment)?;
        let place = Place::make(self.keep.as_deref(), &runtime_dir)?;
        let (sandbox, sandbox_port) = Port::bound(7453, |address| {
            Sandbox::start(address, SandboxOptions::default(), Arc::new(SystemClock), Arc::new(OsEntropy))
        })?;
        let key_file = place.dir().join("seal.key");
        if !key_file.exists() {
            keyring::generate(&key_file, console.now(), &OsEntropy)
                .map_err(|error| Failure::new(Cause::Key, error.to_string()))?;
        }
        let (bound, ports) = bind(place.dir(), &key_file, &sandbox).await?;
        let addresses = bound.addresses.clone();
        let public = addresses.public.ok_or_else(|| Failure::new(Cause::Bug, "there is no public door"))?;
        sandbox.register_redirect_uri(sandbox.client_id(), &format!("http://{public}/callback/{PROVIDER}"));

        let running = ready(bound, drain).await?;
        let tcp = addresses.grpc_tcp.ok_or_else(|| Failure::new(Cause::Bug, "there is no TCP door"))?;
        let tcp = Endpoint::Tcp(tcp.to_string());
        let client = Client::find(Some(&tcp), &console.environment).await?;
        let connected = connect(console, &client, &sandbox).await?;

        let (listener, _) = Port::bound(7454, std::net::TcpListener::bind)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let pages_address = listener.local_addr()?;
        let pages = Arc::new(Pages::new(client, console.clock.clone(), pages_address));
        let answer = move |uri| pages.clone().answer(uri);
        let pages = tokio::spawn(loopback::serve(listener, drain.clone(), answer));

        let socket = addresses.grpc_socket.clone().map(Endpoint::Unix);
        let pointer = Pointer::place(&runtime_dir, socket.as_ref().unwrap_or(&tcp))?;
        let http = |address: Option<std::net::SocketAddr>| {
            address.map(|address| format!("http://{address}")).unwrap_or_default()
        };
        let [grpc_port, public_port, ops_port] = &ports;
        let doors = vec![
            Door::new("gRPC", tcp.to_string(), grpc_port),
            Door {
                name: "socket".into(),
                address: socket.as_ref().map_or_else(String::new, |s| s.to_string()),
                taken_port: None,
            },
            Door::new("public", http(addresses.public), public_port),
            Door::new("ops", http(addresses.ops), ops_port),
            Door::new("sandbox", sandbox.issuer().to_owned(), &sandbox_port),
        ];
        let own: Vec<&Endpoint> = socket.iter().chain([&tcp]).collect();
        let endpoint = (!endpoint::finds_first(&own, &console.environment)).then(|| tcp.clone());
        let caller = Caller { endpoint, ..console.caller.clone() };
        let data = place.dir().to_owned();
        let consent_url = format!("http://{pages_address}/connect");
        let banner = Banner::new(&caller, &data, place.is_kept(), doors, connected, consent_url);
        console.report(&banner)?;
        let level = console.environment.get(LOG_VARIABLE).unwrap_or("info").to_owned();
        serve::log(&level, LogFormat::Auto, console.clock.clone(), hardening)?;

        let ended = running.await.map_err(|_| Failure::new(Cause::Bug, "the broker ended unexpectedly"))?;
        drain.cancel();
        drop(pointer);
        let _ = pages.await;
        sandbox.stop().await;
        drop(place);
        ended.map_err(|error| serve::not_started(error, key_file))
    }
}

/// A broker at the usual ports, or at others where those are taken.
async fn bind(dir: &Path, key_file: &Path, sandbox: &Sandbox) -> Result<(Bound, [Port; 3]), Failure> {
    const USUAL: [u16; 3] = [7450, 7451, 7452];
    let [grpc, public, ops] = USUAL.map(Port::or_any);
    let mut ports = [grpc?, public?, ops?];
    loop {
        let config = configured(dir, key_file, &ports, sandbox)?;
        match app::build(config, Ports::default()).await {
            Ok(bound) => return Ok((bound, ports)),
            // Somebody was quicker between the look and the leap.
            Err(StartError::Listen { .. } | StartError::Bind(_))
                if ports.iter().any(|port| !port.is_any()) =>
            {
                ports = USUAL.map(Port::any);
            }
            Err(error) => return Err(serve::not_started(error, key_file.to_owned())),
        }
    }
}

/// The configuration of a development broker. JSON is YAML, and quotes by itself.
fn configured(
    dir: &Path,
    key_file: &Path,
    [grpc, public, ops]: &[Port; 3],
    sandbox: &Sandbox,
) -> Result<Config, Failure> {
    let socket = dir.join("broker.sock");
    let socket = if socket.as_os_str().len() > LONGEST_SOCKET { PathBuf::from("off") } else { socket };
    let secret = sandbox.client_secret().map(|secret| secret.expose().clone());
    let text = json!({
        "server": {
            "grpc": {"socket": socket, "tcp": grpc.address()},
            "public": {"listen": public.address()},
            "ops": {"listen": ops.address()},
        },
        "store": {"path": dir.join("store"), "ephemeral": true},
        "seal": {"key_file": key_file},
        "providers": [{
            "key": PROVIDER,
            "kind": "sandbox",
            "client_id": sandbox.client_id(),
            "client_secret": secret,
            "vars": {"port": sandbox.address().port().to_string()},
        }],
    });
    config::parse(&text.to_string(), None, &config::Environment::default(), &[])
        .map_err(|error| Failure::new(Cause::Bug, error.to_string()))
}

type Running = tokio::task::JoinHandle<Result<(), StartError>>;

/// Serves, and returns when the last readiness guard has dropped.
async fn ready(bound: Bound, drain: &CancellationToken) -> Result<Running, Failure> {
    let mut readiness = bound.readiness.subscribe();
    let mut running = tokio::spawn(bound.run(drain.clone().cancelled_owned()));
    tokio::select! {
        _ = readiness.wait_for(|is_ready| *is_ready) => Ok(running),
        ended = &mut running => Err(match ended {
            Ok(Err(error)) => serve::not_started(error, PathBuf::new()),
            // A signal came before the broker was ready.
            Ok(Ok(())) => Failure::new(Cause::Interrupted, "interrupted"),
            Err(_) => Failure::new(Cause::Bug, "the broker ended unexpectedly"),
        }),
    }
}

/// Connects the first account, by a grant that the sandbox hands over.
async fn connect(console: &Console, client: &Client, sandbox: &Sandbox) -> Result<ConnectionView, Failure> {
    let grant = sandbox.grants().issue(CONNECTED, &["openid", "email"]);
    let message = ImportConnectionRequest {
        provider: PROVIDER.to_owned(),
        connection: CONNECTED.to_owned(),
        refresh_token: grant.refresh_token.map_or_else(String::new, |token| token.expose().clone()),
        replace: true,
        ..ImportConnectionRequest::default()
    };
    let name =
        Name { provider: PROVIDER.to_owned(), connection: CONNECTED.to_owned(), tenant: String::new() };
    match client.connections().import_connection(request(message)).await {
        Ok(answer) => held(answer.into_inner().connection),
        Err(status) => Err(client.failure(status, Some(&name), console.now()).await),
    }
}
