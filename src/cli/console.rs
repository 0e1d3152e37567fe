//! The world as a command sees it: streams, environment, clock, interrupt. Owns nothing of what is said. Invariant: a
//! command touches the terminal, the environment and the browser only through here, so that a test can be all three.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::next::Caller;
use super::page::{Page, Report};
use crate::clock::{Clock, Timestamp};

/// Everything a command may touch.
pub(crate) struct Console {
    /// Where results and messages go.
    pub(crate) output: Output,
    /// Where answers and piped secrets come from.
    pub(crate) input: Input,
    /// The environment variables.
    pub(crate) environment: Environment,
    /// What time it is.
    pub(crate) clock: Arc<dyn Clock>,
    /// Cancelled when the person at the keyboard has had enough.
    pub(crate) interrupt: CancellationToken,
    /// Opens a URL in the person's browser.
    pub(crate) browser: fn(&str) -> io::Result<()>,
    /// How this program is called once more.
    pub(crate) caller: Caller,
}

/// Standard output and standard error: the result, and everything else.
pub(crate) struct Output {
    /// The result.
    pub(crate) stdout: Stream,
    /// Everything else.
    pub(crate) stderr: Stream,
    /// Whether the result is one JSON document.
    pub(crate) is_json: bool,
    /// Whether lines are only ever added, none drawn anew: a screen reader reads along.
    pub(crate) is_plain: bool,
}

/// One stream and what is known of its other end.
pub(crate) struct Stream {
    writer: Box<dyn Write + Send>,
    /// Whether a person reads along.
    pub(crate) is_terminal: bool,
    /// Whether colour is wanted.
    pub(crate) has_colour: bool,
    /// Columns, where it is a terminal.
    pub(crate) width: Option<u16>,
}

/// Standard input.
pub(crate) struct Input {
    reader: Box<dyn Read + Send>,
    /// Whether a person is at the keyboard.
    pub(crate) is_terminal: bool,
}

/// Environment variables that are UTF-8, as they were at the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The process's own.
    pub(crate) fn of_process() -> Self {
        let utf8 =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self(utf8.collect())
    }

    /// Exactly these.
    #[cfg(test)]
    pub(crate) fn of<const N: usize>(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    /// The value of `name`, if it is set.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All of them, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether `name` is set to something.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !value.is_empty())
    }

    /// An absolute path in `name`.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }
}

impl Stream {
    /// A stream into `writer`.
    pub(crate) fn new(
        writer: impl Write + Send + 'static,
        is_terminal: bool,
        has_colour: bool,
        width: Option<u16>,
    ) -> Self {
        Self { writer: Box::new(writer), is_terminal, has_colour, width }
    }

    /// Writes `text` and flushes.
    pub(crate) fn write(&mut self, text: &str) -> io::Result<()> {
        self.writer.write_all(text.as_bytes())?;
        self.writer.flush()
    }
}

/// Bytes that are no text: an export.
impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Input {
    /// Input from `reader`.
    pub(crate) fn new(reader: impl Read + Send + 'static, is_terminal: bool) -> Self {
        Self { reader: Box::new(reader), is_terminal }
    }

    /// One line without its end.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        io::BufReader::with_capacity(1, &mut self.reader).read_line(&mut line)?;
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// Bytes that are no text: an export.
    pub(crate) fn bytes(&mut self) -> &mut dyn Read {
        &mut self.reader
    }

    /// All that is still to come, for somebody who reads it elsewhere.
    pub(crate) fn take(&mut self) -> Box<dyn Read + Send> {
        std::mem::replace(&mut self.reader, Box::new(io::empty()))
    }

    /// Everything there is, at most `limit` bytes.
    pub(crate) fn all(&mut self, limit: u64) -> io::Result<String> {
        let mut text = String::new();
        (&mut self.reader).take(limit).read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Console {
    /// The present time.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The result: one JSON document, or text that says the same.
    pub(crate) fn report(&mut self, report: &impl Report) -> io::Result<()> {
        let text = if self.output.is_json {
            json(report)?
        } else {
            let page = Page::new(&self.output.stdout, self.clock.now(), &self.caller);
            report.text(&page)
        };
        self.output.stdout.write(&text)
    }

    /// One of several results: text, or JSON on one line.
    pub(crate) fn line(&mut self, report: &impl Report) -> io::Result<()> {
        let text = if self.output.is_json {
            serde_json::to_string(report).map_err(io::Error::other)? + "\n"
        } else {
            report.text(&Page::new(&self.output.stdout, self.clock.now(), &self.caller))
        };
        self.output.stdout.write(&text)
    }

    /// A line beside the result.
    pub(crate) fn note(&mut self, line: &str) -> io::Result<()> {
        self.output.stderr.write(&format!("{line}\n"))
    }
}

fn json(value: &impl Serialize) -> io::Result<String> {
    Ok(serde_json::to_string_pretty(value).map_err(io::Error::other)? + "\n")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::cli::next::tests::caller;
    use crate::clock::ManualClock;

    /// What was written to one stream.
    #[derive(Clone, Default)]
    pub(crate) struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A console that a test holds the other end of.
    pub(crate) struct Desk {
        pub(crate) console: Console,
        pub(crate) stdout: Written,
        pub(crate) stderr: Written,
    }

    impl Desk {
        /// Pipes at both ends and nobody at the keyboard.
        pub(crate) fn piped() -> Self {
            Self::new(false, "")
        }

        /// A person at a terminal of 80 columns who types `input`.
        pub(crate) fn terminal(input: &'static str) -> Self {
            Self::new(true, input)
        }

        fn new(is_terminal: bool, input: &'static str) -> Self {
            let (stdout, stderr) = (Written::default(), Written::default());
            let clock = ManualClock::new(Timestamp::from_millis(1_790_000_000_000));
            let width = is_terminal.then_some(80);
            let console = Console {
                output: Output {
                    stdout: Stream::new(stdout.clone(), is_terminal, false, width),
                    stderr: Stream::new(stderr.clone(), is_terminal, false, width),
                    is_json: false,
                    is_plain: false,
                },
                input: Input::new(input.as_bytes(), is_terminal),
                environment: Environment::default(),
                clock: Arc::new(clock),
                interrupt: CancellationToken::new(),
                browser: |_| Ok(()),
                caller: caller(),
            };
            Self { console, stdout, stderr }
        }
    }
}
