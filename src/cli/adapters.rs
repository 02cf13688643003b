//! `adapters`: the child process of a worker that looks for GPUs. Nobody else starts it.

use super::{Exit, Failure};
use crate::engine::tell_adapters;

/// Arguments of `adapters`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Process id of the worker
    #[arg(long)]
    parent: u32,

    /// Count software adapters where there is no GPU
    #[arg(long)]
    software: bool,
}

/// Tells the adapters of this machine.
///
/// # Errors
/// It was not started by a worker, or nobody listens.
pub fn execute(args: &Args) -> Result<Exit, Failure> {
    tell_adapters(args.parent, args.software)
        .map_err(|source| Failure::System { doing: "tell the adapters", source })?;
    Ok(Exit::Done)
}
