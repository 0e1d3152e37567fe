//! `connections refresh`: a new token now, whether needed or not.

use clap::Args;

use super::{Named, held};
use crate::cli::client::{Client, request};
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use crate::cli::next::Name;
use crate::grpc::proto::v1::RefreshConnectionRequest;

/// Refresh a token now
#[derive(Args, Debug)]
pub(crate) struct Refresh {
    #[command(flatten)]
    named: Named,
    /// Only while this is the connection's generation
    #[arg(long, value_name = "N")]
    if_generation: Option<u64>,
}

impl Refresh {
    /// Runs the command.
    pub(crate) async fn run(self, console: &mut Console, client: &Client) -> Result<(), Failure> {
        let name = Name::from(self.named);
        let Name { provider, connection, tenant } = name.clone();
        let message =
            RefreshConnectionRequest { provider, connection, tenant, if_generation: self.if_generation };
        match client.connections().refresh_connection(request(message)).await {
            Ok(answer) => Ok(console.report(&held(answer.into_inner().connection)?)?),
            Err(status) => Err(client.failure(status, Some(&name), console.now()).await),
        }
    }
}
