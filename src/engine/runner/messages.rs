//! What the worker and a runner say to each other, and how domain types become that.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::{Message, Oneof};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::confinement::Confinement;
use crate::data;
use crate::domain::{
    Backend, ErrorCode, JobId, Metrics, ModelReference, ModelType, Progress, TaskError, TaskId, TaskIdentity,
    TaskResult, TaskSpec,
};
use crate::engine::{Finished, SessionLimits, Step};

/// From the worker to a runner.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ToRunner {
    #[prost(oneof = "Order", tags = "1, 2, 3, 4")]
    pub(super) order: Option<Order>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Order {
    /// The first message: a packed [`Setup`].
    #[prost(bytes = "vec", tag = "1")]
    Setup(Vec<u8>),
    #[prost(message, tag = "2")]
    Submit(Submit),
    #[prost(message, tag = "3")]
    Stop(Stop),
    /// A job has ended.
    #[prost(string, tag = "4")]
    Forget(String),
}

/// How a runner trains. Both sides are the same program, so that it needs no numbered fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) backend: Backend,
    /// PCI address of the one GPU that it may use; None where it does not matter.
    pub(super) gpu: Option<String>,
    pub(super) allow_software_adapter: bool,
    pub(super) data: data::Config,
    pub(super) state_dir: Option<std::path::PathBuf>,
    pub(super) models_to: Option<data::remote::ObjectFolder>,
    pub(super) idle_sessions: usize,
    pub(super) session_memory_bytes: u64,
    pub(super) idle_time: Duration,
    pub(super) memory_limit_bytes: Option<u64>,
    /// Filter of the log.
    pub(super) log: String,
}

impl Setup {
    pub(super) fn limits(&self) -> SessionLimits {
        SessionLimits {
            idle: self.idle_sessions,
            memory_bytes: self.session_memory_bytes,
            idle_time: self.idle_time,
        }
    }
}

/// One try of a task.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Submit {
    /// Tells tries apart.
    #[prost(uint64, tag = "1")]
    pub(super) number: u64,
    #[prost(string, tag = "2")]
    pub(super) task_id: String,
    #[prost(string, tag = "3")]
    pub(super) job_id: String,
    #[prost(uint32, tag = "4")]
    pub(super) attempt: u32,
    #[prost(string, tag = "5")]
    pub(super) model: String,
    #[prost(string, tag = "6")]
    pub(super) dataset_path: String,
    /// Packed.
    #[prost(bytes = "vec", tag = "7")]
    pub(super) hyperparameters: Vec<u8>,
    #[prost(uint32, tag = "8")]
    pub(super) epoch: u32,
    #[prost(uint32, tag = "9")]
    pub(super) batch_start: u32,
    #[prost(uint32, tag = "10")]
    pub(super) batch_end: u32,
    #[prost(uint32, optional, tag = "11")]
    pub(super) total_epochs: Option<u32>,
    #[prost(bytes = "bytes", tag = "12")]
    pub(super) initial_weights: Bytes,
    /// Why the session that the job had in another runner is gone: 0 there was none, 1 evicted, 2 its runner ended.
    #[prost(uint32, tag = "13")]
    pub(super) loss: u32,
    /// The trace that the task belongs to.
    #[prost(string, optional, tag = "14")]
    pub(super) traceparent: Option<String>,
}

impl Submit {
    /// `task` as try `number`.
    ///
    /// # Errors
    /// A defect of ours: hyperparameters that cannot be packed.
    pub(super) fn new(
        number: u64,
        task: &TaskSpec,
        loss: u32,
        traceparent: Option<&str>,
    ) -> Result<Self, TaskError> {
        Ok(Self {
            number,
            task_id: task.identity.task_id.to_string(),
            job_id: task.identity.job_id.to_string(),
            attempt: task.identity.attempt,
            model: task.model.to_string(),
            dataset_path: task.dataset_path.clone(),
            hyperparameters: pack(&task.hyperparameters)?,
            epoch: task.epoch,
            batch_start: task.batches.start,
            batch_end: task.batches.end,
            total_epochs: task.total_epochs,
            initial_weights: task.initial_weights.clone(),
            loss,
            traceparent: traceparent.map(str::to_owned),
        })
    }

    /// The task.
    ///
    /// # Errors
    /// A defect of ours: what the other side has checked does not pass here.
    pub(super) fn task(self) -> Result<Arc<TaskSpec>, TaskError> {
        Ok(Arc::new(TaskSpec {
            identity: TaskIdentity {
                task_id: TaskId::parse(&self.task_id).map_err(unreadable)?,
                job_id: JobId::parse(&self.job_id).map_err(unreadable)?,
                attempt: self.attempt,
            },
            model: ModelType::parse(&self.model).map_err(unreadable)?,
            dataset_path: self.dataset_path,
            hyperparameters: unpack(&self.hyperparameters)?,
            // Said by the worker.
            notes: Vec::new(),
            epoch: self.epoch,
            batches: self.batch_start..self.batch_end,
            total_epochs: self.total_epochs,
            // Kept by the worker.
            timeout: None,
            lease: None,
            initial_weights: self.initial_weights,
            received: Bytes::new(),
        }))
    }
}

/// Asks a try to stop.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Stop {
    #[prost(uint64, tag = "1")]
    pub(super) number: u64,
    #[prost(message, required, tag = "2")]
    pub(super) reason: Reason,
}

/// A [`TaskError`].
#[derive(Clone, PartialEq, Message)]
pub(super) struct Reason {
    #[prost(string, tag = "1")]
    code: String,
    #[prost(string, tag = "2")]
    message: String,
}

impl From<TaskError> for Reason {
    fn from(error: TaskError) -> Self {
        Self { code: error.code.name().to_owned(), message: error.message }
    }
}

impl From<Reason> for TaskError {
    fn from(reason: Reason) -> Self {
        Self::new(ErrorCode::from_name(&reason.code).unwrap_or(ErrorCode::Internal), reason.message)
    }
}

/// From a runner to the worker.
#[derive(Clone, PartialEq, Message)]
pub(super) struct FromRunner {
    #[prost(oneof = "News", tags = "1, 2, 3, 4")]
    pub(super) news: Option<News>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum News {
    /// The runner takes tasks: a packed [`Confinement`].
    #[prost(bytes = "vec", tag = "1")]
    Ready(Vec<u8>),
    #[prost(message, tag = "2")]
    Started(Started),
    #[prost(message, tag = "3")]
    Stepped(Stepped),
    #[prost(message, boxed, tag = "4")]
    Ended(Box<Ended>),
}

impl News {
    pub(super) fn ready(confinement: &Confinement) -> Result<Self, TaskError> {
        pack(confinement).map(Self::Ready)
    }
}

/// The engine began to work on a try.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Started {
    #[prost(uint64, tag = "1")]
    pub(super) number: u64,
    #[prost(string, tag = "2")]
    backend: String,
}

impl Started {
    pub(super) fn new(number: u64, backend: Backend) -> Self {
        Self { number, backend: backend.name().to_owned() }
    }

    pub(super) fn backend(&self) -> Option<Backend> {
        backend(&self.backend)
    }
}

/// Steps that were made since the last message of the try, and where it is now.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Stepped {
    #[prost(uint64, tag = "1")]
    pub(super) number: u64,
    #[prost(uint64, tag = "2")]
    step: u64,
    #[prost(uint64, tag = "3")]
    total_steps: u64,
    #[prost(double, tag = "4")]
    loss: f64,
    #[prost(double, tag = "5")]
    accuracy: f64,
    #[prost(double, tag = "6")]
    samples_per_second: f64,
    /// Of each step, in nanoseconds.
    #[prost(uint64, repeated, tag = "7")]
    durations: Vec<u64>,
    /// Rows in each step.
    #[prost(uint64, repeated, tag = "8")]
    samples: Vec<u64>,
}

impl Stepped {
    pub(super) fn new(number: u64, progress: &Progress, steps: &[Step]) -> Self {
        let nanoseconds = |step: &Step| u64::try_from(step.duration.as_nanos()).unwrap_or(u64::MAX);
        Self {
            number,
            step: progress.step,
            total_steps: progress.total_steps,
            loss: progress.loss,
            accuracy: progress.accuracy,
            samples_per_second: progress.samples_per_second,
            durations: steps.iter().map(nanoseconds).collect(),
            samples: steps.iter().map(|step| step.samples).collect(),
        }
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            step: self.step,
            total_steps: self.total_steps,
            loss: self.loss,
            accuracy: self.accuracy,
            samples_per_second: self.samples_per_second,
            simulated: false,
        }
    }

    pub(super) fn steps(&self) -> impl Iterator<Item = Step> {
        let each = self.durations.iter().zip(&self.samples);
        each.map(|(duration, samples)| Step { duration: Duration::from_nanos(*duration), samples: *samples })
    }
}

/// The end of a try.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Ended {
    #[prost(uint64, tag = "1")]
    pub(super) number: u64,
    /// Without one it has completed.
    #[prost(message, optional, tag = "2")]
    error: Option<Reason>,
    #[prost(string, repeated, tag = "3")]
    notes: Vec<String>,
    /// Loss and accuracy on the rows trained.
    #[prost(double, tag = "4")]
    loss: f64,
    #[prost(double, tag = "5")]
    accuracy: f64,
    #[prost(double, optional, tag = "6")]
    validation_loss: Option<f64>,
    #[prost(double, optional, tag = "7")]
    validation_accuracy: Option<f64>,
    #[prost(uint64, tag = "8")]
    samples: u64,
    #[prost(uint64, tag = "9")]
    steps: u64,
    #[prost(string, tag = "10")]
    backend: String,
    #[prost(string, tag = "11")]
    device: String,
    #[prost(bytes = "bytes", tag = "12")]
    weights: Bytes,
    /// Jobs whose session is loaded now.
    #[prost(string, repeated, tag = "13")]
    pub(super) warm: Vec<String>,
    /// Where the model is, when it is not here.
    #[prost(message, optional, tag = "14")]
    reference: Option<Reference>,
}

/// A [`ModelReference`].
#[derive(Clone, PartialEq, Message)]
struct Reference {
    #[prost(string, tag = "1")]
    uri: String,
    #[prost(string, tag = "2")]
    sha256: String,
    #[prost(uint64, tag = "3")]
    bytes: u64,
}

impl Ended {
    pub(super) fn new(number: u64, finished: Finished, warm: &[JobId]) -> Self {
        let warm = warm.iter().map(JobId::to_string).collect();
        let ended = Self { number, notes: finished.notes, warm, ..Self::default() };
        match finished.ending {
            Err(error) => Self { error: Some(error.into()), ..ended },
            Ok(result) => Self {
                loss: result.train.loss,
                accuracy: result.train.accuracy,
                validation_loss: result.validation.map(|metrics| metrics.loss),
                validation_accuracy: result.validation.map(|metrics| metrics.accuracy),
                samples: result.samples,
                steps: result.steps,
                backend: result.backend.name().to_owned(),
                device: result.device,
                weights: result.weights,
                reference: result.reference.map(|model| Reference {
                    uri: model.uri,
                    sha256: model.sha256,
                    bytes: model.bytes,
                }),
                ..ended
            },
        }
    }

    pub(super) fn finished(self) -> Finished {
        let ending = match (self.error, backend(&self.backend)) {
            (Some(reason), _) => Err(reason.into()),
            (None, None) => Err(unreadable(format!("backend {:?}", self.backend))),
            (None, Some(backend)) => Ok(TaskResult {
                train: Metrics { loss: self.loss, accuracy: self.accuracy },
                validation: self
                    .validation_loss
                    .zip(self.validation_accuracy)
                    .map(|(loss, accuracy)| Metrics { loss, accuracy }),
                samples: self.samples,
                steps: self.steps,
                backend,
                device: self.device,
                weights: self.weights,
                reference: self.reference.map(|model| ModelReference {
                    uri: model.uri,
                    sha256: model.sha256,
                    bytes: model.bytes,
                }),
            }),
        };
        Finished { ending, notes: self.notes }
    }
}

/// `value` as CBOR, which keeps every bit of its numbers.
///
/// # Errors
/// A defect of ours.
pub(super) fn pack(value: &impl Serialize) -> Result<Vec<u8>, TaskError> {
    let mut packed = Vec::new();
    ciborium::into_writer(value, &mut packed).map_err(unreadable)?;
    Ok(packed)
}

/// What [`pack`] packed.
///
/// # Errors
/// It is something else.
pub(super) fn unpack<T: DeserializeOwned>(packed: &[u8]) -> Result<T, TaskError> {
    ciborium::from_reader(packed).map_err(unreadable)
}

fn backend(name: &str) -> Option<Backend> {
    [Backend::Cpu, Backend::Wgpu, Backend::Analytic].into_iter().find(|backend| backend.name() == name)
}

fn unreadable(what: impl std::fmt::Display) -> TaskError {
    TaskError::new(ErrorCode::Internal, format!("a message between worker and runner cannot be read: {what}"))
}
