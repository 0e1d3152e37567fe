//! `docs/configuration.md` holds a table of every key; it is made from the schema and must not drift from it.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;
use token_broker::config;

const BEGIN: &str = "<!-- keys: made from the schema, see tests/it/config/docs.rs -->\n";
const END: &str = "<!-- end of keys -->\n";

/// What the schema says of a key, with its references followed.
fn field<'s>(schema: &'s Value, at: &'s Value, what: &str) -> Option<&'s Value> {
    let target =
        at.get("$ref").and_then(Value::as_str).and_then(|r| schema.pointer(r.trim_start_matches('#')));
    at.get(what).or_else(|| target.and_then(|target| target.get(what)))
}

fn shown(default: &Value) -> String {
    match default {
        Value::Null => String::new(),
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}

fn rows(schema: &Value, at: &Value, path: &str, default: &Value, into: &mut String) {
    let Some(keys) = field(schema, at, "properties").and_then(Value::as_object) else { return };
    for (key, at) in keys {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let default = default.get(key).or_else(|| at.get("default")).cloned().unwrap_or_default();
        if field(schema, at, "properties").is_some() {
            rows(schema, at, &path, &default, into);
            continue;
        }
        let meaning = field(schema, at, "description").and_then(Value::as_str).unwrap_or_default();
        let words: Vec<String> = field(schema, at, "oneOf")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|one| {
                let word = one["const"].as_str().unwrap_or_default();
                format!("`{word}`: {}", one["description"].as_str().unwrap_or_default())
            })
            .collect();
        let meaning = [vec![meaning.to_owned()], words].concat().join(" ").replace(['\n', '|'], " ");
        let is_list = field(schema, at, "type").is_some_and(|name| name == "array");
        let variable = format!("TOKEN_BROKER_{}", path.to_uppercase().replace('.', "__"));
        let variable = if path == "providers" {
            format!("`{variable}__0__KEY` …")
        } else if is_list {
            format!("`{variable}__0` …")
        } else {
            format!("`{variable}`")
        };
        writeln!(into, "| `{path}` | {} | {meaning} | {variable} |", shown(&default)).unwrap();
    }
}

/// The first paragraph of every key of one provider's entry.
fn entry_rows(schema: &Value, into: &mut String) {
    let entry = schema.pointer("/$defs/ProviderEntry").unwrap();
    for (key, at) in entry["properties"].as_object().unwrap() {
        let meaning = field(schema, at, "description").and_then(Value::as_str).unwrap_or_default();
        let meaning = meaning.split("\n\n").next().unwrap_or_default().replace(['\n', '|'], " ");
        writeln!(into, "| `{key}` | {meaning} |").unwrap();
    }
}

fn tables() -> String {
    let schema = config::json_schema();
    let mut text = format!("{BEGIN}| key | default | meaning | variable |\n|---|---|---|---|\n");
    rows(&schema, &schema, "", &Value::Null, &mut text);
    text += "\n### One entry of `providers`\n\n| key | meaning |\n|---|---|\n";
    entry_rows(&schema, &mut text);
    text + END
}

/// `UPDATE_DOCS=1 cargo test --test it config::docs` writes the table anew.
#[test]
fn the_table_of_keys_is_the_schemas() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the page has lost the mark where the table begins");
    let (_, after) = rest.split_once(END).expect("the page has lost the mark where the table ends");
    let fresh = format!("{before}{}{after}", tables());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    assert!(
        page == fresh,
        "docs/configuration.md has drifted: UPDATE_DOCS=1 cargo test --test it config::docs"
    );
}

#[test]
fn every_key_says_what_it_is_for() {
    let table = tables();
    let silent: Vec<&str> =
        table.lines().filter(|row| row.contains("|  |") && !row.contains("ca_file")).collect();
    let silent: Vec<&&str> = silent
        .iter()
        .filter(|row| !["server.public.url", "store.escrow_path"].iter().any(|key| row.contains(key)))
        .collect();
    assert!(silent.is_empty(), "{silent:#?}");
}

/// Every example on the page is read, as it stands there.
#[test]
fn the_examples_are_accepted() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let examples: Vec<&str> =
        page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 2, "the page has lost its examples");
    for example in examples {
        // The secret's file is the reader's own.
        let text = example.replace("client_secret_file: /run/secrets/google", "client_secret: s");
        let read = config::parse(&text, None, &config::Environment::default(), &[]);
        assert!(read.is_ok(), "{example}\n{}", read.unwrap_err());
    }
}
