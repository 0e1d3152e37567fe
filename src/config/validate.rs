//! The schema's check: every breach becomes a sentence, and what is wrong is taken out, so that the rest can still be
//! read and checked.

mod sentence;

use std::mem;

use boon::{Compiler, ErrorKind, Format, InstanceToken, SchemaIndex, Schemas, Types, ValidationError};
use serde_json::Value;

use super::finding::Found;
use super::key_path::{KeyPath, Step};
use super::schema::Shape;
use super::suggest;
use super::tree::Node;
use super::value::FORMATS;

/// Names the schema inside itself; nothing is ever read from there.
const SCHEMA_URL: &str = "schema:configuration";

/// Checks `value` (the document as JSON) against the schema, of which `shape` is the root, and takes out what breaks it.
pub(super) fn validate(value: &mut Value, document: &Node, shape: &Shape<'_>, found: &mut Found) {
    let (schemas, schema) = match compiled(shape.root()) {
        Ok(compiled) => compiled,
        // The schema is made from our own types and every test builds it; a broken one must not pass silently.
        Err(error) => return found.mistake("", format!("the schema is broken, which is a bug: {error}")),
    };
    let mut breaches = Vec::new();
    if let Err(error) = schemas.validate(value, schema) {
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

/// The schema, ready to check with; the error is why it does not compile. It takes a megabyte, so nobody keeps it.
fn compiled(schema: &Value) -> Result<(Schemas, SchemaIndex), String> {
    let mut compiler = Compiler::new();
    compiler.enable_format_assertions();
    for (name, _, func) in FORMATS {
        compiler.register_format(Format { name, func: *func });
    }
    compiler.add_resource(SCHEMA_URL, schema.clone()).map_err(|error| error.to_string())?;
    let mut schemas = Schemas::new();
    let index = compiler.compile(SCHEMA_URL, &mut schemas).map_err(|error| error.to_string())?;
    Ok((schemas, index))
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

fn collect(error: &ValidationError<'_, '_>, breaches: &mut Vec<Breach>) {
    for error in leaves(error) {
        collect_one(error, breaches);
    }
}

/// The breaches that a breach is made of, down to those of one rule or one choice.
fn leaves<'e, 's, 'v>(error: &'e ValidationError<'s, 'v>) -> Vec<&'e ValidationError<'s, 'v>> {
    match error.kind {
        ErrorKind::Schema { .. } | ErrorKind::Group | ErrorKind::Reference { .. } | ErrorKind::AllOf => {
            error.causes.iter().flat_map(leaves).collect()
        }
        _ => vec![error],
    }
}

fn collect_one(error: &ValidationError<'_, '_>, breaches: &mut Vec<Breach>) {
    let path = path_of(error);
    let mut add = |path: KeyPath, rank: u8, what: What| breaches.push(Breach { path, what, rank });
    match &error.kind {
        ErrorKind::AdditionalProperties { got } => {
            for key in got {
                add(path.key(key), 0, What::UnknownKey);
            }
        }
        // What `unevaluatedProperties: false` says of a key that no part of the schema knows.
        ErrorKind::FalseSchema => add(path, 0, What::UnknownKey),
        ErrorKind::Required { want } => {
            for key in want {
                add(path.key(key), 0, What::MissingKey);
            }
        }
        ErrorKind::Type { want, .. } => add(path, 1, What::WrongType(types(*want))),
        ErrorKind::Enum { want } => add(path, 2, What::NotOneOf(want.iter().map(word).collect())),
        ErrorKind::Const { want } => add(path, 2, What::NotOneOf(vec![word(want)])),
        ErrorKind::Format { .. } => add(path, 3, What::Format),
        ErrorKind::AnyOf | ErrorKind::OneOf(None) => {
            let branches: Vec<_> = error.causes.iter().map(leaves).collect();
            collect_choice(&path, &branches, breaches);
        }
        ErrorKind::Minimum { want, .. } => add(path, 4, What::Other(format!("the least is {want}"))),
        ErrorKind::Maximum { want, .. } => add(path, 4, What::Other(format!("the most is {want}"))),
        ErrorKind::Pattern { want, .. } => add(path, 5, What::Other(format!("it must match {want}"))),
        ErrorKind::MinLength { want, .. } => {
            add(path, 5, What::Other(format!("it must have at least {want} characters")));
        }
        ErrorKind::MaxLength { want, .. } => {
            add(path, 5, What::Other(format!("it must have at most {want} characters")));
        }
        ErrorKind::MinItems { want, .. } => {
            add(path, 5, What::Other(format!("it must have at least {want} entries")));
        }
        ErrorKind::MaxItems { want, .. } => {
            add(path, 5, What::Other(format!("it must have at most {want} entries")));
        }
        // Rules that our schema has nowhere today. Their own words may quote the value, so they are not repeated.
        _ => add(path, 6, What::Other("a rule of the schema is broken".to_owned())),
    }
}

/// Of a choice, the one branch that was meant: the branch whose type and tag fit. If none does, what would.
fn collect_choice(path: &KeyPath, branches: &[Vec<&ValidationError<'_, '_>>], breaches: &mut Vec<Breach>) {
    let fits = |branch: &&Vec<&ValidationError<'_, '_>>| {
        !branch.iter().any(|error| match error.kind {
            ErrorKind::Type { .. } => path_of(error) == *path,
            ErrorKind::Const { .. } | ErrorKind::Enum { .. } => {
                let at = path_of(error);
                at == *path || at.parent().as_ref() == Some(path)
            }
            _ => false,
        })
    };
    let fitting: Vec<_> = branches.iter().filter(fits).collect();
    let lacks_key = |branch: &&&Vec<&ValidationError<'_, '_>>| {
        branch.iter().any(|error| matches!(error.kind, ErrorKind::Required { .. }) && path_of(error) == *path)
    };
    let mut whole = fitting.iter().filter(|branch| !lacks_key(branch));
    let chosen = match (fitting.as_slice(), whole.next(), whole.next()) {
        ([one], ..) | (_, Some(one), None) => Some(one),
        _ => None,
    };
    if let Some(branch) = chosen {
        for error in branch.iter() {
            collect_one(error, breaches);
        }
        return;
    }
    // Several mappings might be meant: what all of them complain of is wrong in any case.
    let mut each = fitting.iter().map(|branch| {
        let mut of_branch = Vec::new();
        branch.iter().for_each(|error| collect_one(error, &mut of_branch));
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
        collect_one(error, &mut inner);
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

fn path_of(error: &ValidationError<'_, '_>) -> KeyPath {
    error.instance_location.tokens.iter().fold(KeyPath::default(), |path, token| match token {
        InstanceToken::Prop(key) => path.key(key),
        InstanceToken::Item(index) => path.index(*index),
    })
}

fn types(wanted: Types) -> Vec<&'static str> {
    let all = [
        (boon::Type::String, "string"),
        (boon::Type::Integer, "integer"),
        (boon::Type::Number, "number"),
        (boon::Type::Boolean, "boolean"),
        (boon::Type::Array, "array"),
        (boon::Type::Object, "object"),
        (boon::Type::Null, "null"),
    ];
    all.into_iter().filter(|(one, _)| wanted.contains(*one)).map(|(_, name)| name).collect()
}

fn word(accepted: &Value) -> String {
    match accepted {
        Value::String(word) => word.clone(),
        other => other.to_string(),
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
