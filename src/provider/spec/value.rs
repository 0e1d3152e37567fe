//! Small checked strings of which a spec is made: JSON pointers, templates, patterns.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// A JSON pointer (RFC 6901) into a reply, such as `/authed_user/id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Pointer(String);

impl Pointer {
    /// A pointer known to be well formed (it starts with `/`).
    pub(crate) fn fixed(text: &'static str) -> Self {
        debug_assert!(text.starts_with('/'));
        Self(text.to_owned())
    }

    /// A pointer to a field of the reply itself.
    pub(crate) fn to_field(name: &str) -> Self {
        Self(format!("/{name}"))
    }

    /// The value it points at, if there is one and it is not `null`.
    pub fn find<'a>(&self, reply: &'a Value) -> Option<&'a Value> {
        reply.pointer(&self.0).filter(|value| !value.is_null())
    }

    /// The text it points at; a number reads as its decimal text, anything else as nothing.
    pub fn text<'a>(&self, reply: &'a Value) -> Option<Cow<'a, str>> {
        match self.find(reply)? {
            Value::String(text) if !text.is_empty() => Some(Cow::Borrowed(text)),
            Value::Number(number) => Some(Cow::Owned(number.to_string())),
            _ => None,
        }
    }

    /// The pointer as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Pointer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.starts_with('/') {
            Ok(Self(text))
        } else {
            Err(serde::de::Error::custom(format!("{text:?} is not a JSON pointer; write /{text}")))
        }
    }
}

impl JsonSchema for Pointer {
    fn schema_name() -> Cow<'static, str> {
        "Pointer".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A JSON pointer (RFC 6901) into a reply, such as /data/id.",
            "pattern": "^/",
        })
    }
}

/// A text with `{names}` in it, filled from the entry's `vars`, from `client_id`, or from the token at hand.
///
/// There is no escape: a brace always opens a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Template(String);

impl Template {
    /// A template of the given text. Whether its names are known is a matter for the check of the whole spec.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names inside braces, in order; a brace that never closes yields the rest of the text.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split('{').skip(1).map(|part| part.split('}').next().unwrap_or(part))
    }

    /// Replaces every `{name}` for which `value` knows a text and leaves the others as they are.
    pub fn fill<'v>(&self, mut value: impl FnMut(&str) -> Option<Cow<'v, str>>) -> String {
        let mut parts = self.0.split('{');
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            match part.split_once('}').and_then(|(name, rest)| Some((value(name)?, rest))) {
                Some((text, rest)) => {
                    out.push_str(&text);
                    out.push_str(rest);
                }
                None => {
                    out.push('{');
                    out.push_str(part);
                }
            }
        }
        out
    }
}

/// A regular expression (linear time, the `regex` crate's dialect). Where it constrains a value it must match all of it.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    whole: regex::Regex,
    part: regex::Regex,
}

impl Pattern {
    /// Whether the pattern matches the whole of `text`.
    pub fn matches_all(&self, text: &str) -> bool {
        self.whole.is_match(text)
    }

    /// Whether the pattern matches somewhere inside `text`.
    pub fn matches_part(&self, text: &str) -> bool {
        self.part.is_match(text)
    }

    /// What the pattern's first group matches inside `text`, or all that it matches where it has no group.
    pub fn captured<'t>(&self, text: &'t str) -> Option<&'t str> {
        let found = self.part.captures(text)?;
        found.get(1).or_else(|| found.get(0)).map(|part| part.as_str())
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Compiles a pattern; an error says what is wrong with it, in one line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let compile = |source: &str| {
            regex::RegexBuilder::new(source).size_limit(1 << 20).build().map_err(|error| {
                let text = error.to_string();
                text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
            })
        };
        let part = compile(text)?;
        let whole = compile(&format!("^(?:{text})$"))?;
        Ok(Self { text: text.to_owned(), whole, part })
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .map_err(|why| serde::de::Error::custom(format!("{text:?} is not a pattern: {why}")))
    }
}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl JsonSchema for Pattern {
    fn schema_name() -> Cow<'static, str> {
        "Pattern".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "A regular expression.", "format": "regex" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_fills_what_it_knows_and_keeps_the_rest() {
        let template = Template::new("https://{host}/{tenant}/x{");
        assert_eq!(template.names().collect::<Vec<_>>(), ["host", "tenant", ""]);
        let filled = template.fill(|name| (name == "tenant").then_some(Cow::Borrowed("a{host}")));
        assert_eq!(filled, "https://{host}/a{host}/x{", "a filled value is not read again");
    }

    #[test]
    fn a_pattern_constrains_the_whole_value() {
        let pattern = Pattern::parse("[a-z]+|[0-9]+").unwrap();
        assert!(pattern.matches_all("abc") && pattern.matches_all("12"));
        assert!(!pattern.matches_all("abc.evil.example") && pattern.matches_part("abc.evil.example"));
        assert!(Pattern::parse("(").is_err());
    }

    #[test]
    fn a_pointer_reads_texts_and_numbers_only() {
        let reply = serde_json::json!({"id": 42, "none": null, "empty": "", "deep": {"mail": "a@b"}});
        assert_eq!(Pointer::fixed("/id").text(&reply).unwrap(), "42");
        assert_eq!(Pointer::fixed("/deep/mail").text(&reply).unwrap(), "a@b");
        for missing in ["/none", "/empty", "/deep", "/absent"] {
            assert!(Pointer::fixed(missing).text(&reply).is_none(), "{missing}");
        }
    }
}
