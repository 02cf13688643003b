//! Training with backend wgpu through Mesa's Vulkan driver, which computes on the CPU; scripts/test installs it.
//!
//! One device a process, and few shapes, since each is a shader that a driver compiles.
#![cfg(feature = "wgpu")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use serde_json::Value;
use support::command;
use tensorfleet_worker::domain::{
    Backend, BackendChoice, DevicePolicy, HiddenGpus, Hyperparameters, JobId, ModelType, Progress, TaskId,
    TaskIdentity, TaskSpec,
};
use tensorfleet_worker::engine::{
    AnalyticProfile, Config, Control, Done, Engine as _, Observer, Step, TrainingEngine, UnsupportedModels,
};

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
    let digits = ["--dataset", "builtin:digits", "--set", "batch_size=128"];
    run(settings, &[&digits, arguments].concat())
}

fn run(settings: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = command(settings);
    command.env("VK_DRIVER_FILES", driver()).env("VK_ICD_FILENAMES", driver());
    command.args(["train", "--json", "--seed", "3"]).args(arguments).output().unwrap()
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

/// Boosting on `backend`: metrics.json without the times, and the model.
fn boosted(backend: &str, root: &Path, arguments: &[&str]) -> (Value, String) {
    let folder = tempfile::tempdir().unwrap();
    let common = ["--model-type", "xgboost", "--backend", backend, "--out", folder.path().to_str().unwrap()];
    let settings = [ALLOWED[0], ("DATA_ROOT", root.to_str().unwrap())];
    let output = run(&settings, &[&common, arguments].concat());
    assert!(output.status.success(), "{}", text(&output));
    let mut metrics: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&metrics["backend"], &metrics["simulated"]), (&backend.into(), &false.into()));
    for name in ["backend", "seconds", "samples_per_second"] {
        metrics.as_object_mut().unwrap().remove(name).unwrap();
    }
    (metrics, std::fs::read_to_string(folder.path().join("model.json")).unwrap())
}

/// Rows of which one in nine lacks a value, and one feature that is always there; the target follows from both.
fn with_missing_values(rows: u32) -> String {
    let row = |row: u32| {
        let [a, b, c] = [7919, 104_729, 1_299_709].map(|prime| row.wrapping_mul(prime) % 10_007);
        let text = |value: u32, at: u32| {
            if (row + at).is_multiple_of(9) { String::new() } else { format!("{}", f64::from(value) / 100.0) }
        };
        let kind = if row.is_multiple_of(9) || a + b % 5000 > 9000 || c < 1500 { "yes" } else { "no" };
        format!("{},{},{},{},{kind}\n", text(a, 0), text(b, 4), c % 3, c)
    };
    std::iter::once("a,b,few,c,kind\n".to_owned()).chain((0..rows).map(row)).collect()
}

#[test]
fn boosting_grows_the_trees_of_the_cpu_to_the_last_bit() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("missing.csv"), with_missing_values(6_000)).unwrap();
    let set = |settings: &[&'static str]| -> Vec<&'static str> {
        settings.iter().flat_map(|setting| ["--set", setting]).collect()
    };
    for (dataset, settings, least_nodes) in [
        // Ten classes, and chance wherever there is some; nodes of two rows.
        ("builtin:digits", vec!["subsample=0.8", "colsample_bytree=0.7", "min_child_weight=0"], 2_000),
        // Without a limit of depth; penalties of both kinds, and weights.
        ("missing.csv", vec!["target=kind", "max_depth=0", "reg_alpha=0.5", "class_weight=balanced"], 500),
        ("missing.csv", vec!["target=kind", "gamma=0.2", "max_bins=16", "rounds_per_task=3"], 500),
        // Five groups of features with 256 bins each, some of which are left out.
        (
            "synthetic:classification?rows=3000&features=40&seed=6",
            vec!["subsample=0.5", "colsample_bytree=0.3"],
            200,
        ),
        // Equal second derivatives, and more rows than all units of a launch.
        ("synthetic:regression?rows=90000&features=5&seed=4", vec!["task=regression", "max_depth=4"], 200),
    ] {
        let arguments = [&["--dataset", dataset, "--epochs", "1"][..], &set(&settings)].concat();
        let (gpu, cpu) = (boosted("wgpu", root.path(), &arguments), boosted("cpu", root.path(), &arguments));
        assert_eq!(gpu.0, cpu.0, "{dataset} {settings:?}");
        // Not by assert_eq, which would print them.
        assert!(gpu.1 == cpu.1, "{dataset} {settings:?}: the models differ");
        let model: Value = serde_json::from_str(&gpu.1).unwrap();
        let trees = model["learner"]["gradient_booster"]["model"]["trees"].as_array().unwrap();
        let nodes: usize = trees.iter().map(|tree| tree["left_children"].as_array().unwrap().len()).sum();
        assert!(nodes >= least_nodes, "{dataset} {settings:?}: {nodes} nodes");
    }
}

#[test]
fn nothing_to_split_by_is_no_failure_and_forests_stay_on_the_cpu() {
    let root = tempfile::tempdir().unwrap();
    let rows: String = (0..40).map(|row| format!("1,{}\n", row % 2)).collect();
    std::fs::write(root.path().join("constant.csv"), format!("a,b\n{rows}")).unwrap();
    let arguments = ["--dataset", "constant.csv", "--epochs", "1", "--set", "target=b"];
    let (gpu, cpu) = (boosted("wgpu", root.path(), &arguments), boosted("cpu", root.path(), &arguments));
    assert!(gpu == cpu, "{gpu:?} {cpu:?}");
    let refused = train(ALLOWED, &["--model-type", "random_forest", "--backend", "wgpu", "--epochs", "1"]);
    assert!(!refused.status.success() && text(&refused).contains("trained on the CPU"), "{}", text(&refused));
    let unasked = train(ALLOWED, &["--model-type", "xgboost", "--backend", "auto", "--epochs", "1"]);
    let metrics: Value = serde_json::from_slice(&unasked.stdout).unwrap();
    assert_eq!(metrics["backend"], "cpu", "nobody named wgpu");
}

/// Hears nothing of a task.
struct Deaf;

impl Observer for Deaf {
    fn started(&self, _: Backend) {}
    fn stepped(&self, _: &Progress, _: Step) {}
}

/// Task `number` of a boosting job on `backend`.
fn boosting_task(number: u32, backend: Backend) -> TaskSpec {
    TaskSpec {
        identity: TaskIdentity {
            task_id: TaskId::parse(&format!("task-{number}")).unwrap(),
            job_id: JobId::parse("job").unwrap(),
            attempt: 0,
        },
        model: ModelType::parse("xgboost").unwrap(),
        dataset_path: "builtin:wine".into(),
        hyperparameters: Hyperparameters {
            backend: Some(BackendChoice::Only(backend)),
            seed: Some(3),
            ..Hyperparameters::default()
        },
        notes: Vec::new(),
        epoch: 0,
        batches: 100 * number..100 * (number + 1),
        total_epochs: None,
        timeout: None,
        lease: None,
        initial_weights: Default::default(),
        received: Default::default(),
    }
}

#[test]
fn a_job_that_moves_between_cpu_and_gpu_is_the_one_that_stayed() {
    let engine = |state_dir: Option<PathBuf>| {
        let config = Config {
            gpu: None,
            hidden_gpus: HiddenGpus::default(),
            models_to: None,
            backend: BackendChoice::Only(Backend::Cpu),
            device_policy: DevicePolicy::Prefer,
            analytic_profile: AnalyticProfile::Engine,
            analytic_delay: Duration::ZERO..=Duration::ZERO,
            unsupported_models: UnsupportedModels::Reject,
            allow_software_adapter: true,
            state_dir,
            data: tensorfleet_worker::data::Config::new("data"),
        };
        TrainingEngine::new(config).unwrap()
    };
    let run = |engine: &TrainingEngine, task: TaskSpec| {
        let (ended, ends) = mpsc::channel();
        let done = Done::new(move |finished| ended.send(finished).unwrap());
        engine.submit(Arc::new(task), Arc::new(Control::new(Deaf)), done);
        ends.recv_timeout(support::PATIENCE).unwrap()
    };
    let stayed = engine(None);
    let folder = tempfile::tempdir().unwrap();
    let mut moved = engine(Some(folder.path().to_owned()));
    // Tasks that ask for a GPU before it is known are told to come back.
    let known = |engine: &TrainingEngine| engine.capabilities().backends.contains(&Backend::Wgpu);
    use Backend::{Cpu, Wgpu};
    for (number, backend) in (0..).zip([Cpu, Cpu, Cpu, Wgpu, Wgpu, Wgpu, Cpu]) {
        support::eventually("the adapter is found", || known(&moved));
        let expected = run(&stayed, boosting_task(number, Cpu)).ending.unwrap();
        let finished = run(&moved, boosting_task(number, backend));
        let result = finished.ending.unwrap();
        assert_eq!((result.backend, result.train), (backend, expected.train), "task {number}");
        assert!(result.weights == expected.weights && !result.weights.is_empty(), "task {number}");
        let resumed = finished.notes.iter().any(|note| note.contains("goes on from its checkpoint"));
        assert_eq!(resumed, [3, 6].contains(&number), "task {number}: {:?}", finished.notes);
        if number == 5 {
            // The session that it comes back to would still be where it was.
            moved = engine(Some(folder.path().to_owned()));
        }
    }
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
