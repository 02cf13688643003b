//! Time that stands still, and clocks that are wrong.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use tensorfleet_worker::dev::{Contract, DevConfig, DevOrchestrator};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stood_still_for_longer_than_its_lease_reports_nothing_of_it() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let (address, board) = (orchestrator.local_addr(), orchestrator.board());
    let settings = |delay| [("MAX_CONCURRENT_TASKS", "1"), ("ANALYTIC_EPOCH_DELAY", delay)];
    let still = WorkerProcess::start(address, &settings("10s"));
    let job = submit(address, simulated_job(1)).await;
    let task = wait_for_hand_out(board).await;
    let handed_out = tokio::time::Instant::now();
    eventually("the task runs", || still.get_json("/health")["active_tasks"] == 1);
    still.signal(Signal::STOP);
    let _heir = WorkerProcess::start(address, &settings("0"));
    let summary = wait_for_end(board, &job).await;
    assert_each_once(board, &job, 10);
    // By then the task has ended, too: its end and that of its lease are due at the same moment.
    tokio::time::sleep_until(handed_out + Duration::from_secs(11)).await;
    still.signal(Signal::CONT);
    let line = still.wait_for_log("task failed");
    assert_eq!((line["task_id"].as_str(), line["code"].as_str()), (Some(task.as_str()), Some("LEASE_LOST")));
    // It is a worker as good as before.
    let next = submit(address, simulated_job(1)).await;
    wait_for_end(board, &next).await;
    assert_each_once(board, &next, 10);
    let after = board.read(|board| board.job(&job)).unwrap();
    assert_eq!((summary.reports, after.reports), (10, 10), "nothing was reported under the lost lease");
}

#[test]
fn a_worker_that_stood_still_with_an_outcome_in_hand_asks_before_it_reports_it() {
    at_once(BOTH.map(|contract| async move {
        let first = orchestrator(contract).await;
        let (address, board) = (first.local_addr(), first.board().clone());
        let settings = [("MAX_CONCURRENT_TASKS", "1"), ("ANALYTIC_EPOCH_DELAY", "1s")];
        let mut worker = WorkerProcess::start(address, &settings);
        let job = submit(address, simulated_job(1)).await;
        wait_for_hand_out(&board).await;
        eventually("the task runs", || worker.get_json("/health")["active_tasks"] == 1);
        first.shutdown().await;
        eventually("the outcome waits on disk", || worker.shows("worker_outbox_pending 1"));
        worker.signal(Signal::STOP);
        // Meanwhile the orchestrator comes back, takes the task from the silent worker, and another one does it; a base
        // one takes nothing back, and waits.
        let config = DevConfig { listen: address, ..config(contract) };
        let second = DevOrchestrator::resume(config, &board).await.unwrap();
        let _heir = WorkerProcess::start(address, &[("ANALYTIC_EPOCH_DELAY", "0")]);
        let others = if contract == Contract::Extended { 10 } else { 9 };
        let done = board.wait_for(|board| board.progress_of(&job).ok().filter(|job| job.completed == others));
        tokio::time::timeout(PATIENCE, done).await.expect("the other worker does what it is given");
        worker.signal(Signal::CONT);
        if contract == Contract::Extended {
            worker.wait_for_log("the attempt was given away");
        }
        wait_for_end(&board, &job).await;
        worker.settle();
        assert_each_once(&board, &job, 10);
        assert_eq!(board.read(|board| board.job(&job)).unwrap().reports, 10);
        second.shutdown().await;
    }));
}

/// libfaketime of Debian, which scripts/test installs.
fn faketime() -> PathBuf {
    let places = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let found = places.map(|place| place.path().join("faketime/libfaketime.so.1")).find(|path| path.exists());
    found.expect(
        "libfaketime is not installed; `apt-get install libfaketime`, or run scripts/test, which does so",
    )
}

#[test]
fn a_wall_clock_that_jumps_by_an_hour_changes_nothing() {
    at_once(BOTH.map(jump));
}

async fn jump(contract: Contract) {
    let orchestrator = orchestrator(contract).await;
    let (address, board) = (orchestrator.local_addr(), orchestrator.board());
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    std::fs::write(&clock, "+0").unwrap();
    let library = faketime();
    let settings = [
        ("MAX_CONCURRENT_TASKS", "2"),
        ("ANALYTIC_EPOCH_DELAY", "500ms"),
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    let mut worker = WorkerProcess::start(address, &settings);
    let job = submit(address, simulated_job(2)).await;
    let heard = || worker.get_json("/health")["last_heartbeat"].as_str().unwrap_or_default().to_owned();
    eventually("a heartbeat is answered", || !heard().is_empty());
    let before = heard();
    for (at, offset) in [(4, "+3600"), (10, "-3600")] {
        let reached = board.wait_for(|board| board.progress_of(&job).ok().filter(|job| job.completed >= at));
        tokio::time::timeout(PATIENCE, reached).await.unwrap();
        std::fs::write(&clock, offset).unwrap();
        // The clock did jump, or this test would say nothing.
        eventually("the worker sees the other time", || {
            let hours = |time: &str| time.get(..13).map(str::to_owned);
            hours(&heard()) != hours(&before)
        });
    }
    wait_for_end(board, &job).await;
    worker.settle();
    assert_each_once(board, &job, 20);
    assert_eq!(board.read(|board| board.job(&job)).unwrap().reports, 20);
    assert!(!worker.log().iter().any(|line| line["code"] == "LEASE_LOST"), "no lease was lost");
}
