//! `CallProvider` and `StreamProviderCall` on the wire: what a caller's message asks for, and how an answer looks. Owns
//! the limits of messages and chunks. Does not know how a call is made.

pub(super) mod download;
pub(super) mod ledger;
pub(super) mod upload;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use super::proto::v1;
use super::wire::{Mistakes, given, token_source};
use crate::broker::{Broker, ProviderCall, Retry, RetryMode, WholeAnswer};
use crate::error::Error;
use crate::provider::call::{CallBody, Origin, Wanted};

/// The largest body of a unary answer: with its head it stays below the 4 MiB that gRPC clients take by default.
pub(super) const LARGEST_ANSWER: u64 = 4 * 1024 * 1024 - 128 * 1024;

/// Most attempts that a caller may ask for.
const MOST_ATTEMPTS: u32 = 10;

/// Longest `request_id`.
const LONGEST_ID: usize = 128;

/// What a unary caller asks for, or everything that is wrong with it.
pub(super) fn call(
    broker: &Broker,
    request: v1::CallProviderRequest,
    deadline: Option<Instant>,
) -> Result<ProviderCall, Error> {
    let body = match request.body {
        body if body.is_empty() => CallBody::Empty,
        body => CallBody::Whole(Bytes::from(body)),
    };
    let head = v1::CallHead {
        provider: request.provider,
        connection: request.connection,
        tenant: request.tenant,
        method: request.method,
        path: request.path,
        query: request.query,
        headers: request.headers,
        request_id: request.request_id,
        content_length: None,
        scopes: request.scopes,
        host: request.host,
        retry: request.retry,
        follow_redirects: request.follow_redirects,
        decompress: request.decompress,
    };
    head_of("", broker, head, body, deadline)
}

/// What the head of a call asks for. `within` is the path of its fields.
pub(super) fn head_of(
    within: &str,
    broker: &Broker,
    head: v1::CallHead,
    body: CallBody,
    deadline: Option<Instant>,
) -> Result<ProviderCall, Error> {
    let mut mistakes = Mistakes::default();
    let field = |name: &str| format!("{within}{name}");
    let id = mistakes.connection_id(broker, head.tenant, head.provider, head.connection);
    if head.method.is_empty() {
        mistakes.add(&field("method"), "is empty; such as GET");
    }
    if head.path.is_empty() {
        mistakes
            .add(&field("path"), "is empty; it is the path below the provider's API base, such as /v1/files");
    }
    let id_is_sane =
        head.request_id.len() <= LONGEST_ID && head.request_id.bytes().all(|b| b.is_ascii_graphic());
    if !id_is_sane {
        mistakes.add(&field("request_id"), "must be 1 to 128 visible ASCII characters");
    }
    let retry = retry(&mut mistakes, &field("retry"), head.retry);
    let wanted = Wanted {
        method: head.method,
        host: head.host,
        path: head.path,
        query: head.query.into_iter().map(|one| (one.name, one.value)).collect(),
        headers: head.headers.into_iter().map(|one| (one.name, one.value)).collect(),
        follow_redirects: head.follow_redirects,
        decompress: head.decompress,
        request_id: given(head.request_id),
    };
    mistakes.none_or(id.map(|id| ProviderCall { id, wanted, body, retry, scopes: head.scopes, deadline }))
}

fn retry(mistakes: &mut Mistakes, field: &str, policy: Option<v1::RetryPolicy>) -> Retry {
    let Some(policy) = policy else { return Retry::default() };
    let mode = match v1::RetryMode::try_from(policy.mode) {
        Ok(v1::RetryMode::Never) => RetryMode::Never,
        Ok(v1::RetryMode::Unspecified | v1::RetryMode::Safe) => RetryMode::Safe,
        Ok(v1::RetryMode::Idempotent) => RetryMode::Idempotent,
        Err(_) => {
            mistakes.add(&format!("{field}.mode"), "is none that this version knows");
            RetryMode::Never
        }
    };
    if policy.max_attempts > MOST_ATTEMPTS {
        mistakes.add(&format!("{field}.max_attempts"), "must be at most 10");
    }
    Retry { mode, attempts: (policy.max_attempts > 0).then_some(policy.max_attempts) }
}

/// A unary answer.
pub(super) fn answer(answer: &Arc<WholeAnswer>) -> v1::CallProviderResponse {
    v1::CallProviderResponse {
        status: answer.status.into(),
        headers: headers(&answer.headers),
        body: answer.body.clone(),
        attempts: answer.attempts,
        token_source: token_source(answer.source).into(),
        answer_source: answer_source(answer.origin).into(),
    }
}

pub(super) fn answer_source(origin: Origin) -> v1::AnswerSource {
    match origin {
        Origin::Provider => v1::AnswerSource::Provider,
        Origin::Cache => v1::AnswerSource::Cache,
        Origin::Revalidated => v1::AnswerSource::Revalidated,
    }
}

/// Header fields in their order, repeated ones repeated.
pub(super) fn headers(fields: &HeaderMap) -> Vec<v1::Header> {
    fields.iter().map(|(name, value)| v1::Header { name: name.to_string(), value: text(value) }).collect()
}

/// A field's value: UTF-8 where it is that, else each byte the character of that number (ISO-8859-1).
fn text(value: &HeaderValue) -> String {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text.to_owned(),
        Err(_) => value.as_bytes().iter().map(|byte| char::from(*byte)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_no_utf_8_is_read_byte_by_byte() {
        let value = |bytes: &[u8]| text(&HeaderValue::from_bytes(bytes).unwrap());
        assert_eq!(value("Zürich".as_bytes()), "Zürich");
        assert_eq!(value(b"Z\xfcrich"), "Zürich");
    }

    #[test]
    fn a_policy_is_read_with_its_defaults() {
        let mut mistakes = Mistakes::default();
        assert_eq!(retry(&mut mistakes, "retry", None), Retry::default());
        let policy = v1::RetryPolicy { mode: v1::RetryMode::Never.into(), max_attempts: 0 };
        assert_eq!(
            retry(&mut mistakes, "retry", Some(policy)),
            Retry { mode: RetryMode::Never, attempts: None }
        );
        retry(&mut mistakes, "retry", Some(v1::RetryPolicy { mode: 77, max_attempts: 11 }));
        let Err(Error::InvalidRequest(found)) = mistakes.none_or(Some(())) else {
            panic!("no mistake found")
        };
        let fields: Vec<_> = found.iter().map(|mistake| mistake.field.as_str()).collect();
        assert_eq!(fields, ["retry.mode", "retry.max_attempts"]);
    }
}
