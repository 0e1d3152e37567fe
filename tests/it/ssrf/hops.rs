//! Redirects through the client that callers' requests leave by: followed where a caller asks, each held against every
//! rule anew, three at most, and every connection to elsewhere counted.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde_json::json;
use token_broker::error::{Error, Rule};
use token_broker::provider::call::Wanted;
use token_broker::provider::oauth::OAuthProvider;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::corpus::{Corpus, Input as _};
use super::network::{Names, OUTSIDE, Server, call, get, resolved};

/// Answers each request with a redirect to the next of these places, and with 200 when there are none left.
struct Guide {
    port: u16,
    places: Arc<Mutex<VecDeque<String>>>,
    targets: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Guide {
    /// And where nobody may be led, at the same port.
    async fn start() -> (Self, Server) {
        let (listener, port, outside) = loop {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            // Somebody else may hold that port at the other address.
            if let Ok((outside, _)) = Server::start((OUTSIDE, port).into()).await {
                break (listener, port, outside);
            }
        };
        let places: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let targets: Arc<Mutex<Vec<String>>> = Arc::default();
        let (leads, seen) = (places.clone(), targets.clone());
        let task = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let head = head_of(&mut socket).await;
                let line = head.lines().next().unwrap_or_default();
                seen.lock().unwrap().push(line.split(' ').nth(1).unwrap_or_default().to_owned());
                let answer = match leads.lock().unwrap().pop_front() {
                    Some(place) => format!("HTTP/1.1 302 X\r\nlocation: {place}\r\n"),
                    None => "HTTP/1.1 200 X\r\n".to_owned(),
                };
                let answer = format!("{answer}connection: close\r\ncontent-length: 0\r\n\r\n");
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        (Self { port, places, targets, task }, outside)
    }

    /// What was asked for while being led to these places one after the other.
    fn lead(&self, places: impl IntoIterator<Item = String>) {
        *self.places.lock().unwrap() = places.into_iter().collect();
        self.targets.lock().unwrap().clear();
    }

    fn targets(&self) -> Vec<String> {
        self.targets.lock().unwrap().clone()
    }

    /// One that may connect to where nobody may be led: what keeps a redirect from there is not its address.
    fn provider(&self) -> OAuthProvider {
        self.provider_of("api.acme.example")
    }

    fn provider_of(&self, host: &str) -> OAuthProvider {
        let entry = json!({
            "key": "acme",
            "client_id": "app",
            "issuer": "https://as.acme.example",
            "allow_http": true,
            "api": {
                "hosts": [format!("http://{host}:{}/v1", self.port)],
                "path_prefixes": ["/files"],
                "allow_networks": ["127.0.0.1", OUTSIDE.to_string()],
            },
        });
        resolved(entry, Arc::new(Names::default())).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"))
    }
}

/// A place of the corpus, whose provider is at the port of HTTPS, for a provider that is at `port` without TLS: the same
/// relation between the two.
fn moved(place: &str, port: u16) -> String {
    let (scheme, rest) = match place.split_once(':') {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => ("http:", rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => ("https:", rest),
        _ => ("", place),
    };
    let Some(rest) = rest.strip_prefix("//") else { return format!("{scheme}{rest}") };
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let host = authority.rsplit('@').next().unwrap_or_default();
    let has_port = host.rsplit(']').next().is_some_and(|host| host.contains(':'));
    let authority = match authority.strip_suffix(":443") {
        Some(host) => format!("{host}:{port}"),
        None if host.is_empty() || has_port => authority.to_owned(),
        None => format!("{authority}:{port}"),
    };
    format!("{scheme}//{authority}{rest}")
}

impl Drop for Guide {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn head_of(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn following() -> Wanted {
    Wanted { path: "/files/a".into(), follow_redirects: true, ..get() }
}

#[tokio::test]
async fn no_redirect_of_the_corpus_leads_elsewhere() {
    let (guide, outside) = Guide::start().await;
    let provider = guide.provider();
    let (mut refused, mut followed) = (0, 0);
    for case in &Corpus::read().redirect {
        let location = case.input.stretched(case.long);
        if location.bytes().any(|b| b.is_ascii_control()) || location.trim_matches(' ') != location {
            // That would be another head, or the same place without the space.
            continue;
        }
        guide.lead(case.after.iter().chain([&location]).map(|place| moved(place, guide.port)));
        let method = case.method.clone().unwrap_or_else(|| "GET".to_owned());
        // A field of a head that is not ASCII says nothing to anybody.
        let follows = ["GET", "HEAD"].contains(&method.as_str()) && location.is_ascii();
        let outcome = call(&provider, &Wanted { method, ..following() }).await;
        let targets = guide.targets();
        assert_eq!(outside.count(), 0, "{case:?}");
        match (outcome, &case.rule, &case.is) {
            (Ok(302), ..) if !follows => assert_eq!(targets.len(), 1, "{case:?}: {targets:?}"),
            (Ok(200), None, Some(is)) if follows => {
                let is = is.strip_prefix("https://api.acme.example").unwrap();
                assert_eq!(targets, ["/v1/files/a", is], "{case:?}");
                followed += 1;
            }
            (Err(Error::RequestRefused(refusal)), Some(rule), None) if follows => {
                assert_eq!(refusal.rule().as_str(), rule, "{case:?}");
                assert_eq!(targets.len(), 1 + case.after.len(), "{case:?}: {targets:?}");
                refused += 1;
            }
            (outcome, ..) => panic!("{case:?}: {outcome:?}"),
        }
    }
    assert!(refused > 50 && followed > 5, "{refused} refused, {followed} followed");

    // The counter counts: the same client, where the entry itself says so.
    let astray = guide.provider_of("evil.example");
    assert_eq!(call(&astray, &Wanted { follow_redirects: false, ..following() }).await.unwrap(), 307);
    assert_eq!(outside.count(), 1);
}

#[tokio::test]
async fn three_redirects_are_followed_and_a_fourth_is_refused() {
    let (guide, _outside) = Guide::start().await;
    let provider = guide.provider();
    let hops = |count: usize| (1..=count).map(|hop| format!("/v1/files/{hop}?hop={hop}"));

    guide.lead(hops(3));
    assert_eq!(call(&provider, &following()).await.unwrap(), 200);
    let led = ["/v1/files/a", "/v1/files/1?hop=1", "/v1/files/2?hop=2", "/v1/files/3?hop=3"];
    assert_eq!(guide.targets(), led);

    guide.lead(hops(4));
    match call(&provider, &following()).await {
        Err(Error::RequestRefused(refusal)) => assert_eq!(refusal.rule(), Rule::RedirectHops),
        other => panic!("{other:?}"),
    }
    assert_eq!(guide.targets(), led, "the fourth was not sent");

    guide.lead(hops(1));
    assert_eq!(call(&provider, &Wanted { follow_redirects: false, ..following() }).await.unwrap(), 302);
    assert_eq!(guide.targets().len(), 1, "nobody asked to follow it");
}

#[tokio::test]
async fn the_address_is_looked_at_again_at_each_hop() {
    let (guide, outside) = Guide::start().await;
    let names = Arc::new(Names::default());
    names.lead("rebound.acme.example", &["127.0.0.1", "127.0.0.2"]);
    let entry = json!({
        "key": "acme",
        "client_id": "app",
        "issuer": "https://as.acme.example",
        "allow_http": true,
        "api": {
            "hosts": [format!("http://rebound.acme.example:{}", guide.port)],
            "allow_networks": ["127.0.0.1"],
        },
    });
    let provider = resolved(entry, names).unwrap();
    guide.lead(["/files/b".to_owned()]);
    match call(&provider, &following()).await {
        Err(Error::RequestRefused(refusal)) => assert_eq!(refusal.rule(), Rule::Address),
        other => panic!("{other:?}"),
    }
    assert_eq!((guide.targets().len(), outside.count()), (1, 0));
}
