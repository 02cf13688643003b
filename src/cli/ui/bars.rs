//! Progress bars where standard error is a terminal, else a line whenever something is worth one.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::tell;

const HEAD: &str = "{prefix:16!} [{bar:28}] {pos:>5}/{len} {msg}  {elapsed}";
const DETAIL: &str = "{prefix:16!} [{bar:28}] {pos:>5}/{len} {msg}";
const FILL: &str = "=> ";

/// The place of all bars.
#[derive(Debug)]
pub(in crate::cli) struct Board {
    bars: Option<MultiProgress>,
}

/// One line on the board.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Track(Option<ProgressBar>);

impl Board {
    /// Draws bars where standard error is a terminal.
    pub(in crate::cli) fn new() -> Self {
        Self { bars: io::stderr().is_terminal().then(MultiProgress::new) }
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
        match &self.bars {
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

    /// Takes all bars away.
    pub(in crate::cli) fn clear(&self) {
        if let Some(bars) = &self.bars {
            // As above.
            drop(bars.clear());
        }
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
