//! The network itself, and its layers outside of burn.

use burn::module::{Module, Param, ParamId};
use burn::nn::{Linear, Relu};
use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt;

use crate::engine::seeds::{self, Purpose};

/// Linear layers with ReLU between them, none after the last.
#[derive(Module, Debug)]
pub(super) struct Mlp {
    layers: Vec<Linear>,
    activation: Relu,
}

/// One linear layer on the host: y = x W + b.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layer {
    /// Width of x.
    pub(super) inputs: usize,
    /// Width of y.
    pub(super) outputs: usize,
    /// W, row-major, shape `[inputs, outputs]`.
    pub(super) weight: Vec<f32>,
    /// b, shape `[outputs]`.
    pub(super) bias: Vec<f32>,
}

/// Layers between `widths` with values as PyTorch's Linear has them at first, drawn from the stream of `seed` for
/// weights: layer by layer, weight before bias.
pub(super) fn first_layers(widths: &[usize], seed: u64) -> Vec<Layer> {
    let mut generator = seeds::stream(seed, Purpose::Weights, 0, 0);
    let mut draw = |length: usize, bound: f32| {
        let mut values = vec![0.0; length];
        tensorfleet_kernels::fill_uniform(&mut values, bound, || generator.random());
        values
    };
    let layer = |pair: &[usize]| {
        let (inputs, outputs) = (pair[0], pair[1]);
        let bound = 1.0 / (inputs.max(1) as f32).sqrt();
        Layer { inputs, outputs, weight: draw(inputs * outputs, bound), bias: draw(outputs, bound) }
    };
    widths.windows(2).map(layer).collect()
}

impl Mlp {
    /// A network without layers, to leave in the place of one that is being replaced.
    pub(super) fn empty() -> Self {
        Self { layers: Vec::new(), activation: Relu::new() }
    }

    /// A network of `layers` on `device`.
    pub(super) fn from_layers(layers: &[Layer], device: &Device) -> Self {
        let linear = |(index, layer): (usize, &Layer)| {
            let weight = TensorData::new(layer.weight.clone(), [layer.inputs, layer.outputs]);
            let bias = TensorData::new(layer.bias.clone(), [layer.outputs]);
            // An optimizer knows its parameters by these ids. The same in every network, they let the moments of a
            // checkpoint find theirs.
            let id = 2 * index as u64;
            Linear {
                weight: identified(id, Param::from_data(weight, device)),
                bias: Some(identified(id + 1, Param::from_data(bias, device))),
            }
        };
        Self { layers: layers.iter().enumerate().map(linear).collect(), activation: Relu::new() }
    }

    /// Its layers as they are now.
    pub(super) fn read(&self) -> Vec<Layer> {
        let layer = |linear: &Linear| {
            let [inputs, outputs] = linear.weight.val().dims();
            let bias = linear.bias.as_ref().map(|bias| values(bias.val())).unwrap_or_default();
            Layer { inputs, outputs, weight: values(linear.weight.val()), bias }
        };
        self.layers.iter().map(layer).collect()
    }

    /// Outputs, shape `[rows, outputs]`, of `input`, shape `[rows, features]`.
    pub(super) fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let mut signal = input;
        for (index, layer) in self.layers.iter().enumerate() {
            if index > 0 {
                signal = self.activation.forward(signal);
            }
            signal = layer.forward(signal);
        }
        signal
    }
}

fn identified<const D: usize>(id: u64, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
    let (_, value, mapper) = parameter.consume();
    Param::from_mapped_value(ParamId::from(id), value, mapper)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec::<f32>().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_values_follow_from_the_seed_and_keep_pytorchs_bounds() {
        let layers = first_layers(&[64, 128, 10], 7);
        assert_eq!(layers, first_layers(&[64, 128, 10], 7));
        assert_ne!(layers, first_layers(&[64, 128, 10], 8));
        for layer in &layers {
            let bound = 1.0 / (layer.inputs as f32).sqrt();
            let greatest =
                layer.weight.iter().chain(&layer.bias).fold(0.0_f32, |most, value| most.max(value.abs()));
            assert!(greatest <= bound && greatest > 0.9 * bound, "{greatest} {bound}");
        }
    }

    #[test]
    fn layers_go_in_and_come_out_unchanged() {
        let layers = first_layers(&[3, 5, 2], 1);
        assert_eq!(Mlp::from_layers(&layers, &Device::flex().autodiff()).valid().read(), layers);
    }

    #[test]
    fn forward_is_the_arithmetic_of_the_layers() {
        let layers = first_layers(&[2, 3, 1], 1);
        let net = Mlp::from_layers(&layers, &Device::flex());
        let input = [0.5_f32, -2.0];
        let got =
            values(net.forward(Tensor::from_data(TensorData::new(input.to_vec(), [1, 2]), &Device::flex())));
        let mut signal: Vec<f64> = input.iter().map(|&v| f64::from(v)).collect();
        for (index, layer) in layers.iter().enumerate() {
            if index > 0 {
                signal.iter_mut().for_each(|v| *v = v.max(0.0));
            }
            signal = (0..layer.outputs)
                .map(|o| {
                    let sum: f64 = (0..layer.inputs)
                        .map(|i| signal[i] * f64::from(layer.weight[i * layer.outputs + o]))
                        .sum();
                    sum + f64::from(layer.bias[o])
                })
                .collect();
        }
        assert!((f64::from(got[0]) - signal[0]).abs() < 1e-6);
    }
}
