//! The same cases, sent: a name server that leads astray, a client whose connections are counted, and nothing of it leaves
//! this machine.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use token_broker::error::Refusal;
use token_broker::provider::address::AddressPolicy;
use token_broker::provider::http::resolver::{GuardedResolver, Lookup, refusal_in};
use token_broker::provider::target::AuthorizedTarget;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::corpus::{Case, Corpus, Input as _};
use super::{Call, acme, authorized, redirected, target, values};

/// Where the provider is, and where nobody may be led; both on one port, so that a changed host alone would do.
const OURS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// Answers every request with 204 and counts connections.
struct Server {
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    fn count(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    async fn start(address: SocketAddr) -> io::Result<(Self, u16)> {
        let listener = TcpListener::bind(address).await?;
        let port = listener.local_addr()?.port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
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
                let _ = socket.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
            }
        });
        Ok((Self { connections, task }, port))
    }

    /// Both on the same port.
    async fn pair() -> (Self, Self, u16) {
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

/// A name server that knows the provider and leads every other name outside.
struct Misleading;

impl Lookup for Misleading {
    fn addresses(&self, host: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        let is_ours = host == "api.acme.example" || host.ends_with(".files.acme.example");
        Box::pin(async move { Ok(vec![if is_ours { OURS } else { OUTSIDE }]) })
    }
}

/// A name server whose answers are written down; the last is given for ever.
struct Written(Mutex<VecDeque<Vec<IpAddr>>>);

impl Lookup for Written {
    fn addresses(&self, _: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        let mut answers = self.0.lock().unwrap();
        let next = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        Box::pin(async move { Ok(next.unwrap_or_default()) })
    }
}

/// A client that connects anew each time, to what `resolver` yields. It trusts nobody's certificates: all is plain here.
fn client(resolver: GuardedResolver) -> reqwest::Client {
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let tls =
        rustls::ClientConfig::builder_with_provider(ring).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    #[expect(
        clippy::disallowed_methods,
        reason = "the resolver is what is tried here, under a client of the test's own"
    )]
    let builder = reqwest::Client::builder();
    builder
        .tls_backend_preconfigured(tls)
        .dns_resolver(resolver)
        .pool_max_idle_per_host(0)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .unwrap()
}

async fn send(client: &reqwest::Client, to: &AuthorizedTarget) -> reqwest::Result<u16> {
    let answer = client.request(to.method().clone(), to.url().clone()).send().await?;
    Ok(answer.status().as_u16())
}

#[tokio::test]
async fn no_case_opens_a_connection_to_anywhere_else() {
    let corpus = Corpus::read();
    let (ours, outside, port) = Server::pair().await;
    let base = format!("http://api.acme.example:{port}/v1");
    let (open, closed, files) =
        (acme(&base, &[]), acme(&base, &["/files", "/open/"]), acme(&base, &["/files"]));
    let resolver = GuardedResolver::new(open.addresses().clone(), Arc::new(Misleading));
    let client = client(resolver);
    let mut let_through: Vec<Result<AuthorizedTarget, Refusal>> = Vec::new();
    let mut call = |api, call: Call<'_>| let_through.push(target(api, &call, &values()).map(authorized));
    for Case { input: path, .. } in &corpus.path {
        call(&open, Call { path, ..Call::default() });
    }
    for Case { input: path, .. } in &corpus.prefix {
        call(&closed, Call { path, ..Call::default() });
    }
    for Case { input: host, .. } in &corpus.host {
        call(&open, Call { host: Some(host), ..Call::default() });
    }
    for case in &corpus.query {
        call(&open, Call { query: &case.input.stretched(case.long), ..Call::default() });
    }
    for case in &corpus.redirect {
        // Absolute ones are about the provider as it is here.
        let here = case.input.stretched(case.long).replace("https://api.acme.example/v1", &base);
        let_through.push(redirected(&files, case, &here).map(authorized));
    }
    let tried = let_through.len();
    let targets: Vec<_> = let_through.into_iter().filter_map(Result::ok).collect();
    let mut sent = 0;
    for target in targets {
        // The hosts behind the star have no server here on the standard port.
        if target.url().port() == Some(port) {
            assert_eq!(send(&client, &target).await.unwrap(), 204, "{target:?}");
            sent += 1;
        }
    }
    assert!(sent > 40 && tried > 300, "{sent} of {tried}");
    assert_eq!((ours.count(), outside.count()), (sent, 0));

    // The counter counts: the same client, led outside by an address that no resolver is asked about.
    let astray = client.get(format!("http://{OUTSIDE}:{port}/")).send().await.unwrap();
    assert_eq!((astray.status().as_u16(), outside.count()), (204, 1));
}

#[tokio::test]
async fn no_answer_of_a_name_server_leads_to_what_is_not_public() {
    let corpus = Corpus::read();
    let (_ours, outside, port) = Server::pair().await;
    for case in &corpus.address {
        let answers: Vec<Vec<IpAddr>> =
            case.input.iter().map(|list| list.iter().map(|text| text.parse().unwrap()).collect()).collect();
        let questions = answers.len();
        let resolver =
            GuardedResolver::new(AddressPolicy::default(), Arc::new(Written(Mutex::new(answers.into()))));
        let mut last = None;
        for _ in 1..questions {
            resolver.checked("api.acme.example").await.unwrap();
        }
        if let Some(is) = &case.is {
            let checked = resolver.checked("api.acme.example").await.unwrap();
            let checked: Vec<String> = checked.iter().map(ToString::to_string).collect();
            assert_eq!(checked.join(" "), *is);
            continue;
        }
        let url = format!("http://api.acme.example:{port}/");
        let error = client(resolver).get(url).send().await.expect_err(&format!("{case:?}"));
        last.clone_from(&refusal_in(&error).map(|refusal| refusal.rule().as_str().to_owned()));
        assert_eq!(last, case.rule, "{case:?}: {error:?}");
        assert!(error.is_connect(), "{error:?}: it was sent, or may have been");
    }
    assert_eq!(outside.count(), 0);
}

#[tokio::test]
async fn a_rebound_name_is_caught_at_the_second_connection() {
    let (ours, outside, port) = Server::pair().await;
    let api = acme(&format!("http://api.acme.example:{port}/v1"), &[]);
    let answers = Mutex::new(VecDeque::from([vec![OURS], vec![OUTSIDE]]));
    let client = client(GuardedResolver::new(api.addresses().clone(), Arc::new(Written(answers))));
    let target = authorized(target(&api, &Call::default(), &values()).unwrap());
    assert_eq!(send(&client, &target).await.unwrap(), 204);
    let error = send(&client, &target).await.unwrap_err();
    assert_eq!(refusal_in(&error).map(|refusal| refusal.rule().as_str()), Some("address"));
    assert_eq!((ours.count(), outside.count()), (1, 0));
}
