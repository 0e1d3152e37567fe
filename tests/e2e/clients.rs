//! Clients in other languages, with stubs made from `proto/` as their own users would make them.

use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use token_broker::clock::SystemClock;
use token_broker::entropy::OsEntropy;
use token_broker::grpc::proto::v1;
use token_broker::sandbox::{Sandbox, SandboxOptions};

use crate::broker::{Broker, Home, NOBODY, PROVIDER};
use crate::process::{output, place};

const TOKEN: &str = "an-access-token-for-clients";

/// Runs a client at both doors: it gets a token, then asks for one that does not exist, and prints both as JSON.
async fn works_at_both_doors(client: impl Fn() -> Command) {
    let home = Home::new(&NOBODY);
    let broker = home.start();
    broker.import("user-42", TOKEN).await;
    for endpoint in [broker.doors.socket.clone(), format!("tcp://{}", broker.doors.tcp)] {
        let said = output(
            client().arg(PROVIDER).arg("user-42").arg("nobody").env("TOKEN_BROKER_ENDPOINT", &endpoint),
        );
        let told = || String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "at {endpoint}: {}", told());
        let answer: Value =
            serde_json::from_slice(&said.stdout).unwrap_or_else(|_| panic!("at {endpoint}: {}", told()));
        assert_eq!(
            answer,
            json!({
                "accessToken": TOKEN,
                "tokenType": "Bearer",
                "watched": TOKEN,
                "error": {
                    "code": "NOT_FOUND",
                    "reason": "CONNECTION_NOT_FOUND",
                    "domain": "tokenbroker.dev",
                    "metadata": { "provider": PROVIDER, "connection": "nobody" },
                },
            }),
            "at {endpoint}"
        );
    }
}

#[tokio::test]
async fn python_grpcio() {
    works_at_both_doors(|| {
        let mut command = Command::new("python3");
        command.arg(file("python/client.py")).env("PYTHONPATH", place("PYTHON_CLIENT_PACKAGES"));
        command
    })
    .await;
}

#[tokio::test]
async fn node_grpc_js() {
    works_at_both_doors(|| {
        let mut command = Command::new("node");
        command.arg(file("node/client.mjs")).env("PACKAGES", place("NODE_CLIENT_PACKAGES"));
        command
    })
    .await;
}

/// What the README says to a Python developer, run as it stands but for the names of the socket and of the provider.
#[tokio::test]
async fn the_readmes_python_lines_get_a_token() {
    let home = Home::new(&NOBODY);
    let broker = home.start();
    broker.import("user-42", TOKEN).await;
    let readme = include_str!("../../README.md");
    let between = |start: &str, end: &str| {
        let (_, after) = readme.split_once(start).expect("the README says so");
        after.split_once(end).expect("and it ends").0.to_owned()
    };
    let stubs = format!("python3 -m grpc_tools{}", between("$ python3 -m grpc_tools", "\n"));
    let (shown, provider) = ("unix:/run/token-broker/broker.sock", "provider=\"google\"");
    let lines = between("```python\n", "```");
    assert!(lines.contains(shown) && lines.contains(provider), "{lines}");
    // gRPC's own form of the address has no slashes before the path.
    let socket = broker.doors.socket.replacen("unix://", "unix:", 1);
    let lines = lines.replace(shown, &socket).replace(provider, &format!("provider=\"{PROVIDER}\""));

    let project = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(concat!(env!("CARGO_MANIFEST_DIR"), "/proto"), project.path().join("proto"))
        .unwrap();
    std::fs::write(project.path().join("app.py"), format!("{lines}\nprint(answer.access_token)\n")).unwrap();
    for line in [&stubs, "python3 app.py"] {
        let mut shell = Command::new("bash");
        shell.args(["-c", line]).current_dir(project.path());
        let said = output(shell.env("PYTHONPATH", place("PYTHON_CLIENT_PACKAGES")));
        assert!(said.status.success(), "{line}: {}", String::from_utf8_lossy(&said.stderr));
        if line != stubs {
            assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), TOKEN);
        }
    }
}

/// A broker beside a sandbox at which `user-42` has a grant, as `dev` has it.
struct Desk {
    broker: Broker,
    _home: Home,
    _sandbox: Sandbox,
}

impl Desk {
    async fn new() -> Self {
        let any_port = ([127, 0, 0, 1], 0).into();
        let options = SandboxOptions::default();
        let sandbox = Sandbox::start(any_port, options, Arc::new(SystemClock), Arc::new(OsEntropy)).unwrap();
        let home = Home::of(&json!({
            "key": "sandbox",
            "kind": "sandbox",
            "vars": { "port": sandbox.address().port().to_string() },
            "client_id": sandbox.client_id(),
            "client_secret": sandbox.client_secret().unwrap().expose(),
        }));
        let broker = home.start();
        let grant = sandbox.grants().issue("user-42", &["openid", "email"]);
        let import = v1::ImportConnectionRequest {
            provider: "sandbox".into(),
            connection: "user-42".into(),
            access_token: grant.access_token.expose().clone(),
            ..Default::default()
        };
        broker.connections().await.import_connection(import).await.unwrap();
        Self { broker, _home: home, _sandbox: sandbox }
    }

    /// Runs lines of a shell in an app's folder that holds these files, and looks at what the app prints of its call.
    fn is_called_by(&self, files: &[(&str, &str)], lines: &str, environment: &[(&str, String)]) {
        let project = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(
            concat!(env!("CARGO_MANIFEST_DIR"), "/proto"),
            project.path().join("proto"),
        )
        .unwrap();
        for (name, text) in files {
            std::fs::write(project.path().join(name), text.replace("127.0.0.1:7450", &self.broker.doors.tcp))
                .unwrap();
        }
        let mut shell = Command::new("bash");
        shell.args(["-ec", lines]).current_dir(project.path());
        let said = output(shell.envs(environment.iter().map(|(name, value)| (name, value))));
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let printed = String::from_utf8_lossy(&said.stdout).into_owned();
        let figures: Vec<u64> = printed.split_whitespace().map(|figure| figure.parse().unwrap()).collect();
        assert!(matches!(figures[..], [200, 1, bytes] if bytes > 0), "{printed}");
    }
}

const GUIDE: &str = include_str!("../../docs/call-provider.md");

/// What a page says between two marks.
fn between<'a>(page: &'a str, start: &str, end: &str) -> &'a str {
    let (_, after) = page.split_once(start).unwrap_or_else(|| panic!("no {start}"));
    after.split_once(end).unwrap_or_else(|| panic!("no {end} after {start}")).0
}

/// What the guide to calls says to a Python developer, run as it stands but for the broker's address. The sandbox goes on
/// while this thread waits for Python.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_guides_python_lines_make_a_call() {
    let desk = Desk::new().await;
    let stubs = between(include_str!("../../README.md"), "$ python3 -m grpc_tools", "\n");
    let lines = format!("python3 -m grpc_tools{stubs}\npython3 app.py");
    let app = between(GUIDE, "```python\n", "```");
    desk.is_called_by(&[("app.py", app)], &lines, &[("PYTHONPATH", place("PYTHON_CLIENT_PACKAGES"))]);
}

/// The same for a Go developer.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_guides_go_lines_make_a_call() {
    let desk = Desk::new().await;
    let files = [
        ("buf.gen.yaml", between(GUIDE, "```yaml\n# buf.gen.yaml\n", "```")),
        ("main.go", between(GUIDE, "```go\n", "```")),
        ("go.mod", include_str!("clients/go/go.mod")),
        ("go.sum", include_str!("clients/go/go.sum")),
    ];
    let lines = format!("buf{}\ngo run .", between(GUIDE, "$ buf", "\n"));
    let path = format!("{}:{}", place("GO_CLIENT_TOOLS"), std::env::var("PATH").unwrap());
    desk.is_called_by(&files, &lines, &[("PATH", path)]);
}

fn file(name: &str) -> String {
    format!("{}/tests/e2e/clients/{name}", env!("CARGO_MANIFEST_DIR"))
}
