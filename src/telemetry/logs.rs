//! Logs: what happened, on standard error, for people or for machines.
//!
//! ```text
//! LOG_LEVEL --parse--> Filter --+                 +--> standard error
//! LOG_FORMAT --parse-> LogFormat+--> subscriber --+
//!                                                 +--> queue --> thread --> standard error (the worker)
//! ```
//!
//! Standard output stays free for results. Dependencies that talk much are heard from WARN on, unless the filter
//! names them. `RUST_LOG` is deliberately not consulted: one variable, one place to look.

mod json;
mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::{self, IsTerminal as _};
use std::panic::PanicHookInfo;
use std::str::FromStr;
use std::sync::Arc;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

pub use queue::LogGuard;

use super::traces::Traces;
use crate::domain::ParseChoiceError;
use queue::Queue;

/// What a filter may look like.
const FILTER_ALLOWED: &str = "off, error, warn, info, debug, trace, or a list of such a level and TARGET=LEVEL, as \
                              in info,tensorfleet_worker::engine=debug";

/// Prefixes of the targets of dependencies that are heard from WARN on.
const QUIET: [&str; 9] = ["burn", "cubecl", "h2", "hyper", "naga", "rustls", "tonic", "tower", "wgpu"];

/// Which events are logged: a level, or a list of targets with levels. Checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(String);

impl Default for Filter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for Filter {
    type Err = ParseChoiceError;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        let raw = raw.trim();
        // A bare word that is no level would pass as the name of a target and silence everything else.
        let known = |part: &str| part.contains(['=', '[']) || is_level(part);
        let directives = directives(raw);
        let fits = !directives.is_empty() && directives.iter().all(|part| known(part));
        if !fits || EnvFilter::builder().parse(raw).is_err() {
            return Err(ParseChoiceError(FILTER_ALLOWED));
        }
        Ok(Self(raw.to_owned()))
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Filter {
    /// The filter with the dependencies lowered; what the user says comes last, since the last one counts.
    fn build(&self) -> EnvFilter {
        let default = directives(&self.0).into_iter().find_map(|part| part.parse::<LevelFilter>().ok());
        let loud = default.is_some_and(|level| level > LevelFilter::WARN);
        let lowered = QUIET.iter().filter(|_| loud).map(|target| format!("{target}=warn,"));
        let all: String = lowered.chain([self.0.clone()]).collect();
        EnvFilter::builder().parse_lossy(all)
    }
}

/// The comma-separated parts of a filter.
fn directives(raw: &str) -> Vec<&str> {
    raw.split(',').map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn is_level(word: &str) -> bool {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level))
}

/// For whom the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// A line for people.
    Pretty,
    /// One flat JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = ParseChoiceError;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        Ok(match raw {
            "auto" => Self::Auto,
            "pretty" => Self::Pretty,
            "json" => Self::Json,
            _ => return Err(ParseChoiceError("auto, pretty or json")),
        })
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Pretty => "pretty",
            Self::Json => "json",
        })
    }
}

/// Configuration of the logs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// LOG_LEVEL.
    pub filter: Filter,
    /// LOG_FORMAT.
    pub format: LogFormat,
}

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It did already.
    #[error("logging was set up twice in this process")]
    AlreadySet(#[from] tracing_subscriber::util::TryInitError),
    /// The system gives no thread that could write.
    #[error("no thread for the logs: {0}")]
    Thread(io::Error),
}

/// Logs to standard error from now on, for the whole process.
///
/// # Errors
/// [`Error::AlreadySet`] the second time.
pub fn init(config: &Config) -> Result<(), Error> {
    init_into(config, Traces::default(), io::stderr)
}

/// As [`init`], for a process whose threads must not wait for whoever reads standard error: a thread of its own writes, and
/// lines for which there is no room are dropped and counted. Panics are logged like everything else. Lines that name a task
/// tell the trace that it belongs to, as `traces` knows it.
///
/// # Errors
/// As [`init`], or the system gives no thread.
pub fn init_queued(config: &Config, traces: Traces) -> Result<LogGuard, Error> {
    let queue = Queue::to(io::stderr()).map_err(Error::Thread)?;
    init_into(config, traces, Arc::clone(&queue))?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(LogGuard::of(queue))
}

/// As the hook of the standard library, which would write to standard error and wait for its reader.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(thread, backtrace, "{panic}");
}

/// As [`init`], through a `writer` that leads to standard error in a way of its own.
///
/// # Errors
/// As [`init`].
pub fn init_into<W>(config: &Config, traces: Traces, writer: W) -> Result<(), Error>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let terminal = io::stderr().is_terminal();
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let paint = if terminal && !no_color { Paint::Ansi } else { Paint::Plain };
    let format = match config.format {
        LogFormat::Auto if terminal => LogFormat::Pretty,
        LogFormat::Auto => LogFormat::Json,
        chosen => chosen,
    };
    match format {
        LogFormat::Pretty => pretty(&config.filter, paint, writer).try_init()?,
        LogFormat::Json | LogFormat::Auto => json(&config.filter, traces, writer).try_init()?,
    }
    Ok(())
}

/// Whether lines have colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// With escape sequences for a terminal.
    Ansi,
    /// Text alone.
    Plain,
}

/// A subscriber that writes lines for people into `writer`; not installed.
pub fn pretty<W>(filter: &Filter, paint: Paint, writer: W) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_ansi(paint == Paint::Ansi).with_writer(writer);
    tracing_subscriber::registry().with(filter.build()).with(layer)
}

/// A subscriber that writes flat JSON objects into `writer`, one a line; not installed.
pub fn json<W>(filter: &Filter, traces: Traces, writer: W) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer()
        .fmt_fields(tracing_subscriber::fmt::format::JsonFields::new())
        .event_format(json::Flat { traces })
        .with_ansi(false)
        .with_writer(writer);
    tracing_subscriber::registry().with(filter.build()).with(layer)
}

#[cfg(test)]
mod tests;
