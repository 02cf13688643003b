//! Dense layers on a GPU: product, bias and ReLU in one launch each way, and a whole training step made of them.

use cubecl::prelude::*;

use super::{Client, GpuDescent, GpuMoments, Stepped, Values, adam, softmax_cross_entropy_gradient};

/// Rows and columns that a cube computes, a unit each.
const TILE: usize = 16;

/// A dense layer y = x W' + b in the device's memory, as [`crate::Dense`].
#[derive(Debug, Clone, Copy)]
pub struct GpuDense<'a> {
    /// W, row-major, shape `[outputs, inputs]`.
    pub weight: &'a Values,
    /// b, shape `[outputs]`.
    pub bias: &'a Values,
}

/// What follows a product, in the same launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Then {
    /// Adds the other values, one a column.
    Bias,
    /// The same, and max(x, 0).
    BiasRelu,
    /// Keeps what stands where the other values are above 0; the rest is 0.
    WhereAbove,
    /// Sums up each row of the left factor.
    Sums,
}

/// A factor of a product: element (i, j) is at i * `row` + j * `column`.
#[derive(Clone, Copy)]
struct Factor<'a> {
    values: &'a Values,
    row: usize,
    column: usize,
}

impl<'a> Factor<'a> {
    fn of(values: &'a Values, columns: usize) -> Self {
        Self { values, row: columns, column: 1 }
    }

    fn transposed(self) -> Self {
        Self { row: self.column, column: self.row, ..self }
    }
}

/// `a` times `b`, shape `[rows, columns]`, and what `then` makes of it or beside it.
fn product(
    client: &Client,
    [rows, inner, columns]: [usize; 3],
    [a, b]: [Factor<'_>; 2],
    other: &Values,
    then: Then,
) -> (Values, Values) {
    let found = Values::empty(client, rows * columns);
    let sums = Values::empty(client, if then == Then::Sums { rows } else { 1 });
    let cubes = |count: usize| u32::try_from(count.div_ceil(TILE)).unwrap_or(u32::MAX);
    product_kernel::launch(
        client,
        CubeCount::Static(cubes(columns), cubes(rows), 1),
        CubeDim::new_2d(TILE as u32, TILE as u32),
        a.values.argument(),
        b.values.argument(),
        other.argument(),
        found.argument(),
        sums.argument(),
        rows,
        inner,
        columns,
        a.row,
        a.column,
        b.row,
        b.column,
        then,
    );
    (found, sums)
}

impl GpuDense<'_> {
    fn outputs(&self) -> usize {
        self.bias.len()
    }

    fn inputs(&self) -> usize {
        self.weight.len() / self.outputs()
    }

    fn check(&self) {
        let (inputs, outputs) = (self.inputs(), self.outputs());
        assert_eq!(self.weight.len(), inputs * outputs, "weight must have shape [{outputs}, inputs]");
    }

    /// As [`crate::Dense::forward`], with a ReLU behind it where `relu`: y, shape `[rows, outputs]`, of x, shape
    /// `[rows, inputs]`.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn forward(&self, client: &Client, x: &Values, relu: bool) -> Values {
        self.check();
        let (inputs, outputs) = (self.inputs(), self.outputs());
        let rows = x.len() / inputs;
        assert_eq!(x.len(), rows * inputs, "x must have shape [rows, {inputs}]");
        let factors = [Factor::of(x, inputs), Factor::of(self.weight, inputs).transposed()];
        let then = if relu { Then::BiasRelu } else { Then::Bias };
        product(client, [rows, inputs, outputs], factors, self.bias, then).0
    }

    /// As [`crate::Dense::backward`] through a gate: the gradient by the input of the ReLU whose output
    /// is `x`, shape `[rows, inputs]`, from that by y, shape `[rows, outputs]`.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn backward(&self, client: &Client, x: &Values, by_y: &Values) -> Values {
        self.check();
        let (inputs, outputs) = (self.inputs(), self.outputs());
        let rows = by_y.len() / outputs;
        assert_eq!(by_y.len(), rows * outputs, "by_y must have shape [rows, {outputs}]");
        assert_eq!(x.len(), rows * inputs, "x must have shape [{rows}, {inputs}]");
        let factors = [Factor::of(by_y, outputs), Factor::of(self.weight, inputs)];
        product(client, [rows, outputs, inputs], factors, x, Then::WhereAbove).0
    }
}

/// As [`crate::dense_gradients`]: the gradients by W and b of a dense layer with `outputs` outputs, from x, shape
/// `[rows, inputs]`, and the gradient by y, shape `[rows, outputs]`.
///
/// # Panics
/// When the shapes do not fit.
pub fn dense_gradients(client: &Client, x: &Values, by_y: &Values, outputs: usize) -> (Values, Values) {
    let rows = by_y.len() / outputs;
    let inputs = x.len() / rows;
    assert_eq!(by_y.len(), rows * outputs, "by_y must have shape [rows, {outputs}]");
    assert_eq!(x.len(), rows * inputs, "x must have shape [{rows}, inputs]");
    let factors = [Factor::of(by_y, outputs).transposed(), Factor::of(x, inputs)];
    product(client, [outputs, rows, inputs], factors, by_y, Then::Sums)
}

#[cube(launch)]
fn product_kernel(
    a: &[f32],
    b: &[f32],
    other: &[f32],
    found: &mut [f32],
    sums: &mut [f32],
    rows: usize,
    inner: usize,
    columns: usize,
    a_row: usize,
    a_column: usize,
    b_row: usize,
    b_column: usize,
    #[comptime] then: Then,
) {
    let mut left = Shared::<[f32]>::new_slice(TILE * TILE);
    let mut right = Shared::<[f32]>::new_slice(TILE * TILE);
    let (x, y) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let row = CUBE_POS_Y as usize * TILE + y;
    let column = CUBE_POS_X as usize * TILE + x;
    let own = y * TILE + x;
    let mut sum = 0.0f32;
    let mut of_row = 0.0f32;
    for start in range_stepped(0usize, inner, TILE) {
        let mut value = 0.0f32;
        if row < rows && start + x < inner {
            value = a[row * a_row + (start + x) * a_column];
        }
        left[own] = value;
        value = 0.0f32;
        if column < columns && start + y < inner {
            value = b[(start + y) * b_row + column * b_column];
        }
        right[own] = value;
        sync_cube();
        #[unroll]
        for at in 0..TILE {
            sum += left[y * TILE + at] * right[at * TILE + x];
        }
        if comptime!(then == Then::Sums) {
            for at in 0..TILE {
                of_row += left[y * TILE + at];
            }
        }
        sync_cube();
    }
    if row < rows && column < columns {
        let at = row * columns + column;
        if comptime!(then == Then::Bias) {
            found[at] = sum + other[column];
        } else if comptime!(then == Then::BiasRelu) {
            let value = sum + other[column];
            // Not `max`, which would turn NaN into 0 and hide that a network diverges.
            found[at] = select(value < 0.0f32, 0.0f32, value);
        } else if comptime!(then == Then::WhereAbove) {
            found[at] = select(other[at] > 0.0f32, sum, 0.0f32);
        } else {
            found[at] = sum;
            if column == 0 {
                sums[row] = of_row;
            }
        }
    }
}

/// A layer of a network that learns by Adam, in the device's memory.
#[derive(Debug, Clone)]
pub struct LearningLayer {
    /// W with its moments, shape `[outputs, inputs]` each.
    pub weight: Learning,
    /// b with its moments, shape `[outputs]` each.
    pub bias: Learning,
}

/// Parameters and their moments.
#[derive(Debug, Clone)]
pub struct Learning {
    /// The parameters.
    pub values: Values,
    /// Adam's first moments.
    pub first: Values,
    /// Adam's second moments.
    pub second: Values,
}

/// What a training step takes besides the network.
#[derive(Debug, Clone, Copy)]
pub struct StepBatch<'a> {
    /// Shape `[rows, inputs of the first layer]`.
    pub x: &'a Values,
    /// Classes (`u32`), shape `[rows]`.
    pub targets: &'a Values,
    /// Weight of each class, shape `[classes]`.
    pub class_weights: &'a Values,
    /// Step size of Adam.
    pub learning_rate: f32,
    /// L2 penalty.
    pub weight_decay: f32,
    /// Counts the steps from 1 on.
    pub step: u64,
}

/// One step of training: forward with ReLU between the layers, softmax cross-entropy, backward, Adam. Five launches a
/// layer and nothing kept but the activations; waits for nothing. Returns the figures of each row, as
/// [`super::RowFigures::figures`].
///
/// # Panics
/// When `layers` is empty or the shapes do not fit.
pub fn train_step(client: &Client, layers: &mut [LearningLayer], batch: StepBatch<'_>) -> Values {
    assert!(!layers.is_empty(), "a network has layers");
    let mut activations = vec![batch.x.clone()];
    for (at, layer) in layers.iter().enumerate() {
        let next = layer.dense().forward(client, &activations[at], at + 1 < layers.len());
        activations.push(next);
    }
    let judged = softmax_cross_entropy_gradient(
        client,
        &activations[layers.len()],
        batch.targets,
        batch.class_weights,
    );
    let mut by_y = judged.gradient;
    for (at, layer) in layers.iter_mut().enumerate().rev() {
        let x = &activations[at];
        let (by_weight, by_bias) = dense_gradients(client, x, &by_y, layer.bias.values.len());
        if at > 0 {
            // With the weights of before the step.
            by_y = layer.dense().backward(client, x, &by_y);
        }
        layer.weight.step(client, &by_weight, batch);
        layer.bias.step(client, &by_bias, batch);
    }
    judged.figures
}

impl LearningLayer {
    fn dense(&self) -> GpuDense<'_> {
        GpuDense { weight: &self.weight.values, bias: &self.bias.values }
    }
}

impl Learning {
    /// `values` in the memory of the device, with moments of 0.
    pub fn upload(client: &Client, values: &[f32]) -> Self {
        let zeros = vec![0.0_f32; values.len()];
        let [values, first, second] = [values, &zeros, &zeros].map(|values| Values::upload(client, values));
        Self { values, first, second }
    }

    fn step(&mut self, client: &Client, gradient: &Values, batch: StepBatch<'_>) {
        let StepBatch { learning_rate, weight_decay, step, .. } = batch;
        let descent = GpuDescent { client, parameters: &self.values, gradient, learning_rate, weight_decay };
        let moments = GpuMoments { first: &self.first, second: &self.second, step };
        let Stepped { parameters, first, second } = adam(descent, moments);
        *self = Self { values: parameters, first, second };
    }
}
