//! `run`: the worker.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::signals::Signals;
use super::{ConfigFlags, Exit, Failure};
use crate::app::{App, AppError, Program, Shutdown};
use crate::config::{Config, Environment};
use crate::engine::ModelRegistry;
use crate::guard;
use crate::telemetry::logs;
use crate::telemetry::traces::Traces;

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Every configuration variable.
    #[command(flatten)]
    pub flags: ConfigFlags,
}

/// Runs the worker until it was told to end and has drained.
///
/// # Errors
/// The configuration is wrong, or the worker cannot start or go on.
pub async fn execute(args: Args, environment: &Environment) -> Result<Exit, Failure> {
    let resolved = Config::resolve(&args.flags.over(environment))?;
    let traces = Traces::default();
    // Before all that may still log at its end, so that it is dropped after it.
    let log = logs::init_queued(&resolved.config.logs, traces.clone())?;
    for warning in &resolved.warnings {
        tracing::warn!("{warning}");
    }
    if resolved.has_secrets() {
        guard::no_core_dumps();
    }
    let program = Program::with_children(ModelRegistry::default());
    // Before anything is built, so that a signal during the start is not lost.
    let mut signals = Signals::listen()?;
    let app = tokio::select! {
        app = App::build_with(resolved.config, program, traces) => app?,
        signal = signals.next() => {
            tracing::warn!(signal, "the worker ends before it has started");
            return Ok(Exit::Interrupted);
        }
    };
    log.register(app.registry()).map_err(AppError::Metrics)?;
    let worker_id = app.worker().status().worker_id;
    tracing::info!(
        %worker_id,
        grpc = %app.grpc_addr(),
        http = %app.http_addr(),
        version = env!("CARGO_PKG_VERSION"),
        "listening"
    );
    let shutdown = Shutdown::new();
    let tracker = TaskTracker::new();
    let cancelled = CancellationToken::new();
    let watch = tracker.spawn(end_on_signals(signals, shutdown.clone(), cancelled.clone()));
    let ended = app.run(shutdown).await;
    watch.abort();
    ended?;
    tracing::info!(%worker_id, "ended");
    Ok(if cancelled.is_cancelled() { Exit::Interrupted } else { Exit::Done })
}

/// The first signal drains, every later one cancels.
async fn end_on_signals(mut signals: Signals, shutdown: Shutdown, cancelled: CancellationToken) {
    let signal = signals.next().await;
    tracing::info!(signal, "draining; a second signal cancels what runs");
    shutdown.drain();
    loop {
        let signal = signals.next().await;
        tracing::warn!(signal, "cancelling");
        cancelled.cancel();
        shutdown.cancel();
    }
}
