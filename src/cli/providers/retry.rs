//! `providers retry`: the circuit breaker closed by hand, for an operator who knows that the provider is well.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use schemars::JsonSchema;
use serde::Serialize;

use super::ProviderView;
use crate::cli::client::{Client, request};
use crate::cli::complete;
use crate::cli::console::Console;
use crate::cli::escape::escaped;
use crate::cli::failure::Failure;
use crate::cli::page::{Page, Report};
use crate::grpc::proto::admin_v1::CloseBreakerRequest;
use crate::grpc::proto::v1::GetProviderRequest;

/// Send requests to a provider again that rests
#[derive(Args, Debug)]
pub(crate) struct Retry {
    /// Key of the provider
    #[arg(add = ArgValueCompleter::new(complete::providers))]
    provider: String,
}

/// A provider that gets requests again.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Retried {
    /// Whether requests had been held back.
    was_resting: bool,
    /// The provider as it stands now.
    provider: Option<ProviderView>,
}

impl Retry {
    /// Runs the command.
    pub(crate) async fn run(self, console: &mut Console, client: &Client) -> Result<(), Failure> {
        let Self { provider } = self;
        let message = CloseBreakerRequest { provider: provider.clone() };
        let mut admin = client.admin().await?;
        let was_resting = match admin.close_breaker(request(message)).await {
            Ok(answer) => answer.into_inner().was_resting,
            Err(status) => return Err(client.failure(status, None, console.now()).await),
        };
        match client.providers().get_provider(request(GetProviderRequest { provider })).await {
            Ok(answer) => {
                let provider = answer.into_inner().provider.map(ProviderView::from);
                Ok(console.report(&Retried { was_resting, provider })?)
            }
            Err(status) => Err(client.failure(status, None, console.now()).await),
        }
    }
}

impl Report for Retried {
    fn text(&self, _page: &Page<'_>) -> String {
        let name = self.provider.as_ref().map_or("it", |provider| &provider.provider);
        let said = if self.was_resting { "was resting and gets requests again" } else { "was not resting" };
        format!("{} {said}\n", escaped(name))
    }
}
