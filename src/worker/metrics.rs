//! What Prometheus learns about tasks.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use prometheus::{
    Counter, CounterVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry,
};

use crate::domain::{Backend, ModelType, Progress, TaskIdentity, TaskOutcome, TaskSpec, TaskStatus};
use crate::engine::{ExitCause, Step};
use crate::gpu::GpuShare;
use crate::telemetry::series::{ExpiringGauges, ExpiringHistograms, Gauges, Limits};

/// Bounds of task durations in seconds.
const TASK_BUCKETS: [f64; 11] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0];

/// Bounds of step durations in seconds.
const STEP_BUCKETS: [f64; 10] = [0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0];

/// Bounds of the wait from claim to start, in seconds.
const QUEUE_BUCKETS: [f64; 11] = [0.000_3, 0.001, 0.002, 0.003, 0.01, 0.1, 1.0, 5.0, 30.0, 120.0, 600.0];

/// Series of one gauge family with a task's labels. Six of them and the durations stay under 1,000.
const TASK_GAUGE_SERIES: usize = 100;

/// The gauges of a task: name and help of the family, which has the number of its place.
const TASK_GAUGES: [(&str, &str); 6] = [
    ("worker_training_loss", "Mean training loss of a task so far."),
    ("worker_training_accuracy", "Mean training accuracy of a task so far (regression: RMSE)."),
    ("worker_validation_loss", "Loss on held-out rows after a task."),
    ("worker_validation_accuracy", "Accuracy on held-out rows after a task (regression: RMSE)."),
    (
        "worker_task_simulated",
        "1 where the figures of a task come from an analytic curve, 0 where it trains.",
    ),
    (
        "worker_task_gpu_memory_peak_bytes",
        "Most video memory in use on the GPU of a task while it ran, by whatever process.",
    ),
];
const LOSS: usize = 0;
const ACCURACY: usize = 1;
const VALIDATION_LOSS: usize = 2;
const VALIDATION_ACCURACY: usize = 3;
const SIMULATED: usize = 4;
const GPU_MEMORY_PEAK: usize = 5;

/// Series of the task durations, which carry a job's id.
const TASK_DURATION_SERIES: usize = 380;

/// Model types with a label of their own; any identifier may come, so later ones share `other`.
const MOST_MODEL_LABELS: usize = 50;

/// Metrics of the worker's room. Clones share their values.
#[derive(Clone)]
pub struct Metrics {
    duration: ExpiringHistograms,
    completed: IntCounterVec,
    failed: IntCounter,
    of_task: ExpiringGauges,
    gpu_energy: CounterVec,
    samples: CounterVec,
    batches: CounterVec,
    step: HistogramVec,
    queue: Histogram,
    heartbeats: IntCounterVec,
    runner_exits: IntCounterVec,
    runners: IntGauge,
    models: Arc<Mutex<BTreeSet<ModelType>>>,
}

impl Metrics {
    /// Builds all families.
    ///
    /// # Errors
    /// A defect in a name or a help text.
    pub fn new() -> Result<Self, prometheus::Error> {
        let gauges = TASK_GAUGES.map(|(name, help)| Opts::new(name, help));
        let by_backend = ["model_type", "backend"];
        let runner_exits = IntCounterVec::new(
            Opts::new("worker_runner_exits_total", "Child processes that ended, by the cause."),
            &["cause"],
        )?;
        for cause in ExitCause::ALL {
            // There from the start, so that the first one is an increase.
            runner_exits.with_label_values(&[cause.name()]);
        }
        Ok(Self {
            duration: ExpiringHistograms::new(
                HistogramOpts::new(
                    "worker_task_duration_seconds",
                    "Time from the start of a task to its end.",
                )
                .buckets(TASK_BUCKETS.to_vec()),
                &["model_type", "job_id"],
                Limits::histograms(TASK_DURATION_SERIES, TASK_BUCKETS.len()),
            )?,
            completed: IntCounterVec::new(
                Opts::new("worker_tasks_completed_total", "Tasks that ended, by how they ended."),
                &["status", "model_type"],
            )?,
            failed: IntCounter::new(
                "worker_tasks_failed_total",
                "Tasks that failed or ran too long; cancelled ones do not count.",
            )?,
            of_task: ExpiringGauges::new(&gauges, &["job_id", "task_id"], Limits::gauges(TASK_GAUGE_SERIES))?,
            gpu_energy: CounterVec::new(
                Opts::new(
                    "worker_task_gpu_energy_joules_total",
                    "Energy that tasks took of GPUs; shared where another task or process used the GPU too.",
                ),
                &["model_type", "attribution"],
            )?,
            samples: CounterVec::new(
                Opts::new("worker_training_samples_total", "Rows that went through a model in training."),
                &by_backend,
            )?,
            batches: CounterVec::new(
                Opts::new(
                    "worker_training_batches_total",
                    "Steps of training: minibatches, rounds or trees.",
                ),
                &by_backend,
            )?,
            step: HistogramVec::new(
                HistogramOpts::new("worker_training_step_seconds", "Time of one step of training.")
                    .buckets(STEP_BUCKETS.to_vec()),
                &by_backend,
            )?,
            queue: Histogram::with_opts(
                HistogramOpts::new(
                    "worker_task_queue_seconds",
                    "Time from the answer that brought a task to its start.",
                )
                .buckets(QUEUE_BUCKETS.to_vec()),
            )?,
            heartbeats: IntCounterVec::new(
                Opts::new("worker_heartbeats_total", "Heartbeats sent, by result."),
                &["result"],
            )?,
            runner_exits,
            runners: IntGauge::new("worker_runners", "Child processes that train.")?,
            models: Arc::default(),
        })
    }

    /// Registers all families.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        self.duration.register(registry)?;
        registry.register(Box::new(self.completed.clone()))?;
        registry.register(Box::new(self.failed.clone()))?;
        self.of_task.register(registry)?;
        registry.register(Box::new(self.gpu_energy.clone()))?;
        registry.register(Box::new(self.samples.clone()))?;
        registry.register(Box::new(self.batches.clone()))?;
        registry.register(Box::new(self.step.clone()))?;
        registry.register(Box::new(self.queue.clone()))?;
        registry.register(Box::new(self.heartbeats.clone()))?;
        registry.register(Box::new(self.runner_exits.clone()))?;
        registry.register(Box::new(self.runners.clone()))
    }

    /// A try of `task` took `share` of its GPU.
    pub(super) fn took(&self, task: &TaskSpec, share: &GpuShare) {
        if let Some(joules) = share.energy_joules {
            let model = self.model_label(&task.model);
            self.gpu_energy.with_label_values(&[model, share.attribution.name()]).inc_by(joules);
        }
        if let Some(bytes) = share.memory_peak_bytes {
            self.of_task.of(&labels(&task.identity)).set(GPU_MEMORY_PEAK, bytes as f64);
        }
    }

    /// A heartbeat was answered, or not.
    pub(super) fn heartbeat(&self, answer: Result<(), ()>) {
        self.heartbeats.with_label_values(&[if answer.is_ok() { "ok" } else { "error" }]).inc();
    }

    /// A child process has ended.
    pub(super) fn runner_exited(&self, cause: ExitCause) {
        self.runner_exits.with_label_values(&[cause.name()]).inc();
    }

    /// So many child processes there are.
    pub(super) fn runners(&self, count: usize) {
        self.runners.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The engine began to work on a task that had `waited` since it came, or since it was to be tried again.
    pub(super) fn queued(&self, waited: Duration) {
        self.queue.observe(waited.as_secs_f64());
    }

    /// A task ended.
    pub(super) fn ended(&self, outcome: &TaskOutcome) {
        let model = self.model_label(&outcome.model);
        self.completed.with_label_values(&[outcome.status().name(), model]).inc();
        let labels = labels(&outcome.identity);
        match &outcome.ending {
            Ok(result) => {
                let gauges = self.of_task.of(&labels);
                gauges.set(LOSS, result.train.loss);
                gauges.set(ACCURACY, result.train.accuracy);
                // Of a result that was at hand no try has said it.
                gauges.set(SIMULATED, f64::from(u8::from(result.backend.is_simulated())));
                if let Some(validation) = result.validation {
                    gauges.set(VALIDATION_LOSS, validation.loss);
                    gauges.set(VALIDATION_ACCURACY, validation.accuracy);
                }
            }
            Err(_) if outcome.status() == TaskStatus::Cancelled => {}
            Err(_) => self.failed.inc(),
        }
        self.of_task.end(&labels);
        // Nobody tells when the last task of a job was here, so each ends the series until the next one comes.
        if !outcome.duration.is_zero() {
            let labels = [model, outcome.identity.job_id.as_str()];
            self.duration.observe(&labels, outcome.duration.as_secs_f64());
            self.duration.end(&labels);
        }
    }

    /// Counts the steps of one try.
    pub(super) fn of_run(&self, task: &Arc<TaskSpec>) -> RunMetrics {
        RunMetrics { metrics: self.clone(), task: Arc::clone(task), started: OnceLock::new() }
    }

    fn model_label<'a>(&self, model: &'a ModelType) -> &'a str {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        let known = models.contains(model);
        if !known && models.len() >= MOST_MODEL_LABELS {
            return "other";
        }
        if !known {
            models.insert(model.clone());
        }
        model.as_str()
    }
}

/// Values of the labels of a task's series.
fn labels(task: &TaskIdentity) -> [&str; 2] {
    [task.job_id.as_str(), task.task_id.as_str()]
}

/// Counts the steps of one try, without a look-up of labels at each.
pub(super) struct RunMetrics {
    metrics: Metrics,
    task: Arc<TaskSpec>,
    started: OnceLock<StepMetrics>,
}

struct StepMetrics {
    gauges: Gauges,
    samples: Counter,
    batches: Counter,
    step: Histogram,
}

impl RunMetrics {
    /// The engine began to work on it.
    pub(super) fn started(&self, backend: Backend) {
        let Self { metrics, task, started } = self;
        let of_step = started.get_or_init(|| {
            let by_backend = [metrics.model_label(&task.model), backend.name()];
            StepMetrics {
                gauges: metrics.of_task.of(&labels(&task.identity)),
                samples: metrics.samples.with_label_values(&by_backend),
                batches: metrics.batches.with_label_values(&by_backend),
                step: metrics.step.with_label_values(&by_backend),
            }
        });
        of_step.gauges.set(SIMULATED, f64::from(u8::from(backend.is_simulated())));
    }

    /// One step was made.
    pub(super) fn stepped(&self, progress: &Progress, step: Step) {
        let Some(of_step) = self.started.get() else { return };
        of_step.gauges.set(LOSS, progress.loss);
        of_step.gauges.set(ACCURACY, progress.accuracy);
        of_step.samples.inc_by(step.samples as f64);
        of_step.batches.inc();
        of_step.step.observe(step.duration.as_secs_f64());
    }
}
