//! Builds everything, then starts everything.

use std::net::SocketAddr;

use crate::config::Config;
use crate::worker::WorkerHandle;

/// Why the worker cannot run.
#[derive(Debug, thiserror::Error)]
#[error("the worker is not built yet")]
pub struct AppError;

impl AppError {
    /// The exit code for it.
    pub fn exit_code(&self) -> u8 {
        1
    }
}

/// The two wishes that the worker should end.
#[derive(Debug, Clone, Default)]
pub struct Shutdown;

impl Shutdown {
    /// Nothing was wished yet.
    pub fn new() -> Self {
        Self
    }

    /// Take no more tasks, finish those that run, end.
    pub fn drain(&self) {}

    /// End now.
    pub fn cancel(&self) {}
}

/// The worker, built and bound.
#[derive(Debug)]
pub struct App {
    worker: WorkerHandle,
}

impl App {
    /// Builds it.
    pub async fn build(config: Config) -> Result<Self, AppError> {
        drop(config);
        Err(AppError)
    }

    /// Where the gRPC server listens.
    pub fn grpc_addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    /// Where the HTTP server listens.
    pub fn http_addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    /// The worker.
    pub fn worker(&self) -> WorkerHandle {
        self.worker.clone()
    }

    /// Runs until drained.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), AppError> {
        drop(shutdown);
        Ok(())
    }
}
