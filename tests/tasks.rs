//! Tasks go the whole way, with both contracts, through real processes and sockets.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use support::middleman::{Deed, Middleman};
use support::witness::Witness;
use support::*;
use tensorfleet_worker::dev::{Contract, DevConfig, DevOrchestrator, JobStatus};
use tensorfleet_worker::domain::{JobId, TaskId};
use tensorfleet_worker::wire::pb;

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

/// How long a cancelled job may go on.
const CANCEL_LIMIT: Duration = Duration::from_secs(1);

/// Cancels a job whose task runs, and waits for the end of that; when it was cancelled, and when it ended.
async fn cancel(orchestrator: &DevOrchestrator, worker: &WorkerProcess, job: &JobId) -> (Instant, Instant) {
    let board = orchestrator.board();
    let held = board.wait_for(|board| {
        let of_job = |(task, of): (TaskId, JobId)| (of == *job).then_some(task);
        board.worker_activity().into_iter().find_map(|worker| worker.current.and_then(of_job))
    });
    let task = tokio::time::timeout(PATIENCE, held).await.expect("no task was handed out");
    let mut client = worker.client().await;
    // A task that the worker has not begun yet would go without a word.
    let mut stream = watch(&mut client, task.as_str()).await;
    let watched = spawn(async move {
        while stream.message().await.unwrap().is_some() {}
        Instant::now()
    });
    let mut orchestrator_client = client_of(orchestrator.local_addr()).await;
    let cancelled = Instant::now();
    orchestrator_client.cancel_job(pb::CancelJobRequest { job_id: job.to_string() }).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, watched).await.expect("the task goes on").unwrap();
    assert_eq!(board.read(|board| board.job(job)).unwrap().status, JobStatus::Cancelled);
    let counted = board.read(|board| board.completions(job)).unwrap();
    assert!(!counted.contains_key(&task), "it was at its end anyway");
    (cancelled, ended)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_stops_its_running_task_within_a_second() {
    let witness = Witness::start();
    // Some seconds, in many steps.
    let mut training = real_job(1);
    training.dataset_path = "builtin:digits".into();
    for (name, value) in [("hidden_layers", "1024,1024"), ("batch_size", "256")] {
        training.hyperparameters.insert(name.into(), value.into());
    }
    for (contract, request) in
        BOTH.into_iter().flat_map(|contract| [(contract, simulated_job(1)), (contract, training.clone())])
    {
        let orchestrator = orchestrator(contract).await;
        let settings = [("ANALYTIC_EPOCH_DELAY", "10m"), ("MAX_CONCURRENT_TASKS", "1")];
        let worker = WorkerProcess::start(orchestrator.local_addr(), &settings);
        for _ in 0..5 {
            let job = submit(orchestrator.local_addr(), request.clone()).await;
            let (cancelled, ended) = cancel(&orchestrator, &worker, &job).await;
            let (took, stalled) = (ended - cancelled, witness.stalled(cancelled, ended));
            println!(
                "{contract:?}, {:?}: {took:?}, {stalled:?} of it the machine",
                request.hyperparameters["backend"]
            );
            // Time that the machine gave nobody is not the worker's.
            assert!(
                took < CANCEL_LIMIT + stalled,
                "with {contract:?} it took {took:?}, stalled for {stalled:?}"
            );
        }
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
    let ends = [Signal::KILL, Signal::TERM];
    for (contract, signal) in BOTH.into_iter().flat_map(|contract| ends.map(|signal| (contract, signal))) {
        let first = orchestrator(contract).await;
        let (address, board) = (first.local_addr(), first.board().clone());
        let settings = [("MAX_CONCURRENT_TASKS", "1"), ("ANALYTIC_EPOCH_DELAY", "2s")];
        let mut worker = WorkerProcess::start(address, &settings);
        let job = submit(address, simulated_job(1)).await;
        wait_for_hand_out(&board).await;
        // The task ends while nobody is there to hear of it, and then the worker ends too.
        first.shutdown().await;
        eventually("the outcome waits on disk", || worker.shows("worker_outbox_pending 1"));
        worker.signal(signal);
        worker.wait();
        let state = Arc::clone(&worker.state);
        drop(worker);
        let config = DevConfig { listen: address, ..config(contract) };
        let second = DevOrchestrator::resume(config, &board).await.unwrap();
        let settings = [("MAX_CONCURRENT_TASKS", "1"), ("ANALYTIC_EPOCH_DELAY", "0")];
        let mut worker = WorkerProcess::start_in(state, address, &settings);
        let told = |line: &Value| line["message"] == "reporting outcomes that were left by the last run";
        assert!(worker.log().iter().any(told), "{:#?}", worker.log());
        wait_for_end(&board, &job).await;
        worker.settle();
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
    // Counts heartbeats, and nothing else that shows that the worker lives.
    let middleman = Middleman::start(orchestrator.local_addr(), |_, _| Deed::Carry).await;
    let worker = WorkerProcess::start(middleman.address, &[("MAX_CONCURRENT_TASKS", "4")]);
    for _ in 0..4 {
        let mut job = real_job(50);
        job.dataset_path = "builtin:digits".into();
        job.hyperparameters.insert("hidden_layers".into(), "512,512".into());
        submit(orchestrator.local_addr(), job).await;
    }
    let all_run = orchestrator.board().wait_for(|board| {
        let running = board.jobs().iter().filter(|job| job.status == JobStatus::Running).count();
        (running == 4).then_some(())
    });
    tokio::time::timeout(PATIENCE, all_run).await.expect("all slots train");
    let before = middleman.calls("heartbeat").len();
    eventually("eight heartbeats come", || middleman.calls("heartbeat").len() >= before + 8);
    let busy = worker.get_json("/health")["cpu_usage"].as_f64().unwrap();
    assert!(busy > 50.0, "the machine was meant to be busy, and was at {busy} %");
    let heard = middleman.calls("heartbeat").split_off(before);
    let mut silences: Vec<_> = heard.windows(2).map(|pair| pair[1] - pair[0]).collect();
    silences.sort_unstable();
    // One is due each second; a lease ends after six. Who builds beside it may hold up one of them.
    assert!(silences[silences.len() / 2] < Duration::from_millis(1_500), "{silences:?}");
    assert!(silences.last().unwrap() < &Duration::from_secs(5), "{silences:?}");
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

#[tokio::test(flavor = "multi_thread")]
async fn of_a_job_that_has_ended_the_model_is_left_and_nothing_else() {
    for contract in BOTH {
        let orchestrator = orchestrator(contract).await;
        let worker = WorkerProcess::start(orchestrator.local_addr(), &[]);
        let job = submit(orchestrator.local_addr(), real_job(1)).await;
        wait_for_end(orchestrator.board(), &job).await;
        let folder = |kind: &str| worker.state.path().join(kind).join(job.as_str());
        let told = worker.wait_for_log("the job has ended, it is in ");
        assert_eq!(told["job_id"], job.as_str(), "with {contract:?}");
        eventually("its checkpoints are removed", || !folder("checkpoints").exists());
        assert!(folder("models").join("model.safetensors").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_job_that_ended_while_its_worker_was_dead_the_model_is_left_too() {
    for contract in BOTH {
        let orchestrator = orchestrator(contract).await;
        let mut worker = WorkerProcess::start(orchestrator.local_addr(), &[("MAX_CONCURRENT_TASKS", "1")]);
        let job = submit(orchestrator.local_addr(), real_job(200)).await;
        let trained = orchestrator.board().wait_for(|b| b.job(&job).ok().filter(|job| job.completed >= 1));
        tokio::time::timeout(PATIENCE, trained).await.unwrap();
        worker.signal(Signal::KILL);
        worker.wait();
        let state = Arc::clone(&worker.state);
        drop(worker);
        let folder = |kind: &str| state.path().join(kind).join(job.as_str());
        assert!(folder("checkpoints").exists() && !folder("models").exists(), "with {contract:?}");
        let cancel = pb::CancelJobRequest { job_id: job.to_string() };
        client_of(orchestrator.local_addr()).await.cancel_job(cancel).await.unwrap();
        let worker = WorkerProcess::start_in(Arc::clone(&state), orchestrator.local_addr(), &[]);
        let told = worker.wait_for_log("the job has ended, it is in ");
        assert_eq!(told["job_id"], job.as_str(), "with {contract:?}");
        eventually("its checkpoints are removed", || !folder("checkpoints").exists());
        assert!(folder("models").join("model.safetensors").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_as_long_as_the_orchestrator_says_with_both_contracts() {
    let losses = async |contract: Contract, more: &[(&str, &str)]| {
        let orchestrator = orchestrator(contract).await;
        let _worker = WorkerProcess::start(orchestrator.local_addr(), &[("MAX_CONCURRENT_TASKS", "1")]);
        let mut job = real_job(3);
        let given = [("lr_schedule", "cosine"), ("seed", "5")];
        job.hyperparameters
            .extend(given.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let job = submit(orchestrator.local_addr(), job).await;
        let summary = wait_for_end(orchestrator.board(), &job).await;
        summary.epochs.iter().map(|epoch| epoch.loss.to_bits()).collect::<Vec<_>>()
    };
    let expected = losses(Contract::Extended, &[]).await;
    assert_eq!(expected.len(), 3);
    assert_eq!(losses(Contract::Base, &[]).await, expected);
    // For an estimator of scikit-learn that is no number of epochs of the job.
    assert_eq!(losses(Contract::Base, &[("max_iter", "1000")]).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orchestrator_that_holds_no_poll_is_not_asked_without_pause() {
    let at_once = DevConfig { long_poll: Duration::ZERO, ..config(Contract::Base) };
    let orchestrator = DevOrchestrator::start(at_once).await.unwrap();
    let worker = WorkerProcess::start(orchestrator.local_addr(), &[("MAX_CONCURRENT_TASKS", "1")]);
    let polls = || -> u64 {
        let (_, metrics) = worker.get("/metrics");
        let of_polls = |line: &&str| line.contains("_rpc_seconds_count{") && line.contains("\"AssignTask\"");
        let counts = metrics.lines().filter(of_polls);
        counts.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    };
    eventually("ten polls came back empty", || polls() >= 10);
    let (before, began) = (polls(), Instant::now());
    eventually("twenty more did", || polls() >= before + 20);
    // Each waits for up to 250 ms; without waits they take a few milliseconds.
    assert!(began.elapsed() > Duration::from_millis(500), "{:?}", began.elapsed());
    let job = submit(orchestrator.local_addr(), simulated_job(1)).await;
    wait_for_end(orchestrator.board(), &job).await;
}
