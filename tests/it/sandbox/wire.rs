//! The client's end of the wire: one connection a request, nothing retried, nothing followed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use token_broker::clock::{ManualClock, Timestamp};
use token_broker::entropy::SeededEntropy;
use token_broker::sandbox::{Behavior, ClientRegistration, Sandbox, SandboxOptions};
use tokio::net::TcpStream;
use url::Url;
use url::form_urlencoded::{Serializer, parse};

/// Where a registered client's users return to.
pub(super) const REDIRECT_URI: &str = "http://127.0.0.1:8800/callback/sandbox?fixed=1";
pub(super) const VERIFIER: &str = "a-code-verifier-of-at-least-forty-three-characters";

/// A sandbox on a free port with a clock that stands still, and a confidential client.
pub(super) struct Case {
    pub(super) sandbox: Sandbox,
    pub(super) clock: Arc<ManualClock>,
}

/// An answer, read whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Case {
    pub(super) fn new(behavior: Behavior) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_790_000_000_000)));
        let client = ClientRegistration::confidential("app").redirect_uri(REDIRECT_URI);
        let options = SandboxOptions { client, behavior };
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let entropy = Arc::new(SeededEntropy::new(1));
        let sandbox = Sandbox::start(address, options, clock.clone(), entropy).unwrap();
        Self { sandbox, clock }
    }

    pub(super) fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub(super) fn secret(&self) -> String {
        self.sandbox.client_secret().unwrap().expose().clone()
    }

    pub(super) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("app:{}", self.secret())))
    }

    pub(super) async fn send(&self, request: Request<String>) -> io::Result<Answer> {
        send(self.sandbox.address(), request).await
    }

    pub(super) async fn get(&self, target: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(request("GET", target, headers, "")).await.unwrap()
    }

    pub(super) async fn post(&self, target: &str, form: &[(&str, &str)]) -> io::Result<Answer> {
        let headers =
            [("content-type", "application/x-www-form-urlencoded"), ("authorization", &self.basic())];
        self.send(request("POST", target, &headers, &encoded(form))).await
    }

    pub(super) async fn refresh(&self, token: &str) -> io::Result<Answer> {
        self.post("/token", &[("grant_type", "refresh_token"), ("refresh_token", token)]).await
    }

    pub(super) async fn user_info(&self, token: &str) -> Answer {
        self.get("/userinfo", &[("authorization", &format!("Bearer {token}"))]).await
    }

    /// A refresh token and an access token of a new grant.
    pub(super) fn tokens(&self) -> (String, String) {
        let grant = self.sandbox.grants().issue("user-42", &["openid", "email"]);
        (grant.refresh_token.unwrap().expose().clone(), grant.access_token.expose().clone())
    }

    /// `GET /authorize` with a good request, changed by `changes`; an empty value leaves a parameter out.
    pub(super) async fn authorize(&self, changes: &[(&str, &str)]) -> Answer {
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
        let mut form = vec![
            ("response_type", "code"),
            ("client_id", "app"),
            ("redirect_uri", REDIRECT_URI),
            ("scope", "openid email api.read"),
            ("state", "a state & more"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        form.retain(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
        form.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
        self.get(&format!("/authorize?{}", encoded(&form)), &[]).await
    }

    /// `POST /consent` from the page that `authorize` showed.
    pub(super) async fn consent(&self, page: &Answer, form: &[(&str, &str)]) -> Answer {
        let handle = page.between("name=\"page\" value=\"", "\"");
        let form: Vec<(&str, &str)> = [("page", handle)].into_iter().chain(form.iter().copied()).collect();
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        self.send(request("POST", "/consent", &headers, &encoded(&form))).await.unwrap()
    }

    /// `POST /token` with a code; further parameters replace the right ones.
    pub(super) async fn redeem(&self, code: &str, changes: &[(&str, &str)]) -> Answer {
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", REDIRECT_URI),
            ("code_verifier", VERIFIER),
        ];
        form.retain(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
        form.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
        self.post("/token", &form).await.unwrap()
    }
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    /// A string in the JSON body.
    pub(super) fn text(&self, field: &str) -> String {
        self.json()[field].as_str().unwrap_or_default().to_owned()
    }

    /// A parameter of the `Location`, which must lead to the redirect URI.
    pub(super) fn returned(&self, name: &str) -> Option<String> {
        assert_eq!(self.status, 303, "{}", self.body);
        let location = self.header("location");
        assert!(location.starts_with(REDIRECT_URI), "{location}");
        let url = Url::parse(location).unwrap();
        parse(url.query().unwrap().as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }

    pub(super) fn between(&self, start: &str, end: &str) -> &str {
        let at = self.body.find(start).unwrap_or_else(|| panic!("{start} is not in {}", self.body));
        let rest = &self.body[at + start.len()..];
        &rest[..rest.find(end).unwrap()]
    }
}

pub(super) fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Request<String> {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body.to_owned()).unwrap()
}

pub(super) fn encoded(form: &[(&str, &str)]) -> String {
    Serializer::new(String::new()).extend_pairs(form).finish()
}

/// Sends one request over a connection of its own.
pub(super) async fn send(address: SocketAddr, mut request: Request<String>) -> io::Result<Answer> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let driven = tokio::spawn(connection);
    if !request.headers().contains_key("host") {
        request.headers_mut().insert("host", address.to_string().parse().unwrap());
    }
    let response = sender
        .send_request(request.map(|body| Full::new(Bytes::from(body))))
        .await
        .map_err(io::Error::other)?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    driven.abort();
    let body = String::from_utf8(body.to_vec()).map_err(io::Error::other)?;
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
}
