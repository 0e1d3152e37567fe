//! A path as callers write it, and as it may stand in a URL. Owns what a path may hold. Knows no host.
//!
//! Invariant: a path that comes out starts with a slash, is pure ASCII without `?`, `#` and `\`, and means the same to a
//! server that decodes it once, twice or not at all: no spelling of a dot segment, a slash or a control character is in it.

use crate::error::{Refusal, Rule};

/// How many times over a segment is decoded to see what a server might see; deeper nesting has no honest use.
const DEEPEST: usize = 5;

/// Characters that normalization (NFKC) or a code page's best fit turns into a slash or a backslash.
const LIKE_A_SLASH: &[char] =
    &['/', '\\', '\u{2044}', '\u{2215}', '\u{2216}', '\u{29f8}', '\u{ff0f}', '\u{ff3c}'];

/// The same for dots.
const LIKE_A_DOT: &[char] = &['.', '\u{2024}', '\u{2025}', '\u{2026}', '\u{3002}', '\u{ff0e}', '\u{ff61}'];

/// The path ready for a URL. Percent triplets stay as they are; whatever cannot stand in a path is encoded.
///
/// # Errors
/// The rule that the path breaks.
pub(super) fn encoded(path: &str) -> Result<String, Refusal> {
    let Some(below) = path.strip_prefix('/') else {
        return refuse(Rule::PathForm, "the path must start with / and name neither scheme nor host");
    };
    if path.chars().any(char::is_control) {
        return refuse(Rule::PathControl, "the path holds a control character; none is accepted");
    }
    if path.contains('\\') {
        return refuse(Rule::PathBackslash, "the path holds a backslash; segments are divided by /");
    }
    if path.contains(['?', '#']) {
        return refuse(
            Rule::PathQuery,
            "the path holds ? or #; write parameters into query, and ? or # of a name as %3F or %23",
        );
    }
    let mut out = String::with_capacity(path.len());
    let mut segments = below.split('/').peekable();
    while let Some(segment) = segments.next() {
        // One slash at the end is a name of its own at many APIs; anywhere else servers differ in what nothing means.
        if segment.is_empty() && segments.peek().is_some() {
            return refuse(Rule::PathEmptySegment, "the path holds //; write one slash between two segments");
        }
        check(segment)?;
        out.push('/');
        encode_into(&mut out, segment);
    }
    Ok(out)
}

/// Whether `path` is `prefix` or lies below it. Both are encoded; a prefix that ends with a slash covers only what is below.
pub(super) fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| {
        rest.is_empty() && !prefix.ends_with('/') || rest.starts_with('/') || prefix.ends_with('/')
    })
}

/// Looks at a segment as a server that decodes it any number of times would see it.
fn check(segment: &str) -> Result<(), Refusal> {
    let mut seen = segment.as_bytes().to_vec();
    for level in 0..=DEEPEST {
        let Ok(text) = std::str::from_utf8(&seen) else {
            return refuse(Rule::PathPercent, "the path holds encoded bytes that are not UTF-8");
        };
        if is_dots(text) {
            return refuse(
                Rule::PathDotSegment,
                "the path holds a segment of dots; write the path without it",
            );
        }
        let decoded = decode(&seen, level == 0)?;
        if decoded == seen {
            return Ok(());
        }
        seen = decoded;
    }
    refuse(Rule::PathEncoded, "the path holds a segment that is encoded many times over; encode it once")
}

/// Decodes every triplet, and says when one of them stands for what may not be there. A percent sign without two digits is
/// a mistake in what the caller wrote, but not in what comes out of decoding it.
fn decode(text: &[u8], is_written: bool) -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, more)) = rest.split_first() {
        rest = more;
        if first != b'%' {
            out.push(first);
            continue;
        }
        let Some(byte) = triplet(more) else {
            if is_written {
                return refuse(
                    Rule::PathPercent,
                    "the path holds a % that encodes nothing; write %25 for a percent sign",
                );
            }
            out.push(first);
            continue;
        };
        match byte {
            b'/' | b'.' => {
                return refuse(
                    Rule::PathEncoded,
                    "the path holds an encoded slash or dot (%2F, %2E); servers differ in what it means, so none is accepted",
                );
            }
            b'\\' => return refuse(Rule::PathBackslash, "the path holds an encoded backslash (%5C)"),
            0..=0x1f | 0x7f => {
                return refuse(
                    Rule::PathControl,
                    "the path holds an encoded control character (%00 to %1F, %7F)",
                );
            }
            _ => out.push(byte),
        }
        rest = &more[2..];
    }
    Ok(out)
}

fn triplet(digits: &[u8]) -> Option<u8> {
    let high = char::from(*digits.first()?).to_digit(16)?;
    let low = char::from(*digits.get(1)?).to_digit(16)?;
    u8::try_from(high * 16 + low).ok()
}

/// Whether some server would take it for `.` or `..`: what stands behind a semicolon, a question mark or a number sign, white
/// space around it and characters that are turned into dots are all looked through.
fn is_dots(segment: &str) -> bool {
    segment.split(LIKE_A_SLASH).any(|piece| {
        let name = piece.split([';', '?', '#']).next().unwrap_or_default().trim();
        !name.is_empty() && name.chars().all(|c| LIKE_A_DOT.contains(&c) || c.is_whitespace())
    })
}

/// Letters, digits and marks of RFC 3986 section 3.3 stay, triplets too; the rest is encoded.
fn encode_into(out: &mut String, segment: &str) {
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(b"0123456789ABCDEF"[usize::from(byte >> 4)]));
            out.push(char::from(b"0123456789ABCDEF"[usize::from(byte & 15)]));
        }
    }
}

fn refuse<T>(rule: Rule, why: &'static str) -> Result<T, Refusal> {
    Err(Refusal::new(rule, why))
}
