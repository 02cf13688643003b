//! Raw strings to one checked configuration.
//!
//! ```text
//! flags > environment > file > defaults --layers--> Values (text, and where it came from)
//!                                                      |
//!                              VARIABLES, the one table +--build--> Config (checked) or every error at once
//!                                                      +--show---> rows for people, secrets masked
//! ```
//!
//! Invariants: every variable is in [`VARIABLES`], and only there; nothing here reads the process environment
//! (the caller passes a map), so the same input gives the same configuration; all that is wrong is reported
//! together, each with its name, its source, its value and what would be right; a secret's value is never
//! repeated.
//!
//! The files that it names for credentials are read once here, so that a bad one is found by a check and not
//! by the first call.
//!
//! Deliberately absent: binding or creating anything. That is [`crate::app`]'s to do.

mod access;
mod build;
mod docs;
mod layers;
mod parse;
mod problem;
mod show;
mod variables;

#[cfg(test)]
mod tests;

pub use docs::markdown;
pub use layers::{Environment, FlagValues, Layers, Source, Values};
pub(crate) use parse::duration;
pub use problem::{ConfigErrors, Problem};
pub use show::Row;
pub use variables::{VARIABLES, Variable, nearest};

use std::net::SocketAddr;

use crate::domain::Strictness;
use crate::telemetry::{logs, traces};
use crate::{engine, gpu, guard, orchestrator, worker};

/// The checked configuration: each room's own one, and what belongs to none.
#[derive(Debug, Clone)]
pub struct Config {
    /// The worker's.
    pub worker: worker::Config,
    /// The engine's, with that of its data.
    pub engine: engine::Config,
    /// That of the GPUs.
    pub gpu: gpu::Config,
    /// Where tasks are trained (TASK_ISOLATION, TASK_MEMORY_LIMIT).
    pub isolation: engine::Isolation,
    /// The orchestrator's client's.
    pub orchestrator: orchestrator::Config,
    /// Who is let in by the servers.
    pub guard: guard::Config,
    /// Where the gRPC server listens (WORKER_PORT).
    pub grpc_listen: SocketAddr,
    /// Where the HTTP server listens (METRICS_PORT).
    pub http_listen: SocketAddr,
    /// The logs'.
    pub logs: logs::Config,
    /// The traces'.
    pub traces: traces::Config,
    /// What happens to hyperparameters that nobody knows (STRICT_HYPERPARAMETERS).
    pub strictness: Strictness,
}

/// A configuration, and what is worth telling about it.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The configuration.
    pub config: Config,
    /// Every variable with its value and where that came from.
    pub rows: Vec<Row>,
    /// What is set but has no effect; for the log.
    pub warnings: Vec<String>,
}

impl Resolved {
    /// Whether a secret is set, in a file that is named or in itself.
    pub fn has_secrets(&self) -> bool {
        let secret = |row: &Row| Variable::find(row.name).is_some_and(|variable| variable.secret);
        self.rows.iter().any(|row| row.value.is_some() && secret(row))
    }
}

impl Config {
    /// Puts the layers on each other and checks all of it.
    ///
    /// # Errors
    /// Everything that is wrong, in one report.
    pub fn resolve(layers: &Layers) -> Result<Resolved, ConfigErrors> {
        let (values, mut problems) = layers.values();
        let mut warnings = Vec::new();
        let config = build::build(&values, &mut problems, &mut warnings);
        match config {
            Some(config) if problems.is_empty() => {
                Ok(Resolved { config, rows: show::rows(&values), warnings })
            }
            _ => Err(ConfigErrors(problems)),
        }
    }
}
