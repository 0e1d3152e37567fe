//! Providers that answer before they have taken a request's whole body.

use std::time::Duration;

use bytes::Bytes;
use token_broker::grpc::proto::v1::stream_provider_call_request::Part as Sent;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::Desk;
use super::http2::{Api, Door};
use super::stream::{Answer, called, chunk, head, message};

const PIECE: usize = 64 * 1024;

/// What comes of an upload of 8 MiB.
async fn uploaded(desk: &Desk) -> Answer {
    let mut sent = vec![message(Sent::Head(head("PUT", "/large")))];
    sent.extend((0..128).map(|_| chunk(vec![b'x'; PIECE], false)));
    sent.push(chunk("", true));
    let answer = tokio::time::timeout(Duration::from_secs(60), called(desk, sent)).await;
    answer.expect("the answer is not handed on").unwrap()
}

/// A host that answers 413 once it has seen the beginning of a body, and takes nothing more of it.
async fn hasty() -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            socket.read_exact(&mut vec![0; PIECE]).await.unwrap();
            let answer = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 9\r\n\r\ntoo large";
            socket.write_all(answer.as_bytes()).await.unwrap();
            open.push(socket);
        }
    });
    (port, task)
}

#[tokio::test]
async fn an_answer_that_comes_before_the_whole_body_was_taken_is_handed_on() {
    let (port, host) = hasty().await;
    let desk = Desk::with(&format!(", api: {{hosts: ['http://localhost:{port}']}}")).await;
    let answer = uploaded(&desk).await;
    assert_eq!((answer.head.status, &answer.body[..]), (413, &b"too large"[..]));
    desk.stop().await;
    host.abort();
}

#[tokio::test]
async fn an_http2_stream_that_is_closed_without_an_error_after_its_answer_loses_nothing_of_it() {
    let api = Api::serving(Door::Tls, |_, socket| async move {
        let Ok(mut connection) = h2::server::handshake(socket).await else { return };
        while let Some(Ok((mut request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                drop(request.body_mut().data().await);
                let response = http::Response::builder().status(413).body(()).unwrap();
                let mut stream = respond.send_response(response, false).unwrap();
                // What is dropped here with its answer complete is reset with NO_ERROR (RFC 9113 section 8.1).
                stream.send_data(Bytes::from_static(b"too large"), true).unwrap();
            });
        }
    })
    .await;
    let desk = api.desk().await;
    let answer = uploaded(&desk).await;
    assert_eq!((answer.head.status, &answer.body[..]), (413, &b"too large"[..]));
    desk.stop().await;
}
