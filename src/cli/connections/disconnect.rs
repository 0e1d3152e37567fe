//! `connections disconnect`: revoke at the provider, then forget. The one command that asks before it acts.

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::Named;
use crate::cli::client::{Client, request};
use crate::cli::console::Console;
use crate::cli::failure::{Cause, Failure};
use crate::cli::next::{Name, Next};
use crate::cli::page::{Page, Report};
use crate::cli::{escape, times};
use crate::grpc::proto::v1::{DisconnectRequest, DisconnectResponse, Revocation};

/// Revoke a grant at the provider and forget it
#[derive(Args, Debug)]
pub(crate) struct Disconnect {
    #[command(flatten)]
    named: Named,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// How far a disconnection has come.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Disconnected {
    provider: String,
    connection: String,
    tenant: String,
    /// REVOKED or REVOKING.
    status: String,
    /// DONE, PENDING, NOT_SUPPORTED, NOT_NEEDED or UNCONFIRMED.
    revocation: String,
    /// Why revocation is still pending.
    pending_reason: Option<String>,
    /// When the broker tries again.
    next_attempt_time: Option<String>,
}

impl Disconnect {
    /// Runs the command.
    pub(crate) async fn run(self, console: &mut Console, client: &Client) -> Result<(), Failure> {
        let name = Name::from(self.named);
        if !self.yes {
            confirm(console, &name)?;
        }
        let Name { provider, connection, tenant } = name.clone();
        let message = DisconnectRequest { provider, connection, tenant };
        match client.connections().disconnect(request(message)).await {
            Ok(answer) => Ok(console.report(&Disconnected::new(name, answer.into_inner()))?),
            Err(status) => Err(client.failure(status, Some(&name), console.now()).await),
        }
    }
}

/// Has the name typed; with nobody at the keyboard it fails at once instead of waiting for ever.
fn confirm(console: &mut Console, name: &Name) -> Result<(), Failure> {
    let step = Next::Disconnect(name.clone());
    if !console.input.is_terminal {
        return Err(Failure::new(Cause::Usage, format!("disconnecting {name} is not confirmed"))
            .because("nobody is at the keyboard to ask")
            .then(step));
    }
    let what = escape::escaped(&name.connection).into_owned();
    console.output.stderr.write(&format!(
        "This revokes the grant of {} at the provider; its owner must consent again.\nType {what} to go on: ",
        escape::escaped(&name.to_string())
    ))?;
    if console.input.line()? == name.connection {
        return Ok(());
    }
    Err(Failure::new(Cause::Usage, format!("disconnecting {name} is not confirmed"))
        .because("what was typed is not its name; nothing was changed")
        .then(step))
}

impl Disconnected {
    fn new(name: Name, answer: DisconnectResponse) -> Self {
        let revocation = answer.revocation().as_str_name().trim_start_matches("REVOCATION_").to_owned();
        Self {
            provider: name.provider,
            connection: name.connection,
            tenant: name.tenant,
            status: super::status_word(answer.status).to_owned(),
            revocation,
            pending_reason: Some(answer.pending_reason).filter(|reason| !reason.is_empty()),
            next_attempt_time: times::of_wire(answer.next_attempt_time).map(|time| time.to_string()),
        }
    }
}

impl Report for Disconnected {
    fn text(&self, _: &Page<'_>) -> String {
        let name = Name {
            provider: self.provider.clone(),
            connection: self.connection.clone(),
            tenant: self.tenant.clone(),
        };
        let is = |revocation: Revocation| {
            revocation.as_str_name().trim_start_matches("REVOCATION_") == self.revocation
        };
        let outcome = if is(Revocation::Pending) {
            let why = self.pending_reason.as_deref().unwrap_or("the provider cannot be reached");
            format!("serves nothing any more; revocation is pending ({why}), the broker keeps trying")
        } else if is(Revocation::NotSupported) {
            "forgotten; the provider has no revocation, its owner may remove the app there".to_owned()
        } else if is(Revocation::NotNeeded) {
            "forgotten; there was nothing to revoke".to_owned()
        } else if is(Revocation::Unconfirmed) {
            "forgotten, but a token may live on at the provider, which could not confirm its end: its owner may remove the app there".to_owned()
        } else {
            "revoked at the provider and forgotten".to_owned()
        };
        format!("{}  {outcome}\n", escape::escaped(&name.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::console::tests::Desk;
    use crate::cli::exit::Exit;
    use crate::cli::next::tests::caller;

    fn name() -> Name {
        Name { provider: "google".into(), connection: "user-42".into(), tenant: String::new() }
    }

    #[test]
    fn the_name_must_be_typed_to_confirm() {
        let mut desk = Desk::terminal("user-42\n");
        confirm(&mut desk.console, &name()).unwrap();
        assert!(desk.stderr.text().ends_with("Type user-42 to go on: "));
        assert_eq!(desk.stdout.text(), "");

        let failure = confirm(&mut Desk::terminal("yes\n").console, &name()).unwrap_err();
        assert_eq!(failure.cause.exit(), Exit::Wrong);
    }

    #[test]
    fn what_may_live_on_is_said() {
        let answer = DisconnectResponse {
            revocation: Revocation::Unconfirmed.into(),
            ..DisconnectResponse::default()
        };
        let mut desk = Desk::terminal("");
        desk.console.report(&Disconnected::new(name(), answer)).unwrap();
        let text = desk.stdout.text();
        assert!(text.contains("may live on") && !text.contains("revoked at the provider"), "{text}");
    }

    #[test]
    fn with_nobody_at_the_keyboard_it_fails_at_once_and_names_the_flag() {
        let failure = confirm(&mut Desk::piped().console, &name()).unwrap_err();
        let command = failure.next[0].command.command(&caller());
        assert_eq!(command, "token-broker connections disconnect --yes google user-42");
    }
}
