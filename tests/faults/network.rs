//! The wire between worker and orchestrator fails in every way a wire can.

use std::time::Duration;

use rustix::process::Signal;
use tensorfleet_worker::dev::{Board, Contract, DevConfig, DevOrchestrator};
use tensorfleet_worker::domain::JobId;

use crate::proxy::{Proxy, Wire};
use crate::support::*;

/// How long the wire fails: longer than the lease of 6 s.
const OUTAGE: Duration = Duration::from_secs(8);

const SLOTS: u32 = 2;
const TASKS: u32 = 30;

fn counts(board: &Board, job: &JobId) -> (u32, u32) {
    let completions = board.completions(job).unwrap();
    (completions.len() as u32, completions.values().sum())
}

async fn fail(wire: Wire, contract: Contract) {
    let orchestrator = orchestrator(contract).await;
    let (address, board) = (orchestrator.local_addr(), orchestrator.board());
    let proxy = Proxy::start(address).await;
    let settings = [("MAX_CONCURRENT_TASKS", "2"), ("ANALYTIC_EPOCH_DELAY", "300ms")];
    let mut worker = WorkerProcess::start(proxy.address, &settings);
    let job = submit(address, simulated_job(3)).await;
    let some = board.wait_for(|board| board.progress_of(&job).ok().filter(|job| job.completed >= 5));
    tokio::time::timeout(PATIENCE, some).await.expect("the job is under way");
    proxy.set(wire);
    tokio::time::sleep(OUTAGE).await;
    proxy.set(Wire::Good);
    match contract {
        Contract::Extended => {
            wait_for_end(board, &job).await;
            worker.settle();
            assert_each_once(board, &job, TASKS as usize);
        }
        Contract::Base => {
            // What was dequeued for an answer that never came is gone: at most one task a slot.
            let done = board.wait_for(|board| (counts(board, &job).0 >= TASKS - SLOTS).then_some(()));
            let ended = tokio::time::timeout(PATIENCE, done).await;
            worker.settle();
            let (tasks, counted) = board.read(|board| counts(board, &job));
            ended.unwrap_or_else(|_| panic!("{wire:?}: only {tasks} tasks were counted"));
            // Reports that were under way when the wire failed may be counted once more: one a slot.
            assert!(counted <= tasks + SLOTS, "{wire:?}: {counted} counts of {tasks} tasks");
        }
    }
}

fn fail_in_all_ways(contract: Contract) {
    let wires =
        [Wire::Dead, Wire::Cut, Wire::HalfClosed, Wire::Damaged, Wire::Slow(Duration::from_millis(400))];
    at_once(wires.map(|wire| fail(wire, contract)));
}

#[test]
fn a_partition_longer_than_a_lease_counts_each_task_once() {
    fail_in_all_ways(Contract::Extended);
}

#[test]
fn a_partition_with_the_base_contract_loses_at_most_the_answers_under_way() {
    fail_in_all_ways(Contract::Base);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_renewal_the_worker_stops_before_the_task_is_given_away() {
    // A tenth of it is the time that a busy machine may take from the end of the task to the look at the board.
    let config = DevConfig { lease: Duration::from_secs(25), ..config(Contract::Extended) };
    let orchestrator = DevOrchestrator::start(config).await.unwrap();
    let (address, board) = (orchestrator.local_addr(), orchestrator.board());
    let proxy = Proxy::start(address).await;
    let settings = [("MAX_CONCURRENT_TASKS", "1"), ("ANALYTIC_EPOCH_DELAY", "10m"), ("WORKER_ID", "cut-off")];
    let cut_off = WorkerProcess::start(proxy.address, &settings);
    let job = submit(address, simulated_job(1)).await;
    let task = wait_for_hand_out(board).await;
    eventually("the task runs", || cut_off.get_json("/health")["active_tasks"] == 1);
    proxy.set(Wire::Dead);
    let line = cut_off.wait_for_log("task failed");
    assert_eq!((line["task_id"].as_str(), line["code"].as_str()), (Some(task.as_str()), Some("LEASE_LOST")));
    let holder = board.read(|board| {
        let workers = board.worker_activity();
        workers.into_iter().find(|worker| worker.current.as_ref().is_some_and(|(id, _)| id.as_str() == task))
    });
    // Nobody else was given it yet: the worker gave up first.
    assert_eq!(holder.map(|worker| worker.worker_id.to_string()), Some("cut-off".to_owned()));
    let _heir = WorkerProcess::start(address, &[("ANALYTIC_EPOCH_DELAY", "0")]);
    let summary = wait_for_end(board, &job).await;
    assert_each_once(board, &job, 10);
    assert_eq!(summary.reports, 10, "nothing was reported under the lost lease");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orchestrator_that_accepts_and_never_answers_hangs_nothing() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
        }
    });
    let mut worker = WorkerProcess::start(address, &[]);
    worker.wait_for_log("cannot register with the orchestrator");
    assert_eq!((worker.get("/livez").0, worker.get("/readyz").0), (200, 503));
    let began = std::time::Instant::now();
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(15), "it took {:?}", began.elapsed());
}
