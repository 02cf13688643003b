//! `runner`: the child process of a worker that trains. Nobody else starts it.

use super::{Exit, Failure};
use crate::engine::{ModelRegistry, Runner};
use crate::telemetry::logs::{self, LogFormat};

/// Arguments of `runner`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Process id of the worker
    #[arg(long)]
    parent: u32,
}

/// Trains until the worker lets go. Must be called while the process has one thread.
///
/// # Errors
/// It was not started by a worker, or the device is not there.
pub fn execute(args: &Args) -> Result<Exit, Failure> {
    let runner = Runner::accept(args.parent)?;
    let filter = runner.log_filter().parse().unwrap_or_default();
    // The worker reads each line and logs it anew.
    logs::init(&logs::Config { filter, format: LogFormat::Json })?;
    runner.serve(ModelRegistry::default())?;
    Ok(Exit::Done)
}
