//! Networks on the CPU: forward, loss, backward and optimizer over flat slices, nothing allocated in between.
//!
//! A step with products that are shared by threads runs on one of theirs: it would have to wake them for each product
//! otherwise.
//!
//! Weights of layers behind a ReLU lie the other way round here than outside, inputs before outputs. Half of what a ReLU lets
//! through is zero, and products pass over those zeros where they are on their left: on the way forward, and in the gradient
//! by weights that lie so. The gradient by the weights of the first layer has them in its slopes, which are on the left
//! where weights lie as they do outside.

use std::ops::Range;

use rayon::prelude::*;
use tensorfleet_kernels::{
    self as kernels, Activation, AdamMoments, Dense, DenseGradients, Descent, Gate, Matrix, Order,
};

use super::architecture::{Architecture, Parameter};
use super::convolutions::Convolutions;
use super::network::{Judge, Memory, Network, Rows, Rule, Step};
use crate::domain::Optimizer;
use crate::engine::minibatches::Sums;

/// Parameters that one thread takes at a time.
const PARAMETERS_AT_ONCE: usize = 1 << 15;

/// Outputs from which on products pass over zeros: fewer do not fill two vectors.
const TURNED_FROM: usize = 17;

/// A network in the CPU's memory: dense layers, and convolutions before them where it has some.
#[derive(Debug, Clone)]
pub(super) struct Fused {
    parameters: Vec<Parameter>,
    convolutions: Option<Convolutions>,
    layers: Vec<Layer>,
    rule: Rule,
    /// With the weights of each layer in its order.
    memory: Memory,
    scratch: Scratch,
}

/// A layer, and where its values are among all.
#[derive(Debug, Clone)]
struct Layer {
    weight: Range<usize>,
    /// What of its weights, shape `[outputs, inputs]`, lies side by side.
    order: Order,
    bias: Range<usize>,
}

impl Layer {
    /// Outputs and inputs.
    fn shape(&self) -> [usize; 2] {
        let outputs = self.bias.len();
        [outputs, self.weight.len() / outputs.max(1)]
    }

    fn of<'a>(&self, values: &'a [f32]) -> Dense<'a> {
        let weight = Matrix::ordered(&values[self.weight.clone()], self.shape(), self.order);
        Dense { weight, bias: &values[self.bias.clone()] }
    }

    /// What of `values` is its own from the order outside into its own.
    fn turn_in(&self, values: &mut [f32]) {
        let [outputs, inputs] = self.shape();
        self.turn(values, outputs, inputs);
    }

    /// And back.
    fn turn_out(&self, values: &mut [f32]) {
        let [outputs, inputs] = self.shape();
        self.turn(values, inputs, outputs);
    }

    fn turn(&self, values: &mut [f32], rows: usize, columns: usize) {
        if self.order == Order::Columns {
            let own = &mut values[self.weight.clone()];
            let before = own.to_vec();
            kernels::transpose(&before, rows, columns, own);
        }
    }
}

/// Room for a step, reused by the next one.
#[derive(Debug, Clone, Default)]
struct Scratch {
    /// Output of each layer.
    signals: Vec<Vec<f32>>,
    /// Gradient by the output of a layer, and by its input.
    slopes: [Vec<f32>; 2],
    /// Gradient by the parameters.
    gradient: Vec<f32>,
}

impl Fused {
    /// A network with `memory_outside`, whose parameters have the shapes that `architecture` says.
    pub(super) fn new(architecture: &Architecture, rule: Rule, memory_outside: Memory) -> Self {
        let parameters = architecture.parameters();
        let mut end = 0;
        let mut next = |parameter: &Parameter| {
            let start = end;
            end += parameter.len();
            start..end
        };
        let mut pairs = parameters.chunks_exact(2).map(|pair| (next(&pair[0]), next(&pair[1])));
        let stages = architecture.stages().into_iter();
        let stages: Vec<_> =
            stages.zip(pairs.by_ref()).map(|(stage, (weight, bias))| (stage, weight, bias)).collect();
        let convolutions = (!stages.is_empty()).then(|| Convolutions::new(stages));
        let layer = |(index, (weight, bias)): (usize, (Range<usize>, Range<usize>))| {
            let behind_relu = index > 0 || convolutions.is_some();
            let turned = behind_relu && bias.len() >= TURNED_FROM;
            Layer { weight, order: if turned { Order::Columns } else { Order::Rows }, bias }
        };
        let layers = pairs.enumerate().map(layer).collect();
        let (memory, scratch) = (Memory::default(), Scratch::default());
        let mut network = Self { parameters, convolutions, layers, rule, memory, scratch };
        network.remember(memory_outside);
        network
    }

    /// `values` of all parameters as they are outside.
    fn outside(&self, values: &[f32]) -> Vec<f32> {
        let mut values = values.to_vec();
        self.layers.iter().for_each(|layer| layer.turn_out(&mut values));
        values
    }

    /// The input of the first dense layer.
    fn first<'a>(convolutions: Option<&'a Convolutions>, layers: &[Layer], rows: Rows<'a>) -> Matrix<'a> {
        match (convolutions, layers.first()) {
            (Some(convolutions), Some(layer)) => {
                Matrix::new(convolutions.flat(), rows.count(), layer.shape()[1])
            }
            _ => rows.matrix(),
        }
    }

    /// Fills the signals for `rows`; those of hidden layers are behind ReLU and dropout.
    fn forward(&mut self, rows: Rows<'_>, how: &mut Step) {
        if let Some(convolutions) = &mut self.convolutions {
            convolutions.forward(&self.memory.parameters, rows);
        }
        let first = Self::first(self.convolutions.as_ref(), &self.layers, rows);
        let signals = &mut self.scratch.signals;
        signals.resize_with(self.layers.len(), Vec::new);
        for (index, layer) in self.layers.iter().enumerate() {
            let (before, rest) = signals.split_at_mut(index);
            let [outputs, inputs] = layer.shape();
            let input = before.last().map_or(first, |signal| Matrix::new(signal, rows.count(), inputs));
            let output = &mut rest[0];
            output.resize(rows.count() * outputs, 0.0);
            let activation = activation(index, &self.layers);
            layer.of(&self.memory.parameters).forward(input, activation, output);
            if let (Activation::Relu, Some(dropout)) = (activation, &mut how.dropout) {
                dropout.apply(output);
            }
        }
    }

    /// Fills the gradient by all parameters from that by the outputs, which is in the first of the slopes.
    fn backward(&mut self, rows: Rows<'_>, scale: f32) {
        let Scratch { signals, slopes: [by_output, by_input], gradient } = &mut self.scratch;
        let first = Self::first(self.convolutions.as_ref(), &self.layers, rows);
        gradient.resize(self.memory.parameters.len(), 0.0);
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let before = index.checked_sub(1).map(|before| signals[before].as_slice());
            let inputs = layer.shape()[1];
            let input = before.map_or(first, |before| Matrix::new(before, rows.count(), inputs));
            let (by_weight, by_bias) =
                gradient[layer.weight.start..layer.bias.end].split_at_mut(layer.weight.len());
            let gradients = DenseGradients { by_weight, order: layer.order, by_bias };
            kernels::dense_gradients(input, by_output, gradients);
            if index > 0 || self.convolutions.is_some() {
                by_input.resize(rows.count() * inputs, 0.0);
                let gate = before.map(|output| Gate { output, scale });
                layer.of(&self.memory.parameters).backward(by_output, gate, by_input);
                std::mem::swap(by_output, by_input);
            }
        }
        if let Some(convolutions) = &mut self.convolutions {
            convolutions.backward(rows, by_output, gradient);
        }
    }

    fn descend(&mut self, learning_rate: f64) {
        let Memory { parameters, first, second, steps } = &mut self.memory;
        *steps += 1;
        let (rule, step) = (self.rule, *steps);
        let mut start = 0;
        for parameter in &self.parameters {
            let own = start..start + parameter.len();
            start = own.end;
            let weight_decay = rule.decay(parameter.role);
            let descend = |((parameters, gradient), (first, second)): Part<'_>| {
                let learning_rate = learning_rate as f32;
                let descent = Descent { parameters, gradient, learning_rate, weight_decay };
                match rule.optimizer {
                    Optimizer::Sgd => kernels::sgd(descent, rule.momentum, first),
                    Optimizer::Adam => kernels::adam(descent, AdamMoments { first, second, step }),
                    Optimizer::AdamW => kernels::adamw(descent, AdamMoments { first, second, step }),
                    Optimizer::RmsProp => kernels::rmsprop(descent, rule.momentum, first, second),
                }
            };
            let values = (&mut parameters[own.clone()], &self.scratch.gradient[own.clone()]);
            let moments = (&mut first[own.clone()], &mut second[own]);
            if parameter.len() <= PARAMETERS_AT_ONCE || rayon::current_num_threads() == 1 {
                descend((values, moments));
                continue;
            }
            let at_once = PARAMETERS_AT_ONCE;
            let values = values.0.par_chunks_mut(at_once).zip(values.1.par_chunks(at_once));
            let moments = moments.0.par_chunks_mut(at_once).zip(moments.1.par_chunks_mut(at_once));
            values.zip(moments).for_each(descend);
        }
    }

    /// Whether threads share one of the products of a step on so many rows.
    fn is_shared(&self, rows: usize) -> bool {
        let sizes = self.layers.iter().map(|layer| layer.weight.len().saturating_mul(rows));
        self.convolutions.is_some() || sizes.max().is_some_and(kernels::is_shared)
    }

    fn step_here(&mut self, rows: Rows<'_>, mut how: Step, judge: Judge<'_>) -> Sums {
        self.forward(rows, &mut how);
        let Scratch { signals, slopes: [by_output, _], .. } = &mut self.scratch;
        let outputs = signals.last().map_or(&[][..], Vec::as_slice);
        by_output.resize(outputs.len(), 0.0);
        let sums = judge.gradient(outputs, by_output);
        if sums.loss.is_finite() {
            self.backward(rows, how.dropout.map_or(1.0, |dropout| dropout.scale()));
            self.descend(how.learning_rate);
        }
        sums
    }
}

/// Some parameters with their gradient, and their moments.
type Part<'a> = ((&'a mut [f32], &'a [f32]), (&'a mut [f32], &'a mut [f32]));

/// What is behind layer number `index`.
fn activation(index: usize, layers: &[Layer]) -> Activation {
    if index + 1 < layers.len() { Activation::Relu } else { Activation::Identity }
}

impl Network for Fused {
    fn step(&mut self, rows: Rows<'_>, how: Step, judge: Judge<'_>) -> Sums {
        if self.is_shared(rows.count()) {
            rayon::scope(|_| self.step_here(rows, how, judge))
        } else {
            self.step_here(rows, how, judge)
        }
    }

    fn outputs(&self, rows: Rows<'_>) -> Vec<f32> {
        let mut convolutions = self.convolutions.as_ref().map(Convolutions::fresh);
        if let Some(convolutions) = &mut convolutions {
            convolutions.forward(&self.memory.parameters, rows);
        }
        let mut signal = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let [outputs, inputs] = layer.shape();
            let mut output = vec![0.0; rows.count() * outputs];
            let input = match index {
                0 => Self::first(convolutions.as_ref(), &self.layers, rows),
                _ => Matrix::new(&signal, rows.count(), inputs),
            };
            layer.of(&self.memory.parameters).forward(input, activation(index, &self.layers), &mut output);
            signal = output;
        }
        signal
    }

    fn parameters(&self) -> Vec<f32> {
        self.outside(&self.memory.parameters)
    }

    fn steps(&self) -> u64 {
        self.memory.steps
    }

    fn memory(&self) -> Memory {
        let Memory { parameters, first, second, steps } = &self.memory;
        let [parameters, first, second] = [parameters, first, second].map(|values| self.outside(values));
        Memory { parameters, first, second, steps: *steps }
    }

    fn remember(&mut self, memory: Memory) {
        self.memory = memory;
        let Memory { parameters, first, second, .. } = &mut self.memory;
        for values in [parameters, first, second] {
            self.layers.iter().for_each(|layer| layer.turn_in(values));
        }
    }

    fn duplicate(&self) -> Box<dyn Network> {
        Box::new(Self {
            parameters: self.parameters.clone(),
            convolutions: self.convolutions.as_ref().map(Convolutions::fresh),
            layers: self.layers.clone(),
            rule: self.rule,
            memory: self.memory.clone(),
            scratch: Scratch::default(),
        })
    }
}
