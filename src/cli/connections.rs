//! `connections`: see, take over, refresh and end grants. Owns how a connection looks, which `connect` shares.

pub(crate) mod disconnect;
pub(crate) mod history;
pub(crate) mod import;
pub(crate) mod list;
pub(crate) mod refresh;
pub(crate) mod retry;
pub(crate) mod show;
pub(crate) mod watch;

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use schemars::JsonSchema;
use serde::Serialize;

use super::client::Client;
use super::console::Console;
use super::failure::{Cause, Failure};
use super::next::Name;
use super::page::{Page, Report, Tone};
use super::{complete, times};
use crate::grpc::proto::v1::{Connection, ConnectionStatus};

/// What to do with connections.
#[derive(Debug, Subcommand)]
pub(crate) enum Connections {
    /// List connections
    List(list::List),
    /// Show one connection
    Show(show::Show),
    /// Take over a grant that another system obtained with the same client
    Import(import::Import),
    /// Revoke a grant at the provider and forget it
    Disconnect(disconnect::Disconnect),
    /// Refresh a token now
    Refresh(refresh::Refresh),
    /// Try a grant again that the provider called dead
    Retry(retry::Retry),
    /// Show what happened to one connection
    History(history::History),
    /// Follow every change of connections
    Watch(watch::Watch),
}

/// `NAME=VALUE` for one of a provider's variables.
pub(crate) fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE, e.g. region=eu".to_owned()),
    }
}

/// Names one connection on the command line.
#[derive(Args, Clone, Debug)]
pub(crate) struct Named {
    /// Key of the provider, as in the configuration
    #[arg(add = ArgValueCompleter::new(complete::providers))]
    pub(crate) provider: String,
    /// The app's own id of the connection, e.g. user-42
    #[arg(add = ArgValueCompleter::new(complete::connections))]
    pub(crate) connection: String,
    /// Namespace of the connection
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) tenant: String,
}

impl From<Named> for Name {
    fn from(named: Named) -> Self {
        Self { provider: named.provider, connection: named.connection, tenant: named.tenant }
    }
}

impl Connections {
    /// Runs the command.
    pub(crate) async fn run(self, console: &mut Console, client: &Client) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run(console, client).await,
            Self::Show(show) => show.run(console, client).await,
            Self::Import(import) => import.run(console, client).await,
            Self::Disconnect(disconnect) => disconnect.run(console, client).await,
            Self::Refresh(refresh) => refresh.run(console, client).await,
            Self::Retry(retry) => retry.run(console, client).await,
            Self::History(history) => history.run(console, client).await,
            Self::Watch(watch) => watch.run(console, client).await,
        }
    }
}

/// A connection as it is shown: never a token.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct ConnectionView {
    /// Key of the provider.
    pub(crate) provider: String,
    /// The app's own id.
    pub(crate) connection: String,
    /// Namespace; empty for the default one.
    pub(crate) tenant: String,
    /// PENDING, ACTIVE, AMBIGUOUS, REAUTH_REQUIRED, REVOKING, REVOKED or DISABLED.
    pub(crate) status: String,
    /// The provider's id of the account.
    pub(crate) account_id: Option<String>,
    /// The account's email address.
    pub(crate) email: Option<String>,
    /// What was granted.
    pub(crate) scopes: Vec<String>,
    /// When the access token dies.
    pub(crate) expire_time: Option<String>,
    /// When the refresh token dies.
    pub(crate) refresh_expire_time: Option<String>,
    /// When the last refresh succeeded.
    pub(crate) last_refresh_time: Option<String>,
    /// Reason of the last failure since the last success.
    pub(crate) last_error_reason: Option<String>,
    /// When that was.
    pub(crate) last_error_time: Option<String>,
    /// What it knows for the provider's variables.
    pub(crate) variables: BTreeMap<String, String>,
    /// Counts its tokens.
    pub(crate) generation: u64,
    /// Whether the broker can renew the token by itself.
    pub(crate) renewable: bool,
    /// When the owner last consented.
    pub(crate) consent_time: Option<String>,
    /// When it was first begun or imported.
    pub(crate) create_time: Option<String>,
    /// When the record last changed.
    pub(crate) update_time: Option<String>,
    #[serde(skip)]
    wire: Connection,
}

impl From<Connection> for ConnectionView {
    fn from(wire: Connection) -> Self {
        let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let time = |time: Option<prost_types::Timestamp>| times::of_wire(time).map(|time| time.to_string());
        Self {
            provider: wire.provider.clone(),
            connection: wire.connection.clone(),
            tenant: wire.tenant.clone(),
            status: status_word(wire.status).to_owned(),
            account_id: filled(&wire.account_id),
            email: filled(&wire.email),
            scopes: wire.scopes.clone(),
            expire_time: time(wire.expire_time),
            refresh_expire_time: time(wire.refresh_expire_time),
            last_refresh_time: time(wire.last_refresh_time),
            last_error_reason: filled(&wire.last_error_reason),
            last_error_time: time(wire.last_error_time),
            variables: wire.variables.clone().into_iter().collect(),
            generation: wire.generation,
            renewable: wire.renewable,
            consent_time: time(wire.consent_time),
            create_time: time(wire.create_time),
            update_time: time(wire.update_time),
            wire,
        }
    }
}

impl ConnectionView {
    /// Its name.
    pub(crate) fn name(&self) -> Name {
        Name {
            provider: self.provider.clone(),
            connection: self.connection.clone(),
            tenant: self.tenant.clone(),
        }
    }

    /// The account as a person recognises it; empty where it is not known.
    pub(crate) fn account(&self) -> &str {
        self.email.as_deref().or(self.account_id.as_deref()).unwrap_or_default()
    }

    /// When the access token dies, relative to `page`.
    pub(crate) fn expiry(&self, page: &Page<'_>) -> String {
        let absent = if self.status == "ACTIVE" { "never" } else { "" };
        page.time(times::of_wire(self.wire.expire_time), absent)
    }
}

impl Report for ConnectionView {
    fn text(&self, page: &Page<'_>) -> String {
        let time = |time| page.time(times::of_wire(time), "");
        let account = match (&self.email, &self.account_id) {
            (Some(email), Some(id)) => format!("{email} ({id})"),
            _ => self.account().to_owned(),
        };
        let failure = self
            .last_error_reason
            .as_ref()
            .map(|reason| format!("{reason} {}", time(self.wire.last_error_time)).trim_end().to_owned());
        let variables: Vec<_> =
            self.variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let variables = variables.join(" ");
        let name = super::escape::escaped(&self.name().to_string()).into_owned();
        let head = format!(
            "{}  {}\n",
            page.toned(&name, Tone::Strong),
            page.toned(&self.status, tone(&self.status))
        );
        head + &page.fields(&[
            ("account", account),
            ("scopes", self.scopes.join(" ")),
            ("variables", variables),
            ("token expires", self.expiry(page)),
            ("grant expires", time(self.wire.refresh_expire_time)),
            ("renewed by broker", if self.renewable { "yes" } else { "no" }.to_owned()),
            ("last refresh", time(self.wire.last_refresh_time)),
            ("last error", failure.unwrap_or_default()),
            ("generation", self.generation.to_string()),
            ("consented", time(self.wire.consent_time)),
            ("created", time(self.wire.create_time)),
            ("changed", time(self.wire.update_time)),
        ])
    }
}

/// How a status stands out; its word says the same.
pub(crate) fn tone(status: &str) -> Tone {
    match status {
        "ACTIVE" => Tone::Good,
        "PENDING" | "AMBIGUOUS" | "REVOKING" => Tone::Warning,
        "REAUTH_REQUIRED" => Tone::Bad,
        _ => Tone::Faint,
    }
}

/// The word of a status on the wire.
fn status_word(status: i32) -> &'static str {
    let status = ConnectionStatus::try_from(status).unwrap_or_default();
    status.as_str_name().trim_start_matches("CONNECTION_STATUS_")
}

/// The connection that an answer must hold.
pub(crate) fn held(connection: Option<Connection>) -> Result<ConnectionView, Failure> {
    connection
        .map(ConnectionView::from)
        .ok_or_else(|| Failure::new(Cause::Bug, "the broker's answer holds no connection"))
}
