//! `providers show`: one provider, and what to do once at its console: the redirect URI first, for that is what people
//! get wrong.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use schemars::JsonSchema;
use serde::Serialize;

use super::ProviderView;
use crate::cli::client::{Client, request};
use crate::cli::console::Console;
use crate::cli::failure::{Cause, Failure};
use crate::cli::page::{Page, Report, Tone};
use crate::cli::{complete, escape};
use crate::grpc::proto::v1::{GetProviderRequest, GetProviderResponse};

/// Show one provider, and how to set it up
#[derive(Args, Debug)]
pub(crate) struct Show {
    /// Key of the provider, or an entry of the built-in catalogue
    #[arg(add = ArgValueCompleter::new(complete::providers))]
    provider: String,
}

/// A provider and how to set it up.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Setup {
    /// The redirect URI to register, character for character.
    redirect_uri: Option<String>,
    /// Where a client is registered.
    console_url: Option<String>,
    /// The provider's own documentation.
    documentation_url: Option<String>,
    /// What others stumbled over.
    known_traps: Vec<String>,
    /// To paste into the configuration.
    config_yaml: String,
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
        let client = client?;
        let message = GetProviderRequest { provider: self.provider };
        match client.providers().get_provider(request(message)).await {
            Ok(answer) => Ok(console.report(&Setup::new(answer.into_inner())?)?),
            Err(status) => Err(client.failure(status, None, console.now()).await),
        }
    }
}

impl Setup {
    fn new(answer: GetProviderResponse) -> Result<Self, Failure> {
        let Some(provider) = answer.provider else {
            return Err(Failure::new(Cause::Bug, "the broker's answer holds no provider"));
        };
        let setup = answer.setup.unwrap_or_default();
        Ok(Self {
            redirect_uri: super::filled(setup.redirect_uri),
            console_url: super::filled(setup.console_url),
            documentation_url: super::filled(setup.documentation_url),
            known_traps: setup.known_traps,
            config_yaml: setup.config_yaml,
            provider: provider.into(),
        })
    }
}

impl Report for Setup {
    fn text(&self, page: &Page<'_>) -> String {
        let p = &self.provider;
        let given = |value: &Option<String>| value.clone().unwrap_or_default();
        let redirect = self
            .redirect_uri
            .clone()
            .unwrap_or_else(|| "set public.url in the configuration first".to_owned());
        let mut text = format!(
            "{}  {}\n",
            page.toned("Redirect URI to register", Tone::Strong),
            escape::escaped(&redirect)
        );
        text.push_str(&page.fields(&[
            ("register at", given(&self.console_url)),
            ("documentation", given(&self.documentation_url)),
        ]));
        if !self.known_traps.is_empty() {
            text.push_str(&format!("\n{}\n", page.toned("Known traps", Tone::Strong)));
            for trap in &self.known_traps {
                text.push_str(&format!("  - {}\n", escape::escaped(trap)));
            }
        }
        if !self.config_yaml.is_empty() {
            text.push_str(&format!("\n{}\n", page.toned("Configuration to paste", Tone::Strong)));
            for line in self.config_yaml.lines() {
                text.push_str(&format!("  {}\n", escape::escaped(line)));
            }
        }
        let name = format!("{} ({})", escape::escaped(&p.display_name), escape::escaped(&p.provider));
        text.push_str(&format!("\n{}  {}\n", page.toned(&name, Tone::Strong), p.state()));
        let ttl =
            p.default_access_ttl_seconds.map_or_else(String::new, |s| format!("{s} s where it does not say"));
        text + &page.fields(&[
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
        ])
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
