//! Text of somebody else on a terminal. Account names, scopes and error words come from providers and apps: a control
//! character among them could recolour, overwrite or retitle what a person reads. Invariant: nothing passes to a
//! terminal but what can be seen.

use std::borrow::Cow;
use std::fmt::Write as _;

/// `text` with every control character, and every character that reorders or hides text, written out as `\u{…}`.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unseen) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_unseen(c) {
            // Writing to a String cannot fail.
            let _ = write!(shown, "\\u{{{:x}}}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// C0, C1 and DEL; line and paragraph separators; zero-width characters; bidirectional controls (Unicode TR 36).
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{61c}')
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn what_cannot_be_seen_is_written_out() {
        assert_eq!(escaped("alice@example.com"), "alice@example.com");
        assert_eq!(escaped("Grüße 東京"), "Grüße 東京");
        assert_eq!(escaped("a\x1b[31mred\u{7}\r\n"), "a\\u{1b}[31mred\\u{7}\\u{d}\\u{a}");
        assert_eq!(escaped("ab\u{202e}cd\u{9b}"), "ab\\u{202e}cd\\u{9b}");
    }
}
