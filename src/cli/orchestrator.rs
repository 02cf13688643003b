//! `orchestrator`: an orchestrator in memory, for development.

use std::net::SocketAddr;
use std::time::Duration;

use super::signals::Signals;
use super::{Exit, Failure, ui};
use crate::config::Environment;
use crate::dev::{Contract, DevConfig, DevOrchestrator};

/// Arguments of `orchestrator`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address to listen on; port 0 = any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,
    /// Speak TensorFleet's base contract only: no registration, no heartbeats, no leases
    #[arg(long)]
    pub base: bool,
    /// After how long without a sign of life a task is taken from its worker and handed out anew; at least 1s
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = lease)]
    pub lease: Duration,
}

/// Shortest lease: workers are told in whole seconds, so a shorter one would end before it is renewed.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);

/// For clap: a lease.
fn lease(raw: &str) -> Result<Duration, String> {
    let duration = crate::config::duration(raw).filter(|lease| *lease >= SHORTEST_LEASE);
    duration.ok_or_else(|| "allowed: a duration of at least 1s, such as 30s or 5m".to_owned())
}

/// Runs it until a signal.
///
/// # Errors
/// The address cannot be listened on.
pub async fn execute(args: Args, environment: &Environment) -> Result<Exit, Failure> {
    super::start_logs(environment, "info", std::io::stderr)?;
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
