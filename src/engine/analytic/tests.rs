//! The curves and their simulated time.

use std::sync::mpsc;
use std::time::Instant;

use super::super::Observer;
use super::super::tests::{Recorder, task, wait_for};
use super::*;
use crate::domain::{ErrorCode, TaskError};

const NO_TIME: RangeInclusive<Duration> = Duration::ZERO..=Duration::ZERO;

fn engine(delay: RangeInclusive<Duration>) -> Analytic {
    Analytic::new(AnalyticProfile::Engine, delay)
}

fn run(analytic: &Analytic, task: &TaskSpec) -> (Arc<Control>, mpsc::Receiver<Finished>) {
    let (sender, receiver) = mpsc::channel();
    let control = Arc::new(Control::new(Recorder::default()));
    let done = Done::new(move |finished| {
        let _ = sender.send(finished);
    });
    analytic.start(task, Arc::clone(&control), done, Vec::new());
    (control, receiver)
}

#[test]
fn without_delay_a_task_has_ended_when_the_call_returns() {
    let analytic = engine(NO_TIME);
    let (control, finished) = run(&analytic, &task("job", "test", 3, 100..200));
    let result = finished.try_recv().unwrap().ending.unwrap();
    assert_eq!((result.steps, result.samples), (100, 3200));
    assert_eq!((result.backend, result.device.as_str()), (Backend::Analytic, "analytic"));
    assert!(result.weights.is_empty() && result.validation.is_none());
    assert!(control.progress().simulated);
    assert_eq!(control.progress().step, 100);
}

#[test]
fn the_same_task_gives_the_same_figures_and_another_slice_others() {
    let figures = |task: &TaskSpec| {
        let (_, finished) = run(&engine(NO_TIME), task);
        finished.try_recv().unwrap().ending.unwrap().train
    };
    let first = figures(&task("job", "neural_network", 3, 0..100));
    assert_eq!(first, figures(&task("job", "neural_network", 3, 0..100)));
    assert_ne!(first.loss, figures(&task("job", "neural_network", 3, 100..200)).loss);
    assert_ne!(first.loss, figures(&task("job2", "neural_network", 3, 0..100)).loss);
}

#[test]
fn twenty_thousand_tasks_without_delay_are_a_matter_of_a_second() {
    let analytic = engine(NO_TIME);
    let task = task("job", "xgboost", 1, 0..100);
    let began = Instant::now();
    for _ in 0..20_000 {
        let (_, finished) = run(&analytic, &task);
        assert!(finished.try_recv().unwrap().ending.is_ok());
    }
    // A tenth of the rate that a release build has to reach, since this one is not optimised.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn a_wait_reports_progress_and_ends() {
    let delay = Duration::from_millis(40)..=Duration::from_millis(60);
    let analytic = engine(delay);
    let recorder = Recorder::default();
    let steps = recorder.steps.clone();
    let control = Arc::new(Control::new(recorder));
    let (sender, finished) = mpsc::channel();
    let began = Instant::now();
    let done = Done::new(move |finished| sender.send(finished).unwrap());
    analytic.start(&task("job", "cnn", 1, 0..10), control, done, vec!["a note".to_owned()]);
    let end = wait_for(&finished);
    assert!(began.elapsed() >= Duration::from_millis(40));
    assert_eq!(end.notes, ["a note"]);
    let steps = steps.lock().unwrap();
    assert_eq!(steps.iter().map(|(progress, _)| progress.step).collect::<Vec<_>>(), [2, 5, 7, 10]);
    assert_eq!(steps.iter().map(|(_, step)| step.samples).sum::<u64>(), end.ending.unwrap().samples);
}

#[test]
fn a_thousand_waiting_tasks_have_one_thread_and_each_stops_at_once() {
    let hour = Duration::from_secs(3600);
    let analytic = engine(hour..=hour);
    let task = task("job", "cnn", 1, 0..10);
    let waiting: Vec<_> = (0..1000).map(|_| run(&analytic, &task)).collect();
    // Tests that run at the same time have threads of their own, but not hundreds.
    assert!(threads().is_none_or(|count| count < 200), "{:?}", threads());
    for (control, finished) in &waiting[..500] {
        control.stop(TaskError::new(ErrorCode::Cancelled, "unwanted"));
        let end = finished.try_recv().expect("ended inside of stop");
        assert_eq!(end.ending.unwrap_err().code, ErrorCode::Cancelled);
    }
    drop(analytic);
    for (_, finished) in &waiting[500..] {
        assert_eq!(wait_for(finished).ending.unwrap_err().code, ErrorCode::Interrupted);
    }
}

struct Broken;

impl Observer for Broken {
    fn started(&self, _: Backend) {}
    fn stepped(&self, _: &Progress, _: Step) {
        panic!("a broken observer");
    }
}

#[test]
fn a_panic_ends_its_task_alone() {
    let short = Duration::from_millis(4);
    let analytic = engine(short..=short);
    let broken = |control: Control, done| {
        analytic.start(&task("job", "cnn", 1, 0..10), Arc::new(control), done, Vec::new());
    };
    let (sender, finished) = mpsc::channel();
    broken(Control::new(Broken), Done::new(move |finished| sender.send(finished).unwrap()));
    let error = wait_for(&finished).ending.unwrap_err();
    assert_eq!(error.code, ErrorCode::Panic);
    assert!(error.message.contains("a broken observer"), "{error}");
    let (sender, called) = mpsc::channel();
    let listener = Done::new(move |_| {
        sender.send(()).unwrap();
        panic!("a broken listener");
    });
    broken(Control::new(Recorder::default()), listener);
    called.recv_timeout(Duration::from_secs(60)).unwrap();
    let (_, finished) = run(&analytic, &task("other", "cnn", 1, 0..10));
    assert!(wait_for(&finished).ending.is_ok());
}

#[test]
fn a_task_stopped_before_its_start_never_waits() {
    let hour = Duration::from_secs(3600);
    let analytic = engine(hour..=hour);
    let control = Arc::new(Control::new(Recorder::default()));
    control.stop(TaskError::new(ErrorCode::TimedOut, "late"));
    let (sender, finished) = mpsc::channel();
    let done = Done::new(move |finished| sender.send(finished).unwrap());
    analytic.start(&task("job", "cnn", 1, 0..10), control, done, Vec::new());
    assert_eq!(finished.try_recv().unwrap().ending.unwrap_err().code, ErrorCode::TimedOut);
}

/// Threads of this process, where the system tells.
fn threads() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count())
}
