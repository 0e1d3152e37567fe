//! What holds in the end, and why: for `check-config`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Config;
use super::finding::Origin;
use super::key_path::{KeyPath, Step};
use super::plain;
use super::secret_file::REDACTED;
use super::tree::Node;
use crate::provider::catalogue::{self, ProviderConfig};

/// One value that holds, and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveValue {
    /// Which key.
    pub path: String,
    /// Its value; a secret is `"(secret)"`, what is not set is null.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
}

impl EffectiveValue {
    /// The value as a person writes it.
    pub fn shown(&self) -> String {
        match &self.value {
            Value::Null => "(not set)".to_owned(),
            Value::String(text) if text.is_empty() => "(empty)".to_owned(),
            Value::String(text) => text.escape_debug().to_string(),
            other => other.to_string(),
        }
    }
}

/// Every value that holds, in the order of the sections. A provider shows what is written of it and what the
/// catalogue says, not the defaults of all knobs.
pub fn effective(config: &Config) -> Vec<EffectiveValue> {
    let mut values = Vec::new();
    let sections = [
        ("server", serde_json::to_value(&config.server)),
        ("store", serde_json::to_value(&config.store)),
        ("seal", serde_json::to_value(&config.seal)),
        ("log", serde_json::to_value(&config.log)),
        ("http", serde_json::to_value(&config.http)),
        ("refresh", serde_json::to_value(&config.refresh)),
    ];
    for (name, section) in sections {
        let path = KeyPath::default().key(name);
        leaves(&path, &section.unwrap_or_default(), &mut |path, value| {
            let origin = written(&config.document, path).unwrap_or(Origin::Default);
            values.push(EffectiveValue { path: path.to_string(), value: value.clone(), origin });
        });
    }
    for (index, provider) in config.providers.iter().enumerate() {
        provider_values(config, &KeyPath::default().key("providers").index(index), provider, &mut values);
    }
    values
}

fn provider_values(
    config: &Config,
    path: &KeyPath,
    provider: &ProviderConfig,
    values: &mut Vec<EffectiveValue>,
) {
    let secret = provider.client_secret.as_ref().map(|_| Value::from(REDACTED));
    let own = [
        ("key", Some(Value::from(provider.key.as_str()))),
        ("kind", (!provider.kind.is_empty()).then(|| provider.kind.clone().into())),
        ("enabled", Some(provider.is_enabled.into())),
        ("client_id", Some(provider.client_id.clone().into())),
        ("client_secret", secret),
    ];
    for (key, value) in own {
        let Some(value) = value else { continue };
        let path = path.key(key);
        // A secret left the document; where it was written did not get lost.
        let origin = config.secret_origins.get(&path).cloned().or_else(|| written(&config.document, &path));
        let origin = origin.unwrap_or(Origin::Default);
        values.push(EffectiveValue { path: path.to_string(), value, origin });
    }
    let known = catalogue::find(&provider.kind).map(catalogue::CatalogueEntry::spec);
    leaves(path, &serde_json::to_value(&provider.spec).unwrap_or_default(), &mut |at, value| {
        let below = at.steps().get(path.steps().len()..).unwrap_or_default();
        let is_known = known.is_some_and(|known| is_in(known, below));
        let is_prose =
            matches!(below.first(), Some(Step::Key(key)) if ["notes", "sources"].contains(&key.as_str()));
        let origin = match written(&config.document, at) {
            Some(origin) => origin,
            None if is_known && !is_prose => Origin::Catalogue(provider.kind.clone()),
            None => return,
        };
        let is_written = !matches!(origin, Origin::Catalogue(_));
        let value = if is_written && may_hold_a_key(below) { REDACTED.into() } else { value.clone() };
        values.push(EffectiveValue { path: at.to_string(), value, origin });
    });
    // Keys that chose or filled something else, such as `profile` and `vars`.
    let Some(entry) = config.document.find(path) else { return };
    let is_shown: BTreeSet<String> = values.iter().map(|value| value.path.clone()).collect();
    leaves(path, &plain::value_of(entry, None), &mut |at, value| {
        if let Some(origin) = written(&config.document, at).filter(|_| !is_shown.contains(&at.to_string())) {
            values.push(EffectiveValue { path: at.to_string(), value: value.clone(), origin });
        }
    });
}

/// Whether a value is a header or a parameter of a request: a provider's developer token is given as one.
fn may_hold_a_key(below: &[Step]) -> bool {
    let is = |step: Option<&Step>, names: &[&str]| matches!(step, Some(Step::Key(key)) if names.contains(&key.as_str()));
    is(below.first(), &["api", "requests"])
        && below.iter().rev().skip(1).any(|step| is(Some(step), &["headers", "set"]))
}

/// Where the value at `path` was written, if it was.
fn written(document: &Node, path: &KeyPath) -> Option<Origin> {
    let node = document.find(path)?;
    (node.origin != Origin::Default).then(|| node.origin.clone())
}

fn is_in(catalogue: &serde_json::Map<String, Value>, below: &[Step]) -> bool {
    let Some((Step::Key(first), rest)) = below.split_first() else { return false };
    let found = rest.iter().try_fold(catalogue.get(first), |value, step| {
        let next = match step {
            Step::Key(key) => value?.get(key),
            Step::Index(index) => value?.get(index),
        };
        Some(next)
    });
    found.flatten().is_some()
}

/// Visits every value that holds no others; an empty list or mapping is one.
fn leaves(path: &KeyPath, value: &Value, visit: &mut impl FnMut(&KeyPath, &Value)) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (key, value) in members {
                leaves(&path.key(key), value, visit);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, value) in items.iter().enumerate() {
                leaves(&path.index(index), value, visit);
            }
        }
        leaf => visit(path, leaf),
    }
}
