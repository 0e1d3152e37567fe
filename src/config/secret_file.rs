//! Secrets, taken out of the document before anything else looks at it: as `x`, or as `x_file`, never both.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use zeroize::Zeroizing;

use super::finding::{Found, Origin};
use super::key_path::KeyPath;
use super::schema::Shape;
use super::tree::{Node, Tree};
use crate::secret::Secret;

/// The largest secret file that is read.
const LIMIT: u64 = 64 * 1024;

/// What stands for a secret where the rest of the configuration is looked at.
pub(super) const REDACTED: &str = "(secret)";

/// Every secret, by the path of its `x`.
pub(super) type Secrets = BTreeMap<KeyPath, Taken>;

/// A secret, and where it or the name of its file was written.
pub(super) struct Taken {
    pub(super) secret: Secret<String>,
    pub(super) origin: Origin,
}

/// Moves every secret out of `node`: `x` leaves the document, `x_file` is read and stays.
pub(super) fn take(
    node: &mut Node,
    path: &KeyPath,
    shape: &Shape<'_>,
    found: &mut Found,
    secrets: &mut Secrets,
) {
    match &mut node.value {
        Tree::List(items) => {
            let Some(item_shape) = shape.item() else { return };
            for (index, item) in items.iter_mut().enumerate() {
                take(item, &path.index(index), &item_shape, found, secrets);
            }
        }
        Tree::Map(members) => {
            for member in members.iter_mut() {
                let Some(shape) = shape.key(&member.key).filter(|shape| !shape.is_secret()) else { continue };
                take(&mut member.node, &path.key(&member.key), &shape, found, secrets);
            }
            for name in shape.keys() {
                if shape.key(name).is_some_and(|shape| shape.is_secret()) {
                    take_one(node, name, path, found, secrets);
                }
            }
        }
        Tree::Nothing | Tree::Scalar(_) => {}
    }
}

fn take_one(node: &mut Node, name: &str, above: &KeyPath, found: &mut Found, secrets: &mut Secrets) {
    let Tree::Map(members) = &mut node.value else { return };
    let path = above.key(name);
    let file_name = format!("{name}_file");
    let file = members
        .iter()
        .find(|member| member.key == file_name && !matches!(member.node.value, Tree::Nothing))
        .map(|member| member.node.clone());
    let written = members.iter().position(|member| member.key == name).map(|index| members.remove(index));
    let written = written.filter(|member| !matches!(member.node.value, Tree::Nothing));

    let (secret, origin) = match (written, file) {
        (Some(member), Some(_)) => {
            let message = format!("is given beside {file_name}; keep one of them");
            return found.mistake_at(member.key_origin, path, message);
        }
        (Some(member), None) => match (member.node.value, member.node.origin) {
            (Tree::Scalar(scalar), origin) => {
                warn_if_visible(&origin, &path, &file_name, found);
                (Secret::new(scalar.text.as_str().to_owned()), origin)
            }
            (_, origin) => {
                return found.mistake_at(origin, path, "is a secret: one text, in quotes if it has spaces");
            }
        },
        (None, Some(Node { value: Tree::Scalar(file), origin })) => match read(Path::new(file.text.as_str()))
        {
            Ok(secret) => (secret, origin),
            Err(why) => return found.mistake(above.key(&file_name), why),
        },
        (None, _) => return,
    };
    if secret.expose().is_empty() {
        return found.mistake(path, "is empty; write the secret, or leave the key out");
    }
    secrets.insert(path, Taken { secret, origin });
}

fn warn_if_visible(origin: &Origin, path: &KeyPath, file_name: &str, found: &mut Found) {
    let where_else = match origin {
        Origin::Environment(_) => "every process of this user can read the environment",
        Origin::Flag(_) => "every process can read a command line",
        Origin::File { .. } | Origin::Catalogue(_) | Origin::Default => return,
    };
    found.warning_at(
        origin.clone(),
        path.clone(),
        format!("{where_else}; {file_name} keeps the secret to itself"),
    );
}

/// The secret in the file at `path`, without the line's end that editors and `echo` add.
fn read(path: &Path) -> Result<Secret<String>, String> {
    let sentence = |why: &dyn std::fmt::Display| format!("{} cannot be read: {why}", path.display());
    if path.as_os_str().is_empty() {
        return Err("is empty; write the path of a file".to_owned());
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    let file = File::open(path).map_err(|error| sentence(&error))?;
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(|error| sentence(&error))?;
    if bytes.len() as u64 > LIMIT {
        return Err(sentence(&"it is larger than 64 KiB, so it is no secret"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| sentence(&"it is not text"))?;
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() {
        return Err(format!("{} is empty", path.display()));
    }
    Ok(Secret::new(text.to_owned()))
}
