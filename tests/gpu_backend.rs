//! Training with backend wgpu through Mesa's Vulkan driver, which computes on the CPU; scripts/test installs it.
//!
//! One device a process, and few shapes, since each is a shader that a driver compiles.
#![cfg(feature = "wgpu")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use support::command;

const ALLOWED: &[(&str, &str)] = &[("ALLOW_SOFTWARE_ADAPTER", "true")];

/// Greatest difference of a probability or a mean loss after training on two devices. One step differs by a few units
/// in the last place (6e-8), since sums are added up in another order; each of the steps after it magnifies that. What one
/// step of a kernel may differ by is held far closer by kernels/tests/gpu.rs.
const TOLERANCE: f64 = 2e-3;

/// Hides every other driver, so that a GPU of this machine changes nothing.
fn driver() -> PathBuf {
    let folder = std::fs::read_dir("/usr/share/vulkan/icd.d").into_iter().flatten();
    let mut drivers = folder.map(|entry| entry.unwrap().path());
    let software = drivers.find(|path| path.to_string_lossy().contains("lvp_icd"));
    software.expect("Mesa's software Vulkan driver is missing: scripts/test installs mesa-vulkan-drivers")
}

fn train(settings: &[(&str, &str)], arguments: &[&str]) -> Output {
    let common = ["train", "--json", "--dataset", "builtin:digits", "--seed", "3", "--set", "batch_size=128"];
    let mut command = command(settings);
    command.env("VK_DRIVER_FILES", driver()).env("VK_ICD_FILENAMES", driver());
    command.args(common).args(arguments).output().unwrap()
}

/// The files of a training that succeeded: metrics.json, and the probabilities of the held-out rows.
fn trained(backend: &str, arguments: &[&str]) -> (Value, Vec<f64>) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let output = train(ALLOWED, &[arguments, &["--backend", backend, "--out", out]].concat());
    assert!(output.status.success(), "{}", text(&output));
    let metrics: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&metrics["backend"], &metrics["simulated"]), (&backend.into(), &false.into()));
    (metrics, probabilities(folder.path()))
}

fn probabilities(folder: &Path) -> Vec<f64> {
    let file = std::fs::read_to_string(folder.join("predictions.csv")).unwrap();
    let rows: Vec<&str> = file.lines().skip(1).collect();
    assert_eq!(rows.len(), 359);
    rows.iter().flat_map(|row| row.split(',').skip(3)).map(|cell| cell.parse().unwrap()).collect()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Trains on both devices and compares; returns the last accuracy on the held-out rows.
fn agree(arguments: &[&str]) -> f64 {
    let (gpu, gpu_probabilities) = trained("wgpu", arguments);
    let (cpu, cpu_probabilities) = trained("cpu", arguments);
    let epochs = |metrics: &Value| metrics["epochs"].as_array().unwrap().clone();
    let figure = |epoch: &Value, name: &str| epoch[name].as_f64().unwrap();
    for (gpu, cpu) in epochs(&gpu).iter().zip(&epochs(&cpu)) {
        for name in ["loss", "validation_loss"] {
            let (gpu, cpu) = (figure(gpu, name), figure(cpu, name));
            assert!((gpu - cpu).abs() <= TOLERANCE, "{arguments:?} {name}: {gpu} {cpu}");
        }
        // One of the 359 rows may be on the edge.
        let (gpu, cpu) = (figure(gpu, "validation_accuracy"), figure(cpu, "validation_accuracy"));
        assert!((gpu - cpu).abs() <= 1.01 / 359.0, "{arguments:?}: accuracy {gpu} {cpu}");
    }
    let differences = gpu_probabilities.iter().zip(&cpu_probabilities).map(|(gpu, cpu)| (gpu - cpu).abs());
    let greatest = differences.fold(0.0, f64::max);
    assert!(greatest <= TOLERANCE, "{arguments:?}: probabilities differ by {greatest}");
    figure(&gpu["final"], "validation_accuracy")
}

#[test]
fn a_multilayer_perceptron_reaches_the_accuracy_of_the_cpu() {
    let accuracy = agree(&["--model-type", "mlp", "--epochs", "12", "--set", "dropout=0.1"]);
    assert!(accuracy >= 0.95, "{accuracy}");
}

#[test]
fn a_convolutional_network_is_that_of_the_cpu() {
    let accuracy = agree(&["--model-type", "cnn", "--epochs", "3", "--set", "learning_rate=0.01"]);
    assert!(accuracy >= 0.9, "{accuracy}");
}

#[test]
fn a_software_adapter_is_taken_only_where_that_is_asked_for_and_is_no_gpu() {
    let refused = train(&[], &["--backend", "wgpu", "--epochs", "1"]);
    let required = train(&[ALLOWED[0], ("DEVICE_POLICY", "require")], &["--epochs", "1"]);
    for (output, reason) in [(&refused, "software adapter"), (&required, "DEVICE_POLICY")] {
        assert_eq!(output.status.code(), Some(3), "{}", text(output));
        assert!(text(output).contains(reason), "{}", text(output));
    }
    let auto = train(ALLOWED, &["--backend", "auto", "--epochs", "1"]);
    assert!(auto.status.success(), "{}", text(&auto));
    let metrics: Value = serde_json::from_slice(&auto.stdout).unwrap();
    assert_eq!(metrics["backend"], "cpu");
}
