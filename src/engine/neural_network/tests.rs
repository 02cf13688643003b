//! Updates against a reference, and what a model file holds.

use super::*;
use crate::data::{self, LoadOptions, Targets};
use crate::domain::{Optimizer, Problem};
use crate::engine::device::ComputeDevice;
use crate::engine::session::{Session, SessionPlan, Validation};
use crate::engine::tests::{config, quiet, stopped_after};
use crate::engine::trainer::ModelEntry;

fn load(path: &str, problem: Problem) -> Arc<Dataset> {
    let options = LoadOptions { problem, seed: 5, ..LoadOptions::default() };
    Arc::new(data::load(path, &options, &config().data, &|| Ok(())).unwrap())
}

fn network(data: &Arc<Dataset>, hyperparameters: &Hyperparameters) -> NeuralNetwork {
    let device = ComputeDevice::cpu();
    NeuralNetwork::build(&Blueprint { data, hyperparameters, device: &device, seed: 5 }).unwrap()
}

fn slice(batches: std::ops::Range<u32>) -> Slice {
    Slice { epoch: 0, batches }
}

/// Parameters, gradients or moments of all layers: for each, weight and bias.
type Values = Vec<Vec<f64>>;

fn flat(layers: &[Layer]) -> Values {
    let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect();
    layers.iter().flat_map(|layer| [wide(&layer.weight), wide(&layer.bias)]).collect()
}

/// Gradient of the mean softmax cross-entropy, written out in f64.
fn gradient(layers: &[Layer], values: &Values, part: &Part, rows: &[u32]) -> Values {
    let Targets::Classes(ids) = &part.targets else { panic!("classes") };
    let width = layers[0].inputs;
    let mut total: Values = values.iter().map(|v| vec![0.0; v.len()]).collect();
    for &row in rows {
        let start = row as usize * width;
        let mut signals =
            vec![part.features[start..start + width].iter().map(|&v| f64::from(v)).collect::<Vec<_>>()];
        for (index, layer) in layers.iter().enumerate() {
            let (weight, bias) = (&values[2 * index], &values[2 * index + 1]);
            let input: Vec<f64> = match index {
                0 => signals[0].clone(),
                _ => signals[index].iter().map(|v| v.max(0.0)).collect(),
            };
            let output = (0..layer.outputs)
                .map(|o| {
                    bias[o] + (0..layer.inputs).map(|i| input[i] * weight[i * layer.outputs + o]).sum::<f64>()
                })
                .collect();
            signals.push(output);
        }
        let logits = signals.last().unwrap();
        let max = logits.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = logits.iter().map(|l| (l - max).exp()).sum();
        let mut slope: Vec<f64> = logits
            .iter()
            .enumerate()
            .map(|(class, l)| {
                let hot = f64::from(u8::from(class == ids[row as usize] as usize));
                ((l - max).exp() / sum - hot) / rows.len() as f64
            })
            .collect();
        for (index, layer) in layers.iter().enumerate().rev() {
            let relu = |v: f64| if index == 0 { v } else { v.max(0.0) };
            for i in 0..layer.inputs {
                for o in 0..layer.outputs {
                    total[2 * index][i * layer.outputs + o] += relu(signals[index][i]) * slope[o];
                }
            }
            for o in 0..layer.outputs {
                total[2 * index + 1][o] += slope[o];
            }
            slope = (0..layer.inputs)
                .map(|i| {
                    let back: f64 =
                        (0..layer.outputs).map(|o| values[2 * index][i * layer.outputs + o] * slope[o]).sum();
                    if index > 0 && signals[index][i] <= 0.0 { 0.0 } else { back }
                })
                .collect();
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
        let layers = network.net.to_layers();
        let mut values = flat(&layers);
        let mut states: Vec<Vec<[f64; 2]>> = values.iter().map(|v| vec![[0.0; 2]; v.len()]).collect();
        network.train(&slice(0..3), &quiet()).unwrap();
        let mut minibatches = Minibatches::new(5, data.train.len(), h.batch_size);
        for index in 0..3 {
            let gradient = gradient(&layers, &values, &data.train, minibatches.rows_of(0, index));
            for ((values, slopes), states) in values.iter_mut().zip(&gradient).zip(&mut states) {
                for ((value, g), state) in values.iter_mut().zip(slopes).zip(states) {
                    *value = update(&h, index as i32 + 1, *value, *g, state);
                }
            }
        }
        for (got, want) in flat(&network.net.to_layers()).iter().flatten().zip(values.iter().flatten()) {
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
    let shapes = network(&load("builtin:digits", Problem::Regression), &h).net.to_layers();
    let mut last = session.trainer().weights().unwrap();
    // Slices of one step, so that each step is once the last one.
    let error = (0..100)
        .find_map(|batch| match session.run(&slice(batch..batch + 1), Validation::Full, &quiet()) {
            Ok(result) => {
                weights::read(&result.weights, &shapes).expect("finite weights");
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
