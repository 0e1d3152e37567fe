//! `providers list`: every configured provider.

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::ProviderView;
use crate::cli::client::{Client, request};
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use crate::cli::page::{Page, Report};
use crate::grpc::proto::v1::ListProvidersRequest;

/// List providers
#[derive(Args, Debug)]
pub(crate) struct List {}

/// Every configured provider.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ProviderList {
    /// By key.
    pub(crate) providers: Vec<ProviderView>,
}

impl List {
    /// Runs the command.
    pub(crate) async fn run(self, console: &mut Console, client: &Client) -> Result<(), Failure> {
        match client.providers().list_providers(request(ListProvidersRequest {})).await {
            Ok(answer) => {
                let providers = answer.into_inner().providers.into_iter().map(ProviderView::from).collect();
                Ok(console.report(&ProviderList { providers })?)
            }
            Err(status) => Err(client.failure(status, None, console.now()).await),
        }
    }
}

impl Report for ProviderList {
    fn text(&self, page: &Page<'_>) -> String {
        table(&self.providers, page)
    }
}

/// Providers as a table.
pub(crate) fn table(providers: &[ProviderView], page: &Page<'_>) -> String {
    if providers.is_empty() {
        return "no providers are configured\n".to_owned();
    }
    let rows: Vec<Vec<String>> = providers
        .iter()
        .map(|p| {
            let failure = p.health.as_ref().and_then(|health| health.last_error_reason.clone());
            vec![
                p.provider.clone(),
                p.display_name.clone(),
                p.state().to_owned(),
                p.scopes.join(" "),
                failure.unwrap_or_default(),
                p.next_attempt(page),
            ]
        })
        .collect();
    page.table(&["PROVIDER", "NAME", "STATE", "SCOPES", "LAST ERROR", "NEXT ATTEMPT"], &rows)
}
