//! Values from outside the file: `TOKEN_BROKER_SERVER__THREADS=2` and command-line flags, laid over the document.

use std::fmt;

use zeroize::Zeroizing;

use super::finding::{Found, Origin};
use super::key_path::{KeyPath, Step};
use super::schema::Shape;
use super::suggest;
use super::tree::{Member, Node, Scalar, Tree};

/// What the names of our variables begin with.
const PREFIX: &str = "TOKEN_BROKER_";

/// What stands between two keys in a variable's name. A variable without it is none of the configuration's business:
/// Kubernetes sets `TOKEN_BROKER_PORT` and the like in every pod when a service is called `token-broker`.
const SEPARATOR: &str = "__";

/// Variables that stand for a key under a shorter name.
const SHORT: &[(&str, &str)] = &[("TOKEN_BROKER_LOG", "log.level")];

/// The variables that begin with `TOKEN_BROKER_`. `Debug` shows their names only.
#[derive(Clone, Default)]
pub struct Environment(Vec<(String, Zeroizing<String>)>);

impl Environment {
    /// The environment of this process. A value that is not UTF-8 reads as text with replacement characters.
    pub fn of_process() -> Self {
        Self::of(std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            name.starts_with(PREFIX).then(|| (name, value.to_string_lossy().into_owned()))
        }))
    }

    /// An environment of the given variables; those that are not ours are left out.
    pub fn of<N: Into<String>, V: Into<String>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut ours: Vec<_> = variables
            .into_iter()
            .map(|(name, value)| (name.into(), Zeroizing::new(value.into())))
            .filter(|(name, _)| name.starts_with(PREFIX))
            .collect();
        // Shorter names first, so that `TOKEN_BROKER_LOG` gives way to `TOKEN_BROKER_LOG__LEVEL`, and in a fixed
        // order, so that the same environment always says the same.
        ours.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self(ours)
    }

    /// The value of the variable `name`; `None` if it is not set or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        Some(value.as_str()).filter(|value| !value.is_empty())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// A value given on the command line.
#[derive(Clone, Debug)]
pub struct Override {
    flag: String,
    path: KeyPath,
    value: String,
}

impl Override {
    /// `value` for the key at `path` (`server.threads`), given by `flag` (`--threads`).
    pub fn new(flag: impl Into<String>, path: &str, value: impl Into<String>) -> Self {
        Self { flag: flag.into(), path: path.into(), value: value.into() }
    }
}

/// Lays the environment, then the flags, over the document.
pub(super) fn apply(
    document: &mut Node,
    environment: &Environment,
    overrides: &[Override],
    shape: &Shape<'_>,
    found: &mut Found,
) {
    for (name, value) in &environment.0 {
        let origin = Origin::Environment(name.clone());
        let path = match SHORT.iter().find(|(short, _)| short == name) {
            Some((_, path)) if !value.is_empty() => Ok(KeyPath::from(*path)),
            Some(_) => continue,
            None if name.contains(SEPARATOR) => resolve(&name[PREFIX.len()..], document, shape),
            None => continue,
        };
        match path {
            Ok(path) => put(document, &path, value, &origin, shape, found),
            Err((path, message)) => found.mistake_at(origin, path, message),
        }
    }
    for given in overrides {
        let value = Zeroizing::new(given.value.clone());
        put(document, &given.path, &value, &Origin::Flag(given.flag.clone()), shape, found);
    }
}

/// The path that `SERVER__GRPC__TCP` names. In a list, a number counts entries and a word is an entry's `key`.
fn resolve(name: &str, document: &Node, shape: &Shape<'_>) -> Result<KeyPath, (KeyPath, String)> {
    let mut path = KeyPath::default();
    let mut here = Some(shape.clone());
    for word in name.split(SEPARATOR) {
        let lower = word.to_ascii_lowercase();
        let Some(shape) = here else { return Err((path, "has no keys inside it".to_owned())) };
        if let Some(item) = shape.item() {
            let items = match document.find(&path).map(|node| &node.value) {
                Some(Tree::List(items)) => items.as_slice(),
                _ => &[],
            };
            let index = lower.parse().ok().or_else(|| items.iter().position(|item| is_keyed(item, &lower)));
            match index {
                Some(index) if index <= items.len() => path = path.index(index),
                Some(_) => {
                    return Err((path, format!("has {} entries; the next one is number {0}", items.len())));
                }
                None => {
                    return Err((
                        path,
                        format!("no entry has the key {lower:?}; write its number or its key"),
                    ));
                }
            }
            here = Some(item);
        } else if let Some(next) = shape.key(&lower) {
            path = path.key(&lower);
            here = Some(next);
        } else {
            let hint = suggest::hint(&lower, shape.keys());
            return Err((path.key(&lower), format!("unknown key; {hint}")));
        }
    }
    Ok(path)
}

fn is_keyed(item: &Node, word: &str) -> bool {
    let key = item.find(&KeyPath::default().key("key"));
    matches!(key.map(|node| &node.value), Some(Tree::Scalar(key)) if key.text.replace('-', "_") == word)
}

fn put(
    document: &mut Node,
    path: &KeyPath,
    text: &Zeroizing<String>,
    origin: &Origin,
    shape: &Shape<'_>,
    found: &mut Found,
) {
    let Some(target) = shape.at(path) else {
        return found.mistake_at(origin.clone(), path.clone(), "unknown key");
    };
    if ["string", "integer", "number", "boolean"].iter().all(|scalar| !target.accepts(scalar)) {
        let message = if target.item().is_some() {
            format!("is a list; set its entries one by one, the first as …{SEPARATOR}0")
        } else {
            "holds keys; set one of them".to_owned()
        };
        return found.mistake_at(origin.clone(), path.clone(), message);
    }
    let mut node = document;
    for step in path.steps() {
        let Some(child) = child(node, step, origin) else {
            // The file has something else here, which is a mistake of its own.
            return;
        };
        node = child;
    }
    node.origin = origin.clone();
    node.value = Tree::Scalar(Scalar::plain(text.clone()));
}

/// The value at `step` below `node`, made if it is not there.
fn child<'n>(node: &'n mut Node, step: &Step, origin: &Origin) -> Option<&'n mut Node> {
    if matches!(node.value, Tree::Nothing) {
        node.value = match step {
            Step::Key(_) => Tree::Map(Vec::new()),
            Step::Index(_) => Tree::List(Vec::new()),
        };
    }
    let nothing = || Node { origin: origin.clone(), value: Tree::Nothing };
    match (&mut node.value, step) {
        (Tree::Map(members), Step::Key(key)) => {
            let index = members.iter().position(|member| member.key == *key).unwrap_or_else(|| {
                members.push(Member { key: key.clone(), key_origin: origin.clone(), node: nothing() });
                members.len() - 1
            });
            members.get_mut(index).map(|member| &mut member.node)
        }
        (Tree::List(items), Step::Index(index)) => {
            if *index == items.len() {
                items.push(nothing());
            }
            items.get_mut(*index)
        }
        _ => None,
    }
}
