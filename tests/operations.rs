//! What an operator meets: wrong settings, wrong tasks, signals, and answers over HTTP and gRPC.

mod support;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::process::Output;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::*;
use tensorfleet_worker::dev::{Contract, JobStatus};
use tensorfleet_worker::wire::pb::orchestrator_service_server::OrchestratorServiceServer;
use tensorfleet_worker::wire::worker_pb::{self, TaskRequest};
use tonic::Code;

const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

/// Runs the program to its end.
fn run(arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    command(settings).args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn settings_that_cannot_work_end_the_program_with_a_line_that_names_them() {
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (state, file) = (folder.path().join("state"), file.join("state"));
    let (state, file) = (state.to_str().unwrap(), file.to_str().unwrap());
    type Case<'a> = (&'a [(&'a str, &'a str)], i32, &'a [&'a str]);
    let cases: [Case<'_>; 6] = [
        (&[("METRICS_PORT", &port), ("WORKER_PORT", "0"), ("STATE_DIR", state)], 3, &["METRICS_PORT", &port]),
        (&[("WORKER_PORT", &port), ("METRICS_PORT", "0"), ("STATE_DIR", state)], 3, &["WORKER_PORT", &port]),
        (&[("STATE_DIR", file), ("WORKER_PORT", "0"), ("METRICS_PORT", "0")], 3, &["STATE_DIR", file]),
        (
            &[("ORCHESTRATOR_ADDRESS", "ftp://x:1"), ("STATE_DIR", state)],
            2,
            &["ORCHESTRATOR_ADDRESS", "ftp://x:1"],
        ),
        (
            &[("MAX_CONCURRENT_TASKS", "0"), ("TASK_TIMEOUT", "soon")],
            2,
            &["MAX_CONCURRENT_TASKS", "\"0\"", "TASK_TIMEOUT", "\"soon\""],
        ),
        (
            &[
                ("DEVICE_POLICY", "require"),
                ("STATE_DIR", state),
                ("WORKER_PORT", "0"),
                ("METRICS_PORT", "0"),
            ],
            3,
            &["DEVICE_POLICY"],
        ),
    ];
    for (settings, code, words) in cases {
        let output = run(&["run"], settings);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{settings:?}: {text}");
        for word in words {
            assert!(text.contains(word), "{settings:?} should name {word}: {text}");
        }
        assert!(!text.contains("panicked"), "{text}");
    }
}

#[test]
fn an_orchestrator_that_is_not_there_is_waited_for() {
    let mut worker = WorkerProcess::start(NOBODY, &[]);
    let line = worker.wait_for_log("cannot register with the orchestrator");
    assert!(line["error"].as_str().unwrap().contains("does not answer"), "{line}");
    let (ready, body) = worker.get("/readyz");
    assert_eq!(ready, 503, "{body}");
    assert_eq!(worker.get("/livez").0, 200);
    assert_ne!(worker.get_json("/health")["orchestrator_connection"], "connected");
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_is_refused_later_ends_the_worker_and_loses_nothing() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = OrchestratorServiceServer::new(support::fickle::Fickle::default());
    let served = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener));
    let server = spawn(served);
    let settings = [("ANALYTIC_EPOCH_DELAY", "10m"), ("MAX_CONCURRENT_TASKS", "2")];
    let mut worker = WorkerProcess::start(address, &settings);
    assert_eq!(worker.wait().code(), Some(1));
    let log = worker.log();
    let said = log.iter().any(|line| line.to_string().contains("the token has expired"));
    assert!(said, "{log:#?}");
    // The task was stopped in order, and what is to be said of it waits on disk.
    let kept = std::fs::read_dir(worker.state.path().join("outbox")).unwrap();
    let bytes: u64 = kept.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes > 0, "the outbox is empty; {log:#?}");
    server.abort();
}

fn request(change: impl FnOnce(&mut TaskRequest)) -> TaskRequest {
    let mut request = TaskRequest {
        task_id: format!("task-{}", uuid::Uuid::new_v4()),
        job_id: "job".into(),
        model_type: "neural_network".into(),
        dataset_path: "builtin:iris".into(),
        hyperparameters: BTreeMap::new(),
        epoch: 0,
        batch_start: 0,
        batch_end: 10,
    };
    change(&mut request);
    request
}

fn with(name: &str, value: &str) -> TaskRequest {
    request(|request| {
        request.hyperparameters.insert(name.into(), value.into());
    })
}

/// Code and message of a task that must not succeed, however that is said.
async fn refusal(worker: &WorkerProcess, request: TaskRequest) -> (String, String) {
    match worker.client().await.execute_task(request.clone()).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            assert!(!answer.success, "{request:?} was taken: {answer:?}");
            (answer.error_code, answer.message)
        }
        Err(status) => {
            let code = match status.code() {
                Code::InvalidArgument => "INVALID_ARGUMENT".to_owned(),
                code => format!("{code:?}"),
            };
            (code, status.message().to_owned())
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_task_fails_at_once_names_what_is_wrong_and_harms_nobody() {
    let root = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret.csv"), "a,b\n1,2\n").unwrap();
    symlink(outside.path().join("secret.csv"), root.path().join("link.csv")).unwrap();
    std::fs::write(root.path().join("not.csv"), [0_u8, 159, 146, 150, 0, 1]).unwrap();
    std::fs::write(root.path().join("good.csv"), "x,y,label\n1,2,a\n2,1,b\n3,5,a\n4,1,b\n5,2,a\n1,1,b\n")
        .unwrap();
    let root_path = root.path().to_str().unwrap();
    let settings = [("TRAINING_BACKEND", "cpu"), ("DATA_ROOT", root_path), ("MAX_CONCURRENT_TASKS", "2")];
    let worker = WorkerProcess::start(NOBODY, &settings);
    let escape = format!("../{}/secret.csv", outside.path().file_name().unwrap().to_str().unwrap());
    let path = |path: &str| request(|request| request.dataset_path = path.to_owned());
    let cases = [
        (
            request(|r| r.model_type = "resnet50".into()),
            "INVALID_ARGUMENT",
            vec!["model_type", "resnet50", "neural_network"],
        ),
        (request(|r| r.model_type = "a/b".into()), "INVALID_ARGUMENT", vec!["model_type", "a/b"]),
        (request(|r| r.task_id = String::new()), "INVALID_ARGUMENT", vec!["task_id"]),
        (request(|r| r.epoch = -3), "INVALID_ARGUMENT", vec!["epoch", "-3"]),
        (request(|r| r.batch_end = 0), "INVALID_ARGUMENT", vec!["batch_end", "\"0\"", "batch_start"]),
        (with("learning_rate", "fast"), "INVALID_ARGUMENT", vec!["learning_rate", "fast", "at most 10"]),
        (with("batch_size", "0"), "INVALID_ARGUMENT", vec!["batch_size", "\"0\"", "65536"]),
        (with("target", "no_such_column"), "INVALID_ARGUMENT", vec!["target", "no_such_column"]),
        (with("loss_function", "mean_squared_error"), "INVALID_ARGUMENT", vec!["loss_function"]),
        (path("builtin:mnist"), "INVALID_ARGUMENT", vec!["dataset_path", "builtin:mnist", "digits"]),
        (path("missing.csv"), "NOT_FOUND", vec!["dataset_path", "missing.csv"]),
        (path("not.csv"), "INVALID_ARGUMENT", vec!["dataset_path", "not.csv"]),
        (path(&escape), "INVALID_ARGUMENT", vec!["dataset_path", "DATA_ROOT"]),
        (path("link.csv"), "INVALID_ARGUMENT", vec!["dataset_path", "link.csv"]),
        (path("ftp://host/x.csv"), "INVALID_ARGUMENT", vec!["dataset_path", "ftp"]),
    ];
    for (request, code, words) in cases {
        let (got, message) = refusal(&worker, request.clone()).await;
        assert_eq!(got, code, "{request:?}: {message}");
        for word in words {
            assert!(message.contains(word), "{request:?} should name {word}: {message}");
        }
        assert!(!message.contains(root_path), "the folder is the operator's business: {message}");
    }
    let diverging = request(|r| {
        r.hyperparameters.insert("learning_rate".into(), "10".into());
        r.hyperparameters.insert("optimizer".into(), "sgd".into());
        r.hyperparameters.insert("hidden_layers".into(), "256,256,256,256".into());
        r.batch_end = 400;
    });
    let (code, message) = refusal(&worker, diverging).await;
    assert_eq!(code, "DIVERGED", "{message}");
    assert!(message.contains("step"), "{message}");

    let good = request(|r| r.dataset_path = "good.csv".into());
    let answer = worker.client().await.execute_task(good).await.unwrap().into_inner();
    assert!(answer.success, "the worker is unharmed: {answer:?}");
    assert!(
        (answer.backend.as_str(), answer.simulated) == ("cpu", false) && !answer.model_weights.is_empty()
    );
    let beyond = request(|r| (r.batch_start, r.batch_end) = (900, 1000));
    let answer = worker.client().await.execute_task(beyond).await.unwrap().into_inner();
    assert!(answer.success, "a batch range beyond the data wraps: {answer:?}");
    assert_eq!(worker.get_json("/health")["active_tasks"], 0);
    assert!(worker.log().iter().all(|line| line["level"] != "ERROR"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_task_by_poll_and_by_execute_runs_once_and_both_get_its_outcome() {
    for contract in BOTH {
        let orchestrator = orchestrator(contract).await;
        let settings = [("ANALYTIC_EPOCH_DELAY", "1s"), ("MAX_CONCURRENT_TASKS", "1")];
        let mut worker = WorkerProcess::start(orchestrator.local_addr(), &settings);
        let job = submit(orchestrator.local_addr(), simulated_job(1)).await;
        let task = wait_for_hand_out(orchestrator.board()).await;
        let held = TaskRequest {
            task_id: task.clone(),
            job_id: job.to_string(),
            hyperparameters: [("backend".to_owned(), "analytic".to_owned())].into(),
            batch_end: 100,
            ..request(|_| {})
        };
        let mut client = worker.client().await;
        // The poll's answer is on its way to the worker; which of the two comes first must not matter.
        let answer = client.execute_task(held).await.unwrap().into_inner();
        assert!(answer.success && answer.simulated, "{answer:?}");
        // The poll gets the outcome too, once.
        wait_for_end(orchestrator.board(), &job).await;
        worker.settle();
        assert_each_once(orchestrator.board(), &job, 10);
        assert_eq!(orchestrator.board().read(|board| board.job(&job)).unwrap().reports, 10, "{contract:?}");
        let runs = worker
            .log()
            .iter()
            .filter(|line| line["message"] == "task completed" && line["task_id"] == task.as_str())
            .count();
        assert_eq!(runs, 1, "{contract:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_runs_and_a_second_signal_gives_it_back() {
    // With the base contract nothing can be given back: tests/faults/ends.rs says what comes then.
    type Case = (Contract, Signal, Option<Signal>);
    let cases: [Case; 3] = [
        (Contract::Extended, Signal::TERM, None),
        (Contract::Extended, Signal::INT, Some(Signal::TERM)),
        (Contract::Base, Signal::INT, None),
    ];
    for (contract, first, second) in cases {
        let orchestrator = orchestrator(contract).await;
        let delay = if second.is_none() { "3s" } else { "10m" };
        let settings =
            [("ANALYTIC_EPOCH_DELAY", delay), ("MAX_CONCURRENT_TASKS", "1"), ("DRAIN_TIMEOUT", "60s")];
        let mut worker = WorkerProcess::start(orchestrator.local_addr(), &settings);
        let job = submit(orchestrator.local_addr(), simulated_job(1)).await;
        let task = wait_for_hand_out(orchestrator.board()).await;
        let mut client = worker.client().await;
        let watch = spawn(async move { watch_to_the_end(&mut client, &task).await });
        worker.signal(first);
        let heard = worker.wait_for_log("a second signal cancels what runs");
        assert_eq!(heard["signal"], if first == Signal::INT { "SIGINT" } else { "SIGTERM" });
        worker.wait_for_log("no new task is taken");
        let (ready, body) = worker.get("/readyz");
        assert_eq!(ready, 503, "{body}");
        assert_eq!(worker.get_json("/health")["status"], "DRAINING");
        let refused = worker.client().await.execute_task(request(|_| {})).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        let began = Instant::now();
        if let Some(second) = second {
            worker.signal(second);
        }
        assert_eq!(worker.wait().code(), Some(if second.is_none() { 0 } else { 130 }));
        assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
        let _ = watch.await;
        let summary = orchestrator.board().read(|board| board.job(&job)).unwrap();
        assert_eq!(summary.completed, u32::from(second.is_none()), "{summary:?}");
        assert_eq!(summary.failed, 0, "{summary:?}");
        assert_ne!(summary.status, JobStatus::Failed);
        let _heir = WorkerProcess::start(orchestrator.local_addr(), &[("ANALYTIC_EPOCH_DELAY", "0")]);
        wait_for_end(orchestrator.board(), &job).await;
        assert_each_once(orchestrator.board(), &job, 10);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_over_grpc_ends_the_worker_at_its_deadline() {
    let mut worker =
        WorkerProcess::start(NOBODY, &[("ANALYTIC_EPOCH_DELAY", "10m"), ("DRAIN_TIMEOUT", "10m")]);
    let mut client = worker.client().await;
    let task = with("backend", "analytic");
    let mut asking = worker.client().await;
    let executed = spawn(async move { asking.execute_task(task).await });
    eventually("the task runs", || worker.get_json("/health")["active_tasks"] == 1);
    client.drain(worker_pb::DrainRequest { deadline_seconds: 1 }).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, executed).await.expect("the caller hears of it").unwrap();
    let answer = answer.unwrap().into_inner();
    assert_eq!((answer.success, answer.error_code.as_str()), (false, "INTERRUPTED"), "{answer:?}");
    assert_eq!(worker.wait().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_time_out_and_status_over_grpc() {
    let settings = [("ANALYTIC_EPOCH_DELAY", "10m"), ("TASK_TIMEOUT", "1s"), ("MAX_CONCURRENT_TASKS", "2")];
    let worker = WorkerProcess::start(NOBODY, &settings);
    let simulated = || {
        request(|r| {
            r.hyperparameters.insert("backend".into(), "analytic".into());
        })
    };
    let late = worker.client().await.execute_task(simulated()).await.unwrap().into_inner();
    assert_eq!((late.success, late.error_code.as_str()), (false, "TIMED_OUT"), "{late:?}");

    drop(worker);
    let worker = WorkerProcess::start(NOBODY, &settings[..1]);
    let task = simulated();
    let id = task.task_id.clone();
    let mut client = worker.client().await;
    let mut asking = worker.client().await;
    let executed = spawn(async move { asking.execute_task(task).await.unwrap().into_inner() });
    let mut watcher = worker.client().await;
    let (begun, seen) = tokio::sync::oneshot::channel();
    let watched = spawn({
        let request = worker_pb::WatchTaskRequest { task_id: id.clone() };
        async move {
            let mut stream = loop {
                match watcher.watch_task(request.clone()).await {
                    Ok(stream) => break stream.into_inner(),
                    Err(status) => assert_eq!(status.code(), Code::NotFound, "{status}"),
                }
            };
            assert_eq!(stream.message().await.unwrap().unwrap().task_id, request.task_id);
            begun.send(()).unwrap();
            while stream.message().await.unwrap().is_some() {}
        }
    });
    tokio::time::timeout(PATIENCE, seen).await.expect("the stream begins").unwrap();
    let cancel = || worker_pb::CancelTaskRequest { task_id: id.clone() };
    assert!(client.cancel_task(cancel()).await.unwrap().into_inner().success);
    let cancelled = tokio::time::timeout(PATIENCE, executed).await.unwrap().unwrap();
    assert_eq!(cancelled.error_code, "CANCELLED", "{cancelled:?}");
    tokio::time::timeout(PATIENCE, watched).await.expect("the stream ends with the task").unwrap();
    let unknown = worker_pb::CancelTaskRequest { task_id: "nobody".into() };
    assert!(!client.cancel_task(unknown).await.unwrap().into_inner().success);
    let other = worker_pb::WorkerStatusRequest { worker_id: "somebody-else".into() };
    assert_eq!(client.get_worker_status(other).await.unwrap_err().code(), Code::NotFound);
    let status =
        client.get_worker_status(worker_pb::WorkerStatusRequest::default()).await.unwrap().into_inner();
    let health = worker.get_json("/health");
    assert_eq!(health["worker_id"], status.worker_id.as_str());
    assert_eq!(
        (&health["failed_tasks"], &health["completed_tasks"]),
        (&0.into(), &0.into()),
        "it was cancelled"
    );
}

#[test]
fn a_container_engine_learns_from_the_exit_code_whether_the_worker_is_well() {
    let mut worker = WorkerProcess::start(NOBODY, &[]);
    let port = worker.http.port().to_string();
    let asked = |path: &str| {
        let url = format!("http://{}{path}", worker.http);
        run(&["health", "--url", &url], &[])
    };
    let well = run(&["health"], &[("METRICS_PORT", &port)]);
    assert_eq!((well.status.code(), stderr(&well)), (Some(0), String::new()));
    assert_eq!(String::from_utf8_lossy(&well.stdout), "{\"status\":\"ok\"}\n");
    assert_eq!(asked("/health").status.code(), Some(0), "it works, whatever the orchestrator does");
    let unready = asked("/readyz");
    assert_eq!(unready.status.code(), Some(1));
    assert!(stderr(&unready).contains("503") && stderr(&unready).contains("not registered"), "{unready:?}");
    assert_eq!(asked("/elsewhere").status.code(), Some(1));
    assert_eq!(run(&["health", "--url", "ftp://127.0.0.1/livez"], &[]).status.code(), Some(2));

    worker.signal(Signal::KILL);
    worker.wait();
    let gone = run(&["health"], &[("METRICS_PORT", &port)]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(stderr(&gone).contains("cannot connect"), "{gone:?}");
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = run(&["health", "--url", &format!("http://{}/livez", mute.local_addr().unwrap())], &[]);
    assert_eq!(silent.status.code(), Some(1));
    assert!(stderr(&silent).contains("no answer"), "{silent:?}");
}
