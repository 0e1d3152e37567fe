//! Header fields of an answer: what belongs to the connection, to browsers or to us is taken out.

use std::borrow::Cow;
use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::{CONNECTION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::connection::AccessToken;

/// Fields between two neighbours (RFC 9110 section 7.6.1, RFC 9113 section 8.2.2), and those of a browser.
const TAKEN_OUT: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "set-cookie",
    "set-cookie2",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The fields as the caller may see them, repeated ones repeated and in order. Gone are the connection's own and every one
/// that `connection` names, cookies, and whatever echoes the token; of a challenge the scheme is left.
pub fn incoming(headers: &HeaderMap, token: &AccessToken) -> HeaderMap {
    let named = named_by_connection(headers);
    let spellings = spellings(token.value.expose());
    let mut out = HeaderMap::with_capacity(headers.keys_len());
    for (name, value) in headers {
        if TAKEN_OUT.contains(&name.as_str()) || named.contains(name.as_str()) {
            continue;
        }
        if name == WWW_AUTHENTICATE {
            append_schemes(&mut out, value);
        } else if !echoes(value.as_bytes(), &spellings) {
            out.append(name.clone(), value.clone());
        }
    }
    out
}

fn named_by_connection(headers: &HeaderMap) -> BTreeSet<String> {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .map(|name| name.as_str().to_owned())
        .collect()
}

/// Realm, scope and description are the provider's words to a client that holds the token; the caller does not.
fn append_schemes(out: &mut HeaderMap, value: &HeaderValue) {
    let Ok(text) = value.to_str() else { return };
    for scheme in schemes(text) {
        if let Ok(value) = HeaderValue::from_str(scheme) {
            out.append(WWW_AUTHENTICATE, value);
        }
    }
}

/// The schemes of a list of challenges (RFC 9110 section 11.6.1): a list item that begins with a token and no `=`.
fn schemes(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let (mut start, mut is_quoted, mut is_escaped) = (0, false, false);
    for (at, c) in text.char_indices().chain([(text.len(), ',')]) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted || at == text.len() => {
                let item = text.get(start..at).unwrap_or_default().trim();
                let end = item.find([' ', '\t', '=']).unwrap_or(item.len());
                let (word, rest) = item.split_at(end);
                let is_parameter = rest.trim_start().starts_with('=');
                if !word.is_empty()
                    && !is_parameter
                    && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                {
                    found.push(word);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

/// The ways in which a token comes back: as it is, encoded for a URL, and in base64 by itself.
fn spellings(token: &str) -> Vec<String> {
    if token.is_empty() {
        return Vec::new();
    }
    let encoded = percent_encoding::utf8_percent_encode(token, percent_encoding::NON_ALPHANUMERIC);
    let mut spellings = vec![
        token.to_owned(),
        STANDARD.encode(token).trim_end_matches('=').to_owned(),
        URL_SAFE_NO_PAD.encode(token),
        encoded.to_string(),
    ];
    spellings.dedup();
    spellings
}

fn echoes(value: &[u8], spellings: &[String]) -> bool {
    let decoded = percent_encoding::percent_decode(value).into();
    let decoded: &Cow<'_, [u8]> = &decoded;
    spellings.iter().any(|spelling| {
        let holds = |text: &[u8]| text.windows(spelling.len()).any(|part| part == spelling.as_bytes());
        holds(value) || holds(decoded)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_challenges_is_its_schemes() {
        for (text, expected) in [
            ("Bearer", vec!["Bearer"]),
            ("Bearer realm=\"a, b\", error=\"x\"", vec!["Bearer"]),
            ("Basic realm=\"x\", Bearer scope=\"a\", charset=\"UTF-8\"", vec!["Basic", "Bearer"]),
            ("Negotiate, Basic", vec!["Negotiate", "Basic"]),
            ("Bearer realm=\"unclosed, Basic", vec!["Bearer"]),
            ("error = \"x\"", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(schemes(text), expected, "{text}");
        }
    }
}
