//! Times and spans for people: relative on a screen, RFC 3339 in JSON, and spans as they are typed.

use std::time::Duration;

use crate::clock::Timestamp;

/// `in 59 min`, `3 days ago`, `now`.
pub(crate) fn relative(now: Timestamp, then: Timestamp) -> String {
    if now.until(then) >= Duration::from_secs(1) {
        format!("in {}", span(now.until(then)))
    } else if now.since(then) >= Duration::from_secs(1) {
        format!("{} ago", span(now.since(then)))
    } else {
        "now".to_owned()
    }
}

/// The one unit in which a span is best grasped, rounded down: `42 s`, `59 min`, `7 h`, `3 days`.
pub(crate) fn span(span: Duration) -> String {
    match span.as_secs() {
        0 => "less than 1 s".to_owned(),
        s @ 1..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

/// Reads a span as people type it: `90s`, `5m`, `1h30m`.
pub(crate) fn parse_span(raw: &str) -> Result<Duration, String> {
    raw.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|span| Duration::try_from(span).ok())
        .ok_or_else(|| "write a span such as 90s, 5m or 1h30m".to_owned())
}

/// Reads an RFC 3339 time.
pub(crate) fn parse_time(raw: &str) -> Result<Timestamp, String> {
    raw.parse::<jiff::Timestamp>()
        .map(|time| Timestamp::from_millis(time.as_millisecond()))
        .map_err(|_| "write a time such as 2026-11-21T15:04:05Z".to_owned())
}

/// A time of the contract; `None` where it is absent.
pub(crate) fn of_wire(time: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    time.map(|t| {
        let millis = t.seconds.saturating_mul(1000).saturating_add(i64::from(t.nanos / 1_000_000));
        Timestamp::from_millis(millis)
    })
}

/// A time as the contract carries it.
pub(crate) fn to_wire(time: Timestamp) -> prost_types::Timestamp {
    let millis = time.as_millis();
    let nanos = i32::try_from(millis.rem_euclid(1000) * 1_000_000).unwrap_or(0);
    prost_types::Timestamp { seconds: millis.div_euclid(1000), nanos }
}

/// A span as the contract carries it.
pub(crate) fn span_to_wire(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_in_its_best_unit() {
        let now = Timestamp::from_millis(1_790_000_000_000);
        let told = |seconds: i64| relative(now, Timestamp::from_millis(now.as_millis() + seconds * 1000));
        assert_eq!(told(0), "now");
        assert_eq!(told(42), "in 42 s");
        assert_eq!(told(3599), "in 59 min");
        assert_eq!(told(-7200), "2 h ago");
        assert_eq!(told(-7 * 86_400), "7 days ago");
    }

    #[test]
    fn spans_are_read_as_people_type_them() {
        assert_eq!(parse_span("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_span("1h30m"), Ok(Duration::from_secs(5400)));
        for wrong in ["", "5", "soon", "-5m"] {
            assert!(parse_span(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_time_survives_the_wire() {
        let time = Timestamp::from_millis(1_790_000_000_999);
        assert_eq!(of_wire(Some(to_wire(time))), Some(time));
        assert_eq!(parse_time("2026-09-21T14:13:20.999Z"), Ok(time));
        assert!(parse_time("tomorrow").is_err());
    }
}
