//! Progress bars where standard error is a terminal, else a line whenever something is worth one.

use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

use super::tell;

const HEAD: &str = "{prefix:16!} [{bar:28}] {pos:>5}/{len} {msg}  {elapsed}";
const DETAIL: &str = "{prefix:16!} [{bar:28}] {pos:>5}/{len} {msg}";
const FILL: &str = "=> ";

/// The place of all bars; clones share it. As a writer of logs it leads to standard error, past the bars.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Board {
    bars: Option<MultiProgress>,
    closed: Arc<AtomicBool>,
}

/// One line on the board; the default is on none.
#[derive(Debug, Clone, Default)]
pub(in crate::cli) struct Track(Option<ProgressBar>);

impl Board {
    /// Draws bars where standard error is a terminal.
    pub(in crate::cli) fn new() -> Self {
        Self::over(io::stderr().is_terminal().then(ProgressDrawTarget::stderr))
    }

    fn over(target: Option<ProgressDrawTarget>) -> Self {
        Self { bars: target.map(MultiProgress::with_draw_target), closed: Arc::default() }
    }

    /// The bars, as long as they move.
    fn moving(&self) -> Option<&MultiProgress> {
        self.bars.as_ref().filter(|_| !self.closed.load(Ordering::Relaxed))
    }

    /// The bar of the whole, with the time since its start.
    pub(in crate::cli) fn whole(&self, name: &str, length: u64) -> Track {
        let track = self.add(HEAD, name, length);
        if let Track(Some(bar)) = &track {
            bar.enable_steady_tick(Duration::from_millis(250));
        }
        track
    }

    /// The bar of a part.
    pub(in crate::cli) fn part(&self, name: &str) -> Track {
        self.add(DETAIL, name, 0)
    }

    fn add(&self, template: &str, name: &str, length: u64) -> Track {
        Track(self.bars.as_ref().map(|bars| {
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = bars.add(ProgressBar::new(length)).with_style(style.progress_chars(FILL));
            bar.set_prefix(name.to_owned());
            bar
        }))
    }

    /// A line that stays: above the bars, or, where there are none, one of the plain lines.
    pub(in crate::cli) fn note(&self, line: &str) {
        match self.moving() {
            // A terminal that cannot be written to has nobody before it.
            Some(bars) => drop(bars.println(line)),
            None => tell(line),
        }
    }

    /// A line that bars say anyway: shown only where there are none.
    pub(in crate::cli) fn line(&self, line: impl FnOnce() -> String) {
        if self.bars.is_none() {
            tell(&line());
        }
    }

    /// Takes all bars away, for good.
    pub(in crate::cli) fn clear(&self) {
        if let Some(bars) = self.moving() {
            // As above.
            drop(bars.clear());
            // What still holds a bar must not draw it again.
            bars.set_draw_target(ProgressDrawTarget::hidden());
        }
        self.close();
    }

    /// Leaves the bars as they are, for good: what is written from here on comes below them.
    pub(in crate::cli) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Writes to standard error while no bar is drawn.
    fn aside<R>(&self, write: impl FnOnce(&mut io::StderrLock<'_>) -> R) -> R {
        match self.moving() {
            Some(bars) => bars.suspend(|| write(&mut io::stderr().lock())),
            None => write(&mut io::stderr().lock()),
        }
    }
}

impl<'a> MakeWriter<'a> for Board {
    type Writer = Aside<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Aside(self)
    }
}

/// Lines of the log, beside the bars.
#[derive(Debug)]
pub(in crate::cli) struct Aside<'a>(&'a Board);

impl io::Write for Aside<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.aside(|out| out.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.aside(|out| out.flush())
    }
}

impl Track {
    /// Moves the bar.
    pub(in crate::cli) fn set(&self, position: u64, length: u64, message: impl Into<String>) {
        if let Self(Some(bar)) = self {
            bar.set_length(length);
            bar.set_position(position);
            bar.set_message(message.into());
        }
    }

    /// Leaves the bar as it is, for good.
    pub(in crate::cli) fn finish(&self) {
        if let Self(Some(bar)) = self {
            bar.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_after_the_end_is_not_written_between_bars() {
        for end in [Board::close, Board::clear] {
            let board = Board::over(Some(ProgressDrawTarget::hidden()));
            let writer = board.clone();
            let _bar = board.whole("job", 10);
            assert!(writer.moving().is_some());
            end(&board);
            assert!(writer.moving().is_none());
        }
    }

    #[test]
    fn without_a_terminal_there_are_no_bars() {
        let board = Board::over(None);
        assert!(board.moving().is_none());
        let Track(bar) = board.part("steps");
        assert!(bar.is_none());
    }
}
