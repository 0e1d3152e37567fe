//! `token`: a living access token. Invariant: its value goes to a program or to somebody who asked to see it, never to
//! a terminal by accident, where it would stay in the scrollback and in every shared screen.

use std::time::Duration;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::client::{Client, request};
use super::connections::Named;
use super::console::Console;
use super::failure::{Cause, Failure};
use super::next::{Name, Next};
use super::page::{Page, Report};
use super::{escape, times};
use crate::error::Reason;
use crate::grpc::proto::v1::{Durability, GetAccessTokenRequest, GetAccessTokenResponse, TokenSource};

/// Print a living access token
#[derive(Args, Debug)]
pub(crate) struct Token {
    #[command(flatten)]
    named: Named,
    /// A scope that the token must have; repeat for more
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// Shortest remaining life that is of use, e.g. 5m. Default: the provider's refresh margin
    #[arg(long, value_name = "SPAN", value_parser = times::parse_span)]
    min_ttl: Option<Duration>,
    /// Accept a token that lives shorter when a refresh is not possible now
    #[arg(long)]
    allow_stale: bool,
    /// Print the value on a terminal too
    #[arg(long)]
    show: bool,
}

/// A token and what is known of it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct TokenView {
    provider: String,
    connection: String,
    tenant: String,
    /// The value; absent on a terminal without `--show`.
    access_token: Option<String>,
    /// How to present it, usually Bearer.
    token_type: String,
    /// When it dies.
    expire_time: Option<String>,
    /// What it may do.
    scopes: Vec<String>,
    /// Counts the connection's tokens.
    generation: u64,
    /// CACHE, STORE, REFRESHED, SHARED_REFRESH or STALE.
    source: String,
    /// DURABLE or DEGRADED.
    durability: String,
    #[serde(skip)]
    expires_at: Option<prost_types::Timestamp>,
}

impl Token {
    /// Runs the command.
    pub(crate) async fn run(self, console: &mut Console, client: &Client) -> Result<(), Failure> {
        let name = Name::from(self.named);
        let Name { provider, connection, tenant } = name.clone();
        let message = GetAccessTokenRequest {
            provider,
            connection,
            tenant,
            scopes: self.scopes,
            min_ttl: self.min_ttl.map(times::span_to_wire),
            allow_stale: self.allow_stale,
            ..GetAccessTokenRequest::default()
        };
        let answer = match client.tokens().get_access_token(request(message)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                let failure = client.failure(status, Some(&name), console.now()).await;
                return Err(offer_stale(failure, &name, self.allow_stale));
            }
        };
        warn(console, &answer)?;
        let may_show = self.show || !console.output.stdout.is_terminal;
        Ok(console.report(&TokenView::new(name, answer, may_show))?)
    }
}

/// Where the provider is the trouble, an older token may do.
fn offer_stale(mut failure: Failure, name: &Name, was_asked: bool) -> Failure {
    let may_help = matches!(
        failure.cause,
        Cause::Broker(
            Reason::ProviderUnavailable
                | Reason::ProviderRateLimited
                | Reason::ProviderCircuitOpen
                | Reason::ProviderMalformed
                | Reason::ConnectionAmbiguous
        )
    );
    if !may_help || was_asked {
        return failure;
    }
    let wait = failure.retry_after.map_or_else(String::new, |wait| format!("or wait {}", times::span(wait)));
    let step = Next::Token { name: name.clone(), allow_stale: true, show: false }.with(wait);
    failure.next.insert(0, step);
    failure
}

fn warn(console: &mut Console, answer: &GetAccessTokenResponse) -> std::io::Result<()> {
    if answer.source() == TokenSource::Stale {
        console.note("warning: this is an older token; a refresh is not possible now")?;
    }
    if answer.durability() == Durability::Degraded {
        console
            .note("warning: the store could not be written; a crash now may cost the owner a new consent")?;
    }
    Ok(())
}

impl TokenView {
    fn new(name: Name, answer: GetAccessTokenResponse, may_show: bool) -> Self {
        let source = answer.source().as_str_name().trim_start_matches("TOKEN_SOURCE_").to_owned();
        let durability = answer.durability().as_str_name().trim_start_matches("DURABILITY_").to_owned();
        Self {
            provider: name.provider,
            connection: name.connection,
            tenant: name.tenant,
            access_token: may_show.then_some(answer.access_token),
            token_type: answer.token_type,
            expire_time: times::of_wire(answer.expire_time).map(|time| time.to_string()),
            scopes: answer.scopes,
            generation: answer.generation,
            source,
            durability,
            expires_at: answer.expire_time,
        }
    }
}

impl Report for TokenView {
    /// The bare value, so that `$(token-broker token …)` is a token; on a terminal what is known of it.
    fn text(&self, page: &Page<'_>) -> String {
        if let Some(token) = &self.access_token {
            return if page.is_terminal {
                format!("{}\n", escape::escaped(token))
            } else {
                format!("{token}\n")
            };
        }
        let name = Name {
            provider: self.provider.clone(),
            connection: self.connection.clone(),
            tenant: self.tenant.clone(),
        };
        let show = Next::Token { name: name.clone(), allow_stale: false, show: true };
        let head = format!("{}\n", escape::escaped(&name.to_string()));
        head + &page.fields(&[
            ("token", "not shown on a terminal".to_owned()),
            ("to see it", show.command(page.caller)),
            ("type", self.token_type.clone()),
            ("expires", page.time(times::of_wire(self.expires_at), "never")),
            ("scopes", self.scopes.join(" ")),
            ("source", self.source.clone()),
            ("generation", self.generation.to_string()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::super::console::tests::Desk;
    use super::super::next::tests::caller;
    use super::*;

    fn view(may_show: bool) -> TokenView {
        let name = Name { provider: "google".into(), connection: "user-42".into(), tenant: String::new() };
        let mut answer = GetAccessTokenResponse {
            access_token: "ya29.secret".into(),
            token_type: "Bearer".into(),
            generation: 3,
            ..GetAccessTokenResponse::default()
        };
        answer.set_source(TokenSource::Cache);
        answer.set_durability(Durability::Durable);
        TokenView::new(name, answer, may_show)
    }

    #[test]
    fn a_pipe_gets_the_bare_value() {
        let mut desk = Desk::piped();
        desk.console.report(&view(true)).unwrap();
        assert_eq!(desk.stdout.text(), "ya29.secret\n");
    }

    #[test]
    fn a_terminal_gets_everything_but_the_value() {
        for is_json in [false, true] {
            let mut desk = Desk::terminal("");
            desk.console.output.is_json = is_json;
            desk.console.report(&view(false)).unwrap();
            let text = desk.stdout.text();
            assert!(!text.contains("ya29") && text.contains("Bearer") && text.contains("CACHE"), "{text}");
        }
    }

    #[test]
    fn an_unreachable_provider_leads_to_the_older_token() {
        let name = Name { provider: "google".into(), connection: "user-42".into(), tenant: String::new() };
        let mut failure = Failure::new(Cause::Broker(Reason::ProviderCircuitOpen), "google is resting");
        failure.retry_after = Some(Duration::from_secs(42));
        let offered = offer_stale(failure, &name, false);
        let text = offered.text(&caller(), false);
        assert!(
            text.contains("next: token-broker token google user-42 --allow-stale      (or wait 42 s)\n"),
            "{text}"
        );
    }
}
