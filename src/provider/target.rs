//! The only way to a URL of a call: what a caller names, held against what a provider's entry says.
//!
//! Owns [`Api`] (hosts, base paths, prefixes and headers, compiled once), [`Target`] (a checked URL, made out for one
//! connection) and [`AuthorizedTarget`] (the same with that connection's token, the only form that can be sent). Knows no
//! network. Invariant: a [`Target`] has exactly the scheme, host, port and base path of its provider's entry, as two URL
//! parsers read it, and takes no token but that of the connection it was made out for.

mod base;
mod compile;
mod path;
mod redirect;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use url::Url;

use super::address::AddressPolicy;
use super::spec::value::Template;
use crate::connection::{ConnectionId, Credential, ProviderKey};
use crate::error::{Refusal, Rule};
use crate::secret::Secret;
use base::{Base, Expected, Place};

/// The longest URL; longer ones are cut or refused by servers on the way.
const LONGEST_URL: usize = 16 * 1024;

/// A provider's API, compiled from its entry (`api`). Clones share it.
#[derive(Clone, Debug)]
pub struct Api(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    provider: ProviderKey,
    bases: Vec<Base>,
    prefixes: Vec<String>,
    /// Those that a connection fills.
    variables: BTreeMap<String, Expected>,
    /// Headers with the token in them, filled when a target is authorized.
    with_token: Vec<(HeaderName, Template)>,
    /// The other headers of the entry.
    fields: Vec<(HeaderName, Template)>,
    addresses: AddressPolicy,
}

/// A call as its caller describes it.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Whose token will go with it, and whose values fill the provider's variables.
    pub connection: &'a ConnectionId,
    /// The HTTP method, upper case.
    pub method: &'a str,
    /// Which of the provider's hosts; `None`: the first.
    pub host: Option<&'a str>,
    /// The path below the provider's base, starting with `/`. Percent triplets stay as they are.
    pub path: &'a str,
    /// Query parameters, not encoded.
    pub query: &'a [(String, String)],
    /// The connection's values for the provider's variables.
    pub variables: &'a BTreeMap<String, String>,
}

/// A call that keeps every rule but those that hang on its connection's values: what is left is to see which host these
/// make.
#[derive(Clone)]
pub struct Draft {
    api: Api,
    connection: ConnectionId,
    method: Method,
    host: Option<String>,
    /// Path and query, encoded.
    tail: String,
}

/// A checked URL and method of one provider, made out for one connection. Nothing can be sent to it before it is
/// authorized.
#[derive(Clone)]
pub struct Target {
    api: Api,
    connection: ConnectionId,
    method: Method,
    place: Place,
    url: Url,
    hops: u8,
}

/// A target with its connection's token: what the HTTP client takes.
pub struct AuthorizedTarget {
    target: Target,
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Api {
    /// Which provider's it is.
    pub fn provider(&self) -> &ProviderKey {
        &self.0.provider
    }

    /// Whether the provider's entry names a host at all.
    pub fn is_there(&self) -> bool {
        !self.0.bases.is_empty()
    }

    /// The addresses at which its hosts may be: for the resolver of the client that calls it.
    pub fn addresses(&self) -> &AddressPolicy {
        &self.0.addresses
    }

    /// Whether the entry or the token fills this header, so that callers may not: those with the token or with a
    /// connection's value. (A fixed one is a default, which a caller's own replaces.)
    pub(in crate::provider) fn owns_field(&self, name: &HeaderName) -> bool {
        // Many servers hand both spellings to their programs as one.
        let folded = |name: &HeaderName| name.as_str().replace('_', "-");
        let asked = folded(name);
        let is = |(own, _): &&(HeaderName, Template)| folded(own) == asked;
        self.0.with_token.iter().any(|field| is(&field))
            || self.0.fields.iter().find(is).is_some_and(|(_, value)| value.names().next().is_some())
    }

    /// The headers of the entry without the token, filled from the connection's values.
    pub(in crate::provider) fn fields(
        &self,
        values: &BTreeMap<String, String>,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, Refusal> {
        let fields = self.0.fields.iter().map(|(name, template)| {
            let text = base::fill(template, |variable| {
                base::value(variable, values, &self.0.variables).map(str::to_owned)
            })?;
            let value = HeaderValue::from_str(&text).map_err(|_| {
                let why = format!("a connection's value in {name} holds a character that no header may hold");
                Refusal::new(Rule::VariableValue, why)
            })?;
            Ok((name.clone(), value))
        });
        fields.collect()
    }

    /// The URL and method of a call.
    ///
    /// # Errors
    /// The rule that the call breaks. Nothing was sent.
    pub fn target(&self, request: &Request<'_>) -> Result<Target, Refusal> {
        self.draft(request)?.target(request.variables)
    }

    /// Whether where a call goes hangs on its connection's values.
    pub(in crate::provider) fn needs_values(&self) -> bool {
        self.0.bases.iter().any(|base| !base.is_fixed())
    }

    /// The same without a look at the connection's values.
    ///
    /// # Errors
    /// The rule that the call breaks whatever they are.
    pub fn draft(&self, request: &Request<'_>) -> Result<Draft, Refusal> {
        if request.connection.provider != self.0.provider {
            return Err(Refusal::new(
                Rule::Credential,
                "the connection belongs to another provider than the call",
            ));
        }
        let method = method(request.method)?;
        let mut tail = path::encoded(request.path)?;
        self.check_prefix(&tail)?;
        push_query(&mut tail, request.query)?;
        let (api, connection, host) =
            (self.clone(), request.connection.clone(), request.host.map(str::to_owned));
        Ok(Draft { api, connection, method, host, tail })
    }

    fn place(&self, host: Option<&str>, values: &BTreeMap<String, String>) -> Result<Place, Refusal> {
        let Compiled { bases, variables, .. } = &*self.0;
        if bases.is_empty() {
            return Err(Refusal::new(
                Rule::NoApi,
                "the provider's entry names no host of its API; write api.hosts",
            ));
        }
        let Some(host) = host else {
            return match bases.iter().find(|base| !base.is_wild()) {
                Some(base) => base.place(values, variables).map(Cow::into_owned),
                None => Err(self.no_host("the provider has many hosts and the call names none")),
            };
        };
        let host = host.to_ascii_lowercase();
        let mut unfilled = None;
        for base in bases {
            match base.place(values, variables) {
                Ok(place) if place.covers(&host) => return Ok(place.at(&host)),
                Ok(_) => {}
                Err(refusal) => drop(unfilled.get_or_insert(refusal)),
            }
        }
        Err(unfilled.unwrap_or_else(|| self.no_host("the host is none of the provider's")))
    }

    fn no_host(&self, what: &str) -> Refusal {
        let hosts: Vec<&str> = self.0.bases.iter().map(Base::shown).collect();
        Refusal::new(Rule::Host, format!("{what}; accepted: {}", hosts.join(", ")))
    }

    fn check_prefix(&self, path: &str) -> Result<(), Refusal> {
        let prefixes = &self.0.prefixes;
        if prefixes.is_empty() || prefixes.iter().any(|prefix| path::is_below(path, prefix)) {
            return Ok(());
        }
        let why = format!(
            "the path is outside what the provider's entry allows; accepted: {}",
            prefixes.join(", ")
        );
        Err(Refusal::new(Rule::PathPrefix, why))
    }
}

impl Draft {
    /// The URL and method for a connection with these values.
    ///
    /// # Errors
    /// The rule that they break, or the host that the call names.
    pub fn target(&self, values: &BTreeMap<String, String>) -> Result<Target, Refusal> {
        let place = self.api.place(self.host.as_deref(), values)?;
        let mut text = place.origin();
        text.push_str(&place.path);
        text.push_str(&self.tail);
        let url = confirmed(&text, &place)?;
        let (api, connection, method) = (self.api.clone(), self.connection.clone(), self.method.clone());
        Ok(Target { api, connection, method, place, url, hops: 0 })
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }
}

impl Target {
    /// Attaches the token. There is no other way to a request, and only the token of the connection that this was made
    /// out for goes: a token of A never reaches a host of B, nor a host that another connection's values made.
    ///
    /// # Errors
    /// The credential is another connection's, or holds what no header can.
    pub fn authorize(self, credential: &Credential<'_>) -> Result<AuthorizedTarget, Refusal> {
        if *credential.of() != self.connection {
            return Err(Refusal::new(
                Rule::Credential,
                "the token belongs to another connection than the call",
            ));
        }
        let token = credential.token().value.expose();
        let fields = self.api.0.with_token.iter().map(|(name, template)| {
            let fill = |variable: &str| (variable == "access_token").then_some(Cow::Borrowed(token.as_str()));
            let text = Secret::new(template.fill(fill));
            let mut value = HeaderValue::from_str(text.expose()).map_err(|_| {
                Refusal::new(Rule::Credential, "the token holds a character that no header may hold")
            })?;
            value.set_sensitive(true);
            Ok((name.clone(), value))
        });
        let fields = fields.collect::<Result<_, Refusal>>()?;
        Ok(AuthorizedTarget { target: self, fields })
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The host, for logs and limits.
    pub fn host(&self) -> &str {
        &self.place.host
    }

    /// The host with its port, for what is true of all that is served there.
    pub fn origin(&self) -> Arc<str> {
        let port = self.place.port.unwrap_or(if self.place.is_https { 443 } else { 80 });
        format!("{}:{port}", self.place.host).into()
    }

    /// The path, base path included, without the query.
    pub fn path(&self) -> &str {
        self.url.path()
    }

    /// The whole URL as text, by which what is remembered of it is found. To be sent to takes more: a token.
    pub fn address(&self) -> &str {
        self.url.as_str()
    }

    /// For which connection it was made out.
    pub fn connection(&self) -> &ConnectionId {
        &self.connection
    }

    /// The host, where it is written as an IP address, about which no resolver is asked.
    pub fn literal(&self) -> Option<IpAddr> {
        self.place.literal
    }
}

impl AuthorizedTarget {
    /// The target without its token, for a redirect or another attempt.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.target.method
    }

    /// The URL.
    pub fn url(&self) -> &Url {
        &self.target.url
    }

    /// Writes the token into a request's headers, over whatever stood there.
    pub fn sign(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.fields {
            headers.insert(name.clone(), value.clone());
        }
    }
}

/// Upper-case tokens (RFC 9110 section 5.6.2) but for those that echo a request, open a tunnel or are no method.
fn method(text: &str) -> Result<Method, Refusal> {
    let is_token = !text.is_empty()
        && text.len() <= 32
        && text
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b));
    let known = Method::from_bytes(text.as_bytes()).ok().filter(|_| is_token);
    match known {
        Some(method) if !["TRACE", "TRACK", "CONNECT", "PRI"].contains(&method.as_str()) => Ok(method),
        Some(_) => Err(Refusal::new(Rule::Method, format!("the method {text} is never sent on"))),
        None => Err(Refusal::new(Rule::Method, "the method is not one; write GET, POST, … in capitals")),
    }
}

fn push_query(out: &mut String, query: &[(String, String)]) -> Result<(), Refusal> {
    let mut before = '?';
    for (name, value) in query {
        if name.is_empty() {
            return Err(Refusal::new(Rule::Query, "a query parameter has no name"));
        }
        out.push(before);
        before = '&';
        let encode = |text| percent_encoding::utf8_percent_encode(text, QUERY);
        out.extend(encode(name.as_str()));
        out.push('=');
        out.extend(encode(value.as_str()));
    }
    Ok(())
}

/// What is encoded of a query's names and values: all but the unreserved characters of RFC 3986 section 2.3.
const QUERY: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Reads the text as those who send it will, and holds the outcome against what it was made from: letter by letter, since
/// a parser that changes anything may change what matters.
fn confirmed(text: &str, place: &Place) -> Result<Url, Refusal> {
    if text.len() > LONGEST_URL {
        return Err(Refusal::new(Rule::UrlLength, "the URL is too long; accepted: up to 16 KiB"));
    }
    let changed = || Refusal::new(Rule::UrlChanged, "the URL, read again, is not the one that was checked");
    let url = Url::parse(text).map_err(|_| changed())?;
    let uri: http::Uri = text.parse().map_err(|_| changed())?;
    let scheme = if place.is_https { "https" } else { "http" };
    let (head, query) = text.split_once('?').map_or((text, None), |(head, query)| (head, Some(query)));
    let path = head.strip_prefix(&place.origin()).ok_or_else(changed)?;
    let is_ours = url.as_str() == text
        && url.scheme() == scheme
        && url.host_str() == Some(place.host.as_str())
        && url.port() == place.port
        && url.username().is_empty()
        && url.password().is_none()
        && url.fragment().is_none()
        && url.path() == path
        && url.query() == query;
    let is_theirs = uri.scheme_str() == Some(scheme)
        && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        && uri.host() == Some(place.host.as_str())
        && uri.port_u16() == place.port
        && uri.path() == path
        && uri.query() == query;
    let is_below_base = path.strip_prefix(&place.path).is_some_and(|below| below.starts_with('/'));
    if is_ours && is_theirs && is_below_base { Ok(url) } else { Err(changed()) }
}

/// Method, scheme, host, port and path; never the query.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({} {})", self.method, &self.url[..url::Position::AfterPath])
    }
}

impl fmt::Debug for AuthorizedTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorized{:?}", self.target)
    }
}

#[cfg(test)]
mod tests;
