//! What the JSON of /api/v1 and /readyz looks like.

use serde::Serialize;

use super::Sources;
use super::live::{Job, Live, RunningTask};
use crate::domain::{
    Health, Metrics, TaskOutcome, TaskPhase, TaskView, WorkerStatus, rfc3339, unready_reasons,
};

/// `GET /readyz`.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    reasons: Vec<String>,
}

impl Readiness {
    /// Of a worker that cannot start yet.
    pub(super) fn not_yet(reason: String) -> Self {
        Self { ready: false, reasons: vec![reason] }
    }
}

impl From<&WorkerStatus> for Readiness {
    fn from(status: &WorkerStatus) -> Self {
        Self { ready: status.is_ready(), reasons: unready_reasons(status) }
    }
}

/// Health, and how the slots are used.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Summary {
    #[serde(flatten)]
    health: Health,
    ready: bool,
    /// What keeps it from being ready.
    unready_reasons: Vec<String>,
    /// Whether a task without a wish of its own gets figures from a curve instead of from training.
    simulated: bool,
    slots: Slots,
    outbox_pending: u64,
    /// Training samples a second of all running tasks together.
    samples_per_second: f64,
    /// Where the orchestrator is looked for.
    orchestrator: String,
    /// What lets cancel and drain by HTTP: token, certificate or none.
    control: &'static str,
}

#[derive(Debug, PartialEq, Serialize)]
struct Slots {
    total: u32,
    busy: u32,
    polling: u32,
}

impl Summary {
    pub(super) fn new(sources: &Sources, status: &WorkerStatus) -> Self {
        let gpus = sources.gpu.snapshot();
        let health = Health::new(status, &sources.host.usage(), gpus.gpus.len()).and_reasons(&gpus.warnings);
        let running = status.tasks.iter().filter(|task| task.phase == TaskPhase::Running);
        Self {
            health,
            ready: status.is_ready(),
            unready_reasons: unready_reasons(status),
            simulated: status.backend.is_simulated(),
            slots: Slots {
                total: status.slots_total,
                busy: status.slots_busy,
                polling: status.slots_polling,
            },
            outbox_pending: status.outbox_pending,
            samples_per_second: running.map(|task| task.progress.samples_per_second).sum(),
            orchestrator: sources.orchestrator.clone(),
            control: sources.control.name(),
        }
    }
}

/// `GET /api/v1/status`: the summary and what is at hand.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Status {
    #[serde(flatten)]
    pub(super) summary: Summary,
    pub(super) tasks: Vec<RunningTask>,
}

/// `GET /api/v1/tasks`: held tasks, oldest first; the jobs of late; and the latest outcomes, newest last.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Tasks {
    tasks: Vec<RunningTask>,
    jobs: Vec<Job>,
    recent: Vec<Outcome>,
}

impl Tasks {
    pub(super) fn new(status: &WorkerStatus, live: &Live) -> Self {
        Self {
            tasks: live.tasks(status),
            jobs: live.jobs(),
            recent: status.recent.iter().map(|outcome| Outcome::from(&**outcome)).collect(),
        }
    }
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Task {
    task_id: String,
    job_id: String,
    attempt: u32,
    model_type: String,
    epoch: u32,
    phase: &'static str,
    step: u64,
    total_steps: u64,
    loss: f64,
    accuracy: f64,
    samples_per_second: f64,
    simulated: bool,
    claimed_at: String,
    retries: u32,
}

impl From<&TaskView> for Task {
    fn from(task: &TaskView) -> Self {
        Self {
            task_id: task.identity.task_id.to_string(),
            job_id: task.identity.job_id.to_string(),
            attempt: task.identity.attempt,
            model_type: task.model.to_string(),
            epoch: task.epoch,
            phase: task.phase.name(),
            step: task.progress.step,
            total_steps: task.progress.total_steps,
            loss: task.progress.loss,
            accuracy: task.progress.accuracy,
            samples_per_second: task.progress.samples_per_second,
            simulated: task.progress.simulated,
            claimed_at: rfc3339(task.claimed_at),
            retries: task.retries,
        }
    }
}

/// An outcome; what only a result has is null for a failure, and the other way round.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Outcome {
    task_id: String,
    job_id: String,
    attempt: u32,
    model_type: String,
    epoch: u32,
    status: &'static str,
    error_code: Option<&'static str>,
    message: String,
    loss: Option<f64>,
    accuracy: Option<f64>,
    validation_loss: Option<f64>,
    validation_accuracy: Option<f64>,
    samples: Option<u64>,
    steps: Option<u64>,
    backend: Option<&'static str>,
    device: Option<String>,
    simulated: bool,
    duration_seconds: f64,
}

impl From<&TaskOutcome> for Outcome {
    fn from(outcome: &TaskOutcome) -> Self {
        let result = outcome.ending.as_ref().ok();
        let train = result.map(|result| result.train);
        let validation = result.and_then(|result| result.validation);
        let loss = |metrics: Metrics| metrics.loss;
        let accuracy = |metrics: Metrics| metrics.accuracy;
        Self {
            task_id: outcome.identity.task_id.to_string(),
            job_id: outcome.identity.job_id.to_string(),
            attempt: outcome.identity.attempt,
            model_type: outcome.model.to_string(),
            epoch: outcome.epoch,
            status: outcome.status().name(),
            error_code: outcome.ending.as_ref().err().map(|error| error.code.name()),
            message: outcome.message(),
            loss: train.map(loss),
            accuracy: train.map(accuracy),
            validation_loss: validation.map(loss),
            validation_accuracy: validation.map(accuracy),
            samples: result.map(|result| result.samples),
            steps: result.map(|result| result.steps),
            backend: result.map(|result| result.backend.name()),
            device: result.map(|result| result.device.clone()),
            simulated: result.is_some_and(|result| result.backend.is_simulated()),
            duration_seconds: outcome.duration.as_secs_f64(),
        }
    }
}
