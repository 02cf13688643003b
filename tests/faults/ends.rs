//! How a worker ends: at the deadline of a drain, and when everything happens at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use tensorfleet_worker::dev::{Contract, DevConfig, DevOrchestrator, JobStatus};
use tensorfleet_worker::wire::pb;
use tokio::net::TcpListener;

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

/// Takes connections and says nothing.
async fn silence() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
        }
    });
    address
}

async fn end_among_the_silent(contract: Contract) {
    // A lease that outlasts all of it, so that the task is still to be given back.
    let config = DevConfig { lease: Duration::from_secs(60), ..config(contract) };
    let orchestrator = DevOrchestrator::start(config).await.unwrap();
    let board = orchestrator.board();
    let silent = Arc::new(AtomicBool::new(false));
    let middleman = Middleman::start(orchestrator.local_addr(), {
        let silent = Arc::clone(&silent);
        move |_, _| if silent.load(Ordering::Relaxed) { Deed::Keep } else { Deed::Carry }
    })
    .await;
    let collector = format!("http://{}", silence().await);
    let settings = [
        ("MAX_CONCURRENT_TASKS", "1"),
        ("TRAINING_BACKEND", "cpu"),
        ("DRAIN_TIMEOUT", "1s"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector),
    ];
    let mut worker = WorkerProcess::start(middleman.address, &settings);
    worker.wait_for_log("runners are confined");
    // Its task does not stop either, until it is killed.
    for runner in runners_of(&worker) {
        kill_process(runner, Signal::STOP).unwrap();
    }
    let job = submit(orchestrator.local_addr(), real_job(1)).await;
    wait_for_hand_out(board).await;
    eventually("the task runs", || worker.get_json("/health")["active_tasks"] == 1);
    silent.store(true, Ordering::Relaxed);
    let began = Instant::now();
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(21), "{contract:?}: it took {:?}", began.elapsed());
    // What could not be said is said by the next process.
    let address = orchestrator.local_addr();
    let _heir = WorkerProcess::start_in(Arc::clone(&worker.state), address, &settings[..2]);
    match contract {
        Contract::Extended => {
            wait_for_end(board, &job).await;
            assert_each_once(board, &job, 10);
        }
        Contract::Base => {
            let failed = board.wait_for(|board| board.job(&job).ok().filter(|job| job.failed == 1));
            tokio::time::timeout(PATIENCE, failed).await.expect("the interruption is reported");
        }
    }
}

#[test]
fn an_orchestrator_and_a_collector_that_answer_nothing_do_not_outlast_the_grace() {
    at_once(BOTH.map(end_among_the_silent));
}

#[test]
fn a_signal_while_a_cancel_races_the_end_of_a_task_loses_and_repeats_nothing() {
    at_once(BOTH.map(|contract| async move {
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
            let (state, said) = (Arc::clone(&worker.state), worker.log());
            drop(worker);
            let heir = WorkerProcess::start_in(state, address, &settings);
            let told = heir.log().iter().any(|line| line.to_string().contains("left by the last run"));
            assert!(!told, "everything was acknowledged before the end: {said:#?}");
        }
    }));
}
