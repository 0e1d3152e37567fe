//! `connections list`: every connection the caller may see.

use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use schemars::JsonSchema;
use serde::Serialize;

use super::ConnectionView;
use crate::cli::client::{Client, request};
use crate::cli::complete;
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use crate::cli::page::{Page, Report};
use crate::grpc::proto::v1::{ConnectionStatus, ListConnectionsRequest};

/// List connections
#[derive(Args, Debug)]
pub(crate) struct List {
    /// Only those of this provider
    #[arg(long, default_value = "", hide_default_value = true, add = ArgValueCompleter::new(complete::providers))]
    pub(crate) provider: String,
    /// Only those in this status
    #[arg(long, value_enum, ignore_case = true)]
    pub(crate) status: Option<StatusWord>,
    /// Only those whose id begins so, e.g. org-7/
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Only those of this namespace
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) tenant: String,
}

/// A status as it is typed.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum StatusWord {
    /// Consent was begun and has not come back
    Pending,
    /// Serves tokens
    Active,
    /// A refresh's outcome is unknown
    Ambiguous,
    /// Only the owner's consent helps
    ReauthRequired,
    /// Being disconnected
    Revoking,
    /// Disconnected
    Revoked,
    /// Switched off by an operator
    Disabled,
}

impl From<StatusWord> for ConnectionStatus {
    fn from(word: StatusWord) -> Self {
        match word {
            StatusWord::Pending => Self::Pending,
            StatusWord::Active => Self::Active,
            StatusWord::Ambiguous => Self::Ambiguous,
            StatusWord::ReauthRequired => Self::ReauthRequired,
            StatusWord::Revoking => Self::Revoking,
            StatusWord::Revoked => Self::Revoked,
            StatusWord::Disabled => Self::Disabled,
        }
    }
}

/// All connections that were asked for.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(crate) struct ConnectionList {
    /// In order of tenant, provider and connection.
    pub(crate) connections: Vec<ConnectionView>,
    /// Records that do not open, whatever was asked for: what they are about cannot be known.
    pub(crate) unreadable_count: u32,
}

impl List {
    /// Runs the command.
    pub(crate) async fn run(self, console: &mut Console, client: &Client) -> Result<(), Failure> {
        let list = all(console, client, &self).await?;
        Ok(console.report(&list)?)
    }
}

/// Every page of what `list` asks for.
pub(crate) async fn all(console: &Console, client: &Client, list: &List) -> Result<ConnectionList, Failure> {
    let mut found = ConnectionList::default();
    let mut page_token = String::new();
    loop {
        let message = ListConnectionsRequest {
            provider: list.provider.clone(),
            status: list.status.map_or(ConnectionStatus::Unspecified, ConnectionStatus::from).into(),
            connection_prefix: list.prefix.clone(),
            tenant: list.tenant.clone(),
            page_size: 1000,
            page_token,
        };
        let page = match client.connections().list_connections(request(message)).await {
            Ok(page) => page.into_inner(),
            Err(status) => return Err(client.failure(status, None, console.now()).await),
        };
        found.unreadable_count = found.unreadable_count.saturating_add(page.unreadable_count);
        found.connections.extend(page.connections.into_iter().map(ConnectionView::from));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            // The broker's own order is stable and means nothing to people.
            found
                .connections
                .sort_by_cached_key(|c| (c.tenant.clone(), c.provider.clone(), c.connection.clone()));
            return Ok(found);
        }
    }
}

impl Report for ConnectionList {
    fn text(&self, page: &Page<'_>) -> String {
        let unreadable = match self.unreadable_count {
            0 => String::new(),
            1 => "1 record cannot be read; the broker's log says why\n".to_owned(),
            many => format!("{many} records cannot be read; the broker's log says why\n"),
        };
        if self.connections.is_empty() {
            return "no connections\n".to_owned() + &unreadable;
        }
        let rows: Vec<Vec<String>> = self
            .connections
            .iter()
            .map(|c| {
                vec![
                    c.tenant.clone(),
                    c.provider.clone(),
                    c.connection.clone(),
                    c.status.clone(),
                    c.account().to_owned(),
                    c.expiry(page),
                    c.last_error_reason.clone().unwrap_or_default(),
                ]
            })
            .collect();
        let header = ["TENANT", "PROVIDER", "CONNECTION", "STATUS", "ACCOUNT", "TOKEN EXPIRES", "LAST ERROR"];
        page.table(&header, &rows) + &unreadable
    }
}
