//! The reading of waits: no reply makes one that is longer than a day, and a reply in trouble asks for none that it would
//! not ask for when it throttles, which reads more places. Input: a status, seven header values, a body.

#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use serde_json::json;
use token_broker::clock::Timestamp;
use token_broker::provider::throttle::{Reply, Signals};

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);
const FIELDS: [&str; 7] = ["retry-after", "x-s", "x-ms", "x-date", "x-at", "x-epoch-s", "x-epoch-ms"];

static SIGNALS: LazyLock<Signals> = LazyLock::new(|| {
    let spec = json!({
        "rate": {
            "throttled": [
                {"status": [403], "header": {"name": "retry-after"}},
                {"status": [400], "path": "/error/code", "matches": "LIMIT"},
                {"status": [503], "matches": "slow down"},
            ],
            "wait": [
                {"header": "x-s", "unit": "seconds"},
                {"header": "x-ms", "unit": "milliseconds"},
                {"header": "x-date", "unit": "http_date"},
                {"header": "x-at", "unit": "timestamp"},
                {"header": "x-epoch-s", "unit": "epoch_seconds"},
                {"header": "x-epoch-ms", "unit": "epoch_milliseconds"},
                {"path": "/error/wait", "unit": "seconds"},
                {"matches": "Retry after (\\S+)", "unit": "timestamp"},
            ],
            "remaining_header": "x-s",
            "limit_header": "x-ms",
            "used_header": "x-date",
        },
        "errors": [
            {"at": "api", "is": ["invalid_auth"], "means": "token_bad"},
            {"at": "api", "status": [420], "path": "/calm", "matches": "down", "means": "throttled"},
        ],
    });
    Signals::new(&serde_json::from_value(spec).unwrap())
});

fuzz_target!(|data: &[u8]| {
    let mut pieces = data.split(|byte| *byte == 0xff);
    let status = match pieces.next() {
        Some([low, high, ..]) => 100 + u16::from_le_bytes([*low, *high]) % 500,
        _ => 429,
    };
    let mut headers = HeaderMap::new();
    for (name, value) in FIELDS.iter().zip(pieces.by_ref().take(FIELDS.len())) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    let body = pieces.next().unwrap_or_default();
    for status in [status, 200, 400, 401, 403, 420, 429, 503] {
        let reply = Reply { status, headers: &headers, body };
        let wait = SIGNALS.wait_in_trouble(&reply, NOW);
        assert!(wait.is_none_or(|wait| wait <= DAY), "{wait:?}");
        if let Some(throttled) = SIGNALS.throttled(&reply, NOW) {
            let asked = throttled.wait;
            assert!(asked.is_none_or(|wait| wait <= DAY), "{asked:?}");
            assert!(asked.is_some() || wait.is_none(), "{wait:?} from nowhere");
            assert!(!SIGNALS.is_token_refused(&reply), "it cannot be both");
        }
        SIGNALS.quota(&headers);
    }
});
