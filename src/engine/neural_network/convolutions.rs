//! The convolutional front of a network on the CPU: images in, flat rows for the dense layers out, and back.

use std::ops::Range;

use tensorfleet_kernels::{self as kernels, Filters, Matrix, Passed, Slopes, Stage};

use super::network::Rows;

/// Convolutions with ReLU and pooling, one behind the other.
#[derive(Debug, Clone)]
pub(super) struct Convolutions {
    passes: Vec<Pass>,
    /// Images with the channels last, where there is more than one.
    images: Vec<f32>,
    /// What the dense layers get: shape `[rows, filters, pixels]`.
    flat: Vec<f32>,
    /// Gradient by the output of a pass, and by its input.
    slopes: [Vec<f32>; 2],
    /// Room for the sums of groups of images.
    sums: Vec<f32>,
}

/// One convolution.
#[derive(Debug, Clone)]
struct Pass {
    stage: Stage,
    weight: Range<usize>,
    bias: Range<usize>,
    filters: Filters,
    pooled: Vec<f32>,
    winners: Vec<u8>,
}

impl Pass {
    /// What came out for the last `count` images.
    fn output(&self, count: usize) -> Matrix<'_> {
        as_matrix(&self.pooled, count)
    }
}

impl Convolutions {
    /// Of `stages`, with the places of their weights and biases among all parameters.
    pub(super) fn new(stages: Vec<(Stage, Range<usize>, Range<usize>)>) -> Self {
        let pass = |(stage, weight, bias)| Pass {
            stage,
            weight,
            bias,
            filters: Filters::default(),
            pooled: Vec::new(),
            winners: Vec::new(),
        };
        Self {
            passes: stages.into_iter().map(pass).collect(),
            images: Vec::new(),
            flat: Vec::new(),
            slopes: Default::default(),
            sums: Vec::new(),
        }
    }

    /// The same without what it remembers of the last rows.
    pub(super) fn fresh(&self) -> Self {
        let stages = self.passes.iter().map(|pass| (pass.stage, pass.weight.clone(), pass.bias.clone()));
        Self::new(stages.collect())
    }

    /// What [`Self::forward`] wrote last.
    pub(super) fn flat(&self) -> &[f32] {
        &self.flat
    }

    /// Sends `rows` through.
    pub(super) fn forward(&mut self, parameters: &[f32], rows: Rows<'_>) {
        let Self { passes, images, flat, .. } = self;
        let first = first_images(passes, rows, images);
        for index in 0..passes.len() {
            let (before, rest) = passes.split_at_mut(index);
            let pass = &mut rest[0];
            let (weight, bias) = (&parameters[pass.weight.clone()], &parameters[pass.bias.clone()]);
            pass.filters.set(pass.stage, weight, bias);
            pass.pooled.resize(rows.count() * pass.stage.output_len(), 0.0);
            pass.winners.resize(pass.pooled.len(), 0);
            let input = before.last().map_or(first, |before| before.output(rows.count()));
            kernels::convolve(pass.stage, &pass.filters, input, &mut pass.pooled, &mut pass.winners);
        }
        let Some(Pass { stage, pooled, .. }) = passes.last() else { return };
        flat.resize(pooled.len(), 0.0);
        let size = stage.output_len();
        for (from, to) in pooled.chunks_exact(size).zip(flat.chunks_exact_mut(size)) {
            kernels::transpose(from, stage.pooled_pixels(), stage.filters, to);
        }
    }

    /// Writes the gradient by its parameters from that by [`Self::flat`] of the same `rows`.
    pub(super) fn backward(&mut self, rows: Rows<'_>, by_flat: &[f32], gradient: &mut [f32]) {
        let Self { passes, images, slopes: [by_output, by_input], sums, .. } = self;
        let Some(Pass { stage, .. }) = passes.last() else { return };
        by_output.resize(by_flat.len(), 0.0);
        let size = stage.output_len();
        for (from, to) in by_flat.chunks_exact(size).zip(by_output.chunks_exact_mut(size)) {
            kernels::transpose(from, stage.filters, stage.pooled_pixels(), to);
        }
        for (index, Pass { stage, weight, bias, filters, winners, .. }) in passes.iter().enumerate().rev() {
            let first = || if images.is_empty() { rows.matrix() } else { as_matrix(images, rows.count()) };
            let before = index.checked_sub(1).map(|before| passes[before].output(rows.count()));
            let images = before.unwrap_or_else(first);
            let (by_weight, by_bias) = gradient[weight.start..bias.end].split_at_mut(weight.len());
            by_input.resize(rows.count() * stage.input_len(), 0.0);
            let by_images = (index > 0).then_some(by_input.as_mut_slice());
            let passed = (Passed { images, winners }, by_output.as_slice());
            let slopes = Slopes { by_weight, by_bias, by_images };
            kernels::convolve_backward(*stage, filters, passed, (slopes, &mut *sums));
            std::mem::swap(by_output, by_input);
        }
    }
}

/// The images of `rows` with the channels last. One channel is last and first: nothing is copied then.
fn first_images<'a>(passes: &[Pass], rows: Rows<'a>, images: &'a mut Vec<f32>) -> Matrix<'a> {
    let Some(stage) = passes.first().map(|pass| pass.stage).filter(|stage| stage.channels > 1) else {
        return rows.matrix();
    };
    images.resize(rows.count() * rows.width, 0.0);
    for (from, to) in rows.iter().zip(images.chunks_exact_mut(stage.input_len())) {
        kernels::transpose(from, stage.channels, stage.height * stage.width, to);
    }
    as_matrix(images, rows.count())
}

/// `values` of `count` images.
fn as_matrix(values: &[f32], count: usize) -> Matrix<'_> {
    Matrix::new(values, count, values.len() / count.max(1))
}
