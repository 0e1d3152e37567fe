//! What is said and counted of a streamed call when it ends, however it ends. Invariant: every stream that was begun gets
//! one log line and is counted once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;
use tokio::time::Instant;
use tonic::Status;

use super::super::Parts;
use super::super::call::{Call, Told};
use super::super::caller::Caller;
use super::super::status::About;
use crate::broker::Source;
use crate::connection::{ConnectionId, ProviderKey};
use crate::error::Error;
use crate::provider::call::Origin;

/// A streamed call, from its head to its end.
pub(in crate::grpc) struct Ledger {
    pub(in crate::grpc) parts: Arc<Parts>,
    pub(in crate::grpc) caller: Caller,
    pub(in crate::grpc) request_id: Option<HeaderValue>,
    pub(in crate::grpc) id: ConnectionId,
    pub(in crate::grpc) method: String,
    pub(in crate::grpc) status: u16,
    pub(in crate::grpc) attempts: u32,
    pub(in crate::grpc) source: Source,
    pub(in crate::grpc) origin: Origin,
    pub(in crate::grpc) began: Instant,
    pub(in crate::grpc) sent: Arc<AtomicU64>,
    pub(in crate::grpc) received: u64,
    pub(in crate::grpc) is_settled: bool,
}

/// The RPC in logs.
pub(in crate::grpc) const RPC: &str = "StreamProviderCall";

impl Ledger {
    pub(super) fn provider(&self) -> &ProviderKey {
        &self.id.provider
    }

    pub(super) fn received(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// The last byte has been handed on.
    pub(super) fn ended(&mut self) {
        self.settle("answered");
    }

    /// The provider, or the caller's own body, broke off.
    pub(super) fn failed(&mut self, error: &Error) -> Status {
        self.count();
        self.call().refuse(About::from(&self.id), error)
    }

    /// The caller's deadline has passed in the middle of the answer.
    pub(super) fn too_late(&mut self) -> Status {
        self.count();
        let status = Status::deadline_exceeded("the caller's deadline passed before the answer's end");
        self.call().bare(status)
    }

    fn call(&self) -> Call<'_> {
        Call::unseen(&self.parts, RPC, Some(self.caller), self.request_id.as_ref()).begun(self.began)
    }

    fn settle(&mut self, what: &'static str) {
        if !self.is_settled {
            self.count();
            self.call().tell(About::from(&self.id), &self.told(), what);
        }
    }

    fn count(&mut self) {
        self.is_settled = true;
        self.parts.metrics.called(self.id.provider.as_str(), self.began.elapsed(), self.told().bytes());
    }

    fn told(&self) -> Told<'_> {
        Told {
            method: &self.method,
            status: self.status,
            attempts: self.attempts,
            source: self.source,
            origin: self.origin,
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received,
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.settle("the caller left before the end");
    }
}
