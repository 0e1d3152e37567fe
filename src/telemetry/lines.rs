//! One event, one line: JSON for machines, pretty for people.

use std::sync::Arc;

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::escape;
use super::field::{Fields, Value};
use super::sink::Sink;
use crate::clock::{Clock, Timestamp};

/// What a log line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line: `timestamp level message target`, then the fields, those of the spans around included.
    Json,
    /// For a terminal: time, level, message, `field=value`.
    Pretty {
        /// Whether the level is coloured. Never the only sign of anything.
        is_coloured: bool,
    },
}

/// Turns events into lines. Our own rather than the stock formatter: that one nests the fields of spans, takes its time
/// from the system, and lets the reading direction be turned round.
pub(super) struct Lines {
    format: Format,
    clock: Arc<dyn Clock>,
    sink: Arc<dyn Sink>,
}

impl Lines {
    pub(super) fn new(format: Format, clock: Arc<dyn Clock>, sink: Arc<dyn Sink>) -> Self {
        Self { format, clock, sink }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().replace(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.inherit(outer);
            }
        }
        let now = self.clock.now();
        let line = match self.format {
            Format::Json => json(now, event.metadata(), fields),
            Format::Pretty { is_coloured } => pretty(now, event.metadata(), fields, is_coloured),
        };
        self.sink.write(&line);
    }
}

fn json(now: Timestamp, metadata: &Metadata<'_>, mut fields: Fields) -> String {
    let mut line = String::with_capacity(256);
    line.push_str("{\"timestamp\":");
    escape::json(&rfc3339(now), &mut line);
    line.push_str(",\"level\":");
    escape::json(metadata.level().as_str(), &mut line);
    line.push_str(",\"message\":");
    escape::json(&std::mem::take(&mut fields.message), &mut line);
    line.push_str(",\"target\":");
    escape::json(metadata.target(), &mut line);
    for (name, value) in fields.in_order() {
        line.push(',');
        escape::json(name, &mut line);
        line.push(':');
        match value {
            Value::Bare(value) => line.push_str(&value),
            Value::Text(text) => escape::json(&text, &mut line),
        }
    }
    line.push_str("}\n");
    line
}

fn pretty(now: Timestamp, metadata: &Metadata<'_>, mut fields: Fields, is_coloured: bool) -> String {
    let mut line = String::with_capacity(160);
    let time = rfc3339(now);
    line.push_str(time.get(11..).unwrap_or(&time));
    line.push(' ');
    let level = *metadata.level();
    let (start, end) = if is_coloured { (colour(level), "\x1b[0m") } else { ("", "") };
    line.push_str(start);
    line.push_str(&format!("{:<5}", level.as_str()));
    line.push_str(end);
    line.push(' ');
    escape::plain(&std::mem::take(&mut fields.message), &mut line);
    for (name, value) in fields.in_order() {
        line.push_str("  ");
        line.push_str(name);
        line.push('=');
        match value {
            Value::Bare(value) => line.push_str(&value),
            Value::Text(text) if is_plain_word(&text) => escape::plain(&text, &mut line),
            Value::Text(text) => escape::json(&text, &mut line),
        }
    }
    // Who reads at these levels looks for the place in the code.
    if level >= Level::DEBUG {
        line.push_str("  ");
        line.push_str(metadata.target());
    }
    line.push('\n');
    line
}

/// Whether a value needs no quotes to be told from its neighbours.
fn is_plain_word(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || matches!(c, '"' | '='))
}

/// RFC 3339 in UTC, to the millisecond: two lines of one request must be told apart.
fn rfc3339(now: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(now.as_millis())
        .map_or_else(|_| now.to_string(), |instant| format!("{instant:.3}"))
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[2m",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::secret::Secret;
    use crate::telemetry::{Capture, Filter, Logging};

    fn logged(format: Format, filter: &str, what: impl FnOnce()) -> String {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_790_000_000_123)));
        let capture = Capture::start(&Logging { filter: Filter::parse(filter).unwrap(), format }, clock);
        what();
        capture.text()
    }

    #[test]
    fn a_json_line_has_the_documented_fields_first_and_those_of_the_spans_around() {
        let text = logged(Format::Json, "info", || {
            let outer = tracing::info_span!("grpc.request", request_id = "r1", connection = "none").entered();
            let inner =
                tracing::info_span!("provider.refresh", provider = "google", status = tracing::field::Empty);
            inner.record("status", 503);
            let _inner = inner.entered();
            tracing::warn!(attempt = 2, duration_seconds = 0.25, connection = %"user-42", "refresh failed");
            drop(outer);
        });
        assert_eq!(
            text,
            "{\"timestamp\":\"2026-09-21T14:13:20.123Z\",\"level\":\"WARN\",\"message\":\"refresh failed\",\
             \"target\":\"token_broker::telemetry::lines::tests\",\"request_id\":\"r1\",\"provider\":\"google\",\
             \"connection\":\"user-42\",\"duration_seconds\":0.25,\"attempt\":2,\"status\":503}\n"
        );
    }

    #[test]
    fn a_field_cannot_pose_as_another_or_start_a_new_line() {
        let hostile = "x\",\"level\":\"ERROR\n{\"message\":\"forged\"}\x1b[2J";
        let text = logged(Format::Json, "info", || {
            tracing::info!(
                caller = hostile,
                level = "FATAL",
                timestamp = "never",
                ratio = f64::NAN,
                "{hostile}"
            );
        });
        assert_eq!(text.lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["caller"], hostile);
        assert_eq!(line["message"], hostile);
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["_level"], "FATAL");
        assert_eq!(line["ratio"], "NaN");
    }

    #[test]
    fn a_pretty_line_reads_well_and_keeps_the_terminal_safe() {
        let text = logged(Format::Pretty { is_coloured: false }, "debug", || {
            tracing::info!(provider = "google", why = "two words", "token\x1b[31m refreshed\r\nx");
            tracing::debug!("detail");
        });
        assert_eq!(
            text,
            "14:13:20.123Z INFO  token\\u{1b}[31m refreshed\\r\\nx  provider=google  why=\"two words\"\n\
             14:13:20.123Z DEBUG detail  token_broker::telemetry::lines::tests\n"
        );
    }

    #[test]
    fn a_secret_in_a_field_stays_one_at_trace() {
        let text = logged(Format::Json, "trace", || {
            tracing::trace!(code = ?Secret::new("canary".to_owned()), "exchange");
        });
        assert!(text.contains("Secret(…)"), "{text}");
        assert!(!text.contains("canary"));
    }
}
