//! `connections history`: what happened to one connection.

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::Named;
use crate::cli::client::{Client, request};
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use crate::cli::next::Name;
use crate::cli::page::{Page, Report};
use crate::cli::times;
use crate::grpc::proto::v1::{GetConnectionHistoryRequest, HistoryEvent};

/// Show what happened to one connection
#[derive(Args, Debug)]
pub(crate) struct History {
    #[command(flatten)]
    named: Named,
}

/// A connection's life, as far back as the broker remembers.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Timeline {
    /// Key of the provider.
    provider: String,
    /// The app's own id.
    connection: String,
    /// Namespace; empty for the default one.
    tenant: String,
    /// Oldest first.
    events: Vec<EventView>,
}

/// One event, or several of one kind in a row.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct EventView {
    /// begun, connected, imported, refreshed, narrowed, failed, ambiguous, resumed, recovered, salvaged, denied,
    /// reauth_required, retried, rolled_back, revoking, surplus, revocation_failed, same_account, wiped, or at its end revoked,
    /// revocation_unconfirmed, revocation_not_supported or revocation_not_needed; more may come.
    event: String,
    /// When; of several in a row the first.
    time: Option<String>,
    /// When the last of several in a row happened.
    last_time: Option<String>,
    /// How often in a row.
    count: u32,
    /// The connection's generation afterwards.
    generation: u64,
    /// A reason, or the provider's own error code; of narrowed the scopes that were lost; process_ended where the broker
    /// ended before an answer was written down.
    why: Option<String>,
    #[serde(skip)]
    wire: HistoryEvent,
}

impl From<HistoryEvent> for EventView {
    fn from(wire: HistoryEvent) -> Self {
        let time = |time: Option<prost_types::Timestamp>| times::of_wire(time).map(|time| time.to_string());
        Self {
            event: wire.event.clone(),
            time: time(wire.time),
            last_time: time(wire.last_time),
            count: wire.count,
            generation: wire.generation,
            why: Some(wire.why.clone()).filter(|why| !why.is_empty()),
            wire,
        }
    }
}

impl History {
    /// Runs the command.
    pub(crate) async fn run(self, console: &mut Console, client: &Client) -> Result<(), Failure> {
        let name = Name::from(self.named);
        let Name { provider, connection, tenant } = name.clone();
        let message = GetConnectionHistoryRequest {
            provider: provider.clone(),
            connection: connection.clone(),
            tenant: tenant.clone(),
        };
        match client.connections().get_connection_history(request(message)).await {
            Ok(answer) => {
                let events = answer.into_inner().events.into_iter().map(EventView::from).collect();
                Ok(console.report(&Timeline { provider, connection, tenant, events })?)
            }
            Err(status) => Err(client.failure(status, Some(&name), console.now()).await),
        }
    }
}

impl Report for Timeline {
    fn text(&self, page: &Page<'_>) -> String {
        if self.events.is_empty() {
            return "nothing is remembered\n".to_owned();
        }
        let rows: Vec<Vec<String>> = self
            .events
            .iter()
            .map(|event| {
                let time = |time| page.time(times::of_wire(time), "");
                let times = if event.count > 1 { format!("{}x", event.count) } else { String::new() };
                vec![
                    time(event.wire.time),
                    event.event.clone(),
                    times,
                    time(event.wire.last_time),
                    event.generation.to_string(),
                    event.why.clone().unwrap_or_default(),
                ]
            })
            .collect();
        page.table(&["WHEN", "EVENT", "TIMES", "UNTIL", "GENERATION", "WHY"], &rows)
    }
}
