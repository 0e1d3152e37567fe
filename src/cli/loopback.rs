//! A small HTTP door on 127.0.0.1 for the browser that comes back from a consent (RFC 8252 section 7.3). Owns what is
//! served there and to whom. Knows nothing of what an answer means.
//!
//! Invariant: only a GET with our own address as `Host` gets an answer (a page elsewhere that rebinds its name to
//! 127.0.0.1 does not), and nothing served there is cached, framed or scripted.

pub(crate) mod html;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::secret::Secret;

/// How long a browser may take to send its request, and to take the last answer when the door closes.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a browser is answered.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A page.
    Page(StatusCode, String),
    /// Go there (303).
    See(Secret<String>),
}

/// What the broker's public door sent the browser back with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Returned {
    /// The one-time code for `FinishConnect`.
    Code(Secret<String>),
    /// The consent failed.
    Refused {
        /// The broker's reason.
        reason: String,
        /// The provider's own error code, where there is one.
        oauth_error: Option<String>,
    },
}

impl Returned {
    /// Reads the query of the return URL; `None` where it is neither.
    pub(crate) fn parse(uri: &Uri) -> Option<Self> {
        let (mut code, mut error, mut oauth_error) = (None, None, None);
        for (name, value) in url::form_urlencoded::parse(uri.query()?.as_bytes()) {
            match &*name {
                "code" => code = Some(Secret::new(value.into_owned())),
                "error" => error = Some(value.into_owned()),
                "oauth_error" => oauth_error = Some(value.into_owned()),
                _ => {}
            }
        }
        match (code, error) {
            (_, Some(reason)) => Some(Self::Refused { reason, oauth_error }),
            (code, None) => code.map(Self::Code),
        }
    }
}

/// Serves `listener` until `until`, then lets the answers under way reach their browsers.
pub(crate) async fn serve<A, F>(
    listener: TcpListener,
    until: CancellationToken,
    answer: A,
) -> std::io::Result<()>
where
    A: Fn(Uri) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let address = listener.local_addr()?;
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = until.cancelled() => break,
        };
        // A browser that is gone before it was accepted.
        let Ok((stream, _)) = accepted else { continue };
        let (answer, until) = (answer.clone(), until.clone());
        connections.spawn(async move {
            let service = service_fn(move |request| respond(request, address, answer.clone()));
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
            let connection = http.serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            tokio::select! {
                // A browser that breaks off has nothing to be told.
                _ = connection.as_mut() => {}
                () = until.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = tokio::time::timeout(PATIENCE, connection).await;
                }
            }
        });
    }
    connections.close();
    connections.wait().await;
    Ok(())
}

async fn respond<A, F>(
    request: Request<Incoming>,
    address: SocketAddr,
    answer: A,
) -> Result<Response<Full<Bytes>>, Infallible>
where
    A: Fn(Uri) -> F,
    F: Future<Output = Answer>,
{
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let is_ours = host == Some(address.to_string().as_str());
    let answer = if !is_ours || request.method() != Method::GET {
        Answer::Page(StatusCode::NOT_FOUND, html::nothing_here())
    } else {
        answer(request.into_parts().0.uri).await
    };
    Ok(response(answer))
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let (status, body, location) = match answer {
        Answer::Page(status, body) => (status, body, None),
        Answer::See(url) => (StatusCode::SEE_OTHER, String::new(), HeaderValue::from_str(url.expose()).ok()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.extend(location.map(|location| (header::LOCATION, location)));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    #[test]
    fn a_return_is_a_code_or_a_refusal() {
        let parse = |raw: &'static str| Returned::parse(&Uri::from_static(raw));
        assert_eq!(parse("/x?code=abc"), Some(Returned::Code(Secret::new("abc".into()))));
        let refused = Returned::Refused {
            reason: "CONNECT_SESSION_INVALID".into(),
            oauth_error: Some("access_denied".into()),
        };
        assert_eq!(parse("/x?error=CONNECT_SESSION_INVALID&oauth_error=access_denied"), Some(refused));
        assert_eq!(parse("/x"), None);
        assert_eq!(parse("/x?state=1"), None);
    }

    async fn ask(address: SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn only_a_get_at_our_own_address_is_answered_and_never_cached_or_framed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let until = CancellationToken::new();
        let door = tokio::spawn(serve(listener, until.clone(), |uri: Uri| async move {
            Answer::Page(StatusCode::OK, format!("at {}", uri.path()))
        }));

        let good = ask(address, &format!("GET /a HTTP/1.1\r\nHost: {address}\r\n\r\n")).await;
        assert!(good.starts_with("HTTP/1.1 200") && good.ends_with("at /a"), "{good}");
        for header in
            ["cache-control: no-store", "x-frame-options: DENY", "default-src 'none'", "no-referrer"]
        {
            assert!(good.contains(header), "{header}");
        }
        for head in [
            format!("GET /a HTTP/1.1\r\nHost: evil.example:{}\r\n\r\n", address.port()),
            format!("POST /a HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n"),
            "GET /a HTTP/1.1\r\n\r\n".to_owned(),
        ] {
            assert!(ask(address, &head).await.starts_with("HTTP/1.1 404"), "{head}");
        }
        until.cancel();
        door.await.unwrap().unwrap();
    }
}
