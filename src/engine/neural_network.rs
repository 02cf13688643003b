//! Multilayer perceptron: linear layers with ReLU between them, trained by minibatches with burn.
//!
//! ```text
//! rows --gather--> [b, features] --Mlp (burn)--> outputs [b, width] --to host--> loss, hits, gradient (kernels)
//!                                     ^                                              |
//!                                     +--- optimizer <--- backward(outputs * gradient) +
//! ```
//!
//! Outputs are read back once a step and loss, accuracy and the gradient by the outputs come of one pass over
//! them; burn differentiates the layers alone. The loss is needed at every step anyway, to notice divergence.
//!
//! Invariants: first weights come from the job's own generator; nothing here draws from burn's global one.
//!
//! Deliberately absent: dropout, schedules of the learning rate, class weights.

mod loss;
mod mlp;
mod optimizer;
#[cfg(test)]
mod tests;
mod weights;

use std::sync::Arc;

use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer, OptimizerRecord};
use burn::tensor::{Bytes, Device, Tensor, TensorData};

use self::loss::Objective;
use self::mlp::{Layer, Mlp};
use super::Control;
use super::minibatches::{self, Minibatches, Report, Sums};
use super::trainer::{Blueprint, Slice, Trained, Trainer};
use crate::data::{Dataset, Part};
use crate::domain::{ErrorCode, Hyperparameters, InvalidField, Metrics, TaskError};

/// Most parameters of a network; with optimizer, gradients and a copy to roll back to they take 24 bytes each.
const MAX_PARAMETERS: u64 = 100_000_000;

/// Step size where none is given.
const LEARNING_RATE: f64 = 0.001;

/// Rows that go through the network at once when it is evaluated.
const EVALUATION_ROWS: usize = 1024;

/// A multilayer perceptron in training.
pub(crate) struct NeuralNetwork {
    data: Arc<Dataset>,
    objective: Objective,
    learning_rate: f64,
    device: Device,
    net: Mlp,
    optimizer: ModuleOptimizer,
    /// The optimizer as it is before the first step.
    fresh_optimizer: ModuleOptimizer,
    marked: Option<(Mlp, ModuleOptimizer)>,
    minibatches: Minibatches,
    parameters: u64,
}

impl NeuralNetwork {
    /// A network with fresh weights.
    ///
    /// # Errors
    /// A loss that does not fit the target; more than [`MAX_PARAMETERS`].
    pub(crate) fn build(blueprint: &Blueprint<'_>) -> Result<Self, TaskError> {
        let Blueprint { data, hyperparameters, seed, .. } = *blueprint;
        let objective = Objective::choose(hyperparameters.loss, &data.target)?;
        let widths: Vec<usize> = std::iter::once(data.width())
            .chain(hyperparameters.hidden_layers.iter().copied())
            .chain([objective.outputs()])
            .collect();
        let parameters = count(&widths);
        if parameters > MAX_PARAMETERS {
            return Err(too_many(parameters, hyperparameters));
        }
        let device = blueprint.device.device.clone().autodiff();
        Ok(Self {
            data: Arc::clone(data),
            objective,
            learning_rate: hyperparameters.learning_rate.unwrap_or(LEARNING_RATE),
            net: Mlp::from_layers(&mlp::first_layers(&widths, seed), &device),
            device,
            optimizer: optimizer::build(hyperparameters),
            fresh_optimizer: optimizer::build(hyperparameters),
            marked: None,
            minibatches: Minibatches::new(seed, data.train.len(), hyperparameters.batch_size),
            parameters,
        })
    }

    /// Outputs for the rows of `part` at `rows`, shape [rows, outputs].
    fn outputs(&self, net: &Mlp, part: &Part, rows: &[u32]) -> Vec<f32> {
        let input = batch(part, rows, self.data.width(), &self.device.clone().inner());
        host(net.forward(input))
    }
}

impl Trainer for NeuralNetwork {
    fn mark(&mut self) {
        // Tensors are shared until a step replaces them, so that this copies nothing.
        self.marked = Some((self.net.clone(), self.optimizer.clone()));
    }

    fn roll_back(&mut self) {
        if let Some((net, optimizer)) = self.marked.clone() {
            self.net = net;
            self.optimizer = optimizer;
        }
    }

    fn batches_per_epoch(&self) -> u32 {
        self.minibatches.per_epoch()
    }

    fn train(&mut self, slice: &Slice, control: &Control) -> Result<Trained, TaskError> {
        let Self { data, objective, device, net, optimizer, minibatches, learning_rate, .. } = self;
        let report = Report { control, target: &data.target, learning_rate: *learning_rate };
        let width = data.width();
        minibatches::run(slice, minibatches, &report, |rows| {
            let outputs = net.forward(batch(&data.train, rows, width, device));
            let (sums, gradient) = objective.gradient(&host(outputs.clone()), &data.train, rows);
            if !sums.loss.is_finite() {
                return sums;
            }
            let shape = [rows.len(), objective.outputs()];
            let gradient = Tensor::<2>::from_data(TensorData::new(gradient, shape), &*device);
            // The derivative of sum(outputs * gradient) by the outputs is the gradient itself.
            let gradients = (outputs * gradient).backward();
            let gradients = GradientsParams::from_grads(gradients, net);
            let before = std::mem::replace(net, Mlp::empty());
            *net = optimizer.step(*learning_rate, before, gradients);
            sums
        })
    }

    fn evaluate(&self, rows: &[u32], control: &Control) -> Result<Metrics, TaskError> {
        let net = self.net.valid();
        let mut total = Sums::default();
        for rows in rows.chunks(EVALUATION_ROWS) {
            control.check()?;
            let outputs = self.outputs(&net, &self.data.validation, rows);
            total.add(self.objective.sums(&outputs, &self.data.validation, rows));
        }
        Ok(total.metrics(&self.data.target))
    }

    fn predict(&self) -> Vec<f32> {
        let net = self.net.valid();
        let part = &self.data.validation;
        let rows: Vec<u32> = (0..part.rows.len() as u32).collect();
        let mut outputs = Vec::with_capacity(rows.len() * self.objective.outputs());
        for rows in rows.chunks(EVALUATION_ROWS) {
            outputs.extend(self.outputs(&net, part, rows));
        }
        if let Objective::CrossEntropy { classes } = self.objective {
            tensorfleet_kernels::softmax(&mut outputs, classes);
        }
        outputs
    }

    fn weights(&self) -> Result<Vec<u8>, TaskError> {
        let layers = self.net.to_layers();
        let mut values = layers.iter().flat_map(|layer| layer.weight.iter().chain(&layer.bias));
        if let Some(value) = values.find(|value| !value.is_finite()) {
            let what = format!("a weight is {}", minibatches::no_number(f64::from(*value)));
            return Err(TaskError::new(ErrorCode::Diverged, what));
        }
        weights::write(&layers)
    }

    fn load_weights(&mut self, bytes: &[u8]) -> Result<(), TaskError> {
        let expected = self.net.to_layers();
        self.net = Mlp::from_layers(&weights::read(bytes, &expected)?, &self.device);
        // Moments belong to the parameters that are gone: they would pile up with every task that brings weights.
        self.optimizer = self.fresh_optimizer.clone();
        Ok(())
    }

    fn state(&self) -> Result<Vec<u8>, TaskError> {
        let layers = weights::write(&self.net.to_layers())?;
        let moments = self.optimizer.to_record().into_bytes().map_err(|error| {
            TaskError::new(ErrorCode::Internal, format!("the optimizer could not be written: {error}"))
        })?;
        let length = (layers.len() as u64).to_le_bytes();
        Ok([length.as_slice(), &layers, &moments].concat())
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TaskError> {
        let damaged = || TaskError::new(ErrorCode::Internal, "the state is none of this network");
        let (length, rest) = state.split_first_chunk::<8>().ok_or_else(damaged)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| damaged())?;
        let (layers, moments) = rest.split_at_checked(length).ok_or_else(damaged)?;
        let layers = weights::read(layers, &self.net.to_layers())?;
        let record =
            OptimizerRecord::from_bytes(Bytes::from_bytes_vec(moments.to_vec())).map_err(|_| damaged())?;
        self.net = Mlp::from_layers(&layers, &self.device);
        self.optimizer = self.fresh_optimizer.clone().load_record(record);
        Ok(())
    }

    fn remedy(&self) -> String {
        minibatches::remedy(self.learning_rate)
    }

    fn memory_bytes(&self) -> u64 {
        // Weights, two moments, gradients, and weights and moments to roll back to.
        self.parameters * 4 * 6
    }
}

/// The features of `rows` as a tensor of shape [rows, width].
fn batch(part: &Part, rows: &[u32], width: usize, device: &Device) -> Tensor<2> {
    let mut features = Vec::with_capacity(rows.len() * width);
    for &row in rows {
        let start = row as usize * width;
        features.extend_from_slice(part.features.get(start..start + width).unwrap_or_default());
    }
    Tensor::from_data(TensorData::new(features, [rows.len(), width]), device)
}

/// The values of `tensor`, row-major. Empty where the device failed, which shapes then show.
fn host(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().try_into_vec::<f32>().unwrap_or_default()
}

fn count(widths: &[usize]) -> u64 {
    widths.windows(2).map(|pair| (pair[0] as u64 + 1).saturating_mul(pair[1] as u64)).sum()
}

fn too_many(parameters: u64, hyperparameters: &Hyperparameters) -> TaskError {
    let widths: Vec<String> = hyperparameters.hidden_layers.iter().map(ToString::to_string).collect();
    let field = InvalidField::new(
        "hyperparameters.hidden_layers",
        widths.join(","),
        format!(
            "widths that give at most {MAX_PARAMETERS} parameters with this data set (these: {parameters})"
        ),
    );
    TaskError::new(ErrorCode::ResourceExhausted, field.to_string())
}

impl Mlp {
    /// Its layers on the host.
    fn to_layers(&self) -> Vec<Layer> {
        self.valid().read()
    }
}
