//! What is configured and what is connected: reading, without touching a token.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::access_token::Demand;
use super::{Broker, ConnectionPage};
use crate::connection::{ConnectionId, Profile};
use crate::error::Error;
use crate::provider::health::BreakerState;
use crate::provider::{ProviderClient, ProviderInfo};
use crate::store::{PageToken, Selection};

const DEFAULT_PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;

impl Broker {
    /// Every configured provider, in order of key.
    pub fn providers(&self) -> Vec<ProviderInfo> {
        self.providers.values().map(|provider| provider.info()).collect()
    }

    /// One configured provider, enabled or not.
    ///
    /// # Errors
    /// `PROVIDER_NOT_CONFIGURED`, naming what is.
    pub fn provider(&self, key: &str) -> Result<ProviderInfo, Error> {
        Ok(self.configured_provider(key)?.info())
    }

    /// Closes the circuit breakers of a provider, those of its API's hosts with it, and ends the pauses that it asked for, on
    /// an operator's word. Answers whether requests had been held back.
    ///
    /// # Errors
    /// `PROVIDER_NOT_CONFIGURED`, naming what is.
    pub fn close_breaker(&self, key: &str) -> Result<bool, Error> {
        let provider = self.configured_provider(key)?;
        let info = provider.info();
        let was_resting =
            info.health.is_some_and(|health| {
                health.breaker != BreakerState::Closed
                    || health.next_attempt_at.is_some()
                    || health.background_rests_until.is_some()
            }) || info.api.is_some_and(|api| api.breaker != BreakerState::Closed || api.pausing > 0);
        provider.close_breaker();
        tracing::warn!(provider = key, was_resting, "an operator closed the circuit breakers");
        Ok(was_resting)
    }

    /// The redirect URI of the public door for a provider: what must be registered there.
    pub fn redirect_uri(&self, provider: &str) -> String {
        let base = self.settings.public_url.as_str().trim_end_matches('/');
        format!("{base}/callback/{provider}")
    }

    /// One connection.
    ///
    /// # Errors
    /// `CONNECTION_NOT_FOUND`, or the store's.
    pub async fn connection(&self, id: &ConnectionId) -> Result<Profile, Error> {
        match self.tokens.get(id).await? {
            Some(stored) => Ok(stored.value.profile),
            None => Err(Error::ConnectionNotFound(id.clone())),
        }
    }

    /// A page of connections. `page_size` 0 means 100; at most 1000 are given.
    ///
    /// # Errors
    /// `INVALID_REQUEST` for a page token that is none of ours, or the store's.
    pub async fn connections(
        &self,
        selection: &Selection,
        page_size: usize,
        page_token: &str,
    ) -> Result<ConnectionPage, Error> {
        let limit = if page_size == 0 { DEFAULT_PAGE } else { page_size.min(LARGEST_PAGE) };
        let after = match page_token {
            "" => None,
            token => Some(PageToken(URL_SAFE_NO_PAD.decode(token).map_err(|_| {
                Error::invalid("page_token", "is not a token of an earlier answer; leave it empty to start")
            })?)),
        };
        let page = self.tokens.list(selection, after.as_ref(), limit).await?;
        let next_page_token =
            page.next.map(|PageToken(bytes)| URL_SAFE_NO_PAD.encode(bytes)).unwrap_or_default();
        Ok(ConnectionPage { profiles: page.profiles, next_page_token, unreadable: page.unreadable })
    }

    /// Refreshes a connection now, or only if it is still at `if_generation`. Safe under a stampede: all who ask
    /// while one refresh is under way share it.
    ///
    /// # Errors
    /// As [`Broker::access_token`].
    pub async fn refresh_connection(
        self: &Arc<Self>,
        id: ConnectionId,
        if_generation: Option<u64>,
    ) -> Result<Profile, Error> {
        let provider = self.enabled_provider(id.provider.as_str())?.clone();
        let known = match (if_generation, self.cache.token(&id)) {
            (Some(generation), _) => generation,
            (None, Some(token)) => token.generation,
            (None, None) => self.connection(&id).await?.generation,
        };
        self.fetch(&provider, &id, &Demand { newer_than: Some(known), ..Demand::default() }).await?;
        self.connection(&id).await
    }

    /// For how many connections memory has a place, whether or not it holds a token of theirs. One of which it knows more
    /// than was written down counts twice.
    pub fn places_in_memory(&self) -> usize {
        self.cache.places() + self.unsent.places()
    }

    pub(super) fn configured_provider(&self, key: &str) -> Result<&Arc<dyn ProviderClient>, Error> {
        let found = self.providers.iter().find(|(known, _)| known.as_str() == key);
        found.map(|(_, provider)| provider).ok_or_else(|| Error::ProviderNotConfigured {
            provider: key.to_owned(),
            known: self.providers.keys().cloned().collect(),
        })
    }

    pub(super) fn enabled_provider(&self, key: &str) -> Result<&Arc<dyn ProviderClient>, Error> {
        let provider = self.configured_provider(key)?;
        if provider.is_enabled() {
            Ok(provider)
        } else {
            Err(Error::ProviderDisabled { provider: provider.key().clone() })
        }
    }
}
