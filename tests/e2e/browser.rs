//! As much of a browser as a consent needs: cookies, redirects, and forms filled in by the names of their fields.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, COOKIE, HOST, LOCATION, SET_COOKIE};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use url::Url;

/// One person's browser.
#[derive(Default)]
pub(crate) struct Browser {
    cookies: Vec<Cookie>,
}

struct Cookie {
    host: String,
    path: String,
    name: String,
    value: String,
}

/// Where a visit ended.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) url: Url,
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
}

/// An answer as it came, redirects not followed.
pub(crate) type Answer = http::Response<String>;

/// Sends one HTTP/1.1 request over a connection of its own.
pub(crate) async fn send(request: http::Request<String>) -> Answer {
    let url: Url = request.uri().to_string().parse().unwrap();
    let address = (url.host_str().unwrap().to_owned(), url.port_or_known_default().unwrap());
    let stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let (mut head, body) = request.into_parts();
    head.uri = url[url::Position::BeforePath..url::Position::AfterQuery].parse().unwrap();
    head.headers.insert(HOST, url[url::Position::BeforeHost..url::Position::AfterPort].parse().unwrap());
    let answer =
        sender.send_request(http::Request::from_parts(head, Full::<Bytes>::from(body))).await.unwrap();
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    connection.abort();
    http::Response::from_parts(head, String::from_utf8_lossy(&body).into_owned())
}

impl Browser {
    /// Opens `url` and follows redirects, up to the first page or the first address that begins with `leaving`.
    pub(crate) async fn open(&mut self, url: &Url, leaving: &str) -> Page {
        let request = http::Request::get(url.as_str()).body(String::new()).unwrap();
        self.follow(url.clone(), request, leaving).await
    }

    /// Sends the form on `page` with `fields` filled in besides those it carries hidden.
    pub(crate) async fn submit(&mut self, page: &Page, fields: &[(&str, &str)], leaving: &str) -> Page {
        let form = Form::on(page);
        for (name, _) in fields {
            assert!(form.fields.contains_key(*name), "no field {name} in {:?}", form.fields);
        }
        let mut values = form.fields;
        values.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(values).finish();
        let request = http::Request::post(form.action.as_str())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body)
            .unwrap();
        self.follow(form.action, request, leaving).await
    }

    async fn follow(&mut self, mut url: Url, mut request: http::Request<String>, leaving: &str) -> Page {
        for _ in 0..20 {
            let cookies = self.cookies_for(&url);
            if !cookies.is_empty() {
                request.headers_mut().insert(COOKIE, cookies.parse().unwrap());
            }
            let answer = send(request).await;
            self.remember(&url, &answer);
            let (head, body) = answer.into_parts();
            let Some(location) = head.headers.get(LOCATION).filter(|_| head.status.is_redirection()) else {
                return Page { url, status: head.status.as_u16(), headers: head.headers, body };
            };
            url = url.join(location.to_str().unwrap()).unwrap();
            if url.as_str().starts_with(leaving) {
                return Page { url, status: head.status.as_u16(), headers: head.headers, body };
            }
            request = http::Request::get(url.as_str()).body(String::new()).unwrap();
        }
        panic!("too many redirects, the last to {url}");
    }

    /// RFC 6265 section 5.4, as far as loopback needs it: a cookie goes back to its host, below its path.
    fn cookies_for(&self, url: &Url) -> String {
        let fits = |cookie: &&Cookie| {
            Some(cookie.host.as_str()) == url.host_str()
                && (url.path() == cookie.path
                    || url.path().starts_with(&format!("{}/", cookie.path.trim_end_matches('/'))))
        };
        let pairs: Vec<_> = self
            .cookies
            .iter()
            .filter(fits)
            .map(|cookie| format!("{}={}", cookie.name, cookie.value))
            .collect();
        pairs.join("; ")
    }

    fn remember(&mut self, url: &Url, answer: &Answer) {
        for line in answer.headers().get_all(SET_COOKIE) {
            let mut parts = line.to_str().unwrap().split(';').map(str::trim);
            let (name, value) = parts.next().unwrap().split_once('=').unwrap();
            let path = parts.find_map(|part| part.strip_prefix("path=").or(part.strip_prefix("Path=")));
            let cookie = Cookie {
                host: url.host_str().unwrap().to_owned(),
                path: path.unwrap_or("/").to_owned(),
                name: name.to_owned(),
                value: value.to_owned(),
            };
            self.cookies.retain(|old| {
                (&old.host, &old.path, &old.name) != (&cookie.host, &cookie.path, &cookie.name)
            });
            // An empty value is how a server takes a cookie back.
            if !value.is_empty() {
                self.cookies.push(cookie);
            }
        }
    }
}

impl Page {
    /// A parameter of the query string of where the visit ended.
    pub(crate) fn query(&self, name: &str) -> Option<String> {
        self.url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }
}

struct Form {
    action: Url,
    fields: BTreeMap<String, String>,
}

impl Form {
    /// The one form of a page.
    fn on(page: &Page) -> Self {
        let (_, form) = page.body.split_once("<form").unwrap_or_else(|| panic!("no form on {page:?}"));
        let (form, _) = form.split_once("</form>").unwrap();
        let (tag, mut rest) = form.split_once('>').unwrap();
        let action = page.url.join(&attribute(tag, "action").unwrap_or_default()).unwrap();
        let mut fields = BTreeMap::new();
        while let Some((_, input)) = rest.split_once("<input") {
            let (tag, after) = input.split_once('>').unwrap();
            if let Some(name) = attribute(tag, "name") {
                fields.insert(name, attribute(tag, "value").unwrap_or_default());
            }
            rest = after;
        }
        Self { action, fields }
    }
}

/// The value of `name="…"` in a tag.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, value) = tag.split_once(&format!(" {name}=\""))?;
    let (value, _) = value.split_once('"')?;
    Some(value.replace("&quot;", "\"").replace("&#39;", "'").replace("&amp;", "&"))
}
