//! Raw text to [`Config`]. Owns the shape of the one YAML file, what the environment and flags may change in it, and
//! the sentences that say what is wrong. Does not know what the values are used for, opens no socket, asks no network.
//! Invariant: either there is a [`Config`] in which every value is checked and knows where it came from, or there is
//! a [`ConfigError`] with *every* mistake; no secret is in it, nor in anything that prints.
//!
//! The way of a text: YAML with places (`tree`) → environment and flags laid over it (`environment`) → secrets
//! taken out (`secret_file`) → JSON, checked against the schema that the sections' own types make (`validate`) →
//! what is wrong taken out, the rest read into the sections → each section's own check. So a mistake in one place
//! hides none in another.

mod effective;
mod environment;
mod finding;
mod http;
mod key_path;
mod log;
mod plain;
mod provider;
mod refresh;
mod schema;
mod seal;
mod secret_file;
mod server;
mod store;
mod suggest;
mod tree;
mod validate;
mod value;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

pub use effective::{EffectiveValue, effective};
pub use environment::{Environment, Override};
pub use finding::{ConfigError, Finding, Origin};
pub use http::Http;
pub use log::{Log, LogFormat};
pub use refresh::Refresh;
pub use schema::json_schema;
pub use seal::Seal;
pub use server::{Grpc, Ops, Public, Server};
pub use store::{Engine, Store};
pub use suggest::nearest;
pub use value::{
    Authority, BaseUrl, ByteSize, FileMode, Listen, LogFilter, RedirectUri, ReturnUrl, SocketPath,
};

use crate::provider::catalogue::{ProviderConfig, ProviderEntry};
use crate::provider::trust::ExtraAuthorities;
use finding::Found;
use key_path::KeyPath;
use schema::Shape;
use secret_file::Secrets;
use tree::Node;

/// The file that is read when none is named and it is there.
pub const DEFAULT_FILE: &str = "/etc/token-broker/config.yaml";

/// The variable that names the file.
pub const FILE_VARIABLE: &str = "TOKEN_BROKER_CONFIG";

/// The largest file that is read.
const FILE_LIMIT: u64 = 1024 * 1024;

/// The configuration: checked, complete, and without surprises later on.
#[derive(Debug)]
pub struct Config {
    /// The three doors, and how the process lives.
    pub server: Server,
    /// Where connections are kept.
    pub store: Store,
    /// The key under which records are sealed.
    pub seal: Seal,
    /// What is said on stderr.
    pub log: Log,
    /// How the broker speaks to providers.
    pub http: Http,
    /// Who is trusted besides the public authorities: what `http.ca_file` holds.
    pub authorities: ExtraAuthorities,
    /// What is done before anybody has to wait for it.
    pub refresh: Refresh,
    /// The providers, each key once.
    pub providers: Vec<ProviderConfig>,
    /// What works and is probably not meant.
    pub warnings: Vec<Finding>,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    document: Node,
    secret_origins: BTreeMap<KeyPath, Origin>,
}

/// The file as the schema describes it.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Sections {
    /// The three doors, and how the process lives.
    server: Server,
    /// Where connections are kept.
    store: Store,
    /// The key under which records are sealed.
    seal: Seal,
    /// What is said on stderr.
    log: Log,
    /// How the broker speaks to providers.
    http: Http,
    /// What is done before anybody has to wait for it.
    refresh: Refresh,
    /// Whose tokens can be asked for.
    #[schemars(with = "Vec<ProviderEntry>")]
    providers: Vec<Value>,
}

/// The file to read: `flag`, else what `TOKEN_BROKER_CONFIG` names, else `/etc/token-broker/config.yaml` if it is there.
pub fn find_file(flag: Option<&Path>, environment: &Environment) -> Option<PathBuf> {
    let named = flag.map(Path::to_owned).or_else(|| environment.get(FILE_VARIABLE).map(PathBuf::from));
    named.or_else(|| Some(PathBuf::from(DEFAULT_FILE)).filter(|file| file.exists()))
}

/// Reads `file` (none: all defaults), lays the environment and the flags over it, and checks everything. Reads the
/// secret files that it names; binds nothing.
///
/// # Errors
/// Every mistake there is, in one go.
pub fn load(
    file: Option<&Path>,
    environment: &Environment,
    overrides: &[Override],
) -> Result<Config, ConfigError> {
    match file.map(read).transpose() {
        Ok(text) => parse(text.as_deref().map_or("", String::as_str), file, environment, overrides),
        Err(why) => Err(ConfigError {
            file: file.map(Path::to_owned),
            mistakes: vec![Finding { origin: None, path: String::new(), message: why }],
        }),
    }
}

/// As [`load`], of a text that stands in `file`, or in none. Relative paths in it start at the file's directory.
///
/// # Errors
/// Every mistake there is, in one go.
pub fn parse(
    text: &str,
    file: Option<&Path>,
    environment: &Environment,
    overrides: &[Override],
) -> Result<Config, ConfigError> {
    let schema = json_schema();
    let shape = Shape::of(&schema);
    let mut found = Found::default();

    let mut document = tree::parse(text, &mut found);
    if let Some(directory) = file.and_then(Path::parent).filter(|directory| *directory != Path::new("")) {
        plain::anchor_paths(&mut document, &shape, directory);
    }
    environment::apply(&mut document, environment, overrides, &shape, &mut found);
    let mut secrets = Secrets::new();
    secret_file::take(&mut document, &KeyPath::default(), &shape, &mut found, &mut secrets);
    let secret_origins = secrets.iter().map(|(path, taken)| (path.clone(), taken.origin.clone())).collect();

    let mut value = plain::value_of(&document, Some(&shape));
    validate::validate(&mut value, &document, &shape, &mut found);
    let sections = read_sections(value, &mut found);

    let mut later = Found::default();
    let authorities = sections.http.authorities(&mut later);
    sections.server.check(&mut later);
    sections.store.check(&mut later);
    sections.http.check(&mut later);
    sections.refresh.check(&mut later);
    found.add_unsaid(later);
    let providers = provider::resolve(sections.providers, &document, &mut secrets, &mut found);

    let warnings = found.finish(&document, file)?;
    Ok(Config {
        server: sections.server,
        store: sections.store,
        seal: sections.seal,
        log: sections.log,
        http: sections.http,
        authorities,
        refresh: sections.refresh,
        providers,
        warnings,
        file: file.map(Path::to_owned),
        document,
        secret_origins,
    })
}

/// After the schema's check this cannot fail; if a type and its schema disagree, it says so instead of guessing.
fn read_sections(value: Value, found: &mut Found) -> Sections {
    // What is no mapping at all was refused as a whole.
    let value = if value.is_object() { value } else { Value::Object(serde_json::Map::new()) };
    serde_path_to_error::deserialize(value).unwrap_or_else(|error| {
        found.mistake(error.path().to_string().as_str(), "does not fit its own schema, which is a bug");
        Sections::default()
    })
}

fn read(file: &Path) -> Result<Zeroizing<String>, String> {
    let cannot = |error: std::io::Error| format!("the file cannot be read: {error}");
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(file).and_then(|file| file.take(FILE_LIMIT + 1).read_to_end(&mut bytes)).map_err(cannot)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err("the file is larger than 1 MiB, so it is no configuration".to_owned());
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(error) => {
            let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
            Err(format!("the file is not UTF-8 text: see line {line}"))
        }
    }
}
