//! The ops door: is it alive, is it ready, what does it count. Read-only, and nothing on it is secret: it may be bound
//! to all addresses. It asks for no `Host`, because kubelet names it by its address.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::door::{self, Limits};
use super::pulse::Pulse;
use crate::readiness::Readiness;
use crate::telemetry::Metrics;

const LIMITS: Limits = Limits {
    connections: 256,
    head: Duration::from_secs(15),
    life: Duration::from_secs(600),
    is_kept_alive: true,
};

const INDEX: &str = concat!(
    "token-broker ",
    env!("CARGO_PKG_VERSION"),
    "\n\n\
     /livez     200 while the event loops turn\n\
     /readyz    200 while requests are served; /readyz?verbose lists what is awaited or degraded\n\
     /startupz  200 once start-up is over\n\
     /metrics   OpenMetrics\n"
);

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the ops door tells about.
#[derive(Clone, Debug)]
pub struct Ops {
    /// What start-up waits for, and whether the broker drains.
    pub readiness: Readiness,
    /// Whether the other event loops turn.
    pub pulse: Pulse,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Serves the ops door until `shutdown`, then ends within `drain`. Shut it down last: it is how an operator sees the
/// rest drain.
pub async fn serve_ops(listener: TcpListener, ops: Ops, shutdown: CancellationToken, drain: Duration) {
    door::serve("ops", listener, router(ops), LIMITS, shutdown, drain).await;
}

fn router(ops: Ops) -> Router {
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/startupz", get(startupz))
        .route("/metrics", get(metrics))
        .fallback(|| async { (StatusCode::NOT_FOUND, "not here; / lists what is\n") })
        .method_not_allowed_fallback(|| async {
            (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET,HEAD")], "this door is read-only: GET or HEAD\n")
        })
        .layer(map_response(dressed))
        .with_state(ops)
}

async fn livez(State(ops): State<Ops>) -> Response {
    let stuck = ops.pulse.stuck();
    if stuck.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("stuck: {}\n", stuck.join(", "))).into_response()
}

async fn readyz(State(ops): State<Ops>, RawQuery(query): RawQuery) -> Response {
    let status = if ops.readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let degraded = ops.readiness.degraded();
    if !is_verbose(query.as_deref()) {
        let text = match (status.is_success(), &degraded) {
            (true, None) => "ok\n",
            (true, Some(_)) => "ok, degraded\n",
            (false, _) => "not ready\n",
        };
        return (status, text).into_response();
    }
    let mut text = String::new();
    for (name, is_awaited) in ops.readiness.parts() {
        let _ = writeln!(
            text,
            "{}",
            if is_awaited { format!("[-]{name} awaited") } else { format!("[+]{name} ok") }
        );
    }
    if let Some(degraded) = degraded {
        let _ = writeln!(text, "[!]{degraded}");
    }
    let _ = writeln!(text, "{}", if status.is_success() { "ready" } else { "not ready" });
    (status, text).into_response()
}

async fn startupz(State(ops): State<Ops>) -> Response {
    if ops.readiness.has_started() {
        return "ok\n".into_response();
    }
    let text = format!("awaited: {}\n", ops.readiness.awaited().join(", "));
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn metrics(State(ops): State<Ops>) -> Response {
    match ops.metrics.encode() {
        Ok(text) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics do not encode\n").into_response(),
    }
}

/// `?verbose`, with or without a value, as kubectl writes it.
fn is_verbose(query: Option<&str>) -> bool {
    query.is_some_and(|query| {
        query.split('&').any(|pair| pair.split('=').next().is_some_and(|name| name == "verbose"))
    })
}

async fn dressed(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    );
    response
}
