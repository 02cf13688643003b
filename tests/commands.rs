//! The commands as a person or a script uses them.

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::*;

fn run(arguments: &[&str]) -> Output {
    command(&[]).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// All of standard output as one JSON value.
fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}\n{}", stdout(output), stderr(output)))
}

#[test]
fn the_demo_trains_a_network_on_digits_through_a_whole_fleet() {
    let output = run(&["demo", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let summary = json(&output);
    assert_eq!(summary["status"], "COMPLETED");
    assert_eq!((&summary["total_tasks"], &summary["completed_tasks"]), (&100.into(), &100.into()));
    let epochs = summary["epochs"].as_array().unwrap();
    assert_eq!(epochs.len(), 10);
    for (n, epoch) in epochs.iter().enumerate() {
        assert_eq!(epoch["epoch"], n + 1);
        assert!(epoch["loss"].is_f64() && epoch["accuracy"].is_f64() && epoch["validation_loss"].is_f64());
    }
    let losses: Vec<f64> = epochs.iter().map(|epoch| epoch["loss"].as_f64().unwrap()).collect();
    assert!(losses[9] < losses[0] / 10.0, "it learned: {losses:?}");
    assert!(epochs[9]["validation_accuracy"].as_f64().unwrap() >= 0.95, "{}", epochs[9]);
}

#[test]
fn the_demo_for_people_ends_with_a_table_a_curve_and_addresses() {
    let output = run(&["demo", "--epochs", "2", "--workers", "1"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for part in ["20 of 20 tasks", "validation accuracy", "/metrics", "/health"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert!(text.chars().any(|c| ('\u{2801}'..='\u{28ff}').contains(&c)), "a curve is drawn:\n{text}");
    assert!(!text.contains('\u{1b}'), "no terminal codes where there is no terminal");
}

#[test]
fn a_demo_that_is_kept_stays_to_be_looked_at_until_it_is_interrupted() {
    let mut child = command(&[])
        .args(["demo", "--keep", "--epochs", "1", "--workers", "1", "--dataset", "builtin:iris"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The addresses come last: who is followed by gRPC and HTTP.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut row = |who: &str| -> Vec<String> {
        let found = lines.find(|line| line.contains(who)).unwrap_or_else(|| panic!("no line about {who}"));
        found.split_whitespace().filter(|cell| cell.contains("127.0.0.1:")).map(str::to_owned).collect()
    };
    let (orchestrator, worker) = (row("orchestrator").remove(0), row("demo-worker-1"));
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(told.any(|line| line.contains("stay until Ctrl-C")));
    let [grpc, http] = &worker[..] else { panic!("{worker:?}") };
    assert_eq!(get(http.trim_start_matches("http://").parse().unwrap(), "/readyz").0, 200);
    assert_eq!(run(&["status", "--worker", grpc]).status.code(), Some(0));
    let another = run(&["submit", "--orchestrator", &orchestrator, "--epochs", "1", "--wait"]);
    assert_eq!(another.status.code(), Some(0), "{}", stderr(&another));
    assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    // What it still says is read, so that it never waits for that.
    told.for_each(drop);
    assert_eq!(wait(&mut child).code(), Some(0));
    assert!(std::net::TcpStream::connect(&orchestrator).is_err(), "nothing of it is left");
}

#[test]
fn compare_trains_each_model_type_on_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let common = ["train", "--dataset", "builtin:iris", "--epochs", "2", "--backend", "cpu", "--json"];
    let output = run(&[&common[..], &["--out", out, "--compare", "neural_network,mlp"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let models = json(&output)["models"].as_array().unwrap().clone();
    assert_eq!(models.len(), 2);
    assert_eq!(models[0]["final"], models[1]["final"], "an alias is the same model on the same rows");
    for name in ["neural_network", "mlp"] {
        let metrics = std::fs::read(folder.path().join(name).join("metrics.json")).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&metrics).unwrap()["rows_validation"], 30);
    }
    // What one minimises is not what the other does, and their losses are told apart.
    let margins = [&common[..], &["--compare", "svm,logistic_regression"]].concat();
    assert_eq!(json(&run(&margins))["own_losses"], serde_json::json!({"svm": "squared hinge"}));
    let shown = run(&margins.into_iter().filter(|word| *word != "--json").collect::<Vec<_>>());
    let table = String::from_utf8_lossy(&shown.stdout).into_owned();
    let row = |model: &str| table.lines().find(|line| line.contains(model)).unwrap().to_owned();
    assert_eq!(row("svm").matches('*').count(), 2, "{table}");
    assert_eq!(row("logistic_regression").matches('*').count(), 0, "{table}");
    assert!(table.contains("(squared hinge): compare accuracy instead"), "{table}");
    let twice = run(&[&common[..], &["--compare", "mlp,mlp"]].concat());
    assert_eq!(twice.status.code(), Some(2));
    assert!(stderr(&twice).contains("--compare: \"mlp\""), "{}", stderr(&twice));
    let elsewhere = run(&["train", "--compare", "mlp,..", "--backend", "analytic", "--out", out]);
    assert_eq!(elsewhere.status.code(), Some(2));
    assert!(stderr(&elsewhere).contains("--compare: \"..\""), "{}", stderr(&elsewhere));
    let both = run(&[&common[..], &["--compare", "mlp", "--model-type", "mlp"]].concat());
    assert_eq!(both.status.code(), Some(2), "{}", stderr(&both));
}

#[test]
fn train_writes_a_model_its_metrics_a_curve_and_predictions() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/out");
    let arguments =
        ["train", "--model-type", "neural_network", "--dataset", "builtin:wine", "--epochs", "15"];
    let more =
        ["--backend", "cpu", "--seed", "3", "--set", "hidden_layers=16", "--set", "learning_rate=0.01"];
    let output =
        command(&[]).args(arguments).args(more).arg("--out").arg(&out).arg("--json").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let metrics = json(&output);
    let written: Value = serde_json::from_slice(&std::fs::read(out.join("metrics.json")).unwrap()).unwrap();
    assert_eq!(metrics, written);
    for name in [
        "model_type",
        "dataset",
        "backend",
        "simulated",
        "rows_train",
        "rows_validation",
        "epochs",
        "final",
        "seconds",
        "samples_per_second",
        "seed",
        "version",
    ] {
        assert!(metrics.get(name).is_some(), "{name} is missing in {metrics}");
    }
    assert_eq!(
        (&metrics["backend"], &metrics["simulated"], &metrics["seed"]),
        (&"cpu".into(), &false.into(), &3.into())
    );
    let accuracy = metrics["final"]["validation_accuracy"].as_f64().unwrap();
    assert!(accuracy > 0.9, "{metrics}");

    let predictions = std::fs::read_to_string(out.join("predictions.csv")).unwrap();
    let mut rows = csv::Reader::from_reader(predictions.as_bytes());
    let header: Vec<String> = rows.headers().unwrap().iter().map(str::to_owned).collect();
    assert_eq!(header[..3], ["row", "target", "prediction"]);
    assert_eq!(header.len(), 3 + 3, "one probability for each of the three classes");
    let (mut right, mut all) = (0.0, 0.0);
    for row in rows.records() {
        let row = row.unwrap();
        let sum: f64 = row.iter().skip(3).map(|cell| cell.parse::<f64>().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-3, "{row:?}");
        right += f64::from(u8::from(row[1] == row[2]));
        all += 1.0;
    }
    assert_eq!(all, metrics["rows_validation"].as_f64().unwrap());
    assert!((right / all - accuracy).abs() < 1e-9, "the file says the same as the metrics");

    let curve = std::fs::read_to_string(out.join("curve.svg")).unwrap();
    assert!(curve.contains("<svg") && curve.contains("polyline"), "{curve}");
    let weights = std::fs::read(out.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&weights).unwrap();
    assert_eq!(tensors.tensor("0.weight").unwrap().shape(), [16, 13]);
    assert_eq!(tensors.tensor("2.bias").unwrap().shape(), [3]);
}

#[test]
fn the_same_seed_gives_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let weights = ["1", "2"].map(|threads| {
        let out = folder.path().join(threads);
        let arguments =
            ["train", "--dataset", "builtin:iris", "--epochs", "3", "--backend", "cpu", "--seed", "5"];
        let output = command(&[("RAYON_NUM_THREADS", threads)])
            .args(arguments)
            .args(["--model-type", "neural_network", "--out"])
            .arg(&out)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        std::fs::read(out.join("model.safetensors")).unwrap()
    });
    assert!(weights[0] == weights[1]);
}

#[test]
fn wrong_use_is_said_in_one_place_with_what_is_right() {
    let cases: [(&[&str], i32, &[&str]); 10] = [
        (&["trian"], 2, &["trian", "train"]),
        (&["train", "--epoch", "3"], 2, &["--epochs"]),
        (
            &["train", "--model-type", "neural_network", "--dataset", "builtin:iris", "--set", "lr"],
            2,
            &["NAME=VALUE"],
        ),
        (
            &[
                "train",
                "--model-type",
                "neural_network",
                "--dataset",
                "builtin:iris",
                "--set",
                "learning_rat=1",
            ],
            2,
            &["learning_rat", "did you mean"],
        ),
        (
            &["train", "--model-type", "neural_network", "--dataset", "missing.csv"],
            1,
            &["missing.csv", "--data-root"],
        ),
        (&["orchestrator", "--lease", "200ms"], 2, &["200ms", "at least 1s"]),
        (&["train", "--dataset", "builtin:iris", "--device-policy", "cpu"], 2, &["--device-policy"]),
        (&["--auth-token-file", "/no/such/token"], 2, &["AUTH_TOKEN_FILE", "No such file"]),
        (&["--max-concurrent-tasks", "many"], 2, &["MAX_CONCURRENT_TASKS", "many"]),
        (
            &["submit", "--orchestrator", "127.0.0.1:1", "--model-type", "x", "--dataset", "builtin:iris"],
            3,
            &["127.0.0.1:1"],
        ),
    ];
    for (arguments, code, words) in cases {
        let output = run(arguments);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        for word in words {
            assert!(text.contains(word), "{arguments:?} should say {word}: {text}");
        }
        assert!(stdout(&output).is_empty() && !text.contains("panicked"), "{arguments:?}: {text}");
    }
}

#[test]
fn the_configuration_in_force_is_shown_with_its_sources() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("worker.toml");
    std::fs::write(&file, "task_timeout = \"5m\"\nmax_concurrent_tasks = 9\n").unwrap();
    let output = command(&[("MAX_CONCURRENT_TASKS", "7"), ("ORCHESTRATOR_ADDR", "example:1")])
        .args(["config", "show", "--json", "--worker-id", "w1", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = json(&output).to_string();
    for part in ["w1", "5m", "\"7\"", "example:1"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let output = command(&[("WORKER_PORT", "high")]).args(["config", "check"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("WORKER_PORT") || stdout(&output).contains("WORKER_PORT"));
    let output = run(&["config", "check", "--auth-token-file", "/no/such/token"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stdout(&output).contains("AUTH_TOKEN_FILE"), "{}", stdout(&output));
}
