//! The gRPC door over real sockets: what a caller sees, and how the door closes.

mod closing;
mod log;
mod refusal;
mod served;

use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::token_broker_service_client::TokenBrokerServiceClient;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use served::{PATIENCE, Served, framed, raw, wanted};

use crate::kit;

#[tokio::test]
async fn a_token_is_the_same_over_tcp_and_over_the_socket() {
    let served = Served::start().await;
    served.stage.imported("user-42").await;
    let first = served.tokens().await.get_access_token(wanted("user-42")).await.unwrap().into_inner();
    assert_eq!((first.access_token.as_str(), first.token_type.as_str()), ("at-0", "Bearer"));
    assert_eq!(first.source(), v1::TokenSource::Store);
    assert_eq!(first.durability(), v1::Durability::Durable);
    assert_eq!((first.generation, first.scopes.as_slice()), (1, ["read".to_owned()].as_slice()));
    assert!(first.expire_time.is_some());

    let mut over_socket = TokenBrokerServiceClient::new(served.channel_at(&served.socket).await);
    let second = over_socket.get_access_token(wanted("user-42")).await.unwrap().into_inner();
    assert_eq!(second.source(), v1::TokenSource::Cache);
    assert_eq!(v1::GetAccessTokenResponse { source: first.source, ..second }, first);
    served.close().await;
}

#[tokio::test]
async fn callers_on_many_connections_share_one_refresh() {
    let served = Served::start().await;
    served.stage.expired("user-42").await;
    served.stage.provider.hold();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let client = served.tokens().await;
        for _ in 0..25 {
            let mut client = client.clone();
            calls.spawn(async move { client.get_access_token(wanted("user-42")).await });
        }
    }
    served.stage.provider.requests_reach(1).await;
    served.stage.provider.release();
    let answers = calls.join_all().await;
    assert_eq!(answers.len(), 200);
    for answer in answers {
        assert_eq!(answer.unwrap().into_inner().access_token, "at-1");
    }
    assert_eq!(served.stage.provider.presented(), ["rt-0"]);
}

#[tokio::test]
async fn a_callers_deadline_ends_its_waiting_and_not_the_refresh() {
    let served = Served::start().await;
    served.stage.expired("user-42").await;
    served.stage.provider.hold();
    let mut client = served.tokens().await;
    let hurried = raw("localhost").header("grpc-timeout", "50m").body(framed(&wanted("user-42"))).unwrap();
    let late = served.send(hurried).await;
    assert_eq!(late.headers()["grpc-status"], "4", "DEADLINE_EXCEEDED");
    assert!(late.headers().contains_key("x-request-id"));
    served.stage.provider.release();
    let answer = client.get_access_token(wanted("user-42")).await.unwrap().into_inner();
    assert_eq!(answer.access_token, "at-1");
    assert_eq!(served.stage.provider.presented(), ["rt-0"], "the first call's refresh served the second");
}

#[tokio::test]
async fn an_empty_request_says_what_is_missing_and_what_there_is() {
    let served = Served::start().await;
    let refused =
        served.tokens().await.get_access_token(v1::GetAccessTokenRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let details = refused.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "INVALID_REQUEST");
    let fields: Vec<_> =
        details.bad_request().unwrap().field_violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["provider", "connection"]);
    assert!(refused.message().contains("configured: sandbox"), "{}", refused.message());
}

#[tokio::test]
async fn every_mistake_of_a_request_is_reported_at_once() {
    let served = Served::start().await;
    let spoilt = v1::GetAccessTokenRequest {
        provider: "SANDBOX".into(),
        connection: "two words".into(),
        audience: "api".into(),
        resources: vec!["https://api.example".into()],
        min_ttl: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        if_not_equal_to: b"short".to_vec(),
        ..wanted("")
    };
    let refused = served.tokens().await.get_access_token(spoilt).await.unwrap_err();
    let details = refused.get_error_details();
    let fields: Vec<_> =
        details.bad_request().unwrap().field_violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["provider", "connection", "audience", "resources", "min_ttl", "if_not_equal_to"]);
}

#[tokio::test]
async fn unknown_names_are_told_with_what_is_known() {
    let served = Served::start().await;
    let mut client = served.tokens().await;
    let elsewhere = v1::GetAccessTokenRequest { provider: "google".into(), ..wanted("user-42") };
    let refused = client.get_access_token(elsewhere).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let details = refused.get_error_details();
    assert_eq!(details.error_info().unwrap().metadata["knownProviders"], "sandbox");

    let refused = client.get_access_token(wanted("nobody")).await.unwrap_err();
    let details = refused.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "CONNECTION_NOT_FOUND");
    assert_eq!(details.resource_info().unwrap().resource_name, "sandbox nobody");
}

#[tokio::test]
async fn a_request_keeps_its_id_and_is_given_one_where_it_has_none() {
    let served = Served::start().await;
    let mut client = served.tokens().await;
    let mut named = Request::new(wanted("nobody"));
    named.metadata_mut().insert("x-request-id", "req-7f3a".parse().unwrap());
    let refused = client.get_access_token(named).await.unwrap_err();
    assert_eq!(refused.metadata().get("x-request-id").unwrap(), "req-7f3a");
    assert_eq!(refused.get_error_details().request_info().unwrap().request_id, "req-7f3a");

    let mut unfit = Request::new(wanted("nobody"));
    unfit.metadata_mut().insert("x-request-id", "two words".parse().unwrap());
    let refused = client.get_access_token(unfit).await.unwrap_err();
    let made = refused.metadata().get("x-request-id").unwrap().to_str().unwrap();
    assert_eq!(made.len(), 16, "{made}");
}

#[tokio::test]
async fn a_connection_lives_from_consent_to_disconnection() {
    let served = Served::start().await;
    let mut client = served.connections().await;
    let begun = client
        .begin_connect(v1::BeginConnectRequest {
            provider: "sandbox".into(),
            connection: "user-42".into(),
            redirect_uri: kit::APP_CALLBACK.into(),
            ..v1::BeginConnectRequest::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(begun.redirect_uri, kit::APP_CALLBACK);
    let url = url::Url::parse(&begun.authorization_url).unwrap();
    let state = url.query_pairs().find(|(key, _)| key == "state").unwrap().1.into_owned();

    let named = v1::GetConnectionRequest {
        provider: "sandbox".into(),
        connection: "user-42".into(),
        ..v1::GetConnectionRequest::default()
    };
    let pending = client.get_connection(named.clone()).await.unwrap().into_inner().connection.unwrap();
    assert_eq!(pending.status(), v1::ConnectionStatus::Pending);
    let refused = served.tokens().await.get_access_token(wanted("user-42")).await.unwrap_err();
    assert_eq!(refused.get_error_details().error_info().unwrap().reason, "REAUTH_REQUIRED");

    let completed = client
        .complete_connect(v1::CompleteConnectRequest {
            state: state.clone(),
            code: "code-1".into(),
            iss: "https://sandbox.example".into(),
            ..v1::CompleteConnectRequest::default()
        })
        .await
        .unwrap()
        .into_inner()
        .connection
        .unwrap();
    assert_eq!(completed.status(), v1::ConnectionStatus::Active);
    assert_eq!(completed.account_id, "alice");
    assert!(completed.renewable && completed.consent_time.is_some());

    let again = client
        .complete_connect(v1::CompleteConnectRequest { state, ..v1::CompleteConnectRequest::default() })
        .await
        .unwrap_err();
    assert_eq!(again.get_error_details().error_info().unwrap().reason, "CONNECT_SESSION_INVALID");

    let listed = client.list_connections(v1::ListConnectionsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.connections, [completed]);

    let gone = client
        .disconnect(v1::DisconnectRequest {
            provider: "sandbox".into(),
            connection: "user-42".into(),
            ..v1::DisconnectRequest::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(gone.revocation(), v1::Revocation::Done);
    assert_eq!(gone.status(), v1::ConnectionStatus::Revoked);
    assert_eq!(client.get_connection(named.clone()).await.unwrap_err().code(), Code::NotFound);
    let v1::GetConnectionRequest { provider, connection, tenant } = named;
    let named = v1::GetConnectionHistoryRequest { provider, connection, tenant };
    let life = client.get_connection_history(named).await.unwrap().into_inner().events;
    assert_eq!(life.last().unwrap().event, "revoked");
}

#[tokio::test]
async fn an_import_takes_every_token_that_a_provider_may_give_and_nothing_else() {
    let served = Served::start().await;
    let mut client = served.connections().await;
    let import = |refresh_token: &str, access_token: &str| v1::ImportConnectionRequest {
        provider: "sandbox".into(),
        connection: "user-42".into(),
        refresh_token: refresh_token.into(),
        access_token: access_token.into(),
        ..v1::ImportConnectionRequest::default()
    };
    for (refused, field) in [
        (import("rt\n", ""), "refresh_token"),
        (import("r\u{e9}", ""), "refresh_token"),
        (import("rt", "a b"), "access_token"),
    ] {
        let status = client.import_connection(refused).await.unwrap_err();
        assert_eq!(status.get_error_details().bad_request().unwrap().field_violations[0].field, field);
    }
    client.import_connection(import("rt with spaces", "")).await.unwrap();
    assert_eq!(served.stage.provider.presented(), ["rt with spaces"]);
}

#[tokio::test]
async fn an_imported_grant_is_refreshed_from_the_generation_it_is_known_at() {
    let served = Served::start().await;
    let mut client = served.connections().await;
    let import = v1::ImportConnectionRequest {
        provider: "sandbox".into(),
        connection: "user-42".into(),
        refresh_token: "rt-imported".into(),
        ..v1::ImportConnectionRequest::default()
    };
    let imported = client.import_connection(import.clone()).await.unwrap().into_inner().connection.unwrap();
    assert_eq!(imported.status(), v1::ConnectionStatus::Active);
    assert_eq!(served.stage.provider.presented(), ["rt-imported"]);

    let taken = client.import_connection(import).await.unwrap_err();
    assert_eq!(taken.get_error_details().bad_request().unwrap().field_violations[0].field, "connection");

    let refresh = |if_generation| v1::RefreshConnectionRequest {
        provider: "sandbox".into(),
        connection: "user-42".into(),
        if_generation,
        ..v1::RefreshConnectionRequest::default()
    };
    let refreshed = client.refresh_connection(refresh(None)).await.unwrap().into_inner().connection.unwrap();
    assert_eq!(refreshed.generation, imported.generation + 1);
    let unchanged = client.refresh_connection(refresh(Some(imported.generation))).await.unwrap().into_inner();
    assert_eq!(unchanged.connection.unwrap().generation, refreshed.generation);
}

#[tokio::test]
async fn what_is_not_served_yet_says_what_to_use_instead() {
    let served = Served::start().await;
    let device = v1::BeginConnectRequest {
        flow: v1::ConnectFlow::DeviceCode.into(),
        ..v1::BeginConnectRequest::default()
    };
    let refused = served.connections().await.begin_connect(device).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert_eq!(
        refused.message(),
        "CONNECT_FLOW_DEVICE_CODE is not served by this version: use CONNECT_FLOW_AUTHORIZATION_CODE"
    );
    let id = refused.metadata().get("x-request-id").unwrap().to_str().unwrap().to_owned();
    assert_eq!(refused.get_details_request_info().unwrap().request_id, id);

    let (apps, operators) = (served.channel().await, served.channel_at(&served.admin).await);
    let mut unserved = Vec::new();
    for (method, service) in crate::proto::methods() {
        let channel = if service.contains(".admin.") { &operators } else { &apps };
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let path = format!("/{service}/{method}").parse().unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        // A watch answers when there is something to tell; whether it is served shows at once.
        let asked = client.server_streaming(Request::new(()), path, codec).await;
        let refused = match asked {
            Err(status) => Some(status),
            Ok(mut answers) if !method.starts_with("Watch") => answers.get_mut().message().await.err(),
            Ok(_) => None,
        };
        if let Some(refused) = refused.filter(|refused| refused.code() == Code::Unimplemented) {
            let said = refused.message();
            let (named, instead) = said.split_once(" is not served by this version: ").unwrap_or_default();
            assert!(named == method && instead.split(' ').count() >= 3, "{method}: {said}");
            unserved.push(method);
        }
    }
    unserved.sort();
    assert_eq!(unserved, UNSERVED, "a method was built, or lost");
}

/// Of the contract, what this version does not serve.
const UNSERVED: [&str; 13] = [
    "ExplainPolicy",
    "ExportStore",
    "GetResealProgress",
    "GetWebhookStats",
    "ImportStore",
    "ListDeadWebhooks",
    "ListKeys",
    "ReceiveWebhooks",
    "ReloadConfig",
    "ReplayWebhooks",
    "RotateKey",
    "TailAudit",
    "VerifyStore",
];

#[tokio::test]
async fn operators_have_a_door_of_their_own() {
    use token_broker::grpc::proto::admin_v1::ListKeysRequest;
    use token_broker::grpc::proto::admin_v1::admin_service_client::AdminServiceClient;

    let served = Served::start().await;
    let at_admin = served.channel_at(&served.admin).await;
    let answer = AdminServiceClient::new(at_admin.clone()).list_keys(ListKeysRequest {}).await.unwrap_err();
    assert!(answer.message().contains("keys list"), "{}", answer.message());
    let tokens =
        TokenBrokerServiceClient::new(at_admin).get_access_token(wanted("user-42")).await.unwrap_err();
    assert_eq!((tokens.code(), tokens.message()), (Code::Unimplemented, ""));
    let at_apps = AdminServiceClient::new(served.channel().await).list_keys(ListKeysRequest {}).await;
    assert_eq!(at_apps.unwrap_err().message(), "");
}

#[tokio::test]
async fn an_operator_closes_the_breaker_of_a_provider_that_rests() {
    use token_broker::clock::Timestamp;
    use token_broker::grpc::proto::admin_v1::CloseBreakerRequest;
    use token_broker::grpc::proto::admin_v1::admin_service_client::AdminServiceClient;
    use token_broker::provider::health::{BreakerState, Health};

    let served = Served::start().await;
    let mut at_admin = AdminServiceClient::new(served.channel_at(&served.admin).await);
    let mut close = async |provider: &str| {
        let asked = CloseBreakerRequest { provider: provider.to_owned() };
        at_admin.close_breaker(asked).await.map(|answer| answer.into_inner().was_resting)
    };
    assert!(!close("sandbox").await.unwrap());
    let resting = Health {
        breaker: BreakerState::Open,
        next_attempt_at: Some(Timestamp::from_millis(1_790_000_060_000)),
        ..Health::default()
    };
    *served.stage.provider.health.lock().unwrap() = Some(resting);
    assert!(close("sandbox").await.unwrap());
    assert!(!close("sandbox").await.unwrap(), "it was closed");
    let unknown = close("gogle").await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert_eq!(close("").await.unwrap_err().code(), Code::InvalidArgument);
    let at_apps = AdminServiceClient::new(served.channel().await)
        .close_breaker(CloseBreakerRequest { provider: "sandbox".to_owned() })
        .await;
    assert_eq!(at_apps.unwrap_err().code(), Code::Unimplemented, "apps may not");
}

#[tokio::test]
async fn health_follows_readiness() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;

    let served = Served::start().await;
    let guard = served.readiness.guard("store");
    let mut client = HealthClient::new(served.channel().await);
    let mut watch = client
        .watch(HealthCheckRequest { service: "tokenbroker.v1.TokenBrokerService".into() })
        .await
        .unwrap()
        .into_inner();
    let mut reaches = async |wanted| {
        tokio::time::timeout(PATIENCE, async {
            while watch.message().await.unwrap().unwrap().status() != wanted {}
        })
        .await
        .expect("the status comes");
    };
    reaches(ServingStatus::NotServing).await;
    drop(guard);
    reaches(ServingStatus::Serving).await;
    served.readiness.end();
    reaches(ServingStatus::NotServing).await;
    let check = client.check(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner();
    assert_eq!(check.status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn reflection_of_both_versions_knows_services_details_and_comments() {
    use prost::Message as _;
    use tonic_reflection::pb::{v1 as new, v1alpha as old};

    let served = Served::start().await;
    let channel = served.channel().await;
    let everywhere = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ];
    let for_apps = ["ConnectionService", "ProviderService", "TokenBrokerService", "WebhookService"]
        .map(|service| format!("tokenbroker.v1.{service}"));
    let for_operators = ["tokenbroker.admin.v1.AdminService".to_owned()];
    for (channel, own) in [
        (channel.clone(), for_apps.as_slice()),
        (served.channel_at(&served.socket).await, &for_apps),
        (served.channel_at(&served.admin).await, &for_operators),
    ] {
        let list = new::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(
                new::server_reflection_request::MessageRequest::ListServices(String::new()),
            ),
        };
        let mut client = new::server_reflection_client::ServerReflectionClient::new(channel);
        let mut answers = client.server_reflection_info(tokio_stream_of(list)).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
        let new::server_reflection_response::MessageResponse::ListServicesResponse(listed) = answer else {
            panic!("{answer:?}")
        };
        let names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
        assert_eq!(names, [everywhere.map(str::to_owned).as_slice(), own].concat());
    }

    let symbol = |name: &str| old::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(old::server_reflection_request::MessageRequest::FileContainingSymbol(
            name.into(),
        )),
    };
    let mut client = old::server_reflection_client::ServerReflectionClient::new(channel);
    for (name, comment) in [
        ("tokenbroker.v1.GetAccessTokenRequest", "Asks for an access token of one connection"),
        ("google.rpc.ErrorInfo", "Describes the cause of the error"),
    ] {
        let mut answers =
            client.server_reflection_info(tokio_stream_of(symbol(name))).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
        let old::server_reflection_response::MessageResponse::FileDescriptorResponse(files) = answer else {
            panic!("{name}: {answer:?}")
        };
        let file =
            prost_types::FileDescriptorProto::decode(files.file_descriptor_proto[0].as_slice()).unwrap();
        let comments = file.source_code_info.unwrap().location;
        assert!(comments.iter().any(|place| place.leading_comments().contains(comment)), "{name}");
    }
    for (channel, hidden) in [
        (served.channel().await, "tokenbroker.admin.v1.AdminService"),
        (served.channel_at(&served.admin).await, "tokenbroker.v1.TokenBrokerService"),
    ] {
        let mut client = old::server_reflection_client::ServerReflectionClient::new(channel);
        let asked = client.server_reflection_info(tokio_stream_of(symbol(hidden))).await.unwrap();
        let refused = asked.into_inner().message().await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{hidden} is not served there, so it is not described");
    }
}

fn tokio_stream_of<T: Send + 'static>(item: T) -> impl futures_util::Stream<Item = T> + Send + 'static {
    futures_util::stream::once(std::future::ready(item))
}
