//! The worker and programs that are not ours: an orchestrator in Python, a client that knows only reflection,
//! Prometheus.

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::prometheus::{JOB, Prometheus, promtool};
use support::*;
use tensorfleet_worker::dev::Contract;

/// Python with the packages of tests/peers/requirements.txt.
fn python() -> PathBuf {
    let python = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    assert!(python.exists(), "{} is missing: scripts/test makes it", python.display());
    python
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name)
}

#[test]
fn an_orchestrator_that_knows_only_the_base_contract_gets_each_task_once() {
    let mut peer = Command::new(python())
        .arg(script("base_orchestrator.py"))
        .arg("20")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(peer.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let port = u16::try_from(next()["port"].as_u64().unwrap()).unwrap();
    // On loopback alone, since a worker that everybody reaches warns of that.
    let settings = [("TRAINING_BACKEND", "cpu"), ("LISTEN_ADDRESS", "127.0.0.1")];
    let worker = WorkerProcess::start(SocketAddr::from(([127, 0, 0, 1], port)), &settings);
    let report = next();
    assert_eq!(report["completed"], true, "{report}");
    for counts in ["handed_out", "reported"] {
        let counts = report[counts].as_array().unwrap();
        assert_eq!(counts.len(), 200);
        assert!(counts.iter().all(|count| *count == 1), "{report}");
    }
    assert_eq!(report["failures"], Value::Array(Vec::new()));
    assert!(report["last_loss"].as_f64().unwrap() < 0.5, "it trained: {report}");
    let unknown = report["unknown_methods"].as_object().unwrap();
    assert_eq!(
        unknown.keys().collect::<Vec<_>>(),
        ["RegisterWorker"],
        "only the question which contract it is"
    );
    // What a kernel without Landlock cannot confine is said, and is no fault of the orchestrator.
    let of_kernel = |line: &Value| line.to_string().contains("runners are confined in part");
    let mut errors = worker.log();
    errors.retain(|line| (line["level"] == "ERROR" || line["level"] == "WARN") && !of_kernel(line));
    assert!(errors.is_empty(), "an empty poll is no outage: {errors:#?}");
    let health = worker.get_json("/health");
    assert_eq!(
        (&health["completed_tasks"], &health["orchestrator_connection"]),
        (&200.into(), &"connected".into())
    );
    assert!(health["last_heartbeat"].is_string());
    peer.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(wait(&mut peer).success());
}

#[test]
fn a_client_that_knows_nothing_lists_the_services_and_asks_for_the_status() {
    let worker =
        WorkerProcess::start(SocketAddr::from(([127, 0, 0, 1], 1)), &[("WORKER_ID", "known-by-name")]);
    let output =
        Command::new(python()).arg(script("reflect.py")).arg(worker.grpc.to_string()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let services: Vec<&str> =
        answer["services"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
    for service in ["worker.WorkerService", "grpc.health.v1.Health"] {
        assert!(services.contains(&service), "{services:?}");
    }
    assert_eq!(answer["status"]["worker_id"], "known-by-name");
    assert_eq!(answer["status"]["status"], "IDLE");
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_scrapes_the_worker_while_it_trains_and_promtool_finds_nothing() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let worker = WorkerProcess::start(orchestrator.local_addr(), &[("MAX_CONCURRENT_TASKS", "2")]);
    let mut long = real_job(1_000);
    long.dataset_path = "builtin:digits".into();
    let job = submit(orchestrator.local_addr(), long).await;
    let some = orchestrator.board().wait_for(|board| board.job(&job).ok().filter(|job| job.completed > 3));
    tokio::time::timeout(PATIENCE, some).await.unwrap();

    let (status, metrics) = worker.get("/metrics");
    assert_eq!(status, 200);
    for name in [
        "worker_task_duration_seconds_bucket{",
        "worker_tasks_completed_total{",
        "worker_tasks_failed_total 0",
        "worker_training_loss{",
        "worker_training_accuracy{",
        "worker_validation_loss{",
        "worker_validation_accuracy{",
        "worker_task_simulated{",
        "worker_cpu_usage_percent ",
        "worker_memory_usage_bytes ",
        "worker_concurrent_tasks ",
        "worker_training_samples_total{",
        "worker_training_batches_total{",
        "worker_training_step_seconds_count{",
        "worker_slots{",
        "worker_task_queue_seconds_count",
        "worker_orchestrator_up 1",
        "worker_orchestrator_rpc_seconds_count{",
        "worker_heartbeats_total{",
        "worker_outbox_pending ",
        "worker_build_info{",
        "worker_gpus 0",
        "process_resident_memory_bytes ",
    ] {
        assert!(metrics.lines().any(|line| line.starts_with(name)), "{name} is missing in\n{metrics}");
    }
    assert!(metrics.contains("backend=\"cpu\""));

    promtool(&["check", "metrics"], &metrics);
    let prometheus = Prometheus::start(&[worker.http], &[]);
    let up = prometheus.query("up == 1");
    assert_eq!(up[0]["metric"]["job"], JOB);
    let completed = prometheus.query("sum(worker_tasks_completed_total) > 0");
    assert!(completed[0]["value"][1].as_str().unwrap().parse::<f64>().unwrap() > 0.0);
    prometheus.query("worker_training_loss");
}
