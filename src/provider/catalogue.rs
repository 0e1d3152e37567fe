//! The providers that come with the broker, and what an entry of the configuration makes of them.
//!
//! Owns the embedded YAML (one file a provider) and the merge: catalogue, then profile, then the user's own changes,
//! then variables. Knows no I/O and no secret store. Invariant: every embedded provider passes the same check as a
//! user's own; a provider that needs no new knob is YAML only.

mod entry;

use std::sync::LazyLock;

use serde_json::{Map, Value};

pub use entry::{ProviderConfig, ProviderEntry};

/// A provider that comes with the broker.
#[derive(Debug)]
pub struct CatalogueEntry {
    /// What `kind` calls it.
    pub kind: &'static str,
    /// Its YAML, as in the repository.
    pub yaml: &'static str,
    spec: Map<String, Value>,
}

/// Every embedded provider, in the order of their names.
const EMBEDDED: [(&str, &str); 12] = [
    ("atlassian", include_str!("catalogue/atlassian.yaml")),
    ("auth0", include_str!("catalogue/auth0.yaml")),
    ("dex", include_str!("catalogue/dex.yaml")),
    ("django-oauth-toolkit", include_str!("catalogue/django-oauth-toolkit.yaml")),
    ("github", include_str!("catalogue/github.yaml")),
    ("google", include_str!("catalogue/google.yaml")),
    ("hydra", include_str!("catalogue/hydra.yaml")),
    ("keycloak", include_str!("catalogue/keycloak.yaml")),
    ("microsoft", include_str!("catalogue/microsoft.yaml")),
    ("oidc", include_str!("catalogue/oidc.yaml")),
    ("okta", include_str!("catalogue/okta.yaml")),
    ("sandbox", include_str!("catalogue/sandbox.yaml")),
];

static CATALOGUE: LazyLock<Vec<CatalogueEntry>> = LazyLock::new(|| {
    EMBEDDED
        .into_iter()
        // An embedded file that does not parse is left out here and found by the test that counts them.
        .filter_map(|(kind, yaml)| Some(CatalogueEntry { kind, yaml, spec: parse_yaml(yaml).ok()? }))
        .collect()
});

/// Every provider that comes with the broker, in the order of their names.
pub fn catalogue() -> &'static [CatalogueEntry] {
    &CATALOGUE
}

/// The provider that `kind` names.
pub fn find(kind: &str) -> Option<&'static CatalogueEntry> {
    CATALOGUE.iter().find(|entry| entry.kind == kind)
}

impl CatalogueEntry {
    /// The entry as data, before profile, changes and variables.
    pub fn spec(&self) -> &Map<String, Value> {
        &self.spec
    }
}

fn parse_yaml(yaml: &str) -> Result<Map<String, Value>, serde_saphyr::Error> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(yaml, options)
}

#[cfg(test)]
mod tests;
