//! The header filter, both ways: nothing reserved and no line break leaves; no cookie and no token comes back. Input: names
//! and values in turn.

#![no_main]

mod provider;

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use provider::{API, TOKEN, token, values};
use token_broker::provider::field::{incoming, outgoing};

const NEVER_SENT: &[&str] = &[
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-acme-key",
    "x-forwarded-for",
    "x-http-method-override",
];

const NEVER_SEEN: &[&str] =
    &["connection", "keep-alive", "set-cookie", "te", "trailer", "transfer-encoding", "upgrade"];

fuzz_target!(|data: &[u8]| {
    let fields: Vec<&[u8]> = data.split(|byte| *byte == 0xff).collect();
    let pairs = || fields.chunks_exact(2).map(|pair| (pair[0], pair[1]));
    go_out(pairs().filter_map(|(name, value)| {
        Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?))
    }));
    come_in(pairs());
});

fn go_out<'f>(fields: impl Iterator<Item = (&'f str, &'f str)> + Clone) {
    let Ok(headers) = outgoing(&API, fields.clone(), &values("shop", "7")) else { return };
    for (name, value) in &headers {
        let name = name.as_str().replace('_', "-");
        assert!(!NEVER_SENT.contains(&name.as_str()), "{name}");
        assert!(!value.as_bytes().iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127)), "{name}");
    }
    assert_eq!(headers["x-acme-account"], "7");
    let given = fields.filter(|(name, _)| !name.is_empty()).count();
    assert!((given..=given + 2).contains(&headers.len()), "{given} fields became {}", headers.len());
}

fn come_in<'f>(fields: impl Iterator<Item = (&'f [u8], &'f [u8])>) {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let seen = incoming(&headers, &token());
    for (name, value) in &seen {
        assert!(!NEVER_SEEN.contains(&name.as_str()), "{name}");
        let text = percent_encoding::percent_decode(value.as_bytes()).decode_utf8_lossy().into_owned();
        assert!(!text.contains(TOKEN), "{name}: {text}");
        if name == http::header::WWW_AUTHENTICATE {
            assert!(value.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-'));
        } else {
            assert!(headers.get_all(name).iter().any(|given| given == value), "{name} was not there");
        }
    }
    // What comes out has nothing left to take out.
    assert_eq!(incoming(&seen, &token()), seen);
}
