//! As much of a browser as the sandbox's consent page needs.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, LOCATION};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use url::Url;
use url::form_urlencoded::Serializer;

pub(super) struct Page {
    pub(super) status: u16,
    pub(super) headers: http::HeaderMap,
    pub(super) body: String,
}

/// Opens `url`, follows it to the consent page, answers that with `decision` as `account`, and follows to the end.
pub(super) async fn consent(url: &str, account: &str, decision: &str) -> Page {
    let (at, page) = follow(url.parse().unwrap(), None).await;
    assert!(page.body.contains("name=\"page\""), "no consent page at {at}: {}", page.body);
    let handle = page.body.split("name=\"page\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let form = Serializer::new(String::new())
        .extend_pairs([("page", handle), ("account", account), ("decision", decision)])
        .extend_pairs(scopes(&page.body).map(|scope| ("scope", scope)))
        .finish();
    follow(at.join("/consent").unwrap(), Some(form)).await.1
}

fn scopes(body: &str) -> impl Iterator<Item = &str> {
    body.split("name=\"scope\" ").skip(1).filter_map(|rest| rest.split("value=\"").nth(1)?.split('"').next())
}

async fn follow(mut url: Url, mut form: Option<String>) -> (Url, Page) {
    for _ in 0..10 {
        let page = send(&url, form.take()).await;
        match page.headers.get(LOCATION) {
            Some(location) if (300..400).contains(&page.status) => {
                url = url.join(location.to_str().unwrap()).unwrap();
            }
            _ => return (url, page),
        }
    }
    panic!("too many redirects, last {url}");
}

async fn send(url: &Url, form: Option<String>) -> Page {
    assert_eq!(url.host_str(), Some("127.0.0.1"), "{url} leaves this machine");
    let address = format!("127.0.0.1:{}", url.port().unwrap());
    let stream = TcpStream::connect(&address).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let method = if form.is_some() { "POST" } else { "GET" };
    let request = http::Request::builder()
        .method(method)
        .uri(&url[url::Position::BeforePath..url::Position::AfterQuery])
        .header(HOST, &address)
        .header("origin", url.origin().ascii_serialization())
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Full::<Bytes>::from(form.unwrap_or_default()))
        .unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    connection.abort();
    Page { status: head.status.as_u16(), headers: head.headers, body }
}
