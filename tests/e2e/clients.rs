//! Clients in other languages, with stubs made from `proto/` as their own users would make them.

use std::process::Command;

use serde_json::{Value, json};

use crate::broker::{Home, NOBODY, PROVIDER};
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

fn file(name: &str) -> String {
    format!("{}/tests/e2e/clients/{name}", env!("CARGO_MANIFEST_DIR"))
}
