//! Messages to domain types, checked once, and back.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tonic::metadata::MetadataMap;

use super::{pb, worker_pb};
use crate::domain::{
    Backend, Capabilities, ErrorCode, GpuInfo, GpuUsage, Hyperparameters, InvalidField, JobId, Metrics,
    ModelReference, ModelType, Progress, Strictness, TaskError, TaskId, TaskIdentity, TaskOutcome,
    TaskResult, TaskSpec, TaskStatus, TaskView, WorkerId, masked_path,
};

/// Longest dataset_path in bytes.
const MAX_DATASET_PATH_BYTES: usize = 4096;

/// Largest epoch or batch index; keeps every sum of them inside of u32.
const MAX_INDEX: i32 = 1_000_000_000;

/// A task that cannot run, with what is needed to report that.
#[derive(Debug, Clone, PartialEq)]
pub struct RejectedTask {
    /// Which task, as far as its ids could be read.
    pub identity: TaskIdentity,
    /// Its model type, as far as it could be read.
    pub model: ModelType,
    /// Its epoch, 0 where it was not valid.
    pub epoch: u32,
    /// What is wrong with it.
    pub error: InvalidField,
}

/// What came out of a message: a checked task or the reason why not. Boxed, since a task is large.
pub type ClaimedTask = Result<Box<TaskSpec>, Box<RejectedTask>>;

/// Fields that a task has in both directions.
struct RawTask {
    task_id: String,
    job_id: String,
    model_type: String,
    dataset_path: String,
    hyperparameters: BTreeMap<String, String>,
    epoch: i32,
    batch_start: i32,
    batch_end: i32,
    attempt: u32,
}

/// Checks a task that came by poll.
///
/// # Errors
/// [`RejectedTask`] names the first field that is not right.
pub fn task_from_assignment(mut message: pb::AssignTaskResponse, strictness: Strictness) -> ClaimedTask {
    // Others that came with it are others.
    message.more.clear();
    let received = Bytes::from(message.encode_to_vec());
    let raw = RawTask {
        task_id: message.task_id,
        job_id: message.job_id,
        model_type: message.model_type,
        dataset_path: message.dataset_path,
        hyperparameters: message.hyperparameters,
        epoch: message.epoch,
        batch_start: message.batch_start,
        batch_end: message.batch_end,
        attempt: message.attempt,
    };
    let mut task = check(raw, strictness)?;
    task.total_epochs = u32::try_from(message.total_epochs).ok().filter(|epochs| *epochs > 0);
    task.timeout = seconds(message.timeout_seconds);
    task.lease = seconds(message.lease_seconds);
    task.initial_weights = message.model_weights;
    task.received = received;
    Ok(task)
}

/// Reads an assignment that an earlier process was given. Names that nobody understands were said then.
///
/// # Errors
/// A text that says which part could not be read.
pub fn task_from_received(bytes: &[u8]) -> Result<Box<TaskSpec>, String> {
    let message = pb::AssignTaskResponse::decode(bytes).map_err(|error| error.to_string())?;
    task_from_assignment(message, Strictness::Warn).map_err(|rejected| rejected.error.to_string())
}

/// Checks a task that came by ExecuteTask.
///
/// # Errors
/// [`RejectedTask`] names the first field that is not right.
pub fn task_from_request(message: worker_pb::TaskRequest, strictness: Strictness) -> ClaimedTask {
    let raw = RawTask {
        task_id: message.task_id,
        job_id: message.job_id,
        model_type: message.model_type,
        dataset_path: message.dataset_path,
        hyperparameters: message.hyperparameters,
        epoch: message.epoch,
        batch_start: message.batch_start,
        batch_end: message.batch_end,
        attempt: 0,
    };
    check(raw, strictness)
}

fn seconds(count: u32) -> Option<Duration> {
    (count > 0).then(|| Duration::from_secs(count.into()))
}

fn check(raw: RawTask, strictness: Strictness) -> ClaimedTask {
    let reject = |error: InvalidField| {
        Box::new(RejectedTask {
            identity: TaskIdentity {
                task_id: TaskId::lossy(&raw.task_id),
                job_id: JobId::lossy(&raw.job_id),
                attempt: raw.attempt,
            },
            model: ModelType::parse(&raw.model_type).unwrap_or_else(|_| ModelType::unknown()),
            epoch: u32::try_from(raw.epoch).unwrap_or(0),
            error,
        })
    };
    let identity = TaskIdentity {
        task_id: TaskId::parse(&raw.task_id).map_err(reject)?,
        job_id: JobId::parse(&raw.job_id).map_err(reject)?,
        attempt: raw.attempt,
    };
    let model = ModelType::parse(&raw.model_type).map_err(reject)?;
    let epoch = index("epoch", raw.epoch).map_err(reject)?;
    let batches = batch_range(raw.batch_start, raw.batch_end).map_err(reject)?;
    let path_fits = raw.dataset_path.len() <= MAX_DATASET_PATH_BYTES && !raw.dataset_path.contains('\0');
    if !path_fits {
        let allowed = format!("at most {MAX_DATASET_PATH_BYTES} bytes without NUL");
        return Err(reject(InvalidField::new("dataset_path", masked_path(&raw.dataset_path), allowed)));
    }
    let (hyperparameters, notes) =
        Hyperparameters::parse(&raw.hyperparameters, strictness).map_err(reject)?;
    Ok(Box::new(TaskSpec {
        identity,
        model,
        dataset_path: raw.dataset_path,
        hyperparameters,
        notes,
        epoch,
        batches,
        total_epochs: None,
        timeout: None,
        lease: None,
        initial_weights: Bytes::new(),
        received: Bytes::new(),
    }))
}

fn index(field: &str, value: i32) -> Result<u32, InvalidField> {
    let allowed = || InvalidField::new(field, value.to_string(), format!("0 to {MAX_INDEX}"));
    if value > MAX_INDEX { Err(allowed()) } else { u32::try_from(value).map_err(|_| allowed()) }
}

fn batch_range(start: i32, end: i32) -> Result<Range<u32>, InvalidField> {
    let range = index("batch_start", start)?..index("batch_end", end)?;
    if range.is_empty() {
        let allowed = format!("more than batch_start ({start})");
        return Err(InvalidField::new("batch_end", end.to_string(), allowed));
    }
    Ok(range)
}

/// The report of `outcome` as it goes over the wire and into the outbox.
pub fn completion(outcome: &TaskOutcome, worker_id: &WorkerId) -> pb::TaskCompletionRequest {
    let result = outcome.ending.as_ref().ok();
    let error = outcome.ending.as_ref().err();
    let validation = result.and_then(|result| result.validation);
    pb::TaskCompletionRequest {
        task_id: outcome.identity.task_id.to_string(),
        job_id: outcome.identity.job_id.to_string(),
        worker_id: worker_id.to_string(),
        success: result.is_some(),
        error_message: outcome.message(),
        loss: result.map_or(0.0, |result| result.train.loss),
        accuracy: result.map_or(0.0, |result| result.train.accuracy),
        model_weights: result.map(|result| result.weights.clone()).unwrap_or_default(),
        attempt: outcome.identity.attempt,
        status: pb::TaskStatus::from(outcome.status()).into(),
        error_code: error.map(|error| error.code.name().to_owned()).unwrap_or_default(),
        validation_loss: validation.map(|metrics| metrics.loss),
        validation_accuracy: validation.map(|metrics| metrics.accuracy),
        samples: result.map_or(0, |result| result.samples),
        duration_seconds: outcome.duration.as_secs_f64(),
        backend: result.map(|result| result.backend.name().to_owned()).unwrap_or_default(),
        simulated: result.is_some_and(|result| result.backend.is_simulated()),
        device: result.map(|result| result.device.clone()).unwrap_or_default(),
        energy_joules: outcome.energy_joules.unwrap_or_default(),
    }
}

impl From<TaskStatus> for pb::TaskStatus {
    fn from(status: TaskStatus) -> Self {
        match status {
            TaskStatus::Completed => Self::Completed,
            TaskStatus::Failed => Self::Failed,
            TaskStatus::Cancelled => Self::Cancelled,
            TaskStatus::TimedOut => Self::TimedOut,
        }
    }
}

/// What metadata says of the model of `outcome` where that is too large for a message: names and values.
fn reference(outcome: &TaskOutcome) -> impl Iterator<Item = (&'static str, String)> {
    let model = outcome.ending.as_ref().ok().and_then(|result| result.reference.as_ref());
    model.into_iter().flat_map(|ModelReference { uri, sha256, bytes }| {
        [
            ("tensorfleet-model-uri", uri.clone()),
            ("tensorfleet-model-sha256", sha256.clone()),
            ("tensorfleet-model-bytes", bytes.to_string()),
        ]
    })
}

/// Tells in `metadata`, that of a report or of an answer, where the model of `outcome` is when it is not in the message.
pub fn refer_to_model(outcome: &TaskOutcome, metadata: &mut MetadataMap) {
    for (name, value) in reference(outcome) {
        if let Ok(value) = value.parse() {
            metadata.insert(name, value);
        }
    }
}

/// `outcome` with all that is needed to report it after a restart.
pub fn encode_outcome(outcome: &TaskOutcome) -> Vec<u8> {
    let result = outcome.ending.as_ref().ok();
    let error = outcome.ending.as_ref().err();
    stored::Outcome {
        task_id: outcome.identity.task_id.to_string(),
        job_id: outcome.identity.job_id.to_string(),
        attempt: outcome.identity.attempt,
        model_type: outcome.model.to_string(),
        epoch: outcome.epoch,
        notes: outcome.notes.clone(),
        duration_seconds: outcome.duration.as_secs_f64(),
        error_code: error.map(|error| error.code.name().to_owned()).unwrap_or_default(),
        error_message: error.map(|error| error.message.clone()).unwrap_or_default(),
        loss: result.map_or(0.0, |result| result.train.loss),
        accuracy: result.map_or(0.0, |result| result.train.accuracy),
        validation_loss: result.and_then(|result| result.validation).map(|metrics| metrics.loss),
        validation_accuracy: result.and_then(|result| result.validation).map(|metrics| metrics.accuracy),
        samples: result.map_or(0, |result| result.samples),
        steps: result.map_or(0, |result| result.steps),
        backend: result.map(|result| result.backend.name().to_owned()).unwrap_or_default(),
        device: result.map(|result| result.device.clone()).unwrap_or_default(),
        weights: result.map(|result| result.weights.clone()).unwrap_or_default(),
        energy_joules: outcome.energy_joules,
        reference: result.and_then(|result| result.reference.as_ref()).map(|model| stored::Reference {
            uri: model.uri.clone(),
            sha256: model.sha256.clone(),
            bytes: model.bytes,
        }),
    }
    .encode_to_vec()
}

/// Reads what [`encode_outcome`] wrote.
///
/// # Errors
/// A text that says which part could not be read.
pub fn decode_outcome(bytes: &[u8]) -> Result<TaskOutcome, String> {
    let stored = stored::Outcome::decode(bytes).map_err(|error| error.to_string())?;
    let identity = TaskIdentity {
        task_id: TaskId::parse(&stored.task_id).map_err(|error| error.to_string())?,
        job_id: JobId::parse(&stored.job_id).map_err(|error| error.to_string())?,
        attempt: stored.attempt,
    };
    let ending = if stored.error_code.is_empty() {
        let backend = [Backend::Cpu, Backend::Wgpu, Backend::Analytic]
            .into_iter()
            .find(|backend| backend.name() == stored.backend)
            .ok_or_else(|| format!("unknown backend {:?}", stored.backend))?;
        let validation = stored.validation_loss.zip(stored.validation_accuracy);
        Ok(TaskResult {
            train: Metrics { loss: stored.loss, accuracy: stored.accuracy },
            validation: validation.map(|(loss, accuracy)| Metrics { loss, accuracy }),
            samples: stored.samples,
            steps: stored.steps,
            backend,
            device: stored.device,
            weights: stored.weights,
            reference: stored.reference.map(|model| ModelReference {
                uri: model.uri,
                sha256: model.sha256,
                bytes: model.bytes,
            }),
        })
    } else {
        let code = ErrorCode::from_name(&stored.error_code)
            .ok_or_else(|| format!("unknown error code {:?}", stored.error_code))?;
        Err(TaskError::new(code, stored.error_message))
    };
    Ok(TaskOutcome {
        identity,
        model: ModelType::parse(&stored.model_type).map_err(|error| error.to_string())?,
        epoch: stored.epoch,
        ending,
        notes: stored.notes,
        duration: Duration::try_from_secs_f64(stored.duration_seconds).map_err(|error| error.to_string())?,
        energy_joules: stored.energy_joules,
    })
}

/// The form in which an outcome waits on disk; field numbers are fixed, since files outlive versions.
mod stored {
    use bytes::Bytes;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Outcome {
        #[prost(string, tag = "1")]
        pub(super) task_id: String,
        #[prost(string, tag = "2")]
        pub(super) job_id: String,
        #[prost(uint32, tag = "3")]
        pub(super) attempt: u32,
        #[prost(string, tag = "4")]
        pub(super) model_type: String,
        #[prost(uint32, tag = "5")]
        pub(super) epoch: u32,
        #[prost(string, repeated, tag = "6")]
        pub(super) notes: Vec<String>,
        #[prost(double, tag = "7")]
        pub(super) duration_seconds: f64,
        #[prost(string, tag = "8")]
        pub(super) error_code: String,
        #[prost(string, tag = "9")]
        pub(super) error_message: String,
        #[prost(double, tag = "10")]
        pub(super) loss: f64,
        #[prost(double, tag = "11")]
        pub(super) accuracy: f64,
        #[prost(double, optional, tag = "12")]
        pub(super) validation_loss: Option<f64>,
        #[prost(double, optional, tag = "13")]
        pub(super) validation_accuracy: Option<f64>,
        #[prost(uint64, tag = "14")]
        pub(super) samples: u64,
        #[prost(uint64, tag = "15")]
        pub(super) steps: u64,
        #[prost(string, tag = "16")]
        pub(super) backend: String,
        #[prost(string, tag = "17")]
        pub(super) device: String,
        #[prost(bytes = "bytes", tag = "18")]
        pub(super) weights: Bytes,
        #[prost(double, optional, tag = "19")]
        pub(super) energy_joules: Option<f64>,
        #[prost(message, optional, tag = "20")]
        pub(super) reference: Option<Reference>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Reference {
        #[prost(string, tag = "1")]
        pub(super) uri: String,
        #[prost(string, tag = "2")]
        pub(super) sha256: String,
        #[prost(uint64, tag = "3")]
        pub(super) bytes: u64,
    }
}

impl From<&Capabilities> for pb::WorkerCapabilities {
    fn from(capabilities: &Capabilities) -> Self {
        const GIB: u64 = 1 << 30;
        Self {
            cpu_cores: saturated(capabilities.cpu_cores.into()),
            memory_gb: i64::try_from(capabilities.memory_bytes / GIB).unwrap_or(i64::MAX),
            gpu_count: saturated(capabilities.gpus.len() as u64),
            max_tasks: saturated(capabilities.max_tasks.into()),
            gpus: capabilities.gpus.iter().map(Into::into).collect(),
            model_types: capabilities.model_types.clone(),
            backends: capabilities.backends.iter().map(|backend| backend.name().to_owned()).collect(),
        }
    }
}

/// `count` as the int32 of the wire.
pub fn saturated(count: u64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

impl From<&GpuInfo> for pb::GpuInfo {
    fn from(gpu: &GpuInfo) -> Self {
        Self {
            index: gpu.index,
            uuid: gpu.uuid.clone(),
            name: gpu.name.clone(),
            memory_bytes: gpu.memory_bytes.unwrap_or_default(),
            pci_bus_id: gpu.pci_bus_id.clone(),
            compute_capability: gpu.compute_capability.clone(),
            driver_version: gpu.driver_version.clone(),
            mig: gpu.mig,
        }
    }
}

impl From<&GpuUsage> for pb::GpuUsage {
    fn from(usage: &GpuUsage) -> Self {
        Self {
            uuid: usage.uuid.clone(),
            utilization_ratio: usage.utilization_ratio,
            memory_used_bytes: usage.memory_used_bytes,
        }
    }
}

/// The wire's progress of `task`.
pub fn progress(task: &TaskView, worker_id: &WorkerId) -> pb::TaskProgress {
    let Progress { step, total_steps, loss, accuracy, samples_per_second, simulated } = task.progress;
    pb::TaskProgress {
        task_id: task.identity.task_id.to_string(),
        attempt: task.identity.attempt,
        job_id: task.identity.job_id.to_string(),
        epoch: saturated(task.epoch.into()),
        step,
        total_steps,
        loss,
        accuracy,
        samples_per_second,
        worker_id: worker_id.to_string(),
        simulated,
    }
}
