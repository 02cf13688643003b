//! The gRPC server: WorkerService, health and reflection.
//!
//! ```text
//! TcpListener --Door--> tonic --+--Gate--> WorkerService --wire--> WorkerHandle
//!                               +--Gate--> reflection v1, v1alpha <-- descriptors of what is served here
//!                               +--> grpc.health.v1 <-- serving <-- changes of the worker's status
//! ```
//!
//! Invariants: a task belongs to the worker from the moment it is taken, whoever asked for it and however long they
//! stay; no stream outlives the shutdown.
//!
//! Deliberately absent: decisions about tasks (the worker's) and conversions of messages into tasks ([`crate::wire`]).

mod access;
mod answers;
mod service;
mod serving;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::time;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::map_request_body::MapRequestBodyLayer;

use crate::domain::Strictness;
use crate::gpu::GpuProbe;
use crate::guard::{Door, Guard, Limits};
use crate::telemetry::host::HostProbe;
use crate::telemetry::traces::Traces;
use crate::wire::{self, worker_pb};
use crate::worker::WorkerHandle;

use service::Service;
use worker_pb::worker_service_server::WorkerServiceServer;

/// Longest answer: model weights travel inside.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Longest request: names and hyperparameters.
const MAX_REQUEST_BYTES: usize = 1 << 20;

/// Longest headers of a call.
const MAX_HEADER_BYTES: u32 = 16 << 10;

/// Calls under way on one connection; the other side has to wait with more.
const CALLS_PER_CONNECTION: u32 = 1024;

/// What a connection may cost. The first bytes are the preface of HTTP/2 and the head of a frame, which every client
/// sends at once; from then on a silent one is asked whether it lives.
const LIMITS: Limits = Limits { connections: 512, greeting: Duration::from_secs(10), first_bytes: 24 + 9 };

/// A silent connection is asked after this time whether it still lives, and has as long again for its answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// For calls under way when the server is to end.
const GRACE: Duration = Duration::from_secs(5);

/// What the server lists beside its own service.
const STANDARD_SERVICES: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Configuration of the gRPC server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// WORKER_PORT, on all addresses; port 0 = any free one.
    pub listen: SocketAddr,
    /// STRICT_HYPERPARAMETERS, for tasks that come by ExecuteTask.
    pub strictness: Strictness,
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

/// Why the gRPC server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port is not to be had.
    #[error(
        "WORKER_PORT: cannot listen on {listen} ({source}); allowed: a free port that this user may take, or 0 for any"
    )]
    Bind {
        /// The address that was asked for.
        listen: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The listener cannot be used.
    #[error("WORKER_PORT: the listening socket cannot be used: {0}")]
    Listener(io::Error),
    /// The descriptors of the services cannot be read; never in a correct build.
    #[error("the reflection service cannot be built: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server broke.
    #[error("the gRPC server ended early: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// What the server answers from.
#[derive(Clone)]
pub struct Sources {
    /// The worker.
    pub handle: WorkerHandle,
    /// Use of the machine.
    pub host: HostProbe,
    /// The GPUs.
    pub gpu: Arc<dyn GpuProbe>,
    /// What each task goes through.
    pub traces: Traces,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// The server, built and not started.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    sources: Sources,
    strictness: Strictness,
    limits: Limits,
    guard: Guard,
}

impl Server {
    /// Builds the server on `listener`.
    pub fn new(listener: TcpListener, sources: Sources, strictness: Strictness) -> Self {
        Self { listener, sources, strictness, limits: LIMITS, guard: Guard::none() }
    }

    /// The same server behind `guard`.
    pub fn behind(self, guard: Guard) -> Self {
        Self { guard, ..self }
    }

    /// Where it listens, with the port that was found.
    ///
    /// # Errors
    /// [`Error::Listener`] when the system does not tell.
    pub fn local_addr(&self) -> Result<SocketAddr, Error> {
        self.listener.local_addr().map_err(Error::Listener)
    }

    /// Serves until `shutdown`, then ends when the calls under way are answered, or a few seconds later.
    ///
    /// # Errors
    /// [`Error`] when it cannot begin, or breaks.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), Error> {
        let door = Door::open(self.listener, &self.guard, self.limits).map_err(Error::Listener)?;
        let background = TaskTracker::new();
        let (reporter, health) = tonic_health::server::health_reporter();
        serving::report(&self.sources.handle, &reporter).await;
        background.spawn(serving::follow(self.sources.handle.clone(), reporter, shutdown.clone()));

        let gate = self.guard.gate;
        let incoming = access::incoming(door, background.clone(), shutdown.clone());
        let service = Service {
            sources: self.sources,
            strictness: self.strictness,
            gate: Arc::clone(&gate),
            background: background.clone(),
            shutdown: shutdown.clone(),
        };
        let service = WorkerServiceServer::new(service)
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(MAX_ANSWER_BYTES);
        let (service, reflection_v1, reflection_v1alpha) = (
            access::private(service, &gate),
            access::private(reflection().build_v1()?, &gate),
            access::private(reflection().build_v1alpha()?, &gate),
        );
        let serving = tonic::transport::Server::builder()
            .max_concurrent_streams(CALLS_PER_CONNECTION)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .layer(MapRequestBodyLayer::new(access::impatient))
            .add_service(service)
            .add_service(health)
            .add_service(reflection_v1)
            .add_service(reflection_v1alpha)
            .serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
        let too_late = async {
            shutdown.cancelled().await;
            time::sleep(GRACE).await;
        };
        tokio::select! {
            served = serving => served?,
            () = too_late => tracing::debug!("gRPC calls were still under way when the server ended"),
        }
        Ok(())
    }
}

/// Reflection that lists what is served here, and no more, and knows the messages of all of it.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
        .with_service_name(worker_pb::worker_service_server::SERVICE_NAME);
    STANDARD_SERVICES.into_iter().fold(builder, tonic_reflection::server::Builder::with_service_name)
}
