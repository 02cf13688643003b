//! Dense networks on the CPU: forward, loss, backward and optimizer over flat slices, nothing allocated in between.

use std::ops::Range;

use tensorfleet_kernels::{self as kernels, AdamMoments, Dense, Descent};

use super::architecture::{Architecture, Parameter};
use super::network::{Judge, Memory, Network, Rows, Rule, Step};
use crate::domain::Optimizer;
use crate::engine::minibatches::Sums;

/// A dense network in the CPU's memory.
#[derive(Debug, Clone)]
pub(super) struct Fused {
    parameters: Vec<Parameter>,
    layers: Vec<Layer>,
    rule: Rule,
    memory: Memory,
    scratch: Scratch,
}

/// Where a layer's values are among all.
#[derive(Debug, Clone)]
struct Layer {
    weight: Range<usize>,
    bias: Range<usize>,
}

impl Layer {
    fn of<'a>(&self, values: &'a [f32]) -> Dense<'a> {
        Dense { weight: &values[self.weight.clone()], bias: &values[self.bias.clone()] }
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
    /// A network of dense layers with `parameters`, shape as `architecture` says.
    pub(super) fn new(architecture: &Architecture, rule: Rule, memory: Memory) -> Self {
        let parameters = architecture.parameters();
        let mut end = 0;
        let mut next = |parameter: &Parameter| {
            let start = end;
            end += parameter.len();
            start..end
        };
        let layers = parameters
            .chunks_exact(2)
            .map(|pair| Layer { weight: next(&pair[0]), bias: next(&pair[1]) })
            .collect();
        Self { parameters, layers, rule, memory, scratch: Scratch::default() }
    }

    /// Fills the signals for `rows`; those of hidden layers are behind ReLU and dropout.
    fn forward(&mut self, rows: Rows<'_>, how: &mut Step) {
        let signals = &mut self.scratch.signals;
        signals.resize_with(self.layers.len(), Vec::new);
        for (index, layer) in self.layers.iter().enumerate() {
            let (before, rest) = signals.split_at_mut(index);
            let input = before.last().map_or(rows.features, |signal| signal.as_slice());
            let output = &mut rest[0];
            output.resize(rows.count * layer.bias.len(), 0.0);
            layer.of(&self.memory.parameters).forward(input, output);
            if index + 1 < self.layers.len() {
                kernels::relu(output);
                if let Some(dropout) = &mut how.dropout {
                    dropout.apply(output);
                }
            }
        }
    }

    /// Fills the gradient by all parameters from that by the outputs, which is in the first of the slopes.
    fn backward(&mut self, rows: Rows<'_>, scale: f32) {
        let Scratch { signals, slopes: [by_output, by_input], gradient } = &mut self.scratch;
        gradient.resize(self.memory.parameters.len(), 0.0);
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let input = index.checked_sub(1).map_or(rows.features, |before| signals[before].as_slice());
            let (by_weight, by_bias) =
                gradient[layer.weight.start..layer.bias.end].split_at_mut(layer.weight.len());
            kernels::dense_gradients(input, by_output, by_weight, by_bias);
            if index > 0 {
                by_input.resize(input.len(), 0.0);
                layer.of(&self.memory.parameters).backward(by_output, by_input);
                kernels::relu_backward(input, scale, by_input);
                std::mem::swap(by_output, by_input);
            }
        }
    }

    fn descend(&mut self, learning_rate: f64) {
        let Memory { parameters, first, second, steps } = &mut self.memory;
        *steps += 1;
        let mut start = 0;
        for parameter in &self.parameters {
            let own = start..start + parameter.len();
            start = own.end;
            let descent = Descent {
                parameters: &mut parameters[own.clone()],
                gradient: &self.scratch.gradient[own.clone()],
                learning_rate: learning_rate as f32,
                weight_decay: self.rule.decay(parameter.role),
            };
            let (first, second) = (&mut first[own.clone()], &mut second[own]);
            match self.rule.optimizer {
                Optimizer::Sgd => kernels::sgd(descent, self.rule.momentum, first),
                Optimizer::Adam => kernels::adam(descent, AdamMoments { first, second, step: *steps }),
                Optimizer::AdamW => kernels::adamw(descent, AdamMoments { first, second, step: *steps }),
                Optimizer::RmsProp => kernels::rmsprop(descent, self.rule.momentum, first, second),
            }
        }
    }
}

impl Network for Fused {
    fn step(&mut self, rows: Rows<'_>, mut how: Step, judge: Judge<'_>) -> Sums {
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

    fn outputs(&self, rows: Rows<'_>) -> Vec<f32> {
        let mut signal = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let mut output = vec![0.0; rows.count * layer.bias.len()];
            let input = if index == 0 { rows.features } else { &signal };
            layer.of(&self.memory.parameters).forward(input, &mut output);
            if index + 1 < self.layers.len() {
                kernels::relu(&mut output);
            }
            signal = output;
        }
        signal
    }

    fn parameters(&self) -> Vec<f32> {
        self.memory.parameters.clone()
    }

    fn steps(&self) -> u64 {
        self.memory.steps
    }

    fn memory(&self) -> Memory {
        self.memory.clone()
    }

    fn remember(&mut self, memory: Memory) {
        self.memory = memory;
    }

    fn duplicate(&self) -> Box<dyn Network> {
        let scratch = Scratch::default();
        let Self { parameters, layers, rule, memory, .. } = self;
        let (parameters, layers, rule, memory) = (parameters.clone(), layers.clone(), *rule, memory.clone());
        Box::new(Self { parameters, layers, rule, memory, scratch })
    }
}
