//! The real grpcurl, as an operator types it.

use std::process::Command;

use serde_json::Value;

use crate::broker::{Broker, Home, NOBODY, PROVIDER};
use crate::process::{Running, output, place};

const TOKEN: &str = "an-access-token-for-grpcurl";

/// The two doors, in grpcurl's words.
fn doors(broker: &Broker) -> [Vec<String>; 2] {
    let socket = broker.doors.socket.strip_prefix("unix://").unwrap();
    [vec![broker.doors.tcp.clone()], vec!["-unix".to_owned(), socket.to_owned()]]
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

/// Runs grpcurl with `flags` before and `words` behind the address.
fn grpcurl(door: &[String], flags: &[&str], words: &[&str]) -> Said {
    let mut command = Command::new(place("GRPCURL"));
    let (address, door_flags) = door.split_last().unwrap();
    command.arg("-plaintext").args(door_flags).args(flags).arg(address).args(words);
    let output = output(&mut command);
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

async fn broker(home: &Home) -> Broker {
    let broker = home.start();
    broker.import("user-42", TOKEN).await;
    broker
}

#[tokio::test]
async fn lists_every_service() {
    let home = Home::new(&NOBODY);
    let broker = broker(&home).await;
    for door in doors(&broker) {
        let said = grpcurl(&door, &[], &["list"]);
        let services: Vec<_> = said.out.lines().collect();
        assert_eq!(
            services,
            [
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
                "tokenbroker.v1.ConnectionService",
                "tokenbroker.v1.ProviderService",
                "tokenbroker.v1.TokenBrokerService",
                "tokenbroker.v1.WebhookService",
            ],
            "{}",
            said.err
        );
    }
}

#[tokio::test]
async fn describes_with_comments() {
    let home = Home::new(&NOBODY);
    let broker = broker(&home).await;
    for door in doors(&broker) {
        let method = grpcurl(&door, &[], &["describe", "tokenbroker.v1.TokenBrokerService.GetAccessToken"]);
        assert!(
            method.out.contains("// Returns an access token that lives at least"),
            "{}{}",
            method.out,
            method.err
        );
        assert!(method.out.contains("rpc GetAccessToken"), "{}", method.out);
        let message = grpcurl(&door, &[], &["describe", "tokenbroker.v1.GetAccessTokenRequest"]);
        assert!(message.out.contains("// Key of a configured provider"), "{}{}", message.out, message.err);
    }
}

#[tokio::test]
async fn the_older_reflection_lists_the_same() {
    let home = Home::new(&NOBODY);
    let broker = broker(&home).await;
    for door in doors(&broker) {
        for version in ["v1", "v1alpha"] {
            let method = format!("grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
            let said = grpcurl(&door, &["-d", r#"{"list_services": ""}"#], &[&method]);
            assert_eq!(said.code, 0, "{}", said.err);
            assert!(said.out.contains("tokenbroker.v1.TokenBrokerService"), "{}", said.out);
        }
    }
}

#[tokio::test]
async fn gets_a_token_as_json() {
    let home = Home::new(&NOBODY);
    let broker = broker(&home).await;
    for door in doors(&broker) {
        let request = format!(r#"{{"provider": "{PROVIDER}", "connection": "user-42"}}"#);
        let said = grpcurl(&door, &["-d", &request], &["tokenbroker.v1.TokenBrokerService/GetAccessToken"]);
        assert_eq!(said.code, 0, "{}", said.err);
        let answer: Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!(answer["accessToken"], TOKEN);
        assert_eq!(answer["tokenType"], "Bearer");
    }
}

#[tokio::test]
async fn an_error_shows_its_details_decoded() {
    let home = Home::new(&NOBODY);
    let broker = broker(&home).await;
    for door in doors(&broker) {
        let request = format!(r#"{{"provider": "{PROVIDER}", "connection": "nobody"}}"#);
        let said = grpcurl(&door, &["-d", &request], &["tokenbroker.v1.TokenBrokerService/GetAccessToken"]);
        // grpcurl's exit code is 64 and the gRPC code, here NOT_FOUND.
        assert_eq!(said.code, 64 + 5, "{}", said.err);
        assert!(said.err.contains("Code: NotFound"), "{}", said.err);
        for word in ["google.rpc.ErrorInfo", "CONNECTION_NOT_FOUND", "tokenbroker.dev", "\"nobody\""] {
            assert!(said.err.contains(word), "{word} is missing in {}", said.err);
        }
    }
}

#[tokio::test]
async fn an_empty_request_says_what_is_missing() {
    let home = Home::new(&NOBODY);
    let broker = broker(&home).await;
    for door in doors(&broker) {
        let said = grpcurl(&door, &[], &["tokenbroker.v1.TokenBrokerService/GetAccessToken"]);
        assert_eq!(said.code, 64 + 3, "{}", said.err);
        for word in ["google.rpc.BadRequest", "\"provider\"", "\"connection\"", "INVALID_REQUEST"] {
            assert!(said.err.contains(word), "{word} is missing in {}", said.err);
        }
    }
}

#[tokio::test]
async fn health_says_serving() {
    let home = Home::new(&NOBODY);
    let broker = broker(&home).await;
    for door in doors(&broker) {
        let said = grpcurl(&door, &[], &["grpc.health.v1.Health/Check"]);
        assert!(said.out.contains("SERVING"), "{}{}", said.out, said.err);
        assert!(!said.out.contains("NOT_SERVING"), "{}", said.out);
    }
}

#[tokio::test]
async fn watches_until_the_broker_stops() {
    let home = Home::new(&NOBODY);
    let broker = broker(&home).await;
    let [tcp, _] = doors(&broker);
    let asked = format!(r#"{{"provider": "{PROVIDER}", "connection": "user-42"}}"#);
    let watch = |service: &str, sign: &'static str, asked: &str| {
        let mut command = Command::new(place("GRPCURL"));
        command.args(["-plaintext", "-d", asked]).args(&tcp).arg(format!("tokenbroker.v1.{service}"));
        Running::start(command, move |line| line.contains(sign).then_some(())).0
    };
    let mut token = watch("TokenBrokerService/WatchAccessToken", TOKEN, &asked);
    let mut all = watch("ConnectionService/WatchConnections", "snapshotEnd", "{}");
    let log = broker.stop();
    for watching in [&mut token, &mut all] {
        let (status, said) = watching.ended();
        assert!(!status.success());
        assert!(said.contains("Unavailable"), "{said}");
        // Its details grpcurl would have to ask reflection for, of a broker that is no more.
        assert!(said.contains("the broker is shutting down"), "{said}");
    }
    assert!(!log.contains(TOKEN), "the log holds the token");
}
