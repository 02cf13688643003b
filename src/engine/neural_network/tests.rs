//! Updates against a reference, and what a model file holds.

mod accuracy;
mod gradients;
mod penalties;
mod stopping;

use std::sync::Arc;

use super::architecture::{Architecture, Parameter};
use super::recipe::Model;
use super::trainer::GradientTrainer;
use super::*;
use crate::data::{self, Dataset, LoadOptions, Part, Targets};
use crate::domain::{ErrorCode, Hyperparameters, Optimizer, Problem};
use crate::engine::device::ComputeDevice;
use crate::engine::minibatches::Minibatches;
use crate::engine::session::{Session, SessionPlan, Validation};
use crate::engine::tests::{config, quiet, stopped_after};
use crate::engine::trainer::{ModelEntry, Slice};

fn load(path: &str, problem: Problem) -> Arc<Dataset> {
    let options = LoadOptions {
        target: None,
        problem,
        validation_split: 0.2,
        seed: 5,
        features: data::FeatureForm::Standardised,
    };
    Arc::new(data::load(path, &options, &config().data, &|| Ok(())).unwrap())
}

fn trainer(model: Model, data: &Arc<Dataset>, hyperparameters: &Hyperparameters) -> GradientTrainer {
    let device = ComputeDevice::cpu();
    GradientTrainer::build(model, &Blueprint { data, hyperparameters, device: &device, seed: 5 }).unwrap()
}

fn network(data: &Arc<Dataset>, hyperparameters: &Hyperparameters) -> GradientTrainer {
    trainer(Model::NeuralNetwork, data, hyperparameters)
}

fn slice(batches: std::ops::Range<u32>) -> Slice {
    Slice { epoch: 0, batches }
}

/// Parameters, gradients or moments of all layers: for each, weight `[outputs, inputs]` and bias.
type Values = Vec<Vec<f64>>;

/// The parameters of `trainer`, layer by layer.
fn values(trainer: &GradientTrainer) -> Values {
    let bytes = trainer.weights().unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let read = |parameter: Parameter| {
        let tensor = file.tensor(&parameter.name).unwrap();
        let values = tensor.data().as_chunks::<4>().0.iter();
        values.map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect()
    };
    trainer.architecture().parameters().into_iter().map(read).collect()
}

/// Gradient of the mean softmax cross-entropy, written out in f64.
fn gradient(widths: &[usize], values: &Values, part: &Part, rows: &[u32]) -> Values {
    let Targets::Classes(ids) = &part.targets else { panic!("classes") };
    let mut total: Values = values.iter().map(|v| vec![0.0; v.len()]).collect();
    for &row in rows {
        let start = row as usize * widths[0];
        let features = &part.features[start..start + widths[0]];
        let mut inputs = vec![features.iter().map(|&v| f64::from(v)).collect::<Vec<_>>()];
        for (layer, pair) in widths.windows(2).enumerate() {
            let (weight, bias, input) = (&values[2 * layer], &values[2 * layer + 1], &inputs[layer]);
            let output =
                |o: usize| bias[o] + (0..pair[0]).map(|i| input[i] * weight[o * pair[0] + i]).sum::<f64>();
            let last = layer + 2 == widths.len();
            let relu = |v: f64| if last { v } else { v.max(0.0) };
            inputs.push((0..pair[1]).map(|o| relu(output(o))).collect());
        }
        let logits = inputs.pop().unwrap();
        let max = logits.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = logits.iter().map(|l| (l - max).exp()).sum();
        let hot = |class: usize| f64::from(u8::from(class == ids[row as usize] as usize));
        let mut slope: Vec<f64> = logits
            .iter()
            .enumerate()
            .map(|(class, l)| ((l - max).exp() / sum - hot(class)) / rows.len() as f64)
            .collect();
        for (layer, pair) in widths.windows(2).enumerate().rev() {
            let input = &inputs[layer];
            for (o, slope) in slope.iter().enumerate() {
                total[2 * layer + 1][o] += slope;
                for (i, input) in input.iter().enumerate() {
                    total[2 * layer][o * pair[0] + i] += input * slope;
                }
            }
            let weight = &values[2 * layer];
            let back = |i: usize| (0..pair[1]).map(|o| weight[o * pair[0] + i] * slope[o]).sum::<f64>();
            slope = (0..pair[0]).map(|i| if input[i] > 0.0 { back(i) } else { 0.0 }).collect();
        }
    }
    total
}

/// One parameter's update by the published rules, as PyTorch has them.
fn update(h: &Hyperparameters, time: i32, parameter: f64, mut g: f64, state: &mut [f64; 2]) -> f64 {
    let (lr, decay) = (h.learning_rate.unwrap_or(0.001), h.weight_decay);
    if h.optimizer != Optimizer::AdamW {
        g += decay * parameter;
    }
    match h.optimizer {
        Optimizer::Sgd => {
            state[0] = if time == 1 { g } else { h.momentum * state[0] + g };
            parameter - lr * state[0]
        }
        Optimizer::Adam | Optimizer::AdamW => {
            state[0] = 0.9 * state[0] + 0.1 * g;
            state[1] = 0.999 * state[1] + 0.001 * g * g;
            let (m, v) = (state[0] / (1.0 - 0.9_f64.powi(time)), state[1] / (1.0 - 0.999_f64.powi(time)));
            let kept =
                if h.optimizer == Optimizer::AdamW { parameter * (1.0 - lr * decay) } else { parameter };
            kept - lr * m / (v.sqrt() + 1e-8)
        }
        Optimizer::RmsProp => {
            state[1] = 0.99 * state[1] + 0.01 * g * g;
            let step = g / (state[1].sqrt() + 1e-8);
            state[0] = h.momentum * state[0] + step;
            parameter - lr * state[0]
        }
    }
}

#[test]
fn three_steps_of_every_optimizer_are_those_of_the_reference() {
    let data = load("builtin:iris", Problem::Auto);
    for (optimizer, momentum, weight_decay) in [
        (Optimizer::Sgd, 0.0, 0.0),
        (Optimizer::Sgd, 0.9, 0.01),
        (Optimizer::Adam, 0.0, 0.0),
        (Optimizer::Adam, 0.0, 0.01),
        (Optimizer::AdamW, 0.0, 0.1),
        (Optimizer::RmsProp, 0.0, 0.0),
        (Optimizer::RmsProp, 0.5, 0.01),
    ] {
        let h = Hyperparameters {
            optimizer,
            momentum,
            weight_decay,
            learning_rate: Some(0.01),
            hidden_layers: vec![5, 4],
            ..Hyperparameters::default()
        };
        let mut network = network(&data, &h);
        let widths = [4, 5, 4, 3];
        let mut want = values(&network);
        let mut states: Vec<Vec<[f64; 2]>> = want.iter().map(|v| vec![[0.0; 2]; v.len()]).collect();
        network.train(&slice(0..3), &quiet()).unwrap();
        let mut minibatches = Minibatches::new(5, data.train.len(), h.batch_size);
        for index in 0..3 {
            let gradient = gradient(&widths, &want, &data.train, minibatches.rows_of(0, index));
            for ((values, slopes), states) in want.iter_mut().zip(&gradient).zip(&mut states) {
                for ((value, g), state) in values.iter_mut().zip(slopes).zip(states) {
                    *value = update(&h, index as i32 + 1, *value, *g, state);
                }
            }
        }
        for (got, want) in values(&network).iter().flatten().zip(want.iter().flatten()) {
            assert!((got - want).abs() < 2e-5, "{optimizer:?} {momentum} {weight_decay}: {got} {want}");
        }
    }
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    let data = load("builtin:digits", Problem::Auto);
    // Wide enough that the matrix products are shared by the threads.
    let h = Hyperparameters { hidden_layers: vec![640, 320], batch_size: 128, ..Hyperparameters::default() };
    let train = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut network = network(&data, &h);
            let trained = network.train(&slice(0..6), &quiet()).unwrap();
            let rows: Vec<u32> = (0..data.validation.len() as u32).collect();
            (network.weights().unwrap(), trained, network.evaluate(&rows, &quiet()).unwrap())
        })
    };
    let alone = train(1);
    for threads in [2, 3, 8] {
        assert!(train(threads) == alone, "{threads} threads");
    }
}

#[test]
fn a_batch_range_beyond_the_data_wraps() {
    let data = load("builtin:iris", Problem::Auto);
    let h = Hyperparameters::default();
    let train = |batches| {
        let mut network = network(&data, &h);
        network.train(&slice(batches), &quiet()).unwrap();
        network.weights().unwrap()
    };
    let per_epoch = network(&data, &h).batches_per_epoch();
    assert_eq!(train(0..3), train(per_epoch * 100..per_epoch * 100 + 3));
}

fn session(path: &str, hyperparameters: &Hyperparameters) -> Session {
    let plan = SessionPlan {
        entry: ModelEntry::of(&crate::domain::ModelType::parse("mlp").unwrap()).unwrap(),
        dataset_path: path.to_owned(),
        hyperparameters: hyperparameters.clone(),
        seed: 5,
        device: ComputeDevice::cpu(),
    };
    Session::open(&plan, &config().data, &|| Ok(())).unwrap()
}

#[test]
fn a_stop_in_the_middle_of_a_slice_leaves_no_trace() {
    let h = Hyperparameters { optimizer: Optimizer::Adam, ..Hyperparameters::default() };
    let run = |session: &mut Session, batches| session.run(&slice(batches), Validation::Sample, &quiet());
    let mut calm = session("builtin:iris", &h);
    run(&mut calm, 0..10).unwrap();
    let undisturbed = run(&mut calm, 10..30).unwrap();
    let mut disturbed = session("builtin:iris", &h);
    let before = run(&mut disturbed, 0..10).unwrap().weights;
    for steps in [1, 5, 19] {
        let error = disturbed.run(&slice(10..30), Validation::Sample, &stopped_after(steps)).unwrap_err();
        assert_eq!(error.code, ErrorCode::Cancelled);
        assert!(disturbed.trainer().weights().unwrap() == before);
    }
    // Stopped by its last step: the evaluation after it does not happen either.
    assert!(disturbed.run(&slice(10..30), Validation::Full, &stopped_after(20)).is_err());
    assert_eq!(run(&mut disturbed, 10..30).unwrap(), undisturbed);
}

#[test]
fn divergence_is_reported_with_its_step_and_the_session_stays_usable() {
    let h = Hyperparameters {
        optimizer: Optimizer::Sgd,
        learning_rate: Some(10.0),
        problem: Problem::Regression,
        ..Hyperparameters::default()
    };
    let mut session = session("builtin:digits", &h);
    let before = session.trainer().weights().unwrap();
    for _ in 0..2 {
        let error = session.run(&slice(100..200), Validation::Sample, &quiet()).unwrap_err();
        assert_eq!(error.code, ErrorCode::Diverged);
        assert!(error.message.starts_with("loss is "), "{error}");
        assert!(error.message.contains("(epoch 0, minibatch 1"), "{error}");
        assert!(error.message.ends_with("learning_rate was 10; try a smaller one"), "{error}");
        assert!(session.trainer().weights().unwrap() == before);
    }
}

#[test]
fn a_last_step_that_explodes_is_no_result() {
    let h = Hyperparameters {
        optimizer: Optimizer::Sgd,
        learning_rate: Some(10.0),
        problem: Problem::Regression,
        validation_split: 0.0,
        hidden_layers: Vec::new(),
        ..Hyperparameters::default()
    };
    let mut session = session("builtin:digits", &h);
    let names = weights::named(&Architecture::Dense { widths: vec![64, 1] }.parameters());
    let mut last = session.trainer().weights().unwrap();
    // Slices of one step, so that each step is once the last one.
    let error = (0..100)
        .find_map(|batch| match session.run(&slice(batch..batch + 1), Validation::Full, &quiet()) {
            Ok(result) => {
                weights::read(&result.weights, &names).expect("finite weights");
                last = result.weights.to_vec();
                None
            }
            Err(error) => Some(error),
        })
        .expect("it diverges");
    assert_eq!(error.code, ErrorCode::Diverged);
    assert!(error.message.starts_with("a weight is "), "{error}");
    assert!(
        error.message.contains("at step 1 (epoch 0, after the last minibatch); learning_rate"),
        "{error}"
    );
    assert!(session.trainer().weights().unwrap() == last, "rolled back");
}

#[test]
fn given_weights_are_started_from_whatever_was_trained_before() {
    let h = Hyperparameters::default();
    let mut elsewhere = session("builtin:iris", &h);
    let given = elsewhere.run(&slice(0..20), Validation::Sample, &quiet()).unwrap().weights;
    let mut cold = session("builtin:iris", &h);
    let expected = cold.run_from(&given, &slice(20..30), Validation::Sample, &quiet()).unwrap();
    let mut warm = session("builtin:iris", &h);
    let before = warm.run(&slice(0..7), Validation::Sample, &quiet()).unwrap().weights;
    let error = warm.run_from(b"rubbish", &slice(20..30), Validation::Sample, &quiet()).unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert!(warm.run_from(&given, &slice(20..30), Validation::Sample, &stopped_after(5)).is_err());
    assert!(warm.trainer().weights().unwrap() == before, "rolled back");
    assert_eq!(warm.run_from(&given, &slice(20..30), Validation::Sample, &quiet()).unwrap(), expected);
}

#[test]
fn three_slices_after_a_restart_are_those_of_six_without_one() {
    let data = load("builtin:digits", Problem::Auto);
    let optimizers =
        [(Optimizer::Sgd, 0.9), (Optimizer::Adam, 0.0), (Optimizer::AdamW, 0.0), (Optimizer::RmsProp, 0.5)];
    for model in [Model::NeuralNetwork, Model::Cnn, Model::LogisticRegression, Model::Svm] {
        for (optimizer, momentum) in optimizers {
            let h = Hyperparameters {
                optimizer,
                momentum,
                dropout: 0.25,
                batch_size: 16,
                hidden_layers: vec![24],
                stopping: crate::domain::Stopping::Early,
                ..Hyperparameters::default()
            };
            let train = |trainer: &mut GradientTrainer, slices: std::ops::Range<u32>| {
                for number in slices {
                    trainer.train(&slice(number * 4..number * 4 + 4), &quiet()).unwrap();
                    let rows: Vec<u32> = (0..50).collect();
                    let validation = trainer.evaluate(&rows, &quiet()).unwrap();
                    trainer.epoch_ended(number, Some(validation));
                }
            };
            let mut whole = trainer(model, &data, &h);
            train(&mut whole, 0..6);
            let mut before = trainer(model, &data, &h);
            train(&mut before, 0..3);
            let state = before.state().unwrap();
            let mut after = trainer(model, &data, &h);
            after.restore(&state).unwrap();
            assert!(after.state().unwrap() == state, "{model:?} {optimizer:?}");
            train(&mut after, 3..6);
            assert!(after.state().unwrap() == whole.state().unwrap(), "{model:?} {optimizer:?}");
            assert!(after.weights().unwrap() == whole.weights().unwrap());
        }
    }
}

#[test]
fn the_cpu_path_takes_the_steps_that_burn_takes() {
    let data = load("builtin:digits", Problem::Auto);
    let models = [(Model::NeuralNetwork, [1, 8, 8]), (Model::Cnn, [1, 8, 8]), (Model::Cnn, [2, 4, 8])];
    for ((model, shape), dropout) in models.into_iter().flat_map(|model| [(model, 0.0), (model, 0.3)]) {
        let h = Hyperparameters {
            dropout,
            hidden_layers: vec![32, 16],
            image_shape: Some(shape),
            ..Hyperparameters::default()
        };
        let mut fused = trainer(model, &data, &h);
        let mut burned = trainer(model, &data, &h);
        burned.use_burn(&ComputeDevice::cpu());
        for number in 0..3 {
            let slice = slice(number * 10..number * 10 + 10);
            let (a, b) = (fused.train(&slice, &quiet()).unwrap(), burned.train(&slice, &quiet()).unwrap());
            assert!((a.metrics.loss - b.metrics.loss).abs() < 1e-4, "{model:?} {a:?} {b:?}");
        }
        for (a, b) in values(&fused).iter().flatten().zip(values(&burned).iter().flatten()) {
            assert!((a - b).abs() < 2e-3, "{model:?} {a} {b}");
        }
        for (a, b) in fused.predict().iter().zip(burned.predict()) {
            assert!((a - b).abs() < 2e-3, "{model:?} {a} {b}");
        }
    }
}

#[test]
fn the_file_says_how_its_inputs_and_outputs_are_to_be_read() {
    let data = load("builtin:iris", Problem::Auto);
    let bytes = trainer(Model::LogisticRegression, &data, &Hyperparameters::default()).weights().unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    assert_eq!(metadata["architecture"], "Sequential(Linear(4, 3))");
    let features: serde_json::Value = serde_json::from_str(&metadata["features"]).unwrap();
    let data::Encoding::Number { mean, std, .. } = data.preprocessor.columns[2].encoding else { panic!() };
    assert_eq!(features[2]["column"], data.preprocessor.columns[2].name.as_str());
    assert!((features[2]["mean"].as_f64().unwrap() - mean).abs() < 1e-12);
    assert!((features[2]["std"].as_f64().unwrap() - std).abs() < 1e-12);
    let target: serde_json::Value = serde_json::from_str(&metadata["target"]).unwrap();
    assert_eq!(target["classes"].as_array().unwrap().len(), 3);
    assert_eq!(header.info("0.weight").unwrap().shape, [3, 4]);
}

#[test]
fn rows_that_are_no_image_are_refused_by_name() {
    let refused = |path: &str, image_shape| {
        let data = load(path, Problem::Auto);
        let h = Hyperparameters { image_shape, ..Hyperparameters::default() };
        let device = ComputeDevice::cpu();
        let blueprint = Blueprint { data: &data, hyperparameters: &h, device: &device, seed: 5 };
        convolutional(&blueprint).err().unwrap().message
    };
    for (path, shape, said) in [
        ("builtin:wine", None, "13 features are none"),
        ("builtin:digits", Some([1, 8, 9]), "1x8x9"),
        ("builtin:iris", None, "at least 4x4"),
    ] {
        let message = refused(path, shape);
        assert!(message.contains("image_shape") && message.contains(said), "{message}");
    }
}
