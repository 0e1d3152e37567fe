use http::HeaderValue;
use serde_json::json;

use super::*;

/// 2026-09-21T14:13:20Z.
const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);

fn signals(spec: Value) -> Signals {
    Signals::new(&serde_json::from_value(spec).unwrap())
}

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()))
        .collect()
}

fn ask(signals: &Signals, status: u16, fields: &[(&'static str, &str)], body: &str) -> Option<Throttled> {
    signals.throttled(&Reply { status, headers: &headers(fields), body: body.as_bytes() }, NOW)
}

fn secs(wait: u64) -> Option<Throttled> {
    Some(Throttled { wait: Some(Duration::from_secs(wait)) })
}

#[test]
fn retry_after_is_always_understood_and_bounded() {
    let plain = signals(json!({}));
    for (value, wait) in [
        ("30", 30),
        (" 7 ", 7),
        ("0", 0),
        ("1.2", 2),
        ("Mon, 21 Sep 2026 14:14:20 GMT", 60),
        ("Mon, 21 Sep 2026 14:12:20 GMT", 0),
        ("Monday, 21-Sep-26 14:14:20 GMT", 60),
        ("Mon Sep 21 14:14:20 2026", 60),
        ("Fri, 21 Sep 2026 14:14:20 +0000", 60),
        ("86401", 86_400),
        ("99999999999999999999999999", 86_400),
        ("Fri, 31 Dec 9998 23:59:59 GMT", 86_400),
    ] {
        assert_eq!(ask(&plain, 429, &[("retry-after", value)], ""), secs(wait), "{value}");
    }
    for nonsense in ["soon", "-1", "", "1e9", "0x10", "NaN", "1.2.3", "Sep 21"] {
        let found = ask(&plain, 429, &[("retry-after", nonsense)], "");
        assert_eq!(found, Some(Throttled { wait: None }), "{nonsense:?}");
    }
    assert_eq!(ask(&plain, 503, &[("retry-after", "30")], ""), None);
    assert_eq!(ask(&plain, 403, &[], ""), None);
}

#[test]
fn every_unit_is_read_from_where_the_entry_says() {
    let rate = |wait: Value| signals(json!({"rate": {"wait": [wait]}}));
    for (wait, field, body, expected) in [
        (json!({"header": "X-Reset", "unit": "seconds"}), ("x-reset", "12"), "", 12),
        (json!({"header": "X-Reset", "unit": "milliseconds"}), ("x-reset", "1500.5"), "", 2),
        (json!({"header": "X-Reset", "unit": "epoch_seconds"}), ("x-reset", "1790000042"), "", 42),
        (json!({"header": "X-Reset", "unit": "epoch_seconds"}), ("x-reset", "1700000000"), "", 0),
        (json!({"header": "X-Reset", "unit": "epoch_milliseconds"}), ("x-reset", "1790000042000"), "", 42),
        (
            json!({"header": "X-Reset", "unit": "http_date"}),
            ("x-reset", "Mon, 21 Sep 2026 14:13:30 GMT"),
            "",
            10,
        ),
        (json!({"header": "X-Reset", "unit": "timestamp"}), ("x-reset", "2026-09-21T14:13:30Z"), "", 10),
        (json!({"path": "/error/wait", "unit": "seconds"}), ("x", "1"), "{\"error\":{\"wait\":9}}", 9),
        (
            json!({"path": "/error/message", "matches": "Retry after (\\S+)", "unit": "timestamp"}),
            ("x", "1"),
            "{\"error\":{\"message\":\"User-rate limit exceeded.  Retry after 2026-09-21T14:15:00Z\"}}",
            100,
        ),
        (json!({"matches": "wait ([0-9]+) s", "unit": "seconds"}), ("x", "1"), "<p>wait 8 s</p>", 8),
        // A server whose unit is another than the entry says: bounded, whichever way.
        (json!({"header": "X-Reset", "unit": "epoch_seconds"}), ("x-reset", "1790000042000"), "", 86_400),
        (json!({"header": "X-Reset", "unit": "epoch_milliseconds"}), ("x-reset", "1790000042"), "", 0),
    ] {
        let found = ask(&rate(wait.clone()), 429, &[field], body).unwrap().wait.unwrap();
        assert_eq!(found.as_millis().div_ceil(1000), expected, "{wait}");
    }
}

#[test]
fn what_the_entry_names_goes_before_retry_after_and_a_default_behind_it() {
    let rate = json!({"rate": {"wait": [{"header": "x-reset", "unit": "seconds"}], "default_wait": "30s"}});
    let signals = signals(rate);
    assert_eq!(ask(&signals, 429, &[("x-reset", "5"), ("retry-after", "9")], ""), secs(5));
    assert_eq!(ask(&signals, 429, &[("x-reset", "?"), ("retry-after", "9")], ""), secs(9));
    assert_eq!(ask(&signals, 429, &[], ""), secs(30));
}

#[test]
fn a_403_is_a_throttle_where_the_entry_says_so() {
    let github = signals(json!({"rate": {
        "throttled": [
            {"status": [403], "header": {"name": "x-ratelimit-remaining", "value": "0"}},
            {"status": [403], "header": {"name": "retry-after"}},
        ],
        "wait": [
            {"header": "retry-after", "unit": "seconds"},
            {"header": "x-ratelimit-reset", "unit": "epoch_seconds"},
        ],
    }}));
    let spent = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1790000060")];
    assert_eq!(ask(&github, 403, &spent, ""), secs(60));
    let secondary =
        [("retry-after", "3"), ("x-ratelimit-remaining", "17"), ("x-ratelimit-reset", "1790003600")];
    assert_eq!(ask(&github, 403, &secondary, ""), secs(3), "the other limit's moment is nothing to it");
    assert_eq!(ask(&github, 403, &[("x-ratelimit-remaining", "17")], ""), None);
    assert_eq!(ask(&github, 404, &spent, ""), None);

    let google = signals(json!({"rate": {"throttled": [
        {"status": [403], "path": "/error/errors/0/reason", "matches": "ateLimitExceeded"},
    ]}}));
    let body = |reason: &str| json!({"error": {"errors": [{"reason": reason}]}}).to_string();
    assert!(ask(&google, 403, &[], &body("userRateLimitExceeded")).is_some());
    assert!(ask(&google, 403, &[], &body("forbidden")).is_none());
    assert!(ask(&google, 403, &[], &body("userRateLimitExceeded")[..20]).is_none(), "half a document");
}

#[test]
fn the_entrys_rows_say_what_a_reply_means_before_its_status_does() {
    let slack = signals(json!({"errors": [
        {"at": "api", "is": ["invalid_auth", "token_expired"], "means": "token_bad"},
        {"at": "api", "path": "/code", "is": ["190"], "means": "token_bad"},
        {"at": "api", "status": [401], "path": "/error", "is": ["ip_not_allowed"], "means": "transient"},
        {"at": "api", "status": [400], "path": "/error", "is": ["RATELIMITED"], "means": "throttled"},
        {"is": ["ratelimited"], "means": "throttled"},
    ]}));
    let none = HeaderMap::new();
    let refused =
        |status, body: &str| slack.is_token_refused(&Reply { status, headers: &none, body: body.as_bytes() });
    assert!(refused(200, r#"{"ok":false,"error":"invalid_auth"}"#));
    assert!(refused(400, r#"{"code":190}"#));
    assert!(refused(401, "") && refused(401, "not json"));
    assert!(!refused(401, r#"{"error":"ip_not_allowed"}"#));
    assert!(
        !refused(500, r#"{"error":"invalid_auth"}"#),
        "a row without a status is not about server errors"
    );
    assert!(!refused(200, r#"{"ok":true}"#) && !refused(403, ""));
    assert!(ask(&slack, 400, &[], r#"{"error":"RATELIMITED"}"#).is_some());
    assert!(ask(&slack, 200, &[], r#"{"error":"ratelimited"}"#).is_none(), "a row of the token endpoint");
}

#[test]
fn what_is_left_is_read_from_the_named_fields() {
    let signals = signals(json!({"rate": {"remaining_header": "X-Left", "limit_header": "X-All"}}));
    let quota = |left, all| signals.quota(&headers(&[("x-left", left), ("x-all", all)]));
    assert_eq!(quota("17", "5000"), Quota { remaining: Some(17), limit: Some(5000) });
    assert_eq!(quota("12.0", "-1"), Quota { remaining: Some(12), limit: None });
    assert_eq!(Signals::quota(&signals, &HeaderMap::new()), Quota::default());
}

#[test]
fn no_reply_makes_a_wait_longer_than_a_day() {
    let signals = signals(json!({"rate": {"wait": [{"header": "x", "unit": "epoch_milliseconds"}]}}));
    for value in ["18446744073709551615", "18446744073709551616", "9223372036854775807"] {
        assert_eq!(ask(&signals, 429, &[("x", value)], "").unwrap().wait, Some(DAY));
    }
}

#[test]
fn what_is_used_tells_what_is_left() {
    let left = |rate: Value, fields: &[(&'static str, &str)]| {
        let quota = signals(json!({"rate": rate})).quota(&headers(fields));
        (quota.remaining, quota.limit)
    };
    let usage = || json!({"used_header": "x-usage"});
    assert_eq!(left(usage(), &[("x-usage", "32/40")]), (Some(8), Some(40)), "shopify");
    assert_eq!(left(usage(), &[("x-usage", "api-usage=18/5000")]), (Some(4982), Some(5000)), "salesforce");
    let own = "api-usage=18/5000, per-app-api-usage=17/250(appName=x)";
    assert_eq!(left(usage(), &[("x-usage", own)]), (Some(4982), Some(5000)), "the first counts");
    let windows = || json!({"used_header": "x-usage", "limit_header": "x-limit"});
    let strava = [("x-usage", "314,27536"), ("x-limit", "600,30000")];
    assert_eq!(left(windows(), &strava), (Some(286), Some(600)));
    assert_eq!(left(windows(), &[("x-usage", "700"), ("x-limit", "600")]), (Some(0), Some(600)));
    assert_eq!(left(windows(), &[("x-usage", "7")]), (None, None), "of how many nobody said");
    for nonsense in ["", "/", "a/b", "1/", "/1", "-1/5", "=", "1/2/3"] {
        assert_eq!(left(usage(), &[("x-usage", nonsense)]), (None, None), "{nonsense:?}");
    }
}

#[test]
fn trouble_waits_for_what_is_asked_and_never_for_a_quotas_moment() {
    let github = crate::provider::catalogue::find("github").unwrap().spec().clone();
    let entry = signals(Value::Object(github));
    let wait = |entry: &Signals, fields: &[(&'static str, &str)]| {
        entry.wait_in_trouble(&Reply { status: 503, headers: &headers(fields), body: b"" }, NOW)
    };
    let reset = ("x-ratelimit-reset", "1790003600");
    assert_eq!(wait(&entry, &[reset]), None);
    assert_eq!(wait(&entry, &[reset, ("retry-after", "7")]), Some(Duration::from_secs(7)));
    let own = signals(json!({"rate": {"wait": [{"header": "x-retry-ms", "unit": "milliseconds"}]}}));
    assert_eq!(wait(&own, &[("x-retry-ms", "1500")]), Some(Duration::from_millis(1500)));
}
