//! The real binary by itself: how it starts, how it stops, and when it refuses to start.

use std::io::{Read as _, Write as _};
use std::net::TcpStream as BlockingStream;

use tonic::Code;

use crate::broker::{Home, NOBODY, token_of};
use crate::process::output;

const TOKEN: &str = "an-access-token-for-the-binary";

#[tokio::test]
async fn stops_in_time_with_idle_and_silent_peers() {
    let home = Home::new(&NOBODY);
    let broker = home.start();
    let address = broker.doors.tcp.clone();
    // One that never says a word, one that has said all of HTTP/2's preface and then nothing, one that is just idle.
    let idle = BlockingStream::connect(&address).unwrap();
    let mut silent = BlockingStream::connect(&address).unwrap();
    silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    silent.read_exact(&mut [0; 9]).unwrap();
    let channel = broker.over_tcp().await;

    let log = tokio::task::spawn_blocking(move || broker.stop()).await.unwrap();

    assert!(!log.contains("panicked"), "{log}");
    drop((idle, silent, channel));
}

#[tokio::test]
async fn a_kill_at_any_time_loses_nothing_that_was_answered() {
    let home = Home::new(&NOBODY);
    for round in 0..8 {
        let broker = home.start();
        for earlier in 0..round {
            let mut tokens = broker.tokens().await;
            let found =
                tokens.get_access_token(token_of(&format!("user-{earlier}"))).await.unwrap().into_inner();
            assert_eq!(found.access_token, format!("{TOKEN}-{earlier}"));
        }
        broker.import(&format!("user-{round}"), &format!("{TOKEN}-{round}")).await;
        broker.kill();
    }
}

#[tokio::test]
async fn another_key_is_refused_and_changes_no_byte() {
    let home = Home::new(&NOBODY);
    let broker = home.start();
    broker.import("user-1", TOKEN).await;
    broker.stop();
    let before = home.stored();
    let key = home.path("seal.key");
    std::fs::rename(&key, home.path("kept.key")).unwrap();

    let none = home.refused();
    assert_eq!(none.status.code(), Some(78), "{none:?}");
    assert_eq!(home.stored(), before);
    assert!(output(home.command().args(["keys", "generate"]).arg(&key)).status.success());
    let other = home.refused();
    assert_eq!(other.status.code(), Some(78), "{other:?}");
    assert_eq!(home.stored(), before);

    std::fs::rename(home.path("kept.key"), &key).unwrap();
    let broker = home.start();
    let found = broker.tokens().await.get_access_token(token_of("user-1")).await.unwrap().into_inner();
    assert_eq!(found.access_token, TOKEN);
}

#[tokio::test]
async fn a_second_broker_on_the_same_store_is_refused() {
    let home = Home::new(&NOBODY);
    let broker = home.start();
    broker.import("user-1", TOKEN).await;

    let second = home.refused();

    assert!(!second.status.success(), "{second:?}");
    let found = broker.tokens().await.get_access_token(token_of("user-1")).await.unwrap().into_inner();
    assert_eq!(found.access_token, TOKEN);
    let unknown = broker.tokens().await.get_access_token(token_of("user-2")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[test]
fn every_mistake_of_a_config_is_told_at_once_and_nothing_is_made() {
    let home = Home::new(&NOBODY);
    let text = std::fs::read_to_string(home.path("config.yaml")).unwrap();
    let text = text.replace("client_id", "cliend_id").replace("127.0.0.1:0", "nowhere");
    std::fs::write(home.path("config.yaml"), text).unwrap();

    let refused = home.refused();

    assert_eq!(refused.status.code(), Some(64), "{refused:?}");
    let said = String::from_utf8(refused.stderr).unwrap();
    for mistake in
        ["providers[0].cliend_id", "did you mean client_id?", "server.grpc.tcp", "server.public.listen"]
    {
        assert!(said.contains(mistake), "{mistake} is missing in {said}");
    }
    assert!(home.stored().is_empty());
    assert!(!home.path("run").exists());
}
