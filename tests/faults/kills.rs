//! `kill -9` at each step of outbox, checkpoint and the list of held tasks.

use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;

use fake_nvml::{Control, Fault, Installed};
use rustix::process::Signal;
use tensorfleet_worker::dev::Contract;
use tensorfleet_worker::wire::{pb, worker_pb};

use crate::support::middleman::{Deed, Middleman};
use crate::support::*;

/// Each step, and at which passage it ends the worker.
const STEPS: [&str; 10] = [
    "outbox-before-write:3",
    "outbox-torn:3",
    "outbox-written:3",
    "outbox-acknowledged:3",
    "report-acknowledged:3",
    "held-written:5",
    "checkpoint-before-write:3",
    "checkpoint-torn:3",
    "checkpoint-written:3",
    "checkpoint-renamed:3",
];

const TASKS: u32 = 10;

async fn die_at(step: &'static str, contract: Contract) {
    let orchestrator = orchestrator(contract).await;
    let (address, board) = (orchestrator.local_addr(), orchestrator.board());
    // In threads, so that the process that writes checkpoints is the worker.
    let settings = [("MAX_CONCURRENT_TASKS", "1"), ("WORKER_ID", "one"), ("TASK_ISOLATION", "thread")];
    let doomed = [settings[0], settings[1], settings[2], ("FAILPOINT", step)];
    let mut worker = WorkerProcess::start(address, &doomed);
    let job = submit(address, real_job(1)).await;
    assert_eq!(worker.wait().signal(), Some(9), "{step} was passed");
    let state = Arc::clone(&worker.state);
    let mut heir = WorkerProcess::start_in(state, address, &settings);
    match contract {
        Contract::Extended => {
            wait_for_end(board, &job).await;
            heir.settle();
            assert_each_once(board, &job, TASKS as usize);
        }
        Contract::Base => {
            // The answer of the one poll that may have been under way is lost with its process.
            let counts = |board: &tensorfleet_worker::dev::Board| {
                let completions = board.completions(&job).unwrap();
                (completions.len() as u32, completions.values().sum::<u32>())
            };
            let done = board.wait_for(|board| (counts(board).0 >= TASKS - 1).then_some(()));
            let ended = tokio::time::timeout(PATIENCE, done).await;
            // A task that is done twice may be counted again after the last of the others.
            heir.settle();
            let (tasks, counted) = board.read(counts);
            ended.unwrap_or_else(|_| panic!("{step}: only {tasks} tasks were counted"));
            assert!(counted <= tasks + 1, "{step}: {counted} counts of {tasks} tasks");
        }
    }
}

fn die_at_each_step(contract: Contract) {
    for some in STEPS.chunks(5) {
        at_once(some.iter().map(|step| die_at(step, contract)));
    }
}

#[test]
fn killed_at_any_step_each_task_is_counted_once() {
    die_at_each_step(Contract::Extended);
}

#[test]
fn killed_at_any_step_with_the_base_contract_each_task_is_counted_and_one_at_most_twice() {
    die_at_each_step(Contract::Base);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_tells_what_it_can_resume_and_goes_on_with_it() {
    for contract in [Contract::Base, Contract::Extended] {
        let orchestrator = orchestrator(contract).await;
        let board = orchestrator.board();
        let middleman = Middleman::start(orchestrator.local_addr(), |_, _| Deed::Carry).await;
        let settings = |delay| [("MAX_CONCURRENT_TASKS", "2"), ("ANALYTIC_EPOCH_DELAY", delay)];
        let mut worker = WorkerProcess::start(middleman.address, &settings("10m"));
        let job = submit(orchestrator.local_addr(), simulated_job(1)).await;
        eventually("two tasks run", || worker.get_json("/health")["active_tasks"] == 2);
        let file = worker.state.path().join("held/tasks.log");
        eventually("both are written down", || {
            let bytes = std::fs::read(&file).unwrap_or_default();
            ["-e0-b0", "-e0-b1"]
                .iter()
                .all(|name| bytes.windows(name.len()).any(|window| window == name.as_bytes()))
        });
        worker.signal(Signal::KILL);
        worker.wait();
        let state = Arc::clone(&worker.state);
        let heir = WorkerProcess::start_in(state, middleman.address, &settings("10ms"));
        let summary = wait_for_end(board, &job).await;
        assert_each_once(board, &job, 10);
        assert_eq!(summary.reports, 10);
        if contract == Contract::Extended {
            let mut resumed = middleman.resumed();
            resumed.sort();
            assert_eq!(resumed, [(format!("{job}-e0-b0"), 1), (format!("{job}-e0-b1"), 1)]);
        }
        eventually("both were done under the attempt that the killed process had", || {
            let log = heir.log();
            let done = |slice| {
                let name = format!("{job}-e0-b{slice}");
                log.iter().any(|line| {
                    let attempt = u64::from(contract == Contract::Extended);
                    line["message"] == "task completed"
                        && line["task_id"] == name.as_str()
                        && line["attempt"] == attempt
                })
            };
            done(0) && done(1)
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_came_by_execute_first_survives_the_worker_once_a_poll_has_brought_it() {
    let orchestrator = orchestrator(Contract::Base).await;
    let (address, board) = (orchestrator.local_addr(), orchestrator.board());
    let settings = [("MAX_CONCURRENT_TASKS", "1"), ("ANALYTIC_EPOCH_DELAY", "10m")];
    let mut worker = WorkerProcess::start(address, &settings);
    worker.wait_for_log("connected to the orchestrator");
    let job = pb::TrainingJobRequest { job_id: "known".into(), ..simulated_job(1) };
    let first = worker_pb::TaskRequest {
        task_id: "known-e0-b0".into(),
        job_id: job.job_id.clone(),
        model_type: job.model_type.clone(),
        dataset_path: job.dataset_path.clone(),
        hyperparameters: job.hyperparameters.clone(),
        batch_end: 100,
        ..Default::default()
    };
    let mut client = worker.client().await;
    let asking = spawn(async move { client.execute_task(first).await });
    // The poll that is out already brings the same task into the one slot.
    eventually("the task runs", || worker.get_json("/health")["active_tasks"] == 1);
    let job = submit(address, job).await;
    let held = worker.state.path().join("held/tasks.log");
    eventually("the poll has brought it", || held.metadata().is_ok_and(|file| file.len() > 0));
    worker.signal(Signal::KILL);
    worker.wait();
    assert!(asking.await.unwrap().is_err());
    let state = Arc::clone(&worker.state);
    let _heir = WorkerProcess::start_in(state, address, &[("ANALYTIC_EPOCH_DELAY", "0")]);
    wait_for_end(board, &job).await;
    assert_each_once(board, &job, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_still_on_the_list_when_its_report_was_counted_is_not_run_again() {
    for contract in BOTH {
        let orchestrator = orchestrator(contract).await;
        let (address, board) = (orchestrator.local_addr(), orchestrator.board());
        let settings = [("MAX_CONCURRENT_TASKS", "1"), ("ANALYTIC_EPOCH_DELAY", "100ms")];
        // From the first task that is to leave it on, the list stays as it is.
        let mut doomed =
            WorkerProcess::start(address, &[settings[0], settings[1], ("FAILPOINT", "held-let-go-hangs")]);
        let job = submit(address, simulated_job(1)).await;
        let some = board.wait_for(|board| board.progress_of(&job).ok().filter(|job| job.completed >= 3));
        tokio::time::timeout(PATIENCE, some).await.expect("nothing waits for the list");
        doomed.signal(Signal::KILL);
        doomed.wait();
        let mut heir = WorkerProcess::start_in(Arc::clone(&doomed.state), address, &settings);
        heir.settle();
        let log = heir.log();
        let is_first =
            |line: &&serde_json::Value| line["task_id"].as_str().is_some_and(|task| task.ends_with("-e0-b0"));
        let run = log.iter().filter(is_first).any(|line| line["message"] == "task completed");
        assert!(!run, "{contract:?}: {log:#?}");
        // The note that it was counted is what the killed process lacked: the report may have come once more.
        let counted = board.read(|board| board.completions(&job)).unwrap();
        let most = if contract == Contract::Base { 2 } else { 1 };
        assert!(counted.values().all(|count| *count <= most), "{contract:?}: {counted:?}");
    }
}

/// How many tasks the list of held tasks has under `attempt`, field 100 of their messages.
fn kept(worker: &WorkerProcess, attempt: u8) -> usize {
    let bytes = std::fs::read(worker.state.path().join("held/tasks.log")).unwrap_or_default();
    bytes.windows(3).filter(|window| *window == [0xa0, 0x06, attempt]).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_handed_out_anew_while_it_is_held_is_kept_under_its_new_attempt() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let board = orchestrator.board();
    let middleman = Middleman::start(orchestrator.local_addr(), |_, _| Deed::Carry).await;
    // All tasks at once, and room to poll for what is held already.
    let settings = |delay| [("MAX_CONCURRENT_TASKS", "12"), ("ANALYTIC_EPOCH_DELAY", delay)];
    let mut first = WorkerProcess::start(middleman.address, &settings("10m"));
    let job = submit(orchestrator.local_addr(), simulated_job(1)).await;
    eventually("all are held", || kept(&first, 1) == 10);
    first.signal(Signal::KILL);
    first.wait();
    // Somebody else has them meanwhile, and goes away, too.
    let mut other = WorkerProcess::start(middleman.address, &settings("10m"));
    eventually("all are given away", || kept(&other, 2) == 10);
    other.signal(Signal::KILL);
    other.wait();
    let given_back = board.wait_for(|board| {
        let activity = board.worker_activity();
        activity.iter().all(|worker| worker.current.is_none()).then_some(())
    });
    tokio::time::timeout(PATIENCE, given_back).await.expect("the leases end");
    let state = Arc::clone(&first.state);
    let mut heir = WorkerProcess::start_in(Arc::clone(&state), middleman.address, &settings("10m"));
    eventually("all are held under their third attempt", || kept(&heir, 3) == 10);
    heir.signal(Signal::KILL);
    heir.wait();
    let named_before = middleman.resumed().len();
    let _last = WorkerProcess::start_in(state, middleman.address, &settings("10ms"));
    wait_for_end(board, &job).await;
    assert_each_once(board, &job, 10);
    let mut resumed = middleman.resumed().split_off(named_before);
    resumed.truncate(10);
    let attempts: Vec<u32> = resumed.into_iter().map(|(_, attempt)| attempt).collect();
    assert_eq!(attempts, [3; 10], "what the killed process had goes on");
}

/// NVML is a library of the driver inside of the worker: where it aborts, the worker is gone.
#[test]
fn a_driver_library_that_aborts_costs_what_a_kill_does() {
    at_once(BOTH.map(|contract| async move {
        let orchestrator = orchestrator(contract).await;
        let (address, board) = (orchestrator.local_addr(), orchestrator.board());
        let folder = tempfile::tempdir().unwrap();
        let mut fake = Installed::new(folder.path(), Control::with_gpus(1)).unwrap();
        let library = fake.library().into_os_string().into_string().unwrap();
        let settings = [
            ("MAX_CONCURRENT_TASKS", "1"),
            ("ANALYTIC_EPOCH_DELAY", "2s"),
            ("DEVICE_POLICY", "cpu"),
            ("NVML_LIBRARY", &library),
        ];
        let mut worker = WorkerProcess::start(address, &settings);
        eventually("the GPU is watched", || worker.shows("worker_gpus 1"));
        let job = submit(address, simulated_job(1)).await;
        wait_for_hand_out(board).await;
        let held = worker.state.path().join("held/tasks.log");
        eventually("it is in the list of held tasks", || held.metadata().is_ok_and(|file| file.len() > 0));
        let abort = |control: &mut Control| {
            control.gpus[0].faults.insert("nvmlDeviceGetPowerUsage".to_owned(), Fault::Abort);
        };
        fake.set(abort).unwrap();
        assert_eq!(worker.wait().signal(), Some(Signal::ABORT.as_raw()));
        fake.set(|control| control.gpus[0].faults.clear()).unwrap();
        let settings = [settings[0], ("ANALYTIC_EPOCH_DELAY", "0"), settings[2], settings[3]];
        let mut heir = WorkerProcess::start_in(Arc::clone(&worker.state), address, &settings);
        wait_for_end(board, &job).await;
        heir.settle();
        assert_each_once(board, &job, 10);
        assert_eq!(board.read(|board| board.job(&job)).unwrap().reports, 10, "{contract:?}");
    }));
}
