//! How a request says where its body ends: by chunks where its length is not known, by the length where it is.

use serde_json::Value;
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::stream_provider_call_request::Part as Sent;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::http2::Api;
use super::stream::{Answer, called, chunk, head, message};
use super::{Desk, get, json, post};

/// The values of a field that the sandbox was sent, by its echo.
fn sent<'e>(echo: &'e Value, name: &str) -> Vec<&'e str> {
    let fields = echo["headers"].as_array().unwrap().iter();
    fields.filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap()).collect()
}

/// A body in two chunks, and the rest of its head.
async fn in_chunks(desk: &Desk, head: v1::CallHead) -> Answer {
    let sent = vec![message(Sent::Head(head)), chunk("a", false), chunk("b", true)];
    called(desk, sent).await.unwrap()
}

#[tokio::test]
async fn a_body_of_unknown_length_arrives_whatever_the_method() {
    let desk = Desk::new().await;
    for method in ["GET", "OPTIONS", "DELETE", "POST"] {
        let answer = in_chunks(&desk, head(method, "/search")).await;
        assert_eq!(answer.head.status, 200, "{method}");
        let echo: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((&echo["method"], &echo["body"]), (&method.into(), &"ab".into()));
        assert_eq!(sent(&echo, "transfer-encoding"), ["chunked"], "{method}");
        assert!(sent(&echo, "content-length").is_empty(), "{method}");

        let known = v1::CallHead { content_length: Some(2), ..head(method, "/search") };
        let echo: Value = serde_json::from_slice(&in_chunks(&desk, known).await.body).unwrap();
        assert_eq!((&echo["method"], &echo["body"]), (&method.into(), &"ab".into()));
        assert_eq!(sent(&echo, "content-length"), ["2"], "{method}");
        assert!(sent(&echo, "transfer-encoding").is_empty(), "{method}");
    }
    desk.stop().await;
}

#[tokio::test]
async fn a_body_of_unknown_length_arrives_with_head_too() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let desk = Desk::with(&format!(", api: {{hosts: ['http://127.0.0.1:{port}']}}")).await;
    let answered = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let head = until(&mut socket, "\r\n\r\n").await;
        assert!(
            head.starts_with("HEAD /search ") && head.contains("transfer-encoding: chunked\r\n"),
            "{head}"
        );
        let body = until(&mut socket, "\r\n0\r\n\r\n").await;
        socket.write_all(b"HTTP/1.1 204 X\r\n\r\n").await.unwrap();
        body
    };
    let (answer, body) = tokio::join!(in_chunks(&desk, head("HEAD", "/search")), answered);
    assert_eq!(answer.head.status, 204);
    // A hop may join chunks.
    assert!(["1\r\na\r\n1\r\nb\r\n0\r\n\r\n", "2\r\nab\r\n0\r\n\r\n"].contains(&body.as_str()), "{body}");
    desk.stop().await;
}

/// What comes up to this.
async fn until(socket: &mut TcpStream, end: &str) -> String {
    let mut came = Vec::new();
    while !came.ends_with(end.as_bytes()) {
        came.push(socket.read_u8().await.unwrap());
    }
    String::from_utf8(came).unwrap()
}

#[tokio::test]
async fn a_body_of_unknown_length_arrives_over_http_2() {
    let api = Api::start().await;
    let desk = api.desk().await;
    for method in ["GET", "HEAD", "POST"] {
        let answer = in_chunks(&desk, head(method, "/search")).await;
        let received = answer.head.headers.iter().find(|field| field.name == "x-received").unwrap();
        assert_eq!((answer.head.status, received.value.as_str()), (200, "2"), "{method}");
    }
    desk.stop().await;
}

#[tokio::test]
async fn no_body_has_a_length_where_the_method_has_a_use_for_one() {
    let desk = Desk::new().await;
    for (method, length) in [
        ("POST", &["0"][..]),
        ("PUT", &["0"]),
        ("PATCH", &["0"]),
        ("GET", &[]),
        ("DELETE", &[]),
        ("OPTIONS", &[]),
    ] {
        let request = v1::CallProviderRequest { method: method.into(), ..get("/items") };
        assert_eq!(sent(&json(&desk.call(request).await.unwrap()), "content-length"), length, "{method}");
        for content_length in [None, Some(0)] {
            let head = v1::CallHead { content_length, ..head(method, "/items") };
            let answer = called(&desk, vec![message(Sent::Head(head)), chunk("", true)]).await.unwrap();
            let echo: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(sent(&echo, "content-length"), length, "{method} {content_length:?}");
        }
    }
    assert_eq!(sent(&json(&desk.call(post("/items", b"x")).await.unwrap()), "content-length"), ["1"]);
    desk.stop().await;
}
