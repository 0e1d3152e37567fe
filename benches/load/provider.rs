//! A provider that is asked: the sandbox in a process of its own, with grants to import.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use token_broker::clock::SystemClock;
use token_broker::entropy::OsEntropy;
use token_broker::sandbox::{Sandbox, SandboxOptions};

use crate::child::{DRIVER_CORE, Kept, cores, ready_line};
use crate::{Outcome, ROLE};

/// Grants it gives: each is refreshed again after so many others.
pub(crate) const GRANTS: usize = 400;

/// A running provider.
pub(crate) struct Provider {
    pub(crate) told: Told,
    _child: Kept,
}

/// What it says when it is ready.
#[derive(Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) port: u16,
    pub(crate) client_id: String,
    pub(crate) client_secret: String,
    pub(crate) refresh_tokens: Vec<String>,
}

/// Starts this executable as the provider. It lives on the driver's core and yields to the driver, so that what it does
/// is not taken for what the broker does.
pub(crate) fn start() -> Outcome<Provider> {
    let core = if DRIVER_CORE < cores()? { DRIVER_CORE } else { 0 };
    let mut child = Kept(
        Command::new("taskset")
            .args(["-c", &core.to_string(), "nice", "-n", "19"])
            .arg(std::env::current_exe()?)
            .env(ROLE, "provider")
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let told = ready_line(child.0.stdout.take().ok_or("no stdout")?, |line| serde_json::from_str(line).ok())?;
    Ok(Provider { told, _child: child })
}

/// What the child does.
pub(crate) async fn serve() -> Outcome<()> {
    let any_port = ([127, 0, 0, 1], 0).into();
    let sandbox =
        Sandbox::start(any_port, SandboxOptions::default(), Arc::new(SystemClock), Arc::new(OsEntropy))?;
    let grants = sandbox.grants();
    let tokens = (0..GRANTS)
        .map(|number| grants.issue(&format!("user-{number}"), &["openid"]).refresh_token)
        .map(|token| token.map(|token| token.expose().clone()).ok_or("no refresh token"))
        .collect::<Result<_, _>>()?;
    let told = Told {
        port: sandbox.address().port(),
        client_id: sandbox.client_id().to_owned(),
        client_secret: sandbox.client_secret().ok_or("no secret")?.expose().clone(),
        refresh_tokens: tokens,
    };
    writeln!(std::io::stdout().lock(), "{}", serde_json::to_string(&told)?)?;
    std::future::pending().await
}
