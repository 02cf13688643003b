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
use crate::telemetry::series::{ExpiringGauges, ExpiringHistograms, Limits};

/// Bounds of task durations in seconds.
const TASK_BUCKETS: [f64; 11] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0];

/// Bounds of step durations in seconds.
const STEP_BUCKETS: [f64; 10] = [0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0];

/// Bounds of the wait in the engine, in seconds.
const QUEUE_BUCKETS: [f64; 10] = [0.000_3, 0.001, 0.003, 0.01, 0.1, 1.0, 5.0, 30.0, 120.0, 600.0];

/// Series of one gauge family with a task's labels. Six of them and the durations stay under 1,000.
const TASK_GAUGE_SERIES: usize = 100;

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
    loss: ExpiringGauges,
    accuracy: ExpiringGauges,
    validation_loss: ExpiringGauges,
    validation_accuracy: ExpiringGauges,
    simulated: ExpiringGauges,
    gpu_memory_peak: ExpiringGauges,
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
        let task = ["job_id", "task_id"];
        let gauge = |name: &str, help: &str| {
            ExpiringGauges::new(Opts::new(name, help), &task, Limits::gauges(TASK_GAUGE_SERIES))
        };
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
            loss: gauge("worker_training_loss", "Mean training loss of a task so far.")?,
            accuracy: gauge(
                "worker_training_accuracy",
                "Mean training accuracy of a task so far (regression: RMSE).",
            )?,
            validation_loss: gauge("worker_validation_loss", "Loss on held-out rows after a task.")?,
            validation_accuracy: gauge(
                "worker_validation_accuracy",
                "Accuracy on held-out rows after a task (regression: RMSE).",
            )?,
            simulated: gauge(
                "worker_task_simulated",
                "1 where the figures of a task come from an analytic curve, 0 where it trains.",
            )?,
            gpu_memory_peak: gauge(
                "worker_task_gpu_memory_peak_bytes",
                "Most video memory in use on the GPU of a task while it ran, by whatever process.",
            )?,
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
                    "Time that a task waits in the engine before it starts.",
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
        for family in self.of_task() {
            family.register(registry)?;
        }
        registry.register(Box::new(self.gpu_energy.clone()))?;
        registry.register(Box::new(self.samples.clone()))?;
        registry.register(Box::new(self.batches.clone()))?;
        registry.register(Box::new(self.step.clone()))?;
        registry.register(Box::new(self.queue.clone()))?;
        registry.register(Box::new(self.heartbeats.clone()))?;
        registry.register(Box::new(self.runner_exits.clone()))?;
        registry.register(Box::new(self.runners.clone()))
    }

    /// The families whose series end with a task.
    fn of_task(&self) -> [&ExpiringGauges; 6] {
        [
            &self.loss,
            &self.accuracy,
            &self.validation_loss,
            &self.validation_accuracy,
            &self.simulated,
            &self.gpu_memory_peak,
        ]
    }

    /// A try of `task` took `share` of its GPU.
    pub(super) fn took(&self, task: &TaskSpec, share: &GpuShare) {
        if let Some(joules) = share.energy_joules {
            let model = self.model_label(&task.model);
            self.gpu_energy.with_label_values(&[model.as_str(), share.attribution.name()]).inc_by(joules);
        }
        if let Some(bytes) = share.memory_peak_bytes {
            let labels = [task.identity.job_id.as_str(), task.identity.task_id.as_str()];
            self.gpu_memory_peak.set(&labels, bytes as f64);
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

    /// The engine began to work on a task after `waited`.
    pub(super) fn queued(&self, waited: Duration) {
        self.queue.observe(waited.as_secs_f64());
    }

    /// A task ended.
    pub(super) fn ended(&self, outcome: &TaskOutcome) {
        let model = self.model_label(&outcome.model);
        self.completed.with_label_values(&[outcome.status().name(), &model]).inc();
        let job = outcome.identity.job_id.as_str();
        let of_task = [job, outcome.identity.task_id.as_str()];
        match &outcome.ending {
            Ok(result) => {
                self.loss.set(&of_task, result.train.loss);
                self.accuracy.set(&of_task, result.train.accuracy);
                if let Some(validation) = result.validation {
                    self.validation_loss.set(&of_task, validation.loss);
                    self.validation_accuracy.set(&of_task, validation.accuracy);
                }
            }
            Err(_) if outcome.status() == TaskStatus::Cancelled => {}
            Err(_) => self.failed.inc(),
        }
        for family in self.of_task() {
            family.end(&of_task);
        }
        // Nobody tells when the last task of a job was here, so each ends the series until the next one comes.
        if !outcome.duration.is_zero() {
            self.duration.observe(&[&model, job], outcome.duration.as_secs_f64());
            self.duration.end(&[&model, job]);
        }
    }

    /// Counts the steps of one try.
    pub(super) fn of_run(&self, task: &TaskSpec) -> RunMetrics {
        RunMetrics {
            metrics: self.clone(),
            task: task.identity.clone(),
            model: self.model_label(&task.model),
            of_backend: OnceLock::new(),
        }
    }

    fn model_label(&self, model: &ModelType) -> String {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        if models.contains(model) || models.len() < MOST_MODEL_LABELS {
            models.insert(model.clone());
            model.to_string()
        } else {
            "other".to_owned()
        }
    }
}

/// Counts the steps of one try, without a look-up of labels at each.
pub(super) struct RunMetrics {
    metrics: Metrics,
    task: TaskIdentity,
    model: String,
    of_backend: OnceLock<StepMetrics>,
}

struct StepMetrics {
    samples: Counter,
    batches: Counter,
    step: Histogram,
}

impl RunMetrics {
    fn labels(&self) -> [&str; 2] {
        [self.task.job_id.as_str(), self.task.task_id.as_str()]
    }

    /// The engine began to work on it.
    pub(super) fn started(&self, backend: Backend) {
        let simulated = f64::from(u8::from(backend.is_simulated()));
        self.metrics.simulated.set(&self.labels(), simulated);
        self.of_backend.get_or_init(|| {
            let labels = [self.model.as_str(), backend.name()];
            StepMetrics {
                samples: self.metrics.samples.with_label_values(&labels),
                batches: self.metrics.batches.with_label_values(&labels),
                step: self.metrics.step.with_label_values(&labels),
            }
        });
    }

    /// One step was made.
    pub(super) fn stepped(&self, progress: &Progress, step: Step) {
        self.metrics.loss.set(&self.labels(), progress.loss);
        self.metrics.accuracy.set(&self.labels(), progress.accuracy);
        let Some(counts) = self.of_backend.get() else { return };
        counts.samples.inc_by(step.samples as f64);
        counts.batches.inc();
        counts.step.observe(step.duration.as_secs_f64());
    }
}
