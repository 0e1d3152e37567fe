//! What kubelet, a scraper and a person with curl see.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use token_broker::connection::Status;
use token_broker::error::Error;
use token_broker::readiness::Readiness;
use token_broker::telemetry::Metrics;
use token_broker::web::{Ops, Pulse, serve_ops};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::door::{Reply, ask};

async fn open(readiness: &Readiness, metrics: Metrics) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ops = Ops { readiness: readiness.clone(), pulse: Pulse::default(), metrics: Arc::new(metrics) };
    tokio::spawn(serve_ops(listener, ops, CancellationToken::new(), Duration::ZERO));
    address
}

async fn asked(address: SocketAddr, method: &str, target: &str) -> Reply {
    // kubelet names the pod by its address.
    let request = format!("{method} {target} HTTP/1.1\r\nHost: 10.1.2.3:7452\r\nConnection: close\r\n\r\n");
    ask(address, &request).await
}

#[tokio::test]
async fn readyz_turns_with_the_guards_and_says_who_is_awaited() {
    let readiness = Readiness::default();
    let (store, doors) = (readiness.guard("store"), readiness.guard("doors"));
    let address = open(&readiness, Metrics::default()).await;
    let status = async |target: &str| asked(address, "GET", target).await.status;

    assert_eq!((status("/livez").await, status("/readyz").await, status("/startupz").await), (200, 503, 503));
    drop(store);
    let verbose = asked(address, "GET", "/readyz?verbose").await;
    assert_eq!((verbose.status, verbose.body.as_str()), (503, "[+]store ok\n[-]doors awaited\nnot ready\n"));
    assert_eq!(asked(address, "GET", "/startupz").await.body, "awaited: doors\n");

    drop(doors);
    let verbose = asked(address, "GET", "/readyz?verbose=1").await;
    assert_eq!((verbose.status, verbose.body.as_str()), (200, "[+]store ok\n[+]doors ok\nready\n"));
    assert_eq!((status("/readyz").await, status("/startupz").await), (200, 200));

    assert_eq!(asked(address, "GET", "/readyz").await.body, "ok\n");
    readiness.set_degraded(Some("escrow: tokens".to_owned()));
    let degraded = asked(address, "GET", "/readyz").await;
    assert_eq!((degraded.status, degraded.body.as_str()), (200, "ok, degraded\n"));
    let verbose = asked(address, "GET", "/readyz?verbose").await;
    let told = "[+]store ok\n[+]doors ok\n[!]escrow: tokens\nready\n";
    assert_eq!((verbose.status, verbose.body.as_str()), (200, told));
    readiness.set_degraded(None);

    readiness.end();
    assert_eq!((status("/livez").await, status("/readyz").await, status("/startupz").await), (200, 503, 200));
    assert!(asked(address, "GET", "/readyz?verbose").await.body.contains("[-]shutdown awaited"));
}

#[tokio::test]
async fn the_door_lists_itself_and_only_answers_questions() {
    let readiness = Readiness::default();
    let guard = readiness.guard("store");
    let address = open(&readiness, Metrics::default()).await;
    let index = asked(address, "GET", "/").await;
    let paths: Vec<_> =
        index.body.split_whitespace().filter(|word| word.starts_with('/') && !word.contains('?')).collect();
    assert_eq!(paths, ["/livez", "/readyz", "/startupz", "/metrics"]);

    for path in paths.into_iter().chain(["/", "/readyz?verbose"]) {
        let (get, head) = (asked(address, "GET", path).await, asked(address, "HEAD", path).await);
        assert_eq!((head.status, head.body.as_str()), (get.status, ""), "{path}");
        assert_eq!(head.header("content-length"), get.body.len().to_string(), "{path}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
            let refused = asked(address, method, path).await;
            assert_eq!((refused.status, refused.header("allow")), (405, "GET,HEAD"), "{method} {path}");
            assert_eq!(refused.header("cache-control"), "no-store");
        }
    }
    assert_eq!(asked(address, "GET", "/callback/google").await.status, 404);
    drop(guard);
}

#[tokio::test]
async fn metrics_parse_as_openmetrics() {
    let metrics = Metrics::default();
    metrics.tokens_served("google", "cache").inc();
    metrics.failed("google", &Error::ShuttingDown);
    metrics.refreshed("google", None);
    metrics.refresh_took("google", Duration::from_millis(40));
    metrics.set_connections("google", Status::Active, 3);
    metrics.provider_requested("google", "token", Some(200));
    let address = open(&Readiness::default(), metrics).await;

    let reply = asked(address, "GET", "/metrics").await;

    assert_eq!(reply.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let body = reply.body.strip_suffix("# EOF\n").expect("the end mark");
    let (mut family, mut kind, mut seen) = (String::new(), String::new(), BTreeSet::new());
    for line in body.lines() {
        let words: Vec<_> = line.split(' ').collect();
        match words.as_slice() {
            ["#", "HELP", name, ..] => assert!(seen.insert((*name).to_owned()), "{name} is described twice"),
            ["#", "TYPE", name, which] => (family, kind) = ((*name).to_owned(), (*which).to_owned()),
            ["#", "UNIT", name, unit] => assert!(name.ends_with(unit), "{line}"),
            _ => {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let name = series.split('{').next().unwrap();
                let suffixes: &[&str] = match kind.as_str() {
                    "counter" => &["_total"],
                    "gauge" => &[""],
                    "histogram" => &["_bucket", "_sum", "_count"],
                    "info" => &["_info"],
                    other => panic!("{other} of {family}"),
                };
                assert!(suffixes.iter().any(|suffix| format!("{family}{suffix}") == name), "{line}");
                assert!(name.starts_with("token_broker_"), "{line}");
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
    }
    assert!(body.contains("token_broker_connections{provider=\"google\",status=\"ACTIVE\"} 3\n"));
}
