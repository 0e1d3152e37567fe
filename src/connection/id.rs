//! The names of things, parsed once at the door.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Mistake;

/// A configured provider's key: 1–64 bytes of `[a-z0-9-]`, starting with a letter (`google`, `github-acme`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProviderKey(String);

/// A connection's name within tenant and provider, chosen by the app: 1–256 bytes of `[A-Za-z0-9._:@/+-]`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConnectionName(String);

/// An optional namespace for connections: empty, or as [`ConnectionName`].
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tenant(String);

/// The full name of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnectionId {
    /// The namespace; empty if none was given.
    pub tenant: Tenant,
    /// Which provider.
    pub provider: ProviderKey,
    /// Which connection at that provider.
    pub name: ConnectionName,
}

const NAME_RULE: &str = "must be 1 to 256 characters of A-Z a-z 0-9 . _ : @ / + -";
/// How the names of what is remembered end. Not of the alphabet that a caller may use.
const ENDED: &str = " ended";
const KEY_RULE: &str = "must be 1 to 64 characters of a-z 0-9 -, starting with a letter";

impl ConnectionId {
    /// Parses the three parts as a request carries them, reporting every mistake together. The strings are moved,
    /// not copied: this is on the hit path.
    pub fn parse(tenant: String, provider: String, name: String) -> Result<Self, Vec<Mistake>> {
        let mut mistakes = Vec::new();
        if !is_key(&provider) {
            mistakes.push(mistake("provider", &provider, KEY_RULE));
        }
        if !is_name(&name) {
            mistakes.push(mistake("connection", &name, NAME_RULE));
        }
        if !tenant.is_empty() && !is_name(&tenant) {
            mistakes.push(mistake("tenant", &tenant, NAME_RULE));
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(Self { tenant: Tenant(tenant), provider: ProviderKey(provider), name: ConnectionName(name) })
    }

    /// Where the history of this connection lies once it is no more. No caller can say that name: it has a space.
    pub fn ended(&self) -> Self {
        Self { name: ConnectionName(format!("{}{ENDED}", self.name)), ..self.clone() }
    }

    /// Whether this is the name of such a history, and of no connection.
    pub fn is_ended(&self) -> bool {
        self.name.as_str().ends_with(ENDED)
    }
}

/// `provider connection`, with the tenant in brackets if there is one.
impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.provider, self.name)?;
        if self.tenant.as_str().is_empty() { Ok(()) } else { write!(f, " [{}]", self.tenant) }
    }
}

impl ProviderKey {
    /// Parses a key; the error says what is accepted.
    pub fn parse(raw: &str) -> Result<Self, Mistake> {
        if is_key(raw) { Ok(Self(raw.to_owned())) } else { Err(mistake("provider", raw, KEY_RULE)) }
    }

    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ConnectionName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tenant {
    /// Parses a tenant; empty means none.
    pub fn parse(raw: &str) -> Result<Self, Mistake> {
        if raw.is_empty() || is_name(raw) {
            Ok(Self(raw.to_owned()))
        } else {
            Err(mistake("tenant", raw, NAME_RULE))
        }
    }

    /// The name; empty if none.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_key(raw: &str) -> bool {
    raw.len() <= 64
        && raw.starts_with(|c: char| c.is_ascii_lowercase())
        && raw.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_name(raw: &str) -> bool {
    const ACCEPTED: [bool; 256] = {
        let mut table = [false; 256];
        let bytes = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:@/+-";
        let mut i = 0;
        while i < bytes.len() {
            table[bytes[i] as usize] = true;
            i += 1;
        }
        table
    };
    (1..=256).contains(&raw.len()) && raw.bytes().all(|b| ACCEPTED[usize::from(b)])
}

fn mistake(field: &str, raw: &str, rule: &str) -> Mistake {
    let message = if raw.is_empty() { format!("is empty; it {rule}") } else { rule.to_owned() };
    Mistake { field: field.to_owned(), message }
}

macro_rules! prints_as_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
prints_as_text!(ProviderKey, ConnectionName, Tenant);

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(tenant: &str, provider: &str, name: &str) -> Result<ConnectionId, Vec<Mistake>> {
        ConnectionId::parse(tenant.into(), provider.into(), name.into())
    }

    #[test]
    fn names_of_the_accepted_alphabet_parse() {
        let id = parse("acme", "github-app", "org-7/user.42+x:y_z@h").unwrap();
        assert_eq!(id.to_string(), "github-app org-7/user.42+x:y_z@h [acme]");
        assert!(parse("", "a", &"x".repeat(256)).is_ok());
    }

    #[test]
    fn what_is_remembered_of_a_connection_lies_where_no_caller_can_ask_for_it() {
        let id = parse("acme", "google", &"x".repeat(256)).unwrap();
        let ended = id.ended();
        assert!(ended.is_ended() && !id.is_ended());
        assert!(parse("acme", "google", ended.name.as_str()).is_err());
        assert_eq!((&ended.tenant, &ended.provider), (&id.tenant, &id.provider));
    }

    #[test]
    fn every_mistake_is_reported_together() {
        let mistakes = parse("white space", "", "ünï").unwrap_err();
        let fields: Vec<_> = mistakes.iter().map(|m| m.field.as_str()).collect();
        assert_eq!(fields, ["provider", "connection", "tenant"]);
    }

    #[test]
    fn names_outside_the_rule_are_refused() {
        for (provider, name) in
            [("Google", "a"), ("1x", "a"), ("a", ""), ("a", "a\n"), ("a", "a b"), ("a_b", "a")]
        {
            assert!(parse("", provider, name).is_err(), "{provider:?} {name:?}");
        }
        assert!(parse("", "a", &"x".repeat(257)).is_err());
        assert!(parse("", &"a".repeat(65), "x").is_err());
    }
}
