//! Why a call to a provider's API was not made.

use std::borrow::Cow;
use std::fmt;

/// A call that breaks a rule: nothing was sent. Displays as a sentence that says what is wrong and what is accepted. Holds
/// no value of a header, of the query or of the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    rule: Rule,
    why: Cow<'static, str>,
}

impl Refusal {
    /// A refusal by `rule`; `why` is a whole sentence without its full stop.
    pub fn new(rule: Rule, why: impl Into<Cow<'static, str>>) -> Self {
        Self { rule, why: why.into() }
    }

    /// The rule that was broken.
    pub fn rule(&self) -> Rule {
        self.rule
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (rule {})", self.why, self.rule.as_str())
    }
}

impl std::error::Error for Refusal {}

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $word:literal),+ $(,)?) => {
        /// The rules for calls, each with the word that stands in the metadata `rule` of `REQUEST_REFUSED`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Rule {
            $($(#[$doc])* $name),+
        }

        impl Rule {
            /// Every rule, in the order in which they are held against a call.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The word itself, `snake_case`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word),+
                }
            }
        }
    };
}

rules! {
    /// The provider's entry names no host of an API.
    NoApi = "no_api",
    /// The method is no method, or one that is never sent on.
    Method = "method",
    /// The host is none of the provider's, or must be named.
    Host = "host",
    /// The path is not one that starts with a slash.
    PathForm = "path_form",
    /// The path holds a question mark or a number sign.
    PathQuery = "path_query",
    /// The path holds a backslash, as it is or encoded.
    PathBackslash = "path_backslash",
    /// The path holds a control character, as it is or encoded.
    PathControl = "path_control",
    /// The path holds `.` or `..` as a segment, in any spelling.
    PathDotSegment = "path_dot_segment",
    /// The path holds `//`.
    PathEmptySegment = "path_empty_segment",
    /// The path holds an encoded slash or dot, encoded once or several times over.
    PathEncoded = "path_encoded",
    /// The path holds a percent sign that encodes nothing, or bytes that are not UTF-8.
    PathPercent = "path_percent",
    /// The path is outside the prefixes that the provider's entry allows.
    PathPrefix = "path_prefix",
    /// A query parameter has no name.
    Query = "query",
    /// The URL is too long.
    UrlLength = "url_length",
    /// The connection lacks a value that the provider's addresses or headers need.
    VariableMissing = "variable_missing",
    /// A connection's value does not fit its pattern, or would reach out of its place.
    VariableValue = "variable_value",
    /// The URL, read again, is not what was checked.
    UrlChanged = "url_changed",
    /// The address behind the host is one that is not called.
    Address = "address",
    /// The token belongs to another connection than the call.
    Credential = "credential",
    /// Only GET and HEAD follow a redirect.
    RedirectMethod = "redirect_method",
    /// The redirect leads to another origin.
    RedirectOrigin = "redirect_origin",
    /// The redirect's target cannot be read as a URL.
    RedirectLocation = "redirect_location",
    /// The redirects do not end.
    RedirectHops = "redirect_hops",
    /// The name of a header field is not one.
    HeaderName = "header_name",
    /// The value of a header field holds a character that no value may hold.
    HeaderValue = "header_value",
    /// The header field belongs to the broker or to the connection.
    HeaderReserved = "header_reserved",
    /// There are too many header fields, or they are too large.
    HeaderSize = "header_size",
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_word_of_its_own() {
        let words: std::collections::BTreeSet<_> = Rule::ALL.iter().map(|rule| rule.as_str()).collect();
        assert_eq!(words.len(), Rule::ALL.len());
        assert!(words.iter().all(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    }
}
