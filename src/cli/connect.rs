//! `connect`: an owner's consent from the command line. Waits on loopback for the browser to come back, and finishes
//! with a session that never left this process.
//!
//! Invariant: terminal and browser never disagree: the page says what `FinishConnect` answered, which is after the
//! durable commit, and the command ends only when the page has left.

use std::sync::Arc;

use clap::Args;
use http::{StatusCode, Uri};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::client::{Client, request};
use super::connections::{ConnectionView, Named, held, parse_variable};
use super::console::{Console, Environment};
use super::failure::{Cause, Failure};
use super::loopback::{self, Answer, Returned, html};
use super::next::{Name, Next};
use super::times;
use crate::clock::{Clock, Timestamp};
use crate::entropy::{Entropy, OsEntropy};
use crate::error::Reason;
use crate::grpc::proto::v1::{BeginConnectRequest, BeginConnectResponse, FinishConnectRequest};
use crate::secret::Secret;

/// Connect an account, or renew the consent of one
#[derive(Args, Debug)]
pub(crate) struct Connect {
    #[command(flatten)]
    named: Named,
    /// A scope to ask for; repeat for more. Default: the provider's configured scopes
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// Whom the provider should suggest to sign in, e.g. an email address
    #[arg(long, value_name = "HINT", default_value = "", hide_default_value = true)]
    login_hint: String,
    /// A value for one of the provider's variables, e.g. region=eu; repeat for more
    #[arg(long = "variable", value_name = "NAME=VALUE", value_parser = parse_variable)]
    variables: Vec<(String, String)>,
    /// Only print the URL
    #[arg(long)]
    no_browser: bool,
    /// Accept a consent by another account than before
    #[arg(long)]
    allow_account_change: bool,
}

impl Connect {
    /// Runs the command.
    pub(crate) async fn run(self, console: &mut Console, client: &Client) -> Result<(), Failure> {
        let name = Name::from(self.named);
        let door = TcpListener::bind("127.0.0.1:0").await.map_err(|error| {
            Failure::new(Cause::Machine, "no port of 127.0.0.1 can be listened on").because(error.to_string())
        })?;
        // Nobody but the browser we sent out knows this path.
        let entropy: &dyn Entropy = &OsEntropy;
        let path = format!("/{}", entropy.token::<16>());
        let return_url = format!("http://{}{path}", door.local_addr()?);
        let Name { provider, connection, tenant } = name.clone();
        let message = BeginConnectRequest {
            provider,
            connection,
            tenant,
            scopes: self.scopes,
            return_url,
            login_hint: self.login_hint,
            allow_account_change: self.allow_account_change,
            variables: self.variables.into_iter().collect(),
            ..BeginConnectRequest::default()
        };
        let begun = match client.connections().begin_connect(request(message)).await {
            Ok(begun) => begun.into_inner(),
            Err(status) => return Err(client.failure(status, Some(&name), console.now()).await),
        };
        invite(console, &name, &begun.authorization_url, self.no_browser)?;
        let connected = wait(console, client, &name, door, path, begun).await?;
        Ok(console.report(&connected)?)
    }
}

/// Shows the URL, always and first; then opens a browser where one can be seen.
fn invite(console: &mut Console, name: &Name, url: &str, no_browser: bool) -> Result<(), Failure> {
    console.note(&format!("To connect {name}, open this address in a browser:\n\n  {url}\n"))?;
    let is_web = url.starts_with("https://") || url.starts_with("http://");
    if !no_browser && is_web && console.output.stderr.is_terminal && has_display(&console.environment) {
        match (console.browser)(url) {
            Ok(()) => console.note("A browser was opened.")?,
            Err(_) => console.note("No browser could be opened.")?,
        }
    }
    Ok(console.note("Waiting for the consent. Ctrl-C ends this.")?)
}

/// Whether a browser would appear before this person's eyes: a display, and not at the far end of an SSH session.
fn has_display(environment: &Environment) -> bool {
    let is_remote = ["SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY"].iter().any(|name| environment.has(name));
    let has_screen =
        cfg!(target_os = "macos") || environment.has("DISPLAY") || environment.has("WAYLAND_DISPLAY");
    has_screen && !is_remote
}

/// Waits for the browser and finishes; the answer that it gets is in its hands when this returns.
async fn wait(
    console: &Console,
    client: &Client,
    name: &Name,
    door: TcpListener,
    path: String,
    begun: BeginConnectResponse,
) -> Result<ConnectionView, Failure> {
    let expires_at = times::of_wire(begun.expire_time);
    let session = Secret::new(begun.session);
    let finisher = Arc::new(Finisher::new(client.clone(), console.clock.clone(), name.clone(), session));
    let (tell, mut told) = mpsc::channel(1);
    let close = CancellationToken::new();
    let answer = move |uri: Uri| {
        let (finisher, tell, is_ours) = (finisher.clone(), tell.clone(), uri.path() == path);
        async move {
            let Some(returned) = Returned::parse(&uri).filter(|_| is_ours) else {
                return Answer::Page(StatusCode::NOT_FOUND, html::nothing_here());
            };
            let outcome = finisher.finish(returned).await;
            let page = outcome_page(&finisher.name, &outcome);
            // The first outcome counts; a reload of the page finds its code used up.
            let _ = tell.try_send(outcome);
            page
        }
    };
    let serving = loopback::serve(door, close.clone(), answer);
    let outcome = async {
        let outcome = tokio::select! {
            outcome = told.recv() => outcome.unwrap_or_else(|| Err(expired(name))),
            () = until(console.now(), expires_at) => Err(expired(name)),
        };
        close.cancel();
        outcome
    };
    let (outcome, served) = tokio::join!(outcome, serving);
    served?;
    outcome
}

/// Sleeps until `end`; for ever where the broker states no end.
async fn until(now: Timestamp, end: Option<Timestamp>) {
    match end {
        Some(end) => tokio::time::sleep(now.until(end)).await,
        None => std::future::pending().await,
    }
}

fn expired(name: &Name) -> Failure {
    let again = Next::Connect { name: name.clone(), scopes: Vec::new(), allow_account_change: false };
    Failure::new(
        Cause::Broker(Reason::ConnectSessionInvalid),
        format!("no consent for {name} came back in time"),
    )
    .because("a consent that was begun waits 10 minutes")
    .then(again.with("to begin again"))
}

/// Gives the broker the code that the browser brought.
pub(super) struct Finisher {
    client: Client,
    clock: Arc<dyn Clock>,
    name: Name,
    session: Secret<String>,
    /// A browser may ask twice, and a code works once: the second time gets the same answer.
    connected: tokio::sync::Mutex<Option<ConnectionView>>,
}

impl Finisher {
    /// For the consent for `name` that was begun as `session`.
    pub(super) fn new(client: Client, clock: Arc<dyn Clock>, name: Name, session: Secret<String>) -> Self {
        Self { client, clock, name, session, connected: tokio::sync::Mutex::default() }
    }

    /// What it connects.
    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    /// Makes the connection ACTIVE; it is stored when this returns.
    pub(super) async fn finish(&self, returned: Returned) -> Result<ConnectionView, Failure> {
        let mut connected = self.connected.lock().await;
        if let Some(connected) = &*connected {
            return Ok(connected.clone());
        }
        let code = match returned {
            Returned::Code(code) => code,
            Returned::Refused { reason, oauth_error } => {
                return Err(refused(&self.name, &reason, oauth_error));
            }
        };
        let message =
            FinishConnectRequest { session: self.session.expose().clone(), code: code.expose().clone() };
        match self.client.connections().finish_connect(request(message)).await {
            Ok(answer) => Ok(connected.insert(held(answer.into_inner().connection)?).clone()),
            Err(status) => Err(self.client.failure(status, Some(&self.name), self.clock.now()).await),
        }
    }
}

/// The failure that the broker sent along with the browser.
fn refused(name: &Name, reason: &str, oauth_error: Option<String>) -> Failure {
    let cause = Reason::parse(reason).map_or(Cause::Bug, Cause::Broker);
    let what = match oauth_error.as_deref() {
        Some("access_denied") => format!("consent for {name} was refused at the provider"),
        _ => format!("{name} could not be connected"),
    };
    let again = Next::Connect { name: name.clone(), scopes: Vec::new(), allow_account_change: false };
    Failure::new(cause, what).because(oauth_error.unwrap_or_default()).then(again.with("to begin again"))
}

/// What the browser shows of `outcome`.
pub(crate) fn outcome_page(name: &Name, outcome: &Result<ConnectionView, Failure>) -> Answer {
    let name = name.to_string();
    match outcome {
        Ok(connected) => Answer::Page(StatusCode::OK, html::connected(&name, connected.account())),
        Err(failure) => {
            let why = if failure.why.is_empty() {
                failure.what.clone()
            } else {
                format!("{} ({})", failure.what, failure.why)
            };
            Answer::Page(StatusCode::BAD_REQUEST, html::failed(&name, &why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::console::tests::Desk;
    use super::*;

    fn name() -> Name {
        Name { provider: "google".into(), connection: "user-42".into(), tenant: String::new() }
    }

    #[test]
    fn a_browser_is_opened_only_where_it_can_be_seen() {
        assert!(has_display(&Environment::of([("DISPLAY", ":0")])));
        assert!(!has_display(&Environment::of([("DISPLAY", ":10"), ("SSH_CONNECTION", "1 2 3 4")])));
        assert_eq!(has_display(&Environment::default()), cfg!(target_os = "macos"));
    }

    #[test]
    fn the_url_is_printed_before_a_browser_is_opened_and_nothing_but_the_web_is_opened() {
        for (url, said) in [("https://accounts.example/auth", true), ("file:///etc/passwd", false)] {
            let mut desk = Desk::terminal("");
            desk.console.environment = Environment::of([("DISPLAY", ":0")]);
            invite(&mut desk.console, &name(), url, false).unwrap();
            let text = desk.stderr.text();
            assert!(text.find(url) < text.find("Waiting"), "{text}");
            assert_eq!(text.contains("A browser was opened."), said, "{text}");
        }
        let mut desk = Desk::terminal("");
        desk.console.environment = Environment::of([("DISPLAY", ":0")]);
        invite(&mut desk.console, &name(), "https://accounts.example/auth", true).unwrap();
        assert!(!desk.stderr.text().contains("opened."));
    }

    #[test]
    fn page_and_terminal_say_the_same_of_a_refusal() {
        let failure = refused(&name(), "CONNECT_SESSION_INVALID", Some("access_denied".into()));
        assert_eq!(failure.cause, Cause::Broker(Reason::ConnectSessionInvalid));
        let (what, why) = (failure.what.clone(), failure.why.clone());
        let Answer::Page(status, page) = outcome_page(&name(), &Err(failure)) else { panic!() };
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(page.contains(&what) && page.contains(&why), "{page}");
    }
}
