//! `connections retry`: a grant that the provider called dead, once more.

use clap::Args;

use super::{Named, held};
use crate::cli::client::{Client, request};
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use crate::cli::next::Name;
use crate::grpc::proto::v1::RetryConnectionRequest;

/// Try a grant again that the provider called dead
#[derive(Args, Debug)]
pub(crate) struct Retry {
    #[command(flatten)]
    named: Named,
}

impl Retry {
    /// Runs the command.
    pub(crate) async fn run(self, console: &mut Console, client: &Client) -> Result<(), Failure> {
        let name = Name::from(self.named);
        let Name { provider, connection, tenant } = name.clone();
        let message = RetryConnectionRequest { provider, connection, tenant };
        match client.connections().retry_connection(request(message)).await {
            Ok(answer) => Ok(console.report(&held(answer.into_inner().connection)?)?),
            Err(status) => Err(client.failure(status, Some(&name), console.now()).await),
        }
    }
}
