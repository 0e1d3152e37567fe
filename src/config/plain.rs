//! The document as JSON: what the schema checks and the sections are read from.

use std::path::Path;

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::finding::Origin;
use super::schema::Shape;
use super::tree::{Kind, Node, Scalar, Tree};
use super::value;

/// `node` as JSON. Where the schema wants text, a plain `0660` or `12345` is its text as written. A key with nothing
/// after it counts as not written.
pub(super) fn value_of(node: &Node, shape: Option<&Shape<'_>>) -> Value {
    match &node.value {
        Tree::Nothing => Value::Null,
        Tree::Scalar(scalar) => scalar_value(scalar, shape),
        Tree::List(items) => {
            let item = shape.and_then(Shape::item);
            Value::Array(items.iter().map(|node| value_of(node, item.as_ref())).collect())
        }
        Tree::Map(members) => {
            let written = members.iter().filter(|member| !matches!(member.node.value, Tree::Nothing));
            let value = |key: &str, node| value_of(node, shape.and_then(|shape| shape.key(key)).as_ref());
            Value::Object(
                written
                    .map(|member| (member.key.clone(), value(&member.key, &member.node)))
                    .collect::<Map<_, _>>(),
            )
        }
    }
}

fn scalar_value(scalar: &Scalar, shape: Option<&Shape<'_>>) -> Value {
    let own_type = match &scalar.kind {
        Kind::Text => "string",
        Kind::Bool(_) => "boolean",
        Kind::Number(number) if number.is_f64() => "number",
        Kind::Number(_) => "integer",
    };
    // A format of our own is a text that people may write without quotes.
    let is_text = shape.is_some_and(|shape| {
        shape.accepts("string") && (shape.format().is_some() || !shape.accepts(own_type))
    });
    match &scalar.kind {
        Kind::Bool(value) if !is_text => Value::Bool(*value),
        Kind::Number(number) if !is_text => Value::Number(number.clone()),
        _ => Value::String(scalar.text.as_str().to_owned()),
    }
}

/// Makes relative paths that the file writes relative to the file, not to wherever the broker was started.
pub(super) fn anchor_paths(node: &mut Node, shape: &Shape<'_>, directory: &Path) {
    match &mut node.value {
        Tree::Nothing => {}
        Tree::Scalar(scalar) => {
            let is_path = matches!(shape.format(), Some(value::PATH | "socket-path"));
            let is_file = matches!(node.origin, Origin::File { .. });
            let is_relative = Path::new(scalar.text.as_str()).is_relative();
            let is_name = !matches!(scalar.text.as_str(), "" | "off") && !scalar.text.contains(':');
            if is_path && is_file && is_relative && is_name {
                let anchored = directory.join(scalar.text.as_str());
                // A directory that is not UTF-8 leaves the path as it is: it then fails to open, by its name.
                if let Some(text) = anchored.to_str() {
                    scalar.text = Zeroizing::new(text.to_owned());
                }
            }
        }
        Tree::List(items) => {
            let Some(item) = shape.item() else { return };
            items.iter_mut().for_each(|node| anchor_paths(node, &item, directory));
        }
        Tree::Map(members) => {
            for member in members {
                let Some(mut shape) = shape.key(&member.key) else { continue };
                if member.key.ends_with("_file") {
                    shape = shape.with_path_format();
                }
                anchor_paths(&mut member.node, &shape, directory);
            }
        }
    }
}
