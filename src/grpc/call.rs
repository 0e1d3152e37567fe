//! One request from the moment a service has it: who asked, under which id, and what was said in the end. Owns the one
//! log line a request gets, and its level.
//!
//! Invariant: a request that fails is counted, logged and answered in one place, here; a hit costs no id, no clock and
//! no formatting unless somebody reads the debug log.

use http::HeaderMap;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Response, Status};
use tonic_types::ErrorDetails;

use super::Parts;
use super::caller::Caller;
use super::status::{About, REQUEST_ID, identified, status};
use crate::broker::Source;
use crate::error::{Error, Fault};
use crate::provider::call::Origin;

/// Longest id that a caller may give its request.
const LONGEST_ID: usize = 128;

/// A request under way.
pub(super) struct Call<'a> {
    parts: &'a Parts,
    rpc: &'a str,
    caller: Option<Caller>,
    given_id: Option<MetadataValue<Ascii>>,
    began: Option<Instant>,
}

/// What is said of a call that was made at a provider.
pub(super) struct Told<'a> {
    pub(super) method: &'a str,
    pub(super) status: u16,
    pub(super) attempts: u32,
    pub(super) source: Source,
    pub(super) origin: Origin,
    pub(super) sent: u64,
    pub(super) received: u64,
}

impl Told<'_> {
    /// Bytes of bodies, there and back.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.sent, self.received)
    }
}

impl<'a> Call<'a> {
    /// A request whose caller the service was told apart.
    pub(super) fn new<T>(parts: &'a Parts, rpc: &'static str, caller: Caller, request: &Request<T>) -> Self {
        let given_id =
            request.metadata().get(REQUEST_ID).filter(|id| is_sane(id.as_encoded_bytes())).cloned();
        Self { parts, rpc, caller: Some(caller), given_id, began: None }
    }

    /// A request whose caller travels with it.
    pub(super) fn with_caller<T>(parts: &'a Parts, rpc: &'static str, request: &Request<T>) -> Self {
        let given_id =
            request.metadata().get(REQUEST_ID).filter(|id| is_sane(id.as_encoded_bytes())).cloned();
        let caller = request.extensions().get().copied();
        Self { parts, rpc, caller, given_id, began: Some(Instant::now()) }
    }

    /// A request that no service has seen.
    pub(super) fn unseen(
        parts: &'a Parts,
        rpc: &'a str,
        caller: Option<Caller>,
        given_id: Option<&http::HeaderValue>,
    ) -> Self {
        let given_id = given_id.cloned().and_then(|id| MetadataValue::try_from(id.as_bytes()).ok());
        Self { parts, rpc, caller, given_id, began: None }
    }

    /// From here on the caller waits: its answer is not in memory.
    pub(super) fn waits(&mut self) {
        self.began = Some(Instant::now());
    }

    /// An answer from memory. Logged at debug only.
    pub(super) fn hit<T>(self, about: About<'_>, answer: T) -> Response<T> {
        tracing::debug!(
            rpc = self.rpc,
            request_id = self.given_id.as_ref().and_then(|id| id.to_str().ok()),
            provider = about.provider,
            connection = about.connection,
            tenant = said(about.tenant),
            caller = self.caller.map(tracing::field::display),
            source = Source::Cache.as_str(),
            "answered"
        );
        with_id(Response::new(answer), self.given_id)
    }

    /// The answer to a request that took work.
    pub(super) fn answer<T>(
        self,
        about: About<'_>,
        source: Option<Source>,
        outcome: Result<T, Error>,
    ) -> Result<Response<T>, Status> {
        let answer = match outcome {
            Ok(answer) => answer,
            Err(error) => return Err(self.refuse(about, &error)),
        };
        let id = self.id();
        tracing::info!(
            rpc = self.rpc,
            request_id = id.to_str().ok(),
            provider = said(about.provider),
            connection = said(about.connection),
            tenant = said(about.tenant),
            caller = self.caller.map(tracing::field::display),
            source = source.map(Source::as_str),
            duration_seconds = self.duration_seconds(),
            "answered"
        );
        Ok(with_id(Response::new(answer), Some(id)))
    }

    /// The answer to a call that was made at a provider.
    pub(super) fn called<T>(self, about: About<'_>, told: &Told<'_>, answer: T) -> Response<T> {
        let spent = self.began.map(|began| began.elapsed()).unwrap_or_default();
        self.parts.metrics.called(about.provider, spent, told.bytes());
        let id = self.tell(about, told, "answered");
        with_id(Response::new(answer), Some(id))
    }

    /// The one line of a call that was made at a provider: never its path, query or body.
    pub(super) fn tell(&self, about: About<'_>, told: &Told<'_>, what: &'static str) -> MetadataValue<Ascii> {
        let id = self.id();
        tracing::info!(
            rpc = self.rpc,
            request_id = id.to_str().ok(),
            provider = said(about.provider),
            connection = said(about.connection),
            tenant = said(about.tenant),
            caller = self.caller.map(tracing::field::display),
            source = told.source.as_str(),
            answer_source = told.origin.as_str(),
            method = told.method,
            status = told.status,
            attempts = told.attempts,
            sent_bytes = told.sent,
            received_bytes = told.received,
            duration_seconds = self.duration_seconds(),
            "{what}"
        );
        id
    }

    /// The same request, which began then.
    pub(super) fn begun(self, at: Instant) -> Self {
        Self { began: Some(at), ..self }
    }

    /// An answer that goes on: what is said of it is said at its end.
    pub(super) fn opened<T>(self, answer: T) -> Response<T> {
        let id = self.id();
        with_id(Response::new(answer), Some(id))
    }

    /// The status of a request that failed.
    pub(super) fn refuse(&self, about: About<'_>, error: &Error) -> Status {
        let id = self.id();
        self.parts.metrics.failed(about.provider, error);
        let reason = error.reason();
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    rpc = self.rpc,
                    request_id = id.to_str().ok(),
                    provider = said(about.provider),
                    connection = said(about.connection),
                    tenant = said(about.tenant),
                    caller = self.caller.map(tracing::field::display),
                    reason = reason.as_str(),
                    fault = reason.fault().as_str(),
                    duration_seconds = self.duration_seconds(),
                    "{error}"
                )
            };
        }
        match reason.fault() {
            Fault::Caller | Fault::Owner => line!(info),
            Fault::Provider => line!(warn),
            Fault::Operator | Fault::Broker => line!(error),
        }
        status(error, about, &id)
    }

    /// The answer of an RPC that the contract has and this version does not serve.
    pub(super) fn unimplemented(&self, instead: &str) -> Status {
        self.unserved(self.rpc, instead)
    }

    /// The same where only `part` of what the RPC does is not served.
    pub(super) fn unserved(&self, part: &str, instead: &str) -> Status {
        self.bare(Status::unimplemented(format!("{part} is not served by this version: {instead}")))
    }

    /// A status without a reason of ours, logged and given its request's id.
    pub(super) fn bare(&self, status: Status) -> Status {
        let id = self.id();
        tracing::info!(
            rpc = self.rpc,
            request_id = id.to_str().ok(),
            caller = self.caller.map(tracing::field::display),
            code = ?status.code(),
            duration_seconds = self.duration_seconds(),
            "{}",
            status.message()
        );
        identified(status.code(), status.message(), ErrorDetails::new(), status.metadata().clone(), &id)
    }

    fn id(&self) -> MetadataValue<Ascii> {
        self.given_id.clone().unwrap_or_else(|| {
            let made = self.parts.entropy.token::<12>();
            MetadataValue::try_from(made).unwrap_or_else(|_| MetadataValue::from_static("none"))
        })
    }

    fn duration_seconds(&self) -> Option<f64> {
        self.began.map(|began| began.elapsed().as_secs_f64())
    }
}

/// The id a caller gave its request, if it is one that a log line can bear.
pub(super) fn given_id(headers: &HeaderMap) -> Option<&http::HeaderValue> {
    headers.get(REQUEST_ID).filter(|id| is_sane(id.as_bytes()))
}

fn is_sane(id: &[u8]) -> bool {
    (1..=LONGEST_ID).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=@".contains(b))
}

fn with_id<T>(mut response: Response<T>, id: Option<MetadataValue<Ascii>>) -> Response<T> {
    if let Some(id) = id {
        response.metadata_mut().insert(REQUEST_ID, id);
    }
    response
}

/// A field that is left out when there is nothing to say.
fn said(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_could_forge_a_log_line_is_not_taken() {
        for id in ["req-1", "7f3a:0/1+2=", &"x".repeat(128)] {
            assert!(is_sane(id.as_bytes()), "{id}");
        }
        for id in ["", "a b", "a\tb", "\"", "{}", "ü", &"x".repeat(129)] {
            assert!(!is_sane(id.as_bytes()), "{id}");
        }
    }
}
