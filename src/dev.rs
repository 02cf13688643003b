//! A development orchestrator in memory, for `orchestrator`, `demo` and the tests.
//!
//! ```text
//! gRPC --> service --> BoardHandle --> Board   (jobs, tasks, leases: pure)
//!             |            ^
//!             |            +-- demo and tests look on, and wait for what they expect
//!             +-- long polls end with work, after 5 s, or at shutdown
//! ```
//!
//! It keeps the base contract or the extended one, over real sockets, with health and reflection beside it.
//!
//! Deliberately absent: what a production orchestrator has: storage, TLS, credentials, limits. All is lost with the
//! process, unless a [`DevOrchestrator::resume`] takes the board over.

mod board;
mod job;
mod service;
mod shared;
mod terms;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::without_socket;

pub use board::Board;
pub use job::{EpochSummary, Figures, JobRequest, JobStatus, JobSummary};
pub use shared::BoardHandle;
pub use terms::{Assignment, BoardError, Contract, Failure, HeartbeatReply, Receipt, Report, WorkerActivity};

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::transport::server::{Server, TcpIncoming};

use crate::wire::DESCRIPTORS;
use crate::wire::pb::orchestrator_service_server::OrchestratorServiceServer;
use service::Service;

/// Largest report in bytes: one that carries weights is large.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// How long a shutdown waits for clients that keep a stream open.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// How to run the development orchestrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevConfig {
    /// Where to listen; port 0 = any free one.
    pub listen: SocketAddr,
    /// Which contract to keep.
    pub contract: Contract,
    /// For how long a task stays with a silent worker (extended). Told to workers in whole seconds, rounded up.
    pub lease: Duration,
    /// How often workers shall send a heartbeat (extended), in whole seconds; below one the worker decides.
    pub heartbeat_interval: Duration,
    /// How long an AssignTask waits for work.
    pub long_poll: Duration,
}

impl Default for DevConfig {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 50051).into(),
            contract: Contract::Extended,
            lease: Duration::from_secs(30),
            heartbeat_interval: Duration::from_secs(5),
            long_poll: Duration::from_secs(5),
        }
    }
}

/// A running development orchestrator. Dropping it stops it too, without waiting for its end.
#[derive(Debug)]
pub struct DevOrchestrator {
    local_addr: SocketAddr,
    board: BoardHandle,
    stop: DropGuard,
    tracker: TaskTracker,
}

impl DevOrchestrator {
    /// Starts with an empty board.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn start(config: DevConfig) -> io::Result<Self> {
        let board = Board::new(config.contract, config.lease);
        Self::resume(config, &BoardHandle::new(board)).await
    }

    /// Starts with the board of an earlier one, as if it had kept it in storage. Contract and lease are the board's.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn resume(config: DevConfig, board: &BoardHandle) -> io::Result<Self> {
        let listener = TcpListener::bind(config.listen).await?;
        let local_addr = listener.local_addr()?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let stop = CancellationToken::new();
        let tracker = TaskTracker::new();

        let service = Service {
            board: board.clone(),
            long_poll: config.long_poll,
            heartbeat_interval: config.heartbeat_interval,
            stop: stop.clone(),
        };
        let service = OrchestratorServiceServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<OrchestratorServiceServer<Service>>().await;
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .with_service_name("orchestrator.OrchestratorService")
                .with_service_name("grpc.health.v1.Health")
        };
        let server = Server::builder()
            .add_service(service)
            .add_service(health_service)
            .add_service(reflection().build_v1().map_err(io::Error::other)?)
            .add_service(reflection().build_v1alpha().map_err(io::Error::other)?)
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());

        tracker.spawn(serve(server, stop.clone()));
        tracker.spawn(take_lost_tasks_back(board.clone(), stop.clone()));
        tracker.close();
        Ok(Self { local_addr, board: board.clone(), stop: stop.drop_guard(), tracker })
    }

    /// The address that is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The board, to look at, to wait on, and to change by hand.
    pub fn board(&self) -> &BoardHandle {
        &self.board
    }

    /// Stops: polls end at once, calls in flight are answered, and streams that clients keep open are cut after
    /// two seconds.
    pub async fn shutdown(self) {
        drop(self.stop);
        self.tracker.wait().await;
    }
}

async fn serve(server: impl Future<Output = Result<(), tonic::transport::Error>>, stop: CancellationToken) {
    let mut server = std::pin::pin!(server);
    let ended = tokio::select! {
        ended = &mut server => Some(ended),
        () = stop.cancelled() => timeout(SHUTDOWN_GRACE, server).await.ok(),
    };
    if let Some(Err(error)) = ended {
        tracing::error!(error = &error as &dyn std::error::Error, "development orchestrator ended");
    }
}

async fn take_lost_tasks_back(board: BoardHandle, stop: CancellationToken) {
    let Some(lease) = board.read(Board::lease) else { return };
    let mut tick = tokio::time::interval((lease / 8).clamp(Duration::from_millis(5), Duration::from_secs(1)));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let now = tokio::time::Instant::now().into_std();
        // Looked at first, since an update wakes everybody who waits for a change.
        if board.read(|board| board.has_expired(now)) {
            let lost = board.update(|board| board.expire(now));
            tracing::warn!(lost, "leases ended without a word from the worker; tasks are handed out anew");
        }
    }
}
