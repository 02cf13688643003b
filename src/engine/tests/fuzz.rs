//! Checkpoints and models of bytes that no trainer wrote.

use sha2::{Digest as _, Sha256};

use super::super::checkpoints::{Checkpoint, Completed};
use super::super::device::ComputeDevice;
use super::super::trainer::{Blueprint, ModelEntry, Slice, Trainer};
use super::*;
use crate::data::LoadOptions;
use crate::domain::{Metrics, TaskSpec};
use crate::fuzz;

/// Bytes of a SHA-256 at the end of a checkpoint.
const DIGEST_BYTES: usize = 32;

fn trained(model: &str) -> Box<dyn Trainer> {
    let entry = ModelEntry::of(&ModelType::parse(model).unwrap()).unwrap();
    let options = LoadOptions {
        problem: Problem::Classification,
        seed: 5,
        features: entry.features,
        ..LoadOptions::default()
    };
    let data = Arc::new(data::load("builtin:iris", &options, &config().data, &|| Ok(())).unwrap());
    let hyperparameters = Hyperparameters { hidden_layers: vec![4], ..Hyperparameters::default() };
    let device = ComputeDevice::cpu();
    let blueprint = Blueprint { data: &data, hyperparameters: &hyperparameters, device: &device, seed: 5 };
    let mut trainer = (entry.build)(&blueprint).unwrap();
    trainer.train(&Slice { epoch: 0, batches: 0..3 }, &quiet()).unwrap();
    trainer
}

const MODELS: [&str; 3] = ["neural_network", "xgboost", "random_forest"];

#[test]
fn fuzz_checkpoints() {
    let task: TaskSpec = task("j", "neural_network", 0, 0..10);
    let result = TaskResult {
        train: Metrics { loss: 0.5, accuracy: 0.5 },
        validation: None,
        samples: 1,
        steps: 1,
        backend: Backend::Cpu,
        device: "cpu".into(),
        weights: Bytes::new(),
        reference: None,
    };
    let completed = vec![Completed::new(&task, &result); 2];
    let trainer = trained("neural_network");
    let good = Checkpoint {
        data: "rows".to_owned(),
        completed,
        model_name: "model.safetensors".to_owned(),
        model: trainer.weights().unwrap().into(),
        state: trainer.state().unwrap(),
    };
    let good = good.encode().unwrap();
    let mut number = 0_u64;
    fuzz::run("a checkpoint", &[good], |bytes| {
        number += 1;
        let mut bytes = bytes.to_vec();
        if number.is_multiple_of(2) && bytes.len() > DIGEST_BYTES {
            let content = bytes.len() - DIGEST_BYTES;
            let digest = Sha256::digest(&bytes[..content]);
            bytes[content..].copy_from_slice(&digest);
        }
        if let Ok(checkpoint) = Checkpoint::decode(&bytes) {
            for completed in &checkpoint.completed {
                let _ = completed.is(&task);
                let _ = completed.result(result.clone());
            }
        }
    });
}

#[test]
fn fuzz_states_of_trainers() {
    for model in MODELS {
        let mut trainer = trained(model);
        let good = trainer.state().unwrap();
        fuzz::run_part(&format!("a state of {model}"), &[good], 10, |bytes| {
            if trainer.restore(bytes).is_ok() {
                let _ = trainer.weights();
                let _ = trainer.predict();
            }
        });
    }
}

/// These come over the network too: a task may bring the model that it goes on from.
#[test]
fn fuzz_models() {
    for model in MODELS {
        let mut trainer = trained(model);
        let good = trainer.weights().unwrap();
        fuzz::run_part(&format!("a model of {model}"), &[good], 10, |bytes| {
            if trainer.load_weights(bytes).is_ok() {
                let _ = trainer.weights();
                let _ = trainer.predict();
            }
        });
    }
}
