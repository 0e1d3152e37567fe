//! `ConnectionService`: consent, import, listing and the end of connections.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::Parts;
use super::call::{Call, given_id};
use super::proto::v1;
use super::proto::v1::connection_service_server::ConnectionService;
use super::status::About;
use super::watch::{self, Answers, Ending};
use super::wire::{Mistakes, connection, disconnected, given, history_event, status_filter, timestamp};
use crate::broker::{AuthorizationResponse, BeginConnect, Broker, ImportConnection};
use crate::connection::{ConnectionId, Profile, alphabet};
use crate::error::Error;
use crate::secret::Secret;
use crate::store::Selection;

/// The service.
#[derive(Clone)]
pub(super) struct Connections {
    pub(super) parts: Arc<Parts>,
}

#[tonic::async_trait]
impl ConnectionService for Connections {
    type WatchConnectionsStream = Answers<v1::WatchConnectionsResponse>;

    async fn begin_connect(
        &self,
        request: Request<v1::BeginConnectRequest>,
    ) -> Result<Response<v1::BeginConnectResponse>, Status> {
        let call = Call::with_caller(&self.parts, "BeginConnect", &request);
        let request = request.into_inner();
        if request.flow() == v1::ConnectFlow::DeviceCode {
            let instead = "use CONNECT_FLOW_AUTHORIZATION_CODE";
            return Err(call.unserved("CONNECT_FLOW_DEVICE_CODE", instead));
        }
        let begin = match begin_connect(&self.parts.broker, request) {
            Ok(begin) => begin,
            Err(error) => return Err(call.refuse(About::default(), &error)),
        };
        let id = begin.id.clone();
        let outcome = self.parts.broker.begin_connect(begin).await;
        let answer = outcome.map(|begun| v1::BeginConnectResponse {
            session: begun.session,
            authorization_url: begun.authorization_url.expose().clone(),
            device: None,
            expire_time: Some(timestamp(begun.expires_at)),
            redirect_uri: begun.redirect_uri,
        });
        call.answer(About::from(&id), None, answer)
    }

    async fn complete_connect(
        &self,
        request: Request<v1::CompleteConnectRequest>,
    ) -> Result<Response<v1::CompleteConnectResponse>, Status> {
        let call = Call::with_caller(&self.parts, "CompleteConnect", &request);
        let request = request.into_inner();
        if request.state.is_empty() {
            let error = Error::invalid("state", "is empty; forward the callback's parameters as they came");
            return Err(call.refuse(About::default(), &error));
        }
        let response = AuthorizationResponse {
            state: request.state.into(),
            code: given(request.code).map(Secret::from),
            iss: given(request.iss),
            error: given(request.error),
        };
        let outcome = self.parts.broker.complete_connect(response).await;
        answer_profile(call, None, outcome, |connection| v1::CompleteConnectResponse { connection })
    }

    async fn finish_connect(
        &self,
        request: Request<v1::FinishConnectRequest>,
    ) -> Result<Response<v1::FinishConnectResponse>, Status> {
        let call = Call::with_caller(&self.parts, "FinishConnect", &request);
        let request = request.into_inner();
        let mut mistakes = Mistakes::default();
        if request.session.is_empty() {
            mistakes.add("session", "is empty; give what BeginConnect answered to this user's attempt");
        }
        if request.code.is_empty() {
            mistakes.add("code", "is empty; give the code parameter of the return_url");
        }
        if let Err(error) = mistakes.none_or(Some(())) {
            return Err(call.refuse(About::default(), &error));
        }
        let outcome = self.parts.broker.finish_connect(&request.session, request.code.into()).await;
        answer_profile(call, None, outcome, |connection| v1::FinishConnectResponse { connection })
    }

    async fn import_connection(
        &self,
        request: Request<v1::ImportConnectionRequest>,
    ) -> Result<Response<v1::ImportConnectionResponse>, Status> {
        let call = Call::with_caller(&self.parts, "ImportConnection", &request);
        let import = match import_connection(&self.parts.broker, request.into_inner()) {
            Ok(import) => import,
            Err(error) => return Err(call.refuse(About::default(), &error)),
        };
        let id = import.id.clone();
        let outcome = self.parts.broker.import_connection(import).await;
        answer_profile(call, Some(&id), outcome, |connection| v1::ImportConnectionResponse { connection })
    }

    async fn refresh_connection(
        &self,
        request: Request<v1::RefreshConnectionRequest>,
    ) -> Result<Response<v1::RefreshConnectionResponse>, Status> {
        let call = Call::with_caller(&self.parts, "RefreshConnection", &request);
        let v1::RefreshConnectionRequest { provider, connection, tenant, if_generation } =
            request.into_inner();
        let id = self.named(&call, tenant, provider, connection)?;
        let outcome = self.parts.broker.refresh_connection(id.clone(), if_generation).await;
        answer_profile(call, Some(&id), outcome, |connection| v1::RefreshConnectionResponse { connection })
    }

    async fn retry_connection(
        &self,
        request: Request<v1::RetryConnectionRequest>,
    ) -> Result<Response<v1::RetryConnectionResponse>, Status> {
        let call = Call::with_caller(&self.parts, "RetryConnection", &request);
        let v1::RetryConnectionRequest { provider, connection, tenant } = request.into_inner();
        let id = self.named(&call, tenant, provider, connection)?;
        let outcome = self.parts.broker.retry_refused(id.clone()).await;
        answer_profile(call, Some(&id), outcome, |connection| v1::RetryConnectionResponse { connection })
    }

    async fn get_connection(
        &self,
        request: Request<v1::GetConnectionRequest>,
    ) -> Result<Response<v1::GetConnectionResponse>, Status> {
        let call = Call::with_caller(&self.parts, "GetConnection", &request);
        let v1::GetConnectionRequest { provider, connection, tenant } = request.into_inner();
        let id = self.named(&call, tenant, provider, connection)?;
        let outcome = match self.parts.broker.provider(id.provider.as_str()) {
            Ok(_) => self.parts.broker.connection(&id).await,
            Err(error) => Err(error),
        };
        answer_profile(call, Some(&id), outcome, |connection| v1::GetConnectionResponse { connection })
    }

    async fn get_connection_history(
        &self,
        request: Request<v1::GetConnectionHistoryRequest>,
    ) -> Result<Response<v1::GetConnectionHistoryResponse>, Status> {
        let call = Call::with_caller(&self.parts, "GetConnectionHistory", &request);
        let v1::GetConnectionHistoryRequest { provider, connection, tenant } = request.into_inner();
        let id = self.named(&call, tenant, provider, connection)?;
        let outcome = match self.parts.broker.provider(id.provider.as_str()) {
            Ok(_) => self.parts.broker.history(&id).await,
            Err(error) => Err(error),
        };
        let answer = outcome.map(|history| v1::GetConnectionHistoryResponse {
            events: history.events().iter().map(history_event).collect(),
        });
        call.answer(About::from(&id), None, answer)
    }

    async fn list_connections(
        &self,
        request: Request<v1::ListConnectionsRequest>,
    ) -> Result<Response<v1::ListConnectionsResponse>, Status> {
        let call = Call::with_caller(&self.parts, "ListConnections", &request);
        let request = request.into_inner();
        let (selection, page_size) = match selection(&request) {
            Ok(selected) => selected,
            Err(error) => return Err(call.refuse(About::default(), &error)),
        };
        let about = About { provider: &request.provider, tenant: &request.tenant, connection: "" };
        let outcome = self.parts.broker.connections(&selection, page_size, &request.page_token).await;
        let answer = outcome.map(|page| v1::ListConnectionsResponse {
            connections: page.profiles.into_iter().map(connection).collect(),
            next_page_token: page.next_page_token,
            unreadable_count: u32::try_from(page.unreadable).unwrap_or(u32::MAX),
        });
        call.answer(about, None, answer)
    }

    async fn watch_connections(
        &self,
        request: Request<v1::WatchConnectionsRequest>,
    ) -> Result<Response<Self::WatchConnectionsStream>, Status> {
        let call = Call::with_caller(&self.parts, "WatchConnections", &request);
        let ending = Ending {
            parts: self.parts.clone(),
            rpc: "WatchConnections",
            caller: request.extensions().get().copied(),
            request_id: given_id(request.metadata().as_ref()).cloned(),
        };
        let request = request.into_inner();
        let listing = v1::ListConnectionsRequest {
            provider: request.provider.clone(),
            connection_prefix: request.connection_prefix,
            tenant: request.tenant.clone(),
            ..v1::ListConnectionsRequest::default()
        };
        let about = About { provider: &request.provider, tenant: &request.tenant, connection: "" };
        let watch = selection(&listing).map(|(selected, _)| self.parts.broker.watch_connections(selected));
        call.answer(about, None, watch.map(|watch| watch::connections(watch, ending)))
    }

    async fn disconnect(
        &self,
        request: Request<v1::DisconnectRequest>,
    ) -> Result<Response<v1::DisconnectResponse>, Status> {
        let call = Call::with_caller(&self.parts, "Disconnect", &request);
        let v1::DisconnectRequest { provider, connection, tenant } = request.into_inner();
        let id = self.named(&call, tenant, provider, connection)?;
        let outcome = self.parts.broker.disconnect(id.clone()).await;
        let answer = outcome.map(|done| disconnected(&done.profile, &done.revocation));
        call.answer(About::from(&id), None, answer)
    }
}

impl Connections {
    /// The connection a request names, or the status that says what is wrong with the name.
    fn named(
        &self,
        call: &Call<'_>,
        tenant: String,
        provider: String,
        connection: String,
    ) -> Result<ConnectionId, Status> {
        let mut mistakes = Mistakes::default();
        let id = mistakes.connection_id(&self.parts.broker, tenant, provider, connection);
        mistakes.none_or(id).map_err(|error| call.refuse(About::default(), &error))
    }
}

/// Answers with the connection as it now stands. Where the request did not name it, the outcome does.
fn answer_profile<T>(
    call: Call<'_>,
    named: Option<&ConnectionId>,
    outcome: Result<Profile, Error>,
    wrap: impl FnOnce(Option<v1::Connection>) -> T,
) -> Result<Response<T>, Status> {
    let found = outcome.as_ref().ok().map(|profile| profile.id.clone());
    let about = named.or(found.as_ref()).map(About::from).unwrap_or_default();
    call.answer(about, None, outcome.map(|profile| wrap(Some(connection(profile)))))
}

fn begin_connect(broker: &Broker, request: v1::BeginConnectRequest) -> Result<BeginConnect, Error> {
    let mut mistakes = Mistakes::default();
    let id = mistakes.connection_id(broker, request.tenant, request.provider, request.connection);
    mistakes.none_or(id.map(|id| BeginConnect {
        id,
        scopes: request.scopes,
        return_url: given(request.return_url),
        redirect_uri: given(request.redirect_uri),
        login_hint: given(request.login_hint),
        extra: request.extra_parameters.into_iter().map(|extra| (extra.name, extra.value)).collect(),
        allow_account_change: request.allow_account_change,
        variables: request.variables.into_iter().collect(),
    }))
}

fn import_connection(
    broker: &Broker,
    request: v1::ImportConnectionRequest,
) -> Result<ImportConnection, Error> {
    // First into custody, so that what is refused is wiped too.
    let refresh_token = given(request.refresh_token).map(Secret::from);
    let access_token = given(request.access_token).map(Secret::from);
    let mut mistakes = Mistakes::default();
    let id = mistakes.connection_id(broker, request.tenant, request.provider, request.connection);
    let expires_at = mistakes.instant("expire_time", request.expire_time);
    if refresh_token.as_ref().is_some_and(|token| !alphabet::is_refresh_token(token.expose())) {
        mistakes.add("refresh_token", "must be printable ASCII, on one line");
    }
    if access_token.as_ref().is_some_and(|token| !alphabet::is_access_token(token.expose())) {
        mistakes.add("access_token", "must be printable ASCII without spaces");
    }
    mistakes.none_or(id.map(|id| ImportConnection {
        id,
        refresh_token,
        access_token,
        expires_at,
        scopes: request.scopes,
        variables: request.variables.into_iter().collect(),
        replace: request.replace,
    }))
}

fn selection(request: &v1::ListConnectionsRequest) -> Result<(Selection, usize), Error> {
    let mut mistakes = Mistakes::default();
    let tenant = mistakes.tenant(&request.tenant);
    let provider = match request.provider.as_str() {
        "" => None,
        provider => mistakes.note(crate::connection::ProviderKey::parse(provider)),
    };
    let page_size = usize::try_from(request.page_size);
    if page_size.is_err() {
        mistakes.add("page_size", "is negative; 0 means 100");
    }
    let selection = Selection {
        tenant,
        provider,
        status: status_filter(request.status()),
        name_prefix: given(request.connection_prefix.clone()),
        with_ended: false,
    };
    mistakes.none_or(Some((selection, page_size.unwrap_or_default())))
}
