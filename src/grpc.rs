//! The gRPC door: decode, ask the broker, encode. Owns the wire contract (`proto/`), the table from a failure to a
//! gRPC status, who is calling, and how connections begin and end. Knows nothing of stores' and providers' insides, nor
//! of configuration files.
//!
//! Invariant: a request is checked in one order everywhere (who, decode, well-formed, allowed, act), and a failure is
//! counted and logged once, here.

mod admin;
mod call;
mod caller;
mod connection;
mod door;
mod io;
mod lasting;
mod listener;
pub mod proto;
mod provider;
mod provider_call;
mod reflection;
pub mod reply;
mod server;
pub(crate) mod setup;
mod status;
mod token_broker;
mod watch;
mod webhook;
mod wire;

use std::sync::Arc;
use std::time::Duration;

pub use caller::Caller;
pub use listener::{Address, BindError, Listener};
pub use server::serve;
pub use status::DOMAIN;

use crate::broker::Broker;
use crate::entropy::Entropy;
use crate::readiness::Readiness;
use crate::telemetry::Metrics;

/// What the services stand on.
pub struct Parts {
    /// Whom they ask.
    pub broker: Arc<Broker>,
    /// Where request ids come from.
    pub entropy: Arc<dyn Entropy>,
    /// Where failures are counted.
    pub metrics: Arc<Metrics>,
    /// What the health service says.
    pub readiness: Readiness,
}

/// A bound address and what is served there.
#[derive(Debug)]
pub struct Door {
    /// Where.
    pub listener: Listener,
    /// What.
    pub offer: Offer,
}

/// Which services a door offers, besides health and reflection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Package `tokenbroker.v1`.
    Apps,
    /// Package `tokenbroker.admin.v1`.
    Operators,
}

/// What a peer may cost, and how long it may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest request message, in bytes.
    pub message_bytes: usize,
    /// Largest header list of a request, in bytes.
    pub header_bytes: u32,
    /// Most requests under way on one connection; further ones wait at the client.
    pub concurrent_requests: u32,
    /// How long a connection may be silent before the peer is asked whether it lives.
    pub keepalive_after: Duration,
    /// How long it may take to answer that.
    pub keepalive_timeout: Duration,
    /// How long requests under way may take once the door closes.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 1024 * 1024,
            header_bytes: 16 * 1024,
            concurrent_requests: 1024,
            keepalive_after: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(20),
            drain: Duration::from_secs(10),
        }
    }
}
