//! The schema's check: every breach becomes a sentence, and what is wrong is taken out, so that the rest can still be
//! read and checked.

mod sentence;

use std::mem;
use std::sync::LazyLock;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::paths::LocationSegment;
use jsonschema::{ValidationError, Validator};
use serde_json::Value;

use super::finding::Found;
use super::key_path::{KeyPath, Step};
use super::schema::{Shape, json_schema};
use super::suggest;
use super::tree::Node;
use super::value::FORMATS;

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
    drop_misspelt(&mut breaches, shape);

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
    let fits = |branch: &&Vec<ValidationError<'static>>| {
        !branch.iter().any(|error| match error.kind() {
            ValidationErrorKind::Type { .. } => path_of(error) == *path,
            ValidationErrorKind::Constant { .. } | ValidationErrorKind::Enum { .. } => {
                let at = path_of(error);
                at == *path || at.parent().as_ref() == Some(path)
            }
            _ => false,
        })
    };
    let fitting: Vec<_> = branches.iter().filter(fits).collect();
    let lacks_key = |branch: &&&Vec<ValidationError<'static>>| {
        branch.iter().any(|error| {
            matches!(error.kind(), ValidationErrorKind::Required { .. }) && path_of(error) == *path
        })
    };
    let mut whole = fitting.iter().filter(|branch| !lacks_key(branch));
    let chosen = match (fitting.as_slice(), whole.next(), whole.next()) {
        ([one], ..) | (_, Some(one), None) => Some(one),
        _ => None,
    };
    if let Some(branch) = chosen {
        for error in branch.iter() {
            collect(error, breaches);
        }
        return;
    }
    // Several mappings might be meant: what all of them complain of is wrong in any case.
    let mut each = fitting.iter().map(|branch| {
        let mut of_branch = Vec::new();
        branch.iter().for_each(|error| collect(error, &mut of_branch));
        of_branch
    });
    let mut common = each.next().unwrap_or_default();
    for others in each {
        common.retain(|breach| {
            others.iter().any(|other| {
                other.path == breach.path && mem::discriminant(&other.what) == mem::discriminant(&breach.what)
            })
        });
    }
    if !common.is_empty() {
        return breaches.extend(common);
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
        None if wanted.is_empty() => (path.clone(), 6, What::NotOneOf(Vec::new())),
        None => (path.clone(), 1, What::WrongType(wanted)),
    };
    breaches.push(Breach { path, what, rank });
}

/// A key that is missing because it is misspelt is told once.
fn drop_misspelt(breaches: &mut Vec<Breach>, root: &Shape<'_>) {
    let meant: Vec<KeyPath> = breaches
        .iter()
        .filter(|breach| matches!(breach.what, What::UnknownKey))
        .filter_map(|breach| meant(&breach.path, root))
        .collect();
    breaches.retain(|breach| !matches!(breach.what, What::MissingKey) || !meant.contains(&breach.path));
}

/// The known key that the unknown one at `path` probably stands for.
fn meant(path: &KeyPath, root: &Shape<'_>) -> Option<KeyPath> {
    let (Some(Step::Key(key)), above) = (path.steps().last(), path.parent()?) else { return None };
    let near = suggest::nearest(key, root.at(&above)?.keys())?;
    Some(above.key(near))
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
