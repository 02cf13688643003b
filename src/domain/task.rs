//! A task as the worker understands it, all fields checked.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use super::{Hyperparameters, JobId, ModelType, TaskId};

/// Tasks that TensorFleet cuts an epoch into.
pub const TASKS_PER_EPOCH: u32 = 10;

/// Minibatches in one such task.
pub const BATCHES_PER_TASK: u32 = 100;

/// Which task, and which hand-out of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskIdentity {
    /// The task.
    pub task_id: TaskId,
    /// Its job.
    pub job_id: JobId,
    /// Counts how often the orchestrator handed it out; 0 where it does not count (base contract).
    pub attempt: u32,
}

/// One task: a slice of the training of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskSpec {
    /// Which task.
    pub identity: TaskIdentity,
    /// What is trained.
    pub model: ModelType,
    /// Where the rows come from, as the job gave it: `builtin:digits`, a path under DATA_ROOT, a URL.
    pub dataset_path: String,
    /// How it is trained.
    pub hyperparameters: Hyperparameters,
    /// What the sender should know about its request, such as names that nobody understood.
    pub notes: Vec<String>,
    /// Epoch, as the orchestrator numbers it.
    pub epoch: u32,
    /// Minibatches of that epoch, modulo the number there are in the data set. Never empty.
    pub batches: Range<u32>,
    /// Epochs of the whole job, where the orchestrator tells.
    pub total_epochs: Option<u32>,
    /// Time-out of this task where the orchestrator sets one; else the worker's own.
    pub timeout: Option<Duration>,
    /// For how long the orchestrator keeps the task ours without hearing from us.
    pub lease: Option<Duration>,
    /// State to start from, as model_weights of an earlier task; empty for none.
    pub initial_weights: Bytes,
    /// The assignment as it came, to be read again after a restart; empty for a task that came by ExecuteTask.
    pub received: Bytes,
}

impl TaskSpec {
    /// Whether `other` asks for the same training under the same ids, whatever hand-out it is.
    pub fn is_same_work(&self, other: &Self) -> bool {
        self.identity.task_id == other.identity.task_id
            && self.identity.job_id == other.identity.job_id
            && self.model == other.model
            && self.dataset_path == other.dataset_path
            && self.hyperparameters == other.hyperparameters
            && self.epoch == other.epoch
            && self.batches == other.batches
    }

    /// Whether this is the last slice of its epoch, after which all held-out rows are evaluated.
    pub fn ends_epoch(&self) -> bool {
        self.batches.end.is_multiple_of(TASKS_PER_EPOCH * BATCHES_PER_TASK)
    }
}
