//! How a task ended.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::{Backend, InvalidField, ModelType, TaskIdentity};

/// Why a task did not complete; the name travels as `error_code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorCode {
    /// The request itself is wrong.
    InvalidArgument,
    /// The data set does not exist.
    NotFound,
    /// The request may not have what it asks for, such as a file that the worker is not allowed to read.
    PermissionDenied,
    /// A stated limit was passed.
    ResourceExhausted,
    /// The loss became NaN or infinite.
    Diverged,
    /// Somebody cancelled it.
    Cancelled,
    /// It ran longer than its time-out.
    TimedOut,
    /// The worker went away before it ended.
    Interrupted,
    /// The orchestrator may have given the task to another worker, since no renewal of its lease was acknowledged.
    LeaseLost,
    /// The device was lost.
    DeviceLost,
    /// The trainer panicked.
    Panic,
    /// The process that trained it gave itself up, in code that does not panic.
    Abort,
    /// The process that trained it was ended by a signal.
    Signal,
    /// No memory was left for it: the limit of its process, that of the machine, or that of its GPU.
    OutOfMemory,
    /// The data source or the disk failed for now.
    Unavailable,
    /// Anything else: a defect of ours.
    Internal,
}

impl ErrorCode {
    /// All codes, for metrics and docs.
    pub const ALL: [Self; 16] = [
        Self::InvalidArgument,
        Self::NotFound,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::Diverged,
        Self::Cancelled,
        Self::TimedOut,
        Self::Interrupted,
        Self::LeaseLost,
        Self::DeviceLost,
        Self::Panic,
        Self::Abort,
        Self::Signal,
        Self::OutOfMemory,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::NotFound => "NOT_FOUND",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::Diverged => "DIVERGED",
            Self::Cancelled => "CANCELLED",
            Self::TimedOut => "TIMED_OUT",
            Self::Interrupted => "INTERRUPTED",
            Self::LeaseLost => "LEASE_LOST",
            Self::DeviceLost => "DEVICE_LOST",
            Self::Panic => "PANIC",
            Self::Abort => "ABORT",
            Self::Signal => "SIGNAL",
            Self::OutOfMemory => "OUT_OF_MEMORY",
            Self::Unavailable => "UNAVAILABLE",
            Self::Internal => "INTERNAL",
        }
    }

    /// The code called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.name() == name)
    }

    /// Whether the same task may succeed when it is tried again on this worker. What took too much memory would take
    /// it again.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::DeviceLost | Self::Panic | Self::Abort | Self::Signal | Self::Unavailable)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a task did not complete, for machines and for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct TaskError {
    /// The kind of failure.
    pub code: ErrorCode,
    /// What happened and what would help, in one line.
    pub message: String,
}

impl TaskError {
    /// An error of kind `code`.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<InvalidField> for TaskError {
    fn from(error: InvalidField) -> Self {
        Self::new(ErrorCode::InvalidArgument, error.to_string())
    }
}

/// Quality of a model on some rows. `loss` is the mean per sample; `accuracy` a ratio in [0, 1], or for
/// regression the root mean squared error in units of the target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metrics {
    /// Mean loss per sample.
    pub loss: f64,
    /// Accuracy, or RMSE for regression.
    pub accuracy: f64,
}

/// What a completed task yields.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskResult {
    /// On the rows trained in this task.
    pub train: Metrics,
    /// On held-out rows; absent where none are held out.
    pub validation: Option<Metrics>,
    /// Training samples that went through the model.
    pub samples: u64,
    /// Steps taken: minibatches, rounds or trees.
    pub steps: u64,
    /// What produced the figures.
    pub backend: Backend,
    /// The device by name, such as `cpu` or the GPU's.
    pub device: String,
    /// The model after this task, in the format of its type; may be empty.
    pub weights: Bytes,
    /// Where it is, when it is too large to be sent.
    pub reference: Option<ModelReference>,
}

/// Where a model is that is too large to be sent with the result, and how to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelReference {
    /// `s3://...`, or `file://...` on the worker's machine.
    pub uri: String,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}

/// How a task ended, as the wire's status says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TaskStatus {
    /// With a result.
    Completed,
    /// With an error.
    Failed,
    /// Because somebody cancelled it.
    Cancelled,
    /// Because it ran too long.
    TimedOut,
}

impl TaskStatus {
    /// Lower-case name, as in metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
        }
    }
}

/// The end of a task: what is kept until the orchestrator has acknowledged it.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskOutcome {
    /// Which task.
    pub identity: TaskIdentity,
    /// What was trained.
    pub model: ModelType,
    /// The epoch it belonged to.
    pub epoch: u32,
    /// Result or reason.
    pub ending: Result<TaskResult, TaskError>,
    /// What the sender should know beside it.
    pub notes: Vec<String>,
    /// From its start in the engine to its end.
    pub duration: Duration,
    /// Energy that it took of a GPU in joules, its last try alone; absent where nobody measured.
    pub energy_joules: Option<f64>,
}

impl TaskOutcome {
    /// The status that stands for the ending.
    pub fn status(&self) -> TaskStatus {
        match &self.ending {
            Ok(_) => TaskStatus::Completed,
            Err(error) => match error.code {
                ErrorCode::Cancelled => TaskStatus::Cancelled,
                ErrorCode::TimedOut => TaskStatus::TimedOut,
                _ => TaskStatus::Failed,
            },
        }
    }

    /// The error and the notes in one line, as `message` of the wire; empty when there is nothing to say.
    pub fn message(&self) -> String {
        let error = self.ending.as_ref().err().map(|error| error.message.clone());
        error.into_iter().chain(self.notes.iter().cloned()).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_by_its_name() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_name(code.name()), Some(code));
        }
        assert_eq!(ErrorCode::from_name("OTHER"), None);
    }
}
