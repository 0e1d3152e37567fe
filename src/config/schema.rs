//! The JSON Schema of the file, made from the sections' types, and a way to walk it beside a document.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::Sections;
use super::key_path::{KeyPath, Step};

/// The JSON Schema (2020-12) of the configuration file: what `check-config --schema` prints and editors understand.
///
/// It is made anew each time: half a megabyte that nothing asks for again once the file is read.
pub fn json_schema() -> Value {
    let mut schema = schemars::schema_for!(Sections).to_value();
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".to_owned(), "token-broker configuration".into());
        root.insert("description".to_owned(), "The one file that says everything.".into());
        root.remove("default");
    }
    schema
}

/// What the schema says about one place in the document. A place may have several readings: a reference and what it
/// refers to, the branches of a choice.
#[derive(Clone)]
pub(super) struct Shape<'s> {
    root: &'s Value,
    readings: Vec<&'s Map<String, Value>>,
}

impl<'s> Shape<'s> {
    /// The shape of the whole file.
    pub(super) fn of(root: &'s Value) -> Self {
        Self::new(root, root)
    }

    /// The whole schema that this is a place of.
    pub(super) fn root(&self) -> &'s Value {
        self.root
    }

    fn new(root: &'s Value, schema: &'s Value) -> Self {
        let mut shape = Self { root, readings: Vec::new() };
        shape.read(schema);
        shape
    }

    fn read(&mut self, schema: &'s Value) {
        let Some(schema) = schema.as_object() else { return };
        // A schema met twice refers to itself; what it says was heard.
        if self.readings.iter().any(|known| std::ptr::eq(*known, schema)) {
            return;
        }
        self.readings.push(schema);
        let target = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#'));
        if let Some(target) = target.and_then(|pointer| self.root.pointer(pointer)) {
            self.read(target);
        }
        for choice in ["anyOf", "oneOf", "allOf"] {
            for branch in schema.get(choice).and_then(Value::as_array).into_iter().flatten() {
                self.read(branch);
            }
        }
    }

    /// The shape of the value of `key`; `None` if no such key is accepted.
    pub(super) fn key(&self, key: &str) -> Option<Self> {
        let named = self.each("properties").find_map(|properties| properties.get(key));
        let schema = named.or_else(|| self.each("additionalProperties").find(|rest| rest.is_object()))?;
        Some(Self::new(self.root, schema))
    }

    /// The shape of a list's entries; `None` if no list is accepted.
    pub(super) fn item(&self) -> Option<Self> {
        Some(Self::new(self.root, self.each("items").next()?))
    }

    /// The shape of the value at `path`.
    pub(super) fn at(&self, path: &KeyPath) -> Option<Self> {
        path.steps().iter().try_fold(self.clone(), |shape, step| match step {
            Step::Key(key) => shape.key(key),
            Step::Index(_) => shape.item(),
        })
    }

    /// The keys with a name of their own, in alphabetical order.
    pub(super) fn keys(&self) -> Vec<&'s str> {
        let keys: BTreeSet<&str> = self
            .each("properties")
            .filter_map(Value::as_object)
            .flat_map(|properties| properties.keys().map(String::as_str))
            .collect();
        keys.into_iter().collect()
    }

    /// The words that are accepted, where only certain ones are.
    pub(super) fn words(&self) -> Vec<String> {
        let listed = self.each("enum").filter_map(Value::as_array).flatten();
        listed.chain(self.each("const")).filter_map(Value::as_str).map(ToOwned::to_owned).collect()
    }

    /// Whether a value of JSON type `name` is accepted.
    pub(super) fn accepts(&self, name: &str) -> bool {
        self.each("type").any(|types| match types {
            Value::String(one) => one == name,
            Value::Array(many) => many.iter().any(|one| one == name),
            _ => false,
        })
    }

    /// The format of a text here, if it has one of its own.
    pub(super) fn format(&self) -> Option<&'s str> {
        self.each("format").find_map(Value::as_str)
    }

    /// The same, said to be a path in the file system.
    pub(super) fn with_path_format(mut self) -> Self {
        static IS_PATH: LazyLock<Map<String, Value>> =
            LazyLock::new(|| Map::from_iter([("format".to_owned(), Value::from(super::value::PATH))]));
        self.readings.push(&IS_PATH);
        self
    }

    /// Whether the value is a secret: it goes in and never comes out.
    pub(super) fn is_secret(&self) -> bool {
        self.each("writeOnly").any(|flag| flag == true)
    }

    fn each(&self, keyword: &str) -> impl Iterator<Item = &'s Value> {
        self.readings.iter().filter_map(move |reading| reading.get(keyword))
    }
}
