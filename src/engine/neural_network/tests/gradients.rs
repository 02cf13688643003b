//! The path of the CPU against burn's autodiff: gradients of one step, and what passes between both paths.

use burn::tensor::module::{conv2d, linear, max_pool2d};
use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use burn::tensor::{Device, Int, Tensor, TensorData, activation};

use super::super::architecture::POOL;
use super::super::fused::Fused;
use super::super::network::{Judge, Memory, Network, Rows, Step};
use super::super::recipe::Recipe;
use super::super::tensors::Tensors;
use super::*;
use crate::domain::ClassWeight;

/// Greatest difference, relative to the greatest gradient of the same parameter.
const TOLERANCE: f32 = 1e-5;

/// What is trained, and the rows of one step.
struct Case {
    recipe: Recipe,
    data: Arc<Dataset>,
    rows: Vec<u32>,
    features: Vec<f32>,
}

impl Case {
    fn new(model: Model, data: &Arc<Dataset>, hyperparameters: &Hyperparameters) -> Self {
        let rows: Vec<u32> = (0..50).collect();
        let features = data.train.features[..rows.len() * data.width()].to_vec();
        let recipe = Recipe::new(model, data, hyperparameters).unwrap();
        Self { recipe, data: Arc::clone(data), rows, features }
    }

    fn fresh(&self) -> Memory {
        let Recipe { architecture, start, .. } = &self.recipe;
        Memory::fresh(architecture.first_values(*start, 5))
    }

    fn fused(&self, memory: Memory) -> Fused {
        Fused::new(&self.recipe.architecture, self.recipe.rule, memory)
    }

    fn burned(&self, memory: &Memory) -> Tensors {
        let Recipe { architecture, rule, .. } = &self.recipe;
        Tensors::new(architecture.clone(), *rule, ComputeDevice::cpu().device, memory)
    }

    fn step(&self, network: &mut impl Network) {
        let rows = Rows { table: &self.features, width: self.data.width(), picked: &self.rows };
        let mut targets = self.data.train.targets.none();
        targets.replace(&self.data.train.targets, &self.rows);
        let judge = Judge { criterion: &self.recipe.criterion, targets: &targets };
        let sums = network.step(rows, Step { learning_rate: 0.01, dropout: None }, judge);
        assert!(sums.loss.is_finite());
    }

    /// The gradient by each parameter, all of it by burn: layers, loss and derivative.
    fn differentiated(&self, memory: &Memory) -> Vec<Vec<f32>> {
        let device = ComputeDevice::cpu().device.autodiff();
        let mut start = 0;
        let parameters = self.recipe.architecture.parameters();
        let values: Vec<Tensor<1>> = parameters
            .iter()
            .map(|parameter| {
                let own = start..start + parameter.len();
                start = own.end;
                tensor(&memory.parameters[own], [parameter.len()], &device).require_grad()
            })
            .collect();
        let shaped = |number: usize| (values[number].clone(), parameters[number].shape.clone());
        let outputs = self.outputs(&shaped, &device);
        let gradients = self.loss(outputs, &device).backward();
        values
            .iter()
            .map(|value| value.grad(&gradients).unwrap().into_data().try_into_vec().unwrap())
            .collect()
    }

    fn outputs(&self, shaped: &dyn Fn(usize) -> (Tensor<1>, Vec<usize>), device: &Device) -> Tensor<2> {
        let count = self.rows.len();
        let (mut signal, mut next) = (tensor(&self.features, [count, self.data.width()], device), 0);
        if let Architecture::Convolutional { image, .. } = &self.recipe.architecture {
            let mut planes = signal.reshape([count, image.channels, image.height, image.width]);
            for _ in 0..2 {
                let ((weight, shape), (bias, _)) = (shaped(next), shaped(next + 1));
                let weight = weight.reshape([shape[0], shape[1], shape[2], shape[3]]);
                let options = ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
                let convolved = activation::relu(conv2d(planes, weight, Some(bias), options));
                planes = max_pool2d(convolved, MaxPoolOptions::new([POOL, POOL]));
                next += 2;
            }
            signal = planes.reshape([count, image.flattened()]);
        }
        let parameters = self.recipe.architecture.parameters().len();
        while next < parameters {
            let ((weight, shape), (bias, _)) = (shaped(next), shaped(next + 1));
            let weight = weight.reshape([shape[0], shape[1]]);
            signal = linear(signal, weight.transpose(), Some(bias));
            next += 2;
            if next < parameters {
                signal = activation::relu(signal);
            }
        }
        signal
    }

    /// The mean loss over the rows.
    fn loss(&self, outputs: Tensor<2>, device: &Device) -> Tensor<1> {
        let count = self.rows.len();
        match &self.data.train.targets {
            Targets::Values(values) => {
                (outputs - tensor(&values[..count], [count, 1], device)).powi_scalar(2).mean()
            }
            Targets::Classes(ids) => {
                let ids = &ids[..count];
                let (_, weights) = self.recipe.criterion.cross_entropy(&self.data.train.targets).unwrap();
                let weights: Vec<f32> = ids.iter().map(|id| weights[*id as usize]).collect();
                let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
                let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [count, 1]), device);
                let likelihoods = activation::log_softmax(outputs, 1).gather(1, ids);
                (likelihoods * tensor(&weights, [count, 1], device)).mean().neg()
            }
        }
    }
}

fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

fn hyperparameters(optimizer: Optimizer) -> Hyperparameters {
    // With momentum the first velocity of SGD is the gradient itself.
    Hyperparameters { optimizer, momentum: 0.9, hidden_layers: vec![32, 16], ..Hyperparameters::default() }
}

#[test]
fn gradients_of_one_step_are_those_of_autodiff() {
    let (digits, numbers) =
        (load("builtin:digits", Problem::Auto), load("builtin:digits", Problem::Regression));
    let balanced = load("builtin:breast_cancer", Problem::Auto);
    for (model, data, class_weight) in [
        (Model::NeuralNetwork, &digits, ClassWeight::None),
        (Model::NeuralNetwork, &balanced, ClassWeight::Balanced),
        (Model::NeuralNetwork, &numbers, ClassWeight::None),
        (Model::Cnn, &digits, ClassWeight::None),
        (Model::Cnn, &digits, ClassWeight::Balanced),
        (Model::Cnn, &numbers, ClassWeight::None),
    ] {
        let how = Hyperparameters { class_weight: class_weight.clone(), ..hyperparameters(Optimizer::Sgd) };
        let case = Case::new(model, data, &how);
        let mut fused = case.fused(case.fresh());
        case.step(&mut fused);
        let got = fused.memory().first;
        let mut start = 0;
        for (number, want) in case.differentiated(&case.fresh()).iter().enumerate() {
            let got = &got[start..start + want.len()];
            start += want.len();
            let greatest = want.iter().fold(0.0_f32, |greatest, value| greatest.max(value.abs()));
            assert!(greatest > 0.0, "{model:?}: nothing to compare in parameter {number}");
            for (got, want) in got.iter().zip(want) {
                let apart = (got - want).abs() / greatest;
                assert!(apart <= TOLERANCE, "{model:?} {class_weight:?}, {number}: {got} {want} {greatest}");
            }
        }
        assert_eq!(start, got.len());
    }
}

#[test]
fn all_bits_pass_from_the_cpu_path_to_burn_and_back() {
    let data = load("builtin:digits", Problem::Auto);
    let optimizers = [Optimizer::Sgd, Optimizer::Adam, Optimizer::AdamW, Optimizer::RmsProp];
    for (model, optimizer) in
        [Model::NeuralNetwork, Model::Cnn].into_iter().flat_map(|model| optimizers.map(|o| (model, o)))
    {
        let case = Case::new(model, &data, &hyperparameters(optimizer));
        let mut fused = case.fused(case.fresh());
        for _ in 0..3 {
            case.step(&mut fused);
        }
        let before = fused.memory();
        let moved = |values: &[f32]| values.iter().any(|value| *value != 0.0);
        assert!(moved(&before.first) && before.steps == 3, "{model:?} {optimizer:?}");
        let mut burned = case.burned(&before);
        assert!(burned.memory() == before, "{model:?} {optimizer:?}: into burn");
        let mut returned = case.fused(burned.memory());
        case.step(&mut fused);
        case.step(&mut returned);
        assert!(returned.memory() == fused.memory(), "{model:?} {optimizer:?}: after a step");
        // And what burn has made of it comes back as it is.
        case.step(&mut burned);
        let later = burned.memory();
        assert!(later != before && later.steps == 4);
        returned.remember(later.clone());
        assert!(returned.memory() == later, "{model:?} {optimizer:?}: out of burn");
    }
}
