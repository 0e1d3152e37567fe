//! Import: tokens that were got elsewhere become a connection.

use std::sync::Arc;

use crate::broker::access_token::Demand;
use crate::broker::keep::Weight;
use crate::broker::{Broker, ImportConnection};
use crate::connection::{
    AccessToken, Connection, ConnectionId, Profile, RefreshToken, Scopes, Status, TokenSet, Values,
};
use crate::error::Error;
use crate::provider::{Occasion, ProviderClient};
use crate::store::Expected;

impl Broker {
    /// Makes a connection of existing tokens. They are durable first; then a refresh token is tried once, so that
    /// a dead one is said now and not when a token is needed. An access token that is known to live makes that needless: then
    /// nothing is sent.
    ///
    /// # Errors
    /// `INVALID_REQUEST`; `REAUTH_REQUIRED` where the provider says the refresh token is dead (the record stays and
    /// says so); the provider's or the store's.
    pub async fn import_connection(self: &Arc<Self>, import: ImportConnection) -> Result<Profile, Error> {
        let broker = self.clone();
        self.owned(async move { broker.import(import).await }).await
    }

    async fn import(self: Arc<Self>, import: ImportConnection) -> Result<Profile, Error> {
        let provider = self.enabled_provider(import.id.provider.as_str())?.clone();
        if import.refresh_token.is_none() && import.access_token.is_none() {
            return Err(Error::invalid(
                "refresh_token",
                "is empty, and so is access_token; give at least one",
            ));
        }
        provider
            .check_variables(Occasion::Import, &import.variables, &Values::new())
            .map_err(Error::InvalidRequest)?;
        let id = import.id.clone();
        let is_refreshable = import.refresh_token.is_some();
        let scopes = match import.scopes.is_empty() {
            true => provider.default_scopes().clone(),
            false => import.scopes.iter().cloned().collect(),
        };
        self.keep_imported(import, scopes).await?;
        if is_refreshable {
            self.fetch(&provider, &id, &Demand::default()).await?;
        }
        let profile = self.identify(provider.as_ref(), &id).await?;
        self.look_for_twins(&profile);
        Ok(profile)
    }

    async fn keep_imported(&self, import: ImportConnection, scopes: Scopes) -> Result<(), Error> {
        let turn = self.cache.turn(&import.id).await;
        let now = self.clock.now();
        let (before, expected) = match self.tokens.get(&import.id).await? {
            None => (Connection::pending(import.id, now), Expected::Absent),
            Some(stored) => match stored.value.profile.status {
                Status::Revoking => return Err(super::being_disconnected(&import.id)),
                Status::Pending => (stored.value, Expected::At(stored.revision)),
                _ if import.replace => (stored.value, Expected::At(stored.revision)),
                _ => {
                    return Err(Error::invalid(
                        "connection",
                        "exists already; set replace to overwrite its tokens",
                    ));
                }
            },
        };
        let refresh = import.refresh_token.map(|value| RefreshToken { value, expires_at: None });
        // An access token of unknown age is worth less than a refresh.
        let is_worth_keeping = import.expires_at.is_some() || refresh.is_none();
        let access = import.access_token.filter(|_| is_worth_keeping).map(|value| AccessToken {
            value,
            token_type: "Bearer".to_owned(),
            issued_at: now,
            expires_at: import.expires_at,
        });
        let tokens = TokenSet { access, refresh, previous: None, surplus: Vec::new() };
        let connection = before.imported(tokens, scopes, now).knowing(import.variables);
        self.commit(&turn, &connection, expected).await?;
        turn.withdraw();
        self.forget_answers(turn.id());
        Ok(())
    }

    /// Asks the provider whose account it is, where it can tell. Not knowing is no failure of an import.
    async fn identify(&self, provider: &dyn ProviderClient, id: &ConnectionId) -> Result<Profile, Error> {
        // Not alone with the connection: nobody else waits for what a provider takes its time over.
        let Some(stored) = self.tokens.get(id).await? else {
            return Err(Error::ConnectionNotFound(id.clone()));
        };
        let Some(access) = stored.value.serving().and_then(|tokens| tokens.access.as_ref()) else {
            return Ok(stored.value.profile);
        };
        let account = match provider.account(access).await {
            Ok(Some(account)) => account,
            Ok(None) => return Ok(stored.value.profile),
            Err(error) => {
                tracing::warn!(connection = %id, %error, "imported without knowing the account");
                return Ok(stored.value.profile);
            }
        };
        let turn = self.cache.turn(id).await;
        let Some(now) = self.tokens.get(id).await? else {
            self.cache.retire(turn);
            return Err(Error::ConnectionNotFound(id.clone()));
        };
        if now.value.profile.generation != stored.value.profile.generation {
            // Other tokens stand there now; whose those are was not asked.
            return Ok(now.value.profile);
        }
        let connection = now.value.identified(account, self.clock.now());
        self.keep(&turn, &connection, Expected::At(now.revision), Weight::Ordinary).await?;
        Ok(connection.profile)
    }
}
