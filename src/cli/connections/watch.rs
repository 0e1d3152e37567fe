//! `connections watch`: the connections as they are, then each change, until it is interrupted.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use schemars::JsonSchema;
use serde::Serialize;
use tonic::Request;

use super::ConnectionView;
use crate::cli::client::Client;
use crate::cli::complete;
use crate::cli::console::Console;
use crate::cli::escape::escaped;
use crate::cli::failure::Failure;
use crate::cli::next::Name;
use crate::cli::page::{Page, Report};
use crate::cli::times;
use crate::grpc::proto::v1::WatchConnectionsRequest;
use crate::grpc::proto::v1::watch_connections_response::Event;

/// Follow every change of connections
#[derive(Args, Debug)]
pub(crate) struct Watch {
    /// Only those of this provider
    #[arg(long, default_value = "", hide_default_value = true, add = ArgValueCompleter::new(complete::providers))]
    provider: String,
    /// Only those whose id begins so, e.g. org-7/
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// Only those of this namespace
    #[arg(long, default_value = "", hide_default_value = true)]
    tenant: String,
    /// End when every connection was shown as it is
    #[arg(long)]
    once: bool,
}

/// One line of a watch.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum WatchLine {
    /// A connection as it now stands.
    Connection {
        /// The connection.
        connection: Box<ConnectionView>,
    },
    /// A connection that is no more.
    Removed {
        /// Key of the provider.
        provider: String,
        /// The app's own id.
        connection: String,
        /// Namespace; empty for the default one.
        tenant: String,
    },
    /// Its grant ends for good unless its owner consents again.
    GrantEnding {
        /// Key of the provider.
        provider: String,
        /// The app's own id.
        connection: String,
        /// Namespace; empty for the default one.
        tenant: String,
        /// When.
        end_time: Option<String>,
    },
    /// Every connection was told; what follows are changes.
    SnapshotEnd,
    /// Changes were lost: every connection follows anew.
    SnapshotStart,
}

impl Watch {
    /// Runs the command.
    pub(crate) async fn run(self, console: &mut Console, client: &Client) -> Result<(), Failure> {
        let message = WatchConnectionsRequest {
            provider: self.provider,
            connection_prefix: self.prefix,
            tenant: self.tenant,
        };
        // No deadline: it lasts until it is interrupted.
        let mut events = match client.connections().watch_connections(Request::new(message)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Err(client.failure(status, None, console.now()).await),
        };
        loop {
            let event = match events.message().await {
                Ok(Some(event)) => event.event,
                Ok(None) => return Ok(()),
                Err(status) => return Err(client.failure(status, None, console.now()).await),
            };
            // A later broker may tell what this program does not know.
            let Some(line) = event.map(WatchLine::from) else { continue };
            console.line(&line)?;
            if self.once && matches!(line, WatchLine::SnapshotEnd) {
                return Ok(());
            }
        }
    }
}

impl From<Event> for WatchLine {
    fn from(event: Event) -> Self {
        match event {
            Event::Connection(connection) => Self::Connection { connection: Box::new(connection.into()) },
            Event::Removed(gone) => {
                Self::Removed { provider: gone.provider, connection: gone.connection, tenant: gone.tenant }
            }
            Event::GrantEnding(ending) => Self::GrantEnding {
                provider: ending.provider,
                connection: ending.connection,
                tenant: ending.tenant,
                end_time: times::of_wire(ending.end_time).map(|time| time.to_string()),
            },
            Event::SnapshotEnd(_) => Self::SnapshotEnd,
            Event::SnapshotStart(_) => Self::SnapshotStart,
        }
    }
}

impl Report for WatchLine {
    fn text(&self, page: &Page<'_>) -> String {
        let named = |provider: &str, connection: &str, tenant: &str| {
            let name = Name {
                provider: provider.to_owned(),
                connection: connection.to_owned(),
                tenant: tenant.to_owned(),
            };
            escaped(&name.to_string()).into_owned()
        };
        match self {
            Self::Connection { connection } => {
                let ConnectionView { provider, connection: id, tenant, .. } = &**connection;
                let status = page.toned(&connection.status, super::tone(&connection.status));
                let facts = [
                    Some(format!("generation {}", connection.generation)),
                    Some(connection.expiry(page))
                        .filter(|at| !at.is_empty())
                        .map(|at| format!("expires {at}")),
                    connection.last_error_reason.clone(),
                ];
                let facts: Vec<_> = facts.into_iter().flatten().collect();
                format!("{}  {status}  {}\n", named(provider, id, tenant), facts.join(", "))
            }
            Self::Removed { provider, connection, tenant } => {
                format!("{}  removed\n", named(provider, connection, tenant))
            }
            Self::GrantEnding { provider, connection, tenant, end_time } => {
                let end = end_time.as_deref().unwrap_or("soon");
                format!("{}  its grant ends {end}\n", named(provider, connection, tenant))
            }
            Self::SnapshotEnd => "that is all; changes follow\n".to_owned(),
            Self::SnapshotStart => "changes were lost; all follows anew\n".to_owned(),
        }
    }
}
