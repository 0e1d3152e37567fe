//! The streams of `WatchAccessToken` and `WatchConnections`. Owns how an event looks on the wire and how such a stream
//! ends. Nothing is queued: the next event is made when the transport has room for it.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use http::HeaderValue;
use tonic::Status;

use super::Parts;
use super::call::Call;
use super::caller::Caller;
use super::proto::v1;
use super::proto::v1::watch_access_token_response::Event as TokenOnWire;
use super::proto::v1::watch_connections_response::Event as ConnectionOnWire;
use super::status::About;
use super::wire::{connection, durability, timestamp};
use crate::broker::{ConnectionEvent, ConnectionWatch, TokenEvent, TokenWatch};
use crate::connection::ConnectionId;
use crate::error::Error;

/// A stream of answers.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What a stream needs to say why it ends.
pub(super) struct Ending {
    pub(super) parts: Arc<Parts>,
    pub(super) rpc: &'static str,
    pub(super) caller: Option<Caller>,
    pub(super) request_id: Option<HeaderValue>,
}

impl Ending {
    fn status(&self, about: About<'_>, error: &Error) -> Status {
        Call::unseen(&self.parts, self.rpc, self.caller, self.request_id.as_ref()).refuse(about, error)
    }
}

/// The events of a watch over one token, up to the one that ends it.
pub(super) fn tokens(
    watch: TokenWatch,
    id: ConnectionId,
    ending: Ending,
) -> Answers<v1::WatchAccessTokenResponse> {
    Box::pin(stream::unfold(Some((watch, id, ending)), |watching| async {
        let (mut watch, id, ending) = watching?;
        match watch.next().await {
            Ok(event) => Some((Ok(token_event(event)), Some((watch, id, ending)))),
            Err(error) => Some((Err(ending.status(About::from(&id), &error)), None)),
        }
    }))
}

/// The events of a watch over connections, up to the one that ends it.
pub(super) fn connections(watch: ConnectionWatch, ending: Ending) -> Answers<v1::WatchConnectionsResponse> {
    Box::pin(stream::unfold(Some((watch, ending)), |watching| async {
        let (mut watch, ending) = watching?;
        match watch.next().await {
            Ok(event) => Some((Ok(connection_event(event)), Some((watch, ending)))),
            Err(error) => Some((Err(ending.status(About::default(), &error)), None)),
        }
    }))
}

fn token_event(event: TokenEvent) -> v1::WatchAccessTokenResponse {
    let event = match event {
        TokenEvent::Token(answer) => TokenOnWire::Token(v1::AccessToken {
            access_token: answer.token.access.value.expose().clone(),
            token_type: answer.token.access.token_type.clone(),
            expire_time: answer.token.access.expires_at.map(timestamp),
            scopes: answer.token.scopes.as_slice().to_vec(),
            generation: answer.token.generation,
            durability: durability(answer.durability).into(),
        }),
        TokenEvent::ConsentNeeded { reason, oauth_error, expires_at } => {
            TokenOnWire::ConsentNeeded(v1::ConsentNeeded {
                reason: reason.to_string(),
                oauth_error: oauth_error.map(|code| code.to_string()).unwrap_or_default(),
                expire_time: expires_at.map(timestamp),
            })
        }
    };
    v1::WatchAccessTokenResponse { event: Some(event) }
}

fn connection_event(event: ConnectionEvent) -> v1::WatchConnectionsResponse {
    let event = match event {
        ConnectionEvent::Connection(profile) => ConnectionOnWire::Connection(connection(*profile)),
        ConnectionEvent::Removed(id) => ConnectionOnWire::Removed(v1::RemovedConnection {
            provider: id.provider.to_string(),
            connection: id.name.to_string(),
            tenant: id.tenant.to_string(),
        }),
        ConnectionEvent::Ending { id, ends_at } => ConnectionOnWire::GrantEnding(v1::GrantEnding {
            provider: id.provider.to_string(),
            connection: id.name.to_string(),
            tenant: id.tenant.to_string(),
            end_time: Some(timestamp(ends_at)),
        }),
        ConnectionEvent::SnapshotStart => ConnectionOnWire::SnapshotStart(v1::SnapshotStart {}),
        ConnectionEvent::SnapshotEnd => ConnectionOnWire::SnapshotEnd(v1::SnapshotEnd {}),
    };
    v1::WatchConnectionsResponse { event: Some(event) }
}
