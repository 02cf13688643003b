//! What the worker says of itself: the snapshot that HTTP, gRPC, heartbeats and metrics read.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::{Backend, ModelType, Progress, TaskIdentity, TaskOutcome, WorkerId};

/// What the worker can do, as told at registration.
#[derive(Debug, Clone, PartialEq)]
pub struct Capabilities {
    /// Logical processors.
    pub cpu_cores: u32,
    /// Physical memory in bytes.
    pub memory_bytes: u64,
    /// Slots.
    pub max_tasks: u32,
    /// Healthy GPUs.
    pub gpus: Vec<GpuInfo>,
    /// What can be trained for real.
    pub model_types: Vec<String>,
    /// Backends a task may ask for.
    pub backends: Vec<Backend>,
}

/// One GPU, as NVML knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuInfo {
    /// Index in NVML's order.
    pub index: u32,
    /// UUID, with its `GPU-` or `MIG-` prefix.
    pub uuid: String,
    /// Product name.
    pub name: String,
    /// Video memory in bytes, where the driver tells: a GPU that uses the machine's memory has none of its own.
    pub memory_bytes: Option<u64>,
    /// PCI address, `domain:bus:device.function`.
    pub pci_bus_id: String,
    /// CUDA compute capability, such as `8.6`; empty when unknown.
    pub compute_capability: String,
    /// Driver version.
    pub driver_version: String,
    /// Whether it is a MIG slice.
    pub mig: bool,
}

/// What one GPU is doing now.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuUsage {
    /// UUID, as in [`GpuInfo`].
    pub uuid: String,
    /// Share of time in which a kernel ran, 0 to 1; MIG slices do not tell.
    pub utilization_ratio: Option<f64>,
    /// Video memory in use, in bytes, where the driver tells.
    pub memory_used_bytes: Option<u64>,
}

/// What the machine and the worker use.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct HostUsage {
    /// CPU use of the machine, percent of all its cores.
    pub cpu_percent: f64,
    /// Resident memory of the worker and its runners in bytes.
    pub memory_bytes: u64,
    /// Memory in use on the machine, percent.
    pub memory_percent: f64,
}

/// The link to the orchestrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Nothing was heard yet, or a reconnect is under way.
    Connecting,
    /// The last call was answered.
    Connected,
    /// The last call failed.
    Disconnected,
}

impl LinkState {
    /// The word in /health.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
        }
    }
}

/// What the worker as a whole is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerPhase {
    /// Waiting for tasks.
    Idle,
    /// At least one task is held.
    Busy,
    /// Takes no more tasks and ends when those it has are done.
    Draining,
    /// Runs, but something keeps it from its work; the reasons say what.
    Degraded,
}

impl WorkerPhase {
    /// The word in /health and on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "IDLE",
            Self::Busy => "BUSY",
            Self::Draining => "DRAINING",
            Self::Degraded => "DEGRADED",
        }
    }
}

/// Where a held task is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskPhase {
    /// Claimed; its job's state is being asked for, it waits for its turn, or for its next try.
    Waiting,
    /// The engine works on it.
    Running,
    /// It was told to stop and will at its next batch.
    Stopping,
    /// It ended; its outcome is on its way to the disk, or the task on its way back.
    Reporting,
}

impl TaskPhase {
    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Reporting => "reporting",
        }
    }
}

/// One held task, as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskView {
    /// Which task.
    pub identity: TaskIdentity,
    /// What is trained.
    pub model: ModelType,
    /// Its epoch.
    pub epoch: u32,
    /// Where it is on its way.
    pub phase: TaskPhase,
    /// The latest figures.
    pub progress: Progress,
    /// When it was claimed.
    pub claimed_at: SystemTime,
    /// Local retries so far.
    pub retries: u32,
    /// For how long the orchestrator keeps it ours without hearing from us, where it tells with the task.
    pub lease: Option<Duration>,
}

/// Everything about the worker at one moment.
#[derive(Debug, Clone)]
pub struct WorkerStatus {
    /// Its id.
    pub worker_id: WorkerId,
    /// What it is doing.
    pub phase: WorkerPhase,
    /// Why it is degraded or not ready; empty when all is well.
    pub reasons: Vec<String>,
    /// When it started.
    pub started_at: Instant,
    /// Slots there are.
    pub slots_total: u32,
    /// Slots that hold a task.
    pub slots_busy: u32,
    /// Slots that wait for a task at the orchestrator.
    pub slots_polling: u32,
    /// Held tasks, oldest first.
    pub tasks: Vec<TaskView>,
    /// The latest outcomes, newest last.
    pub recent: Vec<Arc<TaskOutcome>>,
    /// Tasks completed since the start.
    pub completed_tasks: u64,
    /// Tasks that failed or ran too long; cancelled ones are neither completed nor failed.
    pub failed_tasks: u64,
    /// The link to the orchestrator.
    pub link: LinkState,
    /// Whether its orchestrator has accepted the worker, and has not been away for long since.
    pub registered: bool,
    /// The last time the orchestrator answered a heartbeat (base contract: any call).
    pub last_heartbeat: Option<SystemTime>,
    /// The backend a task without a wish of its own would get now.
    pub backend: Backend,
    /// Outcomes that wait for acknowledgement.
    pub outbox_pending: u64,
    /// Whether the disk takes what has to be in STATE_DIR: false while it is full, refuses or does not answer.
    pub state_dir_writable: bool,
}

impl WorkerStatus {
    /// Time since the start.
    pub fn uptime(&self) -> Duration {
        self.started_at.elapsed()
    }

    /// Whether a load balancer or a kubelet should call this worker ready.
    pub fn is_ready(&self) -> bool {
        self.registered && !matches!(self.phase, WorkerPhase::Draining | WorkerPhase::Degraded)
    }

    /// Held tasks whose outcome is not in yet.
    pub fn active_tasks(&self) -> usize {
        self.tasks.iter().filter(|task| task.phase != TaskPhase::Reporting).count()
    }
}
