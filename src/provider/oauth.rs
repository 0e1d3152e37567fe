//! A provider that speaks OAuth 2.0: the one implementation of the port, for every spec.
//!
//! Owns the client's credentials and the metadata of one provider. Knows no store and no caller. Invariant: endpoint,
//! client authentication and token shape come from one immutable configuration; nothing from outside chooses a host.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use url::Url;

use super::api::ProviderApi;
use super::call::{CallPolicy, PreparedCall, Wanted};
use super::catalogue::ProviderConfig;
use super::client_auth::Client;
use super::discovery::{Discovery, Metadata};
use super::endpoint::TokenEndpoint;
use super::gate::{Gate, Place};
use super::grant::{authorization_code, refresh_token};
use super::http::HttpClient;
use super::issuer::is_issuer;
use super::learned::Learner;
use super::reply::Asked;
use super::sender::Sender;
use super::spec::lifecycle::{Reuse, Rotation};
use super::spec::mint::IssParameter;
use super::spec::span::Span;
use super::spec::value::Template;
use super::url::{CheckedUrl, PlainHttp};
use super::wire::unusable;
use super::{
    Admission, AuthorizationRequest, CodeGrant, Occasion, ProviderClient, ProviderInfo, Revocation, Urgency,
    authorization, variable,
};
use crate::clock::Clock;
use crate::connection::lifetimes::Lifetimes;
use crate::connection::reuse::ReuseProfile;
use crate::connection::{
    AccessToken, Account, ConnectionId, IssuedTokens, ProviderKey, RefreshToken, Scopes, TokenSet, Values,
};
use crate::error::{Error, Mistake, ProviderError, Refusal, Rule};
use crate::telemetry::Metrics;

pub use super::sender::LocalPeer;

/// A provider made from its configuration.
pub struct OAuthProvider {
    pub(in crate::provider) config: ProviderConfig,
    pub(in crate::provider) client: Client,
    pub(in crate::provider) sender: Sender,
    pub(in crate::provider) clock: Arc<dyn Clock>,
    scopes: Scopes,
    discovery: Discovery,
    gate: Gate,
    learner: Learner,
    /// `None` where its entry's `api` cannot be used, which checking the configuration has said.
    api: Option<ProviderApi>,
}

/// What an admission holds: the place, and the metadata that was read for it.
struct Leave {
    place: Place,
    metadata: Option<Arc<Metadata>>,
}

impl std::fmt::Debug for OAuthProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OAuthProvider").field("key", &self.config.key).finish_non_exhaustive()
    }
}

impl OAuthProvider {
    /// Makes the provider. Nothing is sent: metadata is read when it is first needed.
    pub fn new(
        config: ProviderConfig,
        http: HttpClient,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let api = ProviderApi::new(&config.key, &config.spec, &http, clock.clone(), metrics.clone()).ok();
        let http = http.at(config.spec.addresses());
        let sender = Sender::new(http, config.key.clone(), metrics.clone());
        Self::sending(config, sender, api, clock, metrics)
    }

    /// The same in front of a peer in this process, and without an API that could be called.
    pub fn local(
        config: ProviderConfig,
        peer: Arc<dyn LocalPeer>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let sender = Sender::local(peer, config.key.clone(), metrics.clone());
        Self::sending(config, sender, None, clock, metrics)
    }

    fn sending(
        mut config: ProviderConfig,
        sender: Sender,
        api: Option<ProviderApi>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let client = Client { id: config.client_id.clone(), secret: config.client_secret.take() };
        Self {
            client,
            api,
            learner: Learner::new(config.key.clone(), &config.spec),
            gate: Gate::new(config.key.clone(), &config.spec, clock.clone(), metrics),
            sender,
            clock,
            scopes: config.spec.scopes.iter().cloned().collect(),
            discovery: Discovery::default(),
            config,
        }
    }

    /// What the provider is like.
    pub fn config(&self) -> &ProviderConfig {
        &self.config
    }

    /// The provider's metadata, where it is needed at all.
    async fn metadata(&self) -> Result<Option<Arc<Metadata>>, ProviderError> {
        if !self.config.spec.needs_discovery() {
            return Ok(None);
        }
        self.discovery.metadata(&self.sender, &self.config.spec, &*self.clock).await.map(Some)
    }

    fn written(&self, template: Option<&Template>) -> Result<Option<CheckedUrl>, ProviderError> {
        let plain = PlainHttp::from_flag(self.config.spec.allow_http);
        template
            .map(|template| {
                CheckedUrl::parse(template.as_str(), plain).map_err(|_| unusable("invalid_endpoint"))
            })
            .transpose()
    }

    /// An address: as written down, or from the metadata.
    async fn address(
        &self,
        template: Option<&Template>,
        discovered: impl Fn(&Metadata) -> Option<CheckedUrl>,
    ) -> Result<Option<CheckedUrl>, ProviderError> {
        if let Some(url) = self.written(template)? {
            return Ok(Some(url));
        }
        Ok(self.metadata().await?.and_then(|metadata| discovered(&metadata)))
    }

    pub(in crate::provider) async fn userinfo_endpoint(&self) -> Result<Option<CheckedUrl>, ProviderError> {
        self.address(self.config.spec.endpoints.userinfo.as_ref(), |metadata| metadata.userinfo.clone()).await
    }

    /// Where tokens are revoked, with the client authentication methods that the metadata lists.
    pub(in crate::provider) async fn revocation_endpoint(
        &self,
    ) -> Result<Option<(CheckedUrl, Option<Vec<String>>)>, ProviderError> {
        let metadata = self.metadata().await?;
        let written = self.written(self.config.spec.endpoints.revocation.as_ref())?;
        let url = written.or_else(|| metadata.as_ref()?.revocation.clone());
        Ok(url.map(|url| (url, metadata.map(|metadata| metadata.auth_methods.clone()))))
    }

    fn token_request<'a>(
        &'a self,
        asked: Asked,
        redirect_uri: Option<&'a str>,
        metadata: Option<&'a Metadata>,
    ) -> Result<TokenEndpoint<'a>, ProviderError> {
        let endpoints = &self.config.spec.endpoints;
        let own = endpoints.refresh.as_ref().filter(|_| asked == Asked::Refresh);
        let url = self.written(own.or(endpoints.token.as_ref()))?.or_else(|| metadata?.token.clone());
        Ok(TokenEndpoint {
            sender: &self.sender,
            clock: &*self.clock,
            spec: &self.config.spec,
            client: &self.client,
            url: url.ok_or_else(|| unusable("metadata_without_token_endpoint"))?,
            offered: metadata.map(|metadata| metadata.auth_methods.as_slice()),
            asked,
            redirect_uri,
            timeout: self.config.spec.token_timeout.duration(),
            facts: std::sync::OnceLock::new(),
        })
    }
}

#[async_trait]
impl ProviderClient for OAuthProvider {
    fn key(&self) -> &ProviderKey {
        &self.config.key
    }

    fn info(&self) -> ProviderInfo {
        let spec = &self.config.spec;
        let known = self.discovery.known();
        let shown = |template: &Option<Template>, discovered: Option<&CheckedUrl>| {
            template
                .as_ref()
                .map(|text| text.as_str().to_owned())
                .or_else(|| discovered.map(|url| url.to_string()))
        };
        let known = known.as_deref();
        ProviderInfo {
            key: self.config.key.as_str().to_owned(),
            display_name: if spec.title.is_empty() {
                self.config.key.as_str().to_owned()
            } else {
                spec.title.clone()
            },
            kind: self.config.kind.clone(),
            is_enabled: self.config.is_enabled,
            client_id: self.client.id.clone(),
            issuer: spec.issuer.as_ref().map(|issuer| issuer.as_str().to_owned()),
            authorization_endpoint: shown(
                &spec.endpoints.authorization,
                known.and_then(|metadata| metadata.authorization.as_ref()),
            ),
            token_endpoint: shown(&spec.endpoints.token, known.and_then(|metadata| metadata.token.as_ref())),
            revocation_endpoint: shown(
                &spec.endpoints.revocation,
                known.and_then(|metadata| metadata.revocation.as_ref()),
            ),
            userinfo_endpoint: shown(
                &spec.endpoints.userinfo,
                known.and_then(|metadata| metadata.userinfo.as_ref()),
            ),
            scopes: spec.scopes.clone(),
            console_url: spec.console.clone(),
            notes: spec.notes.clone(),
            default_access_ttl: spec.lifetimes.access.map(Into::into),
            rotation: match spec.rotation {
                Rotation::Never => "never",
                Rotation::Sometimes => "sometimes",
                Rotation::Always => "always",
            }
            .to_owned(),
            reuse: match spec.reuse {
                Reuse::Reusable => "reusable",
                Reuse::Grace(_) => "grace",
                Reuse::Count(_) => "count",
                Reuse::Strict => "strict",
            }
            .to_owned(),
            health: Some(self.gate.health()),
            budget: Some(self.gate.budget(spec)),
            api: self.api.as_ref().and_then(ProviderApi::health),
            learned: Some(self.learner.facts()),
        }
    }

    fn is_enabled(&self) -> bool {
        self.config.is_enabled
    }

    fn default_scopes(&self) -> &Scopes {
        &self.scopes
    }

    fn check_extra(&self, extra: &[(String, String)]) -> Result<(), Vec<Mistake>> {
        authorization::check_extra(&self.config.spec, extra)
    }

    fn check_variables(&self, occasion: Occasion, given: &Values, held: &Values) -> Result<(), Vec<Mistake>> {
        variable::check(&self.config.spec, occasion, given, held)
    }

    async fn authorization_url(&self, request: &AuthorizationRequest) -> Result<Url, ProviderError> {
        let written = self.config.spec.endpoints.authorization.as_ref();
        let endpoint = self.address(written, |metadata| metadata.authorization.clone()).await?;
        let endpoint = endpoint.ok_or_else(|| unusable("metadata_without_authorization_endpoint"))?;
        authorization::url(&self.config.spec, &self.client.id, &endpoint, request)
    }

    async fn accepts_issuer(&self, iss: Option<&str>) -> Result<bool, ProviderError> {
        let spec = &self.config.spec;
        let is_required = match spec.callback.iss {
            IssParameter::Required => true,
            IssParameter::Metadata => self.metadata().await?.is_some_and(|metadata| metadata.promises_iss),
        };
        Ok(match iss {
            None => !is_required,
            // Without a known issuer there is nothing to compare with; the callback's own path tells providers apart.
            Some(_) if spec.issuer.is_none() => true,
            Some(iss) => is_issuer(spec, iss),
        })
    }

    async fn exchange(&self, grant: &CodeGrant) -> Result<IssuedTokens, ProviderError> {
        let metadata = self.metadata().await?;
        let endpoint = self.token_request(Asked::Exchange, Some(&grant.redirect_uri), metadata.as_deref())?;
        // A person has just come back from the provider, with a code that lives a minute: nothing is gained by making
        // them wait, and what becomes of the code says how the endpoint fares.
        let mut place = self.gate.enter_uncalled();
        place.used();
        let asked_at = self.clock.now();
        let outcome = authorization_code::exchange(endpoint, grant).await;
        if let Ok(issued) = &outcome {
            self.learner.consented(issued, asked_at);
            variable::warn(self.config.key.as_str(), &self.config.spec, &issued.variables);
        }
        place.settle(outcome.as_ref());
        outcome
    }

    fn reuse_profile(&self) -> ReuseProfile {
        let spec = &self.config.spec;
        ReuseProfile {
            rotation: spec.rotation.into(),
            reuse: (&spec.reuse).into(),
            old_at_survives: spec.old_at_survives,
            invalid_grant_confirmations: spec.invalid_grant_confirmations,
            token_timeout: spec.token_timeout.duration(),
            min_gap: spec.mint_limits.gap().unwrap_or_default(),
            refresh_idle: spec.lifetimes.refresh_idle.map(Span::duration),
        }
    }

    fn lifetimes(&self) -> Lifetimes {
        let spec = &self.config.spec;
        Lifetimes {
            refresh_idle: spec.lifetimes.refresh_idle.map(Span::duration),
            refresh_absolute: spec.lifetimes.refresh_absolute.map(Span::duration),
            min_gap: spec.mint_limits.gap(),
        }
    }

    fn saw_token_refused(&self, age: Duration) {
        self.learner.refused_early(age);
    }

    async fn admit(&self, urgency: Urgency) -> Result<Admission, ProviderError> {
        // Before the metadata: a provider that rests is not asked for that either.
        self.gate.check(urgency)?;
        let metadata = self.metadata().await?;
        self.token_request(Asked::Refresh, None, metadata.as_deref())?;
        let place = self.gate.enter(urgency).await?;
        Ok(Admission::holding(Leave { place, metadata }))
    }

    async fn refresh(
        &self,
        admission: Admission,
        refresh: &RefreshToken,
        patience: Duration,
    ) -> Result<IssuedTokens, ProviderError> {
        let leave =
            admission.into_place::<Leave>().ok_or_else(|| unusable("admission_of_another_provider"))?;
        let Leave { mut place, metadata } = *leave;
        let mut endpoint = self.token_request(Asked::Refresh, None, metadata.as_deref())?;
        endpoint.timeout = endpoint.timeout.min(patience);
        place.used();
        let asked_at = self.clock.now();
        let outcome = refresh_token::refresh(endpoint, refresh).await;
        self.learner.refreshed(refresh, outcome.as_ref(), asked_at);
        if let Ok(issued) = &outcome {
            variable::warn(self.config.key.as_str(), &self.config.spec, &issued.variables);
        }
        place.settle(outcome.as_ref());
        outcome
    }

    fn close_breaker(&self) {
        self.gate.close();
        if let Some(api) = &self.api {
            api.close_breaker();
        }
    }

    fn call_policy(&self) -> CallPolicy {
        self.api.as_ref().map_or_else(CallPolicy::default, ProviderApi::policy)
    }

    fn forget_answers(&self, id: &ConnectionId) {
        if let Some(api) = &self.api {
            api.forget(id);
        }
    }

    fn prepare_call(&self, id: &ConnectionId, wanted: &Wanted) -> Result<Box<dyn PreparedCall>, Error> {
        match &self.api {
            Some(api) => api.prepared(id, wanted),
            None => Err(Refusal::new(Rule::NoApi, "the api of the provider's entry cannot be used").into()),
        }
    }

    async fn revoke(&self, tokens: &TokenSet) -> Result<Revocation, ProviderError> {
        self.revoke_grant(tokens).await
    }

    async fn account(&self, access: &AccessToken) -> Result<Option<Account>, ProviderError> {
        self.ask_account(access).await
    }
}
