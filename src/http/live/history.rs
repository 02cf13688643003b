//! What was seen of tasks, jobs, GPUs and the machine over the last minutes, in bounded memory.
//!
//! One [`History::advance`] a tick takes a snapshot in and says what is new in it. It has no clock and no channels.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::curve::{Curve, Figures, Ring};
use crate::domain::{
    HostUsage, JobId, Metrics, TaskIdentity, TaskOutcome, TaskPhase, TaskView, WorkerStatus,
};
use crate::gpu::GpuSnapshot;

/// Points of a running task's curve.
const TASK_POINTS: usize = 64;

/// Points of a job's curve.
const JOB_POINTS: usize = 256;

/// Jobs that are remembered; those that were quiet for longest go.
const MOST_JOBS: usize = 64;

/// Time between two readings of GPUs and machine that are kept.
const READING_INTERVAL_MS: u64 = 2_000;

/// Readings that are kept: ten minutes.
const READINGS: usize = 300;

/// While outcomes of a job come in at least this often, they alone make its curve: they stand for more rows than the
/// figures of a task that has just begun.
const OUTCOMES_SUFFICE: Duration = Duration::from_secs(2);

/// `[milliseconds since 1970, utilisation 0..1, bytes used, degrees Celsius, watts]`; absent readings are NaN (null).
pub(super) type GpuReading = (u64, f32, f64, f32, f32);

/// `[milliseconds since 1970, CPU percent, bytes]`.
pub(super) type HostReading = (u64, f32, u64);

/// What is known of a running task beside its view.
#[derive(Debug)]
struct TaskTrack {
    curve: Curve,
    /// The first figures of this try: when (milliseconds since 1970) and at which step.
    began: Option<(u64, u64)>,
    step: u64,
}

/// One job as it was seen here.
#[derive(Debug)]
pub(super) struct JobTrack {
    pub(super) model: String,
    pub(super) epoch: u32,
    pub(super) completed: u64,
    pub(super) failed: u64,
    pub(super) running: u32,
    /// Whether any point of the curve is: a task that trains later does not make the earlier ones real.
    pub(super) simulated: bool,
    pub(super) curve: Curve,
    /// The point of the latest tick, where there is one.
    pub(super) fresh: Option<Figures>,
    first_ms: u64,
    last_outcome_ms: Option<u64>,
    last_seen_ms: u64,
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct History {
    tick: u64,
    now_ms: u64,
    tasks: HashMap<TaskIdentity, TaskTrack>,
    jobs: HashMap<JobId, JobTrack>,
    gpus: BTreeMap<String, Ring<GpuReading>>,
    host: Ring<HostReading>,
    latest: Option<Arc<TaskOutcome>>,
}

impl History {
    /// Takes in what is seen at `now_ms` (milliseconds since 1970), and returns the outcomes that are new since the last
    /// call, oldest first.
    pub(super) fn advance(
        &mut self,
        now_ms: u64,
        status: &WorkerStatus,
        host: HostUsage,
        gpus: &GpuSnapshot,
    ) -> Vec<Arc<TaskOutcome>> {
        self.tick += 1;
        self.now_ms = now_ms;
        let ended = self.ended(status);
        self.follow_tasks(status);
        self.follow_jobs(status, &ended);
        self.read(host, gpus);
        ended
    }

    /// Number of the latest tick.
    pub(super) fn tick(&self) -> u64 {
        self.tick
    }

    /// When that was, in milliseconds since 1970.
    pub(super) fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Jobs, those that were seen first before others.
    pub(super) fn jobs(&self) -> Vec<(&JobId, &JobTrack)> {
        let mut jobs: Vec<_> = self.jobs.iter().collect();
        jobs.sort_by_key(|(id, job)| (job.first_ms, (*id).clone()));
        jobs
    }

    /// The curve of a running task: `x` is its step.
    pub(super) fn curve_of(&self, task: &TaskIdentity) -> &[Figures] {
        self.tasks.get(task).map_or(&[], |track| track.curve.points())
    }

    /// Seconds that `task` will go on at the pace it had so far; None while that is not known.
    pub(super) fn remaining_seconds(&self, task: &TaskView) -> Option<f64> {
        let (began_ms, began_step) = self.tasks.get(&task.identity)?.began?;
        let (step, total) = (task.progress.step, task.progress.total_steps);
        let steps = step.checked_sub(began_step).filter(|steps| *steps > 0)?;
        let elapsed_ms = self.now_ms.saturating_sub(began_ms);
        (elapsed_ms > 0)
            .then(|| total.saturating_sub(step) as f64 * elapsed_ms as f64 / steps as f64 / 1000.0)
            .filter(|_| task.phase == TaskPhase::Running)
    }

    /// Readings of the GPU called `uuid`, oldest first.
    pub(super) fn gpu(&self, uuid: &str) -> Option<&Ring<GpuReading>> {
        self.gpus.get(uuid)
    }

    /// Readings of the machine, oldest first.
    pub(super) fn host(&self) -> &Ring<HostReading> {
        &self.host
    }

    fn ended(&mut self, status: &WorkerStatus) -> Vec<Arc<TaskOutcome>> {
        let known = self.latest.as_ref();
        let position = |latest| status.recent.iter().rposition(|outcome| Arc::ptr_eq(outcome, latest));
        let new = known.and_then(position).map_or(0, |latest| latest + 1);
        let ended = status.recent.get(new..).unwrap_or_default().to_vec();
        self.latest = status.recent.last().cloned().or(self.latest.take());
        ended
    }

    fn follow_tasks(&mut self, status: &WorkerStatus) {
        let held = |identity: &TaskIdentity| status.tasks.iter().any(|task| task.identity == *identity);
        if self.tasks.len() > status.tasks.len() || !self.tasks.keys().all(held) {
            self.tasks.retain(|identity, _| status.tasks.iter().any(|task| task.identity == *identity));
        }
        for task in &status.tasks {
            let progress = task.progress;
            let track = self.tasks.entry(task.identity.clone()).or_insert_with(TaskTrack::new);
            if progress.step < track.step {
                // Another try.
                *track = TaskTrack::new();
            }
            if progress.step > track.step {
                track.began.get_or_insert((self.now_ms, progress.step));
                track.step = progress.step;
                let (loss, accuracy) = (progress.loss as f32, progress.accuracy as f32);
                track.curve.push(Figures(progress.step, loss, accuracy, f32::NAN, f32::NAN));
            }
        }
    }

    fn follow_jobs(&mut self, status: &WorkerStatus, ended: &[Arc<TaskOutcome>]) {
        let now_ms = self.now_ms;
        for job in self.jobs.values_mut() {
            (job.fresh, job.running) = (None, 0);
        }
        let mut outcomes: HashMap<JobId, (Mean, Mean)> = HashMap::new();
        for outcome in ended {
            let job = self.job(&outcome.identity.job_id, outcome.model.as_str());
            job.epoch = job.epoch.max(outcome.epoch);
            match &outcome.ending {
                Ok(result) => {
                    job.completed += 1;
                    job.simulated |= result.backend.is_simulated();
                    let (train, validation) = outcomes.entry(outcome.identity.job_id.clone()).or_default();
                    train.add(result.train);
                    result.validation.into_iter().for_each(|metrics| validation.add(metrics));
                }
                Err(_) => job.failed += 1,
            }
        }
        let mut running: HashMap<JobId, Mean> = HashMap::new();
        for task in &status.tasks {
            let job = self.job(&task.identity.job_id, task.model.as_str());
            job.epoch = job.epoch.max(task.epoch);
            job.running += 1;
            if task.progress.step > 0 {
                job.simulated |= task.progress.simulated;
                let mean = running.entry(task.identity.job_id.clone()).or_default();
                mean.add(Metrics { loss: task.progress.loss, accuracy: task.progress.accuracy });
            }
        }
        for (id, job) in &mut self.jobs {
            let silent = job
                .last_outcome_ms
                .is_none_or(|last| Duration::from_millis(now_ms.saturating_sub(last)) >= OUTCOMES_SUFFICE);
            let point = match (outcomes.remove(id), running.remove(id)) {
                (Some((train, validation)), _) => {
                    job.last_outcome_ms = Some(now_ms);
                    let (train, validation) = (train.figures(), validation.figures());
                    Some(Figures(now_ms, train.0, train.1, validation.0, validation.1))
                }
                (None, Some(mean)) if silent => {
                    let (loss, accuracy) = mean.figures();
                    Some(Figures(now_ms, loss, accuracy, f32::NAN, f32::NAN))
                }
                _ => None,
            };
            job.fresh = point;
            point.into_iter().for_each(|point| job.curve.push(point));
        }
        while self.jobs.len() > MOST_JOBS {
            let oldest =
                self.jobs.iter().min_by_key(|(id, job)| (job.last_seen_ms, job.first_ms, (*id).clone()));
            let Some(oldest) = oldest.map(|(id, _)| id.clone()) else { break };
            self.jobs.remove(&oldest);
        }
    }

    fn job(&mut self, id: &JobId, model: &str) -> &mut JobTrack {
        let now_ms = self.now_ms;
        let job = self.jobs.entry(id.clone()).or_insert_with(|| JobTrack::new(model, now_ms));
        job.last_seen_ms = now_ms;
        job
    }

    fn read(&mut self, host: HostUsage, gpus: &GpuSnapshot) {
        let due = |last: Option<u64>, now_ms: u64| {
            last.is_none_or(|last| now_ms.saturating_sub(last) >= READING_INTERVAL_MS)
        };
        if due(self.host.last().map(|reading| reading.0), self.now_ms) {
            self.host.push(READINGS, (self.now_ms, host.cpu_percent as f32, host.memory_bytes));
        }
        for device in &gpus.devices {
            let readings = &device.readings;
            let ring = self.gpus.entry(device.info.uuid.clone()).or_default();
            if due(ring.last().map(|reading| reading.0), self.now_ms) {
                let short = |reading: Option<f64>| reading.map_or(f32::NAN, |reading| reading as f32);
                let reading = (
                    self.now_ms,
                    short(readings.utilization_ratio),
                    readings.memory_used_bytes.map_or(f64::NAN, |bytes| bytes as f64),
                    short(readings.temperature_celsius),
                    short(readings.power_watts),
                );
                ring.push(READINGS, reading);
            }
        }
        if self.gpus.len() > gpus.devices.len() {
            self.gpus.retain(|uuid, _| gpus.device(uuid).is_some());
        }
    }
}

impl TaskTrack {
    fn new() -> Self {
        Self { curve: Curve::new(TASK_POINTS), began: None, step: 0 }
    }
}

impl JobTrack {
    fn new(model: &str, now_ms: u64) -> Self {
        Self {
            model: model.to_owned(),
            epoch: 0,
            completed: 0,
            failed: 0,
            running: 0,
            simulated: false,
            curve: Curve::new(JOB_POINTS),
            fresh: None,
            first_ms: now_ms,
            last_outcome_ms: None,
            last_seen_ms: now_ms,
        }
    }
}

/// A mean of metrics as it is gathered.
#[derive(Default)]
struct Mean {
    loss: f64,
    accuracy: f64,
    count: f64,
}

impl Mean {
    fn add(&mut self, metrics: Metrics) {
        self.loss += metrics.loss;
        self.accuracy += metrics.accuracy;
        self.count += 1.0;
    }

    /// Loss and accuracy; NaN where nothing was gathered.
    fn figures(&self) -> (f32, f32) {
        ((self.loss / self.count) as f32, (self.accuracy / self.count) as f32)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::{Backend, ModelType, Progress, TaskId, TaskResult};
    use crate::http::tests::status;

    fn view(task: &str, job: &str, step: u64) -> TaskView {
        TaskView {
            identity: TaskIdentity {
                task_id: TaskId::parse(task).unwrap(),
                job_id: JobId::parse(job).unwrap(),
                attempt: 1,
            },
            progress: Progress { step, total_steps: 100, loss: 2.0, accuracy: 0.5, ..Progress::default() },
            ..status().tasks.remove(0)
        }
    }

    fn outcome(task: &str, job: &str, loss: f64) -> Arc<TaskOutcome> {
        let view = view(task, job, 0);
        Arc::new(TaskOutcome {
            identity: view.identity,
            model: ModelType::parse("cnn").unwrap(),
            epoch: 3,
            ending: Ok(TaskResult {
                train: Metrics { loss, accuracy: 0.75 },
                validation: Some(Metrics { loss: loss + 1.0, accuracy: 0.5 }),
                samples: 1,
                steps: 1,
                backend: Backend::Cpu,
                device: "cpu".into(),
                weights: bytes::Bytes::new(),
                reference: None,
            }),
            notes: Vec::new(),
            duration: Duration::from_secs(1),
            energy_joules: None,
        })
    }

    struct Seen {
        history: History,
        now_ms: u64,
    }

    impl Seen {
        fn see(&mut self, after_ms: u64, tasks: Vec<TaskView>, recent: Vec<Arc<TaskOutcome>>) -> usize {
            self.now_ms += after_ms;
            let status = WorkerStatus { tasks, recent, ..status() };
            self.history.advance(self.now_ms, &status, HostUsage::default(), &GpuSnapshot::default()).len()
        }
    }

    fn seen() -> Seen {
        Seen { history: History::default(), now_ms: 1_000 }
    }

    #[test]
    fn outcomes_are_new_once() {
        let mut seen = seen();
        let (a, b, c) = (outcome("a", "j", 1.0), outcome("b", "j", 1.0), outcome("c", "j", 1.0));
        assert_eq!(seen.see(0, vec![], vec![]), 0);
        assert_eq!(seen.see(500, vec![], vec![a.clone(), b.clone()]), 2);
        assert_eq!(seen.see(500, vec![], vec![a, b.clone()]), 0);
        assert_eq!(seen.see(500, vec![], vec![b, c]), 1);
    }

    #[test]
    fn a_running_task_has_a_curve_and_the_time_that_it_still_needs() {
        let mut seen = seen();
        seen.see(0, vec![view("a", "j", 0)], vec![]);
        assert_eq!(seen.history.remaining_seconds(&view("a", "j", 0)), None);
        seen.see(500, vec![view("a", "j", 10)], vec![]);
        seen.see(500, vec![view("a", "j", 20)], vec![]);
        seen.see(500, vec![view("a", "j", 20)], vec![]);
        let task = view("a", "j", 20);
        assert_eq!(seen.history.curve_of(&task.identity).len(), 2, "one point for each new step");
        // 10 steps in the second since the first figures, 80 to go.
        assert_eq!(seen.history.remaining_seconds(&task), Some(8.0));
        seen.see(500, vec![view("a", "j", 5)], vec![]);
        assert_eq!(seen.history.curve_of(&task.identity).len(), 1, "another try begins anew");
        seen.see(500, vec![], vec![]);
        assert!(seen.history.curve_of(&task.identity).is_empty(), "what has ended is forgotten");
    }

    #[test]
    fn the_curve_of_a_job_is_made_by_outcomes_and_by_long_tasks_between_them() {
        let mut seen = seen();
        let points = |seen: &Seen| seen.history.jobs()[0].1.curve.points().to_vec();
        seen.see(0, vec![view("a", "j", 1), view("b", "j", 1)], vec![]);
        assert_eq!(points(&seen).len(), 1);
        assert_eq!((points(&seen)[0].1, seen.history.jobs()[0].1.running), (2.0, 2));
        let both = vec![outcome("a", "j", 1.0), outcome("b", "j", 3.0)];
        seen.see(500, vec![view("c", "j", 1)], both.clone());
        let last = points(&seen)[1];
        assert_eq!((last.0, last.1, last.3), (1_500, 2.0, 3.0), "the mean of what ended together");
        seen.see(500, vec![view("c", "j", 2)], both.clone());
        assert_eq!(points(&seen).len(), 2, "a task that has just begun says less than an outcome");
        seen.see(2_000, vec![view("c", "j", 3)], both);
        assert_eq!(points(&seen).len(), 3);
        assert!(points(&seen)[2].3.is_nan());
        let job = seen.history.jobs()[0].1;
        assert_eq!((job.completed, job.epoch), (2, 4), "the task at hand is of a later epoch");
    }

    #[test]
    fn a_curve_with_simulated_points_stays_marked() {
        let simulated =
            |task: TaskView| TaskView { progress: Progress { simulated: true, ..task.progress }, ..task };
        let mut seen = seen();
        seen.see(0, vec![view("a", "j", 1), simulated(view("b", "k", 1))], vec![]);
        seen.see(500, vec![view("a", "j", 2), view("c", "k", 1)], vec![]);
        let marked: Vec<_> =
            seen.history.jobs().iter().map(|(id, job)| (id.as_str(), job.simulated)).collect();
        assert_eq!(marked, [("j", false), ("k", true)]);
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let mut seen = seen();
        for n in 0..1_000_u32 {
            let job = format!("j{n}");
            seen.see(500, vec![view("a", &job, n.into())], vec![outcome("z", &job, 1.0)]);
        }
        assert_eq!(seen.history.jobs().len(), MOST_JOBS);
        assert_eq!(seen.history.jobs()[MOST_JOBS - 1].0.as_str(), "j999", "the quiet ones go");
        assert_eq!(seen.history.tasks.len(), 1);
        let host = serde_json::to_value(seen.history.host()).unwrap();
        assert!(host.as_array().unwrap().len() <= READINGS);
    }
}
