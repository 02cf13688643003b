//! The HTTP server: metrics, health, profile, the live page and what feeds it.
//!
//! ```text
//! TcpListener --Door--> connection (HTTP/1.1, time-outs) --> access --> router --> views of WorkerStatus, HostUsage, GPUs
//!                                                                           +------> live: history, server-sent events
//!                                                                           +------> page (compiled in), control (token)
//!                                                                +------> metrics text
//!                                                                +------> profile (own blocking thread)
//! ```
//!
//! Everything is read from snapshots, so that no request waits for the worker and the worker for no request. A client
//! that sends nothing, or reads nothing, loses its connection after a while and costs no more than that.
//!
//! Errors are JSON: `{"error": {"code", "message", "field"?, "value"?, "allowed"?}}`.
//!
//! Deliberately absent: orders without a token. [`Control`] says who may cancel and drain; gRPC does the rest.

mod accept;
mod access;
mod control;
mod events;
mod live;
mod page;
mod problem;
mod profile;
mod routes;
mod starting;
mod status_metrics;
mod views;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use prometheus::Registry;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::domain::WorkerStatus;
use crate::gpu::GpuProbe;
use crate::guard::{Demand, Door, Guard};
use crate::telemetry::host::HostProbe;
use crate::worker::WorkerHandle;

use accept::Patience;
use access::Access;
pub use control::Control;
use live::Live;
pub use starting::Starting;
pub use status_metrics::StatusCollector;
use views::Summary;

/// Configuration of the HTTP server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// METRICS_PORT, on all addresses; port 0 = any free one.
    pub listen: SocketAddr,
}

impl Config {
    /// Takes the port.
    ///
    /// # Errors
    /// [`Error::Bind`] when it is not to be had.
    pub fn bind(&self) -> Result<TcpListener, Error> {
        TcpListener::bind(self.listen).map_err(|source| Error::Bind { listen: self.listen, source })
    }
}

/// Why the HTTP server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port is not to be had.
    #[error(
        "METRICS_PORT: cannot listen on {listen} ({source}); allowed: a free port that this user may take, or 0 for any"
    )]
    Bind {
        /// The address that was asked for.
        listen: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The listener cannot be used.
    #[error("METRICS_PORT: the listening socket cannot be used: {0}")]
    Listener(io::Error),
    /// The metrics of the worker's status are in the registry already.
    #[error("metrics of the worker's status cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// What the server shows.
#[derive(Clone)]
pub struct Sources {
    /// The worker.
    pub handle: WorkerHandle,
    /// Use of the machine.
    pub host: HostProbe,
    /// The GPUs.
    pub gpu: Arc<dyn GpuProbe>,
    /// What /metrics writes.
    pub registry: Registry,
    /// Where the orchestrator is looked for, as people may see it.
    pub orchestrator: String,
    /// Who may cancel and drain.
    pub control: Control,
}

impl Sources {
    fn summary(&self, status: &WorkerStatus) -> Summary {
        Summary::new(self, status)
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// What all requests share.
#[derive(Clone)]
struct Shared {
    sources: Sources,
    /// One permit: the process can be profiled by one request at a time.
    profiles: Arc<Semaphore>,
    /// One permit for each client that follows the events.
    viewers: Arc<Semaphore>,
    live: Arc<Live>,
}

/// The server, built and not started.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    sources: Sources,
    patience: Patience,
    guard: Guard,
    measurements: Demand,
}

impl Server {
    /// Builds the server on `listener` and registers the metrics of the worker's status.
    ///
    /// # Errors
    /// [`Error::Metrics`] when such metrics are registered already.
    pub fn new(listener: TcpListener, sources: Sources) -> Result<Self, Error> {
        StatusCollector::new(sources.handle.clone(), Arc::clone(&sources.gpu))?
            .register(&sources.registry)?;
        let (guard, measurements) = (Guard::none(), Demand::Open);
        Ok(Self { listener, sources, patience: Patience::default(), guard, measurements })
    }

    /// The same server behind `guard`; /metrics and /health ask for credentials where `measurements` says so.
    pub fn behind(self, guard: Guard, measurements: Demand) -> Self {
        Self { guard, measurements, ..self }
    }

    /// Where it listens, with the port that was found.
    ///
    /// # Errors
    /// [`Error::Listener`] when the system does not tell.
    pub fn local_addr(&self) -> Result<SocketAddr, Error> {
        self.listener.local_addr().map_err(Error::Listener)
    }

    /// Serves until `shutdown`, then ends when the requests under way are answered, or a few seconds later.
    ///
    /// # Errors
    /// [`Error::Listener`] when the socket cannot be used.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), Error> {
        let live = Arc::new(Live::new(self.sources.clone()));
        let shared = Shared {
            sources: self.sources,
            profiles: Arc::new(Semaphore::new(1)),
            viewers: Arc::new(Semaphore::new(events::MOST_VIEWERS)),
            live: Arc::clone(&live),
        };
        let door = Door::open(self.listener, &self.guard, self.patience.limits()).map_err(Error::Listener)?;
        let access = Access { gate: self.guard.gate, measurements: self.measurements };
        let served = accept::serve(door, routes::router(shared, access), self.patience, shutdown.clone());
        tokio::join!(served, live.run(shutdown));
        Ok(())
    }
}
