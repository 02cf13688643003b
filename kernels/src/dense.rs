//! Dense layers: the way forward, the way back, and what is between them.

use pulp::{Simd, WithSimd};

use crate::matrix::{Finish, Gate, Matrix, Order, multiply};
use crate::simd::dispatch;

/// A dense layer y = x W' + b, as PyTorch's Linear.
#[derive(Debug, Clone, Copy)]
pub struct Dense<'a> {
    /// W, shape `[outputs, inputs]`. A layer whose inputs need no gradient is faster where columns lie side by side.
    pub weight: Matrix<'a>,
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
    /// Writes y, shape `[rows, outputs]`, of x, shape `[rows, inputs]`, behind `activation`.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn forward(&self, x: Matrix<'_>, activation: Activation, y: &mut [f32]) {
        let finish = match activation {
            Activation::Identity => Finish::Bias(self.bias),
            Activation::Relu => Finish::BiasRelu(self.bias),
        };
        multiply(x, self.weight.transposed(), finish, y);
    }

    /// Writes the gradient by x, shape `[rows, inputs]`, from that by y, shape `[rows, outputs]`. Where x went through a
    /// `gate`, it is the gradient by what came to that gate.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn backward(&self, by_y: &[f32], gate: Option<Gate<'_>>, by_x: &mut [f32]) {
        let outputs = self.bias.len();
        let finish = gate.map_or(Finish::Plain, Finish::Gate);
        multiply(Matrix::new(by_y, by_y.len() / outputs, outputs), self.weight, finish, by_x);
    }
}

/// Gradients by W and b of a dense layer.
#[derive(Debug)]
pub struct DenseGradients<'a> {
    /// By W, shape `[outputs, inputs]`.
    pub by_weight: &'a mut [f32],
    /// What of it lies side by side.
    pub order: Order,
    /// By b, shape `[outputs]`.
    pub by_bias: &'a mut [f32],
}

/// Writes the gradients by W and b of a dense layer from x, shape `[rows, inputs]`, and the gradient by y, shape
/// `[rows, outputs]`.
///
/// # Panics
/// When the shapes do not fit.
pub fn dense_gradients(x: Matrix<'_>, by_y: &[f32], gradients: DenseGradients<'_>) {
    let DenseGradients { by_weight, order, by_bias } = gradients;
    let slopes = Matrix::new(by_y, x.shape()[0], by_bias.len());
    match order {
        Order::Rows => multiply(slopes.transposed(), x, Finish::Plain, by_weight),
        Order::Columns => multiply(x.transposed(), slopes, Finish::Plain, by_weight),
    }
    dispatch(ColumnSums { values: by_y, sums: by_bias });
}

/// Writes the sums of the columns of `values`, row-major, as many as `sums` has, to `sums`.
struct ColumnSums<'a> {
    values: &'a [f32],
    sums: &'a mut [f32],
}

impl WithSimd for ColumnSums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { values, sums } = self;
        let columns = sums.len();
        let (vectors, rest) = S::as_mut_simd_f32s(sums);
        let (blocks, single) = vectors.as_chunks_mut::<8>();
        let after = blocks.len() * 8 * S::F32_LANES;
        sum_blocks(simd, values, columns, 0, blocks);
        sum_blocks(simd, values, columns, after, single.as_chunks_mut::<1>().0);
        let first = columns - rest.len();
        rest.fill(0.0);
        for row in values.chunks_exact(columns) {
            for (sum, value) in rest.iter_mut().zip(&row[first..]) {
                *sum += value;
            }
        }
    }
}

/// Writes the sums of columns from number `first` on, `COUNT` vectors of them at once, which stay in registers.
#[inline(always)]
fn sum_blocks<S: Simd, const COUNT: usize>(
    simd: S,
    values: &[f32],
    columns: usize,
    first: usize,
    sums: &mut [[S::f32s; COUNT]],
) {
    for (number, sums) in sums.iter_mut().enumerate() {
        let first = first + number * COUNT * S::F32_LANES;
        let mut totals = [simd.splat_f32s(0.0); COUNT];
        for row in values.chunks_exact(columns) {
            let Some(values) = S::as_simd_f32s(&row[first..]).0.first_chunk::<COUNT>() else { break };
            for (total, value) in totals.iter_mut().zip(values) {
                *total = simd.add_f32s(*total, *value);
            }
        }
        *sums = totals;
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
                let weight = Matrix::new(weight, outputs, inputs);
                Dense { weight, bias }.forward(Matrix::new(x, rows, inputs), Activation::Relu, &mut y);
                y
            };
            let loss = |x: &[f32], weight: &[f32], bias: &[f32]| -> f64 {
                forward(x, weight, bias).iter().zip(&by_y).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            let y = forward(&x, &weight, &bias);
            let slopes: Vec<f32> =
                by_y.iter().zip(&y).map(|(slope, y)| if *y > 0.0 { *slope } else { 0.0 }).collect();
            let (mut by_weight, mut by_bias) = (vec![9.0; weight.len()], vec![9.0; outputs]);
            let gradients =
                DenseGradients { by_weight: &mut by_weight, order: Order::Rows, by_bias: &mut by_bias };
            dense_gradients(Matrix::new(&x, rows, inputs), &slopes, gradients);
            let mut by_x = vec![9.0; x.len()];
            let layer = Dense { weight: Matrix::new(&weight, outputs, inputs), bias: &bias };
            layer.backward(&slopes, None, &mut by_x);
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
        Dense { weight: Matrix::new(&weight, 1, 1), bias: &[0.0] }.backward(
            &vec![1.0; count],
            Some(gate),
            &mut slopes,
        );
        assert!(slopes.iter().zip(&values).all(|(slope, value)| slope * 2.0 == *value));
        assert_eq!(dropout_threshold(0.999_999), 65_535);
    }
}
