//! A small proxy before somebody else's token endpoint, which counts: every refresh token that is presented, and what
//! came back for it. Its books are the ground truth, for the server behind it tells nobody. It keeps digests alone.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::browser::send;

/// What may be kept of a token.
pub(crate) type Mark = [u8; 32];

pub(crate) fn mark(token: &str) -> Mark {
    Sha256::digest(token).into()
}

/// One refresh, and what was answered as far as an answer has come.
#[derive(Clone, Debug)]
pub(crate) struct Refresh {
    pub(crate) presented: Mark,
    pub(crate) status: Option<u16>,
    pub(crate) access: Option<Mark>,
    pub(crate) refresh: Option<Mark>,
}

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) url: String,
    books: Arc<Mutex<Vec<Refresh>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// One before the token endpoint at `upstream`.
    pub(crate) async fn before(upstream: String) -> Self {
        let books: Arc<Mutex<Vec<Refresh>>> = Arc::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let kept = Arc::clone(&books);
        let answer = move |request: Request| {
            let (books, upstream) = (Arc::clone(&kept), upstream.clone());
            // In a task of its own: a broker that is killed takes nothing back of what it has sent.
            async move { tokio::spawn(passed_on(request, upstream, books)).await.unwrap() }
        };
        let router = Router::new().fallback(answer);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, books, task }
    }

    /// Every refresh so far, in order of arrival.
    pub(crate) fn books(&self) -> Vec<Refresh> {
        self.books.lock().unwrap().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.books.lock().unwrap().len()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn passed_on(request: Request, upstream: String, books: Arc<Mutex<Vec<Refresh>>>) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, 64 * 1024).await else { return StatusCode::BAD_REQUEST.into_response() };
    let form: Vec<(String, String)> = url::form_urlencoded::parse(&body).into_owned().collect();
    let presented = form.iter().find(|(name, _)| name == "refresh_token").map(|(_, token)| mark(token));
    let number = {
        let mut books = books.lock().unwrap();
        let presented = presented.expect("only refreshes come here");
        books.push(Refresh { presented, status: None, access: None, refresh: None });
        books.len() - 1
    };
    let mut onward = http::Request::post(upstream);
    for name in ["authorization", "content-type", "accept"] {
        if let Some(value) = head.headers.get(name) {
            onward = onward.header(name, value);
        }
    }
    let answer = send(onward.body(String::from_utf8(body.to_vec()).unwrap()).unwrap()).await;
    let told: Value = serde_json::from_str(answer.body()).unwrap_or_default();
    {
        let mut books = books.lock().unwrap();
        books[number].status = Some(answer.status().as_u16());
        books[number].access = told["access_token"].as_str().map(mark);
        books[number].refresh = told["refresh_token"].as_str().map(mark);
    }
    let (head, body) = answer.into_parts();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = head.status;
    for name in ["content-type", "cache-control", "retry-after"] {
        if let Some(value) = head.headers.get(name) {
            response.headers_mut().insert(http::HeaderName::from_static(name), value.clone());
        }
    }
    response
}
