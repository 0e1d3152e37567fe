//! The bare command: how the broker fares, on one screen.

use schemars::JsonSchema;
use serde::Serialize;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::client::{Client, request};
use super::connections::list::{self, List};
use super::connections::tone;
use super::console::Console;
use super::failure::Failure;
use super::next::Next;
use super::page::{Page, Report, Tone};
use super::providers;
use crate::grpc::proto::v1::ListProvidersRequest;

/// How a broker fares.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Status {
    /// Where it answers; null where none does.
    endpoint: Option<String>,
    /// Whether it takes requests.
    serving: bool,
    /// The configured providers.
    providers: Vec<providers::ProviderView>,
    /// How many connections of the default tenant are in each status.
    connections: Vec<Tally>,
}

/// How many connections are in one status.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Tally {
    status: String,
    count: usize,
}

/// Shows a broker that answered.
pub(crate) async fn run(console: &mut Console, client: &Client) -> Result<(), Failure> {
    let mut health = HealthClient::new(client.channel());
    let serving = match health.check(request(HealthCheckRequest::default())).await {
        Ok(answer) => answer.into_inner().status == 1,
        Err(status) => return Err(client.failure(status, None, console.now()).await),
    };
    let providers = match client.providers().list_providers(request(ListProvidersRequest {})).await {
        Ok(answer) => answer.into_inner().providers.into_iter().map(Into::into).collect(),
        Err(status) => return Err(client.failure(status, None, console.now()).await),
    };
    let every = List { provider: String::new(), status: None, prefix: String::new(), tenant: String::new() };
    let found = list::all(console, client, &every).await?;
    let mut connections: Vec<Tally> = Vec::new();
    for connection in found.connections {
        match connections.iter_mut().find(|tally| tally.status == connection.status) {
            Some(tally) => tally.count += 1,
            None => connections.push(Tally { status: connection.status, count: 1 }),
        }
    }
    connections.sort_by(|one, other| other.count.cmp(&one.count).then(one.status.cmp(&other.status)));
    let endpoint = Some(client.endpoint.to_string());
    Ok(console.report(&Status { endpoint, serving, providers, connections })?)
}

/// What to do where no broker answers: five lines.
pub(crate) fn nobody(console: &mut Console) -> Result<(), Failure> {
    let none = Status { endpoint: None, serving: false, providers: Vec::new(), connections: Vec::new() };
    Ok(console.report(&none)?)
}

/// The commands that the five lines name.
pub(crate) fn first_steps() -> [(Next, &'static str); 4] {
    [
        (Next::Dev, "try it: a broker with a sandbox provider, for this terminal's time"),
        (Next::ShowProvider("google".to_owned()), "set up a real provider"),
        (Next::Help("serve".to_owned()), "run a broker"),
        (Next::Help("environment".to_owned()), "where a broker is looked for"),
    ]
}

impl Report for Status {
    fn text(&self, page: &Page<'_>) -> String {
        let Some(endpoint) = &self.endpoint else {
            let head = "No broker answers here. What you can do:\n".to_owned();
            let steps = first_steps();
            let lines: Vec<_> = steps.iter().map(|(next, what)| (next.command(page.caller), what)).collect();
            let widest = lines.iter().map(|(command, _)| command.len()).max().unwrap_or(0);
            return lines
                .iter()
                .fold(head, |text, (command, what)| text + &format!("  {command:widest$}  {what}\n"));
        };
        let (word, state) = if self.serving { ("serving", Tone::Good) } else { ("not serving", Tone::Bad) };
        let mut text = format!("token-broker at {endpoint}: {}\n", page.toned(word, state));
        let count: usize = self.connections.iter().map(|tally| tally.count).sum();
        let tallies: Vec<_> = self
            .connections
            .iter()
            .map(|tally| page.toned(&format!("{} {}", tally.count, tally.status), tone(&tally.status)))
            .collect();
        let in_detail = if tallies.is_empty() { String::new() } else { format!(": {}", tallies.join(", ")) };
        let noun = if count == 1 { "connection" } else { "connections" };
        text.push_str(&format!("{count} {noun}{in_detail}\n\n"));
        text + &providers::list::table(&self.providers, page)
    }
}

#[cfg(test)]
mod tests {
    use super::super::console::tests::Desk;
    use super::super::next::tests::caller;
    use super::*;

    #[test]
    fn where_no_broker_answers_five_lines_say_what_to_do() {
        let mut desk = Desk::piped();
        nobody(&mut desk.console).unwrap();
        let text = desk.stdout.text();
        assert_eq!(text.lines().count(), 5, "{text}");
        let run = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/cli/next.txt");
        let run = std::fs::read_to_string(run).unwrap();
        for (step, _) in first_steps() {
            let line = step.command(&caller());
            assert!(text.contains(&line), "{text}");
            assert!(run.lines().any(|known| known == line), "{line} is not among the commands that are run");
        }
    }
}
