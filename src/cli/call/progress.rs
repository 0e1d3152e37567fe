//! How far a large body has come or gone, on one line of a terminal that is rewritten, or now and then a line of words
//! where nothing may be. Says nothing where nobody reads along, or where the body itself fills the screen.

use std::time::Duration;

use tokio::time::Instant;

use crate::cli::console::{Output, Stream};

/// What is smaller is there before anybody looks.
const LARGE: u64 = 1024 * 1024;

/// How often the line is rewritten.
const EVERY: Duration = Duration::from_millis(100);

/// How often there is another line, where each stays.
const EVERY_LINE: Duration = Duration::from_secs(5);

/// Columns of the bar.
const BAR: u64 = 30;

#[derive(Default)]
pub(super) struct Progress {
    is_wanted: bool,
    is_plain: bool,
    total: Option<u64>,
    passed: u64,
    /// What is said behind the figures.
    what: &'static str,
    shown_at: Option<Instant>,
}

impl Progress {
    /// Of an answer.
    pub(super) fn of_answer(output: &Output, total: Option<u64>) -> Self {
        let is_wanted = output.stderr.is_terminal && !output.stdout.is_terminal;
        Self { is_wanted, is_plain: output.is_plain, total, ..Self::default() }
    }

    /// Of a request's body, before there is anything of an answer.
    pub(super) fn of_request(output: &Output, total: Option<u64>) -> Self {
        let is_wanted = output.stderr.is_terminal && !output.is_json;
        Self { is_wanted, is_plain: output.is_plain, total, what: " sent", ..Self::default() }
    }

    pub(super) fn came(&mut self, bytes: usize, to: &mut Stream) -> std::io::Result<()> {
        self.reached(self.passed + bytes as u64, to)
    }

    /// So much of it has passed in all.
    pub(super) fn reached(&mut self, passed: u64, to: &mut Stream) -> std::io::Result<()> {
        self.passed = passed;
        let every = if self.is_plain { EVERY_LINE } else { EVERY };
        let is_due = self.shown_at.is_none_or(|shown_at| shown_at.elapsed() >= every);
        if !self.is_wanted || self.passed < LARGE || !is_due {
            return Ok(());
        }
        self.shown_at = Some(Instant::now());
        let line = self.line();
        to.write(&if self.is_plain { line + "\n" } else { format!("\r{line}") })
    }

    /// The last line, which stays.
    pub(super) fn end(&mut self, to: &mut Stream) -> std::io::Result<()> {
        if self.shown_at.take().is_none() {
            return Ok(());
        }
        let start = if self.is_plain { "" } else { "\r" };
        to.write(&format!("{start}{}\n", self.line()))
    }

    fn line(&self) -> String {
        let mib = |bytes: u64| format!("{}.{} MiB", bytes / LARGE, bytes % LARGE * 10 / LARGE);
        match self.total.filter(|total| *total > 0) {
            None => mib(self.passed) + self.what,
            Some(total) if self.is_plain => format!("{} of {}{}", mib(self.passed), mib(total), self.what),
            Some(total) => {
                let done = (self.passed.saturating_mul(BAR) / total).min(BAR);
                let bar: String = (0..BAR).map(|at| if at < done { '#' } else { '.' }).collect();
                format!("[{bar}] {} of {}{}", mib(self.passed), mib(total), self.what)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::console::tests::Desk;

    #[test]
    fn a_line_says_how_much_of_how_much() {
        let progress = Progress { total: Some(4 * LARGE), passed: LARGE + LARGE / 2, ..Progress::default() };
        assert_eq!(progress.line(), "[###########...................] 1.5 MiB of 4.0 MiB");
        assert_eq!(Progress { passed: LARGE, ..Progress::default() }.line(), "1.0 MiB");
        assert_eq!(
            Progress { what: " sent", ..progress }.line(),
            "[###########...................] 1.5 MiB of 4.0 MiB sent"
        );
    }

    #[tokio::test]
    async fn nobody_is_told_where_nobody_reads_along() {
        for of in [Progress::of_answer, Progress::of_request] {
            let mut desk = Desk::piped();
            let mut progress = of(&desk.console.output, Some(9 * LARGE));
            progress.came(9 * 1024 * 1024, &mut desk.console.output.stderr).unwrap();
            progress.end(&mut desk.console.output.stderr).unwrap();
            assert_eq!(desk.stderr.text(), "");
        }
    }

    #[tokio::test]
    async fn an_answer_that_fills_the_screen_has_no_bar_and_a_body_that_is_sent_has_one() {
        let mut desk = Desk::terminal("");
        let output = &mut desk.console.output;
        for mut progress in [Progress::of_answer(output, Some(9 * LARGE)), Progress::of_request(output, None)]
        {
            progress.came(2 * 1024 * 1024, &mut output.stderr).unwrap();
            progress.end(&mut output.stderr).unwrap();
        }
        assert_eq!(desk.stderr.text(), "\r2.0 MiB sent\r2.0 MiB sent\n");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_for_plain_lines_gets_one_now_and_then() {
        let mut desk = Desk::terminal("");
        let output = &mut desk.console.output;
        output.is_plain = true;
        let mut progress = Progress::of_request(output, Some(8 * LARGE));
        for _ in 0..4 {
            progress.came(2 * 1024 * 1024, &mut output.stderr).unwrap();
            tokio::time::advance(Duration::from_secs(3)).await;
        }
        progress.end(&mut output.stderr).unwrap();
        let lines = ["2.0 MiB of 8.0 MiB sent", "6.0 MiB of 8.0 MiB sent", "8.0 MiB of 8.0 MiB sent"];
        assert_eq!(desk.stderr.text(), lines.map(|line| format!("{line}\n")).concat());
    }
}
