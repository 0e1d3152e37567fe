//! What a broker keeps between two runs: its folder with configuration, key, store, and the kit's orders to it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use token_broker::clock::Timestamp;
use token_broker::entropy::OsEntropy;
use token_broker::sandbox::Sandbox;
use token_broker::store::keyring;

use super::engine::Engine;
use super::process::Process;
use super::profile::Profile;
use super::volume::Volume;

/// The provider's key in the configuration.
pub(crate) const PROVIDER: &str = "sandbox";

pub(crate) struct Home {
    /// What its store lies in.
    pub(crate) engine: Engine,
    /// Where the store is, when it has a volume of its own.
    volume: Option<Volume>,
    has_second_place: bool,
    is_refreshing_ahead: bool,
    folder: TempDir,
}

/// One line of the failpoint log.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    /// Microseconds since 1970.
    pub(crate) at: u64,
    pub(crate) point: String,
}

impl Home {
    pub(crate) fn new(engine: Engine) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Self { engine, volume: None, has_second_place: false, is_refreshing_ahead: true, folder };
        keyring::generate(&home.path("seal.key"), Timestamp::from_millis(0), &OsEntropy).unwrap();
        home.order("");
        home
    }

    /// The same with the store on a small volume of its own; `None` where none may be mounted.
    pub(crate) fn on_a_small_volume(engine: Engine) -> Option<Self> {
        let home = Self::new(engine);
        let volume = Volume::mount(&home.path("volume"))?;
        Some(Self { volume: Some(volume), ..home })
    }

    /// The same with a second place, outside the store's volume.
    pub(crate) fn with_a_second_place(self) -> Self {
        Self { has_second_place: true, ..self }
    }

    /// The same with a broker that refreshes nothing unless somebody asks: a point that is passed is then of the one
    /// refresh that was asked for, and not of an older connection's.
    pub(crate) fn refreshing_on_demand(self) -> Self {
        Self { is_refreshing_ahead: false, ..self }
    }

    pub(crate) fn volume(&self) -> &Volume {
        self.volume.as_ref().expect("it is on a small volume")
    }

    /// The store's directory.
    pub(crate) fn store(&self) -> PathBuf {
        self.path(if self.volume.is_some() { "volume/store" } else { "store" })
    }

    /// Where a broker is found that is not ready and so does not say its address.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("door/broker.sock")
    }

    /// Tokens in the second place.
    pub(crate) fn set_aside(&self) -> usize {
        let entries = std::fs::read_dir(self.path("second")).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "escrow")).count()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the configuration: one provider, which is the sandbox, of which the broker knows what `profile` says and
    /// `more` on top.
    pub(crate) fn configure(&self, sandbox: &Sandbox, profile: Profile, more: &Value) {
        self.configure_all(&[described(PROVIDER, sandbox, profile, more)]);
    }

    /// Writes it with these providers.
    pub(crate) fn configure_all(&self, providers: &[Value]) {
        let mut store = json!({"path": self.store(), "engine": self.engine.name(), "ephemeral": true});
        if self.has_second_place {
            store["escrow_path"] = json!(self.path("second"));
        }
        let config = json!({
            "server": {
                "grpc": {"socket": self.socket(), "tcp": "127.0.0.1:0"},
                "public": {"listen": "127.0.0.1:0"},
                "ops": {"listen": "127.0.0.1:0"},
            },
            "store": store,
            "seal": {"key_file": self.path("seal.key")},
            "refresh": {"ahead": self.is_refreshing_ahead},
            "providers": providers,
        });
        // JSON is YAML.
        std::fs::write(self.path("config.yaml"), config.to_string()).unwrap();
    }

    /// What the failpoints do from now on, in a running broker too.
    pub(crate) fn order(&self, plan: &str) {
        std::fs::write(self.path("plan.new"), plan).unwrap();
        std::fs::rename(self.path("plan.new"), self.path("plan")).unwrap();
    }

    /// Starts a broker, under `wrapper` if there is one.
    pub(crate) fn start(&self, clock: &Path, wrapper: &[&str]) -> Process {
        let binary = binary();
        let mut command = match wrapper {
            [] => Command::new(&binary),
            [tracer, rest @ ..] => {
                let mut command = Command::new(tracer);
                command.args(rest).arg(&binary);
                command
            }
        };
        command.arg("serve").arg("--config").arg(self.path("config.yaml"));
        command.env_clear().env("HOME", self.folder()).current_dir(self.folder());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("TOKEN_BROKER_LOG", std::env::var("TORTURE_LOG").unwrap_or_else(|_| "info".to_owned()));
        command.env("TOKEN_BROKER_FAILPOINTS", format!("@{}", self.path("plan").display()));
        command.env("TOKEN_BROKER_FAILPOINT_LOG", self.path("passed"));
        command.env("TOKEN_BROKER_CLOCK_OFFSET", clock);
        Process::start(command)
    }

    /// Every point that was passed, in all runs, in order.
    pub(crate) fn passed(&self) -> Vec<Passed> {
        let text = std::fs::read_to_string(self.path("passed")).unwrap_or_default();
        let line = |line: &str| {
            let mut words = line.split(' ');
            Some(Passed { at: words.next()?.parse().ok()?, point: words.next()?.to_owned() })
        };
        text.lines().filter_map(line).collect()
    }
}

/// A provider's part of the configuration.
pub(crate) fn described(key: &str, sandbox: &Sandbox, profile: Profile, more: &Value) -> Value {
    let mut provider = json!({
        "key": key,
        "kind": "sandbox",
        "vars": {"port": sandbox.address().port().to_string()},
        "client_id": sandbox.client_id(),
        "client_secret": sandbox.client_secret().unwrap().expose().clone(),
    });
    for (key, value) in profile.configured().as_object().unwrap().iter().chain(more.as_object().unwrap()) {
        provider[key] = value.clone();
    }
    provider
}

/// The broker: built like this kit, unless another build of it is named.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("TORTURE_BROKER")
        .map_or_else(|| env!("CARGO_BIN_EXE_token-broker").into(), PathBuf::from)
}
