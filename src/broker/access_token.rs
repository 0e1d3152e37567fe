//! GetAccessToken: from memory, else from a flight that any number of callers share.

use std::sync::Arc;
use std::time::Duration;

use super::cache::{Joined, Landing};
use super::refresh::REST;
use super::{Broker, Durability, ServedToken, Source, TokenAnswer, TokenRequest};
use crate::clock::Timestamp;
use crate::connection::{AccessToken, ConnectionId, Profile, Status};
use crate::error::Error;
use crate::provider::ProviderClient;

/// How long a caller that holds no opinion waits for a better token while an older one still lives.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a token must be for a caller to take it.
#[derive(Clone, Debug, Default)]
pub(super) struct Demand {
    /// It lives at least this long; `None`: its own refresh margin.
    pub(super) min_ttl: Option<Duration>,
    /// A living token that meets less is better than none.
    pub(super) allow_stale: bool,
    /// It is not the token with this SHA-256.
    pub(super) not: Option<[u8; 32]>,
    /// It is of a later generation than this.
    pub(super) newer_than: Option<u64>,
    /// Nobody waits for it.
    pub(super) is_ahead: bool,
    /// An operator wants a dead grant tried once more.
    pub(super) revives: bool,
    /// The pause that the record names was kept, on a clock that nobody sets.
    pub(super) has_paused: bool,
}

impl Demand {
    pub(super) fn is_met_by(&self, access: &AccessToken, generation: u64, now: Timestamp) -> bool {
        access.lives_for(self.min_ttl.unwrap_or_else(|| access.refresh_margin()), now)
            && self.newer_than.is_none_or(|known| generation > known)
            && self.not.is_none_or(|refused| access.value.digest() != refused)
    }

    /// Whether a token that cannot be renewed will do while it lives.
    pub(super) fn is_content_with(&self, access: &AccessToken) -> bool {
        (self.min_ttl.is_none() || self.allow_stale)
            && self.newer_than.is_none()
            && self.not.is_none_or(|refused| access.value.digest() != refused)
    }

    /// Whether this is the token that the caller was refused with.
    pub(super) fn refuses(&self, access: Option<&AccessToken>) -> bool {
        self.not.is_some_and(|refused| access.is_some_and(|access| access.value.digest() == refused))
    }

    fn is_met_by_served(&self, token: &ServedToken, now: Timestamp) -> bool {
        self.is_met_by(&token.access, token.generation, now) && !token.is_over()
    }
}

impl From<&TokenRequest> for Demand {
    fn from(request: &TokenRequest) -> Self {
        Self {
            min_ttl: request.min_ttl,
            allow_stale: request.allow_stale,
            not: request.if_not_equal_to,
            ..Self::default()
        }
    }
}

impl Broker {
    /// The hit: answers from memory or not at all. No I/O, no await, no copy of the token.
    pub fn cached(&self, request: &TokenRequest) -> Option<TokenAnswer> {
        let now = self.clock.now();
        let token = self.cache.asked(&request.id, now)?;
        let is_wanted = Demand::from(request).is_met_by_served(&token, now)
            && token.scopes.missing(&request.scopes).is_empty();
        is_wanted.then(|| {
            token.count_hit();
            TokenAnswer { token, source: Source::Cache, durability: Durability::Durable }
        })
    }

    /// A living access token of a connection, refreshed if need be. Hanging up ends the waiting, not the work.
    ///
    /// # Errors
    /// What the table in the README says; `REAUTH_REQUIRED` only on the provider's word that the grant is dead, or
    /// when there is no token and nothing to refresh with.
    pub async fn access_token(self: &Arc<Self>, request: TokenRequest) -> Result<TokenAnswer, Error> {
        if let Some(hit) = self.cached(&request) {
            return Ok(hit);
        }
        let provider = self.enabled_provider(request.id.provider.as_str())?.clone();
        let landing = match self.tolerable(&request) {
            Some(older) if self.cache.is_resting(&request.id) => Ok((older, Source::Stale)),
            _ => self.fetch_or_tolerate(&provider, &request).await,
        };
        let (token, source) = landing?;
        self.cache.asked(&request.id, self.clock.now());
        let missing = token.scopes.missing(&request.scopes);
        if !missing.is_empty() {
            return Err(Error::ScopeNotGranted { connection: request.id, missing });
        }
        self.metrics.tokens_served(request.id.provider.as_str(), source.as_str()).inc();
        let durability = token.durability;
        Ok(TokenAnswer { token, source, durability })
    }

    /// A token that meets the request, or, where the caller prefers that to an error or a long wait, an older one
    /// that still lives.
    async fn fetch_or_tolerate(
        self: &Arc<Self>,
        provider: &Arc<dyn ProviderClient>,
        request: &TokenRequest,
    ) -> Landing {
        let demand = Demand::from(request);
        let mut fetching = std::pin::pin!(self.fetch(provider, &request.id, &demand));
        let landing = match tokio::time::timeout(PATIENCE, &mut fetching).await {
            Ok(landing) => landing,
            Err(_) => match self.tolerable(request) {
                Some(older) => {
                    self.cache.rest(&request.id, REST);
                    return Ok((older, Source::Stale));
                }
                None => fetching.await,
            },
        };
        landing.or_else(|error| self.tolerate(request, error))
    }

    /// A token that meets `demand`, or what the attempt to get one brought.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        provider: &Arc<dyn ProviderClient>,
        id: &ConnectionId,
        demand: &Demand,
    ) -> Landing {
        loop {
            let flight = match self.cache.join(id, demand.is_ahead) {
                Joined::Started(pilot, flight) => {
                    let (broker, provider) = (self.clone(), provider.clone());
                    let (id, demand) = (id.clone(), demand.clone());
                    self.tasks.spawn(self.flights.track_future(async move {
                        let landing = broker.fly(&provider, &id, &demand, &pilot).await;
                        let is_store = matches!(landing, Err(Error::Store(_)));
                        pilot.land(landing);
                        // Whether there is such a connection nobody knows, and made-up names must cost no memory.
                        if is_store {
                            broker.cache.give_back(&id);
                        }
                    }));
                    return flight.landed().await;
                }
                Joined::Shared(flight) => flight,
            };
            let (token, source) = flight.landed().await?;
            let will_do = match source {
                // One that refreshed brought the best there is: to refresh again would cost a refresh for each who
                // waited.
                Source::Refreshed => true,
                // One that found new tokens which are not durable: nobody who refuses them is given them.
                Source::SharedRefresh => !demand.refuses(Some(&token.access)),
                // One that only looked may have been for a caller with a smaller demand.
                Source::Stale => demand.is_content_with(&token.access),
                Source::Cache | Source::Store => demand.is_met_by_served(&token, self.clock.now()),
            };
            if will_do {
                let source = if source == Source::Refreshed { Source::SharedRefresh } else { source };
                return Ok((token, source));
            }
        }
    }

    /// The token to fall back on, if this caller prefers a living one to an error.
    fn tolerable(&self, request: &TokenRequest) -> Option<Arc<ServedToken>> {
        // What the provider has just given again is the best there is: as for a life that no token has, to insist on more
        // would be a refresh at each call. But who insists may ask it again soon.
        if request.min_ttl.is_some() && !request.allow_stale && !self.cache.is_just_repeated(&request.id) {
            return None;
        }
        self.cache.token(&request.id).filter(|token| {
            token.access.is_alive(self.clock.now())
                && !token.is_over()
                && request.if_not_equal_to.is_none_or(|refused| token.access.value.digest() != refused)
        })
    }

    /// What to answer when no better token could be had: the one that still lives, where the failure says nothing
    /// against it. A dead grant's token was withdrawn, so it is not found here; one that merely cannot be renewed is.
    fn tolerate(&self, request: &TokenRequest, error: Error) -> Landing {
        match error {
            Error::Provider { .. }
            | Error::ConnectionAmbiguous { .. }
            | Error::Store(_)
            | Error::ShuttingDown
            | Error::ReauthRequired { .. } => {
                self.tolerable(request).map(|older| (older, Source::Stale)).ok_or(error)
            }
            _ => Err(error),
        }
    }
}

/// Why a connection serves nothing: to the app one that is being revoked is gone already.
pub(super) fn not_serving(profile: &Profile) -> Error {
    if profile.status == Status::Revoking {
        return Error::ConnectionNotFound(profile.id.clone());
    }
    Error::ReauthRequired {
        connection: profile.id.clone(),
        oauth_error: profile.last_failure.as_ref().and_then(|failure| failure.oauth_error.clone()),
        consented_at: profile.consented_at,
    }
}
