//! Networks on the CPU: forward, loss, backward and optimizer over flat slices, nothing allocated in between.

use std::ops::Range;

use tensorfleet_kernels::{self as kernels, AdamMoments, Dense, Descent};

use super::architecture::{Architecture, Parameter};
use super::convolutions::Convolutions;
use super::network::{Judge, Memory, Network, Rows, Rule, Step};
use crate::domain::Optimizer;
use crate::engine::minibatches::Sums;

/// A network in the CPU's memory: dense layers, and convolutions before them where it has some.
#[derive(Debug, Clone)]
pub(super) struct Fused {
    parameters: Vec<Parameter>,
    convolutions: Option<Convolutions>,
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
    /// A network with `memory`, whose parameters have the shapes that `architecture` says.
    pub(super) fn new(architecture: &Architecture, rule: Rule, memory: Memory) -> Self {
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
        let layers = pairs.map(|(weight, bias)| Layer { weight, bias }).collect();
        Self { parameters, convolutions, layers, rule, memory, scratch: Scratch::default() }
    }

    /// Fills the signals for `rows`; those of hidden layers are behind ReLU and dropout.
    fn forward(&mut self, rows: Rows<'_>, how: &mut Step) {
        if let Some(convolutions) = &mut self.convolutions {
            convolutions.forward(&self.memory.parameters, rows);
        }
        let first = self.convolutions.as_ref().map_or(rows.features, Convolutions::flat);
        let signals = &mut self.scratch.signals;
        signals.resize_with(self.layers.len(), Vec::new);
        for (index, layer) in self.layers.iter().enumerate() {
            let (before, rest) = signals.split_at_mut(index);
            let input = before.last().map_or(first, |signal| signal.as_slice());
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
        let first = self.convolutions.as_ref().map_or(rows.features, Convolutions::flat);
        gradient.resize(self.memory.parameters.len(), 0.0);
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let input = index.checked_sub(1).map_or(first, |before| signals[before].as_slice());
            let (by_weight, by_bias) =
                gradient[layer.weight.start..layer.bias.end].split_at_mut(layer.weight.len());
            kernels::dense_gradients(input, by_output, by_weight, by_bias);
            if index > 0 || self.convolutions.is_some() {
                by_input.resize(input.len(), 0.0);
                layer.of(&self.memory.parameters).backward(by_output, by_input);
                std::mem::swap(by_output, by_input);
            }
            if index > 0 {
                kernels::relu_backward(input, scale, by_output);
            }
        }
        if let Some(convolutions) = &mut self.convolutions {
            convolutions.backward(rows, by_output, gradient);
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
        let mut convolutions = self.convolutions.as_ref().map(Convolutions::fresh);
        if let Some(convolutions) = &mut convolutions {
            convolutions.forward(&self.memory.parameters, rows);
        }
        let first = convolutions.as_ref().map_or(rows.features, Convolutions::flat);
        let mut signal = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let mut output = vec![0.0; rows.count * layer.bias.len()];
            let input = if index == 0 { first } else { &signal };
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
