//! How the program ends.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::app::AppError;
use crate::config::ConfigErrors;
use crate::domain::{ErrorCode, InvalidField, TaskError};
use crate::engine::{EngineError, RunnerError};
use crate::orchestrator;
use crate::telemetry::logs;

/// The exit codes of every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// It was carried out, and failed.
    Failed,
    /// The command line or the configuration is wrong.
    BadUsage,
    /// The environment lacks something.
    Environment,
    /// Somebody interrupted it.
    Interrupted,
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::BadUsage => 2,
            Self::Environment => 3,
            Self::Interrupted => 130,
        }
    }
}

/// Why a command could not be carried out, in one clear line.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The orchestrator cannot be reached as it is configured.
    #[error(transparent)]
    Orchestrator(#[from] orchestrator::ConfigError),
    /// A flag has a value that it does not take.
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    /// The worker cannot be built, or ended on its own.
    #[error(transparent)]
    App(#[from] AppError),
    /// The training failed.
    #[error("training failed: {0}")]
    Training(#[from] TaskError),
    /// The training needs a device that this machine does not have, or may not use.
    #[error("cannot train here: {0}")]
    Device(EngineError),
    /// A runner cannot do its work.
    #[error("runner: {0}")]
    Runner(#[from] RunnerError),
    /// Logs cannot be set up.
    #[error("cannot log: {0}")]
    Logs(#[from] logs::Error),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}: {source}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A picture cannot be drawn.
    #[error("cannot draw the curve: {0}")]
    Draw(String),
    /// The machine refuses something that any program needs.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The orchestrator does not answer.
    #[error("orchestrator at {address} does not answer: {reason}")]
    Unreachable {
        /// Where it should be.
        address: String,
        /// Why not.
        reason: String,
    },
    /// The orchestrator said no.
    #[error("orchestrator at {address} refuses: {reason}")]
    Refused {
        /// Where it is.
        address: String,
        /// What it said.
        reason: String,
    },
    /// The worker does not answer.
    #[error("worker at {address} does not answer: {reason}")]
    WorkerAway {
        /// Where it should be.
        address: String,
        /// Why not.
        reason: String,
    },
    /// The worker said no.
    #[error("worker at {address} refuses: {reason}")]
    WorkerRefused {
        /// Where it is.
        address: String,
        /// What it said.
        reason: String,
    },
    /// A part of the demonstration ended too early.
    #[error("{0} ended before the job did")]
    EndedEarly(&'static str),
    /// Somebody interrupted it.
    #[error("interrupted")]
    Interrupted,
}

/// How long the end waits for somebody to read why.
const TELL_PATIENCE: Duration = Duration::from_secs(1);

impl Failure {
    /// Says it on standard error. Where nobody reads that, the exit code has to do.
    pub fn tell(&self) {
        let text = format!("error: {self}\n");
        let (said, heard) = mpsc::channel();
        // A full pipe makes it wait for ever, a closed one fails.
        let say = |text: &str| drop(io::stderr().lock().write_all(text.as_bytes()));
        let aside = {
            let text = text.clone();
            move || {
                say(&text);
                let _ = said.send(());
            }
        };
        match thread::Builder::new().spawn(aside) {
            Ok(_) => drop(heard.recv_timeout(TELL_PATIENCE)),
            // Where there is no memory for a thread there is for this.
            Err(_) => say(&text),
        }
    }

    /// The exit code for it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Invalid(_) | Self::Orchestrator(_) => Exit::BadUsage.code(),
            Self::App(error) => error.exit_code(),
            Self::Training(error) if error.code == ErrorCode::InvalidArgument => Exit::BadUsage.code(),
            Self::Training(error) if error.code == ErrorCode::Unavailable => Exit::Environment.code(),
            Self::Training(_)
            | Self::Refused { .. }
            | Self::WorkerRefused { .. }
            | Self::EndedEarly(_)
            | Self::Draw(_) => Exit::Failed.code(),
            Self::Device(EngineError::GpuForbidden) => Exit::BadUsage.code(),
            Self::Device(_)
            | Self::Runner(_)
            | Self::Logs(_)
            | Self::Listen { .. }
            | Self::Write { .. }
            | Self::System { .. }
            | Self::WorkerAway { .. }
            | Self::Unreachable { .. } => Exit::Environment.code(),
            Self::Interrupted => Exit::Interrupted.code(),
        }
    }
}
