//! Dense layers: the way forward, the way back, and what is between them.

use crate::matrix::{Existing, Matrix, multiply};

/// A dense layer y = x W' + b, as PyTorch's Linear.
#[derive(Debug, Clone, Copy)]
pub struct Dense<'a> {
    /// W, row-major, shape `[outputs, inputs]`.
    pub weight: &'a [f32],
    /// b, shape `[outputs]`, at least one.
    pub bias: &'a [f32],
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

    /// Writes y, shape `[rows, outputs]`, of x, shape `[rows, inputs]`.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        let rows = y.len() / self.outputs();
        for row in y.chunks_exact_mut(self.outputs()) {
            row.copy_from_slice(self.bias);
        }
        let weight = Matrix::new(self.weight, self.outputs(), self.inputs()).transposed();
        multiply(Matrix::new(x, rows, self.inputs()), weight, Existing::Add, y);
    }

    /// Writes the gradient by x, shape `[rows, inputs]`, from that by y, shape `[rows, outputs]`.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn backward(&self, by_y: &[f32], by_x: &mut [f32]) {
        let rows = by_y.len() / self.outputs();
        let weight = Matrix::new(self.weight, self.outputs(), self.inputs());
        multiply(Matrix::new(by_y, rows, self.outputs()), weight, Existing::Replace, by_x);
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
    multiply(
        Matrix::new(by_y, rows, outputs).transposed(),
        Matrix::new(x, rows, inputs),
        Existing::Replace,
        by_weight,
    );
    by_bias.fill(0.0);
    for row in by_y.chunks_exact(outputs) {
        for (sum, value) in by_bias.iter_mut().zip(row) {
            *sum += value;
        }
    }
}

/// max(x, 0) in place; NaN stays.
pub fn relu(values: &mut [f32]) {
    for value in values {
        // Not `max`, which would turn NaN into 0 and hide that a network diverges.
        *value = if *value < 0.0 { 0.0 } else { *value };
    }
}

/// The gradient by the input of [`relu`] and then [`drop_out`], in place, from that by their output: that of an
/// element that is not above 0 in `output` is 0, that of the others is multiplied by `scale` (1 without dropout).
///
/// # Panics
/// When the shapes differ.
pub fn relu_backward(output: &[f32], scale: f32, gradient: &mut [f32]) {
    assert_eq!(output.len(), gradient.len(), "gradient must have the shape of output");
    for (slope, value) in gradient.iter_mut().zip(output) {
        *slope = if *value > 0.0 { *slope * scale } else { 0.0 };
    }
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
                Dense { weight, bias }.forward(x, &mut y);
                relu(&mut y);
                y
            };
            let loss = |x: &[f32], weight: &[f32], bias: &[f32]| -> f64 {
                forward(x, weight, bias).iter().zip(&by_y).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            let mut slopes = by_y.clone();
            relu_backward(&forward(&x, &weight, &bias), 1.0, &mut slopes);
            let (mut by_weight, mut by_bias) = (vec![9.0; weight.len()], vec![9.0; outputs]);
            dense_gradients(&x, &slopes, &mut by_weight, &mut by_bias);
            let mut by_x = vec![9.0; x.len()];
            Dense { weight: &weight, bias: &bias }.backward(&slopes, &mut by_x);
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
        let mut slopes = vec![1.0; values.len()];
        relu_backward(&values, dropout_scale(threshold), &mut slopes);
        assert!(slopes.iter().zip(&values).all(|(slope, value)| slope * 2.0 == *value));
        assert_eq!(dropout_threshold(0.999_999), 65_535);
    }

    #[test]
    fn nan_goes_through_a_relu() {
        let mut values = [-1.0, 0.5, f32::NAN];
        relu(&mut values);
        assert_eq!(values[..2], [0.0, 0.5]);
        assert!(values[2].is_nan());
    }
}
