//! The engine from outside, on real data, and what tests of its parts share.

mod checkpoints;
mod fuzz;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;

use super::device::{Adapter, ComputeDevice, Devices, Handle};
use super::search::Search;
use super::*;
use crate::data;
use crate::domain::{
    BackendChoice, DevicePolicy, HiddenGpus, Hyperparameters, Loss, ModelType, Optimizer, Problem, Progress,
    TaskId, TaskIdentity,
};

/// Keeps what it hears; stops its task after a number of steps where that is set.
#[derive(Default)]
pub(super) struct Recorder {
    pub(super) steps: Arc<Mutex<Vec<(Progress, Step)>>>,
    pub(super) stop_after: Option<usize>,
    pub(super) control: Arc<OnceLock<Weak<Control>>>,
}

impl Observer for Recorder {
    fn started(&self, _: Backend) {}

    fn stepped(&self, progress: &Progress, step: Step) {
        let mut steps = self.steps.lock().unwrap();
        steps.push((*progress, step));
        if self.stop_after == Some(steps.len())
            && let Some(control) = self.control.get().and_then(Weak::upgrade)
        {
            control.stop(TaskError::new(ErrorCode::Cancelled, "unwanted"));
        }
    }
}

/// A control that is stopped after `steps` steps.
pub(super) fn stopped_after(steps: usize) -> Arc<Control> {
    let recorder = Recorder { stop_after: Some(steps), ..Recorder::default() };
    let cell = Arc::clone(&recorder.control);
    let control = Arc::new(Control::new(recorder));
    cell.set(Arc::downgrade(&control)).unwrap();
    control
}

pub(super) fn quiet() -> Arc<Control> {
    Arc::new(Control::new(Recorder::default()))
}

pub(super) fn config() -> Config {
    Config {
        backend: BackendChoice::Only(Backend::Cpu),
        device_policy: DevicePolicy::Prefer,
        analytic_profile: AnalyticProfile::Engine,
        analytic_delay: Duration::ZERO..=Duration::ZERO,
        unsupported_models: UnsupportedModels::Reject,
        allow_software_adapter: false,
        gpu: None,
        hidden_gpus: HiddenGpus::default(),
        state_dir: None,
        models_to: None,
        data: data::Config::new("data"),
    }
}

pub(super) fn task(job: &str, model: &str, epoch: u32, batches: Range<u32>) -> TaskSpec {
    TaskSpec {
        identity: TaskIdentity {
            task_id: TaskId::parse(&format!("{job}-{epoch}-{}", batches.start)).unwrap(),
            job_id: JobId::parse(job).unwrap(),
            attempt: 0,
        },
        model: ModelType::parse(model).unwrap(),
        dataset_path: "builtin:iris".to_owned(),
        hyperparameters: Hyperparameters::default(),
        notes: Vec::new(),
        epoch,
        batches,
        total_epochs: None,
        timeout: None,
        lease: None,
        initial_weights: Bytes::new(),
        received: Bytes::new(),
    }
}

pub(super) fn wait_for(finished: &Receiver<Finished>) -> Finished {
    finished.recv_timeout(Duration::from_secs(120)).expect("the task ends")
}

/// A done whose end arrives at the receiver.
pub(super) fn done() -> (Done, Receiver<Finished>) {
    let (sender, receiver) = mpsc::channel();
    let done = Done::new(move |finished| {
        let _ = sender.send(finished);
    });
    (done, receiver)
}

fn engine(config: Config) -> TrainingEngine {
    TrainingEngine::on(config, Search::known(Devices::not_looked_for()), SessionLimits::default()).unwrap()
}

fn submit(engine: &TrainingEngine, task: TaskSpec) -> Receiver<Finished> {
    let (done, finished) = done();
    engine.submit(Arc::new(task), quiet(), done);
    finished
}

fn result(engine: &TrainingEngine, task: TaskSpec) -> TaskResult {
    wait_for(&submit(engine, task)).ending.unwrap()
}

fn seeded(job: &str, batches: Range<u32>) -> TaskSpec {
    let mut task = task(job, "neural_network", 0, batches);
    task.hyperparameters.seed = Some(11);
    task
}

#[test]
fn every_built_in_set_is_learned() {
    for (path, epochs, least) in [
        ("builtin:digits", 12, 0.95),
        ("builtin:iris", 60, 0.85),
        ("builtin:wine", 30, 0.9),
        ("builtin:breast_cancer", 15, 0.92),
    ] {
        let model = ModelType::parse("mlp").unwrap();
        let hyperparameters = Hyperparameters::default();
        let mut training =
            LocalTraining::open(&model, path, &hyperparameters, &cpu_only(), &|| Ok(())).unwrap();
        let results: Vec<TaskResult> =
            (1..=epochs).map(|epoch| training.run_epoch(epoch, &quiet()).unwrap()).collect();
        let (first, last) = (&results[0], &results[results.len() - 1]);
        let validation = last.validation.unwrap();
        assert!(last.train.loss < 0.5 * first.train.loss, "{path}: {:?} {:?}", first.train, last.train);
        assert!(validation.accuracy >= least, "{path}: {validation:?}");
        assert_eq!(last.steps, u64::from(training.batches_per_epoch()));
        assert_eq!(last.samples as usize, training.dataset().train.len());

        let predictions = training.predictions();
        assert_eq!(predictions.rows.len(), training.dataset().validation.len());
        let right = predictions.targets.iter().zip(&predictions.predictions).filter(|(t, p)| t == p).count();
        assert!((right as f64 / predictions.rows.len() as f64 - validation.accuracy).abs() < 1e-9);
        let sums = predictions.probabilities.iter().map(|row| row.iter().sum::<f32>());
        assert!(sums.into_iter().all(|sum| (sum - 1.0).abs() < 1e-5));
        let labels: BTreeSet<_> = predictions.labels.iter().collect();
        assert!(predictions.predictions.iter().all(|label| labels.contains(label)));
    }
}

/// As [`config`], without a look at the graphics drivers of the machine.
fn cpu_only() -> Config {
    Config { device_policy: DevicePolicy::Cpu, ..config() }
}

#[test]
fn a_number_is_learned_and_its_error_is_in_units_of_the_target() {
    let folder = tempfile::tempdir().unwrap();
    let rows = (0..400).map(|i| {
        let (a, b) = (f64::from(i % 20), f64::from(i / 20));
        format!("{a},{b},{}\n", 1000.0 + 30.0 * a - 12.5 * b)
    });
    let text: String = std::iter::once("a,b,price\n".to_owned()).chain(rows).collect();
    std::fs::write(folder.path().join("prices.csv"), text).unwrap();
    let config = Config { data: data::Config::new(folder.path()), ..cpu_only() };
    for loss in [None, Some(Loss::MeanAbsoluteError)] {
        let hyperparameters = Hyperparameters {
            problem: Problem::Regression,
            learning_rate: Some(0.01),
            loss,
            ..Hyperparameters::default()
        };
        let model = ModelType::parse("neural_network").unwrap();
        let mut training =
            LocalTraining::open(&model, "prices.csv", &hyperparameters, &config, &|| Ok(())).unwrap();
        let results: Vec<_> = (0..60).map(|epoch| training.run_epoch(epoch, &quiet()).unwrap()).collect();
        let last = results.last().unwrap().validation.unwrap();
        // The target's own spread is about 187.
        assert!(last.accuracy < 15.0, "{last:?}");
        assert!(last.loss < 0.1, "{last:?}");
        let predictions = training.predictions();
        assert!(predictions.labels.is_empty() && predictions.probabilities.is_empty());
        let number = |text: &String| text.parse::<f64>().unwrap();
        let squares = predictions.targets.iter().zip(&predictions.predictions);
        let mean = squares.map(|(t, p)| (number(t) - number(p)).powi(2)).sum::<f64>()
            / predictions.rows.len() as f64;
        assert!((mean.sqrt() - last.accuracy).abs() < 1e-2, "{} {}", mean.sqrt(), last.accuracy);
    }
}

#[test]
fn two_tasks_of_fifty_batches_equal_one_of_a_hundred_bit_for_bit() {
    for optimizer in [Optimizer::Sgd, Optimizer::Adam, Optimizer::AdamW, Optimizer::RmsProp] {
        let engine = engine(config());
        let with = |job: &str, batches| {
            let mut task = seeded(job, batches);
            task.hyperparameters.optimizer = optimizer;
            task.hyperparameters.momentum = 0.9;
            task
        };
        let whole = result(&engine, with("whole", 0..100));
        let first = result(&engine, with("halves", 0..50));
        let second = result(&engine, with("halves", 50..100));
        assert_ne!(first.weights, second.weights);
        assert_eq!(second.weights, whole.weights, "{optimizer:?}");
    }
}

#[test]
fn sessions_at_the_same_time_do_not_touch_each_other() {
    let alone = result(&engine(config()), seeded("alone", 0..200)).weights;
    let engine = engine(config());
    let together: Vec<_> = (0..4).map(|job| submit(&engine, seeded(&format!("job-{job}"), 0..200))).collect();
    for finished in together {
        assert_eq!(wait_for(&finished).ending.unwrap().weights, alone);
    }
    assert_eq!(engine.warm_jobs().len(), 4);
    let other = result(&engine, task("another", "neural_network", 0, 0..200));
    assert_ne!(other.weights, alone, "without a seed the job decides");
}

#[test]
fn the_held_out_sample_costs_a_fifth_and_all_rows_end_the_epoch() {
    let engine = engine(config());
    let mut small = seeded("job", 0..1);
    small.hyperparameters.batch_size = 10;
    let sampled = result(&engine, small.clone()).validation.unwrap();
    // 0.6 * 10 rows: accuracy is a multiple of a sixth.
    assert!((sampled.accuracy * 6.0 - (sampled.accuracy * 6.0).round()).abs() < 1e-9, "{sampled:?}");
    small.batches = 999..1000;
    let whole = result(&engine, small).validation.unwrap();
    assert!((whole.accuracy * 30.0 - (whole.accuracy * 30.0).round()).abs() < 1e-9, "{whole:?}");
    let mut none = seeded("none", 0..10);
    none.hyperparameters.validation_split = 0.0;
    assert_eq!(result(&engine, none).validation, None);
}

#[test]
fn progress_is_told_after_each_batch() {
    let recorder = Recorder::default();
    let steps = Arc::clone(&recorder.steps);
    let (done, finished) = done();
    let engine = engine(config());
    engine.submit(Arc::new(seeded("job", 3..23)), Arc::new(Control::new(recorder)), done);
    let result = wait_for(&finished).ending.unwrap();
    let steps = steps.lock().unwrap();
    assert_eq!(steps.iter().map(|(p, _)| p.step).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    assert_eq!(steps.iter().map(|(_, step)| step.samples).sum::<u64>(), result.samples);
    let last = steps.last().unwrap().0;
    assert_eq!((last.loss, last.accuracy), (result.train.loss, result.train.accuracy));
    assert_eq!((last.total_steps, last.simulated), (20, false));
    assert_eq!((result.backend, result.device.as_str()), (Backend::Cpu, "cpu"));
}

#[test]
fn a_task_may_start_from_the_weights_of_another() {
    let engine = engine(config());
    let trained = result(&engine, seeded("first", 0..300));
    let mut next = task("second", "neural_network", 0, 0..1);
    next.hyperparameters.seed = Some(11);
    next.hyperparameters.learning_rate = Some(1e-12);
    next.initial_weights = trained.weights.clone();
    let taken = result(&engine, next.clone());
    assert!(taken.train.loss < 0.5, "{:?}", taken.train);
    next.identity.job_id = JobId::parse("third").unwrap();
    next.hyperparameters.hidden_layers = vec![7];
    let error = wait_for(&submit(&engine, next)).ending.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert!(error.message.starts_with("model_weights: "), "{error}");
}

#[test]
fn what_is_wrong_with_a_task_is_named_and_harms_nothing() {
    let engine = engine(config());
    let mut loss = seeded("job", 0..10);
    loss.hyperparameters.loss = Some(Loss::MeanSquaredError);
    let mut missing = seeded("job", 0..10);
    missing.dataset_path = "nothing-there.csv".to_owned();
    let mut huge = seeded("job", 0..10);
    huge.hyperparameters.hidden_layers = vec![16_384; 16];
    let gpu = {
        let mut task = seeded("job", 0..10);
        task.hyperparameters.backend = Some(BackendChoice::Only(Backend::Wgpu));
        task
    };
    for (task, code, said) in [
        (loss, ErrorCode::InvalidArgument, "loss_function"),
        (missing, ErrorCode::NotFound, "nothing-there.csv"),
        (huge, ErrorCode::ResourceExhausted, "hidden_layers"),
        (gpu, ErrorCode::InvalidArgument, "hyperparameters.backend"),
        (task("job", "bert_base", 0, 0..10), ErrorCode::InvalidArgument, "neural_network (mlp, dnn)"),
    ] {
        let error = wait_for(&submit(&engine, task)).ending.unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(said), "{error}");
    }
    assert_eq!(result(&engine, seeded("job", 0..10)).steps, 10);
}

#[test]
fn a_model_too_large_for_a_message_stays_here() {
    let mut wide = seeded("job", 0..1);
    wide.hyperparameters.hidden_layers = vec![1000, 1000];
    let finished = wait_for(&submit(&engine(config()), wide));
    assert!(finished.ending.unwrap().weights.is_empty());
    assert!(finished.notes.iter().any(|note| note.contains("too large")), "{:?}", finished.notes);
}

#[test]
fn what_cannot_be_trained_is_simulated_where_that_is_wanted() {
    let engine = engine(Config { unsupported_models: UnsupportedModels::Simulate, ..config() });
    let finished = wait_for(&submit(&engine, task("job", "resnet50", 1, 0..100)));
    assert!(finished.notes[0].contains("resnet50"), "{:?}", finished.notes);
    assert_eq!(finished.ending.unwrap().backend, Backend::Analytic);
    let mut asked = task("job", "neural_network", 1, 0..100);
    asked.hyperparameters.backend = Some(BackendChoice::Only(Backend::Analytic));
    asked.dataset_path = "does-not-exist".to_owned();
    let finished = wait_for(&submit(&engine, asked));
    assert!(finished.notes.is_empty());
    assert_eq!(finished.ending.unwrap().device, "analytic");
}

#[test]
fn a_local_training_is_never_simulated() {
    let model = ModelType::parse("mlp").unwrap();
    let config = Config { backend: BackendChoice::Auto, ..cpu_only() };
    let open = |hyperparameters: &Hyperparameters| {
        LocalTraining::open(&model, "builtin:iris", hyperparameters, &config, &|| Ok(()))
    };
    assert_eq!(open(&Hyperparameters::default()).unwrap().backend(), Backend::Cpu);
    let analytic = BackendChoice::Only(Backend::Analytic);
    let error = open(&Hyperparameters { backend: Some(analytic), ..Hyperparameters::default() }).unwrap_err();
    assert!(error.to_string().contains("auto, cpu or wgpu"), "{error}");
    let stop = || Err(TaskError::new(ErrorCode::Cancelled, "unwanted"));
    let stopped = LocalTraining::open(&model, "builtin:digits", &Hyperparameters::default(), &config, &stop);
    assert_eq!(TaskError::from(stopped.unwrap_err()).code, ErrorCode::Cancelled);
}

#[test]
fn probing_a_machine_for_adapters_ends() {
    let search = Search::new(&config());
    assert!(!search.wait().found.is_empty());
    assert_eq!(search.cpu().name, "cpu");
}
