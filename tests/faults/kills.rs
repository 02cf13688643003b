//! `kill -9` at each step of outbox, checkpoint and the list of held tasks.

use std::sync::Arc;

use rustix::process::Signal;
use tensorfleet_worker::dev::Contract;
use tokio::task::JoinSet;

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
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&worker.wait()), Some(9), "{step} was passed");
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

async fn die_at_each_step(contract: Contract) {
    for some in STEPS.chunks(5) {
        let mut cases = JoinSet::new();
        for step in some {
            cases.spawn(die_at(step, contract));
        }
        while let Some(case) = cases.join_next().await {
            case.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 16)]
async fn killed_at_any_step_each_task_is_counted_once() {
    die_at_each_step(Contract::Extended).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 16)]
async fn killed_at_any_step_with_the_base_contract_each_task_is_counted_and_one_at_most_twice() {
    die_at_each_step(Contract::Base).await;
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
