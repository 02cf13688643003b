//! What a network does, wherever its numbers are: a step, outputs, and its whole state in and out.
//!
//! ```text
//! step:  batch --forward--> outputs [rows, width] --judge (kernels)--> loss, hits, gradient
//!                  ^                                                          |
//!                  +------ optimizer <---- backward <-------------------------+
//! ```

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tensorfleet_kernels::{self as kernels, Matrix};

use super::architecture::Role;
use super::loss::Criterion;
use crate::data::Targets;
use crate::domain::Optimizer;
use crate::engine::minibatches::Sums;

/// Some rows of a table on their way through a network.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    /// The table, row-major, shape `[any, width]`.
    pub(super) table: &'a [f32],
    /// Features of a row.
    pub(super) width: usize,
    /// Which rows.
    pub(super) picked: &'a [u32],
}

impl<'a> Rows<'a> {
    /// How many.
    pub(super) fn count(&self) -> usize {
        self.picked.len()
    }

    /// They, shape `[count, width]`, where they lie.
    pub(super) fn matrix(&self) -> Matrix<'a> {
        Matrix::picked(self.table, self.width, self.picked)
    }

    /// They, one by one.
    pub(super) fn iter(&self) -> impl Iterator<Item = &'a [f32]> {
        let Self { table, width, picked } = *self;
        picked.iter().map(move |row| &table[*row as usize * width..][..width])
    }
}

/// Says how good outputs for some rows are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judge<'a> {
    /// By which measure.
    pub(super) criterion: &'a Criterion,
    /// Those of the rows.
    pub(super) targets: &'a Targets,
}

impl Judge<'_> {
    /// Takes outputs, shape `[rows, width]`, and writes the gradient of the loss by them; not to be looked at where the
    /// loss is no number.
    pub(super) fn gradient(&self, outputs: &[f32], gradient: &mut [f32]) -> Sums {
        self.criterion.gradient(outputs, self.targets, gradient)
    }

    /// Class of each row and weight of each class, where the measure is the softmax cross-entropy.
    #[cfg_attr(not(feature = "wgpu"), allow(dead_code, reason = "asked for by GPUs alone"))]
    pub(super) fn cross_entropy(&self) -> Option<(&[u32], &[f32])> {
        self.criterion.cross_entropy(self.targets)
    }
}

/// A network and its optimizer.
pub(super) trait Network: Send {
    /// One step on `rows`. Nothing changes where the loss is no number.
    fn step(&mut self, rows: Rows<'_>, how: Step, judge: Judge<'_>) -> Sums;

    /// Outputs for `rows`, shape `[count, width]`, without dropout. Empty where the device failed.
    fn outputs(&self, rows: Rows<'_>) -> Vec<f32>;

    /// All values of all parameters, in the order of the architecture's. Shorter where the device failed.
    fn parameters(&self) -> Vec<f32>;

    /// Steps that the optimizer has made.
    fn steps(&self) -> u64;

    /// Everything.
    fn memory(&self) -> Memory;

    /// Takes over `memory`, which has its size.
    fn remember(&mut self, memory: Memory);

    /// The same network once more.
    fn duplicate(&self) -> Box<dyn Network>;
}

/// All that the next step depends on.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Memory {
    /// Values of all parameters, in the order of the architecture's.
    pub(super) parameters: Vec<f32>,
    /// The optimizer's first moments (or velocity), one a parameter.
    pub(super) first: Vec<f32>,
    /// Its second moments (or mean squares).
    pub(super) second: Vec<f32>,
    /// Steps that they are of.
    pub(super) steps: u64,
}

impl Memory {
    /// `parameters` before the first step.
    pub(super) fn fresh(parameters: Vec<f32>) -> Self {
        let zeros = vec![0.0; parameters.len()];
        Self { first: zeros.clone(), second: zeros, parameters, steps: 0 }
    }
}

/// How a step is made.
#[derive(Debug)]
pub(super) struct Step {
    /// Step size.
    pub(super) learning_rate: f64,
    /// What is left out of the hidden layers.
    pub(super) dropout: Option<Dropout>,
}

/// Which hidden units a step leaves out.
#[derive(Debug)]
pub(super) struct Dropout {
    threshold: u16,
    generator: ChaCha8Rng,
}

impl Dropout {
    /// Leaves out `share` of the units, drawn from `generator`; `None` for none.
    pub(super) fn new(share: f64, generator: impl FnOnce() -> ChaCha8Rng) -> Option<Self> {
        let threshold = kernels::dropout_threshold(share);
        (threshold > 0).then(|| Self { threshold, generator: generator() })
    }

    /// Leaves units out of `values`, in place, and scales the others.
    pub(super) fn apply(&mut self, values: &mut [f32]) {
        const AT_ONCE: usize = 512;
        let (mut bytes, mut random) = ([0; 2 * AT_ONCE], [0; AT_ONCE]);
        for values in values.chunks_mut(AT_ONCE) {
            let (bytes, random) = (&mut bytes[..2 * values.len()], &mut random[..values.len()]);
            self.generator.fill_bytes(bytes);
            for (number, pair) in random.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *number = u16::from_le_bytes(*pair);
            }
            kernels::drop_out(values, random, self.threshold);
        }
    }

    /// What units are multiplied by that are not left out.
    pub(super) fn scale(&self) -> f32 {
        kernels::dropout_scale(self.threshold)
    }
}

/// The rule by which parameters follow gradients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rule {
    /// The optimizer.
    pub(super) optimizer: Optimizer,
    /// Momentum of `sgd` and `rmsprop`.
    pub(super) momentum: f32,
    /// L2 penalty of weights.
    pub(super) weight_decay: f32,
    /// L2 penalty of biases.
    pub(super) bias_decay: f32,
}

impl Rule {
    /// The penalty of a parameter.
    pub(super) fn decay(&self, role: Role) -> f32 {
        match role {
            Role::Weight => self.weight_decay,
            Role::Bias => self.bias_decay,
        }
    }
}
