//! What goes into the board and comes out of it: plain data.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use super::job::Figures;
use crate::domain::{ErrorCode, JobId, ModelType, TaskId, WorkerId, WorkerPhase};

/// Which contract the board keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Contract {
    /// TensorFleet's own: no leases, every report of success is counted, a failed task is forgotten, and tasks of
    /// cancelled jobs are handed out as before.
    Base,
    /// With leases, attempts and affinity.
    #[default]
    Extended,
}

/// One task, handed out.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// The task.
    pub task_id: TaskId,
    /// Its job.
    pub job_id: JobId,
    /// What to train.
    pub model: ModelType,
    /// On which data.
    pub dataset_path: String,
    /// How.
    pub hyperparameters: BTreeMap<String, String>,
    /// Its epoch, from 0.
    pub epoch: u32,
    /// Minibatches of that epoch.
    pub batches: Range<u32>,
    /// Which hand-out of the task this is, from 1.
    pub attempt: u32,
    /// Epochs of the job.
    pub total_epochs: u32,
}

/// The end of a task, as a worker reports it.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The task.
    pub task_id: TaskId,
    /// Who ran it.
    pub worker: WorkerId,
    /// Which hand-out; 0 = the present one.
    pub attempt: u32,
    /// What came out.
    pub ending: Result<Figures, Failure>,
}

/// Why a task failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The worker's code; None for one that is not known.
    pub code: Option<ErrorCode>,
    /// For people.
    pub message: String,
}

impl Failure {
    /// Whether another worker, or the same one later, may succeed.
    pub(super) fn may_pass(&self) -> bool {
        self.code.is_some_and(|code| {
            code.is_retryable() || matches!(code, ErrorCode::Interrupted | ErrorCode::TimedOut)
        })
    }
}

/// What became of a report. Each of these is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// It was the first of its task and counts.
    Counted,
    /// The task had ended before.
    Repeated,
    /// The task was handed out anew since; nothing of this report counts.
    Stale,
    /// A failure; the task will be handed out once more.
    Requeued,
    /// A failure for good.
    Failed,
}

impl Receipt {
    /// In words.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Counted => "counted",
            Self::Repeated => "the task had ended before",
            Self::Stale => "the task was handed out anew since; not counted",
            Self::Requeued => "the task will be handed out once more",
            Self::Failed => "the task failed",
        }
    }
}

/// What the worker hears after a heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeartbeatReply {
    /// Tasks that are not wanted (any more).
    pub cancel: Vec<TaskId>,
    /// Whether it should take no more tasks and end.
    pub drain: bool,
    /// Whether it has to register first.
    pub reregister: bool,
    /// Tasks whose lease was prolonged.
    pub renewed: Vec<TaskId>,
}

/// What one worker is doing.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerActivity {
    /// Who.
    pub worker_id: WorkerId,
    /// What it said of itself, or what follows from the tasks it holds.
    pub phase: WorkerPhase,
    /// One of the tasks it holds, with its job.
    pub current: Option<(TaskId, JobId)>,
    /// Reports of it that were counted.
    pub completed: u32,
    /// When it was heard last.
    pub seen: Instant,
}

/// A call about a task or a job that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BoardError {
    /// No such task.
    #[error("task_id: \"{0}\" is not known")]
    UnknownTask(TaskId),
    /// No such job.
    #[error("job_id: \"{0}\" is not known")]
    UnknownJob(JobId),
    /// There is one of that name.
    #[error("job_id: \"{0}\" exists; allowed: a new id, or empty for a generated one")]
    JobExists(JobId),
}
