//! Following a redirect: the same checks as for a caller's path, held against the same place.

use super::base::{Place, split_port};
use super::{Target, confirmed, path};
use crate::error::{Refusal, Rule};

/// How many redirects are followed, one after the other.
const MOST_HOPS: u8 = 3;

impl Target {
    /// Where a redirect leads: the same method at the same scheme, host and port, below the same base path.
    ///
    /// # Errors
    /// The method is neither GET nor HEAD, it leads elsewhere, or it is the fourth.
    pub fn redirected(&self, location: &str) -> Result<Self, Refusal> {
        if !self.method.is_safe() || self.method == http::Method::OPTIONS {
            return refuse(Rule::RedirectMethod, "only GET and HEAD follow a redirect");
        }
        if self.hops >= MOST_HOPS {
            return refuse(Rule::RedirectHops, "more than 3 redirects, one after the other");
        }
        if location.chars().any(|c| c.is_control() || c.is_whitespace()) || location.contains('\\') {
            return refuse(
                Rule::RedirectLocation,
                "the redirect holds white space, a control character or a backslash",
            );
        }
        let location = location.split('#').next().unwrap_or_default();
        let (head, query) =
            location.split_once('?').map_or((location, None), |(head, query)| (head, Some(query)));
        let head = self.resolve(head)?;
        let Some(below) = head.strip_prefix(&self.place.path).filter(|below| below.starts_with('/')) else {
            return refuse(Rule::PathPrefix, "the redirect leads out of the provider's base path");
        };
        let below = path::encoded(below)?;
        self.api.check_prefix(&below)?;
        let mut text = self.place.origin();
        text.push_str(&self.place.path);
        text.push_str(&below);
        if let Some(query) = query {
            text.push('?');
            text.extend(percent_encoding::utf8_percent_encode(query, WRITTEN));
        }
        let url = confirmed(&text, &self.place)?;
        Ok(Self { url, hops: self.hops + 1, ..self.clone() })
    }

    /// The absolute path that a reference without query and fragment means (RFC 3986 section 5.2), if its origin is ours.
    fn resolve(&self, head: &str) -> Result<String, Refusal> {
        let absolute = match head.split_once(':') {
            Some((scheme, rest)) if is_scheme(scheme) => {
                let ours = if self.place.is_https { "https" } else { "http" };
                if !scheme.eq_ignore_ascii_case(ours) {
                    return refuse(Rule::RedirectOrigin, "the redirect leads to another scheme");
                }
                if !rest.starts_with("//") {
                    return refuse(Rule::RedirectLocation, "the redirect has a scheme and no host");
                }
                rest
            }
            _ => head,
        };
        if let Some(rest) = absolute.strip_prefix("//") {
            let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
            if !is_at(&self.place, authority) {
                return refuse(
                    Rule::RedirectOrigin,
                    "the redirect leads to another host or port; only the same is followed",
                );
            }
            return Ok(path.to_owned());
        }
        if head.starts_with('/') {
            return Ok(head.to_owned());
        }
        let here = self.url.path();
        if head.is_empty() {
            return Ok(here.to_owned());
        }
        let folder = here.rfind('/').map_or("/", |at| &here[..=at]);
        Ok(format!("{folder}{head}"))
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

/// Whether an authority, in whatever case, is the place's own. One with user information never is.
fn is_at(place: &Place, authority: &str) -> bool {
    let authority = authority.to_ascii_lowercase();
    let own_port = if place.is_https { 443 } else { 80 };
    split_port(&authority)
        .is_ok_and(|(host, port)| host == place.host && port.filter(|port| *port != own_port) == place.port)
}

/// A query that a server wrote stays as it is, but for what cannot stand in a URL.
const WRITTEN: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'\'')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}')
    .add(b'^')
    .add(b'[')
    .add(b']');

fn refuse<T>(rule: Rule, why: &'static str) -> Result<T, Refusal> {
    Err(Refusal::new(rule, why))
}
