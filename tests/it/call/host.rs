//! An API with several hosts: what one that is down does to calls of the others, what is told of it, and how an operator
//! ends that.

use std::path::Path;
use std::time::Duration;

use token_broker::grpc::proto::admin_v1::CloseBreakerRequest;
use token_broker::grpc::proto::admin_v1::admin_service_client::AdminServiceClient;
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::provider_service_client::ProviderServiceClient;
use token_broker::sandbox::{Endpoint, Fault};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::Endpoint as Door;
use tonic_types::StatusExt as _;

use super::{Desk, get, reason};

/// A host that hangs up on everybody.
struct Broken {
    port: u16,
    task: JoinHandle<()>,
}

impl Broken {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        Self { port, task }
    }

    /// A broker whose API has this host beside the sandbox's own.
    async fn desk(&self) -> Desk {
        let entry = format!(
            ", api: {{hosts: ['http://127.0.0.1:{{port}}/api', 'http://localhost:{}'], \
             limits: {{breaker: {{failures: 2, open: 10m}}}}}}",
            self.port
        );
        Desk::with(&entry).await
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn at(host: &str) -> v1::CallProviderRequest {
    let retry = Some(v1::RetryPolicy { mode: v1::RetryMode::Never.into(), max_attempts: 0 });
    v1::CallProviderRequest { host: host.into(), retry, ..get("/x") }
}

async fn close_breaker(desk: &Desk) -> bool {
    let socket = desk.whole.path("admin.sock");
    let channel = Door::from_shared(format!("unix://{}", Path::new(&socket).display())).unwrap();
    let mut admin = AdminServiceClient::new(channel.connect().await.unwrap());
    let asked = CloseBreakerRequest { provider: "sandbox".into() };
    admin.close_breaker(asked).await.unwrap().into_inner().was_resting
}

pub(super) async fn shown(desk: &Desk) -> v1::ProviderApi {
    let asked = v1::GetProviderRequest { provider: "sandbox".into() };
    let mut providers = ProviderServiceClient::new(desk.channel.clone());
    providers.get_provider(asked).await.unwrap().into_inner().provider.unwrap().api.unwrap()
}

#[tokio::test]
async fn a_host_that_is_down_takes_no_other_with_it() {
    let broken = Broken::start().await;
    let desk = broken.desk().await;
    for _ in 0..2 {
        assert_eq!(reason(&desk.call(at("localhost")).await.unwrap_err()), "PROVIDER_UNAVAILABLE");
    }
    let status = desk.call(at("localhost")).await.unwrap_err();
    assert_eq!(reason(&status), "PROVIDER_CIRCUIT_OPEN");
    let host = format!("localhost:{}", broken.port);
    assert!(
        status.message().starts_with(&format!("sandbox: {host} is resting after 2 failures")),
        "{status}"
    );
    assert_eq!(status.get_details_error_info().unwrap().metadata["host"], host);
    assert_eq!(desk.call(at("127.0.0.1")).await.unwrap().status, 200);
    assert_eq!(desk.call(at("")).await.unwrap().status, 200);

    let told = shown(&desk).await;
    assert_eq!((told.breaker(), told.consecutive_failures), (v1::BreakerState::Open, 2));
    assert_eq!((told.held_back, told.held_back_hosts), (1, vec![host]));
    assert!(told.last_success_time.is_some() && told.next_attempt_time.is_some());
    desk.stop().await;
}

#[tokio::test]
async fn an_operator_lets_calls_to_every_host_go_again() {
    let broken = Broken::start().await;
    let desk = broken.desk().await;
    assert!(!close_breaker(&desk).await, "nothing was held back");
    for _ in 0..2 {
        desk.call(at("localhost")).await.unwrap_err();
    }
    assert!(close_breaker(&desk).await, "a host of the API rested, though its token endpoint did not");
    assert_eq!(shown(&desk).await.held_back, 0);
    assert_eq!(reason(&desk.call(at("localhost")).await.unwrap_err()), "PROVIDER_UNAVAILABLE");
    desk.stop().await;
}

#[tokio::test]
async fn an_operator_wakes_a_call_that_the_provider_sent_away() {
    let desk = Desk::with(", api: {limits: {timeout: 2h}}").await;
    desk.whole
        .sandbox
        .script()
        .next(Endpoint::Echo, Fault::status(429).retry_after(Duration::from_secs(3600)));
    let mut client = desk.client();
    let call = tokio::spawn(async move { client.call_provider(get("/x")).await });
    let woken = async {
        while !call.is_finished() {
            close_breaker(&desk).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), woken).await.expect("it sleeps on");
    assert_eq!(call.await.unwrap().unwrap().get_ref().status, 200);
    desk.stop().await;
}
