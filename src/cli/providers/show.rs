//! `providers show`: one provider, and what to do once at its console: the redirect URI first, for that is what people
//! get wrong. Where no broker answers yet, the built-in catalogue does.

use std::path::PathBuf;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use schemars::JsonSchema;
use serde::Serialize;

use super::ProviderView;
use crate::cli::check_config;
use crate::cli::client::{Client, request};
use crate::cli::console::Console;
use crate::cli::failure::{Cause, Failure};
use crate::cli::next::Next;
use crate::cli::page::{Page, Report, Tone};
use crate::cli::{complete, escape};
use crate::config;
use crate::error::Reason;
use crate::grpc;
use crate::grpc::proto::v1::{GetProviderRequest, GetProviderResponse};
use crate::provider::catalogue::catalogue;

/// Show one provider, and how to set it up
#[derive(Args, Debug)]
pub(crate) struct Show {
    /// Key of the provider, or an entry of the built-in catalogue
    #[arg(add = ArgValueCompleter::new(complete::providers))]
    provider: String,
    /// The configuration whose public address to use where no broker answers
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// A provider and how to set it up.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Setup {
    /// The redirect URI to register, character for character.
    redirect_uri: String,
    /// Whether that is what a broker says, or what it would be with the configuration at hand.
    redirect_uri_is_in_use: bool,
    /// Where a client is registered.
    console_url: Option<String>,
    /// The provider's own documentation.
    documentation_url: Option<String>,
    /// What others stumbled over.
    known_traps: Vec<String>,
    /// To paste into the configuration; null for a provider that is written out there.
    config_yaml: Option<String>,
    /// The provider as it stands.
    provider: ProviderView,
}

impl Show {
    /// Runs the command.
    pub(crate) async fn run(
        self,
        console: &mut Console,
        client: Result<Client, Failure>,
    ) -> Result<(), Failure> {
        let setup = match client {
            Ok(client) => self.asked(console, &client).await?,
            Err(failure) if failure.cause == Cause::NoBroker => self.listed(console)?,
            Err(failure) => return Err(failure),
        };
        Ok(console.report(&setup)?)
    }

    async fn asked(&self, console: &Console, client: &Client) -> Result<Setup, Failure> {
        let message = GetProviderRequest { provider: self.provider.clone() };
        match client.providers().get_provider(request(message)).await {
            Ok(answer) => Setup::told(answer.into_inner(), true),
            Err(status) => Err(client.failure(status, None, console.now()).await),
        }
    }

    /// What the catalogue knows of it; where it knows nothing, why not.
    fn listed(&self, console: &Console) -> Result<Setup, Failure> {
        let key = &self.provider;
        let Some(provider) = grpc::setup::unconfigured(key) else {
            let known: Vec<&str> = catalogue().iter().map(|entry| entry.kind).collect();
            let failure = Failure::new(
                Cause::Broker(Reason::ProviderNotConfigured),
                format!("no provider is called {key}"),
            );
            return Err(match config::nearest(key, known.iter().copied()) {
                Some(near) => {
                    failure.because(format!("did you mean {near}?")).then(Next::ShowProvider(near.to_owned()))
                }
                None => failure
                    .because(format!("no broker answers, and the catalogue holds {}", known.join(", "))),
            });
        };
        let setup = grpc::setup::setup(key, key, self.redirect_uri(console)?);
        Setup::told(GetProviderResponse { provider: Some(provider), setup: Some(setup) }, false)
    }

    /// The redirect URI of a broker with the configuration at hand. One that is wrong is told, not guessed around.
    fn redirect_uri(&self, console: &Console) -> Result<String, Failure> {
        let public = check_config::read(console, self.config.clone(), &[])?.server.public;
        let listen = public.listen.address().unwrap_or_else(|| ([127, 0, 0, 1], 7451).into());
        let base = public
            .base_url(listen)
            .ok_or_else(|| Failure::new(Cause::Bug, "the public URL does not parse"))?;
        Ok(format!("{base}callback/{}", self.provider))
    }
}

impl Setup {
    fn told(answer: GetProviderResponse, is_in_use: bool) -> Result<Self, Failure> {
        let Some(provider) = answer.provider.map(ProviderView::from) else {
            return Err(Failure::new(Cause::Bug, "the broker's answer holds no provider"));
        };
        let setup = answer.setup.unwrap_or_default();
        Ok(Self {
            redirect_uri: setup.redirect_uri,
            redirect_uri_is_in_use: is_in_use,
            console_url: super::filled(setup.console_url),
            documentation_url: super::filled(setup.documentation_url),
            known_traps: setup.known_traps,
            config_yaml: super::filled(setup.config_yaml).map(|entry| under_providers(&entry)),
            provider,
        })
    }
}

/// An entry of the list, as a whole file may hold it.
fn under_providers(entry: &str) -> String {
    entry.lines().fold("providers:\n".to_owned(), |yaml, line| yaml + "  " + line + "\n")
}

impl Report for Setup {
    fn text(&self, page: &Page<'_>) -> String {
        let p = &self.provider;
        let given = |value: &Option<String>| value.clone().unwrap_or_default();
        let heading = |text: &str| format!("\n{}\n", page.toned(text, Tone::Strong));
        let mut text = format!(
            "{}\n  {}\n",
            page.toned("Redirect URI to register, first and exactly", Tone::Strong),
            escape::escaped(&self.redirect_uri)
        );
        if !self.redirect_uri_is_in_use {
            text.push_str("  (of a broker with the configuration here; server.public.url changes it)\n");
        }
        if let Some(console) = &self.console_url {
            text.push_str(&format!("{}  {}\n", heading("Where"), escape::escaped(console)));
        }
        if let Some(documentation) = &self.documentation_url {
            text.push_str(&format!("{}  {}\n", heading("Documentation"), escape::escaped(documentation)));
        }
        if !self.known_traps.is_empty() {
            text.push_str(&heading("Known traps"));
            for trap in &self.known_traps {
                text.push_str(&format!("  - {}\n", escape::escaped(trap)));
            }
        }
        if let Some(yaml) = &self.config_yaml {
            text.push_str(&heading("To paste into the configuration"));
            for line in yaml.lines() {
                text.push_str(&format!("  {}\n", escape::escaped(line)));
            }
        }
        text.push_str(&heading(&format!("{}: {}", escape::escaped(&p.display_name), p.state())));
        let ttl =
            p.default_access_ttl_seconds.map_or_else(String::new, |s| format!("{s} s where it does not say"));
        text += &page.fields(&[
            ("client id", given(&p.client_id)),
            ("scopes", p.scopes.join(" ")),
            ("issuer", given(&p.endpoints.issuer)),
            ("authorization", given(&p.endpoints.authorization_endpoint)),
            ("token", given(&p.endpoints.token_endpoint)),
            ("revocation", given(&p.endpoints.revocation_endpoint)),
            ("userinfo", given(&p.endpoints.userinfo_endpoint)),
            ("token life", ttl),
            ("new refresh token", p.rotation.clone().unwrap_or_default()),
            ("spent one again", reuse_words(p.reuse.as_deref())),
        ]);
        if let Some(health) = &p.health {
            text.push_str(&heading("How it fares"));
            let mut fields = health.fields(page);
            fields.extend(p.budget.as_ref().map(|budget| ("budget", budget.line())));
            fields.extend(p.api.as_ref().map(|api| ("API", api.line())));
            text.push_str(&page.fields(&fields));
        }
        if let Some(learned) = &p.learned {
            let fields = learned.fields();
            if !fields.is_empty() {
                text.push_str(&heading("Seen since the broker started"));
                text.push_str(&page.fields(&fields));
            }
            for contradiction in &learned.contradictions {
                text.push_str(&format!("  ! {}\n", escape::escaped(contradiction)));
            }
        }
        text
    }
}

/// What a reuse profile means.
fn reuse_words(reuse: Option<&str>) -> String {
    match reuse {
        None => String::new(),
        Some("reusable") => "works on".to_owned(),
        Some("grace") => "works for a while".to_owned(),
        Some("count") => "works a few times".to_owned(),
        Some("strict") => "ends the grant".to_owned(),
        Some(other) => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::console::tests::Desk;
    use crate::grpc::proto::v1;

    fn shown(provider: &str, config: &str) -> Result<String, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, config).unwrap();
        let mut desk = Desk::piped();
        let show = Show { provider: provider.to_owned(), config: Some(file) };
        let nobody = Failure::new(Cause::NoBroker, "no broker answers");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(show.run(&mut desk.console, Err(nobody)))?;
        Ok(desk.stdout.text())
    }

    #[test]
    fn how_a_provider_fares_is_shown_with_what_it_was_seen_to_do() {
        let span = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let provider = v1::Provider {
            provider: "acme".into(),
            display_name: "Acme".into(),
            configured: true,
            enabled: true,
            health: Some(v1::ProviderHealth {
                breaker: v1::BreakerState::Open.into(),
                consecutive_failures: 5,
                last_error_reason: "PROVIDER_UNAVAILABLE".into(),
                last_error_time: at(1),
                next_attempt_time: at(4_000_000_000),
                ..v1::ProviderHealth::default()
            }),
            budget: Some(v1::ProviderBudget {
                limit: 50,
                remaining: 47,
                window: span(1),
                reserved: 10,
                queued: 2,
                ..v1::ProviderBudget::default()
            }),
            learned: Some(v1::ProviderLearned {
                rotated: 3,
                not_rotated: 1,
                early_same_token: 2,
                access_token_lifetime: Some(v1::LifetimeSpread {
                    shortest: span(300),
                    median: span(3600),
                    longest: span(3600),
                }),
                reuse_accepted: 1,
                longest_grace: span(4),
                early_ends: 2,
                earliest_end: span(700),
                contradictions: vec!["rotation is never, but".into()],
                ..v1::ProviderLearned::default()
            }),
            ..v1::Provider::default()
        };
        let answer = GetProviderResponse { provider: Some(provider), setup: None };
        let mut desk = Desk::piped();
        desk.console.report(&Setup::told(answer, true).unwrap()).unwrap();
        let text = desk.stdout.text();
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for expected in [
            "Acme: resting",
            "breaker open: nothing is sent",
            "budget 47 of 50 left in 1 s, 10 of them for callers who wait; 0 under way, 2 in line",
            "rotated 3 of 4 refreshes",
            "early refresh gave another access token 0 of 2 times",
            "token life 300 s to 3600 s, mostly 3600 s",
            "spent one taken 1 times, up to 4 s later",
            "token refused early 2 times, from 700 s on",
            "! rotation is never, but",
        ] {
            assert!(lines.iter().any(|line| line == expected), "{expected}\n{text}");
        }
        let failures = lines.iter().find(|line| line.starts_with("failures")).unwrap();
        assert!(failures.starts_with("failures 5 in a row; the last was PROVIDER_UNAVAILABLE"), "{failures}");
        assert!(lines.iter().any(|line| line.starts_with("next attempt in ")), "{text}");
    }

    #[test]
    fn without_a_broker_the_redirect_uri_comes_first_and_from_the_configuration() {
        let text = shown("google", "server:\n  public:\n    url: https://broker.example.com/\n").unwrap();
        let second = text.lines().nth(1).unwrap();
        assert_eq!(second, "  https://broker.example.com/callback/google");
        for fact in ["console.cloud.google.com", "end after 7 days", "client_secret_file:", "kind: google"] {
            assert!(text.contains(fact), "{fact}\n{text}");
        }
        assert!(shown("google", "").unwrap().contains("\n  http://127.0.0.1:7451/callback/google\n"));
    }

    #[test]
    fn what_is_shown_to_paste_passes_check_config() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "s3cret\n").unwrap();
        for entry in catalogue().iter().filter(|entry| entry.kind != "sandbox") {
            let kind = entry.kind;
            let yaml = under_providers(&grpc::setup::setup(kind, kind, String::new()).config_yaml);
            assert!(yaml.lines().count() <= 8, "{yaml}");
            let yaml = yaml
                .replace(&format!("/etc/token-broker/{kind}.secret"), secret.to_str().unwrap())
                .replace("YOUR_ISSUER", "id.example.com")
                .replace("YOUR_DOMAIN", "id.example.com")
                .replace("YOUR_HOST", "id.example.com");
            let read = config::parse(&yaml, None, &config::Environment::default(), &[]);
            assert_eq!(read.unwrap().providers[0].key.as_str(), kind, "{yaml}");
        }
    }

    #[test]
    fn a_stranger_gets_the_nearest_of_the_catalogue() {
        let failure = shown("gogle", "").unwrap_err();
        assert_eq!(failure.why, "did you mean google?");
        assert_eq!(failure.cause.exit().code(), 66);
    }
}
