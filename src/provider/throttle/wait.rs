//! How long a reply asks to wait. Owns the units.

use std::time::{Duration, UNIX_EPOCH};

use http::HeaderMap;
use http::header::RETRY_AFTER;
use jiff::fmt::rfc2822::DateTimeParser;

use super::{Body, text};
use crate::clock::Timestamp;
use crate::provider::spec::call::{Rate, Wait, WaitUnit};

/// The longest wait that a provider can ask for: quotas are counted by the day at most.
const LONGEST: Duration = Duration::from_secs(86_400);

/// The first of the entry's places that holds a time, then `Retry-After` (RFC 9110 section 10.2.3), then what the entry says
/// for replies that hold none.
pub(super) fn found(rate: &Rate, headers: &HeaderMap, body: &Body<'_>, now: Timestamp) -> Option<Duration> {
    let own = rate.wait.iter().find_map(|wait| read(wait, headers, body, now));
    let wait = own.or_else(|| standard(headers, now)).or_else(|| rate.default_wait.map(Into::into));
    wait.map(|wait| wait.min(LONGEST))
}

/// `Retry-After`, then the first of the entry's places that holds a span of time.
pub(super) fn in_trouble(
    rate: &Rate,
    headers: &HeaderMap,
    body: &Body<'_>,
    now: Timestamp,
) -> Option<Duration> {
    let spans =
        rate.wait.iter().filter(|wait| matches!(wait.unit, WaitUnit::Seconds | WaitUnit::Milliseconds));
    let own = || spans.into_iter().find_map(|wait| read(wait, headers, body, now));
    standard(headers, now).or_else(own).map(|wait| wait.min(LONGEST))
}

fn standard(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = text(headers, RETRY_AFTER.as_str())?;
    seconds(text, 1000).or_else(|| http_date(text, now))
}

fn read(wait: &Wait, headers: &HeaderMap, body: &Body<'_>, now: Timestamp) -> Option<Duration> {
    let found = match (&wait.header, &wait.path) {
        (Some(header), _) => text(headers, header)?.into(),
        (None, Some(path)) => path.text(body.value()?)?,
        (None, None) => body.text(),
    };
    let found = match &wait.matches {
        Some(pattern) => pattern.captured(&found)?,
        None => &found,
    };
    match wait.unit {
        WaitUnit::Seconds => seconds(found, 1000),
        WaitUnit::Milliseconds => seconds(found, 1),
        WaitUnit::HttpDate => http_date(found, now),
        WaitUnit::Timestamp => {
            let at: jiff::Timestamp = found.trim().parse().ok()?;
            Some(now.until(Timestamp::from_millis(at.as_millisecond())))
        }
        WaitUnit::EpochSeconds => epoch(found, 1000, now),
        WaitUnit::EpochMilliseconds => epoch(found, 1, now),
    }
}

/// A count of units, fractions included, as a span; what is too large for one is the longest.
fn seconds(text: &str, unit_millis: u64) -> Option<Duration> {
    let (whole, fraction) = decimal(text)?;
    let millis = whole.saturating_mul(unit_millis).saturating_add(if fraction { unit_millis } else { 0 });
    Some(Duration::from_millis(millis))
}

fn epoch(text: &str, unit_millis: u64, now: Timestamp) -> Option<Duration> {
    let millis = seconds(text, unit_millis)?.as_millis();
    Some(now.until(Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))))
}

/// All three forms of RFC 9110 section 5.6.7, and what servers make of them: a wrong weekday, a zone as digits.
fn http_date(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    let date = httpdate::parse_http_date(text).ok();
    let since_epoch = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok());
    let millis = match since_epoch {
        Some(since_epoch) => i64::try_from(since_epoch.as_millis()).ok()?,
        None => DateTimeParser::new().relaxed_weekday(true).parse_timestamp(text).ok()?.as_millisecond(),
    };
    Some(now.until(Timestamp::from_millis(millis)))
}

/// A whole number, its fraction dropped.
pub(super) fn number(text: &str) -> Option<u64> {
    decimal(text).map(|(whole, _)| whole)
}

/// `12`, `12.5`: the whole part, and whether there is more. Digits beyond what fits are the largest number.
fn decimal(text: &str) -> Option<(u64, bool)> {
    let text = text.trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    Some((whole.parse().unwrap_or(u64::MAX), fraction.bytes().any(|b| b != b'0')))
}
