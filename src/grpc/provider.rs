//! `ProviderService`: the configured providers, and what to register at them.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::call::Call;
use super::proto::v1;
use super::proto::v1::provider_service_server::ProviderService;
use super::status::About;
use super::wire::{Mistakes, timestamp};
use super::{Parts, setup};
use crate::error::Error;
use crate::provider::ProviderInfo;
use crate::provider::health::{ApiHealth, BreakerState, Budget, Health, Learned, Spread};

/// The service.
#[derive(Clone)]
pub(super) struct Providers {
    pub(super) parts: Arc<Parts>,
}

#[tonic::async_trait]
impl ProviderService for Providers {
    async fn list_providers(
        &self,
        request: Request<v1::ListProvidersRequest>,
    ) -> Result<Response<v1::ListProvidersResponse>, Status> {
        let call = Call::with_caller(&self.parts, "ListProviders", &request);
        let providers = self.parts.broker.providers().into_iter().map(shown).collect();
        call.answer(About::default(), None, Ok(v1::ListProvidersResponse { providers }))
    }

    async fn get_provider(
        &self,
        request: Request<v1::GetProviderRequest>,
    ) -> Result<Response<v1::GetProviderResponse>, Status> {
        let call = Call::with_caller(&self.parts, "GetProvider", &request);
        let key = request.into_inner().provider;
        let about = About { provider: &key, ..About::default() };
        let outcome = self.described(&key);
        call.answer(about, None, outcome)
    }
}

impl Providers {
    fn described(&self, key: &str) -> Result<v1::GetProviderResponse, Error> {
        let mut mistakes = Mistakes::default();
        let parsed = mistakes.provider(&self.parts.broker, key);
        mistakes.none_or(parsed)?;
        let redirect_uri = self.parts.broker.redirect_uri(key);
        let (provider, kind) = match self.parts.broker.provider(key) {
            Ok(info) => {
                let kind = info.kind.clone();
                (shown(info), kind)
            }
            Err(error @ Error::ProviderNotConfigured { .. }) => {
                (setup::unconfigured(key).ok_or(error)?, key.to_owned())
            }
            Err(error) => return Err(error),
        };
        let setup = setup::setup(key, &kind, redirect_uri);
        Ok(v1::GetProviderResponse { provider: Some(provider), setup: Some(setup) })
    }
}

fn shown(info: ProviderInfo) -> v1::Provider {
    v1::Provider {
        provider: info.key,
        display_name: info.display_name,
        catalogue_entry: info.kind,
        configured: true,
        enabled: info.is_enabled,
        client_id: info.client_id,
        endpoints: Some(v1::ProviderEndpoints {
            issuer: info.issuer.unwrap_or_default(),
            authorization_endpoint: info.authorization_endpoint.unwrap_or_default(),
            token_endpoint: info.token_endpoint.unwrap_or_default(),
            revocation_endpoint: info.revocation_endpoint.unwrap_or_default(),
            userinfo_endpoint: info.userinfo_endpoint.unwrap_or_default(),
            ..v1::ProviderEndpoints::default()
        }),
        scopes: info.scopes,
        flows: vec![v1::ConnectFlow::AuthorizationCode.into()],
        health: info.health.map(health),
        budget: info.budget.map(budget),
        learned: info.learned.map(learned),
        api: info.api.map(api),
        default_access_ttl: info.default_access_ttl.and_then(|ttl| ttl.try_into().ok()),
        refresh_margin: None,
        rotation: info.rotation,
        reuse: info.reuse,
    }
}

fn health(health: Health) -> v1::ProviderHealth {
    let (reason, at) = health.last_failure.unzip();
    v1::ProviderHealth {
        breaker: breaker(health.breaker).into(),
        consecutive_failures: health.consecutive_failures,
        recent_failures: health.recent_failures,
        last_error_reason: reason.map(|reason| reason.as_str().to_owned()).unwrap_or_default(),
        last_error_time: at.map(timestamp),
        last_success_time: health.last_success_at.map(timestamp),
        next_attempt_time: health.next_attempt_at.map(timestamp),
        background_rest_end_time: health.background_rests_until.map(timestamp),
    }
}

fn breaker(state: BreakerState) -> v1::BreakerState {
    match state {
        BreakerState::Closed => v1::BreakerState::Closed,
        BreakerState::Open => v1::BreakerState::Open,
        BreakerState::HalfOpen => v1::BreakerState::HalfOpen,
    }
}

fn api(health: ApiHealth) -> v1::ProviderApi {
    let (reason, at) = health.last_failure.unzip();
    v1::ProviderApi {
        breaker: breaker(health.breaker).into(),
        consecutive_failures: health.consecutive_failures,
        last_error_reason: reason.map(|reason| reason.as_str().to_owned()).unwrap_or_default(),
        last_error_time: at.map(timestamp),
        last_success_time: health.last_success_at.map(timestamp),
        next_attempt_time: health.next_attempt_at.map(timestamp),
        in_flight: health.under_way,
        held_back: health.held_back,
        held_back_hosts: health.held_back_hosts,
        paused_connections: health.pausing,
        quota: health.quota.map(|quota| v1::ApiQuota {
            remaining: quota.remaining,
            limit: quota.limit.unwrap_or_default(),
            time: Some(timestamp(quota.seen_at)),
        }),
    }
}

fn budget(budget: Budget) -> v1::ProviderBudget {
    v1::ProviderBudget {
        limit: budget.limit,
        remaining: budget.remaining,
        reset_time: budget.full_at.map(timestamp),
        window: budget.per.try_into().ok(),
        reserved: budget.reserved,
        in_flight: budget.under_way,
        queued: budget.in_line,
    }
}

fn learned(learned: Learned) -> v1::ProviderLearned {
    v1::ProviderLearned {
        rotated: learned.rotated,
        not_rotated: learned.kept,
        early_same_token: learned.early_same,
        early_new_token: learned.early_new,
        access_token_lifetime: learned.access_life.map(spread),
        refresh_lifetime: learned.refresh_life.map(spread),
        reuse_accepted: learned.reuse_taken,
        longest_grace: learned.longest_grace.and_then(|span| span.try_into().ok()),
        reuse_refused: learned.reuse_refused,
        shortest_refusal: learned.shortest_refusal.and_then(|span| span.try_into().ok()),
        early_ends: learned.early_ends,
        earliest_end: learned.earliest_end.and_then(|span| span.try_into().ok()),
        contradictions: learned.contradictions.into_iter().map(|seen| seen.as_str().to_owned()).collect(),
    }
}

fn spread(spread: Spread) -> v1::LifetimeSpread {
    v1::LifetimeSpread {
        shortest: spread.shortest.try_into().ok(),
        median: spread.median.try_into().ok(),
        longest: spread.longest.try_into().ok(),
    }
}
