//! A whole broker as `app` joins it, with its store on disk, beside a sandbox that consents by itself.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use token_broker::app::{self, Bound, Ports};
use token_broker::clock::{Clock as _, SystemClock};
use token_broker::config::{self, Environment, Override};
use token_broker::entropy::OsEntropy;
use token_broker::sandbox::{Approval, Behavior, Sandbox, SandboxOptions};
use token_broker::store::keyring;

/// What outlives one run of the broker.
pub(crate) struct Whole {
    pub(crate) sandbox: Sandbox,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) secret: String,
}

impl Whole {
    pub(crate) fn new() -> Self {
        let options = SandboxOptions {
            behavior: Behavior {
                approval: Approval::Automatic { account: "user-42".into() },
                ..Behavior::default()
            },
            ..SandboxOptions::default()
        };
        let any_port = ([127, 0, 0, 1], 0).into();
        let sandbox = Sandbox::start(any_port, options, Arc::new(SystemClock), Arc::new(OsEntropy)).unwrap();
        let secret = sandbox.client_secret().unwrap().expose().clone();
        let directory = tempfile::tempdir().unwrap();
        keyring::generate(&directory.path().join("seal.key"), SystemClock.now(), &OsEntropy).unwrap();
        Self { sandbox, directory, secret }
    }

    /// The key that seals the store, as the key file has it.
    pub(crate) fn ring_key(&self) -> Vec<u8> {
        let file = std::fs::read_to_string(self.path("seal.key")).unwrap();
        // The comment above the key shows how a line is written.
        let value = file.split("base64:").last().unwrap().split_whitespace().next().unwrap();
        STANDARD.decode(value).unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    pub(crate) async fn build(&self) -> Bound {
        self.build_with("").await
    }

    /// The same, with more keys in the provider's entry, each with a comma before.
    pub(crate) async fn build_with(&self, entry: &str) -> Bound {
        self.build_over(entry, &[]).await
    }

    /// The same, with other keys of the configuration as if given on the command line.
    pub(crate) async fn build_over(&self, entry: &str, over: &[Override]) -> Bound {
        let text = format!(
            "server: {{grpc: {{socket: '{}', tcp: '127.0.0.1:0'}}, public: {{listen: '127.0.0.1:0'}}, \
             ops: {{listen: '127.0.0.1:0'}}}}\n\
             store: {{path: '{}', ephemeral: true}}\n\
             seal: {{key_file: '{}'}}\n\
             providers: [{{key: sandbox, kind: sandbox, vars: {{port: '{}'}}, client_id: '{}', client_secret: '{}'{entry}}}]\n",
            self.path("broker.sock"),
            self.path("store"),
            self.path("seal.key"),
            self.sandbox.address().port(),
            self.sandbox.client_id(),
            self.secret,
        );
        let config = config::parse(&text, None, &Environment::of::<&str, &str>([]), over).unwrap();
        app::build(config, Ports::default()).await.unwrap()
    }
}
