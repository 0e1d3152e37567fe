use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Mutex;

use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::mpsc;

use super::*;
use crate::clock::Timestamp;
use crate::connection::{AccessToken, ConnectionId, Credential};
use crate::provider::http::HttpSettings;
use crate::provider::http::resolver::Lookup;
use crate::provider::spec::ProviderSpec;
use crate::provider::target;
use crate::secret::Secret;

const SECOND: Duration = Duration::from_secs(1);

/// An answer of which the pieces come from `receiver`: at least 10 bytes a second over 30 s of waiting.
fn answer(receiver: mpsc::Receiver<Bytes>) -> Guarded {
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async {
        let piece = receiver.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(Frame::data(piece)), receiver))
    });
    let body = reqwest::Body::wrap(Shared(Mutex::new(Box::pin(StreamBody::new(pieces)))));
    Guarded::new(body, ProviderKey::parse("acme").unwrap(), PATIENCE)
}

const PATIENCE: Patience = Patience {
    head: SECOND,
    idle: Duration::from_secs(20),
    stall: Duration::from_secs(300),
    rate: 10,
    rate_window: Duration::from_secs(30),
    most_sent: 0,
    most_received: 1 << 20,
};

/// The client library asks for a body that threads could share.
struct Shared<B>(Mutex<Pin<Box<B>>>);

impl<B: Body> Body for Shared<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.0.lock().unwrap().as_mut().poll_frame(cx)
    }
}

/// Sends `size` bytes every so often, for as long as somebody takes them.
fn trickle(size: usize, every: Duration) -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while sender.send(Bytes::from(vec![b'x'; size])).await.is_ok() {
            tokio::time::sleep(every).await;
        }
    });
    receiver
}

/// How many bytes come within five minutes, and what ends it before.
async fn read(mut answer: Guarded) -> (usize, Option<Error>) {
    let (ends_at, mut came) = (Instant::now() + 300 * SECOND, 0);
    while Instant::now() < ends_at {
        match answer.frame().await {
            Some(Ok(frame)) => came += frame.into_data().unwrap().len(),
            Some(Err(error)) => return (came, Some(error)),
            None => break,
        }
    }
    (came, None)
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_only_trickles_is_given_up_although_it_is_never_silent() {
    let began = Instant::now();
    let (came, error) = read(answer(trickle(40, 5 * SECOND))).await;
    let too_slow = ProviderError::Ambiguous { cause: AmbiguousCause::TooSlow };
    assert!(matches!(&error, Some(Error::Provider { error, .. }) if *error == too_slow), "{error:?}");
    assert!(began.elapsed() >= 30 * SECOND, "half a minute of waiting is looked at, not a moment");
    assert!((40 * 6..=40 * 8).contains(&came), "{came}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_at_the_least_rate_is_read_on() {
    let (came, error) = read(answer(trickle(60, 5 * SECOND))).await;
    assert!(error.is_none(), "{error:?}");
    assert!(came >= 60 * 59, "{came}");
}

#[tokio::test(start_paused = true)]
async fn the_time_that_a_slow_reader_takes_is_not_the_servers() {
    let mut answer = answer(trickle(1, Duration::ZERO));
    for _ in 0..60 {
        assert!(answer.frame().await.unwrap().is_ok());
        tokio::time::sleep(10 * SECOND).await;
    }
}

/// Names that are looked up for ever.
#[derive(Debug)]
struct Endless;

impl Lookup for Endless {
    fn addresses(&self, _: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn who_waits_for_the_connection_of_a_caller_that_hangs_up_is_told_that_nothing_was_sent() {
    let settings = HttpSettings { lookup: Arc::new(Endless), ..HttpSettings::default() };
    let http = HttpClient::new(&settings).unwrap();
    let (provider, addresses) = (ProviderKey::parse("acme").unwrap(), AddressPolicy::default());
    let client = ApiClient::new(provider, PATIENCE, &http, addresses, true);
    let (one, other) = (Arc::default(), Arc::default());
    let target = authorized("http://api.example");
    let request = || ApiRequest { target: &target, headers: HeaderMap::new(), body: CallBody::Empty };
    let mut first = Box::pin(client.send(request(), &one));
    let mut second = Box::pin(client.send(request(), &other));
    assert!(futures_util::poll!(&mut first).is_pending());
    assert!(futures_util::poll!(&mut second).is_pending());
    drop(first);
    let error = second.await.unwrap_err();
    let unsent = ProviderError::Unavailable { cause: Unsent::Unshared, retry_after: None };
    assert!(matches!(&error, Error::Provider { error, .. } if *error == unsent), "{error:?}");
}

#[tokio::test]
async fn an_address_in_place_of_a_host_is_held_against_the_policy_of_who_sends() {
    let http = HttpClient::new(&HttpSettings::default()).unwrap();
    let (provider, addresses) = (ProviderKey::parse("acme").unwrap(), AddressPolicy::default());
    let client = ApiClient::new(provider, PATIENCE, &http, addresses, false);
    // The target's own provider means it.
    let target = authorized("https://192.168.0.1");
    let request = ApiRequest { target: &target, headers: HeaderMap::new(), body: CallBody::Empty };
    let Err(Error::RequestRefused(refusal)) = client.send(request, &Arc::default()).await else {
        panic!("it is sent")
    };
    assert_eq!(refusal.rule(), Rule::Address);
}

/// A POST to a host that the entry names, with a token.
fn authorized(host: &str) -> AuthorizedTarget {
    let spec = serde_json::json!({"allow_http": true, "api": {"hosts": [host], "allow_networks": ["192.168.0.0/16"]}});
    let spec: ProviderSpec = serde_json::from_value(spec).unwrap();
    let api = target::Api::compile(&ProviderKey::parse("acme").unwrap(), &spec).unwrap();
    let id = ConnectionId::parse(String::new(), "acme".into(), "user-42".into()).unwrap();
    let token = AccessToken {
        value: Secret::new("token".to_owned()),
        token_type: "Bearer".to_owned(),
        issued_at: Timestamp::from_millis(0),
        expires_at: None,
    };
    let request = target::Request {
        connection: &id,
        method: "POST",
        host: None,
        path: "/",
        query: &[],
        variables: &BTreeMap::new(),
    };
    api.target(&request).unwrap().authorize(&Credential::new(&id, &token)).unwrap()
}
