//! One job of the board: its tasks, what they reported, and the summary that people see.
//!
//! ```text
//! Pending --claimed--> Held --report--> Completed | Failed
//!    ^                  |
//!    +-- lost, released, or failed in a way that may pass: attempt + 1
//! Pending, Held --the job ended before it--> Dropped
//! ```
//!
//! Invariant: a task is in `pending` exactly when its state is [`TaskState::Pending`]. Deliberately absent: who
//! holds what and whose turn it is, which is the board's.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Instant;

use crate::domain::{
    BATCHES_PER_TASK, InvalidField, JobId, Metrics, ModelType, TASKS_PER_EPOCH, TaskId, WorkerId,
};
use crate::wire::pb;

/// Most epochs of a job.
const MAX_EPOCHS: u32 = 100_000;

/// Longest job id in bytes: the ids of its tasks are made from it and must stay valid ids.
const MAX_JOB_ID_BYTES: usize = 240;

/// A checked request for a job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRequest {
    /// Its id.
    pub job_id: JobId,
    /// What to train.
    pub model: ModelType,
    /// On which data; the worker checks it.
    pub dataset_path: String,
    /// How; the worker checks them.
    pub hyperparameters: BTreeMap<String, String>,
    /// Epochs, 1 to 100,000.
    pub epochs: u32,
}

impl JobRequest {
    /// Checks a request from the wire; an empty job_id becomes a new one.
    ///
    /// # Errors
    /// [`InvalidField`] for the first of job_id, model_type and epochs that is not right.
    pub fn from_wire(message: pb::TrainingJobRequest) -> Result<Self, InvalidField> {
        let job_id = match message.job_id.as_str() {
            "" => JobId::parse(&uuid::Uuid::new_v4().to_string())?,
            raw if raw.len() > MAX_JOB_ID_BYTES => {
                let allowed = format!("at most {MAX_JOB_ID_BYTES} bytes, or empty for a new id");
                return Err(InvalidField::new("job_id", raw, allowed));
            }
            raw => JobId::parse(raw)?,
        };
        let epochs = u32::try_from(message.epochs)
            .ok()
            .filter(|epochs| (1..=MAX_EPOCHS).contains(epochs))
            .ok_or_else(|| {
                InvalidField::new("epochs", message.epochs.to_string(), format!("1 to {MAX_EPOCHS}"))
            })?;
        Ok(Self {
            job_id,
            model: ModelType::parse(&message.model_type)?,
            dataset_path: message.dataset_path,
            hyperparameters: message.hyperparameters,
            epochs,
        })
    }
}

/// Where a job is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobStatus {
    /// No task was handed out yet.
    Pending,
    /// At least one was.
    Running,
    /// All have completed.
    Completed,
    /// One failed for good.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
}

impl JobStatus {
    /// The word on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// Whether nothing can change it any more.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// What a completed task reported.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// On the rows trained.
    pub train: Metrics,
    /// On held-out rows.
    pub validation: Option<Metrics>,
}

/// One epoch as its tasks reported it: means over those that have completed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EpochSummary {
    /// Which, from 0.
    pub epoch: u32,
    /// Tasks of it that have completed, at least 1.
    pub tasks: u32,
    /// Mean training loss.
    pub loss: f64,
    /// Mean training accuracy.
    pub accuracy: f64,
    /// Validation loss of the epoch's last slice, which sees all held-out rows; the mean of the others before
    /// that one has reported.
    pub validation_loss: Option<f64>,
    /// Validation accuracy, as above.
    pub validation_accuracy: Option<f64>,
}

/// A job at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct JobSummary {
    /// Which.
    pub job_id: JobId,
    /// What is trained.
    pub model: ModelType,
    /// Where it is on its way.
    pub status: JobStatus,
    /// Why it failed; empty otherwise.
    pub message: String,
    /// Tasks in all.
    pub total: u32,
    /// Reports of success that were counted.
    pub completed: u32,
    /// Tasks that failed for good.
    pub failed: u32,
    /// Reports of success that came, repeated and stale ones included.
    pub reports: u32,
    /// Epochs of which at least one task has completed, in order.
    pub epochs: Vec<EpochSummary>,
    /// Counted tasks by the worker that reported them.
    pub workers: BTreeMap<WorkerId, u32>,
    /// Figures of the latest epoch, or the latest progress before any task has completed.
    pub current: Option<Metrics>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TaskState {
    Pending,
    Held { worker: WorkerId, expires: Option<Instant> },
    Completed,
    Failed,
    Dropped,
}

#[derive(Debug, Clone)]
pub(super) struct Task {
    /// The hand-out that is under way or comes next, from 1.
    pub(super) attempt: u32,
    /// Failures so far that allowed another try.
    pub(super) failures: u32,
    /// How often it was counted.
    pub(super) counted: u32,
    pub(super) state: TaskState,
    figures: Option<Figures>,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) request: JobRequest,
    pub(super) status: JobStatus,
    pub(super) message: String,
    pub(super) tasks: Vec<Task>,
    /// Tasks to hand out; the lowest goes first, so that epochs stay in order.
    pub(super) pending: BTreeSet<usize>,
    /// Hand-outs of other jobs since this one's last.
    pub(super) passed_over: u32,
    pub(super) completed: u32,
    pub(super) failed: u32,
    pub(super) reports: u32,
    pub(super) live: Option<Metrics>,
    workers: BTreeMap<WorkerId, u32>,
    latest_epoch: usize,
}

impl Job {
    pub(super) fn new(request: JobRequest) -> Self {
        let tasks = request.epochs as usize * TASKS_PER_EPOCH as usize;
        let fresh = Task { attempt: 1, failures: 0, counted: 0, state: TaskState::Pending, figures: None };
        Self {
            status: JobStatus::Pending,
            message: String::new(),
            tasks: vec![fresh; tasks],
            pending: (0..tasks).collect(),
            passed_over: 0,
            completed: 0,
            failed: 0,
            reports: 0,
            live: None,
            workers: BTreeMap::new(),
            latest_epoch: 0,
            request,
        }
    }

    /// Tasks in all.
    pub(super) fn total(&self) -> u32 {
        self.tasks.len() as u32
    }

    /// Epoch of task `index`, from 0.
    pub(super) fn epoch_of(index: usize) -> u32 {
        index as u32 / TASKS_PER_EPOCH
    }

    /// Minibatches of task `index`.
    pub(super) fn batches_of(index: usize) -> Range<u32> {
        let slice = index as u32 % TASKS_PER_EPOCH;
        slice * BATCHES_PER_TASK..(slice + 1) * BATCHES_PER_TASK
    }

    /// The id of task `index`: `JOB-eEPOCH-bSLICE`.
    pub(super) fn task_id(&self, index: usize) -> TaskId {
        let slice = index as u32 % TASKS_PER_EPOCH;
        // Never lossy: the job's id is valid and short enough.
        TaskId::lossy(&format!("{}-e{}-b{slice}", self.request.job_id, Self::epoch_of(index)))
    }

    /// The job and the index that [`Job::task_id`] made `task` from.
    pub(super) fn parse_task_id(task: &TaskId) -> Option<(JobId, usize)> {
        let (rest, slice) = task.as_str().rsplit_once("-b")?;
        let (job, epoch) = rest.rsplit_once("-e")?;
        let index =
            epoch.parse::<u32>().ok()?.checked_mul(TASKS_PER_EPOCH)?.checked_add(slice.parse().ok()?)?;
        Some((JobId::parse(job).ok()?, index as usize))
    }

    /// Counts a success of task `index` and ends the job after its last one.
    pub(super) fn count(&mut self, index: usize, worker: &WorkerId, figures: Figures) {
        let task = &mut self.tasks[index];
        task.state = TaskState::Completed;
        task.counted += 1;
        task.figures = Some(figures);
        self.completed += 1;
        *self.workers.entry(worker.clone()).or_default() += 1;
        self.latest_epoch = self.latest_epoch.max(index / TASKS_PER_EPOCH as usize);
        if self.completed >= self.total() && !self.status.is_final() {
            self.status = JobStatus::Completed;
        }
    }

    /// Makes task `index` ready for its next hand-out.
    pub(super) fn requeue(&mut self, index: usize) {
        let task = &mut self.tasks[index];
        task.attempt += 1;
        task.state = TaskState::Pending;
        self.pending.insert(index);
    }

    /// Ends the job before its time; nothing that waits is handed out any more.
    pub(super) fn end(&mut self, status: JobStatus) {
        self.status = status;
        for index in std::mem::take(&mut self.pending) {
            self.tasks[index].state = TaskState::Dropped;
        }
    }

    pub(super) fn completions(&self) -> BTreeMap<TaskId, u32> {
        let counted = self.tasks.iter().enumerate().filter(|(_, task)| task.counted > 0);
        counted.map(|(index, task)| (self.task_id(index), task.counted)).collect()
    }

    /// Loss and accuracy of the latest epoch that has any.
    pub(super) fn current(&self) -> Option<Metrics> {
        let latest = self.epoch(self.latest_epoch);
        latest.map(|epoch| Metrics { loss: epoch.loss, accuracy: epoch.accuracy }).or(self.live)
    }

    /// Where it stands, without its epochs.
    pub(super) fn progress(&self) -> JobSummary {
        JobSummary {
            job_id: self.request.job_id.clone(),
            model: self.request.model.clone(),
            status: self.status,
            message: self.message.clone(),
            total: self.total(),
            completed: self.completed,
            failed: self.failed,
            reports: self.reports,
            epochs: Vec::new(),
            workers: self.workers.clone(),
            current: self.current(),
        }
    }

    pub(super) fn summary(&self) -> JobSummary {
        let epochs = (0..self.request.epochs as usize).filter_map(|epoch| self.epoch(epoch)).collect();
        JobSummary { epochs, ..self.progress() }
    }

    fn epoch(&self, epoch: usize) -> Option<EpochSummary> {
        let slices = TASKS_PER_EPOCH as usize;
        let tasks = self.tasks.get(epoch * slices..(epoch + 1) * slices)?;
        let train = mean(tasks.iter().filter_map(|task| Some(task.figures?.train)))?;
        let last = tasks.last().and_then(|task| task.figures?.validation);
        let validation = last.or_else(|| mean(tasks.iter().filter_map(|task| task.figures?.validation)));
        Some(EpochSummary {
            epoch: epoch as u32,
            tasks: tasks.iter().filter(|task| task.figures.is_some()).count() as u32,
            loss: train.loss,
            accuracy: train.accuracy,
            validation_loss: validation.map(|metrics| metrics.loss),
            validation_accuracy: validation.map(|metrics| metrics.accuracy),
        })
    }
}

fn mean(metrics: impl Iterator<Item = Metrics>) -> Option<Metrics> {
    let (mut sum, mut count) = (Metrics { loss: 0.0, accuracy: 0.0 }, 0_u32);
    for one in metrics {
        sum.loss += one.loss;
        sum.accuracy += one.accuracy;
        count += 1;
    }
    let count = (count > 0).then(|| f64::from(count))?;
    Some(Metrics { loss: sum.loss / count, accuracy: sum.accuracy / count })
}
