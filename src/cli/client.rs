//! A connection to a broker's gRPC door. Owns how it is found and what is said when nobody answers. Knows no command.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Uri};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::service_fn;

use super::console::Environment;
use super::endpoint::{self, Endpoint, Search};
use super::failure::{Cause, Failure, Refusal};
use super::next::{Name, Next};
use super::times;
use crate::clock::Timestamp;
use crate::config;
use crate::error::Reason;
use crate::grpc::proto::admin_v1::admin_service_client::AdminServiceClient;
use crate::grpc::proto::v1::connection_service_client::ConnectionServiceClient;
use crate::grpc::proto::v1::provider_service_client::ProviderServiceClient;
use crate::grpc::proto::v1::token_broker_service_client::TokenBrokerServiceClient;
use crate::grpc::proto::v1::{Connection, ConnectionStatus, GetConnectionRequest, ListConnectionsRequest};

/// How long the broker may take to accept a connection, and then to say anything at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it may take to answer: longer than it gives a provider (30 s).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A broker that answered.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    channel: Channel,
    /// Where it is.
    pub(crate) endpoint: Endpoint,
}

impl Client {
    /// The first broker that answers where `flag`, the environment and the usual places say.
    pub(crate) async fn find(flag: Option<&Endpoint>, environment: &Environment) -> Result<Self, Failure> {
        let search = Search::new(flag, environment).map_err(|wrong| Failure::new(Cause::Usage, wrong))?;
        let mut failed = Vec::new();
        for endpoint in search.places {
            match open(&endpoint).await {
                Ok(channel) => return Ok(Self { channel, endpoint }),
                Err(why) => failed.push((endpoint, why)),
            }
        }
        Err(nobody_answers(&failed, search.is_named))
    }

    /// Its channel, for services that are not ours.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Its tokens.
    pub(crate) fn tokens(&self) -> TokenBrokerServiceClient<Channel> {
        TokenBrokerServiceClient::new(self.channel.clone())
    }

    /// Its connections.
    pub(crate) fn connections(&self) -> ConnectionServiceClient<Channel> {
        ConnectionServiceClient::new(self.channel.clone())
    }

    /// Its providers.
    pub(crate) fn providers(&self) -> ProviderServiceClient<Channel> {
        ProviderServiceClient::new(self.channel.clone())
    }

    /// What its operators may do: on a socket of its own beside the apps' one, and never over TCP.
    pub(crate) async fn admin(&self) -> Result<AdminServiceClient<Channel>, Failure> {
        let Endpoint::Unix(apps) = &self.endpoint else {
            let what = format!("{} is the apps' door; operators have a socket of their own", self.endpoint);
            return Err(Failure::new(Cause::Usage, what)
                .because("it lies beside the broker's Unix socket (server.grpc.socket)")
                .then(Next::Help("environment".to_owned()).with("--endpoint unix:///path/to/broker.sock")));
        };
        let endpoint = Endpoint::Unix(apps.with_file_name("admin.sock"));
        match open(&endpoint).await {
            Ok(channel) => Ok(AdminServiceClient::new(channel)),
            Err(why) => Err(nobody_answers(&[(endpoint, why)], true)),
        }
    }

    /// The failure of a call that concerns `name`, with what a second look at the broker adds.
    pub(crate) async fn failure(&self, status: Status, name: Option<&Name>, now: Timestamp) -> Failure {
        let mut failure = Refusal::from(status).failure(name);
        match (failure.cause, name) {
            (Cause::Broker(Reason::ReauthRequired), Some(name)) => {
                let Name { provider, connection, tenant } = name.clone();
                let message = GetConnectionRequest { provider, connection, tenant };
                if let Ok(answer) = self.connections().get_connection(request(message)).await {
                    let found = answer.into_inner().connection.unwrap_or_default();
                    add_state(&mut failure, &found, name, now);
                }
            }
            (Cause::Broker(Reason::ConnectionNotFound), Some(name)) => {
                self.add_nearest(&mut failure, name).await;
            }
            (Cause::NoBroker | Cause::NoAnswer | Cause::Unimplemented, _) => {
                failure.place = self.endpoint.to_string();
            }
            _ => {}
        }
        failure
    }

    async fn add_nearest(&self, failure: &mut Failure, name: &Name) {
        let message = ListConnectionsRequest {
            provider: name.provider.clone(),
            tenant: name.tenant.clone(),
            page_size: 1000,
            ..ListConnectionsRequest::default()
        };
        let Ok(answer) = self.connections().list_connections(request(message)).await else { return };
        let known = answer.into_inner().connections;
        let names = known.iter().map(|connection| connection.connection.as_str());
        if let Some(near) = config::nearest(&name.connection, names) {
            failure.why = format!("did you mean {near}?");
            let near = Name { connection: near.to_owned(), ..name.clone() };
            failure.next.insert(0, Next::ShowConnection(near).into());
        }
    }
}

/// What the connection itself tells about a demand to consent again.
fn add_state(failure: &mut Failure, found: &Connection, name: &Name, now: Timestamp) {
    let fact = if found.status() == ConnectionStatus::Revoking {
        // A consent would be refused as long as the old grant is being revoked.
        failure.next =
            vec![Next::ShowConnection(name.clone()).with("REVOKED when it can be connected again")];
        "it was disconnected, and its grant is still being revoked".to_owned()
    } else {
        let Some(consented) = times::of_wire(found.consent_time) else { return };
        format!("consent is {} old", times::span(now.since(consented)))
    };
    failure.why = if failure.why.is_empty() { fact } else { format!("{}; {fact}", failure.why) };
}

/// `message` with the time the broker may take to answer.
pub(crate) fn request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(ANSWER_TIMEOUT);
    request
}

async fn open(endpoint: &Endpoint) -> Result<Channel, io::Error> {
    let channel = connect(endpoint).await?;
    // The client's half of the HTTP/2 handshake does not wait for the other's, and any program may hold the port. What
    // is answered does not matter here.
    let mut health = HealthClient::new(channel.clone());
    let heard = tokio::time::timeout(CONNECT_TIMEOUT, health.check(HealthCheckRequest::default())).await;
    heard.map_err(|_| io::Error::from(io::ErrorKind::TimedOut)).map(|_| channel)
}

async fn connect(endpoint: &Endpoint) -> Result<Channel, io::Error> {
    match endpoint {
        Endpoint::Tcp(authority) => {
            let uri = format!("http://{authority}");
            let channel =
                Channel::from_shared(uri).map_err(io::Error::other)?.connect_timeout(CONNECT_TIMEOUT);
            channel.connect().await.map_err(|error| root(&error))
        }
        Endpoint::Unix(path) => over_socket(path.clone()).await.map_err(|error| root(&error)),
    }
}

async fn over_socket(path: PathBuf) -> Result<Channel, tonic::transport::Error> {
    // What stands in `:authority`; gRPC servers on a socket expect localhost.
    let channel = Channel::from_static("http://localhost").connect_timeout(CONNECT_TIMEOUT);
    let connect = move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    };
    channel.connect_with_connector(service_fn(connect)).await
}

/// The system's own error at the bottom of a transport error, without its wrapping.
fn root(error: &tonic::transport::Error) -> io::Error {
    let mut at: &(dyn std::error::Error + 'static) = error;
    loop {
        if let Some(found) = at.downcast_ref::<io::Error>() {
            return io::Error::from(found.kind());
        }
        match at.source() {
            Some(source) => at = source,
            None => return io::Error::other("no answer"),
        }
    }
}

fn nobody_answers(failed: &[(Endpoint, io::Error)], is_named: bool) -> Failure {
    let mut refusals = failed.iter().map(|(endpoint, error)| {
        let why = match (error.kind(), endpoint) {
            (io::ErrorKind::NotFound, _) => "no such socket".to_owned(),
            (io::ErrorKind::ConnectionRefused, Endpoint::Unix(_)) => {
                "nobody listens on the socket".to_owned()
            }
            (io::ErrorKind::ConnectionRefused, Endpoint::Tcp(_)) => "nobody listens there".to_owned(),
            (io::ErrorKind::PermissionDenied, _) => "this user may not use the socket".to_owned(),
            (io::ErrorKind::TimedOut, _) => format!("no answer within {}", times::span(CONNECT_TIMEOUT)),
            (kind, _) => kind.to_string(),
        };
        (endpoint, why)
    });
    if is_named {
        let (endpoint, why) =
            refusals.next_back().map_or_else(Default::default, |(e, why)| (e.to_string(), why));
        return Failure::new(Cause::NoBroker, format!("no broker answers at {endpoint}"))
            .because(why)
            .then(Next::Look.with("looks in the usual places"));
    }
    let tried: Vec<String> = refusals.map(|(endpoint, why)| format!("{endpoint}: {why}")).collect();
    let socket = endpoint::SYSTEM_SOCKET;
    let what = format!("no broker answers at unix://{socket} or tcp://{}", endpoint::DEFAULT_TCP);
    Failure::new(Cause::NoBroker, what)
        .because(format!("no dev broker is running; tried {}", tried.join(", ")))
        .then(Next::Dev)
}

#[cfg(test)]
mod tests {
    use super::super::next::tests::caller;
    use super::*;

    #[tokio::test]
    async fn a_place_that_was_named_and_is_empty_is_told_with_its_cause() {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::Unix(dir.path().join("broker.sock"));
        let failure = Client::find(Some(&endpoint), &Environment::default()).await.unwrap_err();
        assert_eq!(failure.cause, Cause::NoBroker);
        assert_eq!(failure.what, format!("no broker answers at {endpoint}"));
        assert_eq!(failure.why, "no such socket");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_the_connection_and_says_nothing_is_no_broker() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::Tcp(listener.local_addr().unwrap().to_string());
        let failure = Client::find(Some(&endpoint), &Environment::default()).await.unwrap_err();
        assert_eq!((failure.cause, failure.why.as_str()), (Cause::NoBroker, "no answer within 2 s"));
        assert_eq!(failure.what, format!("no broker answers at {endpoint}"));
    }

    #[test]
    fn a_connection_that_is_being_revoked_is_not_to_be_connected_yet() {
        let name = Name { provider: "p".into(), connection: "c".into(), tenant: String::new() };
        let now = Timestamp::from_millis(1_790_000_000_000);
        let told = |status: ConnectionStatus| {
            let consent = prost_types::Timestamp { seconds: now.as_millis() / 1000 - 3600, nanos: 0 };
            let mut found = Connection { consent_time: Some(consent), ..Connection::default() };
            found.set_status(status);
            let connect = Next::Connect { name: name.clone(), scopes: vec![], allow_account_change: false };
            let mut failure = Failure::new(Cause::Broker(Reason::ReauthRequired), "x").then(connect);
            add_state(&mut failure, &found, &name, now);
            (failure.next[0].command.command(&caller()), failure.why.clone())
        };
        let (next, why) = told(ConnectionStatus::ReauthRequired);
        assert_eq!((next.as_str(), why.as_str()), ("token-broker connect p c", "consent is 60 min old"));
        let (next, why) = told(ConnectionStatus::Revoking);
        assert_eq!(next, "token-broker connections show p c");
        assert!(why.ends_with("still being revoked"), "{why}");
    }

    #[tokio::test]
    async fn a_socket_that_nobody_listens_on_is_told_apart_from_a_missing_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broker.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let failure = Client::find(Some(&Endpoint::Unix(path)), &Environment::default()).await.unwrap_err();
        assert_eq!(failure.why, "nobody listens on the socket");
    }
}
