//! Progress bars where standard error is a terminal, else a line whenever something is worth one.

use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

use super::{columns, tell};

/// Below this many columns there is no room for bars beside the figures.
const ROOM_FOR_BARS: u16 = 64;

/// Templates, with room for bars and without. A message is cut, never wrapped: a line that takes two cannot be
/// drawn over.
const HEAD: [&str; 2] =
    ["{prefix:9!} [{bar:10}] {pos:>5}/{len} {wide_msg} {elapsed}", "{prefix:9!} {pos}/{len} {wide_msg}"];
const DETAIL: [&str; 2] =
    ["{prefix:9!} [{bar:10}] {pos:>5}/{len} {wide_msg}", "{prefix:9!} {pos}/{len} {wide_msg}"];
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

    /// The bar of a part. Names of more than nine characters are cut.
    pub(in crate::cli) fn part(&self, name: &str) -> Track {
        self.add(DETAIL, name, 0)
    }

    fn add(&self, [roomy, narrow]: [&str; 2], name: &str, length: u64) -> Track {
        let template =
            if columns(io::stderr()).is_some_and(|columns| columns < ROOM_FOR_BARS) { narrow } else { roomy };
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

    /// Leaves the bars as they are after an interruption. The terminal has put its ^C behind the last of them, so
    /// that none of them can be drawn over any more.
    pub(in crate::cli) fn leave(&self) {
        if let Some(bars) = self.moving() {
            bars.set_draw_target(ProgressDrawTarget::hidden());
            tell("");
        }
        self.close();
    }
}

impl<'a> MakeWriter<'a> for Board {
    type Writer = Aside<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Aside(self)
    }
}

/// Lines of the log, above the bars. Each write is one or more whole lines.
#[derive(Debug)]
pub(in crate::cli) struct Aside<'a>(&'a Board);

impl io::Write for Aside<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.moving() {
            Some(bars) => {
                bars.println(String::from_utf8_lossy(bytes).trim_end_matches('\n'))?;
                Ok(bytes.len())
            }
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
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
    use std::io::Write as _;
    use std::sync::Mutex;

    use indicatif::TermLike;

    use super::*;

    /// A terminal that keeps what is written to it.
    #[derive(Debug, Clone, Default)]
    struct Paper(Arc<Mutex<String>>);

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            80
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, line: &str) -> io::Result<()> {
            self.write_str(line)
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_of_the_log_is_drawn_above_the_bars() {
        let paper = Paper::default();
        let board = Board::over(Some(ProgressDrawTarget::term_like(Box::new(paper.clone()))));
        let track = board.part("steps");
        track.set(1, 2, "moving");
        board.make_writer().write_all(b"something is slow\n").unwrap();
        let drawn = paper.0.lock().unwrap().clone();
        let line = drawn.find("something is slow").unwrap();
        assert!(drawn.get(line..).is_some_and(|after| after.contains("moving")), "{drawn}");
    }

    #[test]
    fn what_comes_after_the_end_is_not_written_between_bars() {
        for end in [Board::close, Board::clear, Board::leave] {
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
