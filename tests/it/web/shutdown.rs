//! The doors end by their own deadline, whatever hangs on them.

use std::sync::Arc;
use std::time::Duration;

use token_broker::readiness::Readiness;
use token_broker::telemetry::Metrics;
use token_broker::web::{Ops, Pulse, serve_ops};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::door::{Door, PATIENCE, RETURN_URL, get, read};

/// A deadline that no test waits for: whatever ends before has not needed it.
const FAR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn silent_peers_do_not_hold_the_ops_door_open() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ops = Ops {
        readiness: Readiness::default(),
        pulse: Pulse::default(),
        metrics: Arc::new(Metrics::default()),
    };
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(serve_ops(listener, ops, shutdown.clone(), FAR));

    let idle = TcpStream::connect(address).await.unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Half").await.unwrap();
    let mut half_body = TcpStream::connect(address).await.unwrap();
    half_body.write_all(b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc").await.unwrap();
    let mut kept_alive = TcpStream::connect(address).await.unwrap();
    kept_alive.write_all(get("/livez").as_bytes()).await.unwrap();
    let mut answer = [0; 15];
    kept_alive.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");

    shutdown.cancel();

    timeout(PATIENCE, served).await.expect("the door closes").unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "and takes nobody in");
    drop((idle, half, half_body, kept_alive));
}

#[tokio::test]
async fn silent_peers_do_not_hold_the_public_door_open() {
    let door = Door::open_with("https://broker.test/", FAR).await;
    let idle = TcpStream::connect(door.address).await.unwrap();
    let mut half = TcpStream::connect(door.address).await.unwrap();
    half.write_all(b"GET /callback/fake?code=c").await.unwrap();
    // One that was answered after them: they were taken in before the door closes.
    door.get("/").await;

    door.shutdown.cancel();

    timeout(PATIENCE, door.served).await.expect("the door closes").unwrap();
    drop((idle, half));
}

#[tokio::test]
async fn a_callback_in_hand_is_finished_while_the_door_closes() {
    let door = Door::open_with("https://broker.test/", FAR).await;
    let state = door.begin().await.state;
    let gate = door.provider.gate.acquire().await.unwrap();
    let mut browser = TcpStream::connect(door.address).await.unwrap();
    let request = get(&format!("/callback/fake?code=c&state={state}"));
    browser.write_all(request.as_bytes()).await.unwrap();
    door.provider.begun.acquire().await.unwrap().forget();

    door.shutdown.cancel();
    // The door is closed to others as soon as nobody can come in any more.
    let refused = async { while TcpStream::connect(door.address).await.is_ok() {} };
    timeout(PATIENCE, refused).await.expect("the door takes nobody in");
    drop(gate);

    let reply = read(&mut browser).await;
    assert_eq!(reply.status, 303);
    assert!(reply.header("location").starts_with(RETURN_URL));
    timeout(PATIENCE, door.served).await.expect("the door closes").unwrap();
}

#[tokio::test]
async fn a_callback_that_never_ends_is_cut_off_at_the_deadline() {
    let door = Door::open_with("https://broker.test/", Duration::from_millis(20)).await;
    let state = door.begin().await.state;
    let _gate = door.provider.gate.acquire().await.unwrap();
    let mut browser = TcpStream::connect(door.address).await.unwrap();
    let request = get(&format!("/callback/fake?code=c&state={state}"));
    browser.write_all(request.as_bytes()).await.unwrap();
    door.provider.begun.acquire().await.unwrap().forget();

    door.shutdown.cancel();

    timeout(PATIENCE, door.served).await.expect("the door closes").unwrap();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, browser.read_to_end(&mut rest)).await.expect("the browser is let go");
    assert!(rest.is_empty());
}
