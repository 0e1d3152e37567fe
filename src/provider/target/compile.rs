//! From a provider's entry to its [`Api`]. Owns the mistakes that an entry's `api` can hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderName;

use super::base::{Base, Expected};
use super::{Api, Compiled, path};
use crate::connection::ProviderKey;
use crate::error::Mistake;
use crate::provider::address::AddressPolicy;
use crate::provider::spec::ProviderSpec;
use crate::provider::spec::place::VariableSource;
use crate::provider::spec::value::Template;
use crate::provider::url::PlainHttp;

/// The one name in a header's template that no variable fills.
const TOKEN: &str = "access_token";

impl Api {
    /// Compiles the `api` of an entry whose configured variables are filled.
    ///
    /// # Errors
    /// Every mistake, each with its path inside the entry.
    pub fn compile(provider: &ProviderKey, spec: &ProviderSpec) -> Result<Self, Vec<Mistake>> {
        let (compiled, found) = read(provider, spec);
        if found.is_empty() { Ok(Self(Arc::new(compiled))) } else { Err(found) }
    }

    /// Every mistake in the `api` of an entry.
    pub(in crate::provider) fn mistakes(spec: &ProviderSpec) -> Vec<Mistake> {
        // Which provider's it is makes no difference here.
        ProviderKey::parse("check").map_or_else(|mistake| vec![mistake], |key| read(&key, spec).1)
    }
}

/// What can be compiled, and what is wrong with the rest.
fn read(provider: &ProviderKey, spec: &ProviderSpec) -> (Compiled, Vec<Mistake>) {
    let mut found = Vec::new();
    let variables = variables(spec);
    let addresses = addresses(spec, &mut found);
    let plain = PlainHttp::from_flag(spec.allow_http);
    let mut bases = Vec::new();
    for (index, host) in spec.api.hosts.iter().enumerate() {
        match Base::compile(host, &variables, plain) {
            Ok(base) => bases.push(base),
            Err(why) => add(&mut found, format!("api.hosts[{index}]"), why),
        }
    }
    let addresses = addresses.with_written(&mut bases.iter().filter_map(Base::fixed_host));
    for (index, base) in bases.iter().enumerate() {
        if let Some(class) = base.literal().and_then(|address| addresses.check(address).err()) {
            let why = format!("is {class}; where it is meant, write its network into api.allow_networks");
            add(&mut found, format!("api.hosts[{index}]"), why);
        }
    }
    let addresses = addresses.with_literals(bases.iter().filter_map(Base::written));
    let prefixes = prefixes(spec, &mut found);
    let (with_token, fields) = fields(spec, &variables, &mut found);
    let provider = provider.clone();
    (Compiled { provider, bases, prefixes, variables, with_token, fields, addresses }, found)
}

/// The variables that a connection fills. Those without a pattern fit nothing.
fn variables(spec: &ProviderSpec) -> BTreeMap<String, Expected> {
    let filled = spec.variables.iter().filter_map(|(name, variable)| {
        let is_given = match variable.from {
            VariableSource::Input => true,
            VariableSource::Token => false,
            _ => return None,
        };
        let (pattern, default) = (variable.pattern.clone()?, variable.default.clone());
        Some((name.clone(), Expected { pattern, default, is_given }))
    });
    filled.collect()
}

fn addresses(spec: &ProviderSpec, found: &mut Vec<Mistake>) -> AddressPolicy {
    let mut networks = Vec::new();
    for (key, texts) in
        [("allow_networks", &spec.allow_networks), ("api.allow_networks", &spec.api.allow_networks)]
    {
        for (index, text) in texts.iter().enumerate() {
            match text.parse() {
                Ok(network) => networks.push(network),
                Err(why) => add(found, format!("{key}[{index}]"), format!("{why}")),
            }
        }
    }
    AddressPolicy::new(networks)
}

fn prefixes(spec: &ProviderSpec, found: &mut Vec<Mistake>) -> Vec<String> {
    let mut prefixes = Vec::new();
    for (index, prefix) in spec.api.path_prefixes.iter().enumerate() {
        match path::encoded(prefix) {
            Ok(encoded) => prefixes.push(encoded),
            Err(refusal) => add(found, format!("api.path_prefixes[{index}]"), refusal.to_string()),
        }
    }
    prefixes
}

type Fields = Vec<(HeaderName, Template)>;

/// The entry's headers: those with the token, and the others.
fn fields(
    spec: &ProviderSpec,
    variables: &BTreeMap<String, Expected>,
    found: &mut Vec<Mistake>,
) -> (Fields, Fields) {
    let (mut with_token, mut others) = (Fields::new(), Fields::new());
    let mut take = |path: String, name: &str, value: &Template, found: &mut Vec<Mistake>| {
        for unknown in value.names().filter(|name| *name != TOKEN && !variables.contains_key(*name)) {
            add(found, path.clone(), format!("nothing fills {{{unknown}}}; known here: {TOKEN}"));
        }
        let holds_token = value.names().any(|name| name == TOKEN);
        if holds_token && value.names().any(|name| name != TOKEN) {
            let why = format!(
                "holds {{{TOKEN}}} beside something else that is to be filled; only one of them is supported"
            );
            add(found, path.clone(), why);
        }
        if http::HeaderValue::from_str(value.as_str()).is_err() {
            add(found, path.clone(), "holds a character that no header may hold".to_owned());
        }
        match HeaderName::from_bytes(name.as_bytes()) {
            Err(_) => add(found, path, "is not a header's name".to_owned()),
            Ok(name) if holds_token => with_token.push((name, value.clone())),
            Ok(name) => others.push((name, value.clone())),
        }
    };
    take("api.auth_header".to_owned(), &spec.api.auth_header, &spec.api.auth_value, found);
    for (name, value) in &spec.api.headers {
        take(format!("api.headers.{name}"), name, value, found);
    }
    if !spec.api.auth_value.names().any(|name| name == TOKEN) {
        add(found, "api.auth_value".to_owned(), format!("does not hold {{{TOKEN}}}"));
    }
    (with_token, others)
}

fn add(found: &mut Vec<Mistake>, field: String, message: String) {
    found.push(Mistake { field, message });
}
