//! Header fields of a call, both ways. Owns the list of those that belong to the broker or to the connection between it
//! and the provider. Knows no URL and no body.
//!
//! Invariant: what leaves carries no credential, no framing and no routing of a caller's; what comes back carries neither
//! cookies nor our credential.

mod incoming;

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::target::Api;
use crate::error::{Refusal, Rule};

pub use incoming::incoming;

/// The most fields of a caller's, and the most bytes of names and values together (with 32 for each field, as RFC 9113
/// section 6.5.2 counts).
const MOST_FIELDS: usize = 200;
const MOST_BYTES: usize = 64 * 1024;
const FIELD_OVERHEAD: usize = 32;

/// Fields that a caller may not send, spelled with hyphens: servers that hand fields on as environment variables
/// (RFC 3875 section 4.1.18) take an underscore for one.
const RESERVED: &[&str] = &[
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "cookie2",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "set-cookie",
    "set-cookie2",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
];

/// The same for whole families.
const RESERVED_PREFIXES: &[&str] = &["proxy-", "x-forwarded-"];

/// The fields of a request: the caller's, in order and repeated as given, and those of the provider's entry.
///
/// # Errors
/// The rule that a field breaks. Values are never told.
pub fn outgoing<'f>(
    api: &Api,
    fields: impl IntoIterator<Item = (&'f str, &'f str)>,
    variables: &BTreeMap<String, String>,
) -> Result<HeaderMap, Refusal> {
    let mut headers = given(api, fields)?;
    complete(api, &mut headers, variables)?;
    Ok(headers)
}

/// The caller's fields.
///
/// # Errors
/// The rule that one breaks.
pub(in crate::provider) fn given<'f>(
    api: &Api,
    fields: impl IntoIterator<Item = (&'f str, &'f str)>,
) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::new();
    let (mut count, mut bytes) = (0, 0);
    for (name, value) in fields {
        count += 1;
        bytes += name.len() + value.len() + FIELD_OVERHEAD;
        if count > MOST_FIELDS || bytes > MOST_BYTES {
            let why = format!(
                "the header fields are too many or too large; accepted: {MOST_FIELDS} of 64 KiB together"
            );
            return Err(Refusal::new(Rule::HeaderSize, why));
        }
        let name = checked_name(name)?;
        if is_reserved(name.as_str()) || api.owns_field(&name) {
            let why = format!("the header field {name} belongs to the broker; leave it out");
            return Err(Refusal::new(Rule::HeaderReserved, why));
        }
        let value = checked_value(&name, value)?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Adds those of the provider's entry, filled with the connection's values.
///
/// # Errors
/// A value is missing or does not fit.
pub(in crate::provider) fn complete(
    api: &Api,
    headers: &mut HeaderMap,
    variables: &BTreeMap<String, String>,
) -> Result<(), Refusal> {
    for (name, value) in api.fields(variables)? {
        if !headers.contains_key(&name) {
            headers.insert(name, value);
        }
    }
    Ok(())
}

fn checked_name(name: &str) -> Result<HeaderName, Refusal> {
    // The parser of names takes capitals for small letters, as RFC 9110 section 5.1 says.
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
        let why = if name.starts_with(':') {
            "a pseudo-header is not a header field; method, path and host have places of their own"
        } else {
            "the name of a header field is not one; accepted: letters, digits and !#$%&'*+-.^_`|~"
        };
        Refusal::new(Rule::HeaderName, why)
    })
}

/// Visible characters, spaces and tabs inside, and whatever is not ASCII as UTF-8 (RFC 9110 section 5.5).
fn checked_value(name: &HeaderName, value: &str) -> Result<HeaderValue, Refusal> {
    let is_clean = value.trim_matches([' ', '\t']).len() == value.len()
        && !value.chars().any(|c| c.is_control() && c != '\t');
    HeaderValue::from_bytes(value.as_bytes()).ok().filter(|_| is_clean).ok_or_else(|| {
        let why = format!(
            "the value of the header field {name} holds a line break, a control character or white space around it"
        );
        Refusal::new(Rule::HeaderValue, why)
    })
}

fn is_reserved(name: &str) -> bool {
    let name = name.replace('_', "-");
    RESERVED.contains(&name.as_str()) || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests;
