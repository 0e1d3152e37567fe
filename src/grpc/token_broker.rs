//! `TokenBrokerService`: the hit path, what becomes of it when there is no hit, and calls at providers.

use std::sync::Arc;

use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::Parts;
use super::call::{Call, Told, given_id};
use super::caller::Caller;
use super::proto::v1::token_broker_service_server::TokenBrokerService;
use super::proto::v1::{
    CallProviderRequest, CallProviderResponse, GetAccessTokenRequest, StreamProviderCallRequest,
    StreamProviderCallResponse, WatchAccessTokenRequest, WatchAccessTokenResponse,
};
use super::provider_call::ledger::{Ledger, RPC};
use super::provider_call::{self, LARGEST_ANSWER, download, upload};
use super::reply::TokenReply;
use super::status::About;
use super::watch::{self, Answers, Ending};
use super::wire::Mistakes;
use crate::broker::{Broker, TokenRequest, WatchRequest};
use crate::error::Error;
use crate::provider::call::{CallBody, CallPolicy};

/// One for each connection: who calls is part of it, so that a hit looks nothing up.
pub(super) struct TokenBroker {
    pub(super) parts: Arc<Parts>,
    pub(super) caller: Caller,
}

#[tonic::async_trait]
impl TokenBrokerService for TokenBroker {
    type WatchAccessTokenStream = Answers<WatchAccessTokenResponse>;
    type StreamProviderCallStream = Answers<StreamProviderCallResponse>;

    async fn get_access_token(
        &self,
        request: Request<GetAccessTokenRequest>,
    ) -> Result<Response<TokenReply>, Status> {
        let mut call = Call::new(&self.parts, "GetAccessToken", self.caller, &request);
        let broker = &self.parts.broker;
        let asked = match token_request(broker, request.into_inner()) {
            Ok(asked) => asked,
            Err(error) => return Err(call.refuse(About::default(), &error)),
        };
        if let Some(hit) = broker.cached(&asked) {
            return Ok(call.hit(About::from(&asked.id), TokenReply::from(&hit)));
        }
        call.waits();
        let id = asked.id.clone();
        let outcome = broker.access_token(asked).await;
        let source = outcome.as_ref().ok().map(|answer| answer.source);
        call.answer(About::from(&id), source, outcome.map(|answer| TokenReply::from(&answer)))
    }

    async fn watch_access_token(
        &self,
        request: Request<WatchAccessTokenRequest>,
    ) -> Result<Response<Self::WatchAccessTokenStream>, Status> {
        let mut call = Call::new(&self.parts, "WatchAccessToken", self.caller, &request);
        let ending = Ending {
            parts: self.parts.clone(),
            rpc: "WatchAccessToken",
            caller: Some(self.caller),
            request_id: given_id(request.metadata().as_ref()).cloned(),
        };
        let asked = match watch_request(&self.parts.broker, request.into_inner()) {
            Ok(asked) => asked,
            Err(error) => return Err(call.refuse(About::default(), &error)),
        };
        call.waits();
        let id = asked.id.clone();
        let outcome = self.parts.broker.watch_access_token(asked).await;
        let about = About::from(&id);
        call.answer(about, None, outcome.map(|watch| watch::tokens(watch, id.clone(), ending)))
    }

    async fn call_provider(
        &self,
        request: Request<CallProviderRequest>,
    ) -> Result<Response<CallProviderResponse>, Status> {
        let mut call = Call::new(&self.parts, "CallProvider", self.caller, &request);
        let broker = &self.parts.broker;
        let deadline = deadline_of(&request);
        let asked = match provider_call::call(broker, request.into_inner(), deadline) {
            Ok(asked) => asked,
            Err(error) => return Err(call.refuse(About::default(), &error)),
        };
        call.waits();
        let (id, method) = (asked.id.clone(), asked.wanted.method.clone());
        let sent = match &asked.body {
            CallBody::Whole(bytes) => bytes.len() as u64,
            CallBody::Empty | CallBody::Stream(_) => 0,
        };
        let about = About::from(&id);
        match broker.call_whole(asked, LARGEST_ANSWER).await {
            Ok(answer) => {
                let told = Told {
                    method: &method,
                    status: answer.status,
                    attempts: answer.attempts,
                    source: answer.source,
                    origin: answer.origin,
                    sent,
                    received: answer.body.len() as u64,
                };
                Ok(call.called(about, &told, provider_call::answer(&answer)))
            }
            Err(error) => Err(call.refuse(about, &error)),
        }
    }

    async fn stream_provider_call(
        &self,
        request: Request<Streaming<StreamProviderCallRequest>>,
    ) -> Result<Response<Self::StreamProviderCallStream>, Status> {
        let mut call = Call::new(&self.parts, RPC, self.caller, &request);
        let request_id = given_id(request.metadata().as_ref()).cloned();
        let deadline = deadline_of(&request);
        call.waits();
        let (began, sent) = (Instant::now(), Arc::default());
        let broker = &self.parts.broker;
        let mut messages = request.into_inner();
        let opened = async {
            let head = upload::head(&mut messages, CallPolicy::default().stall_timeout).await?;
            let content_length = head.content_length;
            // Before the body is asked for: what is wrong with a head is said at once.
            let mut asked = provider_call::head_of("head.", broker, head, CallBody::Empty, deadline)?;
            let stall = broker.stall_timeout(&asked.id.provider);
            let body = tokio::time::timeout(stall, upload::body(messages, content_length, &sent)).await;
            asked.body = body.unwrap_or_else(|_| Err(Error::stalled("none came", stall)))?;
            Ok(asked)
        };
        let asked = match opened.await {
            Ok(asked) => asked,
            Err(error) => return Err(call.refuse(About::default(), &error)),
        };
        let (id, method) = (asked.id.clone(), asked.wanted.method.clone());
        let answer = match broker.call_streamed(asked).await {
            Ok(answer) => answer,
            Err(error) => return Err(call.refuse(About::from(&id), &error)),
        };
        let ledger = Ledger {
            parts: self.parts.clone(),
            caller: self.caller,
            request_id,
            id,
            method,
            status: answer.status,
            attempts: answer.attempts,
            source: answer.source,
            origin: answer.origin,
            began,
            sent,
            received: 0,
            is_settled: false,
        };
        Ok(call.opened(download::messages(answer, deadline, ledger)))
    }
}

/// When the caller stops waiting.
fn deadline_of<T>(request: &Request<T>) -> Option<Instant> {
    super::door::deadline(request.metadata().as_ref()).map(|span| Instant::now() + span)
}

/// What the watcher asks for, or everything that is wrong with it.
fn watch_request(broker: &Broker, request: WatchAccessTokenRequest) -> Result<WatchRequest, Error> {
    let mut mistakes = Mistakes::default();
    let id = mistakes.connection_id(broker, request.tenant, request.provider, request.connection);
    check_target(&mut mistakes, &request.audience, &request.resources);
    let min_ttl = mistakes.span("min_ttl", request.min_ttl);
    mistakes.none_or(id.map(|id| WatchRequest { id, scopes: request.scopes, min_ttl }))
}

fn check_target(mistakes: &mut Mistakes, audience: &str, resources: &[String]) {
    if !audience.is_empty() {
        mistakes.add("audience", "must be empty: no provider here mints a token for each audience");
    }
    if !resources.is_empty() {
        mistakes.add("resources", "must be empty: no provider here mints a token for each resource");
    }
}

/// What the caller asks for, or everything that is wrong with it.
fn token_request(broker: &Broker, request: GetAccessTokenRequest) -> Result<TokenRequest, Error> {
    let mut mistakes = Mistakes::default();
    let id = mistakes.connection_id(broker, request.tenant, request.provider, request.connection);
    check_target(&mut mistakes, &request.audience, &request.resources);
    let min_ttl = mistakes.span("min_ttl", request.min_ttl);
    let if_not_equal_to = mistakes.sha256("if_not_equal_to", &request.if_not_equal_to);
    mistakes.none_or(id.map(|id| TokenRequest {
        id,
        scopes: request.scopes,
        min_ttl,
        if_not_equal_to,
        allow_stale: request.allow_stale,
    }))
}
