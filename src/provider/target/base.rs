//! Where a provider's API is: an entry of `api.hosts`, compiled. Owns what such an entry may say and how a connection's
//! own values go into it. Knows no path of a call.
//!
//! Invariant: a [`Place`] has a scheme that may be used, a host in one spelling, and a base path that needs no encoding; a
//! connection's value never makes an address literal, a port, a path or a name of this machine.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::path;
use crate::error::{Refusal, Rule};
use crate::provider::spec::value::{Pattern, Template};
use crate::provider::url::PlainHttp;

/// Hosts that no pattern of a variable at the end of a host may let through: anybody's name, below what anybody can
/// register under.
fn anywhere() -> impl Iterator<Item = String> {
    const NAMES: [&str; 4] = ["evil", "evil-1", "e7", "api.evil"];
    const ENDS: [&str; 12] = [
        "",
        ".example",
        ".example.com",
        ".com",
        ".net",
        ".org",
        ".io",
        ".dev",
        ".app",
        ".co",
        ".co.uk",
        ".cloud",
    ];
    let names = NAMES.into_iter().flat_map(|name| ENDS.map(|end| format!("{name}{end}")));
    let hosts = names.chain(["192.0.2.1".to_owned()]);
    hosts.flat_map(|host| [host.clone(), format!("https://{host}")])
}

const NOT_A_HOST: &str = "is not a host; write api.example.com, *.example.com or https://api.example.com/v1";

/// What a connection's value for a variable must be.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) pattern: Pattern,
    /// Taken where the connection has none.
    pub(super) default: Option<String>,
    /// Whether the app gives it, and not the provider.
    pub(super) is_given: bool,
}

/// Scheme, host, port and base path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) is_https: bool,
    /// In small letters; brackets around IPv6. Behind the star where `is_wild`.
    pub(super) host: String,
    /// The address, where the host is one.
    pub(super) literal: Option<IpAddr>,
    /// Whether one label stands before `host`.
    pub(super) is_wild: bool,
    /// Where it is not the scheme's own.
    pub(super) port: Option<u16>,
    /// Empty, or starting with a slash and not ending with one.
    pub(super) path: String,
}

/// An entry of `api.hosts`.
#[derive(Clone, Debug)]
pub(super) struct Base {
    scheme: Option<bool>,
    authority: Template,
    path: Template,
    plain: PlainHttp,
    /// Where nothing of it depends on the connection.
    fixed: Option<Place>,
}

impl Base {
    /// Compiles an entry; `variables` are those that a connection fills.
    ///
    /// # Errors
    /// A fragment of a sentence: what is wrong and what is accepted.
    pub(super) fn compile(
        entry: &Template,
        variables: &BTreeMap<String, Expected>,
        plain: PlainHttp,
    ) -> Result<Self, String> {
        let text = entry.as_str();
        let (scheme, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (Some(true), rest),
            (_, Some(rest)) => (Some(false), rest),
            _ if text.contains("://") => return Err(NOT_A_HOST.to_owned()),
            _ => (None, text),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (authority, path) = (Template::new(authority), Template::new(path));
        let mut base = Self { scheme, authority, path, plain, fixed: None };
        if base.authority.names().chain(base.path.names()).next().is_none() {
            base.fixed = Some(base.read(base.authority.as_str(), base.path.as_str())?);
            return Ok(base);
        }
        for name in base.authority.names() {
            let expected = variables.get(name).ok_or_else(|| format!("nothing fills {{{name}}}"))?;
            base.check_pattern(name, &expected.pattern)?;
        }
        // What will be filled in is held against its pattern then; the rest can be looked at now.
        let sample = |_: &str| Some(Cow::Borrowed("x"));
        base.read(&base.authority.fill(sample), &base.path.fill(sample))?;
        Ok(base)
    }

    /// Where it is for a connection with these values.
    ///
    /// # Errors
    /// A value is missing, or would reach out of its place.
    pub(super) fn place(
        &self,
        values: &BTreeMap<String, String>,
        variables: &BTreeMap<String, Expected>,
    ) -> Result<Cow<'_, Place>, Refusal> {
        if let Some(place) = &self.fixed {
            return Ok(Cow::Borrowed(place));
        }
        // Some providers tell a whole origin. Its scheme is looked through where the value is all of the authority.
        let is_all = self.scheme.is_none()
            && self
                .authority
                .names()
                .next()
                .is_some_and(|name| self.authority.as_str().len() == name.len() + 2);
        let authority = fill(&self.authority, |name| {
            let value = value(name, values, variables)?;
            let host = value.strip_prefix("https://").filter(|_| is_all).unwrap_or(value);
            if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.') {
                return Err(reaches_out(name));
            }
            Ok(host.to_ascii_lowercase())
        })?;
        let path = fill(&self.path, |name| {
            let value = value(name, values, variables)?;
            let is_plain = value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
            if value.bytes().all(|b| b == b'.') || !is_plain {
                return Err(reaches_out(name));
            }
            Ok(value.to_owned())
        })?;
        let place = self.read(&authority, &path).map_err(|_| {
            Refusal::new(Rule::VariableValue, "the connection's values do not make a host that may be called")
        })?;
        let is_from_connection = self.authority.names().next().is_some();
        if is_from_connection && (place.literal.is_some() || place.is_this_machine()) {
            return Err(Refusal::new(
                Rule::VariableValue,
                "the connection's values make an address or a name of this machine; only public names are accepted",
            ));
        }
        Ok(Cow::Owned(place))
    }

    /// Whether it is the same for every connection.
    pub(super) fn is_fixed(&self) -> bool {
        self.fixed.is_some()
    }

    /// Whether callers must say which host they mean.
    pub(super) fn is_wild(&self) -> bool {
        self.authority.as_str().starts_with("*.")
    }

    /// The host, where it is written in the entry.
    pub(super) fn fixed_host(&self) -> Option<&str> {
        self.fixed.as_ref().map(|place| place.host.as_str())
    }

    /// The address that is written in the entry, unless it is this machine's own.
    pub(super) fn literal(&self) -> Option<IpAddr> {
        self.fixed.as_ref().filter(|place| !place.is_this_machine())?.literal
    }

    /// The address that stands in the place of a host, whatever it is.
    pub(super) fn written(&self) -> Option<IpAddr> {
        self.fixed.as_ref()?.literal
    }

    /// The entry's host, for people.
    pub(super) fn shown(&self) -> &str {
        self.authority.as_str()
    }

    /// A pattern that keeps a value at the end of a host among the provider's own hosts.
    fn check_pattern(&self, name: &str, pattern: &Pattern) -> Result<(), String> {
        let behind = self.authority.as_str().rsplit('}').next().unwrap_or_default();
        let is_anchored =
            behind.split(['.', ':']).filter(|label| !label.starts_with(|c: char| c.is_ascii_digit())).count()
                >= 3;
        let is_last = self.authority.names().last() == Some(name);
        if is_last && !is_anchored && anywhere().any(|host| pattern.matches_all(&host)) {
            return Err(format!(
                "ends with {{{name}}}, whose pattern lets any host through; write the provider's own domain into it"
            ));
        }
        Ok(())
    }

    fn read(&self, authority: &str, path: &str) -> Result<Place, String> {
        let (is_wild, authority) = match authority.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, authority),
        };
        let (host, port) = split_port(authority)?;
        let literal = literal(host);
        if literal.is_none() && !is_name(host) || is_wild && literal.is_some() {
            return Err(NOT_A_HOST.to_owned());
        }
        let is_https = self.scheme.unwrap_or(true);
        let mut place = Place {
            is_https,
            host: host.to_owned(),
            literal,
            is_wild,
            port: port.filter(|port| *port != if is_https { 443 } else { 80 }),
            path: path.trim_end_matches('/').to_owned(),
        };
        if let Some(IpAddr::V6(address)) = literal {
            place.host = format!("[{address}]");
        }
        if !is_https && self.plain == PlainHttp::LoopbackOnly && !place.is_this_machine() {
            return Err("must be https:// (http:// only to this machine, or with allow_http: true)".into());
        }
        if !place.path.is_empty() && path::encoded(&place.path).as_ref() != Ok(&place.path) {
            return Err("has a path that cannot stand in a URL as it is".into());
        }
        Ok(place)
    }
}

impl Place {
    /// Whether it is written as an address or as the name of this machine.
    pub(super) fn is_this_machine(&self) -> bool {
        match self.literal {
            Some(address) => address.is_loopback(),
            None => self.host == "localhost" || self.host.ends_with(".localhost"),
        }
    }

    /// Whether it is the host that a caller names, or covers it.
    pub(super) fn covers(&self, host: &str) -> bool {
        if !self.is_wild {
            return self.host == host;
        }
        host.split_once('.').is_some_and(|(label, rest)| rest == self.host && is_label(label))
    }

    /// The same for one of the hosts that it covers.
    pub(super) fn at(&self, host: &str) -> Self {
        Self { host: host.to_owned(), is_wild: false, ..self.clone() }
    }

    /// Scheme and authority, as a URL begins.
    pub(super) fn origin(&self) -> String {
        let scheme = if self.is_https { "https" } else { "http" };
        match self.port {
            Some(port) => format!("{scheme}://{}:{port}", self.host),
            None => format!("{scheme}://{}", self.host),
        }
    }
}

/// Host and port of an authority without user information.
pub(super) fn split_port(authority: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let is_number =
        |port: &&str| !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
    match port {
        None => Ok((host, None)),
        Some(port) => match Some(port).filter(is_number).and_then(|port| port.parse().ok()) {
            Some(port) if port > 0 => Ok((host, Some(port))),
            _ => Err("has a port that is none; accepted: 1 to 65535".into()),
        },
    }
}

/// The address that a host is, in the one spelling that everybody reads alike.
fn literal(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// A name of the DNS in small letters. The last label holds a letter, so that no reader takes it for a number.
pub(super) fn is_name(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= 253
        && host.split('.').all(is_label)
        && !last.bytes().all(|b| b.is_ascii_digit())
        && !last.starts_with("0x")
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A connection's value, or the entry's default, held against its pattern.
pub(super) fn value<'v>(
    name: &str,
    values: &'v BTreeMap<String, String>,
    variables: &'v BTreeMap<String, Expected>,
) -> Result<&'v str, Refusal> {
    let Some(expected) = variables.get(name) else {
        // Compiling found something to fill each name.
        return Err(Refusal::new(Rule::VariableMissing, format!("nothing fills {{{name}}}")));
    };
    let pattern = expected.pattern.as_str();
    let Some(value) = values.get(name).or(expected.default.as_ref()) else {
        let how = if expected.is_given {
            format!("connect it again and give variables.{name}")
        } else {
            "refresh it or connect it again, so that the provider tells one".to_owned()
        };
        let why = format!("the connection has no value for {name} that fits {pattern}; {how}");
        return Err(Refusal::new(Rule::VariableMissing, why));
    };
    if expected.pattern.matches_all(value) {
        return Ok(value);
    }
    let why = format!(
        "the connection's value for {name} does not fit the pattern of the provider's entry, {pattern}"
    );
    Err(Refusal::new(Rule::VariableValue, why))
}

fn reaches_out(name: &str) -> Refusal {
    Refusal::new(
        Rule::VariableValue,
        format!("the connection's value for {name} would reach out of its place in the URL"),
    )
}

/// Fills a template, or says why a value may not go into it.
pub(super) fn fill(
    template: &Template,
    mut value: impl FnMut(&str) -> Result<String, Refusal>,
) -> Result<String, Refusal> {
    let mut refused = None;
    let text = template.fill(|name| match value(name) {
        Ok(value) => Some(Cow::Owned(value)),
        Err(refusal) => {
            refused.get_or_insert(refusal);
            None
        }
    });
    refused.map_or(Ok(text), Err)
}
