//! `providers`: the list. What an entry means is the provider room's; that keys differ, and where a mistake is
//! written, is ours.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::finding::{Found, Origin};
use super::key_path::KeyPath;
use super::secret_file::Secrets;
use super::tree::{Node, Tree};
use crate::provider::catalogue::{self, ProviderConfig, ProviderEntry};

/// Keys that say where the endpoints are.
const BASES: [&str; 5] = ["kind", "profile", "issuer", "discovery", "vars"];

/// Reads the list. `entries` are free of what the schema refused; `document` tells what was written where.
pub(super) fn resolve(
    entries: Vec<Value>,
    document: &Node,
    secrets: &mut Secrets,
    found: &mut Found,
) -> Vec<ProviderConfig> {
    let list = KeyPath::default().key("providers");
    let mut first_use: BTreeMap<String, KeyPath> = BTreeMap::new();
    let mut providers = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let path = list.index(index);
        // Not a mapping at all, which was said.
        let Value::Object(mut entry) = entry else { continue };
        if let Some(key) = entry.get("key").and_then(Value::as_str).filter(|key| !key.is_empty()) {
            let here = path.key("key");
            match first_use.get(key) {
                Some(first) => {
                    found.mistake(here, format!("{key:?} is already used {}", place(first, document)))
                }
                None => drop(first_use.insert(key.to_owned(), here)),
            }
        }
        // That it is missing was said; the rest of the entry is looked at all the same.
        entry.entry("key").or_insert_with(|| "unnamed".into());
        if let Some(node) = document.find(&path) {
            take_away(&mut entry, node);
        }
        let secret = secrets.remove(&path.key("client_secret")).map(|taken| taken.secret);
        let is_base_broken = BASES.iter().any(|key| found.is_broken_inside(&path.key(key)));
        let is_told = |at: &KeyPath, found: &Found| {
            let is_guess =
                is_base_broken && at.is_within(&path.key("endpoints")) && document.find(at).is_none();
            is_guess || found.is_spoken_for(at) || (*at != path && found.is_broken_inside(at))
        };
        match serde_json::from_value::<ProviderEntry>(Value::Object(entry)) {
            Err(error) => found.mistake(path, error.to_string()),
            Ok(entry) => match entry.resolve(secret) {
                Ok(provider) => {
                    for warning in provider.warnings() {
                        found.warning(path.clone(), warning);
                    }
                    providers.push(provider);
                }
                Err(mistakes) => {
                    for mistake in mistakes {
                        let at = path.join(&mistake.field.as_str().into());
                        if !is_told(&at, found) {
                            found.mistake(at, mistake.message);
                        }
                    }
                }
            },
        }
    }
    if document.find(&list).is_none_or(|list| matches!(&list.value, Tree::List(items) if items.is_empty())) {
        found.warning(list, "there is none, so there is nothing to connect to");
    }
    providers
}

/// `on line 11`, or the path of the first use if it is not in the file.
fn place(first: &KeyPath, document: &Node) -> String {
    match document.nearest(first) {
        Some(Origin::File { line, .. }) => format!("on line {line}"),
        _ => format!("by {first}"),
    }
}

/// Nothing after a key takes away what the catalogue says there; elsewhere it is as if the key were not written.
fn take_away(entry: &mut Map<String, Value>, node: &Node) {
    let kind = entry.get("kind").and_then(Value::as_str).and_then(catalogue::find);
    if let Some(kind) = kind {
        take_away_below(entry, node, kind.spec());
    }
}

fn take_away_below(entry: &mut Map<String, Value>, node: &Node, catalogue: &Map<String, Value>) {
    let Tree::Map(members) = &node.value else { return };
    for member in members {
        let Some(known) = catalogue.get(&member.key) else { continue };
        match (&member.node.value, known, entry.get_mut(&member.key)) {
            (Tree::Nothing, _, _) => drop(entry.insert(member.key.clone(), Value::Null)),
            (Tree::Map(_), Value::Object(known), Some(Value::Object(below))) => {
                take_away_below(below, &member.node, known);
            }
            _ => {}
        }
    }
}
