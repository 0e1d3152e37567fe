//! WatchAccessToken: the current token at once, then each successor before the one before it dies. Owns no queue: a
//! reader that is slow finds the latest when it comes back.
//!
//! Invariant: a watch costs its connection nothing when it is dropped, and ends by itself when the broker drains.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Broker, TokenAnswer, TokenRequest};
use crate::clock::Timestamp;
use crate::connection::{ConnectionId, Scopes};
use crate::error::{Error, OAuthCode, Reason};

/// How long after an attempt that brought nothing better the next is made, at first and at most.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// How long before the time at which a successor must be there it is asked for, if it did not come by itself.
const LEAD: Duration = Duration::from_secs(10);

/// How long at most a watch sleeps without looking at the wall clock, which may be set.
const NAP: Duration = Duration::from_secs(60);

/// What `WatchAccessToken` asks for.
#[derive(Clone, Debug)]
pub struct WatchRequest {
    /// Of which connection.
    pub id: ConnectionId,
    /// Scopes that each token must have; empty: whatever was granted.
    pub scopes: Vec<String>,
    /// How long before the death of a token its successor must be here; `None`: its refresh margin.
    pub min_ttl: Option<Duration>,
}

/// What happens in a watch.
#[derive(Debug)]
pub enum TokenEvent {
    /// A token to use from now on.
    Token(TokenAnswer),
    /// The grant needs its owner; after consent a token follows.
    ConsentNeeded {
        /// What a request for the token would be told now.
        reason: Reason,
        /// The provider's own word for it.
        oauth_error: Option<OAuthCode>,
        /// When the present token expires; `None`: there is none, or it does not.
        expires_at: Option<Timestamp>,
    },
}

/// What the reader knows.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Token { shown: Shown, wanted_at: Option<Timestamp> },
    ConsentNeeded(Reason),
}

/// What a reader can see of a token but for its number. A provider may answer a refresh with the token it gave before: that
/// is no news.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    digest: [u8; 32],
    expires_at: Option<Timestamp>,
    scopes: Scopes,
}

/// One reader's watch over one connection.
pub struct TokenWatch {
    broker: Arc<Broker>,
    request: WatchRequest,
    changes: watch::Receiver<()>,
    first: Option<TokenEvent>,
    told: Told,
    retry: Option<Retry>,
}

struct Retry {
    at: Instant,
    wait: Duration,
}

impl std::fmt::Debug for TokenWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenWatch").field("id", &self.request.id).finish_non_exhaustive()
    }
}

impl Broker {
    /// Watches the token of a connection. The connection counts as asked for as long as the watch is held.
    ///
    /// # Errors
    /// As [`Broker::access_token`], but for a grant that needs its owner: that is the watch's first event.
    pub async fn watch_access_token(self: &Arc<Self>, request: WatchRequest) -> Result<TokenWatch, Error> {
        // What callers make up must not stay in memory.
        self.enabled_provider(request.id.provider.as_str())?;
        // Before the token is asked for: no change falls between.
        let changes = self.cache.watch(&request.id);
        let first = match self.next_event(&request).await {
            Ok(first) => first,
            Err(error) => {
                drop(changes);
                self.cache.give_back(&request.id);
                return Err(error);
            }
        };
        let told = told(&first, &request);
        Ok(TokenWatch { broker: self.clone(), request, changes, first: Some(first), told, retry: None })
    }

    async fn next_event(self: &Arc<Self>, request: &WatchRequest) -> Result<TokenEvent, Error> {
        let wanted = TokenRequest {
            id: request.id.clone(),
            scopes: request.scopes.clone(),
            min_ttl: request.min_ttl.map(|ttl| ttl + LEAD),
            if_not_equal_to: None,
            allow_stale: true,
        };
        match self.access_token(wanted).await {
            Ok(answer) => Ok(TokenEvent::Token(answer)),
            Err(error @ (Error::ReauthRequired { .. } | Error::ScopeNotGranted { .. })) => {
                let reason = error.reason();
                let expires_at = self.cache.token(&request.id).and_then(|token| token.access.expires_at);
                let oauth_error = match error {
                    Error::ReauthRequired { oauth_error, .. } => oauth_error,
                    _ => None,
                };
                Ok(TokenEvent::ConsentNeeded { reason, oauth_error, expires_at })
            }
            Err(error) => Err(error),
        }
    }
}

impl TokenWatch {
    /// What happens next. Dropping the future loses nothing.
    ///
    /// # Errors
    /// `CONNECTION_NOT_FOUND` when the connection is no more, `PROVIDER_DISABLED`, `SHUTTING_DOWN`: the watch has ended.
    pub async fn next(&mut self) -> Result<TokenEvent, Error> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        loop {
            self.wait().await?;
            match self.broker.next_event(&self.request).await {
                Ok(event) => {
                    let news = told(&event, &self.request);
                    if news.is_what_is_known(&self.told) {
                        if self.is_wanting() {
                            // The same token, although its successor was wanted: none can be had now.
                            self.try_later();
                        } else {
                            // Nothing is awaited any more. A retry whose time is past would never let the watch rest.
                            self.retry = None;
                        }
                        continue;
                    }
                    (self.told, self.retry) = (news, None);
                    return Ok(event);
                }
                Err(
                    error @ (Error::ConnectionNotFound(_)
                    | Error::ProviderNotConfigured { .. }
                    | Error::ProviderDisabled { .. }
                    | Error::ShuttingDown
                    | Error::Internal(_)),
                ) => return Err(error),
                // What was told lives on as long as it does; a reader that cannot wait asks for itself.
                Err(_) => self.try_later(),
            }
        }
    }

    /// Returns when there may be something to tell.
    async fn wait(&mut self) -> Result<(), Error> {
        loop {
            let now = self.broker.clock.now();
            let until_wanted = match &self.told {
                Told::Token { wanted_at: Some(at), .. } => Some(now.until(*at)),
                Told::Token { wanted_at: None, .. } | Told::ConsentNeeded(_) => None,
            };
            let wake = match &self.retry {
                Some(retry) => Some(retry.at),
                None => until_wanted.map(|span| Instant::now() + span),
            };
            let latest = Instant::now() + NAP;
            let nap = wake.map_or(latest, |wake| wake.min(latest));
            tokio::select! {
                changed = self.changes.changed() => {
                    if changed.is_err() {
                        return Err(Error::ConnectionNotFound(self.request.id.clone()));
                    }
                    return Ok(());
                }
                () = self.broker.draining.cancelled() => return Err(Error::ShuttingDown),
                () = tokio::time::sleep_until(nap) => {
                    if wake.is_some_and(|wake| wake <= Instant::now()) {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn is_wanting(&self) -> bool {
        let Told::Token { wanted_at: Some(at), .. } = &self.told else { return false };
        *at <= self.broker.clock.now()
    }

    fn try_later(&mut self) {
        let wait = self.retry.take().map_or(FIRST_RETRY, |retry| (retry.wait * 2).min(LAST_RETRY));
        // Once the token is dead its provider gives another one, if it has not before.
        let left = match &self.told {
            Told::Token { shown, .. } => shown.expires_at.map(|end| self.broker.clock.now().until(end)),
            Told::ConsentNeeded(_) => None,
        };
        let pause = left.filter(|left| !left.is_zero()).map_or(wait, |left| wait.min(left));
        self.retry = Some(Retry { at: Instant::now() + pause, wait });
    }
}

impl Told {
    fn is_what_is_known(&self, known: &Self) -> bool {
        match (self, known) {
            (Self::Token { shown, .. }, Self::Token { shown: known, .. }) => shown == known,
            _ => self == known,
        }
    }
}

fn told(event: &TokenEvent, request: &WatchRequest) -> Told {
    match event {
        TokenEvent::Token(answer) => {
            let access = &answer.token.access;
            let wanted_at = access.expires_at.map(|expires_at| {
                let life = access.issued_at.until(expires_at);
                let before = request.min_ttl.map_or_else(|| access.refresh_margin(), |ttl| ttl + LEAD);
                expires_at - before.min(life / 2)
            });
            let shown = Shown {
                digest: access.value.digest(),
                expires_at: access.expires_at,
                scopes: answer.token.scopes.clone(),
            };
            Told::Token { shown, wanted_at }
        }
        TokenEvent::ConsentNeeded { reason, .. } => Told::ConsentNeeded(*reason),
    }
}
