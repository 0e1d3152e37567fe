//! YAML as a tree in which every value knows where it was written, as it was written.
//!
//! The tree keeps the text of a plain scalar beside what YAML makes of it: `0660` and a client id of digits mean
//! their text, and only the schema knows where. Texts are wiped when dropped, since some are secrets.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_saphyr::granit_parser::ErrorKind;
use serde_saphyr::{DuplicateKeyPolicy, Error, ExternalMessageSource, NonFiniteFloatPolicy, Spanned};
use zeroize::Zeroizing;

use super::finding::{Found, Origin};
use super::key_path::{KeyPath, Step};

/// A value and where it was written.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) origin: Origin,
    pub(super) value: Tree,
}

/// What a value is.
#[derive(Clone)]
pub(super) enum Tree {
    /// A key with nothing after it, `~` or `null`.
    Nothing,
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Member>),
}

/// A key of a mapping and its value.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) key: String,
    pub(super) key_origin: Origin,
    pub(super) node: Node,
}

/// A scalar: its text as written, and what YAML takes it for.
#[derive(Clone)]
pub(super) struct Scalar {
    pub(super) text: Zeroizing<String>,
    pub(super) kind: Kind,
}

/// What YAML 1.2 takes a scalar for.
#[derive(Clone, PartialEq)]
pub(super) enum Kind {
    Text,
    Bool(bool),
    Number(Number),
}

/// Says nothing of what it holds: before the secrets are taken out, it holds secrets.
impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Node(…)")
    }
}

impl Scalar {
    /// A scalar that was never quoted, from a place that has no quotes: an environment variable or a flag.
    pub(super) fn plain(text: Zeroizing<String>) -> Self {
        let kind = match text.as_str() {
            "true" => Kind::Bool(true),
            "false" => Kind::Bool(false),
            number => match serde_json::from_str(number) {
                Ok(number) => Kind::Number(number),
                Err(_) => Kind::Text,
            },
        };
        Self { text, kind }
    }
}

impl Node {
    /// A mapping without keys: an empty file.
    pub(super) fn empty() -> Self {
        Self { origin: Origin::Default, value: Tree::Map(Vec::new()) }
    }

    /// The value at `path`.
    pub(super) fn find(&self, path: &KeyPath) -> Option<&Self> {
        path.steps().iter().try_fold(self, |node, step| node.child(step))
    }

    /// Where the value at `path` was written; if it was not, where what should hold it was.
    pub(super) fn nearest(&self, path: &KeyPath) -> Option<&Origin> {
        let mut node = self;
        for step in path.steps() {
            match node.child(step) {
                Some(child) => node = child,
                None => break,
            }
        }
        (node.origin != Origin::Default).then_some(&node.origin)
    }

    fn child(&self, step: &Step) -> Option<&Self> {
        match (&self.value, step) {
            (Tree::Map(members), Step::Key(key)) => {
                members.iter().find(|member| member.key == *key).map(|member| &member.node)
            }
            (Tree::List(items), Step::Index(index)) => items.get(*index),
            _ => None,
        }
    }

    /// What the value is, for a sentence.
    pub(super) fn noun(&self) -> &'static str {
        match &self.value {
            Tree::Nothing => "nothing",
            Tree::Scalar(Scalar { kind: Kind::Text, .. }) => "text",
            Tree::Scalar(Scalar { kind: Kind::Bool(_), .. }) => "true or false",
            Tree::Scalar(Scalar { kind: Kind::Number(_), .. }) => "a number",
            Tree::List(_) => "a list",
            Tree::Map(_) => "a mapping of keys",
        }
    }
}

/// Reads one YAML document. A mistake in the syntax ends the reading, keys written twice do not.
pub(super) fn parse(text: &str, found: &mut Found) -> Node {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: 64, max_aliases: 1_000 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 20_000 },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options) {
        Ok(raw) => match node(raw, text, &KeyPath::default(), found) {
            Node { value: Tree::Nothing, .. } => Node::empty(),
            node => node,
        },
        Err(error) => {
            let origin = error.location().map(origin).unwrap_or(Origin::File { line: 1, column: 1 });
            let message = format!("{}; the rest is checked once this is mended", syntax(&error));
            found.mistake_at(origin, KeyPath::default(), message);
            Node::empty()
        }
    }
}

/// What is wrong with the syntax, without any text of the file: it may be a secret.
fn syntax(error: &Error) -> String {
    match error {
        Error::ExternalMessage { source, .. } => match source.as_ref() {
            ExternalMessageSource::Parser(error) => match error.kind() {
                ErrorKind::TabNotAllowed
                | ErrorKind::TabInBlockIndentation
                | ErrorKind::TabInIndentation
                | ErrorKind::TabInPlainScalar
                | ErrorKind::TabAtBlockScalarStart => {
                    "a tab stands where YAML wants spaces; indent with spaces".to_owned()
                }
                ErrorKind::Custom(_) => "this is not YAML".to_owned(),
                kind => format!("this is not YAML: {kind}"),
            },
            _ => "this is not YAML".to_owned(),
        },
        Error::MultipleDocuments { .. } => {
            "a second document starts here; write everything into one".to_owned()
        }
        Error::UnsupportedTag { .. } => {
            "tags (!…) are not accepted; put a text that starts with ! into quotes".to_owned()
        }
        Error::UnknownAnchor { .. } => {
            "an alias (*…) names no anchor; put a text that starts with * into quotes".to_owned()
        }
        Error::NullIntoString { .. } => "a key has no name".to_owned(),
        Error::AliasError { error, .. } => syntax(error),
        Error::Budget { .. } | Error::AliasReplayLimitExceeded { .. } => {
            "it is nested too deeply or repeats itself too often".to_owned()
        }
        _ => "this is not YAML as it is accepted here".to_owned(),
    }
}

fn origin(location: serde_saphyr::Location) -> Origin {
    Origin::File { line: location.line(), column: location.column() }
}

fn node(raw: Spanned<Raw>, source: &str, path: &KeyPath, found: &mut Found) -> Node {
    let span = raw.defined.span();
    let scalar = |kind| {
        let written = span.byte_offset().zip(span.byte_len()).and_then(|(from, len)| {
            let from = usize::try_from(from).ok()?;
            source.get(from..from.checked_add(usize::try_from(len).ok()?)?)
        });
        let text = match &kind {
            Kind::Bool(value) => value.to_string(),
            Kind::Number(number) => written.map_or_else(|| number.to_string(), |text| text.trim().to_owned()),
            Kind::Text => String::new(),
        };
        Tree::Scalar(Scalar { text: Zeroizing::new(text), kind })
    };
    let value = match raw.value {
        Raw::Nothing => Tree::Nothing,
        Raw::Bool(value) => scalar(Kind::Bool(value)),
        Raw::Number(number) => scalar(Kind::Number(number)),
        Raw::Text(text) => Tree::Scalar(Scalar { text, kind: Kind::Text }),
        Raw::List(items) => Tree::List(
            items
                .into_iter()
                .enumerate()
                .map(|(index, item)| node(item, source, &path.index(index), found))
                .collect(),
        ),
        Raw::Map(raw_members) => {
            let mut members: Vec<Member> = Vec::with_capacity(raw_members.len());
            for (key, value) in raw_members {
                let at = path.key(&key.value);
                let key_origin = origin(key.referenced);
                match members.iter().find(|member| member.key == key.value) {
                    Some(first) => {
                        let message = format!("is already written on line {}", line(&first.key_origin));
                        found.mistake_at(key_origin, at, message);
                    }
                    None => {
                        let node = node(value, source, &at, found);
                        members.push(Member { key: key.value, key_origin, node });
                    }
                }
            }
            Tree::Map(members)
        }
    };
    Node { origin: origin(raw.referenced), value }
}

fn line(origin: &Origin) -> u64 {
    if let Origin::File { line, .. } = origin { *line } else { 0 }
}

/// What the YAML reader hands over, before texts and places are put together.
enum Raw {
    Nothing,
    Bool(bool),
    Number(Number),
    Text(Zeroizing<String>),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Nothing)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        // Only finite numbers come here: the others are read as texts.
        Ok(Number::from_f64(value).map_or(Raw::Nothing, Raw::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(Zeroizing::new(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(Zeroizing::new(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(member) = members.next_entry()? {
            map.push(member);
        }
        Ok(Raw::Map(map))
    }
}
