//! The supervisor, with programs in the place of runners that never become ready.

mod fuzz;

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::*;
use crate::domain::{BackendChoice, ErrorCode, TaskError};
use crate::engine::tests::{config, done, quiet, task};
use crate::engine::{ExitCause, Finished};

/// Generous, since machines of a build farm are slow.
const LIMIT: Duration = Duration::from_secs(60);

enum Told {
    Trouble(Option<String>),
    Exited(ExitCause),
}

struct Ear(mpsc::Sender<Told>);

impl Watcher for Ear {
    fn trouble(&self, trouble: Option<String>) {
        let _ = self.0.send(Told::Trouble(trouble));
    }

    fn runner_exited(&self, cause: ExitCause) {
        let _ = self.0.send(Told::Exited(cause));
    }

    fn runners(&self, _: usize) {}
}

fn shell(script: &str) -> Program {
    Program { path: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()], withheld: Vec::new() }
}

/// An engine whose runners are `script`, and what it tells.
fn engine(script: &str, start: Duration) -> (ProcessEngine, mpsc::Receiver<Told>) {
    let program = shell(script);
    // Analytic, so that nothing starts unless it has to.
    let config = Config { backend: BackendChoice::Only(Backend::Analytic), ..config() };
    let patience = Patience { start, ..Patience::default() };
    let search = Search::new(&config);
    let cards = Arc::new(Cards::new(search.clone(), None));
    let placer = Placer::new(&config, search).unwrap();
    let all = (config, SessionLimits::default(), RunnerConfig::default());
    let engine = ProcessEngine::with_program(all, (placer, cards), (program, patience));
    let engine = engine.unwrap();
    let (sender, told) = mpsc::channel();
    engine.watch(Box::new(Ear(sender)));
    (engine, told)
}

/// Submits a task that trains on the CPU.
fn submit(engine: &ProcessEngine) -> (Arc<Control>, mpsc::Receiver<Finished>) {
    let mut spec = task("job", "mlp", 0, 0..1);
    spec.hyperparameters.backend = Some(BackendChoice::Only(Backend::Cpu));
    let control = quiet();
    let (done, finished) = done();
    engine.submit(Arc::new(spec), Arc::clone(&control), done);
    (control, finished)
}

fn exit(told: &mpsc::Receiver<Told>) -> ExitCause {
    loop {
        if let Told::Exited(cause) = told.recv_timeout(LIMIT).unwrap() {
            return cause;
        }
    }
}

/// Waits until the process whose id is in `file` has ended.
fn wait_for_end_of(file: &Path) {
    let pid = fs::read_to_string(file).unwrap().trim().parse().unwrap();
    let Ok(process) = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) else { return };
    let limit = Timespec::try_from(LIMIT).unwrap();
    assert_eq!(poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)), Ok(1), "{pid} lives");
}

#[test]
fn what_does_not_become_ready_is_killed_with_all_that_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("grandchild");
    let script = format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display());
    let (engine, told) = engine(&script, Duration::from_secs(2));
    let (control, finished) = submit(&engine);
    assert_eq!(exit(&told), ExitCause::Protocol);
    wait_for_end_of(&file);
    // It waits for the next start; told to stop, it has ended.
    control.stop(TaskError::new(ErrorCode::Cancelled, "unwanted"));
    let ending = finished.recv_timeout(LIMIT).unwrap().ending;
    assert_eq!(ending.unwrap_err().code, ErrorCode::Cancelled);
}

#[test]
fn three_ends_before_the_first_word_are_trouble_and_the_waiting_tasks_hear_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mended");
    // Whoever mends it gets another end: that of a program that says nothing.
    let script = format!("test -e {} && exec sleep 1000; echo 'out of luck' >&2; exit 7", file.display());
    let (engine, told) = engine(&script, LIMIT);
    let (_control, finished) = submit(&engine);
    let trouble = loop {
        match told.recv_timeout(LIMIT).unwrap() {
            Told::Trouble(Some(trouble)) => break trouble,
            Told::Trouble(None) => {}
            Told::Exited(cause) => assert_eq!(cause, ExitCause::Exit),
        }
    };
    assert!(trouble.contains("3 times") && trouble.contains("out of luck"), "{trouble}");
    let error = finished.recv_timeout(LIMIT).unwrap().ending.unwrap_err();
    assert_eq!((error.code, error.message), (ErrorCode::Unavailable, trouble));
    // Tried again by itself, without a task that asks for it.
    assert_eq!(exit(&told), ExitCause::Exit);
    fs::write(file, "").unwrap();
}

#[test]
fn starts_that_fail_are_followed_by_longer_and_longer_waits() {
    let (engine, told) = engine("exit 7", LIMIT);
    let (_control, _finished) = submit(&engine);
    let mut ends = Vec::new();
    while ends.len() < 5 {
        assert_eq!(exit(&told), ExitCause::Exit);
        ends.push(std::time::Instant::now());
    }
    let waits: Vec<_> = ends.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // A little less, since the first end may be heard of late.
    for (wait, least) in waits.iter().zip([80, 180, 380, 780]) {
        assert!(*wait >= Duration::from_millis(least), "{waits:?}");
    }
}

#[test]
fn a_runner_that_speaks_another_language_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    // The next one says nothing, so that it does not come to three.
    let file = folder.path().join("spoke");
    let script = format!("test -e {0} && exec sleep 1000; touch {0}; yes no; sleep 1000", file.display());
    let (engine, told) = engine(&script, LIMIT);
    let (_control, finished) = submit(&engine);
    assert_eq!(exit(&told), ExitCause::Protocol);
    drop(engine);
    let error = finished.recv_timeout(LIMIT).unwrap().ending.unwrap_err();
    assert_eq!(error.code, ErrorCode::Interrupted);
}

#[test]
fn what_is_withheld_of_the_environment_does_not_come_to_a_runner() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("environment");
    let comes = |withheld: &[&'static str]| {
        let script = format!("/usr/bin/env > {}", file.display());
        let program = Program { withheld: withheld.to_vec(), ..shell(&script) };
        let process = process::Process::start(&program).unwrap();
        let limit = Timespec::try_from(LIMIT).unwrap();
        assert_eq!(poll(&mut [PollFd::new(&process.exited(), PollFlags::IN)], Some(&limit)), Ok(1));
        fs::read_to_string(&file).unwrap().lines().any(|line| line.starts_with("PATH="))
    };
    assert!(comes(&[]));
    assert!(!comes(&["PATH"]));
}

#[test]
fn what_a_task_is_travels_without_loss() {
    let mut spec = task("job", "mlp", 2, 100..200);
    spec.hyperparameters.learning_rate = Some(0.1 + 0.2);
    spec.hyperparameters.seed = Some(u64::MAX - 1);
    spec.hyperparameters.given = ["learning_rate", "seed"].into();
    spec.initial_weights = vec![7; 100].into();
    let submit = messages::Submit::new(3, &spec, 2, Some("00-1-2-01")).unwrap();
    let mut frames = frames::Frames::default();
    let order = messages::ToRunner { order: Some(messages::Order::Submit(submit)) };
    frames.push(&frames::encode(&order));
    let came: messages::ToRunner = frames.next().unwrap().unwrap();
    let Some(messages::Order::Submit(submit)) = came.order else { panic!("{came:?}") };
    assert_eq!((submit.number, submit.loss), (3, 2));
    assert_eq!(submit.traceparent.as_deref(), Some("00-1-2-01"));
    assert_eq!(*submit.task().unwrap(), TaskSpec { timeout: None, lease: None, ..spec });
}
