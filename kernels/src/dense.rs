//! Dense layers: the way forward, the way back, and what is between them.

use crate::matrix::{Finish, Gate, Matrix, multiply};
use crate::simd::widened;

/// A dense layer y = x W' + b, as PyTorch's Linear.
#[derive(Debug, Clone, Copy)]
pub struct Dense<'a> {
    /// W, row-major, shape `[outputs, inputs]`.
    pub weight: &'a [f32],
    /// b, shape `[outputs]`, at least one.
    pub bias: &'a [f32],
}

/// What becomes of the outputs of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// They stay.
    Identity,
    /// max(y, 0); NaN stays, so that a network that diverges is seen to.
    Relu,
}

impl Dense<'_> {
    /// Width of y.
    fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// Width of x.
    fn inputs(&self) -> usize {
        self.weight.len() / self.outputs().max(1)
    }

    /// Writes y, shape `[rows, outputs]`, of x, shape `[rows, inputs]`, behind `activation`.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn forward(&self, x: &[f32], activation: Activation, y: &mut [f32]) {
        let rows = y.len() / self.outputs();
        let weight = Matrix::new(self.weight, self.outputs(), self.inputs()).transposed();
        let finish = match activation {
            Activation::Identity => Finish::Bias(self.bias),
            Activation::Relu => Finish::BiasRelu(self.bias),
        };
        multiply(Matrix::new(x, rows, self.inputs()), weight, finish, y);
    }

    /// Writes the gradient by x, shape `[rows, inputs]`, from that by y, shape `[rows, outputs]`. Where x went through a
    /// `gate`, it is the gradient by what came to that gate.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn backward(&self, by_y: &[f32], gate: Option<Gate<'_>>, by_x: &mut [f32]) {
        let rows = by_y.len() / self.outputs();
        let weight = Matrix::new(self.weight, self.outputs(), self.inputs());
        let finish = gate.map_or(Finish::Plain, Finish::Gate);
        multiply(Matrix::new(by_y, rows, self.outputs()), weight, finish, by_x);
    }
}

/// Writes the gradients by W and b of a dense layer, in their shapes, from x, shape `[rows, inputs]`, and the
/// gradient by y, shape `[rows, outputs]`.
///
/// # Panics
/// When the shapes do not fit.
pub fn dense_gradients(x: &[f32], by_y: &[f32], by_weight: &mut [f32], by_bias: &mut [f32]) {
    let outputs = by_bias.len();
    let (rows, inputs) = (by_y.len() / outputs, by_weight.len() / outputs);
    let left = Matrix::new(by_y, rows, outputs).transposed();
    multiply(left, Matrix::new(x, rows, inputs), Finish::Plain, by_weight);
    by_bias.fill(0.0);
    widened(|| {
        for row in by_y.chunks_exact(outputs) {
            for (sum, value) in by_bias.iter_mut().zip(row) {
                *sum += value;
            }
        }
    });
}

/// Share of values that [`drop_out`] leaves out, in units of 1/65,536.
pub fn dropout_threshold(share: f64) -> u16 {
    (share.clamp(0.0, 1.0) * 65_536.0).round().min(65_535.0) as u16
}

/// What [`drop_out`] multiplies the values by that it keeps, so that their mean stays: 65,536 / (65,536 - `threshold`).
pub fn dropout_scale(threshold: u16) -> f32 {
    (65_536.0 / (65_536.0 - f64::from(threshold))) as f32
}

/// Inverted dropout (Srivastava et al., 2014) in place: sets each value to 0 whose number of `random`, uniform in u16,
/// is below `threshold`, and multiplies the others by [`dropout_scale`].
///
/// # Panics
/// When there is not one number a value.
pub fn drop_out(values: &mut [f32], random: &[u16], threshold: u16) {
    assert_eq!(values.len(), random.len(), "there must be a number for each value");
    let scale = dropout_scale(threshold);
    for (value, number) in values.iter_mut().zip(random) {
        *value = if *number < threshold { 0.0 } else { *value * scale };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::tests::Noise;

    #[test]
    fn gradients_agree_with_finite_differences() {
        let mut noise = Noise(11);
        for _ in 0..50 {
            let (rows, inputs, outputs) = (1 + noise.below(6), 1 + noise.below(7), 1 + noise.below(5));
            let mut draw = |count: usize| (0..count).map(|_| noise.unit() - 0.5).collect::<Vec<_>>();
            let (x, weight, bias) = (draw(rows * inputs), draw(outputs * inputs), draw(outputs));
            let by_y = draw(rows * outputs);
            // L = sum(by_y * relu(x W' + b)), whose gradient by the relu's output is by_y.
            let forward = |x: &[f32], weight: &[f32], bias: &[f32]| {
                let mut y = vec![0.0; rows * outputs];
                Dense { weight, bias }.forward(x, Activation::Relu, &mut y);
                y
            };
            let loss = |x: &[f32], weight: &[f32], bias: &[f32]| -> f64 {
                forward(x, weight, bias).iter().zip(&by_y).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            let y = forward(&x, &weight, &bias);
            let slopes: Vec<f32> =
                by_y.iter().zip(&y).map(|(slope, y)| if *y > 0.0 { *slope } else { 0.0 }).collect();
            let (mut by_weight, mut by_bias) = (vec![9.0; weight.len()], vec![9.0; outputs]);
            dense_gradients(&x, &slopes, &mut by_weight, &mut by_bias);
            let mut by_x = vec![9.0; x.len()];
            Dense { weight: &weight, bias: &bias }.backward(&slopes, None, &mut by_x);
            let step = 1e-3;
            let check = |values: &[f32], gradient: &[f32], loss: &dyn Fn(&[f32]) -> f64| {
                let near = |at: usize, by: f32| {
                    let mut moved = values.to_vec();
                    moved[at] += by;
                    loss(&moved)
                };
                for (at, slope) in gradient.iter().enumerate() {
                    let (up, down) = (near(at, step) - loss(values), loss(values) - near(at, -step));
                    // Where the kink of the relu is between them there is no derivative to compare with.
                    if (up - down).abs() < 1e-5 {
                        let want = (up + down) / f64::from(2.0 * step);
                        assert!((f64::from(*slope) - want).abs() < 2e-3, "{slope} {want}");
                    }
                }
            };
            check(&x, &by_x, &|x| loss(x, &weight, &bias));
            check(&weight, &by_weight, &|weight| loss(&x, weight, &bias));
            check(&bias, &by_bias, &|bias| loss(&x, &weight, bias));
        }
    }

    #[test]
    fn dropout_leaves_its_share_out_and_keeps_the_mean() {
        let threshold = dropout_threshold(0.25);
        let random: Vec<u16> = (0..=u16::MAX).collect();
        let mut values = vec![2.0; random.len()];
        drop_out(&mut values, &random, threshold);
        assert_eq!(values.iter().filter(|value| **value == 0.0).count(), 16_384);
        let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / 65_536.0;
        assert!((mean - 2.0).abs() < 1e-6, "{mean}");
        // The way back multiplies the slopes of those that stayed alike.
        let (weight, count) = ([1.0], values.len());
        let gate = Gate { output: &values, scale: dropout_scale(threshold) };
        let mut slopes = vec![0.0; count];
        Dense { weight: &weight, bias: &[0.0] }.backward(&vec![1.0; count], Some(gate), &mut slopes);
        assert!(slopes.iter().zip(&values).all(|(slope, value)| slope * 2.0 == *value));
        assert_eq!(dropout_threshold(0.999_999), 65_535);
    }
}
