//! What came of the attempts before the next one: their caller is told that where the next one is not made.
//!
//! Owns how much of an answer is kept meanwhile, and for how long its body is awaited. Knows no HTTP client. Invariant: an
//! answer is kept to its last byte or not at all, and one that is kept has given back its place at the provider.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use tokio::time::{Instant, timeout_at};

use super::super::Source;
use crate::connection::ProviderKey;
use crate::error::{AmbiguousCause, Error, ProviderError};
use crate::provider::call::{AnswerStream, CallAnswer, Says};

/// Bytes of a kept body at most: what proxies say in the place of an API is shorter.
const MOST: usize = 64 * 1024;

/// For how long it is awaited at most.
const AWAITED: Duration = Duration::from_secs(1);

/// What came of the latest attempt that may have been carried out.
pub(super) enum Fate {
    /// An answer that says little.
    Answered(Box<Kept>),
    /// No answer, or none that could be kept.
    Lost(Error),
}

/// An answer with all of its body.
pub(super) struct Kept {
    answer: CallAnswer,
    source: Source,
}

impl Fate {
    /// Keeps an answer while the call is made again, if it can be had whole before `until`.
    pub(super) async fn of(
        answer: CallAnswer,
        source: Source,
        until: Instant,
        provider: &ProviderKey,
    ) -> Self {
        let CallAnswer { status, headers, body, says, origin } = answer;
        let until = until.min(Instant::now() + AWAITED);
        match timeout_at(until, whole(body)).await {
            Ok(Some((bytes, trailers))) => {
                let body = Full::new(bytes).map_err(|never| match never {});
                let trailers = std::future::ready(trailers.map(Ok));
                let body = AnswerStream::new(body.with_trailers(trailers));
                let answer = CallAnswer { status, headers, body, says, origin };
                Self::Answered(Box::new(Kept { answer, source }))
            }
            Ok(None) | Err(_) => {
                let retry_after = if let Says::Trouble { wait } = says { wait } else { None };
                let cause = AmbiguousCause::Status { status, retry_after };
                let (provider, error) = (provider.clone(), ProviderError::Ambiguous { cause });
                Self::Lost(Error::Provider { provider, error })
            }
        }
    }

    /// What the caller is told.
    pub(super) fn told(self) -> Result<(CallAnswer, Source), Error> {
        match self {
            Self::Answered(kept) => Ok((kept.answer, kept.source)),
            Self::Lost(error) => Err(error),
        }
    }
}

/// A body with its trailers; `None`: it is too long, or broke off.
async fn whole(mut body: AnswerStream) -> Option<(Bytes, Option<HeaderMap>)> {
    let (mut whole, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        match frame.ok()?.into_data() {
            Ok(data) if whole.len() + data.len() > MOST => return None,
            Ok(data) => whole.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Some((whole.freeze(), trailers))
}

/// Whether an error lets its reader believe that the call was not made. What the caller did wrong itself is not put right by
/// an earlier answer.
pub(super) fn is_unmade(error: &Error) -> bool {
    match error {
        Error::Provider { error, .. } => !matches!(error, ProviderError::Ambiguous { .. }),
        Error::InvalidRequest(_)
        | Error::MessageTooLarge { .. }
        | Error::BodyTooLarge { .. }
        | Error::Swollen { .. } => false,
        _ => true,
    }
}

/// Whether an error says that the connection's grant is over, until its owner consents again.
pub(super) fn is_ended(error: &Error) -> bool {
    matches!(error, Error::ReauthRequired { .. } | Error::ConnectionNotFound(_))
}

/// Whether an attempt that ended so certainly did nothing at the provider.
pub(super) fn is_undone(error: &Error) -> bool {
    let Error::Provider { error, .. } = error else { return false };
    !matches!(error, ProviderError::Ambiguous { .. })
}

/// Whether we held an attempt back ourselves: then it does not count as one.
pub(super) fn is_held_back(error: &Error) -> bool {
    let Error::Provider { error, .. } = error else { return false };
    matches!(
        error,
        ProviderError::CircuitOpen { .. } | ProviderError::NoTurn { .. } | ProviderError::RateLimited { .. }
    )
}
