//! What people ask a worker and their machine: status, explain, doctor, completions, manual.

mod support;

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::*;
use tensorfleet_worker::dev::Contract;

fn run(settings: &[(&str, &str)], arguments: &[&str]) -> Output {
    command(settings).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(output)))
}

const CPU: &[(&str, &str)] = &[("TRAINING_BACKEND", "cpu")];

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_says_from_afar_how_it_is_and_why_a_task_failed() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let address = orchestrator.local_addr();
    let worker = WorkerProcess::start(address, CPU);
    let job = submit(address, real_job(1)).await;
    wait_for_end(orchestrator.board(), &job).await;
    let lost = real_job(1);
    let lost = submit(
        address,
        tensorfleet_worker::wire::pb::TrainingJobRequest { dataset_path: "nowhere.csv".into(), ..lost },
    )
    .await;
    wait_for_end(orchestrator.board(), &lost).await;

    let grpc = worker.grpc.to_string();
    let output = run(&[], &["status", "--worker", &grpc, "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let (status, health) = (json(&output), worker.get_json("/health"));
    for name in ["worker_id", "backend", "version", "completed_tasks", "orchestrator_connection", "gpus"] {
        assert_eq!(status[name], health[name], "{name}");
    }
    assert_eq!(status["slots"]["total"], 3);
    let recent = status["recent"].as_array().unwrap();
    let failed = recent.iter().find(|ended| ended["status"] == "failed").expect("a failure").clone();
    assert!(recent.iter().any(|ended| ended["status"] == "completed" && ended["loss"].is_f64()));

    let output = run(&[], &["status", "--worker", &grpc]);
    for part in ["connected", "slots", "completed", failed["error_code"].as_str().unwrap()] {
        assert!(text(&output).contains(part), "{part} is missing in\n{}", text(&output));
    }

    let task = failed["task_id"].as_str().unwrap();
    let output = run(&[], &["explain", task, "--worker", &grpc]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    for part in ["nowhere.csv", "NOT_FOUND", "to mend it", "DATA_ROOT"] {
        assert!(text(&output).contains(part), "{part} is missing in\n{}", text(&output));
    }
    let explained = json(&run(&[], &["explain", task, "--worker", &grpc, "--json"]));
    assert_eq!(
        (&explained["state"], &explained["details"]["error_code"]),
        (&"failed".into(), &"NOT_FOUND".into())
    );
    let output = run(&[], &["explain", "no-such-task", "--worker", &grpc, "--json"]);
    assert_eq!((output.status.code(), &json(&output)["state"]), (Some(1), &"unknown".into()));
    orchestrator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_through_an_absence_and_ends_with_a_signal() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let mut worker = WorkerProcess::start(orchestrator.local_addr(), CPU);
    let grpc = worker.grpc.to_string();
    let mut watch = command(&[])
        .args(["status", "--worker", &grpc, "--watch", "--interval", "100ms", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
    assert_eq!(first["status"], "IDLE");
    worker.child.kill().unwrap();
    worker.child.wait().unwrap();
    let away = lines.find(|line| line.contains("\"error\"")).unwrap();
    assert!(away.contains("does not answer"), "{away}");
    kill_process(Pid::from_raw(i32::try_from(watch.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    assert_eq!(wait(&mut watch).code(), Some(130));

    let output = run(&[], &["status", "--worker", &grpc]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains(&grpc), "{}", text(&output));
    let output = run(&[], &["status", "--worker", "nowhere"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("--worker: \"nowhere\""), "{}", text(&output));
    orchestrator.shutdown().await;
}

/// What the doctor found of `check`: level, message and repair.
fn found(report: &Value, check: &str) -> (String, String, String) {
    let findings = report["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["check"] == check);
    let finding = finding.unwrap_or_else(|| panic!("nothing about {check}: {report}"));
    let word = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    (word("level"), word("message"), word("repair"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_nothing_where_all_is_well() {
    for (contract, said) in [(Contract::Extended, "extended"), (Contract::Base, "base")] {
        let orchestrator = orchestrator(contract).await;
        let address = orchestrator.local_addr().to_string();
        let state = tempfile::tempdir().unwrap();
        let settings = [
            ("TRAINING_BACKEND", "cpu"),
            ("WORKER_PORT", "0"),
            ("METRICS_PORT", "0"),
            ("ORCHESTRATOR_ADDRESS", &address),
            ("STATE_DIR", state.path().to_str().unwrap()),
        ];
        let output = run(&settings, &["doctor", "--json"]);
        let report = json(&output);
        assert_eq!((output.status.code(), &report["ok"]), (Some(0), &true.into()), "{report}");
        assert!(found(&report, "orchestrator.grpc").1.contains(said), "{report}");
        for check in
            ["configuration", "state_dir", "clock", "gpu.adapter", "orchestrator.dns", "orchestrator.tcp"]
        {
            assert_eq!(found(&report, check).0, "ok", "{report}");
        }
        // A runner was tried; what it could give up depends on the kernel.
        let (level, message, _) = found(&report, "isolation");
        assert!(level != "error" && message.contains("Landlock ABI"), "{report}");
        // It left no trace: neither a worker at the orchestrator's nor a file.
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
        assert!(orchestrator.board().read(|board| board.worker_activity().is_empty()));
        orchestrator.shutdown().await;
    }
}

#[test]
fn the_doctor_tells_configuration_from_environment_and_says_what_mends_each() {
    let output = run(&[("WORKER_PORT", "high"), ("TASK_TIMEOUT", "soon")], &["doctor", "--json"]);
    let report = json(&output);
    assert_eq!((output.status.code(), &report["exit_code"]), (Some(2), &2.into()), "{report}");
    let wrong =
        report["findings"].as_array().unwrap().iter().filter(|finding| finding["kind"] == "configuration");
    assert_eq!(wrong.filter(|finding| finding["level"] == "error").count(), 2, "{report}");

    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let state = folder.path().join("file/state");
    let settings = [
        ("TRAINING_BACKEND", "cpu"),
        ("WORKER_PORT", "0"),
        ("METRICS_PORT", &port),
        ("ORCHESTRATOR_ADDRESS", "127.0.0.1:1"),
        ("STATE_DIR", state.to_str().unwrap()),
    ];
    let output = run(&settings, &["doctor", "--json"]);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(3), "{report}");
    for (check, repair) in [("port.http", "METRICS_PORT=0"), ("orchestrator.tcp", "ORCHESTRATOR_ADDRESS")] {
        let (level, _, mends) = found(&report, check);
        assert!(level == "error" && mends.contains(repair), "{check}: {report}");
    }
    let output = run(&settings, &["doctor"]);
    assert!(
        text(&output).contains("to mend it:") && text(&output).contains(" errors, "),
        "{}",
        text(&output)
    );
    let output = run(&[("ORCHESTRATOR_ADDRESS", "no-such-name.invalid:1")], &["doctor", "--json"]);
    assert_eq!(found(&json(&output), "orchestrator.dns").0, "error");
}

#[test]
fn shells_and_readers_of_manuals_get_what_they_want() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = run(&[], &["completions", shell]);
        assert!(output.status.success() && text(&output).contains("doctor"), "{shell}");
    }
    let script = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(script.path(), run(&[], &["completions", "bash"]).stdout).unwrap();
    assert!(Command::new("bash").arg("-n").arg(script.path()).status().unwrap().success());
    let page = run(&[], &["man"]);
    assert!(text(&page).contains(".TH tensorfleet-worker 1"));
    let folder = tempfile::tempdir().unwrap();
    assert!(run(&[], &["man", "--out", folder.path().to_str().unwrap()]).status.success());
    assert!(folder.path().join("tensorfleet-worker-doctor.1").exists());
}
