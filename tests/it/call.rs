//! Calls at a provider's API, over gRPC, by a whole broker beside a sandbox.

mod cache;
mod claimed;
mod consent;
mod deadline;
mod decompression;
mod early;
mod framing;
mod frozen;
mod host;
mod http2;
mod last;
mod limits;
mod measures;
mod prior_knowledge;
mod probe;
mod stall;
mod stream;
mod terminal;
mod unattended;
mod unprocessed;
mod unsent;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use token_broker::clock::{Clock as _, SystemClock};
use token_broker::config::Override;
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::connection_service_client::ConnectionServiceClient;
use token_broker::grpc::proto::v1::token_broker_service_client::TokenBrokerServiceClient;
use token_broker::sandbox::{Effect, Endpoint, Exchange, Fault};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::whole::Whole;

/// A whole broker that serves, and a connection `user-42` at its sandbox.
pub(crate) struct Desk {
    pub(crate) whole: Whole,
    endpoint: tonic::transport::Endpoint,
    pub(crate) channel: Channel,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<()>>,
}

impl Desk {
    pub(crate) async fn new() -> Self {
        Self::with("").await
    }

    /// The same, with more lines in the provider's entry (YAML, flow style, with a comma before).
    pub(crate) async fn with(entry: &str) -> Self {
        Self::over(entry, &[]).await
    }

    /// The same, with other keys of the configuration as if given on the command line.
    pub(crate) async fn over(entry: &str, over: &[Override]) -> Self {
        let whole = Whole::new();
        let bound = whole.build_over(entry, over).await;
        let endpoint = format!("http://{}", bound.addresses.grpc_tcp.unwrap());
        let mut ready = bound.readiness.subscribe();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(async move { bound.run(async { drop(stopped.await) }).await.unwrap() });
        ready.wait_for(|is_ready| *is_ready).await.unwrap();
        let endpoint = Channel::from_shared(endpoint).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let desk = Self { whole, endpoint, channel, stop: Some(stop), running: Some(running) };
        desk.connect("user-42").await;
        desk
    }

    async fn connect(&self, name: &str) {
        let grant = self.whole.sandbox.grants().issue(name, &["openid", "email"]);
        let ends_at = SystemClock.now() + grant.expires_in;
        let asked = v1::ImportConnectionRequest {
            provider: "sandbox".into(),
            connection: name.into(),
            refresh_token: grant.refresh_token.unwrap().expose().clone(),
            access_token: grant.access_token.expose().clone(),
            expire_time: Some(prost_types::Timestamp { seconds: ends_at.as_millis() / 1000, nanos: 0 }),
            ..Default::default()
        };
        ConnectionServiceClient::new(self.channel.clone()).import_connection(asked).await.unwrap();
    }

    /// What imports a connection that has no access token yet.
    pub(crate) fn tokenless(&self, name: &str) -> v1::ImportConnectionRequest {
        let grant = self.whole.sandbox.grants().issue(name, &["openid"]);
        v1::ImportConnectionRequest {
            provider: "sandbox".into(),
            connection: name.into(),
            refresh_token: grant.refresh_token.unwrap().expose().clone(),
            ..Default::default()
        }
    }

    pub(crate) fn client(&self) -> TokenBrokerServiceClient<Channel> {
        TokenBrokerServiceClient::new(self.channel.clone())
    }

    /// A client that shares no connection to the broker.
    pub(crate) async fn client_of_its_own(&self) -> TokenBrokerServiceClient<Channel> {
        TokenBrokerServiceClient::new(self.endpoint.connect().await.unwrap())
    }

    pub(crate) async fn call(
        &self,
        request: v1::CallProviderRequest,
    ) -> Result<v1::CallProviderResponse, Status> {
        self.client().call_provider(request).await.map(tonic::Response::into_inner)
    }

    /// What arrived at the API so far.
    pub(crate) fn calls(&self) -> Vec<Exchange> {
        let exchanges = self.whole.sandbox.log().exchanges();
        exchanges.into_iter().filter(|exchange| exchange.endpoint == Endpoint::Echo).collect()
    }

    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        let running = self.running.take().unwrap();
        tokio::time::timeout(Duration::from_secs(60), running).await.unwrap().unwrap();
    }
}

pub(crate) fn get(path: &str) -> v1::CallProviderRequest {
    v1::CallProviderRequest {
        provider: "sandbox".into(),
        connection: "user-42".into(),
        method: "GET".into(),
        path: path.into(),
        ..Default::default()
    }
}

pub(crate) fn post(path: &str, body: &[u8]) -> v1::CallProviderRequest {
    v1::CallProviderRequest { method: "POST".into(), body: body.into(), ..get(path) }
}

pub(crate) fn header(name: &str, value: &str) -> v1::Header {
    v1::Header { name: name.into(), value: value.into() }
}

pub(crate) fn json(answer: &v1::CallProviderResponse) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

pub(crate) fn reason(status: &Status) -> String {
    status.get_details_error_info().unwrap_or_else(|| panic!("{status:?} has no reason")).reason
}

#[tokio::test]
async fn a_call_goes_out_with_the_token_and_its_answer_comes_back_as_it_is() {
    let desk = Desk::new().await;
    let mut request = post("/v1/notes", "Grüße".as_bytes());
    request.query = vec![
        v1::QueryParameter { name: "q".into(), value: "a&b c".into() },
        v1::QueryParameter { name: "q".into(), value: "ü".into() },
    ];
    request.headers = vec![header("x-one", "1"), header("x-one", "2"), header("content-type", "text/plain")];
    let answer = desk.call(request).await.unwrap();

    assert_eq!((answer.status, answer.attempts), (200, 1));
    assert_eq!(answer.token_source(), v1::TokenSource::Cache);
    let echo = json(&answer);
    assert_eq!(echo["account"], "user-42");
    assert_eq!(echo["method"], "POST");
    assert_eq!(echo["target"], "/api/v1/notes?q=a%26b%20c&q=%C3%BC");
    assert_eq!(echo["body"], "Grüße");
    let sent: Vec<(&str, &str)> = echo["headers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| (pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))
        .collect();
    for field in [("x-one", "1"), ("x-one", "2"), ("content-type", "text/plain"), ("content-length", "7")] {
        assert!(sent.contains(&field), "{field:?} of {sent:?}");
    }
    assert!(!sent.iter().any(|(name, _)| *name == "referer" || *name == "accept-encoding"), "{sent:?}");
    assert!(answer.headers.contains(&header("content-type", "application/json")), "{:?}", answer.headers);
    desk.stop().await;
}

#[tokio::test]
async fn a_failure_of_the_provider_is_an_answer() {
    let desk = Desk::new().await;
    for status in [400_u16, 404, 422, 500, 501] {
        let fault = Fault::status(status)
            .body("text/plain", b"no\0\xff".as_slice())
            .header(http::header::WARNING, "a");
        desk.whole.sandbox.script().next(Endpoint::Echo, fault);
        let answer = desk.call(get("/x")).await.unwrap();
        assert_eq!((answer.status, answer.body.as_ref()), (status.into(), b"no\0\xff".as_slice()));
        assert!(answer.headers.contains(&header("warning", "a")));
    }
    desk.stop().await;
}

#[tokio::test]
async fn what_breaks_a_rule_never_leaves() {
    let desk = Desk::new().await;
    let refused = [
        ("path_dot_segment", get("/../token")),
        ("path_encoded", get("/a%2fb")),
        ("method", v1::CallProviderRequest { method: "TRACE".into(), ..get("/x") }),
        ("host", v1::CallProviderRequest { host: "169.254.169.254".into(), ..get("/x") }),
        (
            "header_reserved",
            v1::CallProviderRequest { headers: vec![header("authorization", "Bearer x")], ..get("/x") },
        ),
    ];
    for (rule, request) in refused {
        let status = desk.call(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{rule}");
        assert_eq!(reason(&status), "REQUEST_REFUSED");
        assert_eq!(status.get_details_error_info().unwrap().metadata["rule"], rule);
    }
    assert!(desk.calls().is_empty());
    desk.stop().await;
}

#[tokio::test]
async fn every_mistake_of_a_call_is_named() {
    let desk = Desk::new().await;
    let request = v1::CallProviderRequest { request_id: "a b".into(), ..Default::default() };
    let status = desk.call(request).await.unwrap_err();
    let found = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<_> = found.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["provider", "connection", "method", "path", "request_id"]);
    desk.stop().await;
}

#[tokio::test]
async fn two_hundred_calls_with_a_dead_token_make_one_refresh_and_are_each_made_once_more() {
    // Room for all of them at once, and time to gather.
    let desk = Desk::with(", api: {limits: {max_parallel: 200, timeout: 10m, head_timeout: 10m}}").await;
    // In memory, and good as far as the broker knows.
    desk.call(get("/warm")).await.unwrap();
    desk.whole.sandbox.grants().expire_access_tokens();
    let mut hold = desk.whole.sandbox.script().hold_every_request(Endpoint::Echo);
    let calls: Vec<_> = (0..200)
        .map(|n| {
            let mut client = desk.client();
            tokio::spawn(async move { client.call_provider(post(&format!("/n/{n}"), b"once")).await })
        })
        .collect();
    // All of them are there with the old token before the first is answered.
    hold.reached(200).await;
    hold.release();
    for call in calls {
        let answer = call.await.unwrap().unwrap().into_inner();
        assert_eq!((answer.status, answer.attempts), (200, 2));
    }
    assert_eq!(desk.whole.sandbox.log().counts().refresh_requests, 1);
    let served = desk.calls().iter().filter(|call| call.effect == Some(Effect::Served)).count();
    let refused = desk.calls().len() - served;
    assert_eq!(
        (refused, served),
        (200, 1 + 200),
        "each once with the dead token and once with its successor"
    );
    desk.stop().await;
}

#[tokio::test]
async fn a_token_that_is_refused_for_ever_is_not_renewed_for_ever() {
    let desk = Desk::new().await;
    desk.whole.sandbox.script().always(Endpoint::Echo, Fault::status(401));
    for attempts in [2, 1, 1] {
        let answer = desk.call(get("/x")).await.unwrap();
        assert_eq!((answer.status, answer.attempts), (401, attempts));
    }
    assert_eq!(desk.whole.sandbox.log().counts().refresh_requests, 1);
    desk.stop().await;
}

#[tokio::test]
async fn a_repeated_id_is_answered_and_not_called_again() {
    let desk = Desk::new().await;
    let request = v1::CallProviderRequest { request_id: "order-7".into(), ..post("/orders", b"one") };
    let hold = desk.whole.sandbox.script().hold_request(Endpoint::Echo);
    let first = tokio::spawn({
        let (mut client, request) = (desk.client(), request.clone());
        async move { client.call_provider(request).await }
    });
    let mut hold = hold;
    hold.reached(1).await;
    let mut second = tokio::spawn({
        let (mut client, request) = (desk.client(), request.clone());
        async move { client.call_provider(request).await }
    });
    assert!(futures_util::poll!(&mut second).is_pending());
    hold.release();
    let first = first.await.unwrap().unwrap().into_inner();
    assert_eq!(second.await.unwrap().unwrap().into_inner(), first);
    assert_eq!(desk.call(request.clone()).await.unwrap(), first);
    assert_eq!(desk.calls().len(), 1);
    let key = json(&first)["headers"]
        .as_array()
        .unwrap()
        .iter()
        .any(|pair| pair[0] == "idempotency-key" && pair[1] == "order-7");
    assert!(key, "the provider is told the id: {}", json(&first));

    let status = desk.call(v1::CallProviderRequest { body: b"two".into(), ..request }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    desk.stop().await;
}

#[tokio::test]
async fn connections_are_kept_and_used_again() {
    let desk = Desk::new().await;
    for n in 0..20 {
        desk.call(get(&format!("/{n}"))).await.unwrap();
    }
    let connections: BTreeSet<_> = desk.calls().iter().map(|call| call.connection).collect();
    assert_eq!((desk.calls().len(), connections.len()), (20, 1));
    desk.stop().await;
}

#[tokio::test]
async fn callers_at_the_same_time_take_turns_with_few_connections() {
    let desk = Desk::new().await;
    let callers = (0..8).map(|caller| {
        let mut client = desk.client();
        tokio::spawn(async move {
            for n in 0..50 {
                client.call_provider(get(&format!("/{caller}/{n}"))).await.unwrap();
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    let connections: BTreeSet<_> = desk.calls().iter().map(|call| call.connection).collect();
    assert_eq!(desk.calls().len(), 400);
    // One more than there are callers may be made while another one is on its way back: as many as are kept at most.
    assert!(connections.len() <= 32, "{} connections", connections.len());
    desk.stop().await;
}

#[tokio::test]
async fn redirects_are_followed_where_asked_and_never_elsewhere() {
    let desk = Desk::new().await;
    let script = desk.whole.sandbox.script();
    let follow = |path: &str| v1::CallProviderRequest { follow_redirects: true, ..get(path) };
    let near = Fault::redirect(302, "/api/near?x=1");
    script.next(Endpoint::Echo, near.clone());
    assert_eq!(desk.call(get("/a")).await.unwrap().status, 302, "nobody asked to follow");
    script.next(Endpoint::Echo, near.clone());
    let answer = desk.call(follow("/a")).await.unwrap();
    assert_eq!((answer.status, answer.attempts, &json(&answer)["target"]), (200, 1, &"/api/near?x=1".into()));
    script.next(Endpoint::Echo, near.clone());
    let posted = v1::CallProviderRequest { follow_redirects: true, ..post("/a", b"x") };
    assert_eq!(desk.call(posted).await.unwrap().status, 302, "a body goes nowhere else");

    let away =
        ["http://127.0.0.1:9/api/x", "//evil.example/api/x", "https://127.0.0.1/api/x", "/token", "../token"];
    for location in away {
        script.next(Endpoint::Echo, Fault::redirect(307, location));
        let before = desk.whole.sandbox.log().exchanges().len();
        let status = desk.call(follow("/a")).await.unwrap_err();
        assert_eq!(reason(&status), "REQUEST_REFUSED", "{location}");
        assert_eq!(desk.whole.sandbox.log().exchanges().len(), before + 1, "{location}");
    }
    script.next_n(4, Endpoint::Echo, near);
    let status = desk.call(follow("/a")).await.unwrap_err();
    assert_eq!(status.get_details_error_info().unwrap().metadata["rule"], "redirect_hops");
    desk.stop().await;
}
