//! The fields of an event and of the spans around it.

use std::fmt;

use tracing::field::{Field, Visit};

/// The fields that stand first, in this order; the rest follows in the order of the code.
const ORDER: [&str; 11] = [
    "request_id",
    "trace_id",
    "span_id",
    "provider",
    "connection",
    "caller",
    "reason",
    "fault",
    "source",
    "duration_seconds",
    "error",
];

/// What every line has; a field of that name would make the line ambiguous, so it gets an underscore.
const RESERVED: [(&str, &str); 3] = [("timestamp", "_timestamp"), ("level", "_level"), ("target", "_target")];

/// One field's value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Printed as it is: a number or a bool.
    Bare(String),
    /// To be escaped.
    Text(String),
}

/// Fields in the order in which they were recorded; the last value of a name counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    pub(super) message: String,
    pairs: Vec<(&'static str, Value)>,
}

impl Fields {
    /// Takes over `outer`'s fields where `self` has none of the name.
    pub(super) fn inherit(&mut self, outer: &Self) {
        for (name, value) in &outer.pairs {
            if !self.pairs.iter().any(|(own, _)| own == name) {
                self.pairs.push((name, value.clone()));
            }
        }
    }

    /// The fields but the message, in the documented order.
    pub(super) fn in_order(mut self) -> Vec<(&'static str, Value)> {
        self.pairs
            .sort_by_key(|(name, _)| ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len()));
        self.pairs
    }

    fn set(&mut self, field: &Field, value: Value) {
        let name = RESERVED.iter().find(|(taken, _)| *taken == field.name()).map_or(field.name(), |r| r.1);
        match self.pairs.iter_mut().find(|(known, _)| *known == name) {
            Some(pair) => pair.1 = value,
            None => self.pairs.push((name, value)),
        }
    }

    fn text(&mut self, field: &Field, text: String) {
        if field.name() == "message" {
            self.message = text;
        } else {
            self.set(field, Value::Text(text));
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format!("{value:?}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, Value::Bare(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, Value::Bare(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, Value::Bare(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no word for NaN and the infinities.
        let value =
            if value.is_finite() { Value::Bare(value.to_string()) } else { Value::Text(value.to_string()) };
        self.set(field, value);
    }
}
