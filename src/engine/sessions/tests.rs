//! Queues, ends and evictions of sessions.

mod gpus;

use std::ops::Range;
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

use super::*;
use crate::domain::{Metrics, TaskResult};
use crate::engine::device::{ComputeDevice, Devices};
use crate::engine::search::Search;
use crate::engine::tests::{config, done, quiet, stopped_after, task, wait_for};
use crate::engine::trainer::{ModelEntry, Slice, Trained, Trainer};

/// Does what the epoch says, so that tests can lead it.
struct Puppet {
    steps: u64,
}

/// Waits until it is stopped.
const STUCK: u32 = 1;
/// Panics.
const PANIC: u32 = 2;
/// Panics as wgpu does when its device is gone.
const DEVICE_PANIC: u32 = 4;
/// Panics as CubeCL does when a GPU has no memory left.
const NO_MEMORY: u32 = 5;
/// Goes on.
const FINE: u32 = 3;

impl Trainer for Puppet {
    fn mark(&mut self) {}
    fn roll_back(&mut self) {}
    fn batches_per_epoch(&self) -> u32 {
        1
    }
    fn train(&mut self, slice: &Slice, control: &Control) -> Result<Trained, TaskError> {
        match slice.epoch {
            STUCK => {
                let (sender, stopped) = mpsc::channel();
                control.on_stop(move || sender.send(()).unwrap());
                stopped.recv().unwrap();
                control.check()?;
            }
            PANIC => panic!("a broken {}", "puppet"),
            NO_MEMORY => {
                panic!("An IO error happened\nCaused by:\n  out of device memory allocating 4096 bytes\n")
            }
            DEVICE_PANIC => panic!("wgpu error: Validation Error: Parent device is lost"),
            _ => {}
        }
        self.steps += 1;
        let metrics = Metrics { loss: 0.0, accuracy: 0.0 };
        Ok(Trained { metrics, samples: 0, steps: self.steps })
    }
    fn evaluate(&self, _: &[u32], _: &Control) -> Result<Metrics, TaskError> {
        Ok(Metrics { loss: 0.0, accuracy: 0.0 })
    }
    fn predict(&self) -> Vec<f32> {
        Vec::new()
    }
    fn weights(&self) -> Result<Vec<u8>, TaskError> {
        Ok(Vec::new())
    }
    fn load_weights(&mut self, weights: &[u8]) -> Result<(), TaskError> {
        self.steps = weights[0].into();
        Ok(())
    }
    fn state(&self) -> Result<Vec<u8>, TaskError> {
        Ok(self.steps.to_le_bytes().to_vec())
    }
    fn restore(&mut self, state: &[u8]) -> Result<(), TaskError> {
        self.steps = u64::from_le_bytes(state.try_into().unwrap());
        Ok(())
    }
    fn remedy(&self) -> String {
        String::new()
    }

    fn memory_bytes(&self) -> u64 {
        1 << 20
    }
}

const PUPPET: ModelEntry = ModelEntry {
    name: "puppet",
    aliases: &[],
    weights_file_name: "puppet",
    listens_to: &[],
    features: crate::data::FeatureForm::Standardised,
    trains_on: crate::engine::TrainsOn::EveryDevice,
    build: |_| Ok(Box::new(Puppet { steps: 0 })),
};

static PUPPETS: ModelEntry = PUPPET;

fn sessions(limits: SessionLimits) -> Sessions {
    Sessions::new(limits, config().data, None, no_cards())
}

fn no_cards() -> Arc<Cards> {
    Arc::new(Cards::new(Search::known(Devices::not_looked_for()), None))
}

fn submit(sessions: &Sessions, task: TaskSpec, control: &Arc<Control>) -> Receiver<Finished> {
    let plan = SessionPlan {
        entry: &PUPPETS,
        dataset_path: task.dataset_path.clone(),
        hyperparameters: task.hyperparameters.clone(),
        seed: 1,
        device: ComputeDevice::cpu(),
    };
    submit_plan(sessions, plan, task, control)
}

fn submit_plan(
    sessions: &Sessions,
    plan: SessionPlan,
    task: TaskSpec,
    control: &Arc<Control>,
) -> Receiver<Finished> {
    let (done, finished) = done();
    sessions.submit(plan, Submission { task: Arc::new(task), control: Arc::clone(control), done });
    finished
}

fn run(sessions: &Sessions, job: &str, epoch: u32) -> Finished {
    wait_for(&submit(sessions, puppet(job, epoch, 0..1), &quiet()))
}

fn puppet(job: &str, epoch: u32, batches: Range<u32>) -> TaskSpec {
    task(job, "puppet", epoch, batches)
}

fn steps(finished: Finished) -> u64 {
    let result: TaskResult = finished.ending.unwrap();
    result.steps
}

fn stop(control: &Control) {
    control.stop(TaskError::new(ErrorCode::Cancelled, "unwanted"));
}

#[test]
fn tasks_of_a_job_run_in_order_and_a_stopped_one_ends_at_once_wherever_it_is() {
    let sessions = sessions(SessionLimits::default());
    let (first, second, third) = (quiet(), quiet(), quiet());
    let running = submit(&sessions, puppet("job", STUCK, 0..1), &first);
    let queued = submit(&sessions, puppet("job", FINE, 1..2), &second);
    let last = submit(&sessions, puppet("job", FINE, 2..3), &third);
    stop(&second);
    let ended = queued.try_recv().expect("ended inside of stop, before the task in front of it");
    assert_eq!(ended.ending.unwrap_err().code, ErrorCode::Cancelled);
    assert!(last.try_recv().is_err());
    stop(&first);
    assert_eq!(wait_for(&running).ending.unwrap_err().code, ErrorCode::Cancelled);
    assert_eq!(steps(wait_for(&last)), 1);
}

#[test]
fn a_task_stopped_before_it_is_submitted_never_starts() {
    let sessions = sessions(SessionLimits::default());
    let control = quiet();
    stop(&control);
    let finished = submit(&sessions, puppet("job", PANIC, 0..1), &control);
    assert_eq!(wait_for(&finished).ending.unwrap_err().code, ErrorCode::Cancelled);
}

#[test]
fn a_panic_fails_its_task_alone_and_the_session_starts_again() {
    let sessions = sessions(SessionLimits::default());
    assert_eq!(steps(run(&sessions, "job", FINE)), 1);
    assert_eq!(steps(run(&sessions, "job", FINE)), 2);
    let error = run(&sessions, "job", PANIC).ending.unwrap_err();
    assert_eq!(error.code, ErrorCode::Panic);
    assert_eq!(error.message, "the trainer panicked: a broken puppet");
    assert!(sessions.warm_jobs().is_empty());
    let again = run(&sessions, "job", FINE);
    assert!(again.notes[0].contains("panic"), "{:?}", again.notes);
    assert_eq!(steps(again), 1);
    assert!(run(&sessions, "job", FINE).notes.is_empty());
}

#[test]
fn a_listener_that_panics_takes_no_other_task_with_it() {
    let sessions = sessions(SessionLimits::default());
    let task = puppet("job", FINE, 0..1);
    let plan = SessionPlan {
        entry: &PUPPETS,
        dataset_path: task.dataset_path.clone(),
        hyperparameters: task.hyperparameters.clone(),
        seed: 1,
        device: ComputeDevice::cpu(),
    };
    let done = Done::new(|_| panic!("a broken listener"));
    sessions.submit(plan, Submission { task: Arc::new(task), control: quiet(), done });
    assert_eq!(steps(run(&sessions, "job", FINE)), 2);
}

#[test]
fn a_failed_load_neither_poisons_nor_evicts() {
    let folder = tempfile::tempdir().unwrap();
    let limits = SessionLimits { idle: 2, ..SessionLimits::default() };
    let sessions = Sessions::new(limits, data::Config::new(folder.path()), None, no_cards());
    run(&sessions, "good", FINE);
    let late = || {
        let mut task = puppet("late", FINE, 0..1);
        task.dataset_path = "late.csv".to_owned();
        task
    };
    for other in ["a", "b", "c", "late"] {
        let mut task = late();
        task.identity.job_id = JobId::parse(other).unwrap();
        let error = wait_for(&submit(&sessions, task, &quiet())).ending.unwrap_err();
        assert_eq!(error.code, ErrorCode::NotFound);
    }
    assert_eq!(sessions.0.lock().len(), 1, "what could not be loaded keeps no place");
    assert_eq!(steps(run(&sessions, "good", FINE)), 2);
    let rows: String = (0..20).map(|i| format!("{i},{}\n", if i < 10 { "x" } else { "y" })).collect();
    std::fs::write(folder.path().join("late.csv"), format!("a,b\n{rows}")).unwrap();
    assert_eq!(steps(wait_for(&submit(&sessions, late(), &quiet()))), 1);
}

#[test]
fn what_differs_in_a_hyperparameter_has_a_session_of_its_own() {
    let sessions = sessions(SessionLimits::default());
    assert_eq!(steps(run(&sessions, "job", FINE)), 1);
    let mut other = puppet("job", FINE, 0..1);
    other.hyperparameters.learning_rate = Some(0.5);
    assert_eq!(steps(wait_for(&submit(&sessions, other, &quiet()))), 1);
    let mut wish = puppet("job", FINE, 0..1);
    wish.hyperparameters.backend = Some(crate::domain::BackendChoice::Only(Backend::Cpu));
    assert_eq!(steps(wait_for(&submit(&sessions, wish, &quiet()))), 2);
    assert_eq!(sessions.warm_jobs().len(), 1);
}

#[test]
fn a_forgotten_job_starts_afresh_and_what_it_had_queued_still_ends() {
    let sessions = sessions(SessionLimits::default());
    let job = JobId::parse("job").unwrap();
    run(&sessions, "job", FINE);
    run(&sessions, "other", FINE);
    let control = quiet();
    let running = submit(&sessions, puppet("job", STUCK, 0..1), &control);
    let queued = submit(&sessions, puppet("job", FINE, 1..2), &quiet());
    sessions.forget(&job);
    assert_eq!(sessions.warm_jobs(), [JobId::parse("other").unwrap()]);
    stop(&control);
    assert!(wait_for(&running).ending.is_err());
    assert_eq!(steps(wait_for(&queued)), 2);
    assert_eq!(steps(run(&sessions, "job", FINE)), 1);
}

#[test]
fn idle_sessions_leave_least_recently_used_first() {
    let by_count = SessionLimits { idle: 2, ..SessionLimits::default() };
    // A puppet and iris take a little more than 1 MiB.
    let by_memory = SessionLimits { idle: 100, memory_bytes: 5 << 19, ..SessionLimits::default() };
    for limits in [by_count, by_memory] {
        let sessions = sessions(limits);
        let control = quiet();
        run(&sessions, "first", FINE);
        let busy = submit(&sessions, puppet("first", STUCK, 0..1), &control);
        for job in ["a", "b", "a", "c"] {
            run(&sessions, job, FINE);
        }
        let warm: Vec<String> = sessions.warm_jobs().iter().map(ToString::to_string).collect();
        match limits.idle {
            2 => assert_eq!(warm, ["a", "c", "first"]),
            // The busy one stays, and the one used last.
            _ => assert_eq!(warm, ["c", "first"]),
        }
        stop(&control);
        wait_for(&busy);
        let again = run(&sessions, "b", FINE);
        assert!(again.notes[0].contains("idle") && again.notes[0].contains("first weights"), "{again:?}");
        assert_eq!(steps(again), 1);
        assert!(run(&sessions, "b", FINE).notes.is_empty());
    }
}

#[test]
fn a_session_leaves_when_it_was_idle_for_long_whatever_the_others_do() {
    let sessions =
        sessions(SessionLimits { idle_time: Duration::from_millis(20), ..SessionLimits::default() });
    run(&sessions, "job", FINE);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !sessions.0.lock().is_empty() {
        assert!(Instant::now() < deadline, "it is still there");
        std::thread::yield_now();
    }
    let again = run(&sessions, "job", FINE);
    assert!(again.notes[0].contains("idle"), "{again:?}");
    assert_eq!(steps(again), 1);
}

#[test]
fn weights_of_a_task_replace_those_of_a_warm_session() {
    let sessions = sessions(SessionLimits::default());
    run(&sessions, "job", FINE);
    let mut given = puppet("job", FINE, 1..2);
    given.initial_weights = bytes::Bytes::from_static(&[40]);
    assert_eq!(steps(wait_for(&submit(&sessions, given, &quiet()))), 41);
    assert_eq!(steps(run(&sessions, "job", FINE)), 42);
}

#[test]
fn a_closed_engine_ends_what_waits() {
    let sessions = sessions(SessionLimits::default());
    let control = quiet();
    let running = submit(&sessions, puppet("job", STUCK, 0..1), &control);
    let queued = submit(&sessions, puppet("job", FINE, 1..2), &quiet());
    // Either may be the one that waits when the thread has not begun yet.
    drop(sessions);
    stop(&control);
    assert!(wait_for(&running).ending.is_err());
    assert_eq!(wait_for(&queued).ending.unwrap_err().code, ErrorCode::Interrupted);
}

#[test]
fn stopping_in_the_middle_of_a_slice_takes_effect_at_the_next_batch() {
    let engine_plan = |task: &TaskSpec| SessionPlan {
        entry: ModelEntry::of(&task.model).unwrap(),
        dataset_path: task.dataset_path.clone(),
        hyperparameters: task.hyperparameters.clone(),
        seed: 1,
        device: ComputeDevice::cpu(),
    };
    let sessions = sessions(SessionLimits::default());
    let task = task("job", "mlp", 0, 0..1_000_000);
    let (done, finished) = done();
    let control = stopped_after(7);
    let plan = engine_plan(&task);
    sessions.submit(plan, Submission { task: Arc::new(task), control: Arc::clone(&control), done });
    assert_eq!(wait_for(&finished).ending.unwrap_err().code, ErrorCode::Cancelled);
    assert_eq!(control.progress().step, 7);
}

/// Checkpoints are found by this. Where a change of the code changes it, those that are on disk are of no use.
#[test]
fn what_tells_sessions_apart_is_what_was_recorded() {
    let raw = [("lr", "0.5"), ("random_state", "7"), ("backend", "cpu")];
    let raw = raw.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let (hyperparameters, _) = Hyperparameters::parse(&raw, crate::domain::Strictness::Reject).unwrap();
    let key = Key {
        job: JobId::parse("job-1").unwrap(),
        model: "neural_network",
        dataset_path: "a\nmodel=b".to_owned(),
        backend: Backend::Cpu,
        hyperparameters: Hyperparameters { backend: None, ..hyperparameters },
    };
    let recorded = "job=job-1\nmodel=neural_network\ndataset=\"a\\nmodel=b\"\nbackend=cpu\nlearning_rate=0.5\nseed=7\n\
                    given backend\ngiven learning_rate\ngiven seed\n";
    assert_eq!(key.description(), recorded);
    assert_eq!(key.session_name(), session_name(recorded));
}
