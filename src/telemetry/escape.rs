//! Text that may come from anywhere, made fit for a terminal and for JSON.

use std::fmt::Write as _;

/// Whether `c` can move a cursor, start an escape sequence or turn the reading direction round (CVE-2021-42574).
fn is_dangerous(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Appends `text` as a JSON string (RFC 8259 section 7), with everything dangerous as `\u`.
pub(super) fn json(text: &str, line: &mut String) {
    line.push('"');
    for c in text.chars() {
        match c {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\t' => line.push_str("\\t"),
            c if is_dangerous(c) => {
                // All dangerous characters are in the basic plane: four digits are enough.
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
    line.push('"');
}

/// Appends `text` for a person, with everything dangerous spelled out (`\n`, `\u{1b}`).
pub(super) fn plain(text: &str, line: &mut String) {
    for c in text.chars() {
        if is_dangerous(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\x1b[31mred\x07\r\n\u{9b}2J\u{202e}x\"\\\u{7f}é";

    #[test]
    fn json_escapes_reverse_to_the_same_text_and_show_no_control_character() {
        let mut line = String::new();
        json(HOSTILE, &mut line);
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), HOSTILE);
        assert!(!line.chars().any(is_dangerous), "{line:?}");
    }

    #[test]
    fn a_terminal_sees_no_control_character() {
        let mut line = String::new();
        plain(HOSTILE, &mut line);
        assert_eq!(line, "a\\u{1b}[31mred\\u{7}\\r\\n\\u{9b}2J\\u{202e}x\"\\\\u{7f}é");
    }
}
