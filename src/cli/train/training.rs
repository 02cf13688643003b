//! The training itself, on the thread that calls.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::cli::ui::{Board, Quality, Track, figures};
use crate::cli::{Epoch, Metrics};
use crate::domain::{
    BATCHES_PER_TASK, Backend, BackendChoice, ErrorCode, Hyperparameters, JobId, ModelType, Progress,
    TASKS_PER_EPOCH, TaskError, TaskId, TaskIdentity, TaskResult, TaskSpec, masked_path,
};
use crate::engine::{
    self, Control, Done, Engine as _, LocalTraining, Observer, OpenError, Predictions, Step, TrainingEngine,
    UnsupportedModels,
};

/// What is to be trained.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) model: ModelType,
    pub(super) dataset: String,
    pub(super) epochs: u32,
    pub(super) hyperparameters: Hyperparameters,
    pub(super) config: engine::Config,
}

/// What came out.
#[derive(Debug)]
pub(super) struct Trained {
    pub(super) metrics: Metrics,
    pub(super) quality: Quality,
    /// What its losses are, where most models have another one.
    pub(super) own_loss: Option<&'static str>,
    /// File name and content; None when nothing was trained.
    pub(super) model: Option<(&'static str, Vec<u8>)>,
    /// Of the rows held out; None when nothing was trained.
    pub(super) predictions: Option<Predictions>,
}

/// Trains to the end.
///
/// # Errors
/// What is wrong with the order, or why the training stopped.
pub(super) fn train(order: &Order, watcher: &Watcher, control: &Arc<Control>) -> Result<Trained, OpenError> {
    let trained = match order.hyperparameters.backend {
        Some(BackendChoice::Only(Backend::Analytic)) => simulate(order, watcher, control),
        _ => train_for_real(order, watcher, control),
    };
    watcher.end();
    trained
}

fn train_for_real(order: &Order, watcher: &Watcher, control: &Control) -> Result<Trained, OpenError> {
    let check = || control.check();
    // What a schedule stretches over.
    let mut hyperparameters =
        Hyperparameters { total_epochs: Some(order.epochs), ..order.hyperparameters.clone() };
    // It had its effect on the epochs, whether the model listens to it or not.
    hyperparameters.given.remove("total_epochs");
    let mut local =
        LocalTraining::open(&order.model, &order.dataset, &hyperparameters, &order.config, &check)?;
    let quality = Quality::of(local.dataset());
    watcher.measures(quality);
    for note in local.notes() {
        watcher.note(note);
    }
    let mut record = Record::default();
    for epoch in 0..order.epochs {
        watcher.begin(epoch);
        let steps = record.add(watcher, |_| local.run_epoch(epoch, control))?;
        for note in local.take_notes() {
            watcher.note(&note);
        }
        if steps == 0 {
            // Training is over: the epochs that are left would change nothing.
            break;
        }
    }
    let dataset = local.dataset();
    let rows = Some((dataset.train.len() as u64, dataset.validation.len() as u64));
    let metrics = record.metrics(order, local.model_type(), local.backend(), rows, local.seed());
    let model = (local.weights_file_name(), local.weights()?);
    let (own_loss, predictions) = (local.own_loss(), Some(local.predictions()));
    Ok(Trained { metrics, quality, own_loss, model: Some(model), predictions })
}

/// Runs the analytic curves through the engine, as a worker would.
fn simulate(order: &Order, watcher: &Watcher, control: &Arc<Control>) -> Result<Trained, OpenError> {
    let config = engine::Config {
        backend: BackendChoice::Only(Backend::Analytic),
        unsupported_models: UnsupportedModels::Simulate,
        ..order.config.clone()
    };
    let engine = TrainingEngine::new(config)?;
    let seed = order.hyperparameters.seed.unwrap_or(0);
    let hyperparameters = Hyperparameters { seed: Some(seed), ..order.hyperparameters.clone() };
    let mut record = Record::default();
    for epoch in 0..order.epochs {
        watcher.begin(epoch);
        let task = TaskSpec {
            identity: TaskIdentity {
                task_id: TaskId::lossy(&format!("epoch-{epoch}")),
                job_id: JobId::lossy("train"),
                attempt: 0,
            },
            model: order.model.clone(),
            dataset_path: order.dataset.clone(),
            hyperparameters: hyperparameters.clone(),
            notes: Vec::new(),
            epoch,
            batches: 0..TASKS_PER_EPOCH * BATCHES_PER_TASK,
            total_epochs: Some(order.epochs),
            timeout: None,
            lease: None,
            initial_weights: Bytes::new(),
            received: Bytes::new(),
        };
        record.add(watcher, |_| run(&engine, task, control))?;
    }
    let metrics = record.metrics(order, order.model.as_str(), Backend::Analytic, None, seed);
    Ok(Trained { metrics, quality: Quality::Accuracy, own_loss: None, model: None, predictions: None })
}

/// Runs one task and waits for its end.
fn run(engine: &TrainingEngine, task: TaskSpec, control: &Arc<Control>) -> Result<TaskResult, TaskError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    // The receiver below lives until the call was made.
    let done = Done::new(move |finished| drop(sender.send(finished.ending)));
    engine.submit(Arc::new(task), Arc::clone(control), done);
    receiver.recv().unwrap_or_else(|_| Err(TaskError::new(ErrorCode::Internal, "the engine gave no answer")))
}

/// What was seen so far.
#[derive(Debug, Default)]
struct Record {
    epochs: Vec<Epoch>,
    samples: u64,
    elapsed: Duration,
}

impl Record {
    /// Adds what `epoch` yields, and returns the steps that it took.
    fn add(
        &mut self,
        watcher: &Watcher,
        epoch: impl FnOnce(&Self) -> Result<TaskResult, TaskError>,
    ) -> Result<u64, TaskError> {
        let started = Instant::now();
        let result = epoch(self)?;
        let steps = result.steps;
        self.elapsed += started.elapsed();
        self.samples += result.samples;
        let number = u32::try_from(self.epochs.len()).unwrap_or(u32::MAX).saturating_add(1);
        let epoch = Epoch::from_result(number, &result);
        watcher.epoch(&epoch);
        self.epochs.push(epoch);
        Ok(steps)
    }

    fn metrics(
        self,
        order: &Order,
        model_type: &str,
        backend: Backend,
        rows: Option<(u64, u64)>,
        seed: u64,
    ) -> Metrics {
        let seconds = self.elapsed.as_secs_f64();
        Metrics {
            model_type: model_type.to_owned(),
            dataset: masked_path(&order.dataset).into_owned(),
            backend: backend.name().to_owned(),
            simulated: backend.is_simulated(),
            rows_train: rows.map(|rows| rows.0),
            rows_validation: rows.map(|rows| rows.1),
            last: self.epochs.last().map(Into::into),
            epochs: self.epochs,
            seconds,
            samples_per_second: if seconds > 0.0 { self.samples as f64 / seconds } else { 0.0 },
            seed,
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// How often the bar moves at most.
const REDRAW_INTERVAL: Duration = Duration::from_millis(50);

/// Sees the training and draws it; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Watcher(Arc<Picture>);

#[derive(Debug)]
struct Picture {
    board: Board,
    epochs: Track,
    steps: Track,
    total: u32,
    quality: OnceLock<Quality>,
    drawn: Mutex<Option<Instant>>,
}

impl Watcher {
    pub(super) fn new(order: &Order, board: Board) -> Self {
        let epochs = board.whole("epochs", order.epochs.into());
        let steps = board.part("steps");
        let (total, quality, drawn) = (order.epochs, OnceLock::new(), Mutex::new(None));
        Self(Arc::new(Picture { board, epochs, steps, total, quality, drawn }))
    }

    /// What the second figure is from here on; the first word counts.
    fn measures(&self, quality: Quality) {
        self.0.quality.get_or_init(|| quality);
    }

    fn figures(&self, loss: f64, value: f64) -> String {
        figures(loss, self.0.quality.get().copied().unwrap_or(Quality::Accuracy), value)
    }

    fn begin(&self, epoch: u32) {
        *self.0.drawn.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.0.steps.set(0, 1, format!("epoch {}", epoch + 1));
    }

    /// Says something beside the bars.
    pub(super) fn note(&self, note: &str) {
        self.0.board.note(&format!("note: {note}"));
    }

    fn epoch(&self, epoch: &Epoch) {
        let validation = epoch
            .validation_loss
            .zip(epoch.validation_accuracy)
            .map(|(loss, accuracy)| format!("; held out: {}", self.figures(loss, accuracy)))
            .unwrap_or_default();
        let line = format!("{}{validation}", self.figures(epoch.loss, epoch.accuracy));
        self.0.epochs.set(epoch.epoch.into(), self.0.total.into(), line.clone());
        self.0.board.line(|| format!("epoch {}/{}: {line}", epoch.epoch, self.0.total));
    }

    /// Draws nothing any more.
    pub(super) fn interrupted(&self) {
        self.0.board.leave();
    }

    /// Leaves the bars as they are.
    pub(super) fn end(&self) {
        self.0.steps.finish();
        self.0.epochs.finish();
        self.0.board.close();
    }
}

impl Observer for Watcher {
    fn started(&self, _: Backend) {}

    fn stepped(&self, progress: &Progress, _: Step) {
        let mut drawn = self.0.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let due = drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW_INTERVAL);
        if due || progress.step == progress.total_steps {
            *drawn = Some(Instant::now());
            let rate = progress.samples_per_second;
            let line = format!("{}, {rate:.0} samples/s", self.figures(progress.loss, progress.accuracy));
            self.0.steps.set(progress.step, progress.total_steps, line);
        }
    }
}
