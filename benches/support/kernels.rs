//! Work that the kernels alone do, on numbers made up here: for their bench and for counting their instructions.
#![allow(dead_code, unreachable_pub, reason = "each of the two uses a part of it")]

use tensorfleet_kernels::trees::{TILE, Tile, accumulate_words, pack_words};
use tensorfleet_kernels::{
    Activation, AdamMoments, Dense, DenseGradients, Descent, Gate, Matrix, Order, adam, dense_gradients,
    softmax_cross_entropy_gradient,
};

/// The same numbers on every machine, from a linear congruential generator.
pub struct Numbers(u64);

impl Numbers {
    /// Starts anew.
    pub fn new() -> Self {
        Self(1)
    }

    /// Uniform in u32.
    pub fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    fn floats(&mut self, count: usize, bound: f32) -> Vec<f32> {
        (0..count).map(|_| (self.next() as f32 / u32::MAX as f32 * 2.0 - 1.0) * bound).collect()
    }
}

struct Layer {
    parameters: Vec<f32>,
    gradient: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    weights: usize,
    /// Outputs and inputs.
    shape: [usize; 2],
    order: Order,
    output: Vec<f32>,
    slopes: Vec<f32>,
}

/// A network of dense layers with ReLU between them, softmax cross-entropy and Adam; one batch, taken again and again.
pub struct DenseStep {
    inputs: Vec<f32>,
    targets: Vec<u32>,
    layers: Vec<Layer>,
    steps: u64,
}

impl DenseStep {
    /// `widths` from the features to the classes.
    pub fn new(widths: &[usize], rows: usize) -> Self {
        let mut numbers = Numbers::new();
        let inputs = numbers.floats(rows * widths[0], 1.0);
        let classes = widths[widths.len() - 1] as u32;
        let targets = (0..rows).map(|_| numbers.next() % classes).collect();
        let layer = |pair: &[usize]| {
            let weights = pair[0] * pair[1];
            let mut parameters = numbers.floats(weights, 1.0 / (pair[0] as f32).sqrt());
            parameters.resize(weights + pair[1], 0.0);
            let zeros = vec![0.0; parameters.len()];
            let [gradient, first, second] = [zeros.clone(), zeros.clone(), zeros];
            let (output, slopes) = (vec![0.0; rows * pair[1]], vec![0.0; rows * pair[1]]);
            let shape = [pair[1], pair[0]];
            Layer { parameters, gradient, first, second, weights, shape, order: Order::Rows, output, slopes }
        };
        let mut layers: Vec<Layer> = widths.windows(2).map(layer).collect();
        // As the engine has them.
        for layer in layers.iter_mut().skip(1).filter(|layer| layer.shape[0] > 16) {
            layer.order = Order::Columns;
        }
        Self { inputs, targets, layers, steps: 0 }
    }

    /// Forward, loss, backward and Adam; the sum of the loss.
    pub fn step(&mut self) -> f64 {
        self.steps += 1;
        let count = self.layers.len();
        for index in 0..count {
            let (before, rest) = self.layers.split_at_mut(index);
            let input = before.last().map_or(self.inputs.as_slice(), |layer| &layer.output);
            let layer = &mut rest[0];
            let (weight, bias) = layer.parameters.split_at(layer.weights);
            let weight = Matrix::ordered(weight, layer.shape, layer.order);
            let activation = if index + 1 < count { Activation::Relu } else { Activation::Identity };
            let input = Matrix::new(input, self.targets.len(), layer.shape[1]);
            Dense { weight, bias }.forward(input, activation, &mut layer.output);
        }
        let last = &mut self.layers[count - 1];
        let classes = last.parameters.len() - last.weights;
        let classes = classes.max(1);
        let sums = softmax_cross_entropy_gradient(&last.output, classes, &self.targets, &mut last.slopes);
        for index in (0..count).rev() {
            let (before, rest) = self.layers.split_at_mut(index);
            let layer = &mut rest[0];
            let input = before.last().map_or(self.inputs.as_slice(), |layer| &layer.output);
            let (by_weight, by_bias) = layer.gradient.split_at_mut(layer.weights);
            let input = Matrix::new(input, self.targets.len(), layer.shape[1]);
            let gradients = DenseGradients { by_weight, order: layer.order, by_bias };
            dense_gradients(input, &layer.slopes, gradients);
            if let Some(before) = before.last_mut() {
                let (weight, bias) = layer.parameters.split_at(layer.weights);
                let weight = Matrix::ordered(weight, layer.shape, layer.order);
                let gate = Gate { output: &before.output, scale: 1.0 };
                Dense { weight, bias }.backward(&layer.slopes, Some(gate), &mut before.slopes);
            }
            let descent = Descent {
                parameters: &mut layer.parameters,
                gradient: &layer.gradient,
                learning_rate: 0.001,
                weight_decay: 0.0,
            };
            let moments =
                AdamMoments { first: &mut layer.first, second: &mut layer.second, step: self.steps };
            adam(descent, moments);
        }
        sums.loss
    }
}

/// Parameters on their way down by Adam, along the same gradient again and again.
pub struct Descending {
    parameters: Vec<f32>,
    gradient: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    step: u64,
}

impl Descending {
    /// So many parameters.
    pub fn new(count: usize) -> Self {
        let mut numbers = Numbers::new();
        let (parameters, gradient) = (numbers.floats(count, 0.1), numbers.floats(count, 0.01));
        Self { parameters, gradient, first: vec![0.0; count], second: vec![0.0; count], step: 0 }
    }

    /// So many parameters there are.
    pub fn count(&self) -> usize {
        self.parameters.len()
    }

    /// `times` steps; the first parameter then.
    pub fn steps(&mut self, times: u32) -> f64 {
        for _ in 0..times {
            self.step += 1;
            let (parameters, gradient) = (self.parameters.as_mut_slice(), self.gradient.as_slice());
            let descent = Descent { parameters, gradient, learning_rate: 0.001, weight_decay: 0.0 };
            let (first, second) = (self.first.as_mut_slice(), self.second.as_mut_slice());
            adam(descent, AdamMoments { first, second, step: self.step });
        }
        f64::from(self.parameters[0])
    }
}

/// The root's histogram of one group of features.
pub struct Histogram {
    words: Vec<u64>,
    rows: Vec<u32>,
    packed: Vec<i64>,
    tile: Box<Tile>,
}

impl Histogram {
    const WIDTH: usize = 7;

    /// Seven features of 256 bins.
    pub fn new(rows: u32) -> Self {
        let mut numbers = Numbers::new();
        let columns: Vec<u8> = (0..rows as usize * Self::WIDTH).map(|_| numbers.next() as u8).collect();
        let mut words = vec![0; rows as usize];
        pack_words(&columns, rows as usize, 0, &mut words);
        let packed = (0..rows).map(|_| i64::from(numbers.next() >> 20)).collect();
        Self { words, rows: (0..rows).collect(), packed, tile: Box::new([0; TILE]) }
    }

    /// Additions of one pass.
    pub fn updates(&self) -> usize {
        self.words.len() * Self::WIDTH
    }

    /// Adds up all rows; a slot of the sums.
    pub fn pass(&mut self) -> i64 {
        accumulate_words(&self.words, Self::WIDTH, &self.rows, &self.packed, &mut self.tile);
        self.tile[0]
    }
}
