//! `connections show`: one connection, whole.

use clap::Args;

use super::{Named, held};
use crate::cli::client::{Client, request};
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use crate::cli::next::Name;
use crate::grpc::proto::v1::GetConnectionRequest;

/// Show one connection
#[derive(Args, Debug)]
pub(crate) struct Show {
    #[command(flatten)]
    named: Named,
}

impl Show {
    /// Runs the command.
    pub(crate) async fn run(self, console: &mut Console, client: &Client) -> Result<(), Failure> {
        let name = Name::from(self.named);
        let Name { provider, connection, tenant } = name.clone();
        let message = GetConnectionRequest { provider, connection, tenant };
        match client.connections().get_connection(request(message)).await {
            Ok(answer) => Ok(console.report(&held(answer.into_inner().connection)?)?),
            Err(status) => Err(client.failure(status, Some(&name), console.now()).await),
        }
    }
}
