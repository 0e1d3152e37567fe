//! `providers`: what the broker may connect to, and how to set one up. Owns how a provider looks.

mod fare;
pub(crate) mod list;
pub(crate) mod retry;
pub(crate) mod show;

use clap::Subcommand;
use schemars::JsonSchema;
use serde::Serialize;

use self::fare::{ApiView, BudgetView, HealthView, LearnedView};
use super::client::Client;
use super::console::Console;
use super::failure::Failure;
use super::page::Page;
use super::times;
use crate::grpc::proto::v1::{Provider, ProviderEndpoints};

/// What to see of providers.
#[derive(Debug, Subcommand)]
pub(crate) enum Providers {
    /// List providers
    List(list::List),
    /// Show one provider, and how to set it up
    Show(show::Show),
    /// Send requests to a provider again that rests
    Retry(retry::Retry),
}

impl Providers {
    /// Runs the command; `client` is an error where no broker answers.
    pub(crate) async fn run(
        self,
        console: &mut Console,
        client: Result<Client, Failure>,
    ) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run(console, &client?).await,
            Self::Show(show) => show.run(console, client).await,
            Self::Retry(retry) => retry.run(console, &client?).await,
        }
    }
}

/// A provider as it is shown.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct ProviderView {
    /// Its key.
    pub(crate) provider: String,
    /// Its name for people.
    pub(crate) display_name: String,
    /// The catalogue entry it is based on.
    pub(crate) catalogue_entry: Option<String>,
    /// Whether the configuration names it; else it is shown as the built-in catalogue knows it.
    pub(crate) configured: bool,
    /// Whether it is switched on.
    pub(crate) enabled: bool,
    /// The client id registered there.
    pub(crate) client_id: Option<String>,
    /// Where requests go.
    pub(crate) endpoints: EndpointsView,
    /// Scopes asked for by default.
    pub(crate) scopes: Vec<String>,
    /// How long an access token lives where the provider does not say.
    pub(crate) default_access_ttl_seconds: Option<i64>,
    /// Whether a refresh brings a new refresh token: always, sometimes, never.
    pub(crate) rotation: Option<String>,
    /// What using a spent refresh token again does: reusable, grace, count, strict.
    pub(crate) reuse: Option<String>,
    /// Whether it answers; null where it is not configured.
    pub(crate) health: Option<HealthView>,
    /// How its API fares; null: it has none that could be called.
    pub(crate) api: Option<ApiView>,
    /// How many requests its token endpoint may still get; null where it is not configured.
    pub(crate) budget: Option<BudgetView>,
    /// What it was seen to do since the broker started; null where it is not configured.
    pub(crate) learned: Option<LearnedView>,
}

/// Where a provider's requests go.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub(crate) struct EndpointsView {
    /// Its issuer.
    pub(crate) issuer: Option<String>,
    /// Where browsers are sent.
    pub(crate) authorization_endpoint: Option<String>,
    /// Where codes and refresh tokens are exchanged.
    pub(crate) token_endpoint: Option<String>,
    /// Where tokens are revoked.
    pub(crate) revocation_endpoint: Option<String>,
    /// Where the account is asked for.
    pub(crate) userinfo_endpoint: Option<String>,
}

fn filled(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

impl From<Provider> for ProviderView {
    fn from(wire: Provider) -> Self {
        Self {
            provider: wire.provider,
            display_name: wire.display_name,
            catalogue_entry: filled(wire.catalogue_entry),
            configured: wire.configured,
            enabled: wire.enabled,
            client_id: filled(wire.client_id),
            endpoints: wire.endpoints.map(EndpointsView::from).unwrap_or_default(),
            scopes: wire.scopes,
            default_access_ttl_seconds: wire.default_access_ttl.map(|span| span.seconds),
            rotation: filled(wire.rotation),
            reuse: filled(wire.reuse),
            health: wire.health.map(HealthView::from),
            api: wire.api.map(ApiView::from),
            budget: wire.budget.map(BudgetView::from),
            learned: wire.learned.map(LearnedView::from),
        }
    }
}

impl From<ProviderEndpoints> for EndpointsView {
    fn from(wire: ProviderEndpoints) -> Self {
        Self {
            issuer: filled(wire.issuer),
            authorization_endpoint: filled(wire.authorization_endpoint),
            token_endpoint: filled(wire.token_endpoint),
            revocation_endpoint: filled(wire.revocation_endpoint),
            userinfo_endpoint: filled(wire.userinfo_endpoint),
        }
    }
}

impl ProviderView {
    /// When a request may be sent again; empty where it may be now.
    fn next_attempt(&self, page: &Page<'_>) -> String {
        let next = self.health.as_ref().and_then(|health| health.next_attempt_time.as_deref());
        page.time(next.and_then(|next| times::parse_time(next).ok()), "")
    }

    /// What there is to know of it in a word or two.
    pub(crate) fn state(&self) -> &str {
        match (&self.health, self.configured, self.enabled) {
            (_, false, _) => "not configured",
            (_, _, false) => "disabled",
            (Some(health), ..) if health.breaker == "OPEN" => "resting",
            (Some(health), ..) if health.breaker == "HALF_OPEN" => "trying",
            (Some(health), ..) if health.consecutive_failures > 0 => "failing",
            _ => "ready",
        }
    }
}
