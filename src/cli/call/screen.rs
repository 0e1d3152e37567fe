//! A body on a terminal: text as it is, and nothing that could recolour, overwrite or retitle what a person reads.

use crate::cli::escape::escaped;

/// What of a body is not shown yet, because a character is not whole.
#[derive(Default)]
pub(super) struct Screen(Vec<u8>);

impl Screen {
    /// The text of one more piece.
    pub(super) fn shown(&mut self, piece: &[u8]) -> String {
        self.0.extend_from_slice(piece);
        let whole = match std::str::from_utf8(&self.0) {
            Ok(_) => self.0.len(),
            // Cut in the middle of a character; what is no text at all does not wait.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => self.0.len(),
        };
        let rest = self.0.split_off(whole);
        let text = seen(&self.0);
        self.0 = rest;
        text
    }

    /// What is left at the end.
    pub(super) fn rest(self) -> String {
        seen(&self.0)
    }
}

fn seen(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.split('\n').map(|line| {
        let cells: Vec<_> = line.trim_end_matches('\r').split('\t').map(escaped).collect();
        cells.join("\t")
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_passes_and_control_characters_are_written_out() {
        let mut screen = Screen::default();
        assert_eq!(screen.shown(b"{\n\t\"a\": 1\r\n}"), "{\n\t\"a\": 1\n}");
        assert_eq!(screen.shown(b"\x1b]0;x\x07"), "\\u{1b}]0;x\\u{7}");
        assert_eq!(screen.shown("Z\u{fc}".as_bytes().split_at(2).0), "Z");
        assert_eq!(screen.shown(&"ü".as_bytes()[1..]), "ü");
        screen.shown(b"\xc3");
        assert_eq!(screen.rest(), "\u{fffd}");
    }
}
