//! The schema's check: every breach becomes a sentence, and what is wrong is taken out, so that the rest can still be
//! read and checked.

use std::sync::LazyLock;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::paths::LocationSegment;
use jsonschema::{ValidationError, Validator};
use serde_json::Value;

use super::finding::{Found, Origin};
use super::key_path::{KeyPath, Step};
use super::schema::{Shape, json_schema};
use super::suggest;
use super::tree::{Node, Tree};
use super::value::{FORMATS, quoted};

static VALIDATOR: LazyLock<Result<Validator, String>> =
    LazyLock::new(|| validator(json_schema()).map_err(|error| error.to_string()));

/// Checks `value` (the document as JSON) against the schema, of which `shape` is the root, and takes out what breaks it.
pub(super) fn validate(value: &mut Value, document: &Node, shape: &Shape<'_>, found: &mut Found) {
    let validator = match &*VALIDATOR {
        Ok(validator) => validator,
        // The schema is made from our own types and every test builds it; a broken one must not pass silently.
        Err(error) => return found.mistake("", format!("the schema is broken, which is a bug: {error}")),
    };
    let mut breaches = Vec::new();
    for error in validator.iter_errors(value) {
        collect(&error, &mut breaches);
    }
    // One sentence a value: of several breaches at one place the first says enough.
    breaches.sort_by(|a, b| (&a.path, a.rank).cmp(&(&b.path, b.rank)));
    breaches.dedup_by(|later, earlier| later.path == earlier.path);

    for breach in &breaches {
        breach.tell(shape, document, value, found);
    }
    // From the end, so that earlier entries of a list keep their number.
    for breach in breaches.iter().rev() {
        take_out(value, breach.path.steps());
    }
    drop_holes(value);
}

fn validator(schema: &Value) -> Result<Validator, ValidationError<'static>> {
    let options = jsonschema::draft202012::options().should_validate_formats(true);
    FORMATS
        .iter()
        .fold(options, |options, (name, check)| {
            options.with_format(*name, move |text: &str| check(text).is_ok())
        })
        .build(schema)
}

/// One value that the schema does not accept.
struct Breach {
    path: KeyPath,
    what: What,
    /// Which of several breaches at one place is told: the lowest.
    rank: u8,
}

enum What {
    UnknownKey,
    MissingKey,
    WrongType(Vec<&'static str>),
    NotOneOf(Vec<String>),
    Format,
    Other(String),
}

fn collect(error: &ValidationError<'_>, breaches: &mut Vec<Breach>) {
    let path = path_of(error);
    let mut add = |path: KeyPath, rank: u8, what: What| breaches.push(Breach { path, what, rank });
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            for key in unexpected {
                add(path.key(key), 0, What::UnknownKey);
            }
        }
        ValidationErrorKind::Required { property } => {
            add(path.key(property.as_str().unwrap_or_default()), 0, What::MissingKey);
        }
        ValidationErrorKind::Type { kind } => add(path, 1, What::WrongType(types(kind))),
        ValidationErrorKind::Enum { options } => add(path, 2, What::NotOneOf(words(options))),
        ValidationErrorKind::Constant { expected_value } => {
            add(path, 2, What::NotOneOf(words(expected_value)))
        }
        ValidationErrorKind::Format { .. } => add(path, 3, What::Format),
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            collect_choice(&path, context, breaches);
        }
        ValidationErrorKind::Minimum { limit } => add(path, 4, What::Other(format!("the least is {limit}"))),
        ValidationErrorKind::Maximum { limit } => add(path, 4, What::Other(format!("the most is {limit}"))),
        ValidationErrorKind::Pattern { pattern } => {
            add(path, 5, What::Other(format!("it must match {pattern}")))
        }
        ValidationErrorKind::MinLength { limit } => {
            add(path, 5, What::Other(format!("it must have at least {limit} characters")));
        }
        ValidationErrorKind::MaxLength { limit } => {
            add(path, 5, What::Other(format!("it must have at most {limit} characters")));
        }
        other => add(path, 6, What::Other(format!("the schema's rule {} is broken", other.keyword()))),
    }
}

/// Of a choice, the one branch that was meant: the branch whose type and tag fit. If none does, what would.
fn collect_choice(path: &KeyPath, branches: &[Vec<ValidationError<'static>>], breaches: &mut Vec<Breach>) {
    let is_elsewhere = |branch: &&Vec<ValidationError<'static>>| {
        !branch.iter().any(|error| match error.kind() {
            ValidationErrorKind::Type { .. } => path_of(error) == *path,
            ValidationErrorKind::Constant { .. } | ValidationErrorKind::Enum { .. } => {
                path_of(error).parent().as_ref() == Some(path) || path_of(error) == *path
            }
            // A branch for `{name: …}` that lacks the name is another branch.
            ValidationErrorKind::Required { .. } => path_of(error) == *path,
            _ => false,
        })
    };
    if let Some(branch) = branches.iter().filter(is_elsewhere).min_by_key(|branch| branch.len()) {
        for error in branch {
            collect(error, breaches);
        }
        return;
    }
    let mut inner = Vec::new();
    for error in branches.iter().flatten() {
        collect(error, &mut inner);
    }
    // Tags and words of all branches together are what is accepted.
    let mut accepted: Vec<(KeyPath, Vec<String>)> = Vec::new();
    let mut wanted = Vec::new();
    for breach in inner {
        match breach.what {
            What::NotOneOf(words) => match accepted.iter_mut().find(|(at, _)| *at == breach.path) {
                Some((_, all)) => all.extend(words),
                None => accepted.push((breach.path, words)),
            },
            What::WrongType(types) if breach.path == *path => wanted.extend(types),
            _ => {}
        }
    }
    let (path, rank, what) = match accepted.into_iter().next() {
        Some((at, words)) => (at, 2, What::NotOneOf(words)),
        None if wanted.is_empty() => (path.clone(), 6, What::Other("is not accepted here".to_owned())),
        None => (path.clone(), 1, What::WrongType(wanted)),
    };
    breaches.push(Breach { path, what, rank });
}

impl Breach {
    fn tell(&self, root: &Shape<'_>, document: &Node, value: &Value, found: &mut Found) {
        let shape = |path: &KeyPath| {
            path.steps().iter().try_fold(root.clone(), |shape, step| match step {
                Step::Key(key) => shape.key(key),
                Step::Index(_) => shape.item(),
            })
        };
        let node = document.find(&self.path);
        let message = match &self.what {
            What::UnknownKey => {
                let Some(Step::Key(key)) = self.path.steps().last() else { return };
                let above = self.path.parent().unwrap_or_default();
                let known = shape(&above).map(|shape| shape.keys()).unwrap_or_default();
                let message = format!("unknown key; {}", suggest::hint(key, known.iter().copied()));
                if let Some(meant) = suggest::nearest(key, known.iter().copied()) {
                    found.meant(above.key(meant));
                }
                let origin = key_origin(document, &above, key);
                return found.mistake_at(origin, self.path.clone(), message);
            }
            What::MissingKey => "is missing".to_owned(),
            What::WrongType(types) => wrong_type(types, node, at(value, &self.path)),
            What::NotOneOf(words) => {
                let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
                words.dedup();
                let near = match at(value, &self.path) {
                    Some(Value::String(text)) => {
                        let near = suggest::nearest(text, words.iter().copied());
                        let near = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
                        (format!("{} is not accepted", quoted(text)), near)
                    }
                    _ => ("is not accepted".to_owned(), String::new()),
                };
                format!("{}; write {}{}", near.0, list(&words), near.1)
            }
            What::Format => {
                let format = shape(&self.path).and_then(|shape| shape.format());
                let check = FORMATS.iter().find(|(name, _)| Some(*name) == format).map(|(_, check)| check);
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

fn path_of(error: &ValidationError<'_>) -> KeyPath {
    error.instance_path().iter().fold(KeyPath::default(), |path, segment| match segment {
        LocationSegment::Property(key) => path.key(&key),
        LocationSegment::Index(index) => path.index(index),
    })
}

fn types(kind: &TypeKind) -> Vec<&'static str> {
    let all = ["string", "integer", "number", "boolean", "array", "object", "null"];
    let named: Vec<String> = match kind {
        TypeKind::Single(one) => vec![one.to_string()],
        TypeKind::Multiple(many) => many.iter().map(|one| one.to_string()).collect(),
    };
    all.into_iter().filter(|name| named.iter().any(|one| one == name)).collect()
}

fn words(accepted: &Value) -> Vec<String> {
    match accepted {
        Value::Array(all) => all.iter().flat_map(words).collect(),
        Value::String(word) => vec![word.clone()],
        other => vec![other.to_string()],
    }
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

/// Takes the value at `steps` out; in a list it leaves a hole, so that the others keep their number.
fn take_out(value: &mut Value, steps: &[Step]) {
    match (value, steps) {
        (Value::Object(members), [Step::Key(key)]) => drop(members.remove(key)),
        (Value::Object(members), [Step::Key(key), below @ ..]) => {
            if let Some(member) = members.get_mut(key) {
                take_out(member, below);
            }
        }
        (Value::Array(items), [Step::Index(index), below @ ..]) => match (items.get_mut(*index), below) {
            (Some(item), []) => *item = Value::Null,
            (Some(item), below) => take_out(item, below),
            (None, _) => {}
        },
        _ => {}
    }
}

/// Closes the holes in lists, except in the outermost: entries of `providers` are told by their number.
fn drop_holes(value: &mut Value) {
    let Value::Object(sections) = value else { return };
    for section in sections.values_mut() {
        match section {
            Value::Array(entries) => entries.iter_mut().for_each(close),
            other => close(other),
        }
    }
}

fn close(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.retain(|item| !item.is_null());
            items.iter_mut().for_each(close);
        }
        Value::Object(members) => members.values_mut().for_each(close),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
