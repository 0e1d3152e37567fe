//! `providers`: what the broker may connect to, and how to set one up. Owns how a provider looks.

pub(crate) mod list;
pub(crate) mod show;

use clap::Subcommand;
use schemars::JsonSchema;
use serde::Serialize;

use super::client::Client;
use super::console::Console;
use super::failure::Failure;
use super::times;
use crate::grpc::proto::v1::{BreakerState, Provider, ProviderEndpoints, ProviderHealth};

/// What to see of providers.
#[derive(Debug, Subcommand)]
pub(crate) enum Providers {
    /// List providers
    List(list::List),
    /// Show one provider, and how to set it up
    Show(show::Show),
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
    /// Whether it answers; null where nothing was sent to it yet.
    pub(crate) health: Option<HealthView>,
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

/// How a provider fares.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct HealthView {
    /// CLOSED (traffic flows), OPEN (requests are refused) or HALF_OPEN.
    pub(crate) breaker: String,
    /// Failures in a row.
    pub(crate) consecutive_failures: u32,
    /// Reason of the last failure.
    pub(crate) last_error_reason: Option<String>,
    /// When that was.
    pub(crate) last_error_time: Option<String>,
    /// When it last answered.
    pub(crate) last_success_time: Option<String>,
    /// When the next request may be sent.
    pub(crate) next_attempt_time: Option<String>,
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

impl From<ProviderHealth> for HealthView {
    fn from(wire: ProviderHealth) -> Self {
        let time = |time| times::of_wire(time).map(|time| time.to_string());
        let breaker = BreakerState::try_from(wire.breaker).unwrap_or_default();
        Self {
            breaker: breaker.as_str_name().trim_start_matches("BREAKER_STATE_").to_owned(),
            consecutive_failures: wire.consecutive_failures,
            last_error_time: time(wire.last_error_time),
            last_success_time: time(wire.last_success_time),
            next_attempt_time: time(wire.next_attempt_time),
            last_error_reason: filled(wire.last_error_reason),
        }
    }
}

impl ProviderView {
    /// What there is to know of it in a word or two.
    pub(crate) fn state(&self) -> &str {
        match (&self.health, self.configured, self.enabled) {
            (_, false, _) => "not configured",
            (_, _, false) => "disabled",
            (Some(health), ..) if health.breaker == "OPEN" => "resting",
            (Some(health), ..) if health.consecutive_failures > 0 => "failing",
            _ => "ready",
        }
    }
}
