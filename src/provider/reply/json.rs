//! Strict reading of bodies: one object, every name once.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Reads a JSON object. A name that comes twice in any object makes the whole unreadable: two readers could take two
/// different tokens from it.
pub(in crate::provider) fn read_json(body: &[u8]) -> Option<Value> {
    let Strict(value) = serde_json::from_slice(body).ok()?;
    value.is_object().then_some(value)
}

/// Reads a form as an object of texts.
pub(super) fn read_form(body: &[u8]) -> Option<Value> {
    let mut fields = Map::new();
    for (name, value) in url::form_urlencoded::parse(body) {
        if fields.insert(name.into_owned(), Value::String(value.into_owned())).is_some() {
            return None;
        }
    }
    (!fields.is_empty()).then_some(Value::Object(fields))
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        StrictSeed.deserialize(deserializer).map(Self)
    }
}

struct StrictSeed;

impl<'de> DeserializeSeed<'de> for StrictSeed {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StrictSeed {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(StrictSeed)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(StrictSeed)?;
            if fields.insert(name, value).is_some() {
                return Err(A::Error::custom("a name comes twice"));
            }
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_comes_twice_makes_a_body_unreadable() {
        assert!(read_json(br#"{"access_token":"a","access_token":"b"}"#).is_none());
        assert!(read_json(br#"{"x":[{"a":1,"a":2}]}"#).is_none());
        assert!(read_form(b"a=1&a=2").is_none());
        assert_eq!(read_json(br#"{"a":{"b":[1,null,"c"]}}"#).unwrap().pointer("/a/b/2").unwrap(), "c");
    }

    #[test]
    fn only_an_object_is_a_body() {
        for body in ["", "[]", "null", "\"x\"", "<html>", "{\"a\":1} x", "{\"a\":", "\u{feff}{}"] {
            assert!(read_json(body.as_bytes()).is_none(), "{body}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(read_json(deep.as_bytes()).is_none(), "depth is bounded");
    }
}
