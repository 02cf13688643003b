//! Networks on a device of burn: those on a GPU, and on the CPU the reference for tests.
//!
//! Parameters are flat tensors; burn differentiates the layers alone. The optimizers are our own kernels: burn's are
//! a chain of operations, and are restored onto its default device, which may not be there.

use burn::tensor::module::{conv2d, linear, max_pool2d};
use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use burn::tensor::{Device, Tensor, TensorData, activation};

use super::architecture::{Architecture, Image, POOL, Parameter};
use super::descent::{Pace, Value, host};
use super::judging::Judged;
use super::network::{Dropout, Judge, Memory, Network, Rows, Rule, Step};
use crate::engine::minibatches::Sums;

/// A network on a device.
#[derive(Debug, Clone)]
pub(super) struct Tensors {
    architecture: Architecture,
    parameters: Vec<Parameter>,
    rule: Rule,
    device: Device,
    values: Vec<Value>,
    steps: u64,
}

impl Tensors {
    /// A network with `memory` on `device`.
    pub(super) fn new(architecture: Architecture, rule: Rule, device: Device, memory: &Memory) -> Self {
        let parameters = architecture.parameters();
        let mut network = Self { architecture, parameters, rule, device, values: Vec::new(), steps: 0 };
        network.upload(memory);
        network
    }

    fn upload(&mut self, memory: &Memory) {
        let mut start = 0;
        self.steps = memory.steps;
        self.values.clear();
        for parameter in &self.parameters {
            let own = start..start + parameter.len();
            start = own.end;
            let tensor = |values: &[f32]| {
                let data = TensorData::new(values[own.clone()].to_vec(), [own.len()]);
                Tensor::from_data(data, &self.device)
            };
            self.values.push(Value {
                parameter: tensor(&memory.parameters),
                first: tensor(&memory.first),
                second: tensor(&memory.second),
            });
        }
    }

    fn download(&self, of: impl Fn(&Value) -> Tensor<1>) -> Vec<f32> {
        self.values.iter().flat_map(|value| host(of(value))).collect()
    }

    fn descend(&mut self, index: usize, gradient: Tensor<1>, learning_rate: f64) {
        if let (Some(value), Some(parameter)) = (self.values.get_mut(index), self.parameters.get(index)) {
            let pace = Pace {
                rule: self.rule,
                decay: self.rule.decay(parameter.role),
                learning_rate: learning_rate as f32,
                step: self.steps,
            };
            *value = value.clone().descended(gradient, pace);
        }
    }

    /// Outputs, shape `[rows, width]`, of `input`, shape `[rows, features]`, with `values` as parameters.
    fn forward(&self, values: &[Tensor<1>], input: Tensor<2>, dropout: Option<&mut Dropout>) -> Tensor<2> {
        let mut forward = Forward { parameters: &self.parameters, values, next: 0, dropout };
        match &self.architecture {
            Architecture::Dense { widths } => {
                let hidden = (2..widths.len()).fold(input, |signal, _| forward.hidden(signal));
                forward.dense(hidden)
            }
            Architecture::Convolutional { image, .. } => {
                let Image { channels, height, width } = *image;
                let [rows, _] = input.dims();
                let signal = input.reshape([rows, channels, height, width]);
                let signal = forward.convolution(signal);
                let signal = forward.convolution(signal);
                let hidden = forward.hidden(signal.reshape([rows, image.flattened()]));
                forward.dense(hidden)
            }
        }
    }

    fn input(&self, rows: Rows<'_>, device: &Device) -> Tensor<2> {
        let features = rows.iter().flatten().copied().collect();
        Tensor::from_data(TensorData::new::<f32, _>(features, [rows.count(), rows.width]), device)
    }
}

/// The way through the layers; parameters are taken in their order.
struct Forward<'a> {
    parameters: &'a [Parameter],
    values: &'a [Tensor<1>],
    next: usize,
    dropout: Option<&'a mut Dropout>,
}

impl Forward<'_> {
    /// The next parameter, which has `D` dimensions.
    fn take<const D: usize>(&mut self) -> Tensor<D> {
        let shape: [usize; D] = std::array::from_fn(|side| self.parameters[self.next].shape[side]);
        let value = self.values[self.next].clone().reshape(shape);
        self.next += 1;
        value
    }

    fn dense(&mut self, signal: Tensor<2>) -> Tensor<2> {
        let weight = self.take::<2>();
        let bias = self.take::<1>();
        linear(signal, weight.transpose(), Some(bias))
    }

    /// A dense layer with ReLU and dropout behind it.
    fn hidden(&mut self, signal: Tensor<2>) -> Tensor<2> {
        let signal = activation::relu(self.dense(signal));
        let Some(dropout) = &mut self.dropout else { return signal };
        let [rows, width] = signal.dims();
        let mut mask = vec![1.0; rows * width];
        dropout.apply(&mut mask);
        let mask = Tensor::from_data(TensorData::new(mask, [rows, width]), &signal.device());
        signal * mask
    }

    /// A convolution with ReLU and pooling behind it.
    fn convolution(&mut self, signal: Tensor<4>) -> Tensor<4> {
        let weight = self.take::<4>();
        let bias = self.take::<1>();
        let signal = conv2d(signal, weight, Some(bias), ConvOptions::new([1, 1], [1, 1], [1, 1], 1));
        max_pool2d(activation::relu(signal), MaxPoolOptions::new([POOL, POOL]))
    }
}

impl Network for Tensors {
    fn step(&mut self, rows: Rows<'_>, mut how: Step, judge: Judge<'_>) -> Sums {
        let device = self.device.clone().autodiff();
        let tracked: Vec<Tensor<1>> =
            self.values.iter().map(|value| value.parameter.clone().autodiff().require_grad()).collect();
        let outputs = self.forward(&tracked, self.input(rows, &device), how.dropout.as_mut());
        let judged = match Judged::of(outputs.clone().inner(), &judge) {
            Ok(judged) => judged,
            Err(sums) => return sums,
        };
        // The derivative of sum(outputs * gradient) by the outputs is the gradient itself.
        let gradients = (outputs * judged.gradient.clone().autodiff()).backward();
        let before = (self.values.clone(), self.steps);
        self.steps += 1;
        for (index, parameter) in tracked.iter().enumerate() {
            if let Some(gradient) = parameter.grad(&gradients) {
                self.descend(index, gradient, how.learning_rate);
            }
        }
        let sums = judged.sums();
        if !sums.loss.is_finite() {
            (self.values, self.steps) = before;
        }
        sums
    }

    fn outputs(&self, rows: Rows<'_>) -> Vec<f32> {
        let values: Vec<Tensor<1>> = self.values.iter().map(|value| value.parameter.clone()).collect();
        host(self.forward(&values, self.input(rows, &self.device), None))
    }

    fn parameters(&self) -> Vec<f32> {
        self.download(|value| value.parameter.clone())
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn memory(&self) -> Memory {
        Memory {
            parameters: self.parameters(),
            first: self.download(|value| value.first.clone()),
            second: self.download(|value| value.second.clone()),
            steps: self.steps,
        }
    }

    fn remember(&mut self, memory: Memory) {
        self.upload(&memory);
    }

    fn duplicate(&self) -> Box<dyn Network> {
        // Tensors are shared until a step replaces them, so that this copies nothing.
        Box::new(self.clone())
    }
}
