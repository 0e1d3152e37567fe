//! The same cases by the client that callers' requests leave by: a name server that leads astray, a provider that answers
//! with a redirect to elsewhere, and every connection counted. Nothing of it leaves this machine.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use token_broker::clock::SystemClock;
use token_broker::connection::Credential;
use token_broker::error::{Error, Mistake, Rule};
use token_broker::provider::ProviderClient as _;
use token_broker::provider::address::AddressPolicy;
use token_broker::provider::call::{Allowance, CallBody, Wanted};
use token_broker::provider::catalogue::ProviderEntry;
use token_broker::provider::http::resolver::{GuardedResolver, Lookup};
use token_broker::provider::http::{HttpClient, HttpSettings};
use token_broker::provider::oauth::OAuthProvider;
use token_broker::telemetry::Metrics;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::corpus::{Corpus, Input as _};
use super::{connection, token};

/// Where the provider is, and where nobody may be led; both on one port, so that a changed host alone would do.
const OURS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
pub(super) const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// Redirects every request outside and counts connections.
pub(super) struct Server {
    connections: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(super) fn count(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The heads of the requests so far.
    pub(super) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    pub(super) async fn start(address: SocketAddr) -> io::Result<(Self, u16)> {
        let listener = TcpListener::bind(address).await?;
        let port = listener.local_addr()?.port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = heads.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match socket.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                seen.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
                let answer = format!(
                    "HTTP/1.1 307 Elsewhere\r\nlocation: http://{OUTSIDE}:{port}/\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                );
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        Ok((Self { connections, heads, task }, port))
    }

    /// Both on the same port.
    pub(super) async fn pair() -> (Self, Self, u16) {
        loop {
            let (ours, port) = Self::start((OURS, 0).into()).await.unwrap();
            // Somebody else may hold that port at the other address.
            if let Ok((outside, _)) = Self::start((OUTSIDE, port).into()).await {
                return (ours, outside, port);
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A name server: the provider's own hosts are ours, some names have answers that are written down (the last is given
/// for ever), and every other name leads outside. Second: what was asked for.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<HashMap<String, VecDeque<Vec<IpAddr>>>>, Mutex<Vec<String>>);

impl Names {
    /// A name whose answers these are, one after the other.
    pub(super) fn lead(&self, name: &str, addresses: &[&str]) {
        let answers = addresses.iter().map(|address| vec![address.parse().unwrap()]).collect();
        self.0.lock().unwrap().insert(name.to_owned(), answers);
    }

    /// The names that were asked for since this was asked last: without one there is no connection but to an address.
    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.1.lock().unwrap())
    }
}

impl Lookup for Names {
    fn addresses(&self, host: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        self.1.lock().unwrap().push(host.clone());
        let found = match self.0.lock().unwrap().get_mut(&host) {
            Some(answers) if answers.len() > 1 => answers.pop_front().unwrap(),
            Some(answers) => answers[0].clone(),
            None if host == "api.acme.example" || host.ends_with(".files.acme.example") => vec![OURS],
            None => vec![OUTSIDE],
        };
        Box::pin(async move { Ok(found) })
    }
}

/// A provider whose API is at `hosts`, and which asks these names.
fn provider(hosts: &[String], api: Value, names: Arc<Names>) -> OAuthProvider {
    let mut entry = json!({
        "key": "acme",
        "client_id": "app",
        "issuer": "https://as.acme.example",
        "allow_http": true,
        "api": {"hosts": hosts},
    });
    entry["api"].as_object_mut().unwrap().extend(api.as_object().unwrap().clone());
    resolved(entry, names).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"))
}

/// A provider as its entry describes it, or what is wrong with that.
pub(super) fn resolved(entry: Value, names: Arc<Names>) -> Result<OAuthProvider, Vec<Mistake>> {
    let entry: ProviderEntry = serde_json::from_value(entry).unwrap();
    let config = entry.resolve(None)?;
    let http = HttpClient::new(&HttpSettings { lookup: names, ..HttpSettings::default() }).unwrap();
    Ok(OAuthProvider::new(config, http, Arc::new(SystemClock), Arc::new(Metrics::default())))
}

/// Makes the call and says its status.
pub(super) async fn call(provider: &OAuthProvider, wanted: &Wanted) -> Result<u16, Error> {
    let (id, token) = (connection(), token());
    let prepared = provider.prepare_call(&id, wanted)?;
    let credential = Credential::new(&id, &token);
    let time = Allowance { turn: Duration::from_secs(30), left: None, dice: 0 };
    Ok(prepared.send(credential, CallBody::Empty, time).await?.status)
}

pub(super) fn get() -> Wanted {
    Wanted { method: "GET".into(), path: "/x".into(), ..Wanted::default() }
}

#[tokio::test]
async fn no_case_opens_a_connection_to_anywhere_else() {
    let corpus = Corpus::read();
    let (ours, outside, port) = Server::pair().await;
    let hosts = [format!("http://api.acme.example:{port}/v1"), format!("http://*.files.acme.example:{port}")];
    let networks = json!({"allow_networks": ["127.0.0.1"]});
    let open = provider(&hosts, networks.clone(), Arc::default());
    let mut cases: Vec<Wanted> = Vec::new();
    cases.extend(corpus.path.iter().map(|case| Wanted { path: case.input.clone(), ..get() }));
    cases.extend(corpus.prefix.iter().map(|case| Wanted { path: case.input.clone(), ..get() }));
    cases.extend(corpus.host.iter().map(|case| Wanted { host: case.input.clone(), ..get() }));
    cases.extend(corpus.method.iter().map(|case| Wanted { method: case.input.clone(), ..get() }));
    cases.extend(corpus.query.iter().map(|case| Wanted { query: case.input.stretched(case.long), ..get() }));
    cases.extend(
        corpus.header.iter().map(|case| Wanted { headers: vec![case.input.stretched(case.long)], ..get() }),
    );
    let mut sent = 0;
    for wanted in &cases {
        match call(&open, wanted).await {
            Ok(status) => {
                assert_eq!(status, 307, "{wanted:?}: the provider's redirect goes back to the caller");
                sent += 1;
            }
            Err(Error::RequestRefused(_)) => {}
            Err(other) => panic!("{wanted:?}: {other:?}"),
        }
    }
    assert!(sent > 60 && cases.len() - sent > 300, "{sent} of {}", cases.len());
    assert_eq!((ours.count(), outside.count()), (sent, 0));

    // The counter counts: the same client, where the entry itself says so.
    let astray = provider(&[format!("http://{OUTSIDE}:{port}")], json!({}), Arc::default());
    assert_eq!((call(&astray, &get()).await.unwrap(), outside.count()), (307, 1));
}

#[tokio::test]
async fn no_answer_of_a_name_server_leads_to_what_is_not_public() {
    let corpus = Corpus::read();
    let (ours, outside, port) = Server::pair().await;
    let names = Arc::new(Names::default());
    let provider = provider(&[format!("http://*.dns.acme.example:{port}")], json!({}), names.clone());
    let mut refused = 0;
    for (index, case) in corpus.address.iter().enumerate() {
        let host = format!("case-{index}.dns.acme.example");
        let answers: VecDeque<Vec<IpAddr>> =
            case.input.iter().map(|list| list.iter().map(|text| text.parse().unwrap()).collect()).collect();
        let questions = answers.len();
        names.0.lock().unwrap().insert(host.clone(), answers);
        // Public addresses are not connected to here, only looked at.
        let resolver = GuardedResolver::new(AddressPolicy::default(), names.clone());
        for _ in 1..questions {
            resolver.checked(&host).await.unwrap();
        }
        if let Some(is) = &case.is {
            let checked = resolver.checked(&host).await.unwrap();
            assert_eq!(checked.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), *is);
            continue;
        }
        match call(&provider, &Wanted { host, ..get() }).await {
            Err(Error::RequestRefused(refusal)) => {
                assert_eq!(Some(refusal.rule().as_str()), case.rule.as_deref(), "{case:?}");
            }
            other => panic!("{case:?}: {other:?}"),
        }
        refused += 1;
    }
    assert!(refused > 60, "{refused}");
    assert_eq!((ours.count(), outside.count()), (0, 0));
}

#[tokio::test]
async fn a_rebound_name_is_caught_at_the_second_connection() {
    let (ours, outside, port) = Server::pair().await;
    let names = Arc::new(Names::default());
    let answers = VecDeque::from([vec![OURS], vec![OUTSIDE]]);
    names.0.lock().unwrap().insert("rebound.files.acme.example".into(), answers);
    let hosts = [format!("http://*.files.acme.example:{port}")];
    let provider = provider(&hosts, json!({"allow_networks": ["127.0.0.1"]}), names);
    let wanted = Wanted { host: "rebound.files.acme.example".into(), ..get() };
    assert_eq!(call(&provider, &wanted).await.unwrap(), 307);
    match call(&provider, &wanted).await {
        Err(Error::RequestRefused(refusal)) => assert_eq!(refusal.rule(), Rule::Address),
        other => panic!("{other:?}"),
    }
    assert_eq!((ours.count(), outside.count()), (1, 0));
}
