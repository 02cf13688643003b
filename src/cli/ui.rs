//! Everything that draws on a terminal.
//!
//! Results go to standard output, progress to standard error: bars where that is a terminal, else lines.

mod bars;
mod plot;
mod table;

pub(super) use bars::{Board, Track};
pub(super) use plot::curve;
pub(super) use table::{Quality, epochs, number, pairs};

use std::io::{self, Write as _};
use std::os::fd::AsFd;

use rustix::termios::tcgetwinsize;
use serde::Serialize;

use super::Failure;

/// Writes `text` and a line end to standard output. Nobody reading there any more is no failure.
///
/// # Errors
/// Any other reason why it cannot be written, such as a full disk.
pub(super) fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::System { doing: "write to standard output", source })
        }
        _ => Ok(()),
    }
}

/// Writes `value` as one line of JSON to standard output.
///
/// # Errors
/// As [`say`].
pub(super) fn say_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value)
        .map_err(|error| Failure::System { doing: "write JSON", source: error.into() })?;
    say(&text)
}

/// Writes `text` and a line end to standard error; when that fails there is nobody to tell.
pub(super) fn tell(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Columns of the terminal behind `output`; None where that is no terminal, or one that does not say.
fn columns(output: impl AsFd) -> Option<u16> {
    let size = tcgetwinsize(output).ok()?;
    (size.ws_col > 0).then_some(size.ws_col)
}

/// Loss and quality in words.
pub(super) fn figures(loss: f64, quality: Quality, value: f64) -> String {
    format!("loss {loss:.4}, {} {value:.4}", quality.name())
}
