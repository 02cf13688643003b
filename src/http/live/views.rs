//! What the JSON of the live page looks like: the whole state, and the changes of one beat.

use std::sync::Arc;

use serde::Serialize;

use super::curve::{Figures, Ring};
use super::history::{GpuReading, History, HostReading, JobTrack};
use crate::domain::{JobId, TaskOutcome, TaskView, WorkerStatus};
use crate::gpu::{GpuDevice, GpuSnapshot};
use crate::http::views::{Outcome, Summary, Task};

/// A held task with what the history knows of it.
#[derive(Debug, PartialEq, Serialize)]
pub(in crate::http) struct RunningTask {
    #[serde(flatten)]
    task: Task,
    /// At the pace so far.
    eta_seconds: Option<f64>,
    /// `[step, loss, accuracy, null, null]` each; left out of changes, where the figures of the task are the new point.
    #[serde(skip_serializing_if = "Option::is_none")]
    curve: Option<Vec<Figures>>,
}

impl RunningTask {
    fn brief(task: &TaskView, history: &History) -> Self {
        Self { task: Task::from(task), eta_seconds: history.remaining_seconds(task), curve: None }
    }

    pub(super) fn whole(task: &TaskView, history: &History) -> Self {
        let curve = Some(history.curve_of(&task.identity).to_vec());
        Self { curve, ..Self::brief(task, history) }
    }
}

/// A job as far as this worker took part in it.
#[derive(Debug, PartialEq, Serialize)]
pub(in crate::http) struct Job {
    job_id: String,
    model_type: String,
    /// The latest epoch that was seen.
    epoch: u32,
    running_tasks: u32,
    completed_tasks: u64,
    failed_tasks: u64,
    simulated: bool,
    /// `[milliseconds since 1970, loss, accuracy, validation_loss, validation_accuracy]` each; of a change, what is new.
    curve: Vec<Figures>,
}

impl Job {
    fn new(id: &JobId, job: &JobTrack, curve: Vec<Figures>) -> Self {
        Self {
            job_id: id.to_string(),
            model_type: job.model.clone(),
            epoch: job.epoch,
            running_tasks: job.running,
            completed_tasks: job.completed,
            failed_tasks: job.failed,
            simulated: job.simulated,
            curve,
        }
    }

    fn brief(id: &JobId, job: &JobTrack) -> Self {
        Self::new(id, job, job.fresh.into_iter().collect())
    }

    pub(super) fn whole(id: &JobId, job: &JobTrack) -> Self {
        Self::new(id, job, job.curve.points().to_vec())
    }
}

/// One GPU; what it does not tell is null.
#[derive(Debug, Serialize)]
struct Gpu<'a> {
    index: u32,
    uuid: &'a str,
    name: &'a str,
    mig: bool,
    driver_version: &'a str,
    health: &'static str,
    adapter_matched: Option<bool>,
    xid_errors: u64,
    throttle_reasons: Vec<&'static str>,
    utilization_ratio: Option<f64>,
    memory_used_bytes: Option<u64>,
    memory_total_bytes: Option<u64>,
    temperature_celsius: Option<f64>,
    power_watts: Option<f64>,
    power_limit_watts: Option<f64>,
    /// `[milliseconds since 1970, utilisation 0..1, bytes used, degrees Celsius, watts]` each.
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<&'a Ring<GpuReading>>,
}

impl<'a> From<&'a GpuDevice> for Gpu<'a> {
    fn from(device: &'a GpuDevice) -> Self {
        let readings = &device.readings;
        let reasons = readings.throttle_reasons.iter().flatten();
        Self {
            index: device.info.index,
            uuid: &device.info.uuid,
            name: &device.info.name,
            mig: device.info.mig,
            driver_version: &device.info.driver_version,
            health: device.health.name(),
            adapter_matched: device.adapter_matched,
            xid_errors: device.xid_errors.values().sum(),
            throttle_reasons: reasons.map(|reason| reason.name()).collect(),
            utilization_ratio: readings.utilization_ratio,
            memory_used_bytes: readings.memory_used_bytes,
            memory_total_bytes: readings.memory_total_bytes,
            temperature_celsius: readings.temperature_celsius,
            power_watts: readings.power_watts,
            power_limit_watts: readings.power_limit_watts,
            history: None,
        }
    }
}

/// What both kinds of events have.
#[derive(Serialize)]
struct Common {
    tick: u64,
    at_ms: u64,
    status: Summary,
    nvml: &'static str,
}

impl Common {
    fn new(history: &History, status: Summary, gpus: &GpuSnapshot) -> Self {
        Self { tick: history.tick(), at_ms: history.now_ms(), status, nvml: gpus.nvml.name() }
    }
}

/// `event: state`: everything.
#[derive(Serialize)]
pub(super) struct Whole<'a> {
    #[serde(flatten)]
    common: Common,
    tasks: Vec<RunningTask>,
    jobs: Vec<Job>,
    recent: Vec<Outcome>,
    gpus: Vec<Gpu<'a>>,
    host: &'a Ring<HostReading>,
}

impl<'a> Whole<'a> {
    pub(super) fn new(
        history: &'a History,
        summary: Summary,
        status: &WorkerStatus,
        gpus: &'a GpuSnapshot,
    ) -> Self {
        let gpu =
            |device: &'a GpuDevice| Gpu { history: history.gpu(&device.info.uuid), ..Gpu::from(device) };
        Self {
            common: Common::new(history, summary, gpus),
            tasks: status.tasks.iter().map(|task| RunningTask::whole(task, history)).collect(),
            jobs: history.jobs().into_iter().map(|(id, job)| Job::whole(id, job)).collect(),
            recent: status.recent.iter().map(|outcome| Outcome::from(&**outcome)).collect(),
            gpus: gpus.devices.iter().map(gpu).collect(),
            host: history.host(),
        }
    }
}

/// `event: update`: the state without histories, and what is new in them.
#[derive(Serialize)]
pub(super) struct Update<'a> {
    #[serde(flatten)]
    common: Common,
    tasks: Vec<RunningTask>,
    jobs: Vec<Job>,
    /// Outcomes since the last one.
    ended: Vec<Outcome>,
    gpus: Vec<Gpu<'a>>,
}

impl<'a> Update<'a> {
    pub(super) fn new(
        history: &History,
        summary: Summary,
        status: &WorkerStatus,
        (ended, gpus): (&[Arc<TaskOutcome>], &'a GpuSnapshot),
    ) -> Self {
        Self {
            common: Common::new(history, summary, gpus),
            tasks: status.tasks.iter().map(|task| RunningTask::brief(task, history)).collect(),
            jobs: history.jobs().into_iter().map(|(id, job)| Job::brief(id, job)).collect(),
            ended: ended.iter().map(|outcome| Outcome::from(&**outcome)).collect(),
            gpus: gpus.devices.iter().map(Gpu::from).collect(),
        }
    }
}
