//! Tasks go the whole way, with both contracts, through real processes and sockets.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use support::*;
use tensorfleet_worker::dev::{Contract, DevConfig, DevOrchestrator, JobStatus};
use tensorfleet_worker::wire::pb;

const BOTH: [Contract; 2] = [Contract::Base, Contract::Extended];

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_tasks_complete_exactly_once_with_both_contracts() {
    for contract in BOTH {
        let orchestrator = orchestrator(contract).await;
        let workers = [(); 2].map(|()| WorkerProcess::start(orchestrator.local_addr(), &[]));
        let job = submit(orchestrator.local_addr(), real_job(20)).await;
        let summary = wait_for_end(orchestrator.board(), &job).await;
        assert_each_once(orchestrator.board(), &job, 200);
        assert_eq!(summary.reports, 200, "nothing is reported twice");
        assert_eq!(summary.workers.len(), 2, "both workers took part: {:?}", summary.workers);
        let last = summary.epochs.last().unwrap();
        assert!(last.accuracy > 0.9, "it learned: {last:?}");
        if contract == Contract::Extended {
            assert!(last.validation_accuracy.unwrap() > 0.85, "{last:?}");
        }
        // The last outcome may be counted here a moment after the orchestrator has counted it.
        eventually("both workers together count 200 tasks", || {
            let health = workers.each_ref().map(|worker| worker.get_json("/health"));
            assert!(health.iter().all(|health| health["orchestrator_connection"] == "connected"));
            health.iter().map(|health| health["completed_tasks"].as_u64().unwrap()).sum::<u64>() == 200
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_stops_its_running_task_within_a_second() {
    for contract in BOTH {
        let orchestrator = orchestrator(contract).await;
        let settings = [("ANALYTIC_EPOCH_DELAY", "10m"), ("MAX_CONCURRENT_TASKS", "1")];
        let worker = WorkerProcess::start(orchestrator.local_addr(), &settings);
        let job = submit(orchestrator.local_addr(), simulated_job(1)).await;
        let task = wait_for_hand_out(orchestrator.board()).await;
        let mut client = worker.client().await;
        // A task that the worker has not begun yet would go without a word.
        let mut stream = watch(&mut client, &task).await;
        let watched = spawn(async move { while stream.message().await.unwrap().is_some() {} });
        let mut orchestrator_client = client_of(orchestrator.local_addr()).await;
        let cancelled = Instant::now();
        orchestrator_client.cancel_job(pb::CancelJobRequest { job_id: job.to_string() }).await.unwrap();
        tokio::time::timeout(PATIENCE, watched).await.expect("the task goes on").unwrap();
        let took = cancelled.elapsed();
        assert!(took < Duration::from_secs(1), "with {contract:?} it took {took:?}");
        assert_eq!(orchestrator.board().read(|board| board.job(&job)).unwrap().status, JobStatus::Cancelled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_orchestrator_loses_no_result() {
    for contract in BOTH {
        let first = orchestrator(contract).await;
        let (address, board) = (first.local_addr(), first.board().clone());
        let worker = WorkerProcess::start(address, &[("MAX_CONCURRENT_TASKS", "4")]);
        let job = submit(address, real_job(20)).await;
        let half = board.wait_for(|board| board.job(&job).ok().filter(|summary| summary.completed >= 60));
        tokio::time::timeout(PATIENCE, half).await.unwrap();
        first.shutdown().await;
        worker.wait_for_log("the link to the orchestrator is lost");
        let config = DevConfig { listen: address, ..config(contract) };
        let second = DevOrchestrator::resume(config, &board).await.unwrap();
        worker.wait_for_log("connected to the orchestrator");
        let summary = wait_for_end(&board, &job).await;
        assert_each_once(&board, &job, 200);
        if contract == Contract::Extended {
            assert_eq!(summary.completed, 200);
        }
        second.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_acknowledged_is_reported_after_the_worker_has_ended() {
    for signal in [Signal::KILL, Signal::TERM] {
        let first = orchestrator(Contract::Extended).await;
        let (address, board) = (first.local_addr(), first.board().clone());
        let settings = [("MAX_CONCURRENT_TASKS", "1"), ("ANALYTIC_EPOCH_DELAY", "2s")];
        let mut worker = WorkerProcess::start(address, &settings);
        let job = submit(address, simulated_job(1)).await;
        wait_for_hand_out(&board).await;
        // The task ends while nobody is there to hear of it, and then the worker ends too.
        first.shutdown().await;
        eventually("the outcome waits on disk", || {
            let (_, metrics) = worker.get("/metrics");
            metrics.lines().any(|line| line == "worker_outbox_pending 1")
        });
        worker.signal(signal);
        worker.wait();
        let state = Arc::clone(&worker.state);
        drop(worker);
        let config = DevConfig { listen: address, ..config(Contract::Extended) };
        let second = DevOrchestrator::resume(config, &board).await.unwrap();
        let settings = [("MAX_CONCURRENT_TASKS", "1"), ("ANALYTIC_EPOCH_DELAY", "0")];
        let worker = WorkerProcess::start_in(state, address, &settings);
        let told = |line: &Value| line["message"] == "reporting outcomes that were left by the last run";
        assert!(worker.log().iter().any(told), "{:#?}", worker.log());
        wait_for_end(&board, &job).await;
        assert_each_once(&board, &job, 10);
        second.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_a_killed_worker_are_done_by_another() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let doomed = WorkerProcess::start(orchestrator.local_addr(), &[("ANALYTIC_EPOCH_DELAY", "10m")]);
    let job = submit(orchestrator.local_addr(), simulated_job(2)).await;
    wait_for_hand_out(orchestrator.board()).await;
    doomed.signal(Signal::KILL);
    let _other = WorkerProcess::start(orchestrator.local_addr(), &[("ANALYTIC_EPOCH_DELAY", "0")]);
    wait_for_end(orchestrator.board(), &job).await;
    assert_each_once(orchestrator.board(), &job, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_at_any_moment_ends_with_the_figures_of_one_that_was_not() {
    let settings = [("MAX_CONCURRENT_TASKS", "1"), ("WORKER_ID", "one")];
    let figures = async |(model, more): (&str, &[(&str, &str)]), kills: &[u64]| {
        let orchestrator = orchestrator(Contract::Extended).await;
        let (address, board) = (orchestrator.local_addr(), orchestrator.board());
        let mut worker = WorkerProcess::start(address, &settings);
        let state = Arc::clone(&worker.state);
        let mut job = pb::TrainingJobRequest { model_type: model.to_owned(), ..real_job(3) };
        for (name, value) in [("seed", "5")].iter().chain(more) {
            job.hyperparameters.insert((*name).to_owned(), (*value).to_owned());
        }
        let id = submit(address, job).await;
        for at in kills {
            let reached =
                board.wait_for(|board| board.job(&id).ok().filter(|job| job.completed as u64 >= *at));
            tokio::time::timeout(PATIENCE, reached).await.unwrap();
            // Not always at the end of a task, where the news come from.
            for _ in 0..(*at * 7_919) % 40_000 {
                std::hint::spin_loop();
            }
            worker.signal(Signal::KILL);
            worker.wait();
            worker = WorkerProcess::start_in(Arc::clone(&state), address, &settings);
        }
        let summary = wait_for_end(board, &id).await;
        assert_each_once(board, &id, 30);
        let figures = |epoch: &tensorfleet_worker::dev::EpochSummary| {
            [epoch.loss.to_bits(), epoch.validation_loss.unwrap().to_bits()]
        };
        summary.epochs.iter().map(figures).collect::<Vec<_>>()
    };
    for job in [
        ("neural_network", &[][..]),
        ("neural_network", &[("dropout", "0.3"), ("patience", "1"), ("learning_rate", "0.05")]),
        (
            "xgboost",
            &[
                ("subsample", "0.6"),
                ("colsample_bytree", "0.7"),
                ("early_stopping_rounds", "4"),
                ("learning_rate", "1"),
            ],
        ),
    ] {
        assert_eq!(figures(job, &[2, 5, 11, 12, 19, 26]).await, figures(job, &[]).await, "{job:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_are_on_time_while_all_cores_train() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let worker = WorkerProcess::start(orchestrator.local_addr(), &[("MAX_CONCURRENT_TASKS", "4")]);
    for _ in 0..4 {
        let mut job = real_job(50);
        job.dataset_path = "builtin:digits".into();
        job.hyperparameters.insert("hidden_layers".into(), "512,512".into());
        submit(orchestrator.local_addr(), job).await;
    }
    let board = orchestrator.board();
    let heard = || board.read(|board| board.worker_activity().first().map(|worker| worker.seen));
    let all_run = board.wait_for(|board| {
        let running = board.jobs().iter().filter(|job| job.status == JobStatus::Running).count();
        (running == 4).then_some(())
    });
    tokio::time::timeout(PATIENCE, all_run).await.expect("all slots train");
    let (began, mut last) = (Instant::now(), heard().unwrap());
    let mut longest = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(5) {
        let next = board.wait_for(|board| {
            board.worker_activity().first().map(|worker| worker.seen).filter(|seen| *seen > last)
        });
        let next = tokio::time::timeout(PATIENCE, next).await.expect("the worker fell silent");
        longest = longest.max(next - last);
        last = next;
    }
    // A heartbeat is due each second; three lost ones would cost a lease.
    assert!(longest < Duration::from_secs(2), "the longest silence was {longest:?}");
    let busy = worker.get_json("/health")["cpu_usage"].as_f64().unwrap();
    assert!(busy > 50.0, "the machine was meant to be busy, and was at {busy} %");
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_moves_while_a_task_trains() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let worker = WorkerProcess::start(orchestrator.local_addr(), &[("MAX_CONCURRENT_TASKS", "1")]);
    let mut job = real_job(1);
    job.dataset_path = "builtin:digits".into();
    job.hyperparameters.insert("hidden_layers".into(), "1024,1024".into());
    submit(orchestrator.local_addr(), job).await;
    let task = wait_for_hand_out(orchestrator.board()).await;
    let seen = watch_to_the_end(&mut worker.client().await, &task).await;
    assert!(seen > 2, "only {seen} messages came");
}
