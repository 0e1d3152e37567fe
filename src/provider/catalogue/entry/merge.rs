//! Catalogue, profile, the user's changes, variables: laid over each other as plain data, then read as a spec.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::error::Mistake;
use crate::provider::catalogue;
use crate::provider::spec::ProviderSpec;
use crate::provider::spec::place::{Variable, VariableSource};
use crate::provider::spec::value::Template;

/// Keys whose values belong together: a change replaces them whole instead of mixing two halves.
const WHOLE: &[&str] =
    &["client_auth", "mint", "reuse", "revoke", "introspect", "handshake", "offline", "breaker"];

/// Keys whose text is for people, or is not for filling: braces there are just braces.
const NOT_FILLED: &[&str] = &["notes", "sources", "title", "variables", "profiles"];

/// Texts that would let a host's variable reach out of the host.
const ESCAPES: &[&str] = &["x/", "x/y", "x?y", "x#y", "x@y", "x:1", "x\\y", "x%2f", "x y", "x\n", ""];

/// What a spec is made of.
pub(super) struct Source<'a> {
    pub(super) key: &'a str,
    pub(super) kind: Option<&'a str>,
    pub(super) profile: Option<&'a str>,
    pub(super) vars: &'a BTreeMap<String, String>,
    pub(super) changes: Map<String, Value>,
}

impl Source<'_> {
    /// The spec, or everything that is wrong with it.
    pub(super) fn merge(self) -> Result<ProviderSpec, Vec<Mistake>> {
        // The user's changes are read on their own first, so that a mistake in them is told by the user's own path.
        let changes = read(without_nulls(self.changes.clone()));
        let mut mistakes = Vec::new();
        if self.changes.contains_key("webhook") {
            mistakes.push(mistake("webhook", "webhooks are not received yet; leave it out".to_owned()));
        }
        let mut layers = match self.base() {
            Ok(layers) => layers,
            Err(kind) => {
                mistakes.push(kind);
                mistakes.extend(self.without_its_kind(changes));
                return Err(mistakes);
            }
        };
        let profiles = layers.get("profiles").and_then(Value::as_object).cloned().unwrap_or_default();
        if let Some(profile) = self.profile {
            match profiles.get(profile) {
                Some(Value::Object(patch)) => lay_over(&mut layers, patch.clone()),
                _ => {
                    let known: Vec<&str> = profiles.keys().map(String::as_str).collect();
                    mistakes.push(unknown("profile", profile, &known));
                }
            }
        }
        lay_over(&mut layers, self.changes);
        let besides = |told: Vec<Mistake>, mistakes: &[Mistake]| [mistakes, &told].concat();
        changes.map_err(|told| besides(told, &mistakes))?;
        let unfilled = read(layers.clone()).map_err(|told| besides(told, &mistakes))?;

        let values = values(&unfilled, self.vars, &mut mistakes);
        check_hosts(&unfilled, &mut mistakes);
        for (key, value) in &mut layers {
            if !NOT_FILLED.contains(&key.as_str()) {
                fill(value, &values);
            }
        }
        let spec = read(layers).map_err(|told| besides(told, &mistakes))?;
        mistakes.extend(spec.check());
        let is_undescribed = mistakes.iter().any(|mistake| mistake.field == "endpoints.token");
        if self.kind.is_none() && is_undescribed && catalogue::find(self.key).is_some() {
            mistakes.push(mistake("kind", format!("is missing; did you mean kind: {}?", self.key)));
        }
        if mistakes.is_empty() { Ok(spec) } else { Err(mistakes) }
    }

    fn base(&self) -> Result<Map<String, Value>, Mistake> {
        let Some(kind) = self.kind else { return Ok(Map::new()) };
        catalogue::find(kind).map(|entry| entry.spec().clone()).ok_or_else(|| {
            let known: Vec<&str> = catalogue::catalogue().iter().map(|entry| entry.kind).collect();
            unknown("kind", kind, &known)
        })
    }

    /// What is wrong with the user's own words whatever the provider turns out to be.
    fn without_its_kind(&self, changes: Result<ProviderSpec, Vec<Mistake>>) -> Vec<Mistake> {
        let is_written = |mistake: &Mistake| {
            let key = mistake.field.split(['.', '[']).next().unwrap_or_default();
            self.changes.contains_key(key)
        };
        match changes {
            // Templates are filled by variables that only the kind knows; text with one is judged once it is known.
            Ok(spec) => spec
                .check()
                .into_iter()
                .filter(|mistake| is_written(mistake) && !self.is_template(&mistake.field))
                .collect(),
            Err(told) => told,
        }
    }

    fn is_template(&self, field: &str) -> bool {
        let steps = field.split(['.', '[', ']']).filter(|step| !step.is_empty());
        let found = steps.fold(None, |at: Option<&Value>, step| match at {
            None => self.changes.get(step),
            Some(Value::Array(items)) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
            Some(value) => value.get(step),
        });
        found.and_then(Value::as_str).is_some_and(|text| text.contains('{'))
    }
}

/// Reads plain data as a spec; a mistake carries its path.
fn read(layers: Map<String, Value>) -> Result<ProviderSpec, Vec<Mistake>> {
    serde_path_to_error::deserialize(Value::Object(layers)).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path };
        vec![mistake(&path, error.into_inner().to_string())]
    })
}

/// Lays `over` on `under`: objects are merged key by key, everything else is replaced, `null` takes away.
fn lay_over(under: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        let is_whole = WHOLE.contains(&key.as_str());
        match (under.get_mut(&key), value) {
            (_, Value::Null) => {
                under.remove(&key);
            }
            (Some(Value::Object(below)), Value::Object(above)) if !is_whole => lay_over(below, above),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// What is taken away has no type to be wrong.
fn without_nulls(fields: Map<String, Value>) -> Map<String, Value> {
    let kept = fields.into_iter().filter(|(_, value)| !value.is_null());
    kept.map(|(key, value)| match value {
        Value::Object(inner) => (key, Value::Object(without_nulls(inner))),
        other => (key, other),
    })
    .collect()
}

/// The value of every variable that the configuration sets: what `vars` says, or the default.
fn values(
    spec: &ProviderSpec,
    vars: &BTreeMap<String, String>,
    mistakes: &mut Vec<Mistake>,
) -> BTreeMap<String, String> {
    let settable: BTreeMap<&String, &Variable> =
        spec.variables.iter().filter(|(_, variable)| variable.from == VariableSource::Config).collect();
    for name in vars.keys().filter(|name| !settable.contains_key(name)) {
        let known: Vec<&str> = settable.keys().map(|name| name.as_str()).collect();
        mistakes.push(unknown(&format!("vars.{name}"), name, &known));
    }
    let mut values = BTreeMap::new();
    for (name, variable) in settable {
        let path = format!("vars.{name}");
        let Some(value) = vars.get(name).or(variable.default.as_ref()) else {
            let what = if variable.description.is_empty() {
                String::new()
            } else {
                format!(": {}", variable.description)
            };
            mistakes.push(mistake(&path, format!("is missing{what}")));
            continue;
        };
        let fits = match &variable.pattern {
            Some(pattern) => pattern.matches_all(value),
            None => {
                !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "-._~".contains(c))
            }
        };
        if !fits {
            let rule =
                variable.pattern.as_ref().map_or("letters, digits and -._~", |pattern| pattern.as_str());
            mistakes.push(mistake(&path, format!("does not fit; it must be {rule}")));
        }
        // Filled even when it does not fit, so that one mistake is not told twice.
        values.insert(name.clone(), value.clone());
    }
    values
}

/// A variable in a host needs a pattern, and one that keeps it inside the host.
fn check_hosts(spec: &ProviderSpec, mistakes: &mut Vec<Mistake>) {
    let addresses = spec
        .endpoints
        .each()
        .map(|(_, template)| template)
        .chain(&spec.issuer)
        .chain(&spec.discovery.url)
        .chain(&spec.api.hosts);
    for address in addresses {
        let after = address.as_str().split_once("://").map_or(address.as_str(), |(_, rest)| rest);
        let host = Template::new(after.split('/').next().unwrap_or_default());
        for name in host.names() {
            let Some(variable) = spec.variables.get(name) else { continue };
            let path = format!("variables.{name}.pattern");
            let found = match &variable.pattern {
                None => Some("is missing; a variable in a host needs one"),
                Some(pattern) => ESCAPES
                    .iter()
                    .any(|text| pattern.matches_all(text))
                    .then_some("lets a value reach out of the host; exclude / ? # @ : and the like"),
            };
            mistakes.extend(found.map(|why| mistake(&path, why.to_owned())));
        }
    }
    mistakes.dedup();
}

fn fill(value: &mut Value, values: &BTreeMap<String, String>) {
    match value {
        Value::String(text) if text.contains('{') => {
            *text = Template::new(text.as_str())
                .fill(|name| values.get(name).map(|value| Cow::Borrowed(value.as_str())));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill(item, values)),
        Value::Object(fields) => fields.values_mut().for_each(|field| fill(field, values)),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn unknown(path: &str, name: &str, known: &[&str]) -> Mistake {
    let known = if known.is_empty() {
        "this provider has none".to_owned()
    } else {
        format!("known: {}", known.join(", "))
    };
    mistake(path, format!("{name:?} is not known; {known}"))
}

fn mistake(field: &str, message: String) -> Mistake {
    Mistake { field: field.to_owned(), message }
}
