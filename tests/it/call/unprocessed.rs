//! What HTTP/2 says was not processed is sent again whatever its method; what may have been is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use h2::Reason;
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::stream_provider_call_request::Part as Sent;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Status;

use super::http2::{Api, DOORS, Door, Socket, answer, conversed};
use super::stream::{called, chunk, head, message};
use super::{Desk, get, post, reason};

/// An API that resets its first `times` requests once it has read something of their bodies, and how many it has had.
async fn resetting(door: Door, times: usize, why: Reason) -> (Api, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let api = Api::serving(door, move |_, socket| {
        let counted = counted.clone();
        async move {
            let Ok(mut connection) = h2::server::handshake(socket).await else { return };
            while let Some(Ok((mut request, mut respond))) = connection.accept().await {
                if counted.fetch_add(1, Ordering::SeqCst) >= times {
                    tokio::spawn(answer(request, respond));
                    continue;
                }
                tokio::spawn(async move {
                    drop(request.body_mut().data().await);
                    respond.send_reset(why);
                });
            }
        }
    });
    (api.await, asked)
}

/// An API whose first connection says, at its first request, that it goes away and which stream is the last that it may
/// have processed (RFC 9113 section 6.8).
async fn going_away(door: Door, last: u32) -> Api {
    Api::serving(door, move |number, socket| async move {
        if number == 0 {
            // It ends as the client, or we, see fit.
            drop(went_away(socket, last).await);
        } else {
            conversed(socket).await;
        }
    })
    .await
}

async fn went_away(mut socket: Socket, last: u32) -> std::io::Result<()> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const HEADERS: u8 = 1;
    const PREFACE: usize = 24;
    socket.read_exact(&mut [0; PREFACE]).await?;
    socket.write_all(&SETTINGS).await?;
    loop {
        let mut frame = [0; 9];
        socket.read_exact(&mut frame).await?;
        let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
        socket.read_exact(&mut vec![0; length.try_into().unwrap()]).await?;
        if frame[3] == HEADERS {
            break;
        }
    }
    // Eight bytes of GOAWAY on stream 0, with NO_ERROR.
    socket.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0]).await?;
    socket.write_all(&last.to_be_bytes()).await?;
    socket.write_all(&[0; 4]).await?;
    socket.flush().await?;
    if last == 0 {
        // The client leaves; until then nothing is cut off.
        socket.read_to_end(&mut Vec::new()).await?;
    }
    Ok(())
}

/// How a call ended: its status and its attempts, or the reason of its failure.
async fn made(desk: &Desk, request: v1::CallProviderRequest) -> Result<(u32, u32), String> {
    let answer: Result<v1::CallProviderResponse, Status> = desk.call(request).await;
    answer.map(|answer| (answer.status, answer.attempts)).map_err(|status| reason(&status))
}

/// What comes of a request to a server that resets the first `times` streams, and how often it was asked.
async fn reset(
    door: Door,
    times: usize,
    why: Reason,
    request: v1::CallProviderRequest,
) -> (Result<(u32, u32), String>, usize) {
    let (api, asked) = resetting(door, times, why).await;
    let desk = api.desk().await;
    let answer = made(&desk, request).await;
    desk.stop().await;
    (answer, asked.load(Ordering::SeqCst))
}

/// Each case at either door.
fn at_both<C: Clone>(cases: &[C]) -> impl Iterator<Item = (Door, C)> {
    cases.iter().flat_map(|case| DOORS.map(|door| (door, case.clone())))
}

fn unavailable() -> Result<(u32, u32), String> {
    Err("PROVIDER_UNAVAILABLE".to_owned())
}

fn retried(mode: v1::RetryMode, request: v1::CallProviderRequest) -> v1::CallProviderRequest {
    let policy = v1::RetryPolicy { mode: mode.into(), max_attempts: 0 };
    v1::CallProviderRequest { retry: Some(policy), ..request }
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_whatever_its_method_within_the_attempts() {
    let table = [
        (1, post("/x", b"charge"), Ok((200, 2)), 2),
        (1, post("/x", b""), Ok((200, 2)), 2),
        (1, get("/x"), Ok((200, 2)), 2),
        (2, post("/x", b"charge"), Ok((200, 3)), 3),
        (9, post("/x", b"charge"), unavailable(), 3),
        (1, retried(v1::RetryMode::Never, post("/x", b"charge")), unavailable(), 1),
    ];
    for (door, (times, request, expected, sent)) in at_both(&table) {
        let told = format!("{door:?}, {times} of {request:?}");
        assert_eq!(reset(door, times, Reason::REFUSED_STREAM, request).await, (expected, sent), "{told}");
    }
}

#[tokio::test]
async fn a_refused_stream_of_which_a_part_is_gone_is_not_sent_again() {
    for door in DOORS {
        let (api, asked) = resetting(door, 1, Reason::REFUSED_STREAM).await;
        let desk = api.desk().await;
        let sent = vec![message(Sent::Head(head("POST", "/x"))), chunk("one", false), chunk("two", true)];
        assert_eq!(reason(&called(&desk, sent).await.unwrap_err()), "PROVIDER_UNAVAILABLE");
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        desk.stop().await;
    }
}

#[tokio::test]
async fn a_stream_reset_for_any_other_reason_is_sent_again_only_where_that_is_harmless() {
    let idempotent = retried(v1::RetryMode::Idempotent, post("/x", b"charge"));
    for why in [Reason::INTERNAL_ERROR, Reason::CANCEL, Reason::NO_ERROR, Reason::ENHANCE_YOUR_CALM] {
        let table = [
            (post("/x", b"charge"), unavailable(), 1),
            (get("/x"), Ok((200, 2)), 2),
            (idempotent.clone(), Ok((200, 2)), 2),
        ];
        for (door, (request, expected, sent)) in at_both(&table) {
            let told = format!("{door:?}, {why:?} of {request:?}");
            assert_eq!(reset(door, 1, why, request).await, (expected, sent), "{told}");
        }
    }
}

#[tokio::test]
async fn what_a_server_that_goes_away_has_not_processed_is_sent_to_the_next_connection() {
    for (door, request) in at_both(&[post("/x", b"charge"), get("/x")]) {
        let api = going_away(door, 0).await;
        // A server that is replaced by another is none that fails.
        let desk = api.desk_with(", limits: {breaker: {failures: 1, open: 10m}}").await;
        assert_eq!(made(&desk, request).await, Ok((200, 2)));
        assert_eq!(api.connections.load(Ordering::SeqCst), 2);
        desk.stop().await;
    }
}

#[tokio::test]
async fn what_a_server_that_goes_away_may_have_processed_is_sent_again_only_where_that_is_harmless() {
    // The first stream of a client is number 1.
    let table = [(post("/x", b"charge"), unavailable(), 1), (get("/x"), Ok((200, 2)), 2)];
    for (door, (request, expected, connections)) in at_both(&table) {
        let api = going_away(door, 1).await;
        let desk = api.desk().await;
        assert_eq!(made(&desk, request).await, expected);
        assert_eq!(api.connections.load(Ordering::SeqCst), connections);
        desk.stop().await;
    }
}
