//! How a result looks to a person: aligned fields, tables without frames, colour where it is wanted and never alone.
//! Invariant: a [`Report`] says the same facts as text and as JSON.

use clap::builder::styling::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::console::Stream;
use super::escape::escaped;
use super::next::Caller;
use super::times;
use crate::clock::Timestamp;

/// A result: JSON by its fields, text for people.
pub(crate) trait Report: Serialize {
    /// What a person reads; ends with a line break.
    fn text(&self, page: &Page<'_>) -> String;
}

/// What text is written for.
#[derive(Debug)]
pub(crate) struct Page<'a> {
    /// The present time, which relative times are told from.
    pub(crate) now: Timestamp,
    /// Columns; `None` off a terminal, where nothing is cut or wrapped.
    pub(crate) width: Option<u16>,
    /// Whether colour is wanted.
    pub(crate) has_colour: bool,
    /// Whether a person reads along.
    pub(crate) is_terminal: bool,
    /// How this program is called once more.
    pub(crate) caller: &'a Caller,
}

/// What a piece of text is to stand out as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// A heading or a name.
    Strong,
    /// Less important.
    Faint,
    /// Well.
    Good,
    /// Wants attention.
    Warning,
    /// Wrong.
    Bad,
}

/// `text` in `tone` where colour is wanted.
pub(crate) fn toned(text: &str, tone: Tone, has_colour: bool) -> String {
    if !has_colour {
        return text.to_owned();
    }
    let style = match tone {
        Tone::Strong => Style::new().bold(),
        Tone::Faint => Style::new().dimmed(),
        Tone::Good => AnsiColor::Green.on_default(),
        Tone::Warning => AnsiColor::Yellow.on_default(),
        Tone::Bad => AnsiColor::Red.on_default().bold(),
    };
    format!("{style}{text}{style:#}")
}

impl<'a> Page<'a> {
    /// What a result on `stream` is written for.
    pub(crate) fn new(stream: &Stream, now: Timestamp, caller: &'a Caller) -> Self {
        let (is_terminal, has_colour) = (stream.is_terminal, stream.has_colour);
        Self { now, width: stream.width, has_colour, is_terminal, caller }
    }

    /// `text` in `tone`.
    pub(crate) fn toned(&self, text: &str, tone: Tone) -> String {
        toned(text, tone, self.has_colour)
    }

    /// A time as people tell it, and `absent` where there is none.
    pub(crate) fn time(&self, time: Option<Timestamp>, absent: &str) -> String {
        time.map_or_else(|| absent.to_owned(), |time| times::relative(self.now, time))
    }

    /// Names and values in two columns; those without a value are left out. Values are escaped here.
    pub(crate) fn fields(&self, fields: &[(&str, String)]) -> String {
        let widest = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let filled = fields.iter().filter(|(_, value)| !value.is_empty());
        filled
            .map(|(name, value)| {
                let name = self.toned(&format!("{name:widest$}"), Tone::Faint);
                format!("  {name}  {}\n", escaped(value))
            })
            .collect()
    }

    /// A table without frames, cut to the terminal's width. Cells are escaped here; columns that are empty in every
    /// row are left out.
    pub(crate) fn table(&self, header: &[&str], rows: &[Vec<String>]) -> String {
        let is_used = |column: usize| rows.iter().any(|row| row.get(column).is_some_and(|c| !c.is_empty()));
        let used: Vec<usize> = (0..header.len()).filter(|column| is_used(*column)).collect();
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(used.iter().map(|column| header[*column]).collect::<Vec<_>>());
        for row in rows {
            let cell =
                |column: &usize| row.get(*column).map_or_else(String::new, |c| escaped(c).into_owned());
            table.add_row(used.iter().map(cell).collect::<Vec<_>>());
        }
        if let Some(width) = self.width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let mut lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        if let Some(first) = lines.first_mut() {
            *first = self.toned(first, Tone::Faint);
        }
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::super::next::tests::caller;
    use super::*;

    fn page(caller: &Caller) -> Page<'_> {
        let now = Timestamp::from_millis(1_790_000_000_000);
        Page { now, width: None, has_colour: false, is_terminal: false, caller }
    }

    #[test]
    fn a_table_has_no_frame_and_no_empty_column() {
        let rows = vec![
            vec!["google".into(), String::new(), "user-42".into()],
            vec!["github".into(), String::new(), "a\x1b[2J".into()],
        ];
        let expected = "PROVIDER  CONNECTION\ngoogle    user-42\ngithub    a\\u{1b}[2J\n";
        assert_eq!(page(&caller()).table(&["PROVIDER", "TENANT", "CONNECTION"], &rows), expected);
    }

    #[test]
    fn fields_align_and_those_without_a_value_are_left_out() {
        let fields =
            [("status", "ACTIVE".to_owned()), ("email", String::new()), ("account", "1\n2".to_owned())];
        assert_eq!(page(&caller()).fields(&fields), "  status   ACTIVE\n  account  1\\u{a}2\n");
    }

    #[test]
    fn colour_is_never_written_where_it_is_not_wanted() {
        assert_eq!(toned("x", Tone::Bad, false), "x");
        assert!(toned("x", Tone::Bad, true).contains("\u{1b}["));
    }
}
