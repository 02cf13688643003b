//! `orchestrator`: an orchestrator in memory, for development.

use std::net::SocketAddr;
use std::time::Duration;

use super::signals::Signals;
use super::{Exit, Failure, job, ui};
use crate::config::Environment;
use crate::dev::{Contract, DevConfig, DevOrchestrator};

/// Arguments of `orchestrator`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where it listens; port 0 = any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,
    /// Speak TensorFleet's base contract only: no registration, no heartbeats, no leases
    #[arg(long)]
    pub base: bool,
    /// How long a task stays with a worker that is not heard of
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = job::duration)]
    pub lease: Duration,
}

/// Runs it until a signal.
///
/// # Errors
/// The address cannot be listened on.
pub async fn execute(args: Args, environment: &Environment) -> Result<Exit, Failure> {
    super::start_logs(environment, "info")?;
    let config = DevConfig {
        listen: args.listen,
        contract: if args.base { Contract::Base } else { Contract::Extended },
        lease: args.lease,
        ..DevConfig::default()
    };
    let mut signals = Signals::listen()?;
    let orchestrator = DevOrchestrator::start(config)
        .await
        .map_err(|source| Failure::Listen { address: args.listen, source })?;
    ui::say(&format!("development orchestrator listens on {}", orchestrator.local_addr()))?;
    let signal = signals.next().await;
    tracing::info!(signal, "ending");
    orchestrator.shutdown().await;
    Ok(Exit::Done)
}
