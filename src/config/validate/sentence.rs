//! What is said about a breach.

use serde_json::Value;

use super::{Breach, What, meant};
use crate::config::finding::{Found, Origin};
use crate::config::key_path::{KeyPath, Step};
use crate::config::schema::Shape;
use crate::config::suggest;
use crate::config::tree::{Node, Tree};
use crate::config::value::{FORMATS, quoted};

impl Breach {
    /// Says it.
    pub(super) fn tell(&self, root: &Shape<'_>, document: &Node, value: &Value, found: &mut Found) {
        let node = document.find(&self.path);
        let message = match &self.what {
            What::UnknownKey => {
                let Some(Step::Key(key)) = self.path.steps().last() else { return };
                let above = self.path.parent().unwrap_or_default();
                let known = root.at(&above).map(|shape| shape.keys()).unwrap_or_default();
                let message = format!("unknown key; {}", suggest::hint(key, known));
                if let Some(meant) = meant(&self.path, root).filter(|path| document.find(path).is_none()) {
                    found.meant(meant);
                }
                let origin = key_origin(document, &above, key);
                return found.mistake_at(origin, self.path.clone(), message);
            }
            What::MissingKey => "is missing".to_owned(),
            What::WrongType(types) => match root.at(&self.path).map(|shape| shape.words()) {
                Some(words) if !words.is_empty() => self.not_one_of(&words, root, node, value),
                _ => wrong_type(types, node, at(value, &self.path)),
            },
            What::NotOneOf(words) => self.not_one_of(words, root, node, value),
            What::Format => {
                let format = root.at(&self.path).and_then(|shape| shape.format());
                let check =
                    FORMATS.iter().find(|(name, ..)| Some(*name) == format).map(|(_, check, _)| check);
                let text = at(value, &self.path).and_then(Value::as_str).unwrap_or_default();
                match check.map(|check| check(text)) {
                    Some(Err(sentence)) => sentence,
                    _ => format!("{} is not accepted here", quoted(text)),
                }
            }
            What::Other(rule) => match at(value, &self.path) {
                Some(Value::String(text)) => format!("{} is not accepted: {rule}", quoted(text)),
                Some(Value::Number(number)) => format!("{number} is not accepted: {rule}"),
                _ => format!("is not accepted: {rule}"),
            },
        };
        found.mistake(self.path.clone(), message);
    }

    fn not_one_of(&self, words: &[String], root: &Shape<'_>, node: Option<&Node>, value: &Value) -> String {
        // The branches that are mappings are known by their key.
        let keys = root.at(&self.path).map(|shape| shape.keys()).unwrap_or_default();
        let keyed: Vec<String> = keys.iter().map(|key| format!("{{{key}: …}}")).collect();
        let mut words: Vec<&str> = words.iter().chain(&keyed).map(String::as_str).collect();
        words.dedup();
        let (written, near) = match at(value, &self.path) {
            Some(Value::String(text)) => (quoted(text), suggest::nearest(text, words.iter().copied())),
            _ => (node.map_or("this", Node::noun).to_owned(), None),
        };
        let near = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
        format!("{written} is not accepted here; write {}{near}", list(&words))
    }
}

/// Quotes scalars only where a scalar is wanted: in the place of a list or a mapping anything may stand, even a secret.
fn wrong_type(types: &[&'static str], node: Option<&Node>, value: Option<&Value>) -> String {
    let wants = |name| types.contains(&name);
    let wants_scalar = ["string", "integer", "number", "boolean"].into_iter().any(wants);
    let written = match value {
        Some(Value::String(text)) if wants_scalar => quoted(text),
        Some(Value::Number(number)) if wants_scalar => number.to_string(),
        Some(Value::Bool(value)) if wants_scalar => value.to_string(),
        _ => node.map_or("this", Node::noun).to_owned(),
    };
    let is_yes_or_no = matches!(value, Some(Value::String(text))
        if ["yes", "no", "y", "n", "on", "off"].contains(&text.to_ascii_lowercase().as_str()));
    let is_quoted_number = matches!(value, Some(Value::String(text)) if text.parse::<f64>().is_ok());
    if wants("boolean") && is_yes_or_no {
        return format!("{written} is only a text in YAML; write true or false");
    }
    if (wants("integer") || wants("number")) && is_quoted_number {
        return format!("{written} is a text; write the number without quotes");
    }
    let mut nouns: Vec<&str> = types
        .iter()
        .filter_map(|name| match *name {
            "string" => Some("a text"),
            "integer" => Some("a whole number"),
            "number" => Some("a number"),
            "boolean" => Some("true or false"),
            "array" => Some("a list"),
            "object" => Some("a mapping of keys"),
            _ => None,
        })
        .collect();
    nouns.dedup();
    format!("{written} is not accepted here; write {}", list(&nouns))
}

fn key_origin(document: &Node, above: &KeyPath, key: &str) -> Origin {
    match document.find(above).map(|node| &node.value) {
        Some(Tree::Map(members)) => members.iter().find(|member| member.key == key),
        _ => None,
    }
    .map_or(Origin::Default, |member| member.key_origin.clone())
}

/// `a`, `a or b`, `a, b or c`.
fn list(words: &[&str]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [one] => (*one).to_owned(),
        [rest @ .., last] => format!("{} or {last}", rest.join(", ")),
    }
}

fn at<'v>(value: &'v Value, path: &KeyPath) -> Option<&'v Value> {
    path.steps().iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::Index(index) => value.get(index),
    })
}
