//! What a person does once for a provider: what to register there, and the YAML to paste here. Made from the built-in
//! catalogue, so that it can be asked for before anything is configured. Reads the catalogue as data and guesses
//! nothing: what an entry does not say is left out.

use std::fmt::Write as _;

use serde_json::Value;

use super::proto::v1;
use crate::provider::catalogue::{CatalogueEntry, find};

/// The catalogue's provider of that name, as it would be shown if it were configured.
pub(crate) fn unconfigured(kind: &str) -> Option<v1::Provider> {
    let entry = find(kind)?;
    let endpoint = |name: &str| text(entry, &format!("/endpoints/{name}"));
    Some(v1::Provider {
        provider: kind.to_owned(),
        display_name: text(entry, "/title"),
        catalogue_entry: kind.to_owned(),
        endpoints: Some(v1::ProviderEndpoints {
            issuer: text(entry, "/issuer"),
            authorization_endpoint: endpoint("authorization"),
            token_endpoint: endpoint("token"),
            revocation_endpoint: endpoint("revocation"),
            userinfo_endpoint: endpoint("userinfo"),
            ..v1::ProviderEndpoints::default()
        }),
        scopes: texts(entry, "/scopes"),
        flows: vec![v1::ConnectFlow::AuthorizationCode.into()],
        rotation: text(entry, "/rotation"),
        reuse: text(entry, "/reuse"),
        ..v1::Provider::default()
    })
}

/// What to do for a provider that is made from the catalogue's `kind`; empty for one that is not.
pub(crate) fn setup(key: &str, kind: &str, redirect_uri: String) -> v1::ProviderSetup {
    let Some(entry) = find(kind) else {
        return v1::ProviderSetup { redirect_uri, ..v1::ProviderSetup::default() };
    };
    v1::ProviderSetup {
        redirect_uri,
        console_url: text(entry, "/console"),
        documentation_url: texts(entry, "/sources")
            .into_iter()
            .find(|source| source.starts_with("https://"))
            .unwrap_or_default(),
        known_traps: texts(entry, "/notes"),
        config_yaml: config_yaml(key, entry),
    }
}

/// An entry of `providers`, with a placeholder in capitals wherever the user knows and we do not.
fn config_yaml(key: &str, entry: &CatalogueEntry) -> String {
    let mut yaml = format!("- key: {key}\n  kind: {}\n  client_id: YOUR_CLIENT_ID\n", entry.kind);
    if text(entry, "/client_auth") != "none" {
        // Writing to a String cannot fail.
        let _ = writeln!(yaml, "  client_secret_file: /etc/token-broker/{key}.secret");
    }
    if !entry.spec().contains_key("issuer") && !has_endpoints(entry) {
        yaml.push_str("  issuer: https://YOUR_ISSUER\n");
    }
    let vars = variables_to_fill(entry);
    if !vars.is_empty() {
        yaml.push_str("  vars:\n");
        for name in vars {
            let _ = writeln!(yaml, "    {name}: YOUR_{}", name.to_uppercase());
        }
    }
    yaml
}

fn has_endpoints(entry: &CatalogueEntry) -> bool {
    at(entry, "/endpoints/token").is_some()
}

/// The variables whose value only the configuration can give.
fn variables_to_fill(entry: &CatalogueEntry) -> Vec<&str> {
    let Some(variables) = at(entry, "/variables").and_then(Value::as_object) else { return Vec::new() };
    variables
        .iter()
        .filter(|(_, variable)| {
            let is_ours = variable.get("from").is_none_or(|from| from == "config");
            is_ours && variable.get("default").is_none()
        })
        .map(|(name, _)| name.as_str())
        .collect()
}

fn at<'a>(entry: &'a CatalogueEntry, pointer: &str) -> Option<&'a Value> {
    let mut steps = pointer.trim_start_matches('/').split('/');
    let first = entry.spec().get(steps.next()?)?;
    steps.try_fold(first, |value, step| value.get(step))
}

fn text(entry: &CatalogueEntry, pointer: &str) -> String {
    at(entry, pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn texts(entry: &CatalogueEntry, pointer: &str) -> Vec<String> {
    let values = at(entry, pointer).and_then(Value::as_array);
    values.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::catalogue::catalogue;

    #[test]
    fn a_known_provider_is_described_before_it_is_configured() {
        let google = unconfigured("google").unwrap();
        assert_eq!(google.display_name, "Google");
        assert!(!google.configured && !google.enabled);
        assert!(google.endpoints.unwrap().token_endpoint.starts_with("https://"));
        let setup = setup("google", "google", "https://broker.example/callback/google".into());
        assert!(setup.console_url.starts_with("https://"));
        assert!(setup.config_yaml.contains("client_secret_file: "), "{}", setup.config_yaml);
        assert!(!setup.known_traps.is_empty());
        assert!(unconfigured("goggle").is_none());
    }

    #[test]
    fn what_is_to_be_pasted_names_only_keys_that_an_entry_has() {
        for entry in catalogue() {
            let yaml = config_yaml(entry.kind, entry);
            for line in yaml.lines().filter(|line| !line.starts_with("    ")) {
                let name = line.trim_start_matches("- ").trim().split(':').next().unwrap();
                let known = ["key", "kind", "client_id", "client_secret_file", "issuer", "vars"];
                assert!(known.contains(&name), "{line}");
            }
        }
    }
}
