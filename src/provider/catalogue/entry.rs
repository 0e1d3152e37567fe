//! A provider's entry in the configuration: which catalogue provider, which client, which changes.

mod merge;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::connection::ProviderKey;
use crate::error::Mistake;
use crate::provider::spec::ProviderSpec;
use crate::provider::spec::mint::ClientAuth;
use crate::provider::url::{CheckedUrl, PlainHttp};
use crate::secret::Secret;

/// One entry of `providers` in the configuration. Its own keys stand beside those of the provider's spec, which
/// override the catalogue's: `{key: google, kind: google, client_id: …, scopes: […], token_timeout: 20s}`.
#[derive(Debug)]
pub struct ProviderEntry {
    own: Own,
    changes: Map<String, Value>,
}

/// The keys of an entry that are not the provider's but ours.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Own {
    /// What callers call this provider: 1 to 64 characters of a-z 0-9 -, starting with a letter.
    key: String,
    /// Which catalogue provider this is; without it the entry describes the provider in full.
    #[serde(default)]
    kind: Option<String>,
    /// Which of the provider's profiles applies (sandbox, region, national cloud).
    #[serde(default)]
    profile: Option<String>,
    /// Whether the provider may be used.
    #[serde(default = "enabled_by_default")]
    enabled: bool,
    /// The client id registered at the provider.
    #[serde(default)]
    client_id: String,
    /// The client secret. Prefer `client_secret_file`.
    #[serde(default)]
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    client_secret: Option<ConfigSecret>,
    /// The file that holds the client secret.
    #[serde(default)]
    client_secret_file: Option<PathBuf>,
    /// Values for the provider's variables, such as `tenant`.
    #[serde(default)]
    vars: BTreeMap<String, String>,
}

/// The keys of [`Own`].
const OWN_KEYS: &[&str] =
    &["key", "kind", "profile", "enabled", "client_id", "client_secret", "client_secret_file", "vars"];

#[derive(Debug)]
struct ConfigSecret(Secret<String>);

impl<'de> Deserialize<'de> for ConfigSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Secret::new(text)))
    }
}

fn enabled_by_default() -> bool {
    true
}

/// A provider ready to be built: every default applied, every variable filled, every check passed.
#[derive(Debug)]
pub struct ProviderConfig {
    /// What callers call it.
    pub key: ProviderKey,
    /// The catalogue provider it is made from; empty if it is described in full.
    pub kind: String,
    /// Whether it may be used.
    pub is_enabled: bool,
    /// The client id.
    pub client_id: String,
    /// The client secret; `None` for a public client.
    pub client_secret: Option<Secret<String>>,
    /// What the provider is like.
    pub spec: ProviderSpec,
}

impl ProviderEntry {
    /// What callers call it, as written.
    pub fn key(&self) -> &str {
        &self.own.key
    }

    /// The file that holds the client secret, if the secret is not in the entry itself.
    pub fn client_secret_file(&self) -> Option<&Path> {
        self.own.client_secret_file.as_deref()
    }

    /// Makes the provider that this entry describes. `secret` is the client secret where it does not stand in the
    /// entry itself; that a file could not be read is for its reader to report.
    ///
    /// # Errors
    /// Every mistake in the entry, each with its path inside the entry.
    pub fn resolve(self, secret: Option<Secret<String>>) -> Result<ProviderConfig, Vec<Mistake>> {
        let own = self.own;
        let mut mistakes = Vec::new();
        let key =
            ProviderKey::parse(&own.key).map_err(|error| add(&mut mistakes, "key", &error.message)).ok();
        if own.client_id.is_empty() {
            add(&mut mistakes, "client_id", "is missing; the provider's console shows it after registration");
        } else if own.client_id.chars().any(char::is_control) {
            add(&mut mistakes, "client_id", "holds a control character");
        }
        if own.client_secret.is_some() && own.client_secret_file.is_some() {
            add(&mut mistakes, "client_secret_file", "is given beside client_secret; keep one of them");
        }
        let client_secret = own.client_secret.map(|secret| secret.0).or(secret);
        let has_secret = client_secret.is_some() || own.client_secret_file.is_some();
        if client_secret.as_ref().is_some_and(|secret| secret.expose().is_empty()) {
            add(&mut mistakes, "client_secret", "is empty");
        }
        let source = merge::Source {
            key: &own.key,
            kind: own.kind.as_deref(),
            profile: own.profile.as_deref(),
            vars: &own.vars,
            changes: self.changes,
        };
        let spec = source.merge().map_err(|more| mistakes.extend(more)).ok();
        if let Some(spec) = &spec {
            check_secret(spec, has_secret, &mut mistakes);
        }
        match (key, spec) {
            (Some(key), Some(spec)) if mistakes.is_empty() => Ok(ProviderConfig {
                key,
                kind: own.kind.unwrap_or_default(),
                is_enabled: own.enabled,
                client_id: own.client_id,
                client_secret,
                spec,
            }),
            _ => Err(mistakes),
        }
    }
}

impl ProviderConfig {
    /// What an operator must be told when the configuration is loaded.
    pub fn warnings(&self) -> Vec<String> {
        if !self.spec.allow_http {
            return Vec::new();
        }
        let plain: Vec<&str> = self
            .spec
            .endpoints
            .each()
            .filter(|(_, url)| {
                CheckedUrl::parse(url.as_str(), PlainHttp::Allowed).is_ok_and(|url| url.is_unencrypted())
            })
            .map(|(name, _)| name)
            .collect();
        let which = if plain.is_empty() { "whatever discovery yields".to_owned() } else { plain.join(", ") };
        vec![format!(
            "provider {}: allow_http is on: tokens and the client secret travel unencrypted to http:// addresses ({which})",
            self.key
        )]
    }
}

/// A secret and a way to prove it belong together.
fn check_secret(spec: &ProviderSpec, has_secret: bool, mistakes: &mut Vec<Mistake>) {
    match &spec.client_auth {
        ClientAuth::Auto | ClientAuth::PrivateKeyJwt(_) => {}
        ClientAuth::None if has_secret => {
            add(
                mistakes,
                "client_auth",
                "is none, so the client secret would never be used; remove one of them",
            );
        }
        ClientAuth::None => {}
        _ if has_secret => {}
        _ => add(mistakes, "client_secret", "is missing; give client_secret_file (or client_auth: none)"),
    }
}

fn add(mistakes: &mut Vec<Mistake>, field: &str, message: &str) {
    mistakes.push(Mistake { field: field.to_owned(), message: message.to_owned() });
}

impl<'de> Deserialize<'de> for ProviderEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let all = Map::deserialize(deserializer)?;
        let (own, changes): (Map<_, _>, Map<_, _>) =
            all.into_iter().partition(|(key, _)| OWN_KEYS.contains(&key.as_str()));
        let own = Own::deserialize(Value::Object(own)).map_err(serde::de::Error::custom)?;
        Ok(Self { own, changes })
    }
}

/// The entry's own keys and all keys of a spec, side by side, and nothing else.
impl JsonSchema for ProviderEntry {
    fn schema_name() -> Cow<'static, str> {
        "ProviderEntry".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut own = Own::json_schema(generator);
        let mut spec = ProviderSpec::json_schema(generator);
        let spec = spec.get_mut("properties").and_then(Value::as_object_mut).map(std::mem::take);
        if let Some(own) = own.get_mut("properties").and_then(Value::as_object_mut) {
            own.extend(spec.into_iter().flatten());
        }
        own.insert(
            "description".to_owned(),
            "A provider: which one, which client, and whatever is to be different from the catalogue.".into(),
        );
        own
    }
}
