//! The client side of the orchestrator: registration, claims, heartbeats and reports.
//!
//! ```text
//! worker --trait Orchestrator--> Client --gRPC--> orchestrator
//!                                  |
//!                                  +-- Mode: base or extended, found out at each registration
//! ```
//!
//! One client type serves both contracts: what the base contract lacks is answered here (a heartbeat is nothing,
//! progress becomes UpdateJobMetrics), so that the worker does not ask which one it speaks.
//!
//! Deliberately absent: loops and waiting between tries. When to call again is the worker's to decide, with
//! [`Backoff`].

mod answers;
mod backoff;
mod client;
mod config;
mod error;
mod metrics;
mod status;

#[cfg(test)]
mod tests;

pub use backoff::Backoff;
#[cfg(test)]
pub(crate) use backoff::seed_waits;
pub use client::Client;
#[cfg(test)]
pub(crate) use client::{BrokenWay, Transport};
pub(crate) use config::Credential;
pub use config::{Config, ConfigError, Deadlines};
pub use error::OrchestratorError;
pub use metrics::Metrics;

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::domain::{
    Capabilities, GpuUsage, HostUsage, JobId, TASKS_PER_EPOCH, TaskId, TaskIdentity, TaskOutcome, TaskView,
    WorkerId, WorkerPhase,
};
use crate::wire::ClaimedTask;

/// Which contract the orchestrator speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// TensorFleet's own: claim, report, job status.
    Base,
    /// With registration, heartbeats, live progress, leases and release.
    Extended,
}

impl Mode {
    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Extended => "extended",
        }
    }
}

/// What the worker says of itself when it registers.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Its id.
    pub worker_id: WorkerId,
    /// What it can do.
    pub capabilities: Capabilities,
    /// host:port of its own gRPC server.
    pub address: String,
    /// Attempts it still holds.
    pub held: Vec<TaskIdentity>,
}

/// What the orchestrator answers to a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    /// The contract it speaks.
    pub mode: Mode,
    /// How often it wants to hear from us; None = as configured.
    pub heartbeat_interval: Option<Duration>,
    /// For how long it keeps tasks ours; None = no leases.
    pub lease: Option<Duration>,
}

/// What a worker says when it asks for a task.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    /// Its id.
    pub worker_id: WorkerId,
    /// Free slots, these included.
    pub slots_available: u32,
    /// Tasks that may come at once; the base contract knows one.
    pub max_tasks: u32,
    /// Backends it has.
    pub backends: Vec<&'static str>,
    /// Jobs whose session is warm.
    pub warm_jobs: Vec<JobId>,
    /// Free video memory of the GPU that has most of it, in bytes.
    pub gpu_memory_available_bytes: u64,
}

/// What a claim brought.
#[derive(Debug)]
pub struct Claimed {
    /// The tasks; none where there is nothing to do for now.
    pub tasks: Vec<ClaimedTask>,
    /// When the answer arrived.
    pub answered: Instant,
}

/// What a heartbeat says.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    /// Who.
    pub worker_id: WorkerId,
    /// What it is doing.
    pub phase: WorkerPhase,
    /// Tasks it holds.
    pub tasks: Vec<TaskView>,
    /// CPU and memory.
    pub host: HostUsage,
    /// GPUs.
    pub gpus: Vec<GpuUsage>,
    /// Free slots.
    pub slots_available: u32,
}

/// What the orchestrator answers to a heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    /// Tasks to stop.
    pub cancel: Vec<TaskId>,
    /// Take no more tasks and end.
    pub drain: bool,
    /// It does not know this worker (any more).
    pub reregister: bool,
    /// Tasks whose lease was prolonged.
    pub renewed: Vec<TaskId>,
}

/// What the orchestrator thinks of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobState {
    /// Whether its tasks are still wanted.
    pub wanted: bool,
    /// Whether the job has ended, so that its session may leave.
    pub ended: bool,
    /// Whether the orchestrator knows the job.
    pub known: bool,
    /// Tasks it has in all, 0 when unknown.
    pub total_tasks: u32,
}

impl JobState {
    /// Epochs it has in all, where that is known: an epoch is cut into ten tasks.
    pub fn total_epochs(self) -> Option<u32> {
        (self.total_tasks > 0).then(|| self.total_tasks.div_ceil(TASKS_PER_EPOCH))
    }
}

/// An orchestrator, as the worker needs it.
#[async_trait]
pub trait Orchestrator: Send + Sync + 'static {
    /// Registers and finds out the contract.
    async fn register(&self, registration: &Registration) -> Result<Registered, OrchestratorError>;

    /// Asks for tasks. Long poll.
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, OrchestratorError>;

    /// Tells that the worker lives. With the base contract this is answered without a call.
    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<HeartbeatAnswer, OrchestratorError>;

    /// Tells the progress of a task; true when it should stop.
    async fn report_progress(&self, task: &TaskView) -> Result<bool, OrchestratorError>;

    /// Reports the end of a task; Ok when acknowledged.
    async fn report(&self, outcome: &TaskOutcome) -> Result<(), OrchestratorError>;

    /// Gives an unfinished task back; true when the contract knows that, else it must be reported as failed.
    async fn release(&self, task: &TaskIdentity, reason: &str) -> Result<bool, OrchestratorError>;

    /// Asks whether a job's tasks are still wanted.
    async fn job_state(&self, job: &JobId) -> Result<JobState, OrchestratorError>;
}
