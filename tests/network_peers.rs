//! Networks and linear models against PyTorch and scikit-learn, on the rows that `train` held out.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const DATA_SETS: [&str; 4] = ["digits", "breast_cancer", "wine", "iris"];

/// Passes over the training rows of linear models: as many as `train` makes where nothing is said, and far more.
const LINEAR_EPOCHS: [u32; 2] = [10, 100];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Trains with the command for so many epochs and returns the folder with what it wrote.
fn train(out: &Path, model: &str, data: &str, epochs: u32, settings: &[String]) -> PathBuf {
    let folder = out.join(format!("{model}-{data}-{}", settings.join("-")));
    let mut command = Command::new(env!("CARGO_BIN_EXE_tensorfleet-worker"));
    command.args(["train", "--json", "--backend", "cpu", "--model-type", model]);
    command.args(["--dataset", &format!("builtin:{data}"), "--epochs", &epochs.to_string()]);
    command.arg("--data-root").arg(root().join("data")).arg("--out").arg(&folder);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
}

/// The lines of a program's standard output, each a JSON object, one a folder.
fn report(command: &mut Command, folders: &[PathBuf]) -> Vec<Value> {
    let output = command.args(folders).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), folders.len(), "{text}");
    lines
}

fn python() -> PathBuf {
    let python = root().join(".venv/bin/python");
    assert!(python.exists(), "{} is missing: scripts/test makes it", python.display());
    python
}

fn csv(data: &str) -> PathBuf {
    root().join("data").join(format!("{data}.csv"))
}

/// scikit-learn's view of models, and `peer` trained on the same rows.
fn judged(data: &str, peer: &str, folders: &[PathBuf]) -> Vec<Value> {
    let script = root().join("tests/peers/networks.py");
    report(Command::new(python()).arg(script).arg(csv(data)).arg(peer), folders)
}

fn figure(report: &Value, name: &str) -> f64 {
    report[name].as_f64().unwrap_or_else(|| panic!("{name} in {report}"))
}

#[test]
fn linear_models_are_as_good_as_those_of_scikit_learn() {
    let out = tempfile::tempdir().unwrap();
    let models = ["logistic_regression", "svm"];
    for (model, epochs) in models.into_iter().flat_map(|model| LINEAR_EPOCHS.map(|epochs| (model, epochs))) {
        for data in DATA_SETS {
            let folders: Vec<PathBuf> = (0..5)
                .map(|seed| train(out.path(), model, data, epochs, &[format!("seed={seed}")]))
                .collect();
            let reports = judged(data, model, &folders);
            let mean = |name: &str| reports.iter().map(|report| figure(report, name)).sum::<f64>() / 5.0;
            let what = format!("{model} {data}, {epochs} epochs");
            let (ours, peer) = (mean("accuracy"), mean("peer_accuracy"));
            println!("{what}: accuracy {ours:.4}, that of the peer {peer:.4}");
            assert!(ours >= peer - 0.01, "{what}: accuracy {ours}, that of the peer {peer}");
            // LinearSVC, the peer of svm, says no probabilities.
            if model == "logistic_regression" {
                let (ours, peer) = (mean("log_loss"), mean("peer_log_loss"));
                println!("{what}: log loss {ours:.4}, that of the peer {peer:.4}");
                assert!(ours <= 1.05 * peer, "{what}: log loss {ours}, that of the peer {peer}");
            }
        }
    }
}

#[test]
fn a_network_knows_digits_and_scikit_learn_finds_the_figures_that_we_report() {
    let out = tempfile::tempdir().unwrap();
    let folders: Vec<PathBuf> = (0..5)
        .map(|seed| train(out.path(), "neural_network", "digits", 20, &[format!("seed={seed}")]))
        .collect();
    let reports = judged("digits", "none", &folders);
    let mean = reports.iter().map(|report| figure(report, "accuracy")).sum::<f64>() / 5.0;
    assert!(mean >= 0.965, "accuracy {mean}");
    for (folder, report) in folders.iter().zip(&reports) {
        let metrics = std::fs::read(folder.join("metrics.json")).unwrap();
        let metrics: Value = serde_json::from_slice(&metrics).unwrap();
        let last = &metrics["final"];
        let close = |ours: &str, theirs: &str| {
            let (ours, theirs) = (figure(last, ours), figure(report, theirs));
            assert!((ours - theirs).abs() < 1e-5, "{ours} {theirs}");
        };
        close("validation_accuracy", "accuracy");
        close("validation_accuracy", "argmax_accuracy");
        close("validation_loss", "log_loss");
    }
}

#[test]
fn scikit_learn_finds_the_figures_that_we_report_of_numbers_and_of_trees() {
    let out = tempfile::tempdir().unwrap();
    for (model, data, set, figures) in [
        ("neural_network", "digits", "task=regression", &[("validation_accuracy", "rmse")][..]),
        ("xgboost", "digits", "task=regression", &[("validation_accuracy", "rmse")]),
        ("random_forest", "digits", "task=regression", &[("validation_accuracy", "rmse")]),
        (
            "xgboost",
            "wine",
            "seed=3",
            &[("validation_accuracy", "accuracy"), ("validation_loss", "log_loss")],
        ),
        ("random_forest", "digits", "trees_per_task=2", &[("validation_accuracy", "accuracy")]),
    ] {
        let folder = train(out.path(), model, data, 3, &[set.to_owned()]);
        let metrics: Value =
            serde_json::from_slice(&std::fs::read(folder.join("metrics.json")).unwrap()).unwrap();
        let report = &judged(data, "none", &[folder])[0];
        for (ours, theirs) in figures {
            let (ours, theirs) = (figure(&metrics["final"], ours), figure(report, theirs));
            assert!((ours - theirs).abs() < 1e-5, "{model} {data} {set}: {ours} {theirs}");
        }
    }
}

#[test]
fn pytorch_loads_our_models_and_predicts_alike() {
    let out = tempfile::tempdir().unwrap();
    let site_packages = Command::new(python())
        .args(["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
        .output()
        .unwrap();
    let site_packages = String::from_utf8(site_packages.stdout).unwrap();
    let settings = |settings: &[&str]| settings.iter().map(ToString::to_string).collect::<Vec<_>>();
    for (model, data, set) in [
        ("neural_network", "digits", settings(&["seed=1"])),
        ("neural_network", "digits", settings(&["dropout=0.3", "hidden_layers=40,30,20"])),
        ("neural_network", "wine", settings(&["hidden_layers=none"])),
        ("svm", "digits", settings(&["task=regression"])),
        ("cnn", "digits", settings(&["seed=1"])),
        ("cnn", "digits", settings(&["task=regression"])),
        ("logistic_regression", "iris", settings(&[])),
        ("logistic_regression", "breast_cancer", settings(&["C=0.1", "class_weight=balanced"])),
        ("svm", "wine", settings(&[])),
    ] {
        let folder = train(out.path(), model, data, 3, &set);
        // PyTorch is Debian's, which belongs to Debian's Python.
        let mut command = Command::new("/usr/bin/python3");
        command.arg(root().join("tests/peers/networks_pytorch.py")).arg(site_packages.trim()).arg(csv(data));
        let reports = report(&mut command, &[folder]);
        let difference = figure(&reports[0], "difference");
        assert!(difference <= 1e-5, "{model} {data} {set:?}: {difference}");
    }
}
