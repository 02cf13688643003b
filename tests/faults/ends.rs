//! How a worker ends: at the deadline of a drain, and when everything happens at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tensorfleet_worker::dev::{Contract, JobStatus};
use tensorfleet_worker::wire::pb;

use crate::support::middleman::{Deed, Middleman};
use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn at_the_deadline_of_a_drain_a_task_is_given_back_or_reported_as_failed() {
    for contract in [Contract::Base, Contract::Extended] {
        let orchestrator = orchestrator(contract).await;
        let board = orchestrator.board();
        let middleman = Middleman::start(orchestrator.local_addr(), |_, _| Deed::Carry).await;
        let settings =
            [("MAX_CONCURRENT_TASKS", "1"), ("ANALYTIC_EPOCH_DELAY", "10m"), ("DRAIN_TIMEOUT", "1s")];
        let mut worker = WorkerProcess::start(middleman.address, &settings);
        let job = submit(orchestrator.local_addr(), simulated_job(1)).await;
        wait_for_hand_out(board).await;
        eventually("the task runs", || worker.get_json("/health")["active_tasks"] == 1);
        let began = Instant::now();
        worker.signal(Signal::TERM);
        assert_eq!(worker.wait().code(), Some(0));
        // The grace that docs/guarantees.md asks for: DRAIN_TIMEOUT and 20 s.
        assert!(began.elapsed() < Duration::from_secs(21), "it took {:?}", began.elapsed());
        let summary = board.read(|board| board.job(&job)).unwrap();
        let reports = middleman.calls("report_task_completion").len();
        let releases = middleman.calls("release_task").len();
        match contract {
            Contract::Extended => {
                assert_eq!((releases, reports, summary.failed), (1, 0, 0), "{summary:?}");
                let _heir = WorkerProcess::start(orchestrator.local_addr(), &[("ANALYTIC_EPOCH_DELAY", "0")]);
                wait_for_end(board, &job).await;
                assert_each_once(board, &job, 10);
            }
            Contract::Base => {
                assert_eq!(
                    (releases, reports, summary.failed, summary.completed),
                    (0, 1, 1, 0),
                    "{summary:?}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_while_a_cancel_races_the_end_of_a_task_loses_and_repeats_nothing() {
    for contract in [Contract::Base, Contract::Extended] {
        for round in 0..6_u64 {
            let orchestrator = orchestrator(contract).await;
            let (address, board) = (orchestrator.local_addr(), orchestrator.board());
            let settings = [("MAX_CONCURRENT_TASKS", "2"), ("ANALYTIC_EPOCH_DELAY", "300ms")];
            let mut worker = WorkerProcess::start(address, &settings);
            let job = submit(address, simulated_job(1)).await;
            let mut client = client_of(address).await;
            wait_for_hand_out(board).await;
            // Before, at and after the end of the first tasks.
            tokio::time::sleep(Duration::from_millis(240 + 30 * round)).await;
            let cancel = client.cancel_job(pb::CancelJobRequest { job_id: job.to_string() });
            worker.signal(Signal::TERM);
            cancel.await.unwrap();
            assert_eq!(worker.wait().code(), Some(0));
            let counted = board.read(|board| board.completions(&job)).unwrap();
            assert!(counted.values().all(|count| *count == 1), "{contract:?}: {counted:?}");
            let before = board.read(|board| board.job(&job)).unwrap();
            assert_eq!(before.status, JobStatus::Cancelled);
            let state = Arc::clone(&worker.state);
            drop(worker);
            let heir = WorkerProcess::start_in(state, address, &settings);
            let told = heir.log().iter().any(|line| line.to_string().contains("left by the last run"));
            assert!(!told, "everything was acknowledged before the end");
        }
    }
}
