//! Tasks in processes of their own: what ends one of these costs one task attempt, and nothing else.

mod support;

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;
use support::middleman::{Deed, Middleman};
use support::*;
use tensorfleet_worker::dev::{Contract, EpochSummary, JobStatus};
use tensorfleet_worker::domain::{
    Backend, BackendChoice, DevicePolicy, HiddenGpus, Hyperparameters, JobId, ModelType, Progress, TaskId,
    TaskIdentity, TaskSpec,
};
use tensorfleet_worker::engine::{
    self, AnalyticProfile, Control, Done, Engine, Observer, ProcessEngine, RunnerConfig, SessionLimits, Step,
    TrainingEngine, UnsupportedModels,
};
use tensorfleet_worker::wire::pb;

/// Settings of a worker that trains on the CPU and says which runner has which job.
const CPU: [(&str, &str); 2] = [("TRAINING_BACKEND", "cpu"), ("LOG_LEVEL", "debug")];

fn with<'a>(settings: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    CPU.into_iter().chain(settings.iter().copied()).collect()
}

fn pid(raw: u64) -> Pid {
    Pid::from_raw(i32::try_from(raw).unwrap()).unwrap()
}

/// Waits until a process has ended.
fn wait_for_end_of(process: &OwnedFd) {
    let limit = Timespec::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)), Ok(1), "a process goes on");
}

/// The runner that loads the session of `job` next.
fn runner_of(worker: &WorkerProcess, job: &JobId) -> Pid {
    loop {
        let line = worker.wait_for_log("a session is loaded");
        if line["job_id"] == job.as_str() {
            return pid(line["runner"].as_u64().unwrap());
        }
    }
}

/// Holds the runner of `job` in the middle of a task: in one that has made a step and not ended.
fn hold_in_mid_task(worker: &WorkerProcess, job: &JobId, runner: Pid) {
    let in_mid_task = || {
        let tasks = worker.get_json("/api/v1/tasks");
        let text = tasks.to_string();
        let of_job = |task: &Value| task["job_id"] == job.as_str() && task["step"].as_u64() > Some(0);
        let tasks = tasks.as_array().or(tasks["tasks"].as_array()).unwrap_or_else(|| panic!("{text}"));
        tasks.iter().any(of_job)
    };
    eventually("a task is held after a step", || {
        if !in_mid_task() {
            return false;
        }
        // The task may have ended since it was looked at. A runner that stands still ends none, and what it had told
        // before is heard soon.
        kill_process(runner, Signal::STOP).unwrap();
        let held = (0..10).all(|_| {
            std::thread::park_timeout(Duration::from_millis(2));
            in_mid_task()
        });
        if !held {
            kill_process(runner, Signal::CONT).unwrap();
        }
        held
    });
}

/// Ends a held process by `signal`. The standard library lets the first SIGSEGV or SIGBUS pass that is no fault of the
/// process itself.
fn end_with(runner: Pid, signal: Signal) {
    let process = pidfd_open(runner, PidfdFlags::empty()).unwrap();
    let pause = Timespec::try_from(Duration::from_millis(50)).unwrap();
    while poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&pause)) == Ok(0) {
        // It may have ended meanwhile.
        let _ = kill_process(runner, signal);
        let _ = kill_process(runner, Signal::CONT);
    }
}

fn exits(worker: &WorkerProcess, cause: &str) -> u64 {
    let (_, metrics) = worker.get("/metrics");
    let name = format!("worker_runner_exits_total{{cause=\"{cause}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

/// How often the worker tried a task again by itself.
fn retries(worker: &WorkerProcess) -> usize {
    let log = worker.log();
    let tried = log.iter().filter(|line| line["message"] == "a task failed in passing; trying it again");
    tried
        .inspect(|line| {
            let told = ["task_id", "job_id", "code", "reason"].map(|name| line[name].is_string());
            assert!(told == [true; 4] && line["attempt"].is_u64(), "{line}");
        })
        .count()
}

/// A job whose tasks take long enough to be hit in the middle.
fn long_job(epochs: i32) -> pb::TrainingJobRequest {
    let mut job = real_job(epochs);
    job.dataset_path = "builtin:digits".into();
    for (name, value) in [("hidden_layers", "512,512"), ("seed", "7")] {
        job.hyperparameters.insert(name.to_owned(), value.to_owned());
    }
    job
}

fn figures(epochs: &[EpochSummary]) -> Vec<[u64; 2]> {
    let bits = |epoch: &EpochSummary| [epoch.loss.to_bits(), epoch.validation_loss.unwrap().to_bits()];
    epochs.iter().map(bits).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_runner_costs_one_attempt_and_its_job_ends_with_the_same_figures() {
    // One task at a time, so that none overtakes the one that is tried again.
    let settings = |isolation| {
        with(&[("TASK_ISOLATION", isolation), ("MAX_CONCURRENT_TASKS", "1"), ("MAX_TASK_RETRIES", "9")])
    };
    let undisturbed = {
        let orchestrator = orchestrator(Contract::Extended).await;
        let _worker = WorkerProcess::start(orchestrator.local_addr(), &settings("thread"));
        let job = submit(orchestrator.local_addr(), long_job(2)).await;
        figures(&wait_for_end(orchestrator.board(), &job).await.epochs)
    };
    let orchestrator = orchestrator(Contract::Extended).await;
    let worker = WorkerProcess::start(orchestrator.local_addr(), &settings("process"));
    let job = submit(orchestrator.local_addr(), long_job(2)).await;
    for signal in [Signal::KILL, Signal::SEGV, Signal::ABORT] {
        let runner = runner_of(&worker, &job);
        hold_in_mid_task(&worker, &job, runner);
        end_with(runner, signal);
    }
    let summary = wait_for_end(orchestrator.board(), &job).await;
    assert_each_once(orchestrator.board(), &job, 20);
    assert_eq!(figures(&summary.epochs), undisturbed);
    assert_eq!((exits(&worker, "signal"), exits(&worker, "abort"), exits(&worker, "oom")), (2, 1, 0));
    assert_eq!(retries(&worker), 3, "one attempt each");
    let told = worker.log().into_iter().filter(|line| line["message"] == "a runner has ended");
    let told: Vec<String> = told.map(|line| line["detail"].as_str().unwrap().to_owned()).collect();
    for signal in ["SIGKILL", "SIGSEGV", "aborted"] {
        assert!(told.iter().any(|detail| detail.contains(signal)), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_runner_does_not_touch_other_jobs_and_what_waits_for_it_goes_on() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let address = orchestrator.local_addr();
    let worker = WorkerProcess::start(address, &with(&[("MAX_CONCURRENT_TASKS", "4")]));
    let job = submit(address, long_job(6)).await;
    let runner = runner_of(&worker, &job);
    let other = submit(address, real_job(4)).await;
    let other_runner = runner_of(&worker, &other);
    assert_ne!(runner, other_runner, "each job has a process of its own");
    hold_in_mid_task(&worker, &job, runner);
    end_with(runner, Signal::KILL);
    assert_ne!(runner_of(&worker, &job), other_runner);
    for (job, tasks) in [(&job, 60), (&other, 40)] {
        wait_for_end(orchestrator.board(), job).await;
        assert_each_once(orchestrator.board(), job, tasks);
    }
    assert!(runners_of(&worker).contains(&other_runner), "the runner of the other job was not touched");
    assert_eq!(
        (exits(&worker, "signal"), retries(&worker)),
        (1, 1),
        "one task was tried again, and no other"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_retries_the_orchestrator_hears_why_and_what_was_lost_is_said() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let middleman = Middleman::start(orchestrator.local_addr(), |_, _| Deed::Carry).await;
    let settings = with(&[("MAX_CONCURRENT_TASKS", "1"), ("MAX_TASK_RETRIES", "0")]);
    let worker = WorkerProcess::start(middleman.address, &settings);
    let mut request = long_job(1);
    request.hyperparameters.insert("save_checkpoints".into(), "false".into());
    let job = submit(orchestrator.local_addr(), request).await;
    for (signal, code) in [(Signal::ABORT, "ABORT"), (Signal::BUS, "SIGNAL")] {
        let runner = runner_of(&worker, &job);
        hold_in_mid_task(&worker, &job, runner);
        end_with(runner, signal);
        let failed = worker.wait_for_log("task failed");
        assert_eq!(failed["code"], code, "{failed}");
        assert!(failed["reason"].as_str().unwrap().contains("process that trained the task"), "{failed}");
    }
    wait_for_end(orchestrator.board(), &job).await;
    assert_each_once(orchestrator.board(), &job, 10);
    let told: Vec<_> = middleman.failures().into_iter().map(|(code, _)| code).collect();
    assert_eq!(told, ["ABORT", "SIGNAL"]);
    let note =
        "the session was lost with the process that it was in and has started again from its first weights";
    let completed = worker.log().into_iter().filter(|line| line["message"] == "task completed");
    let told = completed.filter(|line| line["notes"].as_str().unwrap().contains(note)).count();
    assert!(told >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_more_memory_than_is_allowed_fails_alone_and_says_so() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let middleman = Middleman::start(orchestrator.local_addr(), |_, _| Deed::Carry).await;
    let worker = WorkerProcess::start(
        middleman.address,
        &with(&[("TASK_MEMORY_LIMIT", "400MiB"), ("MAX_CONCURRENT_TASKS", "2")]),
    );
    let small = submit(orchestrator.local_addr(), real_job(2)).await;
    let mut request = long_job(1);
    request.hyperparameters.insert("hidden_layers".into(), "4096,16384".into());
    let large = submit(orchestrator.local_addr(), request).await;
    let failed = worker.wait_for_log("task failed");
    assert_eq!((&failed["job_id"], &failed["code"]), (&large.as_str().into(), &"OUT_OF_MEMORY".into()));
    assert!(failed["reason"].as_str().unwrap().contains("TASK_MEMORY_LIMIT allows, 400 MiB"), "{failed}");
    assert_eq!(wait_for_end(orchestrator.board(), &large).await.status, JobStatus::Failed);
    wait_for_end(orchestrator.board(), &small).await;
    assert_each_once(orchestrator.board(), &small, 20);
    assert!(exits(&worker, "oom") >= 1);
    // The end of the job may have met another of its tasks, which was cancelled.
    let failures = middleman.failures();
    assert!(failures.iter().any(|(code, _)| code == "OUT_OF_MEMORY"), "{failures:?}");
    assert!(failures.iter().all(|(code, _)| code != "INTERNAL"), "{failures:?}");
    assert_eq!(worker.get_json("/health")["reasons"], Value::Array(Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ignores_its_time_out_is_killed_and_its_slot_is_free() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let settings = with(&[("MAX_CONCURRENT_TASKS", "1"), ("TASK_TIMEOUT", "15s")]);
    let worker = WorkerProcess::start(orchestrator.local_addr(), &settings);
    let job = submit(orchestrator.local_addr(), long_job(1)).await;
    let runner = runner_of(&worker, &job);
    let process = pidfd_open(runner, PidfdFlags::empty()).unwrap();
    hold_in_mid_task(&worker, &job, runner);
    let failed = worker.wait_for_log("task failed");
    assert_eq!(failed["code"], "TIMED_OUT", "{failed}");
    assert!(failed["notes"].as_str().unwrap().contains("did not stop within 5 s"), "{failed}");
    wait_for_end_of(&process);
    assert_eq!(exits(&worker, "timeout"), 1);
    // Another worker might have taken it; this one takes it up where it was.
    wait_for_end(orchestrator.board(), &job).await;
    assert_each_once(orchestrator.board(), &job, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_that_does_not_stop_is_killed_too() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let worker = WorkerProcess::start(orchestrator.local_addr(), &with(&[("MAX_CONCURRENT_TASKS", "1")]));
    let job = submit(orchestrator.local_addr(), long_job(1)).await;
    let runner = runner_of(&worker, &job);
    hold_in_mid_task(&worker, &job, runner);
    let mut client = client_of(orchestrator.local_addr()).await;
    client.cancel_job(pb::CancelJobRequest { job_id: job.to_string() }).await.unwrap();
    worker.wait_for_log("task cancelled");
    assert_eq!(exits(&worker, "cancelled"), 1);
    let next = submit(orchestrator.local_addr(), real_job(1)).await;
    wait_for_end(orchestrator.board(), &next).await;
    assert_each_once(orchestrator.board(), &next, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_runner_outlives_its_worker() {
    for signal in [Signal::KILL, Signal::TERM] {
        let orchestrator = orchestrator(Contract::Extended).await;
        let address = orchestrator.local_addr();
        let settings = with(&[("MAX_CONCURRENT_TASKS", "2"), ("DRAIN_TIMEOUT", "1s")]);
        let mut worker = WorkerProcess::start(address, &settings);
        let jobs = [submit(address, long_job(50)).await, submit(address, long_job(50)).await];
        let mut loaded = 0;
        while loaded < jobs.len() {
            worker.wait_for_log("a session is loaded");
            loaded += 1;
        }
        let runners = runners_of(&worker);
        assert!(runners.len() >= 2, "{runners:?}");
        let processes: Vec<_> =
            runners.iter().map(|runner| pidfd_open(*runner, PidfdFlags::empty()).unwrap()).collect();
        if signal == Signal::KILL {
            // Not even one that can do nothing for it.
            kill_process(runners[0], Signal::STOP).unwrap();
        }
        worker.signal(signal);
        let status = worker.wait();
        assert!(signal == Signal::KILL || status.success(), "{status:?}");
        processes.iter().for_each(wait_for_end_of);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runners_that_do_not_start_stop_admission_and_one_that_does_opens_it() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = folder.path().join("worker");
    fs::copy(PROGRAM, &program).unwrap();
    let worker = WorkerProcess::start_copy(&program, orchestrator.local_addr(), &CPU);
    worker.wait_for_log("runners are confined");
    // Nobody may execute it any more, which does not touch what runs already.
    fs::set_permissions(&program, Permissions::from_mode(0o644)).unwrap();
    for runner in runners_of(&worker) {
        kill_process(runner, Signal::KILL).unwrap();
    }
    let job = submit(orchestrator.local_addr(), real_job(1)).await;
    let degraded = |worker: &WorkerProcess| worker.get_json("/health")["status"] == "DEGRADED";
    eventually("three starts in a row have failed", || degraded(&worker));
    let health = worker.get_json("/health");
    let reason = health["reasons"][0].as_str().unwrap();
    assert!(reason.contains("runner processes do not start"), "{reason}");
    assert_eq!(worker.get("/readyz").0, 503);
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    eventually("a later start succeeds", || !degraded(&worker));
    wait_for_end(orchestrator.board(), &job).await;
    assert_each_once(orchestrator.board(), &job, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_no_runner_can_keep_leaves_the_tasks_to_others() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let settings = with(&[("TASK_MEMORY_LIMIT", "1MiB")]);
    let worker = WorkerProcess::start(orchestrator.local_addr(), &settings);
    worker.wait_for_log("no task is taken");
    // The status is published a moment after the log has said it.
    eventually("it is degraded", || worker.get_json("/health")["status"] == "DEGRADED");
    let health = worker.get_json("/health");
    assert!(health["reasons"][0].as_str().unwrap().contains("TASK_MEMORY_LIMIT"), "{health}");
    assert_eq!(worker.get("/readyz").0, 503);
    let job = submit(orchestrator.local_addr(), real_job(1)).await;
    let _other = WorkerProcess::start(orchestrator.local_addr(), &CPU);
    wait_for_end(orchestrator.board(), &job).await;
    assert_each_once(orchestrator.board(), &job, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_reads_only_the_data_and_speaks_to_nobody() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let data = tempfile::tempdir().unwrap();
    let root = data.path().to_str().unwrap();
    let secrets = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "a-secret")];
    let settings = with(&[&secrets[..], &[("DATA_ROOT", root)]].concat());
    let worker = WorkerProcess::start(orchestrator.local_addr(), &settings);
    let confined = worker.wait_for_log("runners are confined");
    let said = confined["message"].as_str().unwrap();
    let kernel_has_landlock = !said.contains("Landlock ABI 0");
    if kernel_has_landlock {
        assert!(said.contains("reading outside denied, writing to DATA_ROOT denied"), "{said}");
    } else {
        assert!(said.contains("Landlock is not enabled") || said.contains("has no Landlock"), "{said}");
    }
    if fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().as_str() >= "6.7" && kernel_has_landlock {
        assert!(said.contains("TCP denied"), "{said}");
    }
    assert!(said.contains("no_new_privs set") && said.contains("core dumps off"), "{said}");
    let [runner] = runners_of(&worker)[..] else { panic!("not one runner") };
    let status = fs::read_to_string(format!("/proc/{}/status", runner.as_raw_nonzero())).unwrap();
    assert!(status.lines().any(|line| line == "NoNewPrivs:\t1"), "{status}");
    // Root alone reads it, since the runner is not dumpable.
    match fs::read_to_string(format!("/proc/{}/environ", runner.as_raw_nonzero())) {
        Ok(environment) => assert!(environment.contains("DATA_ROOT") && !environment.contains("a-secret")),
        Err(error) => assert_eq!(error.kind(), ErrorKind::PermissionDenied),
    }
    // What is put there later can be read, and a model can be kept.
    let rows: String = (0..60).map(|row| format!("{row},{}\n", if row < 30 { "a" } else { "b" })).collect();
    fs::write(data.path().join("rows.csv"), format!("x,y\n{rows}")).unwrap();
    let mut request = real_job(1);
    request.dataset_path = "rows.csv".into();
    let job = submit(orchestrator.local_addr(), request).await;
    wait_for_end(orchestrator.board(), &job).await;
    assert_each_once(orchestrator.board(), &job, 10);
    let state = Arc::clone(&worker.state);
    let kept = |name: &str| {
        let jobs = fs::read_dir(state.path().join(name)).into_iter().flatten().flatten();
        jobs.flat_map(|job| fs::read_dir(job.path()).unwrap()).count()
    };
    assert!(kept("checkpoints") + kept("models") > 0, "a runner may keep what it has learned");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_the_same_in_processes_and_in_threads() {
    let mut seen = Vec::new();
    for isolation in ["process", "thread"] {
        let orchestrator = orchestrator(Contract::Extended).await;
        let settings = with(&[("TASK_ISOLATION", isolation), ("MAX_CONCURRENT_TASKS", "1")]);
        let worker = WorkerProcess::start(orchestrator.local_addr(), &settings);
        let mut request = real_job(1);
        request.model_type = "random_forest".into();
        for (name, value) in [("seed", "3"), ("max_features", "0.3"), ("trees_per_task", "3")] {
            request.hyperparameters.insert(name.to_owned(), value.to_owned());
        }
        let job = submit(orchestrator.local_addr(), request).await;
        let summary = wait_for_end(orchestrator.board(), &job).await;
        let (_, metrics) = worker.get("/metrics");
        let counted = |line: &str| line.starts_with("worker_training_") && line.contains("_total{");
        let mut counts: Vec<String> =
            metrics.lines().filter(|line| counted(line)).map(str::to_owned).collect();
        counts.sort();
        seen.push((figures(&summary.epochs), counts));
        assert_eq!(runners_of(&worker).is_empty(), isolation == "thread");
    }
    assert_eq!(seen[0], seen[1]);
    assert!(!seen[0].1.is_empty());
}

/// Hears when its task starts.
struct Stopwatch(mpsc::Sender<Instant>);

impl Observer for Stopwatch {
    fn started(&self, _: Backend) {
        let _ = self.0.send(Instant::now());
    }

    fn stepped(&self, _: &Progress, _: Step) {}
}

/// Times of one-step tasks on a warm session, in microseconds: to the start and to the end. Of a tenth of them each was
/// shorter: the others waited for whatever else the machine does.
fn times(engine: &dyn Engine) -> [u128; 2] {
    let mut times = [Vec::new(), Vec::new()];
    for number in 0..300_u32 {
        let spec = TaskSpec {
            identity: TaskIdentity {
                task_id: TaskId::parse(&format!("task-{number}")).unwrap(),
                job_id: JobId::parse("job").unwrap(),
                attempt: 0,
            },
            model: ModelType::parse("logistic_regression").unwrap(),
            dataset_path: "builtin:iris".into(),
            hyperparameters: Hyperparameters::default(),
            notes: Vec::new(),
            epoch: 0,
            batches: number..number + 1,
            total_epochs: None,
            timeout: None,
            lease: None,
            initial_weights: Default::default(),
            received: Default::default(),
        };
        let (started, starts) = mpsc::channel();
        let (ended, ends) = mpsc::channel();
        let submitted = Instant::now();
        let done = Done::new(move |finished| {
            let _ = ended.send((Instant::now(), finished.ending.map(|_| ())));
        });
        engine.submit(Arc::new(spec), Arc::new(Control::new(Stopwatch(started))), done);
        let (end, ending) = ends.recv_timeout(PATIENCE).unwrap();
        ending.unwrap();
        let start = starts.recv_timeout(PATIENCE).unwrap();
        times[0].push((start - submitted).as_micros());
        times[1].push((end - submitted).as_micros());
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 10]
    })
}

#[test]
fn a_process_of_its_own_costs_a_task_less_than_a_millisecond() {
    let config = || engine::Config {
        gpu: None,
        hidden_gpus: HiddenGpus::default(),
        models_to: None,
        backend: BackendChoice::Only(Backend::Cpu),
        device_policy: DevicePolicy::Cpu,
        analytic_profile: AnalyticProfile::Engine,
        analytic_delay: Duration::ZERO..=Duration::ZERO,
        unsupported_models: UnsupportedModels::Reject,
        allow_software_adapter: false,
        state_dir: None,
        data: tensorfleet_worker::data::Config::new("data"),
    };
    let runners = RunnerConfig { program: PROGRAM.into(), ..RunnerConfig::default() };
    let process = ProcessEngine::start(config(), SessionLimits::default(), runners, None).unwrap();
    let began = Instant::now();
    let confinement = process.self_test(PATIENCE).unwrap();
    let ready = began.elapsed();
    let thread = TrainingEngine::new(config()).unwrap();
    // What the machine does beside it falls on both: the best of some rounds counts.
    let best = |engine: &dyn Engine| {
        let rounds: Vec<_> = (0..5).map(|_| times(engine)).collect();
        [0, 1].map(|at| rounds.iter().map(|round| round[at]).min().unwrap())
    };
    let (in_process, in_thread) = (best(&process), best(&thread));
    println!("ready after {ready:?}; {confinement}");
    println!("microseconds to start and end: process {in_process:?}, thread {in_thread:?}");
    let cost = in_process[1].saturating_sub(in_thread[1]);
    assert!(cost < 1000, "process {in_process:?}, thread {in_thread:?}");
}
