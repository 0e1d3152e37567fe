//! CallProvider: one HTTP call with a connection's token, which the app never sees.
//!
//! Owns when a call is made again: once with a new token where the old one was refused, and as often as policy and
//! budget allow where nothing or nothing new can come of it. Knows neither HTTP clients nor gRPC. Invariant: a call that
//! may have been processed is never made again unless its method, its key or its caller says that this is harmless.

mod fate;
mod repeat;
mod retry;
mod shape;
mod share;
mod source;
mod unattended;
mod way;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout_at};

use self::fate::Fate;
use self::repeat::{Joined, Outcome, Repeats};
use self::retry::RetryBudget;
pub use self::shape::{ProviderCall, Retry, RetryMode, StreamedAnswer, WholeAnswer};
use self::source::Source as Body;
use self::way::Way;
use super::{Broker, Source};
use crate::connection::{ConnectionId, ProviderKey};
use crate::error::{Error, ProviderError, Unsent};
use crate::provider::call::{AnswerStream, CallAnswer, CallBody, Origin, PreparedCall, Says};

/// For how long a token that was refused although it was new is not renewed once more for the same reason.
const FUTILE: Duration = Duration::from_secs(60);

/// The shortest pause after which a call comes back that a 429 sent away, however many others do.
const LEAST_ASKED: Duration = Duration::from_secs(1);

/// The limit that ends streamed calls, as a provider's entry spells it.
pub const STREAM_TIMEOUT: &str = "api.limits.stream_timeout";

/// Of how many connections that is remembered.
const MOST_FUTILE: usize = 4096;

/// What calls of all connections share.
#[derive(Default)]
pub(super) struct Calls {
    repeats: Repeats,
    budgets: Mutex<HashMap<ProviderKey, RetryBudget>>,
    futile: Mutex<HashMap<ConnectionId, ([u8; 32], Instant)>>,
}

impl Calls {
    fn budget<T>(&self, provider: &ProviderKey, with: impl FnOnce(&mut RetryBudget) -> T) -> T {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        with(budgets.entry(provider.clone()).or_default())
    }

    /// Whether this very token was refused although it was new, a moment ago.
    fn is_futile(&self, id: &ConnectionId, token: [u8; 32]) -> bool {
        let futile = self.futile.lock().unwrap_or_else(PoisonError::into_inner);
        futile.get(id).is_some_and(|(known, until)| *known == token && Instant::now() < *until)
    }

    fn note_futile(&self, id: &ConnectionId, token: [u8; 32]) {
        let now = Instant::now();
        let mut futile = self.futile.lock().unwrap_or_else(PoisonError::into_inner);
        if futile.len() >= MOST_FUTILE {
            futile.retain(|_, (_, until)| now < *until);
        }
        if futile.len() < MOST_FUTILE {
            futile.insert(id.clone(), (token, now + FUTILE));
        }
    }
}

impl Broker {
    /// Makes a call and answers with its head; the body follows as it comes. Dropping either ends the call, which whoever
    /// has the body must do once its time is over. A stream cannot be answered twice: a `request_id` that was used within
    /// ten minutes is refused, unless the call may be made twice or the provider is told the id and sees to it.
    ///
    /// # Errors
    /// What the table in the README says. A provider's 4xx or 5xx is no error, but for one that asks to wait longer
    /// than the caller can.
    pub async fn call_streamed(self: &Arc<Self>, call: ProviderCall) -> Result<StreamedAnswer, Error> {
        let key = call.wanted.request_id.clone().map(|request_id| (call.id.clone(), request_id));
        let mut way = self.way(call, false)?;
        if let Some(key) = key.filter(|_| !way.is_harmless()) {
            way.claim = Some(self.calls.repeats.claim(key).ok_or_else(taken)?);
        }
        let (answer, source) = self.answered(&mut way).await?;
        let CallAnswer { status, headers, body, says: _, origin } = answer;
        let (ends_at, stall_timeout) = (way.ends.map(|(at, _)| at), way.policy.stall_timeout);
        let attempts = way.attempts;
        Ok(StreamedAnswer { status, headers, body, attempts, source, origin, ends_at, stall_timeout })
    }

    /// How long the caller of a streamed call may send nothing of it.
    pub fn stall_timeout(&self, provider: &ProviderKey) -> Duration {
        let policy = self.configured_provider(provider.as_str()).map(|provider| provider.call_policy());
        policy.unwrap_or_default().stall_timeout
    }

    /// Makes a call and reads its answer, up to `limit` bytes of body. With a `request_id`, the same call asked again
    /// within ten minutes is answered and not made again; then it also goes on when its caller hangs up.
    ///
    /// # Errors
    /// As [`Broker::call_streamed`], and `MessageTooLarge`.
    pub async fn call_whole(
        self: &Arc<Self>,
        call: ProviderCall,
        limit: u64,
    ) -> Result<Arc<WholeAnswer>, Error> {
        let Some(request_id) = call.wanted.request_id.clone() else {
            let mut way = self.way(call, true)?;
            return self.read(&mut way, limit).await.map(Arc::new);
        };
        let body: &[u8] = if let CallBody::Whole(bytes) = &call.body { bytes } else { &[] };
        let (print, held) = (repeat::print(&call.wanted, body), repeat::held(&call.wanted, body));
        let id = call.id.clone();
        // Before the id is taken: what is refused here is refused to whoever asks, and nobody waits for it.
        let mut way = self.way(call, true)?;
        match self.calls.repeats.join((id, request_id), print, held) {
            Joined::Taken => Err(taken()),
            Joined::Full(full) => Err(Error::Unattended {
                provider: way.id.provider.clone(),
                limit: full.limit,
                most: full.most as u64,
            }),
            Joined::Again(caller) => {
                caller.outcome().await.unwrap_or(Err(Error::Internal("a call ended unexpectedly")))
            }
            Joined::First(ticket, _caller) => {
                let broker = self.clone();
                self.owned(async move {
                    let outcome =
                        broker.read(&mut way, limit).await.map(|answer| Arc::new(answer.detached()));
                    ticket.settle(outcome.clone(), is_final(&outcome, way.is_harmless()));
                    outcome
                })
                .await
            }
        }
    }

    /// Forgets the answers that are remembered for a connection. To be called once its new token is published or its old
    /// one withdrawn, and before anybody is told: a call that is begun later finds and leaves only what is the new grant's.
    pub(super) fn forget_answers(&self, id: &ConnectionId) {
        self.calls.repeats.forget(id);
        if let Ok(provider) = self.configured_provider(id.provider.as_str()) {
            provider.forget_answers(id);
        }
    }

    fn way(&self, call: ProviderCall, is_unary: bool) -> Result<Way, Error> {
        let provider = self.enabled_provider(call.id.provider.as_str())?;
        let prepared = provider.prepare_call(&call.id, &call.wanted)?;
        let policy = provider.call_policy();
        let body = Body::new(call.body);
        let next = body.lend().ok_or(Error::Internal("a new body was read"))?;
        let now = Instant::now();
        let by_policy = now + policy.timeout;
        let ends = if is_unary {
            Some((by_policy, "api.limits.timeout"))
        } else {
            policy.stream_timeout.map(|span| (now + span, STREAM_TIMEOUT))
        };
        // A stream has no other bound for its waits where its caller names none.
        let patience = call.deadline.unwrap_or(by_policy);
        Ok(Way {
            prepared,
            body,
            next,
            scopes: call.scopes,
            retry: call.retry,
            policy,
            waits_until: ends.map_or(patience, |(ends_at, _)| ends_at.min(patience)),
            deadline: call.deadline,
            ends,
            id: call.id,
            attempts: 0,
            repeats: 0,
            has_renewed: false,
            fate: None,
            is_undone: true,
            claim: None,
        })
    }

    /// An answer, read to its end.
    async fn read(self: &Arc<Self>, way: &mut Way, limit: u64) -> Result<WholeAnswer, Error> {
        loop {
            let (answer, source) = self.answered(way).await?;
            let CallAnswer { status, headers, body, says, origin } = answer;
            let is_declined = is_declined(says);
            let over = |limit| Error::out_of_time(&way.id.provider, limit);
            match in_time(way.ends, collected(body, limit), over).await {
                Ok(body) => {
                    let attempts = way.attempts;
                    return Ok(WholeAnswer { status, headers, body, attempts, source, origin, is_declined });
                }
                Err(error) => self.repeat(way, error).await?,
            }
        }
    }

    /// The head of an answer that is the caller's to look at.
    async fn answered(self: &Arc<Self>, way: &mut Way) -> Result<(CallAnswer, Source), Error> {
        match self.attempted(way).await {
            Err(error) if fate::is_unmade(&error) => way.whole_truth(error),
            outcome => outcome,
        }
    }

    async fn attempted(self: &Arc<Self>, way: &mut Way) -> Result<(CallAnswer, Source), Error> {
        let mut refused: Option<(CallAnswer, Source, [u8; 32])> = None;
        loop {
            let digest = refused.as_ref().map(|(_, _, digest)| *digest);
            let unsent = |cause| Error::unsent(&way.id.provider, cause);
            let getting = self.access_token(way.token(digest));
            let token = match in_time(way.leaves_by(), getting, unsent).await {
                Ok(token) => token,
                Err(error) => {
                    // There is nothing to renew it with. Whether the token is bad or the call not allowed, its answer tells.
                    let is_all = refused.is_some()
                        && matches!(error, Error::ReauthRequired { .. })
                        && self.still_serves(&way.id).await;
                    return match refused {
                        Some((answer, source, _)) if is_all => Ok((answer, source)),
                        // Whatever failed here, the attempt was not made.
                        _ => way.whole_truth(error),
                    };
                }
            };
            if let Some((_, cause)) = way.leaves_by().filter(|(leaves_by, _)| *leaves_by <= Instant::now()) {
                return Err(Error::unsent(&way.id.provider, cause));
            }
            drop(refused.take());
            let body = std::mem::replace(&mut way.next, CallBody::Empty);
            way.attempts += 1;
            way.is_undone = false;
            let sending = way.prepared.send(token.token.credential(), body, way.allowance(self.dice()));
            let over = |limit| match way.prepared.withdraw() {
                true => Error::unsent_in_time(&way.id.provider, limit),
                false => Error::out_of_time(&way.id.provider, limit),
            };
            let sending = in_time(way.ends, sending, over);
            let sent = left_in_time(way.deadline, &*way.prepared, &way.id.provider, sending).await;
            let answer = match sent {
                Ok(answer) => answer,
                Err(error) => {
                    // A redirect that is not followed any further was sent for.
                    way.attempts -= u32::from(fate::is_held_back(&error) && way.prepared.withdraw());
                    way.is_undone = fate::is_undone(&error);
                    self.repeat(way, error).await?;
                    continue;
                }
            };
            way.is_undone = is_declined(answer.says) || answer.status == 401;
            if answer.origin == Origin::Cache {
                way.attempts -= 1;
            } else if way.attempts == 1 {
                self.calls.budget(&way.id.provider, RetryBudget::earn);
            }
            match answer.says {
                Says::Nothing => return Ok((answer, token.source)),
                Says::TokenRefused => {
                    let digest = token.token.access.value.digest();
                    if !self.renews(way, digest) {
                        return Ok((answer, token.source));
                    }
                    refused = Some((answer, token.source, digest));
                }
                Says::Throttled { .. } if way.retry.mode == RetryMode::Never => {
                    return Ok((answer, token.source));
                }
                Says::Throttled { wait } => {
                    let provider = way.id.provider.clone();
                    let error = ProviderError::RateLimited { retry_after: wait };
                    let pause = self.pause(way, answer.says);
                    drop(answer);
                    way.prepared.rest(pause.ok_or(Error::Provider { provider, error })?).await;
                }
                Says::Trouble { .. } => {
                    if !way.is_harmless() {
                        return Ok((answer, token.source));
                    }
                    let Some(pause) = self.pause(way, answer.says) else {
                        return Ok((answer, token.source));
                    };
                    // Read now, since what is left of it would keep its place meanwhile.
                    way.fate = Some(Fate::of(answer, token.source, way.waits_until, &way.id.provider).await);
                    way.prepared.rest(pause).await;
                }
            }
        }
    }

    /// Whether a connection's token is served to others, though one call of it was refused.
    async fn still_serves(&self, id: &ConnectionId) -> bool {
        self.connection(id).await.is_ok_and(|profile| profile.status.serves())
    }

    /// Whether a call whose token was refused is to be made again with a newer one. Where it cannot be, the token is
    /// renewed for those who come after.
    fn renews(self: &Arc<Self>, way: &mut Way, token: [u8; 32]) -> bool {
        if way.has_renewed {
            self.calls.note_futile(&way.id, token);
            return false;
        }
        if self.calls.is_futile(&way.id, token) {
            return false;
        }
        way.has_renewed = true;
        match way.body.lend() {
            Some(body) => {
                way.next = body;
                true
            }
            None => {
                let (broker, request) = (self.clone(), way.token(Some(token)));
                self.tasks.spawn(async move {
                    if let Err(error) = broker.access_token(request).await {
                        tracing::info!(
                            reason = error.reason().as_str(),
                            "a refused token was not renewed: {error}"
                        );
                    }
                });
                false
            }
        }
    }

    /// Prepares one more attempt after a failure, or gives the failure back.
    async fn repeat(&self, way: &mut Way, error: Error) -> Result<(), Error> {
        let is_possible = match &error {
            Error::Provider { error: ProviderError::Unavailable { .. }, .. } => true,
            Error::Provider { error: ProviderError::Ambiguous { .. }, .. } => way.is_harmless(),
            _ => false,
        };
        let pause = is_possible.then(|| self.pause(way, Says::Trouble { wait: None })).flatten();
        let Some(pause) = pause else { return Err(error) };
        if matches!(error, Error::Provider { error: ProviderError::Ambiguous { .. }, .. }) {
            way.fate = Some(Fate::Lost(error));
        }
        way.prepared.rest(pause).await;
        Ok(())
    }

    /// How long to wait for a better time; then the next attempt is ready. `None` where there is none, or where enough was
    /// tried.
    fn pause(&self, way: &mut Way, says: Says) -> Option<Duration> {
        let most = way.retry.attempts.unwrap_or(way.policy.attempts);
        if way.retry.mode == RetryMode::Never || way.repeats + 1 >= most || !way.body.is_whole() {
            return None;
        }
        // Who comes back when the provider asked for it makes nothing worse, unless that is at once.
        let (wait, is_asked) = match says {
            Says::Throttled { wait } => (wait, wait.is_some_and(|wait| wait >= LEAST_ASKED)),
            Says::Trouble { wait } => (wait, false),
            Says::Nothing | Says::TokenRefused => (None, false),
        };
        let pause = match wait {
            Some(wait) => {
                let left = way.waits_until.saturating_duration_since(Instant::now());
                retry::asked(wait, way.policy.pause, left, self.dice())
            }
            None => retry::pause(way.policy.pause, way.repeats + 1, self.dice()),
        };
        if !way.waits(pause) || !(is_asked || self.calls.budget(&way.id.provider, RetryBudget::spend)) {
            return None;
        }
        way.next = way.body.lend()?;
        way.repeats += 1;
        Some(pause)
    }
}

/// The error of an id that stands for another call.
fn taken() -> Error {
    let told = "was used within the last ten minutes, for another call or for one whose answer is not kept";
    Error::invalid("request_id", told)
}

/// Whether an answer says that the provider did nothing.
fn is_declined(says: Says) -> bool {
    matches!(says, Says::TokenRefused | Says::Throttled { .. })
}

/// Whether what a call came to is to be answered again under the same id instead of trying once more: what was done, and
/// what may have been done and must not be done twice.
fn is_final(outcome: &Outcome, is_harmless: bool) -> bool {
    match outcome {
        Ok(answer) if answer.is_declined || answer.status == 401 => false,
        Ok(answer) if answer.status >= 500 => !is_harmless,
        Ok(_) => true,
        Err(
            Error::Provider { error: ProviderError::Ambiguous { .. }, .. }
            | Error::MessageTooLarge { .. }
            | Error::BodyTooLarge { .. }
            | Error::Swollen { .. },
        ) => !is_harmless,
        Err(_) => false,
    }
}

/// Lets the time run out; `over` says what that means, by what bounds it.
async fn in_time<T, B>(
    ends: Option<(Instant, B)>,
    work: impl Future<Output = Result<T, Error>>,
    over: impl FnOnce(B) -> Error,
) -> Result<T, Error> {
    let Some((ends_at, bound)) = ends else { return work.await };
    timeout_at(ends_at, work).await.unwrap_or_else(|_| Err(over(bound)))
}

/// Lets an attempt go on that has left when its caller's time is over, and ends one that has not.
async fn left_in_time<T>(
    deadline: Option<Instant>,
    prepared: &dyn PreparedCall,
    provider: &ProviderKey,
    attempt: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let Some(deadline) = deadline else { return attempt.await };
    let mut attempt = std::pin::pin!(attempt);
    match timeout_at(deadline, &mut attempt).await {
        Ok(outcome) => outcome,
        Err(_) if prepared.withdraw() => Err(Error::unsent(provider, Unsent::TooLate)),
        Err(_) => attempt.await,
    }
}

/// A body, up to `limit` bytes.
async fn collected(mut body: AnswerStream, limit: u64) -> Result<Bytes, Error> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if (whole.len() + data.len()) as u64 > limit {
            return Err(Error::MessageTooLarge { limit_bytes: limit });
        }
        whole.extend_from_slice(&data);
    }
    // Without the room that was left to grow: where it is kept, its length is what it takes.
    Ok(Bytes::from(whole.into_boxed_slice()))
}

#[cfg(test)]
mod tests {
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    #[tokio::test]
    async fn a_body_read_whole_takes_no_more_than_its_length() {
        let pieces = (0..100).map(|_| Ok(Frame::data(Bytes::from(vec![b'x'; 1001]))));
        let body = AnswerStream::new(StreamBody::new(futures_util::stream::iter(pieces)));
        let whole = collected(body, 1_000_000).await.unwrap();
        assert_eq!(whole.len(), 100_100);
        assert_eq!(whole.try_into_mut().unwrap().capacity(), 100_100);
    }
}
