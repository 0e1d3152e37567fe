//! Connections from accept to end. Owns the accept loops, the settings of HTTP/2 and the drain.
//!
//! hyper's HTTP/2 connection is driven directly and not through tonic's server: the batched stream, `TCP_NODELAY`, who
//! calls, and above all the end must be ours. tonic's graceful shutdown waits for every connection, and a peer that
//! opened one and says nothing keeps it waiting for ever.
//!
//! Invariant: `serve` returns at the latest when the drain limit has passed, whatever the peers do.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::{Routes, RoutesBuilder};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::admin::Admin;
use super::caller::{Caller, Names};
use super::connection::Connections;
use super::door::{Desk, Shared};
use super::io::Batched;
use super::listener::{Accepted, Listener};
use super::proto::admin_v1::admin_service_server::{self, AdminServiceServer};
use super::proto::v1::connection_service_server::{self, ConnectionServiceServer};
use super::proto::v1::provider_service_server::{self, ProviderServiceServer};
use super::proto::v1::token_broker_service_server;
use super::proto::v1::webhook_service_server::WebhookServiceServer;
use super::provider::Providers;
use super::webhook::Webhooks;
use super::{Door, Limits, Offer, Parts, reflection};
use crate::error::Error;
use crate::readiness::Readiness;

/// How long a connection without a request under way may take to go once it is told to: time for its last bytes and
/// for a request that crossed our farewell on the way.
const FAREWELL: Duration = Duration::from_millis(500);

/// How long accepting rests after the system refused (no file descriptors, mostly).
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Serves every door until `until` is done and then drains: no connection is accepted any more, those there are told
/// to go, requests under way end within the drain limit or are cut. A socket's file is removed as the drain begins.
///
/// `names` are hosts by which clients may address the TCP doors, besides loopback's own.
///
/// # Errors
/// [`Error::Internal`] before anything is served, when the contract's descriptors do not fit together.
pub async fn serve(
    doors: Vec<Door>,
    parts: Parts,
    names: &[String],
    limits: &Limits,
    until: impl Future<Output = ()>,
) -> Result<(), Error> {
    let parts = Arc::new(parts);
    let (reporter, health) = tonic_health::server::health_reporter();
    let mut running = Vec::with_capacity(doors.len());
    let (closing, farewell) = (CancellationToken::new(), CancellationToken::new());
    for Door { listener, offer } in doors {
        let shared = Shared {
            parts: parts.clone(),
            names: match listener.socket_path() {
                Some(path) => Names::of_unix(path, names),
                None => Names::of_tcp(names),
            },
            limits: limits.clone(),
            has_tokens: offer == Offer::Apps,
            routes: routes(offer, &parts, limits, health.clone())?,
            farewell: farewell.clone(),
        };
        running.push(serve_door(listener, Arc::new(shared), closing.clone()));
    }
    let health = report_health(reporter, parts.readiness.clone(), closing.clone(), farewell);
    let served = futures_util::future::join_all(running);
    let close = async {
        until.await;
        closing.cancel();
        std::future::pending::<Infallible>().await
    };
    // Health goes on to the end: whoever watches it must hear that this door closes.
    tokio::select! {
        _ = served => Ok(()),
        never = health => match never {},
        never = close => match never {},
    }
}

/// The services behind a door, but for the one that is asked without a router.
fn routes(
    offer: Offer,
    parts: &Arc<Parts>,
    limits: &Limits,
    health: tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>,
) -> Result<Routes, Error> {
    let (reflection, reflection_alpha) = reflection::services(offer)
        .map_err(|_| Error::Internal("the contract's descriptors do not fit together"))?;
    let most = limits.message_bytes;
    let mut routes = RoutesBuilder::default();
    routes.add_service(health).add_service(reflection).add_service(reflection_alpha);
    match offer {
        Offer::Apps => routes
            .add_service(
                ConnectionServiceServer::new(Connections { parts: parts.clone() })
                    .max_decoding_message_size(most),
            )
            .add_service(
                ProviderServiceServer::new(Providers { parts: parts.clone() })
                    .max_decoding_message_size(most),
            )
            .add_service(
                WebhookServiceServer::new(Webhooks { parts: parts.clone() }).max_decoding_message_size(most),
            ),
        Offer::Operators => routes.add_service(
            AdminServiceServer::new(Admin { parts: parts.clone() }).max_decoding_message_size(most),
        ),
    };
    Ok(routes.routes().prepare())
}

/// Tells the health service what readiness says: NOT_SERVING until the last guard drops, and again when the broker
/// drains or the door closes. (tonic's own default for `""` is SERVING from the first moment.) Once the door closes and
/// that is told, `farewell` ends the streams of those who watch.
async fn report_health(
    reporter: HealthReporter,
    readiness: Readiness,
    closing: CancellationToken,
    farewell: CancellationToken,
) -> Infallible {
    let services = [
        "",
        token_broker_service_server::SERVICE_NAME,
        connection_service_server::SERVICE_NAME,
        provider_service_server::SERVICE_NAME,
        admin_service_server::SERVICE_NAME,
    ];
    let mut is_ready = readiness.subscribe();
    loop {
        let is_closing = closing.is_cancelled();
        let status = match *is_ready.borrow_and_update() && !is_closing {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        for service in services {
            reporter.set_service_status(service, status).await;
        }
        if is_closing {
            farewell.cancel();
            return std::future::pending().await;
        }
        tokio::select! {
            () = closing.cancelled() => {}
            changed = is_ready.changed() => if changed.is_err() {
                closing.cancelled().await;
            },
        }
    }
}

/// One accept loop, and the end of what it accepted.
async fn serve_door(listener: Listener, shared: Arc<Shared>, closing: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = closing.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(Accepted::Unix(stream)) => {
                let desk = Desk::new(shared.clone(), Caller::of_unix(&stream));
                connections.spawn(converse(stream, desk, shared.clone(), closing.clone()));
            }
            Ok(Accepted::Tcp(stream, peer)) => {
                let desk = Desk::new(shared.clone(), Caller::of_tcp(peer));
                connections.spawn(converse(stream, desk, shared.clone(), closing.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, at = %listener, "a connection could not be accepted");
                tokio::select! {
                    () = closing.cancelled() => break,
                    () = tokio::time::sleep(ACCEPT_REST) => {}
                }
            }
        }
    }
    let at = listener.to_string();
    drop(listener);
    let deadline = Instant::now() + shared.limits.drain;
    let all_gone = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout_at(deadline, all_gone).await.is_err() {
        tracing::warn!(at, connections = connections.len(), "cut what was still open at the drain limit");
    }
    connections.shutdown().await;
}

/// One connection, to its end.
async fn converse<S>(stream: S, desk: Desk, shared: Arc<Shared>, closing: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let streams = Streams::default();
    let under_way = streams.0.clone();
    let connection = http2::Builder::new(streams)
        .timer(TokioTimer::new())
        .adaptive_window(false)
        .auto_date_header(false)
        .max_concurrent_streams(shared.limits.concurrent_requests)
        .max_header_list_size(shared.limits.header_bytes)
        .keep_alive_interval(shared.limits.keepalive_after)
        .keep_alive_timeout(shared.limits.keepalive_timeout)
        .serve_connection(TokioIo::new(Batched::new(stream)), desk);
    tokio::pin!(connection);
    tokio::select! {
        ended = &mut connection => return note(ended),
        () = closing.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        ended = &mut connection => note(ended),
        // A peer that never answers our farewell, or never said a word at all, is not waited for.
        () = idle(under_way) => {}
    }
}

fn note(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Waits until no request has been under way for the length of a farewell.
async fn idle(under_way: TaskTracker) {
    loop {
        under_way.close();
        under_way.wait().await;
        tokio::time::sleep(FAREWELL).await;
        if under_way.is_empty() {
            return;
        }
    }
}

/// Runs the requests of one connection, and knows when none is under way: a request counts until the last byte of its
/// answer is handed to HTTP/2.
#[derive(Clone, Default)]
struct Streams(TaskTracker);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.spawn(stream);
    }
}
